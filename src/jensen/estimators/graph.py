"""Stochastic computation graphs: several sampling nodes, each with its own estimator and its downstream costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from jensen.core.seeding import drawing
from jensen.estimators.baselines import fits
from jensen.estimators.expectation import Estimator, Pathwise


@dataclass(frozen=True)
class _Node:
    q: Distribution
    z: Tensor
    estimator: Estimator
    shape: torch.Size
    ancestors: frozenset[str]


@dataclass(frozen=True)
class _Cost:
    value: Tensor
    ancestors: frozenset[str]


class Graph:
    r"""A program of sampling nodes and costs, one value per example, and the gradient of its expected cost.

    $\nabla E \sum_c c = E\left[\sum_c \nabla c + \sum_{z\ \mathrm{scored}} \nabla\log q(z)\,
    \Big(\sum_{c\ \mathrm{below}\ z} c - b_z\Big)\right]$.

    `given` names the nodes that a node or a cost depends on; naming its direct parents is enough. By default it depends
    on every earlier node, which is always correct but increases the variance. All shapes are batch shapes, (B,) or
    (K, B): the value of one example may depend only on the nodes of that example.

    Args:
        generator: None for torch's global one.

    Source: Schulman et al. (2015), theorem 1, equation 6 and section 3.

    >>> from jensen.estimators import ScoreFunction
    >>> logit = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> g = Graph()
    >>> a = g.sample("a", torch.distributions.Bernoulli(logits=logit), ScoreFunction(baseline=0.5))
    >>> b = g.sample("b", torch.distributions.Normal(a, 1.0), given=["a"])
    >>> _ = g.cost(b**2, given=["b"])
    >>> bool((g.surrogate() == b**2).all())
    True
    """

    def __init__(self, generator: torch.Generator | None = None):
        self._generator = generator
        self._nodes: dict[str, _Node] = {}
        self._costs: list[_Cost] = []

    def sample(
        self,
        name: str,
        q: Distribution,
        estimator: Estimator | None = None,
        *,
        given: Sequence[str] | None = None,
        shape: Sequence[int] = (),
    ) -> Tensor:
        """Draw a node.

        Args:
            name: name of the node, unique in this graph.
            q: its distribution; the parameters may depend on the draws of its parents.
            estimator: gradient estimator; `Pathwise()` by default.
            given: names of the nodes q depends on; None for all earlier ones.
            shape: shape of independent draws, before q's batch axes.

        Returns:
            z, (*shape, *batch, *event).

        Raises:
            ValueError: for a name used before, an unknown parent, or a parent whose shape does not fit.
        """
        if name in self._nodes:
            raise ValueError(f"names of nodes must be unique, got {name!r} twice")
        own = torch.Size((*shape, *q.batch_shape))
        above = self._above(given, own, f"node {name!r}")
        estimator = estimator or Pathwise()
        with drawing(self._generator):
            z = estimator.draw(q, torch.Size(shape))
        self._nodes[name] = _Node(q, z, estimator, own, above | {name})
        return z

    def cost(self, value: Float[Tensor, "..."], *, given: Sequence[str] | None = None) -> Float[Tensor, "..."]:
        """Add a cost.

        Args:
            value: one number per example; its own gradient is kept.
            given: names of the nodes it depends on; None for all so far.

        Returns:
            The value.

        Raises:
            ValueError: for an unknown parent, or one whose shape does not fit.
        """
        self._costs.append(_Cost(value, self._above(given, value.shape, "a cost")))
        return value

    def surrogate(self) -> Float[Tensor, "..."]:
        """The sum of the costs, one per example, with the gradient of its expectation.

        Raises:
            ValueError: if there is no cost, or the shapes of the costs do not broadcast.
        """
        if not self._costs:
            raise ValueError("a graph must have at least one cost, got none: call cost first")
        total = _sum([c.value for c in self._costs])
        for name, node in self._nodes.items():
            below = [c.value for c in self._costs if name in c.ancestors]
            if below:
                total = total + node.estimator.correction(node.q, node.z, _sum(below))
        return total

    def _above(self, given: Sequence[str] | None, shape: torch.Size, what: str) -> frozenset[str]:
        """The named nodes and all their ancestors."""
        names = list(self._nodes) if given is None else [given] if isinstance(given, str) else list(given)
        for name in names:
            if name not in self._nodes:
                raise ValueError(f"{what} must depend on earlier nodes, {sorted(self._nodes)}, got {name!r}")
            if not fits(self._nodes[name].shape, shape):
                raise ValueError(
                    f"{what} of shape {tuple(shape)} cannot depend on node {name!r} of shape "
                    f"{tuple(self._nodes[name].shape)}: there must be one value per example"
                )
        return frozenset().union(*(self._nodes[name].ancestors for name in names))


def _sum(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total

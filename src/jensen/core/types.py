"""The few types that every family speaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Batch = Mapping[str, Tensor]
"""Named tensors of one draw of data: "x", "cond", "index"; or "a" and "b" for unpaired data."""

Measure = Literal["mass", "density"]
"""What a log-likelihood is the logarithm of: a Bernoulli's mass is never ranked against a Gaussian's density."""

Stream = Callable[[int], Iterator[Batch]]
"""Opened at draw number n; what comes is a pure function of (seed, n), so that a resumed run goes on exactly."""


@dataclass(frozen=True)
class Loss:
    """What one player descends.

    Attributes:
        total: (), differentiable.
        terms: named numbers for the journal, (), detached.
        aux: named tensors for `Objective.after`, detached.

    >>> import torch
    >>> Loss.of(torch.tensor(2.0), kl=torch.tensor([1.0, 3.0])).terms["kl"]
    tensor(2.)
    """

    total: Float[Tensor, ""]
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, total: Tensor, **terms: Tensor) -> Loss:
        """A loss whose terms are the detached means of those given, and the total itself as "loss"."""
        means = {name: value.detach().mean() for name, value in terms.items()}
        return cls(total, {"loss": total.detach(), **means})


@dataclass(frozen=True)
class Phase:
    """Players that move together, `repeats` times in a row.

    A step of training is a tuple of phases: `(Phase(("g", "d")),)` is simultaneous,
    `(Phase(("d",)), Phase(("g",)))` alternating, `(Phase(("d",), repeats=5), Phase(("g",)))` is 5:1.

    Attributes:
        players: their names; one forward serves them all.
        repeats: at least 1.
        fresh: draw a new batch for each repeat; False keeps the step's batch.
    """

    players: tuple[str, ...]
    repeats: int = 1
    fresh: bool = True

    def __post_init__(self) -> None:
        if not self.players or len(set(self.players)) != len(self.players):
            raise ValueError(f"a phase needs at least one player, each once, got {self.players}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


@dataclass(frozen=True)
class Likelihood:
    """log p(x) per example in nats; higher is better, never its negative.

    Attributes:
        value: (B,) nats.
        kind: whether it is log p itself, a lower bound, or a Monte Carlo estimate of it.
        measure: a probability mass or a density; the two are never compared.
        stderr: (B,) standard error of an estimate.
    """

    value: Float[Tensor, " b"]
    kind: Literal["exact", "lower bound", "estimate"]
    measure: Measure
    stderr: Float[Tensor, " b"] | None = None


def entry(batch: Batch, name: str) -> Tensor:
    """What the batch holds under this name.

    Raises:
        ValueError: if it holds nothing there, or is no mapping.

    >>> import torch
    >>> entry({"x": torch.ones(2)}, "y")
    Traceback (most recent call last):
    ...
    ValueError: the batch must hold 'y', got ['x']
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"a batch must map names to tensors, got {type(batch).__name__}")
    try:
        return batch[name]
    except KeyError:
        raise ValueError(f"the batch must hold {name!r}, got {sorted(batch)}") from None


class NonFiniteLoss(RuntimeError):
    """A loss became infinite or not a number; training stops and the last checkpoint stays as it is."""

    def __init__(self, step: int, player: str, term: str):
        super().__init__(
            f"the loss of player {player!r} is not finite at step {step} (term {term!r}): "
            "train again with a lower learning rate"
        )
        self.step, self.player, self.term = step, player, term


def first_non_finite(loss: Loss) -> str | None:
    """Name of the first term that is not finite, or "total", or None if the total is finite."""
    if math.isfinite(loss.total.detach()):
        return None
    for name, value in loss.terms.items():
        if name != "loss" and not math.isfinite(value):
            return name
    return "total"

"""Your estimator of the gradient of E_q[f], compared with the exact gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.check.evidence import ERRORS, Evidence, Report
from jensen.core.seeding import drawing
from jensen.estimators.exact import Function, exact_gradient, leaves_of, moves, slopes

BATCHES, DRAWS = 50, 10_000


def gradient(
    estimator: Callable[[Any, Any], Tensor],
    q: Distribution,
    f: Function,
    exact: Tensor | Sequence[Tensor] | None = None,
    *,
    parameters: Sequence[Tensor] | None = None,
    repeats: int = 2000,
    generator: torch.Generator | None = None,
) -> Report:
    r"""Whether an estimator of $\nabla_\lambda E_{q_\lambda}[f]$ is unbiased, and what its variance is.

    $E[\hat g] = \nabla_\lambda \int q_\lambda(z) f(z)\, dz$: the estimator is called `repeats` times, its value is
    differentiated each time, and the mean of these gradients must lie within 5 standard errors of the exact one. By
    default the exact gradient is found by summing over q's support, by quadrature of one real variable, or else by
    a mean of $\nabla f + (f - b) \nabla\log q$ over $50 \times 10^4$ draws.

    Args:
        estimator: maps (q, f) to one value for each distribution of q's batch, whose gradient with respect to q's
            parameters is the estimate. The value itself and the number of draws do not matter.
        q: a distribution that is made from parameters that require a gradient.
        f: maps draws (K, *batch, *event) to values (K, *batch), one draw at a time.
        exact: the gradient of E_q[f], summed over the batch: one tensor for each parameter.
        parameters: leaf tensors whose gradient is tested, in the order of `exact`; by default all that log q depends
            on.
        repeats: number of gradients, at least 2; each is a call and a backward pass.
        generator: random generator of all draws of torch and `torch.distributions`; None for torch's global one.

    Returns:
        For each parameter its mean gradient against the exact one; and the variance of one gradient, which is finite.

    Raises:
        ValueError: for fewer than 2 repeats, a q without parameters, exact gradients that do not fit; without an
            `exact`, for a q whose support moves with its parameters.

    An unbiased estimator passes; one whose baseline is the mean of all values, including the draw's own, does not: a
    baseline must be independent of its draw (here it removes half of the gradient).

    >>> mean = torch.tensor(1.0, requires_grad=True)
    >>> q = torch.distributions.Normal(mean, 1.0)
    >>> def mine(q, f, baseline=lambda v: v.flip(0)):  # of two draws: the other one's value
    ...     z = q.sample((2,))
    ...     return ((f(z) - baseline(f(z))) * q.log_prob(z)).mean(0)
    >>> rng = torch.Generator().manual_seed(0)
    >>> gradient(mine, q, torch.square, exact=torch.tensor(2.0), repeats=1000, generator=rng).holds
    True
    >>> biased = gradient(lambda q, f: mine(q, f, lambda v: v.mean(0)), q, torch.square, repeats=1000, generator=rng)
    >>> biased.holds, biased.failed[0].expected
    (False, 2.0)
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    with drawing(generator):
        leaves = _leaves(q) if parameters is None else list(parameters)
        truths, doubts = _given(exact, leaves, parameters) if exact is not None else _reference(q, f, leaves)
        draws = [slopes(estimator(q, f), leaves) for _ in range(repeats)]
    columns = [torch.stack(column) for column in zip(*draws, strict=True)]
    what = [f"the mean gradient in parameter {i} of {len(leaves)}" for i in range(1, len(leaves) + 1)]
    evidence = [
        _unbiased(f"{name} is the gradient of E_q[f]", truth, doubt, column, torch.finfo(leaf.dtype).eps)
        for name, truth, doubt, column, leaf in zip(what, truths, doubts, columns, leaves, strict=True)
    ]
    variance = float(sum(column.var(0).sum() for column in columns))
    return Report((*evidence, Evidence("the variance of one gradient is finite", 0.0, variance, 0.0, "at least")))


def _leaves(q: Distribution) -> list[Tensor]:
    """The parameters on which log q depends, in the order of its formula."""
    found = leaves_of(q.log_prob(q.sample()))
    if not found:
        raise ValueError("q must be made from parameters that require a gradient, and its log-probability has none")
    return found


def _unbiased(claim: str, truth: Tensor, doubt: Tensor, draws: Tensor, eps: float) -> Evidence:
    """Evidence on the entry with the largest error, in standard errors of the difference."""
    mean, stderr = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    spread = torch.sqrt(stderr**2 + doubt**2)
    allowed = ERRORS * spread + 64 * eps * (truth.abs() + draws.abs().amax(0)) + torch.finfo(torch.float64).tiny
    worst = int(torch.nan_to_num((mean - truth).abs() / allowed, nan=torch.inf).argmax())
    e, m, t, s = (v.reshape(-1)[worst].item() for v in (truth, mean, allowed, spread))
    return Evidence(claim, e, m, t if t < torch.inf else 0.0, stderr=s if t < 2 * ERRORS * s else None)


def _given(
    exact: Tensor | Sequence[Tensor], leaves: Sequence[Tensor], parameters: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    given = [exact] if isinstance(exact, Tensor) else list(exact)
    if parameters is None and len(leaves) > 1:
        raise ValueError(
            f"q has {len(leaves)} parameters: parameters=[...] must state the order in which exact lists them"
        )
    if [g.shape for g in given] != [leaf.shape for leaf in leaves]:
        wanted, got = ([tuple(v.shape) for v in values] for values in (leaves, given))
        raise ValueError(f"the exact gradient must have the parameters' shapes, {wanted}, got {got}")
    truths = [g.detach().double() for g in given]
    return truths, [torch.zeros_like(t) for t in truths]


# -- the exact gradient, where none is given ---------------------------------------------------------------------------


def _reference(q: Distribution, f: Function, leaves: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Exact gradients, and their standard or quadrature errors."""
    found = exact_gradient(q, f, leaves)
    if found is not None:
        return found[1:]
    if moves(q):
        raise ValueError(f"the support of {type(q).__name__} moves with its parameters: give the exact gradient")
    with torch.no_grad():
        pilot = f(q.sample(torch.Size((1000,)))).mean(0)
    rows = [slopes(_scored(q, f, pilot), leaves) for _ in range(BATCHES)]
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return [c.mean(0) for c in columns], [c.std(0) / BATCHES**0.5 for c in columns]


def _scored(q: Distribution, f: Function, baseline: Tensor) -> Tensor:
    z = q.sample(torch.Size((DRAWS,)))
    value = f(z)
    return (value + (value - baseline).detach() * q.log_prob(z)).mean(0)

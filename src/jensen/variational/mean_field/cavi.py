"""Coordinate ascent variational inference: one factor at a time, without ever lowering the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

State = TypeVar("State")


@dataclass(frozen=True)
class Ascent(Generic[State]):
    """The result of coordinate ascent.

    Attributes:
        state: the final factors.
        elbo: (1 + sweeps * factors,) nats, the bound at the start and after every update of a factor.
        converged: whether the last sweep gained less than the tolerance.
    """

    state: State
    elbo: Float[Tensor, " updates"]
    converged: bool


def coordinate_ascent(
    state: State,
    updates: Sequence[Callable[[State], State]],
    elbo: Callable[[State], Tensor],
    *,
    sweeps: int = 100,
    tolerance: float = 1e-9,
    slack: float = 1e-9,
    on_sweep: Callable[[int, float], object] | None = None,
) -> Ascent[State]:
    r"""Replace each factor in turn by the optimal one given the others, until a sweep gains less than a tolerance.

    For $q(z) = \prod_j q_j(z_j)$ the bound $E_q[\log p(x, z)] - E_q[\log q(z)]$ as a function of one factor is
    $-\mathrm{KL}(q_j \| q_j^*)$ plus a constant, where $q_j^*(z_j) \propto \exp E_{-j}[\log p(x, z)]$. An update that
    sets $q_j = q_j^*$ therefore never lowers the bound; one that does raises an error.

    Args:
        state: initial factors, in any form that the updates accept.
        updates: one per factor; each maps a state to the state with that factor replaced by the optimal one.
        elbo: maps a state to the bound, a scalar in nats; constants in log p(x, z) may be omitted.
        sweeps: maximum number of passes through all updates, at least 0.
        tolerance: in nats; a sweep that gains less is the last one.
        slack: relative decrease of the bound that is attributed to rounding.
        on_sweep: called after each sweep with its number, from 1, and the bound.

    Raises:
        ValueError: if there are no updates, or sweeps or tolerance are negative; if an update lowers the bound.

    Source: Bishop (2006), equation 10.9; Blei, Kucukelbir & McAuliffe (2017), algorithm 1.

    >>> log_p = torch.tensor([[0.0, 1.0], [2.0, 0.5]])
    >>> best = lambda i: lambda q: tuple(
    ...     torch.softmax(log_p @ q[1] if i == 0 else q[0] @ log_p, 0) if i == j else q[j] for j in (0, 1)
    ... )
    >>> bound = lambda q: q[0] @ log_p @ q[1] - sum((f * f.log()).sum() for f in q)
    >>> found = coordinate_ascent((torch.full((2,), 0.5),) * 2, (best(0), best(1)), bound, slack=1e-6)
    >>> found.converged, bool(found.elbo[-1] < log_p.logsumexp((0, 1)))
    (True, True)
    """
    if not updates:
        raise ValueError("updates must be at least 1, got none")
    if sweeps < 0 or not tolerance >= 0:
        raise ValueError(f"sweeps and tolerance must be at least 0, got {sweeps} and {tolerance}")
    trace, converged = [elbo(state)], False
    for sweep in range(1, sweeps + 1):
        before = float(trace[-1])
        for factor, update in enumerate(updates):
            state = update(state)
            trace.append(elbo(state))
            _refuse_descent(trace[-2], trace[-1], factor, slack)
        if on_sweep is not None:
            on_sweep(sweep, float(trace[-1]))
        converged = float(trace[-1]) - before < tolerance
        if converged:
            break
    return Ascent(state, torch.stack(trace), converged)


def rounding(dtype: torch.dtype) -> float:
    """Relative rounding error of a bound: 1e-9 in float64, 1e-4 in float32."""
    return 1e-9 if dtype == torch.float64 else 1e3 * torch.finfo(dtype).eps


def _refuse_descent(before: Tensor, after: Tensor, factor: int, slack: float) -> None:
    old, new = float(before), float(after)
    if not new >= old - slack * (1 + abs(old)):
        raise ValueError(
            f"update {factor} took the ELBO from {old:.10g} to {new:.10g}: an optimal factor never lowers it"
        )

"""Weights of the KL that change with the step, or until a constraint holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_count
from jensen.variational.bounds import Bound, beta, elbo
from jensen.variational.trace import Trace


@dataclass(frozen=True)
class Scheduled:
    """A bound for every step.

    Attributes:
        at: maps the step to a bound: `Scheduled(lambda step: free_bits(8 * (1 - linear(1000)(step))))`.
    """

    at: Callable[[int], Bound]


def annealed(weight: Callable[[int], float], bound: Bound | Scheduled = elbo) -> Scheduled:
    r"""$E_q \log p(x | z) - w_t\, C$ for a bound $E_q \log p(x | z) - C$: `beta` with a weight that depends on t.

    The weight applies to the whole cost, including floors: `annealed(linear(1000), beta(4.0, free_bits(0.5)))` is
    $E_q \log p(x | z) - 4 \min(\tfrac t{1000}, 1) \sum_l \max(\tfrac12, \mathrm{kl}_l)$.

    Args:
        weight: maps the step to a number of at least 0.
        bound: `elbo`, `beta`, `free_bits` or a composition of them; or a schedule of these.

    Raises:
        ValueError: for another bound, such as `iwae`, which has no cost to weight; at a step, if the weight is negative
            or not finite.

    >>> one = torch.ones(2, 1)
    >>> trace = Trace(-3 * one, kl=(one,), log_q=(one,), analytic=(False,), pathwise=(True,))
    >>> annealed(linear(4), beta(8.0)).at(1)(trace)
    tensor([-5.])
    """
    beta(1.0, at_step(bound, 0))  # raises for a bound that has no weight
    return Scheduled(lambda step: beta(weight(step), at_step(bound, step)))


def at_step(bound: Bound | Scheduled, step: int) -> Bound:
    """The bound of a step."""
    return bound.at(step) if isinstance(bound, Scheduled) else bound


def linear(steps: int, *, start: float = 0.0) -> Callable[[int], float]:
    """Linear from `start` to 1 over this number of steps, then 1.

    Args:
        steps: number of steps, at least 1.
        start: initial weight, in [0, 1].

    Raises:
        ValueError: if an argument is out of its range.

    Source: Bowman et al. (2016), section 3.1; Sonderby et al. (2016), section 2.3.

    >>> weight = linear(4)
    >>> [weight(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    check_count(steps=steps)
    if not 0 <= start <= 1:
        raise ValueError(f"start must be in [0, 1], got {start}")
    return lambda step: start + (1 - start) * min(step / steps, 1.0)


def cyclical(period: int, *, rise: float = 0.5) -> Callable[[int], float]:
    """In every period, linear from 0 to 1 over the fraction `rise`, then 1 until its end.

    Args:
        period: number of steps, at least 1.
        rise: fraction of the period, in (0, 1].

    Raises:
        ValueError: if an argument is out of its range.

    Source: Fu et al. (2019), equation 6.

    >>> weight = cyclical(8)
    >>> [weight(step) for step in (0, 1, 4, 7, 8, 9)]
    [0.0, 0.25, 1.0, 1.0, 0.0, 0.25]
    """
    check_count(period=period)
    if not 0 < rise <= 1:
        raise ValueError(f"rise must be in (0, 1], got {rise}")
    return lambda step: min((step % period) / (rise * period), 1.0)


def cooling(start: float, end: float, steps: int) -> Callable[[int], float]:
    r"""Exponential decay from `start` to `end` over this number of steps, then `end`; used for temperatures.

    $\tau_t = \max(\tau_0 e^{-rt}, \tau_1)$ with $r = \log(\tau_0 / \tau_1) / T$.

    Args:
        start: initial value, positive and finite.
        end: final value, positive, at most `start`.
        steps: number of steps, at least 1.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Jang et al. (2017), section 4.1.

    >>> temperature = cooling(1.0, 0.25, 4)
    >>> [temperature(step) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.25, 0.25]
    """
    if not 0 < end <= start < math.inf:
        raise ValueError(f"start and end must be 0 < end <= start < inf, got {start} and {end}")
    check_count(steps=steps)
    return lambda step: start * (end / start) ** min(step / steps, 1.0)


class Constraint(nn.Module):
    r"""Beta as the multiplier of a constraint: maximise $E \log p(x | z)$ subject to $E\, \mathrm{KL} \le \epsilon$.

    The Lagrangian $E_q \log p(x | z) - \lambda (\mathrm{KL} - \epsilon)$ is maximised by the model and minimised by
    the multiplier $\lambda = e^\rho$, a two-player game. At its solution $\lambda$ is the slope of the optimal
    $E \log p(x | z)$ as a function of the KL, that is minus the slope of the model's rate-distortion curve.

    Args:
        nats: $\epsilon$, positive: the KL of all layers together, averaged over the data.
        start: initial multiplier, positive.

    Raises:
        ValueError: if nats or start is not positive and finite.

    Source: Higgins et al. (2017), equations 1 to 3, with the multiplier learned as in Rezende & Viola (2018).

    >>> one = torch.ones(1, 1)
    >>> Constraint(3.0, start=2.0)(Trace(-one, (one,), (one,), analytic=(True,), pathwise=(True,))).detach()
    tensor([3.])
    """

    def __init__(self, nats: float, *, start: float = 1.0):
        super().__init__()
        for name, value in (("nats", nats), ("start", start)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.nats = nats
        self.log_multiplier = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def multiplier(self) -> Float[Tensor, ""]:
        return self.log_multiplier.exp()

    def forward(self, trace: Trace) -> Float[Tensor, " b"]:
        check_count(samples=trace.samples)
        excess = sum(trace.kl) - self.nats
        return (trace.log_px - self.multiplier * excess).mean(0)

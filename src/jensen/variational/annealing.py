"""The weight of the KL as something that changes: over the steps of a run, or until a constraint holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.variational.bounds import Bound, beta
from jensen.variational.trace import Trace


@dataclass(frozen=True)
class Scheduled:
    """A bound for every step.

    Attributes:
        at: step -> bound.
    """

    at: Callable[[int], Bound]


def annealed(weight: Callable[[int], float]) -> Scheduled:
    """`beta` with a weight of the step: `annealed(linear(1000))`."""
    return Scheduled(lambda step: beta(weight(step)))


def linear(steps: int, *, start: float = 0.0) -> Callable[[int], float]:
    """From `start` to 1 over so many steps, then 1.

    Args:
        steps: at least 1.
        start: in [0, 1].

    Raises:
        ValueError: if either is out of its range.

    Source: Bowman et al. (2016), section 3.1; Sonderby et al. (2016), section 2.3.

    >>> weight = linear(4)
    >>> [weight(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= start <= 1:
        raise ValueError(f"start must be in [0, 1], got {start}")
    return lambda step: start + (1 - start) * min(step / steps, 1.0)


def cyclical(period: int, *, rise: float = 0.5) -> Callable[[int], float]:
    """Every period again from 0 to 1 over its share `rise`, then 1 to its end.

    Args:
        period: steps, at least 1.
        rise: in (0, 1].

    Raises:
        ValueError: if either is out of its range.

    Source: Fu et al. (2019), equation 6.

    >>> weight = cyclical(8)
    >>> [weight(step) for step in (0, 1, 4, 7, 8, 9)]
    [0.0, 0.25, 1.0, 1.0, 0.0, 0.25]
    """
    if period < 1:
        raise ValueError(f"period must be at least 1, got {period}")
    if not 0 < rise <= 1:
        raise ValueError(f"rise must be in (0, 1], got {rise}")
    return lambda step: min((step % period) / (rise * period), 1.0)


class Constraint(nn.Module):
    r"""Beta as the multiplier of a constraint: raise $E \log p(x | z)$ subject to $E\, \mathrm{KL} \le \epsilon$.

    The Lagrangian $E_q \log p(x | z) - \lambda (\mathrm{KL} - \epsilon)$, is raised by the model and lowered by
    the multiplier $\lambda = e^\rho$: a game of two. At its solution $\lambda$ is minus the slope of the best
    $E \log p(x | z)$ against the KL, that is of the model's rate-distortion curve.

    Args:
        nats: epsilon, positive: of all layers together, on average over the data.
        start: the first multiplier, positive.

    Raises:
        ValueError: if either is not positive and finite.

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
        excess = sum(trace.kl) - self.nats
        return (trace.log_px - self.multiplier * excess).mean(0)

"""Exact means over densities in one dimension, and whether rows of a batch are independent: used by several checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from jensen.check.evidence import Evidence, close
from jensen.core.seeding import generator

F64 = torch.float64


def f64(values: Any) -> Tensor:
    """A number or nested numbers as a float64 tensor."""
    return torch.tensor(values, dtype=F64)


def normal(mean: float, std: float = 1.0) -> Normal:
    """N(mean, std^2) in float64."""
    return Normal(f64(mean), f64(std))


def randn(seed: int, *shape: int) -> Tensor:
    """Standard normal draws in float64, a function of the seed."""
    return torch.randn(shape, dtype=F64, generator=generator(seed))


class HasLogProb(Protocol):
    """An object with a log density, such as a distribution of `torch.distributions`."""

    def log_prob(self, value: Any, /) -> Tensor: ...


Density = HasLogProb | Callable[[Tensor], Tensor]
"""Log p(x) up to a constant, of x (B, 1): an object with `log_prob`, or a function; (B,) or (B, 1)."""


def log_prob_of(density: Density) -> Callable[[Tensor], Tensor]:
    """A function of x (B, 1) that returns log p(x), (B,)."""
    function = density.log_prob if hasattr(density, "log_prob") else density
    return lambda x: function(x).reshape(len(x))


def mixture(weights: Any, means: Any, deviations: Any) -> Callable[[Tensor], Tensor]:
    """The log density of a mixture of Gaussians on the line, (B, 1) -> (B,)."""
    weight, mean, deviation = (torch.as_tensor(v, dtype=F64) for v in (weights, means, deviations))
    parts = Normal(mean, deviation, validate_args=False)
    return lambda x: (parts.log_prob(x) + weight.log()).logsumexp(1)


@dataclass(frozen=True)
class Line:
    """A density on the line by the trapezoidal rule, which is exact to rounding for a smooth one that falls to 0.

    Attributes:
        places: (N,), equally spaced.
        mass: (N,), sums to 1.
        log_total: log of the integral of the given function, 0 if it was normalised.
    """

    places: Tensor
    mass: Tensor
    log_total: float

    @classmethod
    def of(cls, density: Density, span: tuple[float, float], points: int = 4001) -> Line:
        """The density on the part of the span in which it has mass.

        Raises:
            ValueError: if the span does not contain almost all of the mass.
        """
        low, high = span
        if not low < high:
            raise ValueError(f"span must be two places in order, got {low} and {high}")
        log_prob = log_prob_of(density)

        def values(places: Tensor) -> Tensor:
            return log_prob(places[:, None]).detach().double()

        places = torch.linspace(low, high, 4001, dtype=F64)
        log_p = values(places)
        if not float(torch.softmax(log_p, 0)[[0, -1]].sum()) < 1e-8:
            raise ValueError(f"span must hold almost all of the mass, got {low} and {high}: widen it")
        live = (log_p > log_p.max() - 45).nonzero()[:, 0]  # e^-45 of the mode is nothing
        first, last = places[(live[0] - 1).clamp(min=0)], places[(live[-1] + 1).clamp(max=4000)]
        places = torch.linspace(float(first), float(last), points, dtype=F64)
        log_p = values(places)
        return cls(places, torch.softmax(log_p, 0), float(log_p.logsumexp(0) + (places[1] - places[0]).log()))

    @property
    def x(self) -> Tensor:
        """The places as rows, (N, 1)."""
        return self.places[:, None]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a function, given its values at the places, (N,)."""
        return self.mass @ values

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x) for x (B, 1), (B,), linear between the places."""
        below = self.mass.cumsum(0) - self.mass / 2
        step = self.places[1] - self.places[0]
        place = ((x[:, 0].double() - self.places[0]) / step).clamp(0, len(self.places) - 1.001)
        k = place.floor().nan_to_num(0).long()
        return below[k] + (place - k) * (below[k + 1] - below[k])

    def quantile(self, u: Tensor) -> Tensor:
        """The points at which the distribution function is u (B,): rows (B, 1)."""
        below = self.mass.cumsum(0) - self.mass / 2
        k = torch.searchsorted(below, u).clamp(1, len(below) - 1)
        share = (u - below[k - 1]) / (below[k] - below[k - 1])
        return (self.places[k - 1] + share.clamp(0, 1) * (self.places[k] - self.places[k - 1]))[:, None]

    def noised_score(self, x: Tensor, sigma: float) -> Tensor:
        r"""The gradient of $\log \int p(y)\, N(x; y, \sigma^2)\, dy$ at x (B, 1): $(E[y | x] - x) / \sigma^2$."""
        share = torch.softmax(self.mass.log() - (x - self.places) ** 2 / (2 * sigma**2), 1)
        return (share @ self.x - x) / sigma**2


def rows_alone(claim: str, run: Callable[[Tensor], Tensor], rows: int = 8, tolerance: float = 1e-9) -> Evidence:
    """The first row of a batch does not change when all other rows change.

    Args:
        claim: a sentence.
        run: takes the indices of the rows of a batch, (4,), and returns one result per row; its random numbers must be
            the same each time.
        rows: number of rows, at least 7.
        tolerance: relative to the row, or to 1 if that is larger.
    """
    first, second = run(torch.tensor([0, 1, 2, 3])), run(torch.tensor([0, *range(rows - 3, rows)]))
    return close(claim, first[0], second[0], tolerance * max(1.0, float(first[0].detach().abs().max())))


def uniform_evidence(what: str, u: Tensor, bias: float = 0.0, errors: float = 5.0) -> list[Evidence]:
    r"""Draws u (N,) are uniform on [0, 1]: their mean, their variance, the largest gap between distribution functions.

    Args:
        what: a prefix of the claims.
        u: independent draws, mapped by the distribution function that they should have.
        bias: allowed bias, added to the tolerance.
        errors: standard errors allowed; the gap is allowed half of this over $\sqrt N$, which with five standard errors
            is exceeded with probability $2 e^{-2 \cdot 2.5^2}$.
    """
    n = len(u)
    ordered, k = u.sort().values, torch.arange(n, dtype=u.dtype)
    gap = torch.maximum(ordered - k / n, (k + 1) / n - ordered).max()

    def near(claim: str, expected: float, measured: Tensor, variance: float) -> Evidence:
        stderr = (variance / n) ** 0.5
        return Evidence(f"{what}: {claim}", expected, float(measured), errors * stderr + bias, stderr=stderr)

    return [
        near("mean of the quantiles", 0.5, u.mean(), 1 / 12),
        near("mean of (2u - 1)^2 of the quantiles u", 1 / 3, ((2 * u - 1) ** 2).mean(), 4 / 45),
        near("largest gap to the exact distribution function", 0.0, gap, 1 / 4),
    ]


def normal_nodes(count: int = 40) -> tuple[Tensor, Tensor]:
    """Nodes (N,) and weights (N,) of quadrature over N(0, 1), exact for polynomials of degree up to 2 N - 1."""
    places, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(count))
    return places, weights / weights.sum()


def normal_grid(dims: int, count: int) -> tuple[Tensor, Tensor]:
    """Nodes (dims, N) and weights (N,) of quadrature over N(0, I) in several dimensions: products of `normal_nodes`."""
    places, masses = (torch.cartesian_prod(*[v] * dims).view(-1, dims) for v in normal_nodes(count))
    return places.T.contiguous(), masses.prod(1)

"""Gaussian kernel densities: their score in closed form, their bandwidth, and where they fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from jensen.core.distances import squared_distances
from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count, checked
from jensen.score.matching import Score, explicit

PAIRS = 2**18  # (query, data point) pairs held at a time: their squared distances fit a processor's cache


@dataclass(frozen=True)
class KernelDensity:
    r"""The density of a data point drawn at random plus noise, $\frac1M \sum_i N(x; x_i, h^2 I)$.

    Computed in float64, without cancellation wherever the data lie, and returned in the dtype of x (float64 for
    integers); queries are processed in chunks, so memory does not grow with their number.

    Args:
        data: (M, ...), M at least 1.
        bandwidth: bandwidth h, positive; see `silverman`, `scott` and `leave_one_out`.

    Raises:
        ValueError: for no data, data that are not finite, or a bandwidth that is not positive.

    Source: Parzen (1962); Vincent (2011), equation 1.

    >>> density = KernelDensity(torch.tensor([[-1.0], [1.0]]), 0.5)
    >>> density.score(torch.tensor([[0.0]])).tolist(), density.score(torch.tensor([[3.0]])).tolist()
    ([[0.0]], [[-8.0]])
    """

    data: Num[Tensor, "..."]
    bandwidth: float

    def __post_init__(self) -> None:
        _check_data(self.data)
        _check_bandwidth(self.bandwidth)

    def log_prob(self, x: Num[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Log p(x) in nats, (B,)."""
        size, h = self.data[:1].numel(), self.bandwidth
        constant = math.log(len(self.data)) + size / 2 * math.log(2 * math.pi * h**2)
        values = [torch.logsumexp(-d / (2 * h**2), 1) - constant for _, _, d in self._distances(x)]
        return _as(x, torch.cat(values))

    def score(self, x: Num[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        r"""The gradient of log p, $h^{-2} (\sum_i w_i x_i - x)$ with $w = \mathrm{softmax}_i(-|x - x_i|^2 / 2h^2)$.

        The factor 1/M cancels. The weighted mean is the optimal denoiser of the data set at noise h, so this is
        Tweedie's formula.

        Args:
            x: (B, ...).

        Returns:
            (B, ...).

        Source: Vincent (2011), section 4.2; Karras et al. (2022), appendix B.3.
        """
        h = self.bandwidth
        values = [(torch.softmax(-d / (2 * h**2), 1) @ y - z) / h**2 for z, y, d in self._distances(x)]
        return _as(x, torch.cat(values).view(x.shape))

    def sample(self, n: int, *, cond: None = None, generator: Rng = None) -> Float[Tensor, "n ..."]:
        """Draw n samples, each a random data point plus noise of standard deviation h.

        Args:
            n: number of samples, at least 1.
            cond: None: there are no conditions.
            generator: None, one, or one per row.

        Raises:
            ValueError: for n < 1.
        """
        check_count(n=n)
        place = torch.special.ndtr(normal((n,), generator, like=torch.zeros((), dtype=torch.float64)))  # uniform
        index = (place * len(self.data)).long().clamp(max=len(self.data) - 1)
        chosen = _as(self.data, self.data[index.to(self.data.device)].double())
        return chosen + self.bandwidth * normal((n, *self.data.shape[1:]), generator, like=chosen)

    def _distances(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must be (B, {_event(self.data)}), as the data, got {tuple(x.shape)}")
        return _pairs(x, self.data)


def _pairs(x: Tensor, data: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries (b, D), data (M, D) and their squared distances (b, M), float64."""
    x, y = x.double().flatten(1), data.double().flatten(1)
    chunk = max(16, PAIRS // len(y))
    for z, distances in zip(x.split(chunk), squared_distances(x, y, chunk), strict=True):
        yield z, y, distances


def scott(data: Num[Tensor, "..."]) -> float:
    r"""Scott's bandwidth, $s\, M^{-1/(D+4)}$, with s the root of the mean variance over dimensions.

    Args:
        data: (M, ...), M at least 2, not all equal.

    Raises:
        ValueError: for fewer than two data, data that are not finite, or data that are all equal.

    Source: Scott (1992), equation 6.42.
    """
    size, spread = _spread(data)
    return float(spread * len(data) ** (-1 / (size + 4)))


def silverman(data: Num[Tensor, "..."]) -> float:
    r"""Silverman's bandwidth, $s\, (4 / (M (D + 2)))^{1/(D+4)}$, with s the root of the mean variance over dimensions.

    For data from N(m, s^2 I) it minimises the integrated squared error of the density as M grows.

    Args:
        data: (M, ...), M at least 2, not all equal.

    Raises:
        ValueError: for fewer than two data, data that are not finite, or data that are all equal.

    Source: Silverman (1986), equation 4.14.

    >>> round(silverman(torch.linspace(-1, 1, 100)[:, None]), 3)
    0.247
    """
    size, spread = _spread(data)
    return float(spread * (4 / (len(data) * (size + 2))) ** (1 / (size + 4)))


def leave_one_out_log_prob(
    data: Num[Tensor, "m ..."], bandwidth: float | Tensor, rows: Tensor | None = None
) -> Float[Tensor, " b"]:
    r"""Log density in nats of each data point under the kernel density of the others, $\log \frac1{M-1} \sum_{j \ne i}
    N(x_i; x_j, h^2 I)$.

    Args:
        data: (M, ...), M at least 2.
        bandwidth: bandwidth h, positive; a scalar tensor if its gradient is needed.
        rows: (B,), indices of the data points to evaluate; None for all.

    Raises:
        ValueError: for fewer than two data, data that are not finite, or a bandwidth that is not positive.

    Source: Duin (1976), equation 5.
    """
    _check_data(data, least=2)
    _check_bandwidth(bandwidth)
    rows = torch.arange(len(data), device=data.device) if rows is None else rows
    square = torch.as_tensor(bandwidth, dtype=torch.float64, device=data.device) ** 2
    values, first = [], 0
    for z, _, d in _pairs(data[rows], data):
        exponents = -d / (2 * square)
        exponents[torch.arange(len(z), device=d.device), rows[first : first + len(z)]] = -math.inf
        values.append(torch.logsumexp(exponents, 1))
        first += len(z)
    constant = math.log(len(data) - 1) + data[:1].numel() / 2 * torch.log(2 * math.pi * square)
    return _as(data, torch.cat(values) - constant)


def leave_one_out(data: Num[Tensor, "..."], *, tolerance: float = 1e-5) -> float:
    r"""The bandwidth that maximises the leave-one-out likelihood.

    At the maximum $D h^2 = \frac1M \sum_i \sum_{j \ne i} w_{ij} |x_i - x_j|^2$ with softmax weights w, so $D h^2$ lies
    between the mean squared distances to the nearest and to the farthest data point: that interval is searched, first
    on a grid (the likelihood may have several maxima), then by golden section around the best point.

    Args:
        data: (M, ...), M at least 2.
        tolerance: relative tolerance of h, positive.

    Raises:
        ValueError: for fewer than two data, data that are not finite, or data in which every point occurs twice (the
            likelihood is then largest at h = 0).

    Source: Duin (1976), equation 6.

    >>> x = torch.linspace(-1, 1, 21)[:, None]
    >>> h = leave_one_out(x)
    >>> best = leave_one_out_log_prob(x, h).mean()
    >>> all(bool(leave_one_out_log_prob(x, h * f).mean() < best) for f in (0.9, 1.1))
    True
    """
    _check_data(data, least=2)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    data = data.double()
    low, high = _reach(data)
    if low == 0:
        raise ValueError("every data point occurs twice, so the leave-one-out likelihood is largest at bandwidth 0")

    def value(log_h: float) -> float:
        return float(leave_one_out_log_prob(data, math.exp(log_h)).mean())

    grid = torch.linspace(math.log(low), math.log(high), 11, dtype=torch.float64).tolist()
    best = max(range(len(grid)), key=lambda k: value(grid[k]))
    return math.exp(_golden(value, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], tolerance))


def _reach(data: Tensor) -> tuple[float, float]:
    """Root mean squared distance per dimension, to the nearest other data point and to the farthest."""
    near, far, first = 0.0, 0.0, 0
    for z, _, d in _pairs(data, data):
        rows = torch.arange(len(z), device=d.device)
        far += float(d.max(1).values.sum())
        d[rows, first + rows] = math.inf
        near += float(d.min(1).values.sum())
        first += len(z)
    scale = len(data) * data[:1].numel()
    return math.sqrt(near / scale), math.sqrt(far / scale)


def _golden(value: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """The maximiser of `value` in an interval in which it has one maximum."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = value(a), value(b)
    while high - low > tolerance:
        if at_a > at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = value(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = value(b)
    return (low + high) / 2


@checked
def relative_score_error(score: Score, x: Float[Tensor, "b ..."], target_score: Score) -> float:
    r"""$E|s - \nabla\log p|^2 / E|\nabla\log p|^2$ over the given x: 0 is exact, 1 is the error of a score of 0.

    Raises:
        ValueError: for no x.

    >>> relative_score_error(lambda x: -x / 2, torch.tensor([[1.0], [3.0]]), lambda x: -x)
    0.25
    """
    if not len(x):
        raise ValueError("x must have at least one row, got none")
    return float(explicit(score, x, target_score).mean() / explicit(torch.zeros_like, x, target_score).mean())


@dataclass(frozen=True)
class ScoreError:
    """The error of a kernel density's score in `dimension` dimensions.

    Attributes:
        dimension: D.
        bandwidth: bandwidth with the smallest error, found with the true score.
        error: `relative_score_error` with this bandwidth.
        likely: `relative_score_error` with the bandwidth that maximises the leave-one-out likelihood.
        shortfall: mean nats by which the log density with that bandwidth is below the true one.
    """

    dimension: int
    bandwidth: float
    error: float
    likely: float
    shortfall: float


def dimension_curse(
    dimensions: Sequence[int], data: int, *, queries: int = 1000, generator: torch.Generator | None = None
) -> list[ScoreError]:
    r"""Why kernel densities fail: the score error on N(0, I) as the dimension grows, for a fixed number of data points.

    All data are about $\sqrt{2D}$ away from a query, and the differences of their squared distances grow, so one data
    point has all the weight at any useful bandwidth, and the score $(x_i - x) / h^2$ points to it, although it is
    unrelated to x: the error $(1 - h^{-2})^2 + h^{-4}$ tends to 1/2 even with the best bandwidth, $h^2 = 2$, wider than
    the density itself. A Gaussian fitted to the same data by maximum likelihood has an error of about D / M if this
    is small.

    Args:
        dimensions: numbers of dimensions, each at least 1.
        data: number of data points, at least 2.
        queries: number of points at which the score is evaluated, at least 1.
        generator: random generator for the draws.

    Returns: one `ScoreError` per dimension.

    Raises:
        ValueError: for a number out of its range.

    Source: Silverman (1986), section 4.5 (the sample sizes that a density needs).

    >>> errors = dimension_curse([1, 32], 100, queries=100, generator=torch.Generator().manual_seed(0))
    >>> errors[0].error < 0.2 < 0.35 < errors[1].error
    True
    """
    smallest = min(dimensions, default=0)
    for name, number, least in (("dimensions", smallest, 1), ("data", data, 2), ("queries", queries, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    out = []
    for size in dimensions:
        draws = torch.randn(data + queries, size, generator=generator, dtype=torch.float64)
        known, x = draws[:data], draws[data:]

        def error(log_h: float, known: Tensor = known, x: Tensor = x) -> float:
            return relative_score_error(KernelDensity(known, math.exp(log_h)).score, x, torch.neg)

        best, likely = _golden(lambda log_h: -error(log_h), math.log(0.01), math.log(100.0), 1e-2), leave_one_out(known)
        truth = -x.square().sum(1) / 2 - size / 2 * math.log(2 * math.pi)
        shortfall = float((truth - KernelDensity(known, likely).log_prob(x)).mean())
        out.append(ScoreError(size, math.exp(best), error(best), error(math.log(likely)), shortfall))
    return out


def _spread(data: Tensor) -> tuple[int, float]:
    """The number of dimensions, and the root of the mean variance over them."""
    _check_data(data, least=2)
    flat = data.double().flatten(1)
    spread = float(flat.var(0).mean().sqrt())
    if not spread > 0:
        raise ValueError("data must not be all equal, since they determine no bandwidth")
    return flat.shape[1], spread


def _as(x: Tensor, found: Tensor) -> Tensor:
    return found.to(x.dtype) if x.is_floating_point() else found


def _event(data: Tensor) -> str:
    return ", ".join(str(n) for n in data.shape[1:])


def _check_data(data: Tensor, least: int = 1) -> None:
    if data.ndim < 2 or len(data) < least or not data.numel():
        raise ValueError(f"data must be (M, ...) with M at least {least}, got {tuple(data.shape)}")
    if not bool(data.isfinite().all()):
        raise ValueError("data must be finite, got values that are not")


def _check_bandwidth(bandwidth: float | Tensor) -> None:
    if not (bandwidth > 0 and 0 < bandwidth * bandwidth < math.inf):
        raise ValueError(f"bandwidth and its square must be positive and finite, got {bandwidth}")

"""Frechet distance of two samples of features, from their Gaussian approximations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from jensen.metrics.discrepancy import Distance
from jensen.metrics.features import checked


@dataclass(frozen=True)
class FeatureStatistics:
    r"""Count, mean and scatter $\sum_i (x_i - \bar x)(x_i - \bar x)^T$ of features; those of two samples can be merged.

    Attributes:
        count: N.
        mean: (d,), float64.
        scatter: (d, d), float64.

    Source: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1.

    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> (FeatureStatistics.of(x[:1]) + FeatureStatistics.of(x[1:])).scatter
    tensor([[14.]], dtype=torch.float64)
    """

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """The statistics of features (N, d), at least one row; raises ValueError for invalid features."""
        x = checked(features, least=1)
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        if len(self.mean) != len(other.mean):
            raise ValueError(f"features must have the same width, got {len(self.mean)} and {len(other.mean)}")
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        between = torch.outer(gap, gap) * (self.count * other.count / count)
        return FeatureStatistics(count, mean, self.scatter + other.scatter + between)

    def reduced(self) -> FeatureStatistics:
        """The statistics of the rows of all processes; every process must call it."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        total = torch.cat([self.mean.new_tensor([self.count]), self.count * self.mean])
        dist.all_reduce(total)
        count = int(total[0])
        mean = total[1:] / count
        gap = self.mean - mean
        scatter = self.scatter + self.count * torch.outer(gap, gap)
        dist.all_reduce(scatter)
        return FeatureStatistics(count, mean, scatter)

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased covariance, from at least two rows."""
        return self.scatter / (self.count - 1)


Source = Tensor | FeatureStatistics
Side = tuple[Source, FeatureStatistics]


@dataclass(frozen=True)
class FrechetDistance:
    """A distance and its standard error, which is computed on demand because it at least doubles the cost.

    Attributes:
        value: the distance, at least 0.
        real, fake: the samples.
    """

    value: float
    real: Source = field(repr=False)
    fake: Source = field(repr=False)

    def __float__(self) -> float:
        return self.value

    @cached_property
    def stderr(self) -> float:
        r"""The standard error to first order, from the spread of the two Kantorovich potentials.

        $\varphi(x) = |x - \mu|^2 - (x - \mu)^T A (x - \mu) + 2 (\mu - \mu')^T (x - \mu)$, with A the linear map from
        one Gaussian to the other. It vanishes for equal distributions: use the floor there. If only statistics are
        given, features are assumed to be Gaussian.
        """
        (x, p), (y, q) = _sides(self.real, self.fake)
        root, back = _root(p.covariance)
        values, vectors = torch.linalg.eigh(root.T @ q.covariance @ root)
        kept = values > _least(values)
        values, vectors = values[kept], vectors[:, kept]
        there = (vectors * values.pow(0.25)).T @ back()  # A = there^T there; the inverse map likewise
        again = (vectors * values.pow(-0.25)).T @ root.T
        gap = p.mean - q.mean
        return math.sqrt(_variance(x, p, there, gap) + _variance(y, q, again, -gap))


def frechet_distance(real: Source, fake: Source) -> FrechetDistance:
    r"""$|\mu - \mu'|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2 (\Sigma^{1/2} \Sigma' \Sigma^{1/2})^{1/2})$, at least 0.

    The squared Wasserstein distance between the Gaussians of the two means and covariances. It is biased upwards by
    about (a constant)/N: `extrapolated_frechet_distance` removes the bias, and the value between two samples of the
    data is the floor. The trace of the root is the sum of the roots of the eigenvalues of the symmetric $L^T \Sigma' L$
    with $L L^T = \Sigma$: by Cholesky, or from eigenvectors if Sigma is singular; all in float64.

    Args:
        real: (N, d), or statistics of at least two rows.
        fake: (M, d), or statistics of at least two rows. N and M may be below d.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, fewer than two rows, or different
            widths.

    Source: Dowson & Landau (1982); Heusel et al. (2017), equation 6; that the first variation is the potential:
    Santambrogio (2015), Optimal Transport for Applied Mathematicians, proposition 7.17.

    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> frechet_distance(x, 3 * x + 1).value  # (1 - 3)^2 + 1
    5.0
    """
    (_, p), (_, q) = _sides(real, fake)
    root, _ = _root(p.covariance)
    roots = torch.linalg.eigvalsh(root.T @ q.covariance @ root).clamp_min(0).sqrt().sum()
    apart = (p.mean - q.mean).square().sum() + p.covariance.trace() + q.covariance.trace() - 2 * roots
    return FrechetDistance(max(float(apart), 0.0), real, fake)


def _sides(real: Source, fake: Source) -> tuple[Side, Side]:
    """Both samples with their statistics, the one of lower rank first, so that its null space drops out."""
    a, b = ((v, v if isinstance(v, FeatureStatistics) else FeatureStatistics.of(v)) for v in (real, fake))
    if len(a[1].mean) != len(b[1].mean):
        raise ValueError(f"real and fake features must have the same width, got {len(a[1].mean)} and {len(b[1].mean)}")
    if min(a[1].count, b[1].count) < 2:
        raise ValueError(f"features must have at least 2 rows, got {a[1].count} and {b[1].count}")
    return (a, b) if a[1].count <= b[1].count else (b, a)


def _least(values: Tensor) -> Tensor:
    """The threshold up to which eigenvalues count as 0."""
    return len(values) * torch.finfo(values.dtype).eps * values.max() if len(values) else values.new_zeros(())


def _root(covariance: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """L (d, r) of full rank with L L^T the covariance, and a function that computes its left inverse (r, d)."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not bool(failed):
        return lower, lambda: torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > _least(values)
    scale = values[kept].sqrt()
    return vectors[:, kept] * scale, lambda: (vectors[:, kept] / scale).T


def _variance(source: Source, p: FeatureStatistics, carried: Tensor, gap: Tensor) -> float:
    """The variance of the mean of the potential over a sample."""
    if isinstance(source, FeatureStatistics):
        curve = p.covariance - carried.T @ (carried @ p.covariance)
        spread = 2 * (curve * curve.T).sum() + 4 * gap @ p.covariance @ gap
    else:
        x = source.detach().double() - p.mean
        spread = (x.square().sum(1) - (x @ carried.T).square().sum(1) + 2 * x @ gap).var()
    return float(spread.clamp_min(0)) / p.count


def extrapolated_frechet_distance(
    real: Tensor, fake: Tensor, *, shares: int = 4, generator: torch.Generator | None = None
) -> Distance:
    r"""The Frechet distance extrapolated to infinite samples: at k = 0, the line $a + b k$ fitted to k equal shares.

    Both samples are split into k shares and the distance is the mean over their pairs, for k = 1 to `shares`: its bias
    is k times that of the whole. May come out below zero. The standard error is that of `frechet_distance`, which the
    extrapolation does not change to first order. With fewer rows than features in a share the bias is not linear.

    Args:
        real: (N, d).
        fake: (M, d).
        shares: the largest k, at least 2; both samples need 2 rows per share.
        generator: random generator for shuffling both samples.

    Raises:
        ValueError: as in `frechet_distance`, or for shares below 2 or too many for the rows.

    Source: Chong & Forsyth (2020), section 3.1, which varies the size of one sample; here of both.

    >>> rng = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 400, 8, generator=rng)
    >>> round(frechet_distance(x, y).value, 2), round(extrapolated_frechet_distance(x, y, generator=rng).value, 2)
    (0.12, 0.0)
    """
    if shares < 2:
        raise ValueError(f"shares must be at least 2, got {shares}")
    whole = frechet_distance(real, fake)
    if min(len(real), len(fake)) < 2 * shares:
        raise ValueError(f"real and fake must have 2 rows per share, {2 * shares}, got {len(real)} and {len(fake)}")
    real, fake = (v[torch.randperm(len(v), generator=generator).to(v.device)] for v in (real, fake))
    values = [whole.value]
    for k in range(2, shares + 1):
        parts = zip(real.tensor_split(k), fake.tensor_split(k), strict=True)
        values.append(sum(frechet_distance(a, b).value for a, b in parts) / k)
    counts = torch.arange(1, shares + 1, dtype=torch.float64)
    means = torch.tensor(values, dtype=torch.float64)
    steps = counts - counts.mean()
    slope = (steps @ means) / steps.square().sum()
    return Distance(float(means.mean() - slope * counts.mean()), whole.stderr)

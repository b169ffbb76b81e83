"""Metrics of samples: what they estimate, that they do so without bias, and what they count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from scipy.linalg import sqrtm
from torch import Tensor

from jensen.check.evidence import Evidence, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.metrics import energy_distance, expected_coverage, frechet_distance, kernel_distance, prdc, wilson
from jensen.metrics.frechet import FeatureStatistics

F64 = torch.float64


def _exactly(n: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Rows whose mean and unbiased covariance are these."""
    x = torch.randn(n, len(mean), dtype=F64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


@law(
    "metrics/frechet",
    formula=r"|\mu - \mu'|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2\,(\Sigma\Sigma')^{1/2})",
    source="Dowson & Landau (1982); Heusel et al. (2017), equation 6",
)
def frechet(_: float) -> Iterator[Evidence]:
    """The Frechet distance is the squared Wasserstein distance of two Gaussians.

    On samples whose means and covariances are given exactly, beside scipy's matrix root; statistics of parts of a
    sample add up to those of the whole; a shift by d costs |d|^2.
    """
    first = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64)
    second = torch.tensor([[0.5, -0.2], [-0.2, 1.5]], dtype=F64)
    mean = torch.tensor([1.0, -0.5], dtype=F64)
    x, y = _exactly(9, 0 * mean, first, 0), _exactly(14, mean, second, 1)
    root = float(torch.from_numpy(sqrtm((first @ second).numpy()).real).trace())
    exact = float(mean.square().sum() + first.trace() + second.trace()) - 2 * root
    yield close("two samples of known moments", exact, float(frechet_distance(x, y)), 1e-9)
    yield close("exchanged", exact, float(frechet_distance(y, x)), 1e-9)
    parts = FeatureStatistics.of(y[:4]) + FeatureStatistics.of(y[4:])
    yield close("the mean of parts put together", mean, parts.mean, 1e-12)
    yield close("their covariance", second, parts.covariance, 1e-12)
    yield close("a shift by (1, -1/2)", 1.25, float(frechet_distance(x, x + mean)), 1e-9)


def _unbiased(
    estimate: Callable[[Tensor, Tensor], float], exact: Callable[[Tensor, Tensor, Tensor, Tensor], float]
) -> Iterator[Evidence]:
    """The mean over every sample of 3 and of 4 that two laws on three points can give, weighed as likely as it is."""
    points = torch.tensor([[0.0, 1.0], [1.0, -0.5], [2.0, 2.0]], dtype=F64)
    p, q = torch.tensor([0.5, 0.5, 0.0], dtype=F64), torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    for name, masses in (("different laws", q), ("one law", p)):
        total = 0.0
        for a in itertools.product(range(2), repeat=3):
            for b in itertools.product(range(3), repeat=4):
                weight = float(p[list(a)].prod() * masses[list(b)].prod())
                if weight:
                    total += weight * estimate(points[list(a)], points[list(b)])
        yield close(f"mean over all samples of 3 and of 4: {name}", exact(points, points, p, masses), total, 1e-9)


@law(
    "metrics/kernel-distance",
    formula=r"E\,k(X, X') + E\,k(Y, Y') - 2\,E\,k(X, Y), \quad k(x, y) = (x^\top y/d + 1)^3",
    source="Gretton et al. (2012), lemma 6; Binkowski et al. (2018), section 4",
)
def kernel(_: float) -> Iterator[Evidence]:
    """The kernel distance is unbiased: its mean over every sample that can occur is the distance of the laws.

    Pairs of a row with itself are left out. Two laws on three points have few samples of 3 and of 4: all are counted.
    """

    def exact(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> float:
        gap = p - q
        return float(gap @ (x @ y.T / x.shape[1] + 1) ** 3 @ gap)

    yield from _unbiased(lambda x, y: kernel_distance(x, y).value, exact)


@law(
    "metrics/energy-distance",
    formula=r"2\,E|X - Y| - E|X - X'| - E|Y - Y'|",
    source="Szekely & Rizzo (2013), equation 2.5",
)
def energy(_: float) -> Iterator[Evidence]:
    """The energy distance is unbiased, by the same count of every sample."""

    def exact(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> float:
        gap = p - q
        return 0.0 - float(gap @ torch.cdist(x, y) @ gap)

    yield from _unbiased(lambda x, y: energy_distance(x, y).value, exact)


@law(
    "metrics/neighbourhoods",
    formula=r"\mathrm{coverage} = \frac1N \#\{i : \exists j,\ |y_j - x_i| < r_k(x_i)\}, \quad "
    r"E = 1 - \prod_{i=1}^k \tfrac{N-i}{N+M-i}",
    source="Kynkaanniemi et al. (2019), section 2; Naeem et al. (2020), section 3",
)
def neighbourhoods(precision: float) -> Iterator[Evidence]:
    """Precision, recall, density and coverage count who lies in whose ball, and coverage has a known mean.

    Beside a count with two loops. Of N rows and M of the same law, ball i stays empty if its owner's first k
    neighbours among all are rows of its own sample.
    """
    rng = torch.Generator().manual_seed(0)
    x, y, k = torch.randn(13, 2, dtype=F64, generator=rng), torch.randn(17, 2, dtype=F64, generator=rng) + 1.5, 3
    radius = [torch.cdist(v, v).sort(1).values[:, k].tolist() for v in (x, y)]
    apart = torch.cdist(x, y).tolist()
    pairs = list(itertools.product(range(len(x)), range(len(y))))
    in_real = [(i, j) for i, j in pairs if apart[i][j] < radius[0][i]]
    in_fake = [(i, j) for i, j in pairs if apart[i][j] < radius[1][j]]
    found = prdc(x, y, k)
    yield close("precision", len({j for _i, j in in_real}) / len(y), found.precision, 1e-12)
    yield close("recall", len({i for i, _j in in_fake}) / len(x), found.recall, 1e-12)
    yield close("density", len(in_real) / (k * len(y)), found.density, 1e-12)
    yield close("coverage", len({i for i, _j in in_real}) / len(x), found.coverage, 1e-12)
    runs = []
    for _run in range(draws(300, precision)):
        both = torch.randn(26, 2, dtype=F64, generator=rng)
        runs.append(prdc(both[:12], both[12:], 2).coverage)
    yield mean_is("mean coverage of one law, 12 by 14, k = 2", expected_coverage(12, 14, 2), torch.tensor(runs))
    yield close("that mean", 1 - (11 / 25) * (10 / 24), expected_coverage(12, 14, 2), 1e-12)


@law(
    "metrics/proportion",
    formula=r"|\hat p - p| = z\,\sqrt{p(1 - p)/n} \text{ at both ends}",
    source="Wilson (1927), equation 4",
)
def proportion(_: float) -> Iterator[Evidence]:
    """Wilson's interval ends where the share that was found would be z standard errors off.

    The standard error is that of the end itself, not that of the share found: so the ends solve a quadratic.
    """
    for hits, n in ((3, 20), (95, 100), (500, 1000)):
        found = wilson(hits, n)
        for end in (found.low, found.high):
            off = abs(hits / n - end) / math.sqrt(end * (1 - end) / n)
            yield close(f"{hits} of {n}, at {end:.3f}: standard errors", 1.959963984540054, off, 1e-9)


LAWS: tuple[Law, ...] = (frechet, kernel, energy, neighbourhoods, proportion)

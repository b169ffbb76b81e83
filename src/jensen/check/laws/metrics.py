"""Metrics of samples: what they estimate, that they are unbiased, and what they count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from scipy.linalg import sqrtm
from torch import Tensor

from jensen.check.evidence import Claims, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.line import F64, f64, randn
from jensen.core.seeding import generator
from jensen.metrics import energy_distance, expected_coverage, frechet_distance, kernel_distance, prdc, wilson
from jensen.metrics.frechet import FeatureStatistics


def _exactly(n: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Rows with exactly this mean and unbiased covariance."""
    x = randn(seed, n, len(mean))
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


@law("metrics/frechet")
def frechet(_: float) -> Claims:
    r"""The Frechet distance is the squared Wasserstein distance of two Gaussians.

    $$|\mu - \mu'|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2\,(\Sigma\Sigma')^{1/2})$$
    On samples with exactly known means and covariances, compared with scipy's matrix root; statistics of parts of a
    sample add up to those of the whole; a shift by d costs |d|^2.
    Source: Dowson & Landau (1982); Heusel et al. (2017), equation 6.
    """
    first, second, mean = f64([[2.0, 0.3], [0.3, 1.0]]), f64([[0.5, -0.2], [-0.2, 1.5]]), f64([1.0, -0.5])
    x, y = _exactly(9, 0 * mean, first, 0), _exactly(14, mean, second, 1)
    root = float(torch.from_numpy(sqrtm((first @ second).numpy()).real).trace())
    exact = float(mean.square().sum() + first.trace() + second.trace()) - 2 * root
    yield close("two samples of known moments", exact, float(frechet_distance(x, y)), 1e-9)
    yield close("exchanged", exact, float(frechet_distance(y, x)), 1e-9)
    parts = FeatureStatistics.of(y[:4]) + FeatureStatistics.of(y[4:])
    yield close("the mean of combined parts", mean, parts.mean, 1e-12)
    yield close("their covariance", second, parts.covariance, 1e-12)
    yield close("a shift by (1, -1/2)", 1.25, float(frechet_distance(x, x + mean)), 1e-9)


def _unbiased(name: str, estimate: Callable, gram: Callable[[Tensor], Tensor], text: str) -> Law:
    """The law that an estimate's mean over every possible sample of 3 and of 4, by their probabilities, is exact."""

    def trial(_: float) -> Claims:
        x, p, q = f64([[0.0, 1.0], [1.0, -0.5], [2.0, 2.0]]), f64([0.5, 0.5, 0.0]), f64([0.2, 0.3, 0.5])
        samples = list(itertools.product(itertools.product(range(2), repeat=3), itertools.product(range(3), repeat=4)))
        for name, masses in (("different distributions", q), ("one distribution", p)):
            weights = [float(p[list(a)].prod() * masses[list(b)].prod()) for a, b in samples]
            weighed = [(w, a, b) for w, (a, b) in zip(weights, samples, strict=True) if w]
            total = sum(w * estimate(x[list(a)], x[list(b)]).value for w, a, b in weighed)
            exact = float((p - masses) @ gram(x) @ (p - masses))
            yield close(f"mean over all samples of 3 and of 4: {name}", exact, total, 1e-9)

    return law(f"metrics/{name}", text)(trial)


UNBIASED = [
    _unbiased(
        "kernel-distance",
        kernel_distance,
        lambda x: (x @ x.T / x.shape[1] + 1) ** 3,
        r"""The kernel distance is unbiased: its mean over every possible sample is that of the distributions.

        $$E\,k(X, X') + E\,k(Y, Y') - 2\,E\,k(X, Y), \quad k(x, y) = (x^\top y/d + 1)^3$$
        Pairs of a row with itself are left out. Two distributions on three points have few samples of 3 and of 4: all
        are counted.
        Source: Gretton et al. (2012), lemma 6; Binkowski et al. (2018), section 4.
        """,
    ),
    _unbiased(
        "energy-distance",
        energy_distance,
        lambda x: -torch.cdist(x, x),
        r"""The energy distance is unbiased, by the same count of every sample.

        $$2\,E|X - Y| - E|X - X'| - E|Y - Y'|$$
        It is the kernel distance of the kernel -|x - y|.
        Source: Szekely & Rizzo (2013), equation 2.5.
        """,
    ),
]


@law("metrics/neighbourhoods")
def neighbourhoods(precision: float) -> Claims:
    r"""Precision, recall, density and coverage count points inside balls, and coverage has a known mean.

    $$\mathrm{coverage} = \frac1N \#\{i : \exists j,\ |y_j - x_i| < r_k(x_i)\}, \quad
    E = 1 - \prod_{i=1}^k \tfrac{N-i}{N+M-i}$$
    Compared with a count by two loops. For N rows and M of the same distribution, ball i is empty if its owner's first
    k neighbours among all are rows of its own sample.
    Source: Kynkaanniemi et al. (2019), section 2; Naeem et al. (2020), section 3.
    """
    rng = generator(0)
    x, y, k = torch.randn(13, 2, dtype=F64, generator=rng), torch.randn(17, 2, dtype=F64, generator=rng) + 1.5, 3
    radius, other = ([*torch.cdist(v, v).sort(1).values[:, k]] for v in (x, y))
    pairs = [(i, j, float((x[i] - y[j]).norm())) for i, j in itertools.product(range(13), range(17))]
    in_real = [(i, j) for i, j, d in pairs if d < radius[i]]
    in_fake = [(i, j) for i, j, d in pairs if d < other[j]]
    found = prdc(x, y, k)
    yield close("precision", len({j for _i, j in in_real}) / 17, found.precision, 1e-12)
    yield close("recall", len({i for i, _j in in_fake}) / 13, found.recall, 1e-12)
    yield close("density", len(in_real) / (k * 17), found.density, 1e-12)
    yield close("coverage", len({i for i, _j in in_real}) / 13, found.coverage, 1e-12)
    both = (torch.randn(26, 2, dtype=F64, generator=rng) for _ in range(draws(300, precision)))
    runs = torch.tensor([prdc(v[:12], v[12:], 2).coverage for v in both])
    yield mean_is("mean coverage of one distribution, 12 by 14, k = 2", expected_coverage(12, 14, 2), runs)
    yield close("that mean", 1 - (11 / 25) * (10 / 24), expected_coverage(12, 14, 2), 1e-12)


@law("metrics/proportion")
def proportion(_: float) -> Claims:
    r"""Wilson's interval ends where the observed share would be z standard errors off.

    $$|\hat p - p| = z\,\sqrt{p(1 - p)/n} \text{ at both ends}$$
    The standard error is that of the end itself, not that of the observed share: so the ends solve a quadratic.
    Source: Wilson (1927), equation 4.
    """
    for hits, n in ((3, 20), (95, 100), (500, 1000)):
        found = wilson(hits, n)
        for end in (found.low, found.high):
            off = abs(hits / n - end) / math.sqrt(end * (1 - end) / n)
            yield close(f"{hits} of {n}, at {end:.3f}: standard errors", 1.959963984540054, off, 1e-9)

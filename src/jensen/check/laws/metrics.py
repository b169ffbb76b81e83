"""Metrics of samples: Frechet, kernel and energy distances, precision and recall, intervals for proportions."""

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
    r"""The Frechet distance is the squared Wasserstein distance between two Gaussians.

    $$|\mu - \mu'|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2\,(\Sigma\Sigma')^{1/2})$$
    On samples with exactly known means and covariances, compared with scipy's matrix square root. A shift by d has the
    distance |d|^2. Statistics of parts of a sample can be combined into those of the whole.
    Source: Dowson & Landau (1982); Heusel et al. (2017), equation 6.
    """
    first, second, mean = f64([[2.0, 0.3], [0.3, 1.0]]), f64([[0.5, -0.2], [-0.2, 1.5]]), f64([1.0, -0.5])
    x, y = _exactly(9, 0 * mean, first, 0), _exactly(14, mean, second, 1)
    root = float(torch.from_numpy(sqrtm((first @ second).numpy()).real).trace())
    exact = float(mean.square().sum() + first.trace() + second.trace()) - 2 * root
    yield close("distance of two samples with known moments", exact, float(frechet_distance(x, y)), 1e-9)
    yield close("the same with the samples exchanged", exact, float(frechet_distance(y, x)), 1e-9)
    parts = FeatureStatistics.of(y[:4]) + FeatureStatistics.of(y[4:])
    yield close("mean of a sample, combined from two parts", mean, parts.mean, 1e-12)
    yield close("covariance of a sample, combined from two parts", second, parts.covariance, 1e-12)
    yield close(
        "distance of a sample from itself shifted by (1, -1/2)", 1.25, float(frechet_distance(x, x + mean)), 1e-9
    )


def _unbiased(name: str, estimate: Callable, gram: Callable[[Tensor], Tensor], text: str) -> Law:
    """The law that the probability-weighted mean of an estimate, over all samples of sizes 3 and 4, is exact."""

    def trial(_: float) -> Claims:
        x, p, q = f64([[0.0, 1.0], [1.0, -0.5], [2.0, 2.0]]), f64([0.5, 0.5, 0.0]), f64([0.2, 0.3, 0.5])
        samples = list(itertools.product(itertools.product(range(2), repeat=3), itertools.product(range(3), repeat=4)))
        for pair, masses in (("different", q), ("equal", p)):
            chances = [float(p[list(a)].prod() * masses[list(b)].prod()) for a, b in samples]
            pairs = ((w, x[list(a)], x[list(b)]) for w, (a, b) in zip(chances, samples, strict=True) if w)
            exact = float((p - masses) @ gram(x) @ (p - masses))
            mean = sum(w * estimate(first, second).value for w, first, second in pairs)
            yield close(f"mean estimate over all samples of sizes 3 and 4, {pair} distributions", exact, mean, 1e-9)

    return law(f"metrics/{name}", text)(trial)


UNBIASED = [
    _unbiased(
        "kernel-distance",
        kernel_distance,
        lambda x: (x @ x.T / x.shape[1] + 1) ** 3,
        r"""The estimate of the kernel distance (KID) is unbiased.

        $$E\,k(X, X') + E\,k(Y, Y') - 2\,E\,k(X, Y), \quad k(x, y) = (x^\top y/d + 1)^3$$
        Pairs of a row with itself are left out. Distributions on three points have few samples of sizes 3 and 4: the
        mean of the estimate is taken over all of them.
        Source: Gretton et al. (2012), lemma 6; Binkowski et al. (2018), section 4.
        """,
    ),
    _unbiased(
        "energy-distance",
        energy_distance,
        lambda x: -torch.cdist(x, x),
        r"""The estimate of the energy distance is unbiased.

        $$2\,E|X - Y| - E|X - X'| - E|Y - Y'|$$
        It is the kernel distance with the kernel -|x - y|. The mean is taken over all samples of sizes 3 and 4.
        Source: Szekely & Rizzo (2013), equation 2.5.
        """,
    ),
]


@law("metrics/neighbourhoods")
def neighbourhoods(precision: float) -> Claims:
    r"""Precision, recall, density and coverage count samples inside the k-nearest-neighbour balls of other samples.

    $$\mathrm{coverage} = \frac1N \#\{i : \exists j,\ |y_j - x_i| < r_k(x_i)\}, \quad
    E = 1 - \prod_{i=1}^k \tfrac{N-i}{N+M-i}$$
    r_k(x) is the distance of a real row x to its k-th nearest neighbour among the real rows. Compared with a count by
    two loops. If N real and M generated rows have the same distribution, a ball is empty when the first k neighbours of
    its centre, among all rows, are real: this gives the mean of the coverage.
    Source: Kynkaanniemi et al. (2019), section 2; Naeem et al. (2020), section 3.
    """
    rng = generator(0)
    x, y, k = torch.randn(13, 2, dtype=F64, generator=rng), torch.randn(17, 2, dtype=F64, generator=rng) + 1.5, 3
    radius, other = ([*torch.cdist(v, v).sort(1).values[:, k]] for v in (x, y))
    pairs = [(i, j, float((x[i] - y[j]).norm())) for i, j in itertools.product(range(13), range(17))]
    in_real = [(i, j) for i, j, d in pairs if d < radius[i]]
    found = prdc(x, y, k)
    for name, exact in (
        ("precision", len({j for _i, j in in_real}) / 17),
        ("recall", len({i for i, j, d in pairs if d < other[j]}) / 13),
        ("density", len(in_real) / (k * 17)),
        ("coverage", len({i for i, _j in in_real}) / 13),
    ):
        yield close(name, exact, getattr(found, name), 1e-12)
    both = (torch.randn(26, 2, dtype=F64, generator=rng) for _ in range(draws(300, precision)))
    runs, expected = torch.tensor([prdc(v[:12], v[12:], 2).coverage for v in both]), expected_coverage(12, 14, 2)
    yield mean_is("mean coverage for equal distributions, N = 12, M = 14, k = 2", expected, runs)
    yield close("expected coverage: 1 - (11/25) (10/24)", 1 - (11 / 25) * (10 / 24), expected, 1e-12)


@law("metrics/proportion")
def proportion(_: float) -> Claims:
    r"""Wilson's interval consists of the proportions p from which the observed one is at most z standard errors away.

    $$|\hat p - p| = z\,\sqrt{p(1 - p)/n} \text{ at both ends}$$
    The standard error is that of the end p itself, not that of the observed proportion: the ends solve a quadratic.
    Source: Wilson (1927), equation 4.
    """
    for hits, n in ((3, 20), (95, 100), (500, 1000)):
        found = wilson(hits, n)
        for end in (found.low, found.high):
            off = abs(hits / n - end) / math.sqrt(end * (1 - end) / n)
            yield close(f"standard errors between {hits}/{n} and the end {end:.3f}", 1.959963984540054, off, 1e-9)

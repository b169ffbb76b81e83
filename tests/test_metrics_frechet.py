"""Fréchet distance: closed forms, other libraries, shards, the accuracy of its error and its extrapolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from jensen.metrics import FeatureStatistics, extrapolated_frechet_distance, frechet_distance


def drawn(n, d, seed, scale=1.0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, dtype=torch.float64, generator=rng)
    return scale * torch.randn(n, d, dtype=torch.float64, generator=rng) @ mix + shift


def whitened(n, d, seed=0):
    """A sample with mean exactly 0 and covariance exactly I, to rounding."""
    x = drawn(n, d, seed)
    x = x - x.mean(0)
    lower = torch.linalg.cholesky(x.T @ x / (n - 1))
    return torch.linalg.solve_triangular(lower, x.T, upper=False).T


def by_scipy(x, y):
    p, q = (np.cov(v.numpy(), rowvar=False) for v in (x, y))
    gap = (x.mean(0) - y.mean(0)).numpy()
    return gap @ gap + np.trace(p + q - 2 * sqrtm(p @ q).real)


def test_between_gaussians_of_any_mean_and_covariance():
    """The closed form in two dimensions, tr (P Q)^(1/2) = (tr PQ + 2 (det PQ)^(1/2))^(1/2)."""
    p, q = torch.tensor([[2.0, 0.3], [0.3, 1.0]]).double(), torch.tensor([[1.0, -0.4], [-0.4, 3.0]]).double()
    x = whitened(50, 2) @ torch.linalg.cholesky(p).T + torch.tensor([1.0, -2.0])
    y = whitened(40, 2, seed=1) @ torch.linalg.cholesky(q).T
    root = torch.sqrt((p @ q).trace() + 2 * (p @ q).det().sqrt())
    exact = 5.0 + p.trace() + q.trace() - 2 * root
    assert frechet_distance(x, y).value == pytest.approx(float(exact), abs=1e-10)
    diagonal = frechet_distance(whitened(30, 3), 3 * whitened(30, 3, seed=1) + 0.5).value
    assert diagonal == pytest.approx(3 * (0.25 + 4.0), abs=1e-10)


class Identity(nn.Module):
    num_features = 24

    def forward(self, x):
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchmetrics_and_scipys(dtype):
    x, y = drawn(300, 24, 0).to(dtype), drawn(200, 24, 1, scale=1.5, shift=0.2).to(dtype)
    found = frechet_distance(x, y).value
    theirs = FrechetInceptionDistance(Identity(), normalize=True).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert found == pytest.approx(float(theirs.compute()), rel=1e-5 if dtype == torch.float32 else 1e-9)
    assert found == pytest.approx(by_scipy(x.double(), y.double()), rel=1e-9)
    assert frechet_distance(y, x).value == pytest.approx(found, rel=1e-12)


def test_shards_merge_to_one_pass():
    x, y = drawn(101, 7, 0, shift=100.0), drawn(64, 7, 1, shift=100.0)
    parts = [FeatureStatistics.of(part) for part in (x[:1], x[1:40], x[40:])]
    whole = FeatureStatistics.of(x)
    for merged in (parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])):
        assert merged.count == 101
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=1e-10)
        assert frechet_distance(merged, y).value == pytest.approx(frechet_distance(x, y).value, rel=1e-11)
    torch.testing.assert_close(whole.covariance, x.T.cov(), rtol=1e-10, atol=1e-10)


def test_its_error_is_that_of_repetition():
    """n = 400 and 300, 150 repetitions, features far from Gaussian: z-scores have variance 1 within 4 standard
    errors, which use the Gaussian fourth moment.
    """
    rng = torch.Generator().manual_seed(3)
    values, errors = [], []
    for _ in range(150):
        x = torch.rand(400, 3, dtype=torch.float64, generator=rng).log()
        y = 0.5 + 2 * torch.rand(300, 3, dtype=torch.float64, generator=rng) ** 2
        found = frechet_distance(x, y)
        values.append(found.value)
        errors.append(found.stderr)
    spread = torch.tensor(values).var() / torch.tensor(errors).square().mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 149))


@pytest.mark.parametrize(("n", "m"), [(120, 80), (80, 120)])
def test_its_error_is_the_jackknifes(n, m):
    """The jackknife and the stated variance differ by terms of order 1/n, with the samples in both orders."""
    x, y = drawn(n, 3, 0, shift=0.3), drawn(m, 3, 1).square()
    jackknife = 0.0
    for left_out in range(2):
        sides = [x, y]
        rows = len(sides[left_out])
        values = []
        for i in range(rows):
            fewer = [v if k != left_out else torch.cat([v[:i], v[i + 1 :]]) for k, v in enumerate(sides)]
            values.append(frechet_distance(*fewer).value)
        jackknife += float(torch.tensor(values, dtype=torch.float64).var(correction=0)) * (rows - 1)
    for found in (frechet_distance(x, y), frechet_distance(y, x)):
        assert found.stderr**2 == pytest.approx(jackknife, rel=0.05)


def test_from_statistics_alone_its_error_is_a_gaussians():
    """n = 20,000 Gaussian rows: both errors estimate the same number, within a few percent."""
    x, y = drawn(20_000, 4, 0), drawn(20_000, 4, 1, shift=1.0)
    of_rows, of_statistics = frechet_distance(x, y), frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert of_statistics.value == of_rows.value == float(of_rows)
    assert of_statistics.stderr == pytest.approx(of_rows.stderr, rel=0.05)


def test_extrapolation_takes_the_bias_away():
    """n = 120, d = 6, 100 repetitions: for equal and for different distributions the mean is the closed form within
    4 standard errors; the plain distance is off by more than 10.
    """
    for scale, exact in ((1.0, 0.0), (1.5, 6 * 0.25)):
        rng = torch.Generator().manual_seed(5)
        plain, extrapolated = [], []
        for _ in range(100):
            x, y = torch.randn(2, 120, 6, dtype=torch.float64, generator=rng)
            plain.append(frechet_distance(x, scale * y).value)
            extrapolated.append(extrapolated_frechet_distance(x, scale * y, generator=rng).value)
        for values, right in ((plain, False), (extrapolated, True)):
            z = torch.tensor(values)
            away = abs(float(z.mean()) - exact) / (float(z.std()) / math.sqrt(100))
            assert away < 4 if right else away > 10, (scale, away)
        assert min(extrapolated) < 0 or scale != 1.0


@pytest.mark.parametrize(
    "kind", ["fewer rows than features", "duplicates", "constant", "one constant feature", "equal"]
)
def test_singular_covariances(kind):
    """Real, at least 0, finite, and equal to a formula that needs no inverse: the singular values of X Y^T."""
    x, y = drawn(12, 30, 0), drawn(9, 30, 1)
    if kind == "duplicates":
        x, y = x[:1].repeat(20, 1), torch.cat([y, y, y])
    elif kind == "constant":
        x, y = torch.ones(5, 30).double(), torch.full((4, 30), 3.0).double()
    elif kind == "one constant feature":
        x, y = drawn(100, 5, 0), drawn(90, 5, 1)
        x[:, 2], y[:, 2] = 1.0, 4.0
    elif kind == "equal":
        y = x.clone()
    a, b = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    gap = x.mean(0) - y.mean(0)
    exact = gap @ gap + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    for found in (frechet_distance(x, y), frechet_distance(y, x)):
        assert found.value == pytest.approx(max(float(exact), 0), rel=1e-6, abs=2e-6)
        assert found.value >= 0
        assert 0 <= found.stderr < math.inf


def test_refusals():
    good = torch.randn(10, 3)
    for bad, words in (
        (torch.randn(10, 4), "the same width, got 3 and 4"),
        (torch.randn(1, 3), "at least 2 rows, got 10 and 1"),
        (torch.zeros(10, 3, dtype=torch.long), "floating-point, got int64"),
        (torch.randn(10, 1, 3), r"\(N, d\), one row per sample, got shape \(10, 1, 3\)"),
        (torch.full((10, 3), math.nan), "must be finite, and some are not"),
    ):
        with pytest.raises(ValueError, match=words):
            frechet_distance(good, bad)
    with pytest.raises(ValueError, match="shares must be at least 2, got 1"):
        extrapolated_frechet_distance(good, good, shares=1)
    with pytest.raises(ValueError, match="2 rows per share, 12, got 10 and 10"):
        extrapolated_frechet_distance(good, good, shares=6)
    with pytest.raises(ValueError, match="the same width, got 3 and 4"):
        FeatureStatistics.of(good) + FeatureStatistics.of(torch.randn(10, 4))

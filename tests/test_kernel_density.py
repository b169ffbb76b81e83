"""Kernel densities: score, bandwidth and limits, against closed forms and other libraries."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity as TheirKernelDensity

from jensen.core.protocols import Sampleable
from jensen.core.seeding import generators
from jensen.score import (
    KernelDensity,
    dimension_curse,
    leave_one_out,
    leave_one_out_log_prob,
    relative_score_error,
    scott,
    silverman,
)
from jensen.score import kernel as kernel_module

F64 = torch.float64


def nodes(d, step=0.15, reach=7.5):
    """Points and weights of the trapezoidal rule, exact to rounding for functions that decay like a Gaussian."""
    axis = torch.arange(-reach, reach, step, dtype=F64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), step**d


def points(n=60, d=2, seed=3):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_the_density_is_that_of_other_libraries():
    data, x = points(), points(40, seed=4)
    theirs = TheirKernelDensity(bandwidth=0.4).fit(data.numpy()).score_samples(x.numpy())
    torch.testing.assert_close(KernelDensity(data, 0.4).log_prob(x), torch.from_numpy(theirs))
    flat = data[:, 0]
    scipys = gaussian_kde(flat.numpy())  # its bandwidth is Scott's factor times the deviation
    ours = KernelDensity(data[:, :1], scott(data[:, :1]))
    torch.testing.assert_close(ours.log_prob(x[:, :1]), torch.from_numpy(scipys.logpdf(x[:, 0].numpy())))


def test_the_number_of_data_cancels_in_the_score_and_normalises_the_density():
    data, (x, volume) = points(7), nodes(2, reach=7.05)
    density, twice = KernelDensity(data, 0.5), KernelDensity(torch.cat([data, data]), 0.5)
    assert float(density.log_prob(x).exp().sum()) * volume == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(twice.log_prob(x), density.log_prob(x))
    torch.testing.assert_close(twice.score(x), density.score(x))


def test_chunks_pictures_and_precision(monkeypatch):
    """Chunks do not change the result; float32 pictures far from the origin are exact to float32 rounding."""
    data, x = points(50, 12).view(50, 3, 2, 2), points(100, 12, seed=5).view(100, 3, 2, 2)
    whole = KernelDensity(data, 0.9)
    expected = whole.score(x), whole.log_prob(x), leave_one_out_log_prob(data, 0.9)
    monkeypatch.setattr(kernel_module, "PAIRS", 200)
    for a, b in zip((whole.score(x), whole.log_prob(x), leave_one_out_log_prob(data, 0.9)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    far, near = (data + 1000).float(), (x + 1000).float()
    moved = KernelDensity(far, 0.9)
    assert moved.score(near).dtype == moved.log_prob(near).dtype == torch.float32
    same = KernelDensity(far.double() - 1000, 0.9)
    torch.testing.assert_close(moved.score(near), same.score(near.double() - 1000).float())


def test_bandwidths_of_silverman_and_scott():
    """SciPy's factors; and for Gaussian data Silverman's bandwidth is the exact minimiser of the mean integrated
    squared error, in closed form (Wand & Jones 1995, equation 2.20), at n = 10^6 to 1% in 1 and 2 dimensions and to
    5% in 5.
    """
    data = 1.7 * points(80, 3)
    theirs, spread = gaussian_kde(data.T.numpy()), float(data.var(0).mean().sqrt())
    assert silverman(data) == pytest.approx(theirs.silverman_factor() * spread)
    assert scott(data) == pytest.approx(theirs.scotts_factor() * spread)
    n = 10**6
    for d in (1, 2, 5):

        def error(log_h, d=d):
            h = math.exp(log_h) ** 2
            return 1 / (n * h ** (d / 2)) + (1 - 1 / n) * (1 + h) ** (-d / 2) - 2 * (1 + h / 2) ** (-d / 2)

        best = math.exp(minimize_scalar(error, bounds=(-5, 1), options={"xatol": 1e-8}).x)
        unit = silverman_of_unit_variance(n, d)
        assert unit == pytest.approx(best, rel=0.01 if d < 5 else 0.05)


def silverman_of_unit_variance(n, d):
    """Silverman's bandwidth of n data with unit variance, computed from four data by its known dependence on n."""
    four = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64).expand(4, d) * math.sqrt(3 / 4)
    return silverman(four) * (4 / n) ** (1 / (d + 4))


def test_leaving_one_out_is_leaving_one_out():
    data = points(25)
    left = [KernelDensity(torch.cat([data[:i], data[i + 1 :]]), 0.3).log_prob(data[i : i + 1])[0] for i in range(25)]
    torch.testing.assert_close(leave_one_out_log_prob(data, 0.3), torch.stack(left))


def clusters():
    """Six clusters of eight data, whose likelihood has two maxima: at the cluster width and at the distance between
    clusters.
    """
    centres = 10 * torch.arange(6, dtype=F64)[:, None]
    return (centres + 0.01 * points(48, 1).view(6, 8)).reshape(-1, 1)


@pytest.mark.parametrize("data", [points(), points(40, 5), 1e3 * points(30, 1), clusters()])
def test_the_likeliest_bandwidth(data):
    """Within 1e-4 of the best of a fine grid refined by SciPy, also with several maxima."""

    def loss(log_h):
        return -float(leave_one_out_log_prob(data, math.exp(log_h)).mean())

    scale = math.log(float(data.std()))
    grid = torch.linspace(scale - 9, scale + 3, 300).tolist()
    best = min(range(300), key=lambda k: loss(grid[k]))
    theirs = minimize_scalar(loss, bounds=(grid[best - 1], grid[best + 1]), options={"xatol": 1e-9})
    assert leave_one_out(data) == pytest.approx(math.exp(theirs.x), rel=1e-4)


def test_draws_of_a_kernel_density():
    """Mean and covariance are those of the data plus h^2 I: n = 40,000, 5 standard errors; each row depends on its
    own generator only.
    """
    data, n = points(5), 40_000
    density = KernelDensity(data, 0.6)
    x = density.sample(n, generator=torch.Generator().manual_seed(0))
    covariance = data.T.cov(correction=0) + 0.36 * torch.eye(2)
    scale = covariance.diagonal()
    torch.testing.assert_close(x.mean(0), data.mean(0), rtol=0, atol=5 * float(scale.max() / n) ** 0.5)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=5 * float(scale.max()) * (2 / n) ** 0.5)
    together = density.sample(6, generator=generators(0, range(6)))
    assert torch.equal(together[2:4], density.sample(2, generator=generators(0, range(6))[2:4]))
    assert isinstance(density, Sampleable)


def test_the_failure_in_high_dimension():
    """500 data from N(0, I): the error at the best bandwidth grows with the dimension, that of the likelihood's
    bandwidth is no smaller, and the log density falls further below the exact one; a Gaussian fitted to the same
    data is much better throughout.
    """
    rng = torch.Generator().manual_seed(0)
    errors = dimension_curse([1, 2, 4, 8, 16, 32, 64], 500, queries=500, generator=rng)
    for a, b in pairwise(errors):
        assert a.error < b.error
        assert a.shortfall < b.shortfall
    assert errors[0].error < 0.06
    assert errors[-1].error > 0.35
    assert errors[-1].shortfall > 10
    assert 0 < errors[0].shortfall < 0.05
    for e in errors:
        assert e.error <= e.likely + 1e-3
        data, x = (torch.randn(500, e.dimension, dtype=F64, generator=rng) for _ in range(2))
        precision = torch.linalg.inv(data.T.cov().reshape(e.dimension, e.dimension))
        fitted = relative_score_error(lambda z, m=data.mean(0), p=precision: (m - z) @ p, x, torch.neg)
        assert fitted < 0.7 * e.error


def test_the_limit_of_that_failure_is_one_half():
    """50 data in 10,000 dimensions: one datum has all the weight, so the best bandwidth is h^2 = 2 and half of the
    score is lost; within 3%.
    """
    (e,) = dimension_curse([10_000], 50, queries=50, generator=torch.Generator().manual_seed(0))
    assert e.error == pytest.approx(0.5, rel=0.03)
    assert e.bandwidth == pytest.approx(math.sqrt(2), rel=0.03)


def test_refusals_of_kernel_densities():
    data = points(4)
    for bandwidth in (0.0, -1.0, 1e-200, 1e200, math.nan, math.inf):
        with pytest.raises(ValueError, match="bandwidth and its square must be positive"):
            KernelDensity(data, bandwidth)
        with pytest.raises(ValueError, match="bandwidth and its square must be positive"):
            leave_one_out_log_prob(data, bandwidth)
    for bad in (data[:0], data[0], torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="data must be"):
            KernelDensity(bad, 1.0)
    for choose in (silverman, scott, leave_one_out):
        with pytest.raises(ValueError, match="M at least 2"):
            choose(data[:1])
    for choose in (silverman, scott):
        with pytest.raises(ValueError, match="all equal"):
            choose(torch.ones(5, 2))
    with pytest.raises(ValueError, match="every data point occurs twice"):
        leave_one_out(torch.cat([data, data]) + 100)
    assert leave_one_out(torch.cat([data, data[:3]])) > 0
    with pytest.raises(ValueError, match="tolerance must be positive"):
        leave_one_out(data, tolerance=0.0)
    with pytest.raises(ValueError, match="x must have at least one row, got none"):
        relative_score_error(torch.neg, torch.zeros(0, 2), torch.neg)
    with pytest.raises(ValueError, match="as the data"):
        KernelDensity(data, 1.0).score(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="n must be at least 1"):
        KernelDensity(data, 1.0).sample(0)
    for arguments, message in ((([0], 9), "dimensions"), (([1], 1), "data"), (([], 9), "dimensions")):
        with pytest.raises(ValueError, match=message):
            dimension_curse(*arguments)
    with pytest.raises(ValueError, match="queries"):
        dimension_curse([1], 9, queries=0)


FAR = torch.tensor([0.0, 1.0, 1e8, 1e8 + 1], dtype=F64)[:, None]


@pytest.mark.parametrize("dims", [1, 20])
@pytest.mark.parametrize("cluster", [0.0, 1e8])
def test_clusters_far_apart_are_each_a_density_of_its_own(dims, cluster):
    """Two data at 0 and 1 along the first of `dims` axes, and two at 1e8: near either pair, log p is that of the
    pair minus log 2; in one dimension at 0.25 with h = 0.5 it is -1.4238. The score equals that of the pair up to
    the rounding of 1e8.
    """
    data = torch.cat([FAR, FAR.new_zeros(4, dims - 1)], 1)
    x, h = data.new_zeros(1, dims), 0.5
    x[0, 0] = cluster + 0.25
    weights = torch.exp(-(torch.tensor([0.25, 0.75], dtype=F64) ** 2) / (2 * h**2))
    exact = float(weights.sum().log()) - math.log(4) - dims / 2 * math.log(2 * math.pi * h**2)
    density = KernelDensity(data, h)
    assert density.log_prob(x).item() == pytest.approx(exact, abs=1e-9)
    assert dims > 1 or exact == pytest.approx(-1.4238, abs=5e-5)
    slope = float(weights @ torch.tensor([-0.25, 0.75], dtype=F64) / weights.sum()) / h**2
    assert density.score(x)[0, 0].item() == pytest.approx(slope, abs=1e-6)
    others = leave_one_out_log_prob(data, h)
    alone = -1 / (2 * h**2) - math.log(3) - dims / 2 * math.log(2 * math.pi * h**2)
    torch.testing.assert_close(others, torch.full((4,), alone, dtype=F64), rtol=0, atol=1e-9)


def test_whole_numbers_have_densities_that_are_none():
    data, x = torch.tensor([[0], [2]]), torch.tensor([[1]])
    exact = -1 / 2 - math.log(2 * math.pi) / 2
    density = KernelDensity(data, 1.0)
    assert density.log_prob(x).item() == pytest.approx(exact, abs=1e-12)
    assert density.score(torch.tensor([[0]])).item() == pytest.approx(2 / (1 + math.e**2), abs=1e-12)
    assert leave_one_out_log_prob(data, 1.0).tolist() == pytest.approx([-2 - math.log(2 * math.pi) / 2] * 2)
    assert density.sample(5).is_floating_point()
    for refused in (lambda: KernelDensity(torch.tensor([[math.nan]]), 1.0), lambda: silverman(torch.ones(3, 1) / 0)):
        with pytest.raises(ValueError, match="data must be finite"):
            refused()


@pytest.mark.parametrize("dims", [1, 20])
def test_the_score_can_be_differentiated_twice(dims):
    """Data at -a and a along the first axis: s(x) = (a tanh(a x / h^2) - x) / h^2, so s'(0) = a^2 / h^4 - 1 / h^2, and
    s'' = -2 (a / h^2)^3 tanh sech^2; along the other axes s' = -1 / h^2."""
    a, h = 1.5, 0.9
    data = torch.zeros(2, dims, dtype=F64)
    data[:, 0] = torch.tensor([-a, a])
    x = torch.zeros(1, dims, dtype=F64)
    x[0, 0] = 0.3
    x.requires_grad_()
    (first,) = torch.autograd.grad(KernelDensity(data, h).log_prob(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], x, create_graph=True)
    (third,) = torch.autograd.grad(second[0, 0], x)
    t = math.tanh(a * 0.3 / h**2)
    assert first[0, 0].item() == pytest.approx((a * t - 0.3) / h**2, abs=1e-12)
    assert second[0, 0].item() == pytest.approx((a / h**2) ** 2 * (1 - t**2) - 1 / h**2, abs=1e-12)
    assert third[0, 0].item() == pytest.approx(-2 * (a / h**2) ** 3 * t * (1 - t**2), abs=1e-12)

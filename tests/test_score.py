"""Score matching and kernel densities against exact answers: gradients by quadrature, closed forms, other libraries."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity as TheirKernelDensity
from torch import nn

from jensen.core.protocols import Sampleable
from jensen.core.seeding import generators
from jensen.data.pool import pool_stream
from jensen.diffusion import EmpiricalOracle, MixtureOracle, VarianceExploding
from jensen.models import Annealing, NoiseConditional, ScoreModel
from jensen.objectives import MATCHING, ScoreMatching
from jensen.score import (
    KernelDensity,
    denoising,
    dimension_curse,
    explicit,
    geometric,
    implicit,
    leave_one_out,
    leave_one_out_log_prob,
    noise_conditional,
    relative_score_error,
    score_of,
    scott,
    silverman,
    sliced,
    sliced_vr,
    slices,
)
from jensen.score import kernel as kernel_module
from jensen.training import Budget, fit, warm_then_decay
from test_training import new_state

F64 = torch.float64


class Mixture:
    """Two Gaussians with diagonal covariances, noised by sigma."""

    def __init__(self, means, deviations, sigma=0.0):
        self.weights = torch.tensor([0.3, 0.7], dtype=F64)
        self.means = torch.tensor(means, dtype=F64)
        self.variances = torch.tensor(deviations, dtype=F64) ** 2 + sigma**2

    def parts(self, x):
        square = (x[:, None] - self.means) ** 2 / self.variances + torch.log(2 * math.pi * self.variances)
        return self.weights.log() - square.sum(-1) / 2

    def log_prob(self, x):
        return self.parts(x).logsumexp(1)

    def score(self, x):
        share = torch.softmax(self.parts(x), 1)[..., None]
        return (share * (self.means - x[:, None]) / self.variances).sum(1)


def plane(**settings):
    return Mixture([[-1.2, 0.4], [0.8, -0.6]], [[0.7, 0.5], [0.6, 0.9]], **settings)


def line(**settings):
    return Mixture([[-1.2], [0.8]], [[0.5], [0.7]], **settings)


def nodes(d, step=0.15, reach=7.5):
    """Points of the trapezoidal rule and the volume of each: exact to rounding for what falls off like a Gaussian."""
    axis = torch.arange(-reach, reach, step, dtype=F64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), step**d


def small_net(d):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, d)).double()


def mean_and_gradient(net, values, weights):
    mean = (weights * values).sum()
    return float(mean.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(net.parameters()))])


SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 2)
EVERY_SLICE = {
    "implicit": implicit,
    "sliced": lambda s, x: sliced(s, x, SIGNS[:, None].expand(-1, len(x), -1)),
    "sliced_vr": lambda s, x: sliced_vr(s, x, SIGNS[:, None].expand(-1, len(x), -1)),
}


@pytest.mark.parametrize("loss", EVERY_SLICE.values(), ids=EVERY_SLICE)
def test_implicit_and_sliced_are_explicit_less_a_constant(loss):
    """On a mixture in the plane, expectations by quadrature (over slices by all four): value and gradient to 1e-10."""
    p, (x, volume), net = plane(), nodes(2), small_net(2)
    weights = p.log_prob(x).exp() * volume
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    exact, gradient = mean_and_gradient(net, explicit(net, x, p.score), weights)
    found, its_gradient = mean_and_gradient(net, loss(net, x), weights)
    constant = float((weights * p.score(x).square().sum(1)).sum()) / 2
    assert found == pytest.approx(exact - constant, abs=1e-10)
    torch.testing.assert_close(its_gradient, gradient, rtol=1e-8, atol=1e-10)
    assert float(gradient.abs().max()) > 0.1


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_denoising_is_explicit_at_the_noised_density_plus_a_constant(sigma):
    """On a mixture on the line, over x and eps by quadrature: value and gradient to 1e-10; at p itself it is not."""
    p, q, net = line(), line(sigma=sigma), small_net(1)
    (x, dx), (eps, de) = nodes(1), nodes(1)
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(eps)))
    x, eps = x[pairs[:, 0]], eps[pairs[:, 1]]
    weights = (p.log_prob(x) - eps[:, 0] ** 2 / 2).exp() / math.sqrt(2 * math.pi) * dx * de
    found, gradient = mean_and_gradient(net, denoising(net, x, eps, sigma), weights)

    y, dy = nodes(1, reach=10.05)
    noised = q.log_prob(y).exp() * dy
    exact, its_gradient = mean_and_gradient(net, explicit(net, y, q.score), noised)
    constant = 1 / (2 * sigma**2) - float((noised * q.score(y)[:, 0] ** 2).sum()) / 2
    assert found == pytest.approx(exact + constant, abs=1e-10)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-8, atol=1e-10)
    _, clean = mean_and_gradient(net, explicit(net, y, p.score), p.log_prob(y).exp() * dy)
    assert float((gradient - clean).abs().max()) > 1e-3


def test_the_optimum_of_denoising_is_the_noised_score():
    """N(0, 1) with sigma = 1 and s = a x: the derivative in a vanishes at -1/2 and not at p's own -1, exactly."""
    (x, dx), (eps, de) = nodes(1, step=0.25), nodes(1, step=0.25)
    x, eps = (v.reshape(-1, 1) for v in torch.meshgrid(x[:, 0], eps[:, 0], indexing="ij"))
    weights = torch.exp(-(x**2 + eps**2)[:, 0] / 2) / (2 * math.pi) * dx * de
    for a, slope in ((-0.5, 0.0), (-1.0, -1.0)):  # the derivative is 2 a + 1
        factor = torch.tensor(a, dtype=F64, requires_grad=True)
        (weights * denoising(lambda z, factor=factor: factor * z, x, eps, 1.0)).sum().backward()
        assert factor.grad.item() == pytest.approx(slope, abs=1e-9)


def test_noise_conditional_is_denoising_weighted():
    x, eps = torch.randn(9, 2, 3, dtype=F64), torch.randn(9, 2, 3, dtype=F64)
    sigma = torch.rand(9, dtype=F64) + 0.2

    def score(z, sigma):
        return -z.tanh() / sigma.reshape(-1, 1, 1)

    weighted = sigma**2 * denoising(lambda z: score(z, sigma), x, eps, sigma)
    torch.testing.assert_close(noise_conditional(score, x, eps, sigma), weighted)
    single = torch.stack([denoising(torch.sin, x[i : i + 1], eps[i : i + 1], sigma[i].item())[0] for i in range(9)])
    torch.testing.assert_close(denoising(torch.sin, x, eps, sigma), single)


def test_the_trace_is_that_of_the_jacobian():
    """Of pictures, in any number of passes, with and without a graph, and for scores that differentiate themselves."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Unflatten(1, (2, 2, 2))).double()
    x = torch.randn(5, 2, 2, 2, dtype=F64)
    exact = []
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda r: net(r.reshape(1, 2, 2, 2)).flatten(), row.flatten())
        exact.append(jacobian.trace() + net(row[None]).square().sum() / 2)
    exact = torch.stack(exact)
    for chunk in (1, 3, 64):
        torch.testing.assert_close(implicit(net, x, chunk=chunk), exact)
    with torch.no_grad():
        bare = implicit(net, x)
    assert not bare.requires_grad
    torch.testing.assert_close(bare, exact)

    def energy_score(x):  # the gradient of an energy, itself by autograd
        (s,) = torch.autograd.grad(-(x**4).sum() / 4, x, create_graph=True)
        return s

    y = torch.tensor([[1.0, 2.0]], dtype=F64)
    torch.testing.assert_close(implicit(energy_score, y), torch.tensor([-3 * 5 + (1 + 64) / 2], dtype=F64))
    torch.testing.assert_close(implicit(torch.ones_like, y), torch.tensor([1.0], dtype=F64))
    constant = nn.Parameter(torch.ones(2, dtype=F64))
    torch.testing.assert_close(implicit(constant.expand_as, y), torch.tensor([1.0], dtype=F64))


def test_the_reduced_variance_is_exact():
    """s = -x, one sign slice: SSM-VR does not vary at all, SSM's variance over the slice is (x_1 x_2)^2."""
    x = torch.tensor([[0.7, -1.9]], dtype=F64).expand(4, 2)
    with torch.no_grad():
        reduced, plain = (loss(torch.neg, x, SIGNS).var(correction=0).item() for loss in (sliced_vr, sliced))
    assert reduced == pytest.approx(0, abs=1e-15)
    assert plain == pytest.approx((0.7 * 1.9) ** 2)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_slices_are_white(law):
    """E v = 0 and E v v^T = I for 40,000 slices of two rows, within 5 standard errors; a row is its generator's."""
    v = slices(torch.zeros(2, 3, dtype=F64), 40_000, law=law, generator=torch.Generator().manual_seed(0))
    assert float(v.mean(0).abs().max()) < 5 * 0.005
    for row in (0, 1):
        torch.testing.assert_close(v[:, row].T @ v[:, row] / 40_000, torch.eye(3, dtype=F64), rtol=0, atol=5 * 0.0071)
    x = torch.zeros(3, 2)
    together = slices(x, 4, law=law, generator=generators(0, range(3)))
    assert torch.equal(together[:, 1:2], slices(x[1:2], 4, law=law, generator=generators(0, range(3))[1:2]))


def test_refusals_of_the_losses():
    x = torch.zeros(5, 2)
    for loss in (
        lambda s: explicit(s, x, torch.neg),
        lambda s: explicit(torch.neg, x, s),
        lambda s: implicit(s, x),
        lambda s: sliced(s, x, x),
        lambda s: sliced_vr(s, x, x),
        lambda s: denoising(s, x, x, 1.0),
        lambda s: noise_conditional(lambda z, sigma: s(z), x, x, torch.ones(5)),
    ):
        with pytest.raises(ValueError, match=r"shape of x, \(5, 2\), got \(5, 1\)"):
            loss(lambda z: z[:, :1])
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        implicit(torch.neg, x, chunk=0)
    for loss in (sliced, sliced_vr):
        with pytest.raises(ValueError, match="slices must have the shape of x"):
            loss(torch.neg, x, torch.ones(5, 3))
    with pytest.raises(ValueError, match="noise must have the shape of x"):
        denoising(torch.neg, x, torch.ones(4, 2), 1.0)
    for sigma in (0.0, -1.0, math.nan, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])):
        with pytest.raises(ValueError, match="sigma must be positive"):
            denoising(torch.neg, x, x, sigma)
    with pytest.raises(ValueError, match="one a row, 5, got"):
        noise_conditional(lambda z, sigma: z, x, x, torch.ones(3))
    with pytest.raises(ValueError, match="count must be at least 1"):
        slices(x, 0)
    with pytest.raises(ValueError, match="rademacher or gaussian, got 'sphere'"):
        slices(x, law="sphere")


# kernel densities ------------------------------------------------------------------------


def points(n=60, d=2, seed=3):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bandwidth", [0.05, 0.4, 3.0])
def test_the_score_is_the_gradient_and_the_empirical_oracle(bandwidth):
    density, x = KernelDensity(points(), bandwidth), points(40, seed=4)
    torch.testing.assert_close(density.score(x), score_of(density.log_prob)(x), rtol=1e-9, atol=1e-9)
    schedule = VarianceExploding()
    t = schedule.time(torch.tensor(-2 * math.log(bandwidth), dtype=F64)).expand(40)
    oracle = EmpiricalOracle(points(), schedule)(x, t)
    torch.testing.assert_close(density.score(x), oracle.score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x + bandwidth**2 * density.score(x), oracle.x, rtol=1e-9, atol=1e-9)


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
    """Chunks change nothing; float32 pictures far from the origin come out to float32's last digits."""
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
    """Scipy's factors; and for Gaussian data Silverman's is the exact minimiser of the mean integrated squared error,
    in closed form (Wand & Jones 1995, equation 2.20), at n = 10^6 to 1% in 1 and 2 dimensions and to 5% in 5."""
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
    """Silverman's bandwidth of n unit-variance data, from one of four data by its known dependence on their number."""
    four = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64).expand(4, d) * math.sqrt(3 / 4)
    return silverman(four) * (4 / n) ** (1 / (d + 4))


def test_leaving_one_out_is_leaving_one_out():
    data = points(25)
    left = [KernelDensity(torch.cat([data[:i], data[i + 1 :]]), 0.3).log_prob(data[i : i + 1])[0] for i in range(25)]
    torch.testing.assert_close(leave_one_out_log_prob(data, 0.3), torch.stack(left))


def clusters():
    """Six clusters of eight whose likelihood has two maxima: of the size of a cluster and of the distance of two."""
    centres = 10 * torch.arange(6, dtype=F64)[:, None]
    return (centres + 0.01 * points(48, 1).view(6, 8)).reshape(-1, 1)


@pytest.mark.parametrize("data", [points(), points(40, 5), 1e3 * points(30, 1), clusters()])
def test_the_likeliest_bandwidth(data):
    """Within 1e-4 of the best of a fine grid refined by scipy, also where there are several maxima."""

    def loss(log_h):
        return -float(leave_one_out_log_prob(data, math.exp(log_h)).mean())

    scale = math.log(float(data.std()))
    grid = torch.linspace(scale - 9, scale + 3, 300).tolist()
    best = min(range(300), key=lambda k: loss(grid[k]))
    theirs = minimize_scalar(loss, bounds=(grid[best - 1], grid[best + 1]), options={"xatol": 1e-9})
    assert leave_one_out(data) == pytest.approx(math.exp(theirs.x), rel=1e-4)


def test_draws_of_a_kernel_density():
    """Mean and covariance are the data's with h^2 more: n = 40,000, 5 standard errors; a row is its generator's."""
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
    """500 data from N(0, I): the best bandwidth's error rises with every dimension, the likelihood's is no better, and
    the density falls short by ever more nats; a Gaussian fitted to as many data stays far better throughout."""
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
    """50 data in 10,000 dimensions: one datum has all the weight, so the best is h^2 = 2 and half of the score is
    lost; within 3%."""
    (e,) = dimension_curse([10_000], 50, queries=50, generator=torch.Generator().manual_seed(0))
    assert e.error == pytest.approx(0.5, rel=0.03)
    assert e.bandwidth == pytest.approx(math.sqrt(2), rel=0.03)


def test_refusals_of_kernel_densities():
    data = points(4)
    for bandwidth in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="bandwidth must be positive"):
            KernelDensity(data, bandwidth)
        with pytest.raises(ValueError, match="bandwidth must be positive"):
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
    with pytest.raises(ValueError, match="every datum comes twice"):
        leave_one_out(torch.cat([data, data]) + 100)
    assert leave_one_out(torch.cat([data, data[:3]])) > 0
    with pytest.raises(ValueError, match="tolerance must be positive"):
        leave_one_out(data, tolerance=0.0)
    with pytest.raises(ValueError, match="as the data are"):
        KernelDensity(data, 1.0).score(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="n must be at least 1"):
        KernelDensity(data, 1.0).sample(0)
    for arguments, message in ((([0], 9), "dimensions"), (([1], 1), "data"), (([], 9), "dimensions")):
        with pytest.raises(ValueError, match=message):
            dimension_curse(*arguments)
    with pytest.raises(ValueError, match="queries"):
        dimension_curse([1], 9, queries=0)


# the model and how it is trained ---------------------------------------------------------


class Exact(nn.Module):
    """The noised score of N(0, 1)."""

    def forward(self, x, sigma, cond=None):
        shift = 0.0 if cond is None else cond
        return (shift - x) / (1 + sigma[:, None] ** 2)


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_follow_the_recursion_of_a_gaussian(denoise):
    """Data N(3, 0.5^2), seen standardised: every move is affine, so the variance of the end is known exactly.
    n = 40,000, 4 standard errors."""
    sigmas, steps, step, n = geometric(1.0, 0.5, 2), 2, 0.1, 40_000
    model = ScoreModel(Exact(), (1,), sigmas, Annealing(step, steps, denoise=denoise, chunk=8192))
    model.centre.fill_(3.0)
    model.scale.fill_(0.5)
    variance = 1 + sigmas[0].item() ** 2
    for sigma in sigmas.tolist():
        delta, law = step * sigma**2, 1 + sigma**2
        for _ in range(steps):
            variance = (1 - delta / law) ** 2 * variance + 2 * delta
    if denoise:
        variance *= (1 - 0.5**2 / (1 + 0.5**2)) ** 2
    x = model.sample(n, generator=torch.Generator().manual_seed(0))
    assert isinstance(model, Sampleable)
    assert x.mean().item() == pytest.approx(3, abs=4 * 0.5 * (variance / n) ** 0.5)
    assert x.var().item() == pytest.approx(0.25 * variance, abs=4 * 0.25 * variance * (2 / n) ** 0.5)
    # and the score it gives is of the data as they are, noised by half the level
    torch.testing.assert_close(model.score(x[:5], 1), (3 - x[:5]) / (0.25 * (1 + sigmas[1].item() ** 2)))


def test_a_row_is_bit_for_bit_a_function_of_its_generator_and_condition():
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    model = ScoreModel(
        NoiseConditional(lambda z, c, cond: net(z) + c[:, None] + cond, 5.0, 0.1), (2,), geometric(5.0, 0.1, 3)
    )
    model.sampling = Annealing(steps=2, chunk=4)
    cond, seen = torch.randn(7, 2), []
    whole = model.sample(7, cond=cond, generator=generators(0, range(7)), on_step=lambda k, x: seen.append((k, len(x))))
    assert seen == [(k, n) for n in (4, 3) for k in range(1, 7)]
    for rows in (slice(2, 3), slice(3, 7), slice(6, 7)):
        part = model.sample(len(cond[rows]), cond=cond[rows], generator=generators(0, range(7))[rows])
        assert torch.equal(part, whole[rows])
    assert not torch.equal(model.sample(7, cond=cond + 1, generator=generators(0, range(7))), whole)


def test_the_network_sees_unit_variance_and_its_level_in_the_unit_interval():
    """The ideal output, E[eps | z] = sigma / sqrt(1 + sigma^2) u for the scaled input u, gives the exact score."""

    def ideal(u, c):
        sigma = (0.1 * 50**c)[:, None]
        return sigma / torch.sqrt(1 + sigma**2) * u

    sigma = geometric(5.0, 0.1, 9)
    z = torch.randn(9, 2, dtype=F64)
    torch.testing.assert_close(NoiseConditional(ideal, 5.0, 0.1)(z, sigma), -z / (1 + sigma[:, None] ** 2))


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, sigma):
        return self.linear(x)


@pytest.mark.parametrize("loss", MATCHING)
def test_training_finds_the_score_of_the_data(loss):
    """An affine score on 2,000 points: the minimiser is -(S + sigma^2)^-1 (x - m) with the data's own S and m, in
    the coordinates of the model; 600 steps of 256 come within 0.05 of entries up to 3.3. Without the noise they would
    be up to 6.5."""
    torch.manual_seed(0)
    x = torch.randn(2000, 2) @ torch.tensor([[1.5, 0.4], [0.0, 0.7]]) + torch.tensor([2.0, -1.0])
    model = ScoreModel(Affine(), (2,), [0.4])
    model.centre.fill_(x.mean())
    model.scale.fill_(x.std())
    z, budget = model.standardize(x), Budget(steps=600)
    state = new_state(ScoreMatching(model, loss=loss), optimizer=torch.optim.Adam)
    state.players["model"].rate = warm_then_decay(0.1, budget, warmup=10, decay=0.8)
    fit(state, pool_stream(256, seed=0, x=x), budget)
    precision = torch.linalg.inv(z.T.cov(correction=0) + 0.16 * torch.eye(2))
    assert float(precision.max()) < 3.5 < 6 < float(torch.linalg.inv(z.T.cov()).max())
    linear = state.objective.model.network.linear
    torch.testing.assert_close(linear.weight.detach(), -precision, rtol=0, atol=0.05)
    torch.testing.assert_close(linear.bias.detach(), precision @ z.mean(0), rtol=0, atol=0.05)


@pytest.mark.parametrize("loss", MATCHING)
def test_training_losses_are_of_the_noised_density_at_every_level(loss):
    """At the exact score of N(0, 1) the mean losses over 20,000 rows are sigma^2 times their known values: D/2 less
    sigma^2 E|s|^2 / 2 for denoising, -E|s|^2 / 2 for the others; 5 standard errors. So they part at no level."""
    n, d = 20_000, 2
    model = ScoreModel(Exact(), (d,), [2.0, 0.5])
    x, eps = torch.randn(n, d), torch.randn(n, d)
    for sigma in (2.0, 0.5):
        values = MATCHING[loss](model.network, x, eps, torch.full((n,), sigma))
        square = d / (1 + sigma**2)
        exact = (d - sigma**2 * square) / 2 if loss == "denoising" else -(sigma**2) * square / 2
        assert values.mean().item() == pytest.approx(exact, abs=5 * values.std().item() / n**0.5)


def test_the_objective_draws_every_level_and_passes_conditions():
    seen = []

    def spy(score, x, eps, sigma):
        seen.append(sigma)
        assert torch.equal(score(x, sigma), Exact()(x, sigma, cond))
        return eps.square().sum(1)

    cond, x = torch.ones(3000, 1), torch.randn(3000, 1)
    model = ScoreModel(Exact(), (1,), [3.0, 2.0, 1.0])
    loss = ScoreMatching(model, loss=spy)(("model",), {"x": x, "cond": cond}, 0)["model"]
    shares = [(seen[0] == s).float().mean().item() for s in (3.0, 2.0, 1.0)]
    assert shares == pytest.approx([1 / 3] * 3, abs=5 * (2 / 9 / 3000) ** 0.5)
    assert loss.total.item() == pytest.approx(1, abs=5 * (2 / 3000) ** 0.5)


def test_refusals_of_the_model():
    for sigmas in ([], [1.0, 1.0], [1.0, 2.0], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="positive, decreasing"):
            ScoreModel(Exact(), (1,), sigmas)
    for settings, message in (({"step_size": 0.0}, "step_size"), ({"steps": 0}, "steps"), ({"chunk": 0}, "chunk")):
        with pytest.raises(ValueError, match=f"{message} must be"):
            Annealing(**settings)
    model = ScoreModel(Exact(), (1,), [1.0])
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0)
    with pytest.raises(ValueError, match="conditions must be 2"):
        model.sample(2, cond=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="generators must be 2"):
        model.sample(2, generator=generators(0, range(3)))
    with pytest.raises(ValueError, match="steps must be"):
        model.sample(2, steps=0)
    with pytest.raises(ValueError, match="loss must be one of denoising, implicit"):
        ScoreMatching(model, loss="explicit")
    for largest, smallest in ((1.0, 2.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="0 < smallest"):
            NoiseConditional(torch.nn.Identity(), largest, smallest)


def test_the_local_mixture_is_the_library_s():
    """The exact answers of this file are those of the denoiser oracle, computed another way."""
    p, schedule = plane(sigma=0.3), VarianceExploding()
    oracle = MixtureOracle([0.3, 0.7], plane().means, plane().variances, schedule)
    x, t = points(9), schedule.time(torch.tensor(-2 * math.log(0.3), dtype=F64)).expand(9)
    torch.testing.assert_close(p.score(x), oracle(x, t).score)
    torch.testing.assert_close(p.log_prob(x), oracle.log_prob(x, t))

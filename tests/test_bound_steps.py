"""The steps of the bound: their KL in closed form, learned variances, discrete data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from jensen.core.seeding import generator, generators
from jensen.core.types import Likelihood
from jensen.diffusion import (
    BetaSchedule,
    Bins,
    CosineSchedule,
    GaussianOracle,
    MixtureOracle,
    NetworkDenoiser,
    Prediction,
    Process,
    Reconstruction,
    VariancePreserving,
    as_mass,
    bound,
    dequantize,
    discrete_times,
    prior_kl,
    step_kl,
    vlb,
)
from jensen.metrics import bits_per_dim
from jensen.models import Diffusion
from jensen.objectives import Denoising, Hybrid
from test_bound import SCHEDULES, named, times

F64 = torch.float64


# the steps -------------------------------------------------------------------------------


@named
def test_the_kl_between_reverse_steps_is_its_snr_form(name):
    """Against torch's KL between the two Gaussians, at random times, predictions and draws."""
    schedule, n = SCHEDULES[name], 64
    x, eps, off = torch.randn(3, n, 3, dtype=F64)
    s, t = torch.rand(n, dtype=F64) * 0.4 + 0.05, torch.rand(n, dtype=F64) * 0.4 + 0.5
    alpha, sigma = (v[:, None] for v in schedule.alpha_sigma(t))
    z = alpha * x + sigma * eps
    p = Prediction.of_x(x + 0.3 * off, z, alpha, sigma)
    process = Process(schedule)
    exact = kl_divergence(process.posterior(z, x, s, t), process.posterior(z, p.x, s, t)).sum(1)
    torch.testing.assert_close(step_kl(p, x, eps, schedule, s, t), exact, rtol=1e-9, atol=0)
    # a learned variance: log-linear between the posterior's and the forward step's
    fraction = torch.rand(n, 3, dtype=F64) * 1.4 - 0.2
    q = process.posterior(z, p.x, s, t)
    log_forward = process.transition(s, t)[1].log()[:, None]
    learned = Normal(q.mean, torch.exp(fraction * log_forward + (1 - fraction) * q.stddev.log()))
    exact = kl_divergence(process.posterior(z, x, s, t), learned).sum(1)
    found = step_kl(Prediction(p.x, p.eps, p.alpha, p.sigma, fraction), x, eps, schedule, s, t)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)


def test_a_step_of_ddpm_has_the_weight_of_its_paper():
    """beta_t^2 / (2 beta-tilde_t a_t (1 - abar_t)) |eps - eps_hat|^2 with a_t = 1 - beta_t, from the betas alone."""
    betas = torch.linspace(1e-3, 0.2, 20, dtype=F64)
    schedule, abar = BetaSchedule(betas), (1 - betas).cumprod(0)
    x, eps, off = torch.randn(3, 19, 4, dtype=F64)
    alpha, sigma = abar[1:, None].sqrt(), (1 - abar[1:, None]).sqrt()
    p = Prediction.of_eps(eps + 0.1 * off, alpha * x + sigma * eps, alpha, sigma)
    tilde = betas[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    weight = betas[1:] ** 2 / (2 * tilde * (1 - betas[1:]) * (1 - abar[1:]))
    place = torch.arange(1, 21, dtype=F64) / 20
    found = step_kl(p, x, eps, schedule, place[:-1], place[1:])
    torch.testing.assert_close(found, weight * ((0.1 * off) ** 2).sum(1), rtol=1e-8, atol=0)
    # its 20 levels have 19 steps between the first and the last
    oracle = GaussianOracle(torch.zeros(1), torch.full((1,), 0.2), schedule)
    whole = bound(oracle, torch.ones(2000, 1, dtype=F64), steps=19, span=(1 / 20, 1.0), generator=generator(0))
    exact = oracle.bound(torch.ones(1, 1), steps=19, span=(1 / 20, 1.0))
    error = 4.5 * whole.diffusion.std().item() / 2000**0.5
    assert whole.diffusion.mean().item() == pytest.approx(exact.diffusion.item(), abs=error)
    assert exact.prior.item() == pytest.approx(float(abar[-1] - 1 - torch.log(1 - abar[-1]) + 1 - abar[-1]) / 2)


def test_many_small_steps_become_the_rate():
    """The KL of a step of length h at time t, divided by h, is `vlb` up to order h."""
    schedule = SCHEDULES["cosine"]
    x, eps = torch.randn(2, 16, 2, dtype=F64)
    t = torch.linspace(0.2, 0.9, 16, dtype=F64)
    alpha, sigma = (v[:, None] for v in schedule.alpha_sigma(t))
    p = Prediction.of_x(0.8 * x, alpha * x + sigma * eps, alpha, sigma)
    rate = vlb(p, x, eps, schedule.log_snr_slope(t))
    gaps = [((step_kl(p, x, eps, schedule, t - h, t) / h - rate) / rate).abs().max().item() for h in (1e-3, 1e-4)]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] < 2e-3


def test_the_best_learned_variance_is_the_true_one():
    """Data N(0, v), n = 40,000 draws: the derivative of the KL with respect to the fraction is 0 within 4 standard
    errors where the variance is that of z_s given z_t; it is negative at beta-tilde and positive at beta.
    """
    schedule, n, v = CosineSchedule(), 40_000, 0.3
    oracle = GaussianOracle(torch.zeros(1), torch.tensor([v]), schedule)
    x, eps = oracle.sample(n, generator=generator(1)), torch.randn(n, 1, dtype=F64, generator=generator(2))
    s, t = times(0.4, n), times(0.8, n)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (schedule.alpha_sigma(r[0]) for r in (s, t))
    p = oracle(alpha_t * x + sigma_t * eps, t)
    a, forward = Process(schedule).transition(s[0], t[0])
    before, after = alpha_s**2 * v + sigma_s**2, alpha_t**2 * v + sigma_t**2
    true, tilde = before - (a * before) ** 2 / after, (forward * sigma_s / sigma_t) ** 2
    best = float(torch.log(true / tilde) / torch.log(forward**2 / tilde))
    slopes = []
    for value in (0.0, best, 1.0):
        fraction = torch.full((n, 1), value, dtype=F64, requires_grad=True)
        kl = step_kl(Prediction(p.x, p.eps, p.alpha, p.sigma, fraction), x, eps, schedule, s, t)
        slopes.append(torch.autograd.grad(kl.sum(), fraction)[0][:, 0])
    error = [4 * slope.std().item() / n**0.5 for slope in slopes]
    assert slopes[0].mean().item() < -error[0]
    assert abs(slopes[1].mean().item()) < error[1]
    assert slopes[2].mean().item() > error[2]


@named
def test_the_prior_term_is_torchs_kl(name):
    schedule, x = SCHEDULES[name], torch.randn(5, 2, 3, dtype=F64)
    for t in (0.5, 0.97):
        q = Process(schedule).marginal(x, times(t, 5))
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=F64))
        exact = kl_divergence(q, Normal(torch.zeros(()).double(), torch.sqrt(alpha**2 + sigma**2)))
        torch.testing.assert_close(
            prior_kl(schedule, x, torch.tensor(t)), exact.flatten(1).sum(1), rtol=1e-5, atol=1e-9
        )
    if name == "cosine":  # alpha = 0 at t = 1: z does not depend on x
        assert prior_kl(schedule, x, torch.tensor(1.0, dtype=F64)).abs().max().item() < 1e-12


# discrete data ---------------------------------------------------------------------------


def test_bins_hold_the_whole_mass_and_scipys_share_of_it():
    bins, mean = Bins(16, -2.0, 4.0), torch.tensor([[0.3]], dtype=F64)
    values = torch.linspace(-2, 4, 16, dtype=F64)[:, None]
    mass = bins.log_mass(values, mean.expand(16, 1), torch.full((16, 1), 1.1, dtype=F64))
    assert mass.logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    edges = np.concatenate([[-np.inf], np.linspace(-1.8, 3.8, 15), [np.inf]])
    exact = np.diff(stats.norm(0.3, 1.1).cdf(edges))
    np.testing.assert_allclose(mass[:, 0].exp().numpy(), exact, rtol=1e-9)


def test_the_bound_on_a_discrete_law_is_its_log_mass():
    """Three values of 256 with known probabilities, the exact denoiser, n = 1,500 rows each: the bound is log P(x)
    within 4 standard errors and the prior's 1e-3, because at the first level the bins are read without error.
    """
    value = 2 * torch.tensor([30.0, 31.0, 200.0], dtype=F64)[:, None] / 255 - 1
    share = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    oracle = MixtureOracle(share, value, torch.zeros(3, 1), VariancePreserving(15.0, -9.0))
    reconstruction = Reconstruction("denoised", Bins(256))
    for k in range(3):
        found = bound(
            oracle,
            value[k].expand(1500, 1),
            strata=24,
            samples=4,
            reconstruction=reconstruction,
            generator=generator(k),
        ).likelihood
        assert found.measure == "mass"
        error = 4 * found.value.std().item() / 1500**0.5
        assert found.value.mean().item() == pytest.approx(float(share[k].log()), abs=error + 1e-3)


def test_dequantization_bounds_the_mass():
    """A Gaussian density in a bin: log P(bin) is at least E log p(x + u) + log w, whose closed form is met for n =
    40,000 within 4 standard errors; u is uniform over the bin.
    """
    width, n = 0.5, 40_000
    x = torch.full((n, 1), 1.5, dtype=F64)
    spread = dequantize(x, width, generator(0))
    assert float((spread - x).abs().max()) <= width / 2
    assert (spread - x).mean().item() == pytest.approx(0, abs=4 * width / (12 * n) ** 0.5)
    assert stats.kstest((spread - x)[:, 0].numpy() / width + 0.5, "uniform").pvalue > 1e-3
    log_p = Normal(0.2, 0.9).log_prob(spread)[:, 0].double()
    mass = as_mass(Likelihood(log_p, "exact", "density"), math.log(width))
    assert (mass.kind, mass.measure) == ("lower bound", "mass")
    expected = stats.norm(0.2, 0.9).logpdf(1.5) - width**2 / 12 / (2 * 0.9**2) + math.log(width)
    error = 4 * mass.value.std().item() / n**0.5
    assert mass.value.mean().item() == pytest.approx(expected, abs=error)
    truth = stats.norm(0.2, 0.9)
    assert expected < math.log(truth.cdf(1.75) - truth.cdf(1.25))
    rows = dequantize(x[:4], width, generators(0, range(4)))
    assert torch.equal(rows[2:3], dequantize(x[:1], width, generators(0, range(4))[2:3]))


def test_bits_per_dim():
    """A uniform density over [-1, 1]^D costs log2 of the number of bins per dimension, on any scale."""
    nats = torch.tensor([-10 * math.log(2.0)], dtype=F64)
    assert bits_per_dim(nats, dims=10, bin_width=2 / 256).item() == pytest.approx(8)
    mass = as_mass(Likelihood(nats, "exact", "density"), 10 * math.log(2 / 256)).value
    assert bits_per_dim(mass, dims=10).item() == pytest.approx(8)
    with pytest.raises(ValueError, match="dims must be at least 1"):
        bits_per_dim(nats, dims=0)
    with pytest.raises(ValueError, match="bin_width must be positive"):
        bits_per_dim(nats, dims=1, bin_width=0.0)


# learned variances -----------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """A linear network with learned variances: one parameter for the mean, one for the fraction."""

    def __init__(self):
        super().__init__()
        self.mean, self.raw = torch.nn.Parameter(torch.tensor(0.5)), torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, z, t):
        return torch.cat([self.mean * z, self.raw.expand_as(z)], 1)


def test_the_hybrid_loss_teaches_the_mean_by_one_term_and_the_variance_by_the_other():
    model = Diffusion(NetworkDenoiser(Scaled(), CosineSchedule(), output="v", learned_variance=True), (3,))
    objective, x = Hybrid(model, steps=10, weight=1e-3), torch.randn(4096, 3)
    simple = Denoising(model, times=discrete_times(10))
    torch.manual_seed(1)
    loss = objective(("model",), {"x": x}, 0)["model"]
    torch.manual_seed(1)
    plain = simple(("model",), {"x": x}, 0)["model"].total
    net = model.denoiser.net
    of_mean, of_variance = torch.autograd.grad(loss.total, [net.mean, net.raw])
    torch.testing.assert_close(of_mean, torch.autograd.grad(plain, net.mean)[0])
    # the variance's is the weight's share of the bound: the 9 steps' KLs and no term for the first level
    torch.manual_seed(1)
    t, eps = simple.times(4096), torch.randn_like(x)
    alpha, sigma = (v[:, None] for v in CosineSchedule().alpha_sigma(t))
    kept = t > 0.15
    p = model.denoiser((alpha * x + sigma * eps)[kept], t[kept])
    kl = step_kl(p, x[kept], eps[kept], CosineSchedule(), t[kept] - 0.1, t[kept]).sum() * 10 / 3 / 4096
    torch.testing.assert_close(of_variance, 1e-3 * torch.autograd.grad(kl, net.raw)[0], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(loss.total, plain + 1e-3 * kl, rtol=1e-4, atol=1e-6)


def test_discrete_times_are_the_levels_each_as_often():
    counts = torch.bincount((discrete_times(8)(8000) * 8).round().long())
    assert counts.tolist() == [0, *[1000] * 8]

"""The variational bound against closed forms: its terms, its limits, its schedule, its units."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate as quadrature
from scipy import stats
from torch.distributions import Normal, kl_divergence

from games import mlp
from jensen.core.objective import partition
from jensen.core.protocols import Bounded
from jensen.core.seeding import generator, generators
from jensen.core.types import Likelihood
from jensen.data.pool import pool_stream
from jensen.diffusion import (
    BetaSchedule,
    Bins,
    CosineSchedule,
    GaussianOracle,
    LearnedSchedule,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
    Prediction,
    Process,
    Reconstruction,
    RectifiedSchedule,
    Schedule,
    VarianceExploding,
    VariancePreserving,
    as_mass,
    bound,
    default_span,
    dequantize,
    discrete_times,
    prior_kl,
    step_kl,
    vlb,
)
from jensen.metrics import bits_per_dim
from jensen.models import Diffusion
from jensen.objectives import Denoising, Hybrid, VariationalDiffusion
from jensen.training import Budget, Player, TrainState, fit

F64 = torch.float64
SCHEDULES = {
    "vdm": VariancePreserving(8.0, -4.0),
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "rectified": RectifiedSchedule(),
    "exploding": VarianceExploding(0.02, 20.0),
}
named = pytest.mark.parametrize("name", SCHEDULES)


def gaussian(schedule) -> GaussianOracle:
    return GaussianOracle(torch.tensor([0.3, -0.5]), torch.tensor([0.5, 1.5]), schedule)


def times(value: float, rows: int) -> torch.Tensor:
    return torch.full((rows,), value, dtype=F64)


def moved(seed: int, highest: float, lowest: float, **settings) -> LearnedSchedule:
    """A learned schedule somewhere on its way."""
    schedule = LearnedSchedule(highest, lowest, **settings)
    rng = generator(seed)
    with torch.no_grad():
        for p in schedule.interior():
            p.add_(torch.randn(p.shape, generator=rng))
    return schedule


# closed forms --------------------------------------------------------------------------


def end_terms(oracle: GaussianOracle, x: torch.Tensor, mean: str) -> torch.Tensor:
    """What parts the continuous bound from log p(x) for Gaussian data, in closed form, (B,):

    E_q(z_1|x) [log q(z_1) - log p(z_1)], the prior's mistake, and E_q(z_0|x) [log q(x|z_0) - log p(x|z_0)], the
    reconstruction's; both are expectations of quadratics."""
    schedule, m, v = oracle.schedule, oracle.means[0], oracle.variances[0]
    first, last = default_span(schedule)
    (alpha_0, sigma_0), (alpha_1, sigma_1) = (schedule.alpha_sigma(torch.tensor(t, dtype=F64)) for t in (first, last))

    def expected(law_mean, law_variance, mean, variance):
        """E log N(y; mean, variance) with y ~ N(law_mean, law_variance), elementwise."""
        return -(torch.log(2 * math.pi * variance) + ((law_mean - mean) ** 2 + law_variance) / variance) / 2

    z_1 = (alpha_1 * x, sigma_1**2)
    prior = expected(*z_1, alpha_1 * m, alpha_1**2 * v + sigma_1**2)
    prior = prior - expected(*z_1, torch.zeros_like(x), alpha_1**2 + sigma_1**2)
    gain = alpha_0 * v / (alpha_0**2 * v + sigma_0**2)
    # x_hat(z_0) has mean m + alpha gain (x - m) and variance (gain sigma)^2 given x
    x_hat = (m + alpha_0 * gain * (x - m), (gain * sigma_0) ** 2)
    read = expected(*x_hat, x, v * (1 - alpha_0 * gain))
    observed = (x, (sigma_0 / alpha_0) ** 2)
    read = read - expected(*(x_hat if mean == "denoised" else observed), x, (sigma_0 / alpha_0) ** 2)
    return (prior + read).sum(1)


@named
@pytest.mark.parametrize("mean", ["denoised", "observed"])
def test_the_bound_of_a_gaussian_is_its_log_likelihood_but_for_both_ends(name, mean):
    """Continuous time and the exact denoiser, any x: the two end terms are all there is, to twelve digits."""
    oracle, x = gaussian(SCHEDULES[name]), 2 * torch.randn(20, 2, dtype=F64)
    exact = Normal(oracle.means[0], oracle.variances[0].sqrt()).log_prob(x).sum(1)
    value = oracle.bound(x, mean=mean).likelihood.value
    torch.testing.assert_close(value + end_terms(oracle, x, mean), exact, rtol=0, atol=1e-10)
    # a quadratic's mean over N(m, v) is its mean over m - s and m + s: the gap's is two KL divergences, so not below 0
    x = oracle.means + torch.tensor([[-1.0], [1.0]]) * oracle.variances.sqrt()
    assert 0 < end_terms(oracle, x, mean).mean().item() < (0.2 if name == "vdm" else 0.02)


@named
def test_the_closed_form_is_the_integral_it_stands_for(name):
    """The diffusion term by scipy: half the integral of E|x - x_hat|^2 over SNR, in log-SNR for its range."""
    schedule = SCHEDULES[name]
    oracle, x = gaussian(schedule), torch.tensor([[1.2, -2.0]], dtype=F64)
    m, v, row = oracle.means[0].numpy(), oracle.variances[0].numpy(), x[0].numpy()
    first, last = (float(schedule.log_snr(torch.tensor(t, dtype=F64))) for t in default_span(schedule))

    def integrand(log_snr):
        u = math.exp(log_snr)
        gain = v / (u * v + 1)  # of x_hat = m + gain (u (x - m) + sqrt(u) eps)
        return float(((1 - gain * u) ** 2 * (row - m) ** 2 + gain**2 * u).sum() * u / 2)

    expected, _ = quadrature.quad(integrand, max(last, -60.0), first, epsabs=1e-11, limit=200)
    assert oracle.bound(x).diffusion.item() == pytest.approx(expected, abs=1e-8)


# the estimate ----------------------------------------------------------------------------


@named
@pytest.mark.parametrize("steps", [None, 12])
@pytest.mark.parametrize("mean", ["denoised", "observed"])
def test_every_term_of_the_bound_is_estimated_without_bias(name, steps, mean):
    """n = 4,000 rows of one x: each step's KL, the diffusion term, the reconstruction and the whole within 4.5 standard
    errors of the closed form; the reported error is the rows' own spread within 10 percent."""
    schedule, n = SCHEDULES[name], 4000
    span = (0.05, 0.95)
    oracle, x = gaussian(schedule), torch.tensor([[1.2, -2.0]], dtype=F64)
    exact = oracle.bound(x, steps=steps, span=span, mean=mean)
    found = bound(
        oracle,
        x.expand(n, 2),
        steps=steps,
        strata=8,
        span=span,
        reconstruction=Reconstruction(mean),
        generator=generator(3),
    )
    torch.testing.assert_close(found.prior, exact.prior.expand(n))
    for estimate, truth in (
        (found.reconstruction, exact.reconstruction),
        (found.diffusion, exact.diffusion),
        (found.likelihood.value, exact.likelihood.value),
    ):
        error = 4.5 * estimate.std().item() / n**0.5 + 1e-12  # "observed" is exact but for rounding
        assert estimate.mean().item() == pytest.approx(truth.item(), abs=error)
    if steps is not None:
        error = found.steps.std(0) / n**0.5
        assert bool(((found.steps.mean(0) - exact.steps[0]).abs() < 4.5 * error).all())
    spread = found.likelihood.value.std().item()
    assert found.stderr.square().mean().sqrt().item() == pytest.approx(spread, rel=0.1)


@named
def test_strata_add_up_and_each_is_its_own_integral(name):
    """Every equal stratum of log(1 + SNR), the first nearest to data, on n = 4,000: within 4.5 standard errors of the
    closed form between its two times."""
    schedule, n = SCHEDULES[name], 4000
    oracle, x = gaussian(schedule), torch.tensor([[1.2, -2.0]], dtype=F64)
    first, last = default_span(schedule)
    found = bound(oracle, x.expand(n, 2), strata=5, generator=generator(5))
    y = torch.log1p(schedule.log_snr(torch.tensor([first, last], dtype=F64)).exp())
    edges = schedule.time(torch.expm1(torch.linspace(*y.tolist(), 6, dtype=F64)).log()).tolist()
    edges[0], edges[-1] = first, last
    for k, span in enumerate(pairwise(edges)):
        exact, column = oracle.bound(x, span=span).diffusion.item(), found.steps[:, k]
        assert column.mean().item() == pytest.approx(exact, abs=4.5 * column.std().item() / n**0.5)


def test_the_error_of_the_bound_is_small_and_honest():
    """2,000 rows, 64 strata of two draws, in two dimensions. On every schedule the standard deviation of a row is near
    that of 128 chi-squares over the whole way in y (draws even in t have 7.8 on the cosine), what is reported is its
    root mean square within 5 percent, and 2 reported errors cover the closed form 92 to 96 percent of the time."""
    n, x = 2000, torch.tensor([[0.7, -1.1]], dtype=F64)
    for schedule in SCHEDULES.values():
        oracle = GaussianOracle(torch.zeros(2), torch.ones(2), schedule)
        found = bound(oracle, x.expand(n, 2), generator=generator(1)).likelihood
        way = float(torch.logaddexp(schedule.log_snr(torch.tensor(default_span(schedule)[0])), torch.zeros(())))
        expected = way / 128 * (128 * 2 / 2) ** 0.5  # D / 2 a unit of y is half a chi-square of D where alpha = 1
        assert 0.75 * expected < found.value.std().item() < 1.05 * expected
        assert found.stderr.square().mean().sqrt().item() == pytest.approx(found.value.std().item(), rel=0.05)
        covered = ((found.value - oracle.bound(x).likelihood.value).abs() < 2 * found.stderr).double().mean().item()
        assert 0.92 < covered < 0.96


def test_the_error_of_a_mean_over_rows_is_honest_where_a_rows_own_is_rough():
    """Data of two values under their exact denoiser, whose bound is log 1/2: all of the error sits in rare draws, in a
    few strata. 10,000 rows: 2 reported errors of a row cover 70 to 80 percent, of the mean of 25 rows 91 to 95."""
    values = torch.tensor([-1.0, 1.0], dtype=F64)
    oracle = MixtureOracle(torch.ones(2), values[:, None], torch.zeros(2, 1), CosineSchedule())
    read = Reconstruction("observed", Bins(2))
    found = bound(oracle, values[1].expand(10_000, 1), reconstruction=read, generator=generator(2)).likelihood
    off, error = found.value - math.log(0.5), found.stderr
    assert off.mean().abs() < 4 * error.square().mean().sqrt() / 100
    assert 0.70 < (off.abs() < 2 * error).double().mean() < 0.80
    means, errors = off.view(400, 25).mean(1), error.view(400, 25).square().sum(1).sqrt() / 25
    assert 0.91 < (means.abs() < 2 * errors).double().mean() < 0.95


def test_the_bound_of_a_mixture_is_below_its_log_likelihood_and_near_it():
    """n = 400 draws of the mixture, 64 strata: the mean gap, a KL between paths, is between 0 and 0.05 within 4
    standard errors."""
    schedule = VariancePreserving(11.0, -8.0)
    oracle = MixtureOracle([0.3, 0.7], [[-1.2, 0.4], [0.8, -0.6]], [[0.3, 0.5], [0.4, 0.2]], schedule)
    x = oracle.sample(400, generator=generator(0))
    exact = Normal(oracle.means, oracle.variances.sqrt()).log_prob(x[:, None]).sum(-1)
    exact = (exact + oracle.weights.log()).logsumexp(1)
    gap = exact - bound(oracle, x, strata=64, generator=generator(1)).likelihood.value
    error = 4 * gap.std().item() / 20
    assert -error < gap.mean().item() < 0.05 + error


def test_a_row_does_not_depend_on_its_neighbours():
    oracle, x = gaussian(SCHEDULES["cosine"]), torch.randn(4, 2, dtype=F64)
    for steps in (None, 6):
        together = bound(oracle, x, steps=steps, strata=6, generator=generators(0, range(4)))
        alone = bound(oracle, x[2:3], steps=steps, strata=6, generator=generators(0, range(4))[2:3])
        torch.testing.assert_close(together.likelihood.value[2:3], alone.likelihood.value)
        torch.testing.assert_close(together.stderr[2:3], alone.stderr)


def test_single_draws_report_no_error_and_float32_stays():
    oracle, x = gaussian(SCHEDULES["vdm"]), torch.randn(3, 2)
    found = bound(oracle, x, steps=4, samples=1)
    assert found.stderr is None
    assert found.likelihood.value.dtype == torch.float32
    assert found.steps.shape == (3, 4)


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
    """beta_t^2 / (2 beta-tilde_t a_t (1 - abar_t)) |eps - eps_hat|^2, a_t = 1 - beta_t, from the betas alone."""
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
    # and its chain of 20 levels is 19 steps between the first and the last
    oracle = GaussianOracle(torch.zeros(1), torch.full((1,), 0.2), schedule)
    whole = bound(oracle, torch.ones(2000, 1, dtype=F64), steps=19, span=(1 / 20, 1.0), generator=generator(0))
    exact = oracle.bound(torch.ones(1, 1), steps=19, span=(1 / 20, 1.0))
    error = 4.5 * whole.diffusion.std().item() / 2000**0.5
    assert whole.diffusion.mean().item() == pytest.approx(exact.diffusion.item(), abs=error)
    assert exact.prior.item() == pytest.approx(float(abar[-1] - 1 - torch.log(1 - abar[-1]) + 1 - abar[-1]) / 2)


def test_many_small_steps_become_the_rate():
    """KL of a step of length h divided by h, at time t, is `vlb` up to order h."""
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
    """Data N(0, v): over n = 40,000 draws the KL as a function of the fraction has slope 0, within 4 standard errors,
    where the variance is that of z_s given z_t; slope down at beta-tilde and up at beta."""
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
    if name == "cosine":  # alpha = 0 at t = 1: nothing of x is left
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
    """Three values of 256 with known probabilities, the exact denoiser, n = 1,500 rows each: the bound in mass is
    log P(x) within 4 standard errors and the prior's 1e-3, since at the first level the bins are read off for sure."""
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
    """A Gaussian density in a bin: log P(bin) is at least E log p(x + u) + log w, and that expectation is in closed
    form, n = 40,000, 4 standard errors; u fills the bin evenly."""
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
    """A uniform density over [-1, 1]^D costs log2 of the number of bins, however it is put."""
    nats = torch.tensor([-10 * math.log(2.0)], dtype=F64)
    assert bits_per_dim(nats, dims=10, bin_width=2 / 256).item() == pytest.approx(8)
    mass = as_mass(Likelihood(nats, "exact", "density"), 10 * math.log(2 / 256)).value
    assert bits_per_dim(mass, dims=10).item() == pytest.approx(8)
    with pytest.raises(ValueError, match="dims must be at least 1"):
        bits_per_dim(nats, dims=0)
    with pytest.raises(ValueError, match="bin_width must be positive"):
        bits_per_dim(nats, dims=1, bin_width=0.0)


# the schedule as a player ----------------------------------------------------------------


def test_gradients_of_the_bound_know_the_ends_alone():
    """n = 60,000 single draws: the gradient with respect to the end points is that of the closed form, and with respect
    to every parameter of the interior it is 0, within 4.5 standard errors each (batches of 600 give the error)."""
    schedule = moved(6, 1.0, -1.0, hidden=3, learn_ends=True)
    oracle = GaussianOracle(torch.tensor([0.3]), torch.tensor([0.5]), schedule)
    objective = VariationalDiffusion(Diffusion(oracle, (1,)), interior="bound")
    assert list(objective.players()) == ["model"]
    x = torch.full((600, 1), 3.0, dtype=F64)
    parameters = [*schedule.ends(), *schedule.interior()]
    torch.manual_seed(0)
    draws = []
    for _ in range(100):
        loss = objective(("model",), {"x": x}, 0)["model"].total
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    found = torch.stack(draws).double()
    mean, error = found.mean(0), 4.5 * found.std(0) / 10
    exact = oracle.bound(x[:1], mean="observed").likelihood.value
    ends = torch.stack(torch.autograd.grad(-exact.sum(), schedule.ends()))
    assert bool(((mean[:2] - ends).abs() < error[:2]).all())
    assert float(ends.abs().min()) > 3 * float(error[:2].max())  # and it is not hidden in the noise
    assert bool((mean[2:].abs() < error[2:]).all())


def test_ends_that_learn_descend_the_bound():
    """From an SNR that is far too low at the first level, 100 steps raise it, and the closed form of the bound by more
    than 1 nat; the interior is the other player's."""
    schedule = LearnedSchedule(1.0, -1.0, hidden=3, learn_ends=True)
    oracle = GaussianOracle(torch.tensor([0.3]), torch.tensor([0.05]), schedule)
    objective = VariationalDiffusion(Diffusion(oracle, (1,)))
    assert {name: [id(p) for p in owned] for name, owned in objective.players().items()} == {
        "model": [id(p) for p in schedule.ends()],
        "schedule": [id(p) for p in schedule.interior()],
    }
    x = oracle.sample(4096, generator(0)).float()

    def value():
        return oracle.bound(x, mean="observed").likelihood.value.mean().item()

    before, first = value(), schedule.log_snr(torch.tensor([0.0, 1.0]))
    torch.manual_seed(0)
    play(objective, pool_stream(512, seed=0, x=x), steps=100, rate=0.05)
    last = schedule.log_snr(torch.tensor([0.0, 1.0]))
    assert value() - before > 1
    assert bool(last[0] > first[0] + 1)


@torch.no_grad()
def second_moment(schedule: Schedule, variance: float, dims: int) -> float:
    """E of the squared diffusion term for N(0, variance) data in closed form: the integral over t of
    (lambda')^2 c^2 (D^2 + 2 D) / 4, where c = u v / (1 + u v) is the variance of the error of eps."""
    t = torch.linspace(0, 1, 20001, dtype=F64)
    uv = schedule.log_snr(t).exp() * variance
    rate = schedule.log_snr_slope(t) * uv / (1 + uv)
    return float(torch.trapezoid((dims**2 + 2 * dims) / 4 * rate**2, t))


def play(objective, stream, steps, rate):
    players = {
        name: Player(parameters, torch.optim.Adam(parameters), lambda step: rate * (1 - step / steps) + 1e-4)
        for name, parameters in partition(objective).items()
    }
    state = TrainState(objective, players)
    fit(state, stream, Budget(steps=steps))
    return state


def test_the_learned_schedule_lowers_the_variance_of_the_loss():
    """16 dimensions of N(0, 0.1^2), the exact denoiser, 300 steps of the schedule alone. In closed form the variance of
    the loss falls from 1,721 nats^2 at least fifteenfold, to within 15 percent of the least there is by Cauchy and
    Schwarz, (integral of sqrt(second moment) d lambda)^2 - mean^2; the ends stay."""
    dims, variance = 16, 0.01
    schedule = LearnedSchedule(8.0, -6.0)
    oracle = GaussianOracle(torch.zeros(dims), torch.full((dims,), variance), schedule)
    log_snr = torch.linspace(-6, 8, 20001, dtype=F64)
    uv = log_snr.exp() * variance
    mean = float(torch.trapezoid(dims * uv / (1 + uv) / 2, log_snr))
    least = float(torch.trapezoid((dims**2 + 2 * dims) ** 0.5 / 2 * uv / (1 + uv), log_snr)) ** 2 - mean**2
    before = second_moment(schedule, variance, dims) - mean**2
    objective = VariationalDiffusion(Diffusion(oracle, (dims,)))
    assert list(objective.players()) == ["schedule"]
    torch.manual_seed(0)
    x = variance**0.5 * torch.randn(20_000, dims)
    play(objective, pool_stream(512, seed=0, x=x), steps=300, rate=0.05)
    after = second_moment(schedule, variance, dims) - mean**2
    assert before / after > 15
    assert least <= after < 1.15 * least
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(ends, torch.tensor([8.0, -6.0]).double(), rtol=1e-6, atol=0)
    # and what the journal reports, on 20,000 fresh rows, is this variance: within 10 percent
    x = variance**0.5 * torch.randn(20_000, dims)
    terms = objective(("schedule",), {"x": x}, 0)["schedule"].terms
    assert terms["deviation"].item() ** 2 == pytest.approx(after, rel=0.1)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp(4, 48, 48, 2)

    def forward(self, z, t):
        return self.body(torch.cat([z, t[:, None], (6 * t[:, None]).sin()], 1))


class Straight(VariancePreserving):
    """Linear between the ends of a learned schedule, with its clock: the network is told the same log-SNR. It has
    something to learn, so that its times are drawn evenly too."""

    def __init__(self, learned):
        super().__init__(*learned.log_snr(torch.tensor([0.0, 1.0])).tolist())
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.reference = learned.reference

    def clock(self, t):
        return LearnedSchedule.clock(self, t)


def test_network_and_schedule_play_together():
    """Two Gaussians in the plane, an MLP, 300 steps: the network descends the bound, the schedule's interior the
    square. The exact mean log-likelihood is not passed, and missed by less than 0.4 nats; the variance of
    the loss is less than 0.6 of that on the linear schedule between the same ends."""
    law = MixtureOracle([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[0.05], [0.05]], CosineSchedule())
    rng = generator(1)
    x, fresh = law.sample(20_000, rng).float(), law.sample(8000, rng).float()
    torch.manual_seed(0)
    schedule = LearnedSchedule(7.0, -10.0, hidden=16)
    model = Diffusion(NetworkDenoiser(Net(), schedule, output="edm"), (2,))
    objective = VariationalDiffusion(model)
    assert set(objective.players()) == {"model", "schedule"}
    assert [phase.players for phase in objective.phases] == [("model", "schedule")]
    play(objective, pool_stream(256, seed=0, x=x), steps=300, rate=2e-2)
    gap = law.log_prob(fresh, torch.zeros(8000)) - model.bound(fresh, strata=16, samples=1).likelihood.value
    error = 4 * gap.std().item() / 8000**0.5
    assert -error < gap.mean().item() < 0.4
    torch.manual_seed(1)
    learned = objective(("schedule",), {"x": fresh}, 0)["schedule"].terms["deviation"]
    model.denoiser.schedule = Straight(schedule)
    torch.manual_seed(1)
    linear = objective(("schedule",), {"x": fresh}, 0)["schedule"].terms["deviation"]
    assert learned.item() ** 2 < 0.6 * linear.item() ** 2


def test_the_objective_is_the_bound():
    """Mean over 60 batches of 1,000 draws, and the bound's closed form, in nats of data not standardised: within 4
    standard errors, for finite T and for none, density and mass."""
    schedule = VariancePreserving(8.0, -4.0)
    model = Diffusion(GaussianOracle(torch.zeros(2), torch.ones(2), schedule), (2,))
    model.centre.fill_(0.5)
    model.scale.fill_(0.25)
    x = torch.tensor([[0.7, 0.1]], dtype=F64).expand(1000, 2)
    standard = model.standardize(x[:1].float()).double()
    for steps in (None, 6):
        objective = VariationalDiffusion(model, steps=steps)
        torch.manual_seed(2)
        losses = torch.stack(
            [objective._diffusion(model.standardize(x), _edges(schedule, steps), None) for _ in range(60)]
        )
        exact = model.denoiser.bound(standard, steps=steps, mean="observed")
        error = 4 * losses.mean(1).std().item() / 60**0.5
        assert losses.mean().item() == pytest.approx(exact.diffusion.item(), abs=error)
    torch.manual_seed(3)
    draws = torch.stack([VariationalDiffusion(model)(("model",), {"x": x}, 0)["model"].total for _ in range(60)])
    expected = -model.denoiser.bound(standard, mean="observed").likelihood.value.item() + 2 * math.log(0.25)
    assert draws.mean().item() == pytest.approx(expected, abs=4 * draws.std().item() / 60**0.5)


def _edges(schedule, steps):
    return torch.linspace(0, 1, (steps or 1) + 1, dtype=F64)


# the model's own scale -------------------------------------------------------------------


def test_a_model_bounds_the_density_of_its_data_on_their_own_scale():
    """Data N(3, 0.2^2) in two dimensions, seen standardised: within 4.5 standard errors of its log density and the end
    terms; `log_likelihood` is the protocol's, and a mass does not depend on the scale."""
    schedule, n = VariancePreserving(9.0, -7.0), 3000
    model = Diffusion(GaussianOracle(torch.zeros(2), torch.ones(2), schedule), (2,))
    model.centre.fill_(3.0)
    model.scale.fill_(0.2)
    assert isinstance(model, Bounded)
    x = torch.tensor([[3.3, 2.8]], dtype=F64)
    found = model.log_likelihood(x.expand(n, 2), generator=generator(0))
    assert (found.kind, found.measure) == ("lower bound", "density")
    standard = model.standardize(x)
    exact = Normal(3.0, 0.2).log_prob(x).sum().item() - end_terms(model.denoiser, standard, "denoised").item()
    assert found.value.mean().item() == pytest.approx(exact, abs=4.5 * found.value.std().item() / n**0.5)
    assert found.stderr.square().mean().sqrt().item() == pytest.approx(found.value.std().item(), rel=0.1)
    bins, value = Bins(9, 2.0, 4.0), torch.tensor([[3.25, 2.75]], dtype=F64).expand(64, 2)
    mass = model.bound(value, strata=8, reconstruction=Reconstruction("observed", bins), generator=generator(1))
    unit = Bins(9, -5.0, 5.0)
    same = bound(
        model.denoiser,
        model.standardize(value),
        strata=8,
        reconstruction=Reconstruction("observed", unit),
        generator=generator(1),
    )
    torch.testing.assert_close(mass.likelihood.value, same.likelihood.value)


# learned variances -----------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """A linear network with learned variances: one number for the mean, one for the fraction."""

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


# refusals --------------------------------------------------------------------------------


class Rising(Schedule):
    def log_snr(self, t):
        return 10 * t - 5


@pytest.mark.parametrize(
    ("schedule", "settings", "message"),
    [
        (VariancePreserving(), {"steps": 0}, "steps must be at least 1"),
        (VariancePreserving(), {"strata": 0}, "strata must be at least 1"),
        (VariancePreserving(), {"samples": 0}, "samples must be at least 1"),
        (VariancePreserving(), {"span": (0.5, 0.5)}, "span must be two times"),
        (VariancePreserving(), {"span": (0.0, 1.5)}, "span must be two times"),
        (CosineSchedule(), {"span": (0.0, 1.0)}, "log-SNR must be finite at the first level"),
        (Rising(), {}, "log-SNR must fall with t"),
    ],
)
def test_refusals_of_the_bound(schedule, settings, message):
    with pytest.raises(ValueError, match=message):
        bound(gaussian(schedule), torch.zeros(1, 2), **settings)


def test_other_refusals():
    with pytest.raises(ValueError, match="mean must be"):
        Reconstruction("sharp")
    with pytest.raises(ValueError, match="count must be at least 2"):
        Bins(1)
    with pytest.raises(ValueError, match="low must be below high"):
        Bins(8, 1.0, -1.0)
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="data must lie on the 8 levels"):
        Bins(8).log_mass(0.5 * one, one, one)
    with pytest.raises(ValueError, match="width must be positive"):
        dequantize(torch.zeros(1, 1), 0.0)
    with pytest.raises(ValueError, match="likelihood of dequantized data, got a mass"):
        as_mass(Likelihood(torch.zeros(1), "exact", "mass"), 0.0)
    model = Diffusion(NetworkDenoiser(Net(), LearnedSchedule()), (2,))
    with pytest.raises(ValueError, match="cannot train the schedule"):
        Denoising(model)
    with pytest.raises(ValueError, match="interior must be"):
        VariationalDiffusion(model, interior="both")
    with pytest.raises(ValueError, match="null condition"):
        VariationalDiffusion(model, drop=0.5)
    with pytest.raises(ValueError, match="span must be two times"):
        VariationalDiffusion(model, span=(1.0, 0.0))
    plain = Diffusion(NetworkDenoiser(Net(), CosineSchedule()), (2,))
    with pytest.raises(ValueError, match="steps must be at least 2"):
        Hybrid(plain, steps=1)
    with pytest.raises(ValueError, match="weight must be positive"):
        Hybrid(plain, steps=4, weight=0.0)
    with pytest.raises(ValueError, match="learned_variance=True"):
        Hybrid(plain, steps=4)(("model",), {"x": torch.zeros(2, 2)}, 0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        discrete_times(0)

"""The variational bound against closed forms: its terms, limits and units, its standard error."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate as quadrature
from torch.distributions import Normal

from games import mlp
from jensen.core.protocols import Bounded
from jensen.core.seeding import generator, generators
from jensen.core.types import Likelihood
from jensen.diffusion import (
    Bins,
    CosineSchedule,
    GaussianOracle,
    LearnedSchedule,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
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
)
from jensen.models import Diffusion
from jensen.objectives import Denoising, Hybrid, VariationalDiffusion

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


# closed forms --------------------------------------------------------------------------


def end_terms(oracle: GaussianOracle, x: torch.Tensor, mean: str) -> torch.Tensor:
    """The difference between log p(x) and the continuous bound for Gaussian data, in closed form, (B,).

    E_q(z_1|x) [log q(z_1) - log p(z_1)], the error of the prior, and E_q(z_0|x) [log q(x|z_0) - log p(x|z_0)], the
    error of the reconstruction; both are expectations of quadratics.
    """
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
    """Continuous time and the exact denoiser, any x: the two end terms are the entire difference, to twelve digits."""
    oracle, x = gaussian(SCHEDULES[name]), 2 * torch.randn(20, 2, dtype=F64)
    exact = Normal(oracle.means[0], oracle.variances[0].sqrt()).log_prob(x).sum(1)
    value = oracle.bound(x, mean=mean).likelihood.value
    torch.testing.assert_close(value + end_terms(oracle, x, mean), exact, rtol=0, atol=1e-10)
    # a quadratic's mean over N(m, v) is its mean over m - s and m + s: the gap's is two KL divergences, so not below 0
    x = oracle.means + torch.tensor([[-1.0], [1.0]]) * oracle.variances.sqrt()
    assert 0 < end_terms(oracle, x, mean).mean().item() < (0.2 if name == "vdm" else 0.02)


@named
def test_the_closed_form_is_the_integral_it_stands_for(name):
    """The diffusion term by SciPy: half the integral of E|x - x_hat|^2 over SNR, computed in log-SNR because of its
    range.
    """
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
    """n = 4,000 rows of one x: the KL of each step, the diffusion term, the reconstruction and the whole bound
    within 4.5 standard errors of the closed form; the stated error is the standard deviation over rows within 10
    percent.
    """
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
    """All equal strata of log(1 + SNR), the first nearest to the data, with n = 4,000: within 4.5 standard errors of
    the closed form between their two times.
    """
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
    """2,000 rows, 64 strata with two draws, in two dimensions. On all schedules the standard deviation of a row is
    close to the closed form for 128 strata of equal width in log(1 + SNR), the stated error is its root mean square
    within 5 percent, and intervals of 2 stated errors contain the closed form in 92 to 96 percent.
    """
    n, x = 2000, torch.tensor([[0.7, -1.1]], dtype=F64)
    for schedule in SCHEDULES.values():
        oracle = GaussianOracle(torch.zeros(2), torch.ones(2), schedule)
        found = bound(oracle, x.expand(n, 2), generator=generator(1)).likelihood
        way = float(torch.logaddexp(schedule.log_snr(torch.tensor(default_span(schedule)[0])), torch.zeros(())))
        expected = way / 128 * (128 * 2 / 2) ** 0.5  # D / 2 per unit of y is half a chi-square of D where alpha = 1
        assert 0.75 * expected < found.value.std().item() < 1.05 * expected
        assert found.stderr.square().mean().sqrt().item() == pytest.approx(found.value.std().item(), rel=0.05)
        covered = ((found.value - oracle.bound(x).likelihood.value).abs() < 2 * found.stderr).double().mean().item()
        assert 0.92 < covered < 0.96


def test_the_error_of_a_mean_over_rows_is_honest_where_a_rows_own_is_rough():
    """Data with two values and their exact denoiser, whose bound is log 1/2: the error is due to rare draws in a few
    strata. 10,000 rows: intervals of 2 stated errors cover 70 to 80 percent for a row, and 91 to 95 for the mean of
    25 rows.
    """
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
    standard errors.
    """
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


# the model's own scale -------------------------------------------------------------------


def test_a_model_bounds_the_density_of_its_data_on_their_own_scale():
    """Standardised data N(3, 0.2^2) in two dimensions: within 4.5 standard errors of the log density and the end
    terms; `log_likelihood` implements the protocol, and a mass does not depend on the scale.
    """
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


# refusals --------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp(4, 48, 48, 2)

    def forward(self, z, t):
        return self.body(torch.cat([z, t[:, None], (6 * t[:, None]).sin()], 1))


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

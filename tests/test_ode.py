"""The probability-flow ODE's likelihood against exact densities, and compared with the bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from jensen.core.seeding import generator, generators
from jensen.diffusion import (
    CosineSchedule,
    Denoiser,
    GaussianOracle,
    LearnedSchedule,
    LinearSchedule,
    MixtureOracle,
    Prediction,
    RectifiedSchedule,
    VarianceExploding,
    VariancePreserving,
    default_span,
    ode_log_likelihood,
)
from jensen.models import Diffusion

F64 = torch.float64
SCHEDULES = {
    "vdm": VariancePreserving(8.0, -4.0),
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "rectified": RectifiedSchedule(),
    "exploding": VarianceExploding(0.02, 20.0),
    "learned": LearnedSchedule(8.0, -4.0),
}
named = pytest.mark.parametrize("name", SCHEDULES)


def gaussian(schedule) -> GaussianOracle:
    return GaussianOracle(torch.tensor([0.3, -0.5]), torch.tensor([0.5, 1.5]), schedule)


def turned(schedule) -> MixtureOracle:
    """A mixture whose velocity has a non-diagonal Jacobian."""
    return MixtureOracle([0.3, 0.7], [[-1.2, 0.9], [0.8, -0.6]], [[0.1, 0.2], [0.2, 0.1]], schedule)


def ends(schedule, rows):
    return (torch.full((rows,), t, dtype=F64) for t in default_span(schedule))


def expected(oracle, x, found):
    """The exact result: log p of alpha x at the first level, D log alpha, and the error of the prior at the end of
    the path.
    """
    first, last = ends(oracle.schedule, len(x))
    alpha = oracle.schedule.alpha_sigma(first)[0]
    start = oracle.log_prob(alpha[:, None] * x, first) + x.shape[1] * alpha.log()
    return start + found.prior - oracle.log_prob(found.latent, last)


@named
def test_on_a_gaussian_it_is_the_log_likelihood_but_for_both_ends(name):
    """The path is the affine flow, and the integrated divergence is the log determinant of this map, to 1e-8."""
    oracle = gaussian(SCHEDULES[name])
    x = oracle.sample(6, generator(2))
    found = ode_log_likelihood(oracle, x, rtol=1e-8, atol=1e-8)
    first, last = ends(oracle.schedule, 6)
    (alpha, sigma), (alpha_1, sigma_1) = oracle.schedule.alpha_sigma(first), oracle.schedule.alpha_sigma(last)
    torch.testing.assert_close(found.latent, oracle.flow(alpha[:, None] * x, first, last), rtol=0, atol=1e-5)
    v = oracle.variances[0]
    stretch = torch.log((alpha_1[0] ** 2 * v + sigma_1[0] ** 2) / (alpha[0] ** 2 * v + sigma[0] ** 2)).sum() / 2
    torch.testing.assert_close(found.divergence, stretch.expand(6), rtol=0, atol=1e-6)
    spread = torch.sqrt(alpha_1**2 + sigma_1**2)[:, None]
    torch.testing.assert_close(found.prior, Normal(0.0, spread).log_prob(found.latent).sum(1), rtol=1e-9, atol=1e-9)
    value = found.likelihood.value
    torch.testing.assert_close(value, expected(oracle, x, found), rtol=0, atol=1e-5)
    exact = Normal(oracle.means[0], v.sqrt()).log_prob(x).sum(1)
    assert float((value - exact).abs().max()) < 0.3  # and both ends are small
    assert (found.likelihood.kind, found.likelihood.measure) == ("exact", "density")


@named
def test_on_a_mixture_it_is_the_log_likelihood_but_for_both_ends(name):
    oracle = turned(SCHEDULES[name])
    x = oracle.sample(12, generator(0))
    found = ode_log_likelihood(oracle, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.likelihood.value, expected(oracle, x, found), rtol=0, atol=1e-4)


def test_the_error_falls_with_the_tolerance_and_the_work_rises():
    oracle = turned(SCHEDULES["cosine"])
    x = oracle.sample(12, generator(0))
    runs = [ode_log_likelihood(oracle, x, rtol=tol, atol=tol) for tol in (1e-3, 1e-5, 1e-7)]
    errors = [float((run.likelihood.value - expected(oracle, x, run)).abs().max()) for run in runs]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert runs[0].evaluations < runs[1].evaluations < runs[2].evaluations


def test_hutchinsons_estimate_is_unbiased_with_the_error_it_states():
    """n = 2,000 copies of one x, 4 probes each: within 4.5 standard errors of the exact trace, and the stated
    variance is the empirical one within 15 percent.
    """
    oracle, n = turned(SCHEDULES["vdm"]), 2000
    x = torch.tensor([[0.2, 0.3]], dtype=F64)
    exact = ode_log_likelihood(oracle, x).likelihood
    found = ode_log_likelihood(oracle, x.expand(n, 2), trace="hutchinson", probes=4, generator=generator(0)).likelihood
    assert found.kind == "estimate"
    spread = found.value.std().item()
    assert spread > 1e-2
    assert found.value.mean().item() == pytest.approx(exact.value.item(), abs=4.5 * spread / n**0.5)
    assert found.stderr.square().mean().item() == pytest.approx(spread**2, rel=0.15)


def test_a_rows_value_and_its_probes_are_its_own():
    """A row has the same value alone and with other rows: the solver meets its tolerance for each row, so values agree
    to this tolerance."""
    oracle = turned(SCHEDULES["rectified"])
    x = oracle.sample(5, generator(3))
    for trace in ("exact", "hutchinson"):
        settings = {"trace": trace, "rtol": 1e-6, "atol": 1e-6}
        together = ode_log_likelihood(oracle, x, **settings, generator=generators(0, range(5)))
        alone = ode_log_likelihood(oracle, x[2:3], **settings, generator=generators(0, range(5))[2:3])
        torch.testing.assert_close(together.likelihood.value[2:3], alone.likelihood.value, rtol=0, atol=1e-4)


def test_a_hard_row_among_easy_ones_is_solved_as_well_as_alone():
    """One row between two sharp modes and 199 easy ones: its error is not averaged away."""
    schedule = CosineSchedule()
    oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[1e-2], [1e-2]], schedule)
    easy = torch.full((199, 1), 1.0, dtype=F64)
    hard = torch.tensor([[0.01]], dtype=F64)
    alone = ode_log_likelihood(oracle, hard, rtol=1e-4, atol=1e-4).likelihood.value
    among = ode_log_likelihood(oracle, torch.cat([easy, hard]), rtol=1e-4, atol=1e-4).likelihood.value[-1:]
    exact = ode_log_likelihood(oracle, hard, rtol=1e-7, atol=1e-7).likelihood.value
    assert float((alone - exact).abs()) < 0.05
    assert float((among - exact).abs()) < 0.05  # 4.4 if the solver controlled the mean error over rows


class Scaled(Denoiser):
    """A denoiser whose eps is multiplied by a factor that may depend on t, with consistent x."""

    def __init__(self, denoiser, factor):
        super().__init__()
        self.denoiser, self.factor, self.schedule, self.null = denoiser, factor, denoiser.schedule, None

    def forward(self, z_t, t, cond=None):
        p = self.denoiser(z_t, t)
        return Prediction.of_eps(self.factor(t)[:, None] * p.eps, z_t, p.alpha, p.sigma)


def test_neither_the_bound_nor_the_ode_bounds_the_other():
    """Data N(0, 1), n = 4,000, means in nats. With all eps scaled by 1.2 the bound is higher by more than 0.1 nats.
    Scaled by 1 + 0.5 cos, up at some noise levels and down at others so that the path ends at the right point (the
    log of the stretch is linear in eps), the ODE's likelihood is exact to 1e-3 and higher by more than 0.1. Unscaled
    they agree up to their ends and 4 standard errors.
    """
    schedule, n = VariancePreserving(8.0, -6.0), 4000
    oracle = GaussianOracle(torch.zeros(1), torch.ones(1), schedule)
    x = torch.randn(n, 1, dtype=F64, generator=generator(0))

    def share(t):
        """The position of t from 0 to 1 in the measure sigma^2 d lambda, in which the scaling acts."""
        done = torch.nn.functional.softplus(-schedule.log_snr(t)) - math.log1p(math.exp(-8.0))
        return done / (math.log1p(math.exp(6.0)) - math.log1p(math.exp(-8.0)))

    factors = {
        "exact": torch.ones_like,
        "up": lambda t: torch.full_like(t, 1.2),
        "both": lambda t: 1 + 0.5 * torch.cos(2 * math.pi * share(t)),
    }
    lead = {}
    for name, factor in factors.items():
        model = Diffusion(Scaled(oracle, factor), (1,))
        flow = model.ode_log_likelihood(x, rtol=1e-6, atol=1e-6).likelihood.value
        lower = model.bound(x, strata=64, generator=generator(1)).likelihood.value
        lead[name] = (flow - lower).mean().item(), 4 * (flow - lower).std().item() / n**0.5
        if name == "both":
            exact = Normal(0.0, 1.0).log_prob(x).mean().item()
            assert flow.mean().item() == pytest.approx(exact, abs=1e-3)
    assert lead["up"][0] < -0.1 - lead["up"][1]
    assert lead["both"][0] > 0.1 + lead["both"][1]
    assert abs(lead["exact"][0]) < 0.01 + lead["exact"][1]


def test_a_model_has_the_density_of_its_data_on_their_own_scale():
    """Standardised data N(3, 0.2^2): the exact log density up to the ends, which are those of the standard Gaussian."""
    oracle = GaussianOracle(torch.zeros(2), torch.ones(2), VariancePreserving(9.0, -7.0))
    model = Diffusion(oracle, (2,))
    model.centre.fill_(3.0)
    model.scale.fill_(0.2)
    x = torch.tensor([[3.3, 2.8], [3.0, 2.9]], dtype=F64)
    found = model.ode_log_likelihood(x, rtol=1e-8, atol=1e-8)
    exact = Normal(3.0, 0.2).log_prob(x).sum(1).to(F64)
    standard = model.standardize(x)
    ends_only = expected(oracle, standard, found) - Normal(0.0, 1.0).log_prob(standard).sum(1)
    torch.testing.assert_close(found.likelihood.value - ends_only, exact, rtol=0, atol=1e-5)
    assert float(ends_only.abs().max()) < 1e-3


def test_float32_and_no_grad_are_kept():
    oracle, x = turned(SCHEDULES["cosine"]), torch.randn(3, 2)
    with torch.no_grad():
        found = ode_log_likelihood(oracle, x, rtol=1e-4, atol=1e-4)
    assert found.likelihood.value.dtype == torch.float32
    assert not found.latent.requires_grad
    exact = ode_log_likelihood(oracle, x.double(), rtol=1e-6, atol=1e-6).likelihood.value
    torch.testing.assert_close(found.likelihood.value.double(), exact, rtol=0, atol=2e-2)


def test_refusals():
    oracle, x = gaussian(CosineSchedule()), torch.zeros(1, 2)
    for settings, message in (
        ({"trace": "guess"}, "trace must be 'exact' or 'hutchinson'"),
        ({"trace": "hutchinson", "probes": 1}, "probes must be at least 2"),
        ({"rtol": 0.0}, "rtol and atol must be positive"),
        ({"span": (0.0, 1.0)}, "log-SNR must be finite"),
        ({"span": (0.6, 0.4)}, "span must be two times"),
    ):
        with pytest.raises(ValueError, match=message):
            ode_log_likelihood(oracle, x, **settings)


@named
def test_the_denoiser_is_asked_inside_the_span_alone(name):
    """Data N(0, 1) with preserved variance do not move in time, so the solver would step beyond the end, where
    networks are untrained and schedules undefined.
    """
    asked = []

    class Watched(GaussianOracle):
        def forward(self, z_t, t, cond=None):
            asked.extend(t.tolist())
            return super().forward(z_t, t, cond)

    oracle = Watched(torch.zeros(2), torch.ones(2), SCHEDULES[name])
    for span in ((0.03, 0.9), (0.5, 1.0)):
        asked.clear()
        ode_log_likelihood(oracle, torch.ones(3, 2, dtype=F64), span=span)
        assert span[0] <= min(asked) <= max(asked) <= span[1]
        assert (min(asked), max(asked)) == pytest.approx(span, abs=1e-12)

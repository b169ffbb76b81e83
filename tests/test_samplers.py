"""Samplers against exact solutions: orders of convergence, marginals, identities, independence of the batch."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from jensen.core.seeding import generators
from jensen.diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    DPMSolver,
    GaussianOracle,
    LinearSchedule,
    MixtureOracle,
    Process,
    RectifiedSchedule,
    integrate,
    time_grid,
)

F64 = torch.float64
SCHEDULES = {"cosine": CosineSchedule(), "linear": LinearSchedule(), "rectified": RectifiedSchedule()}


def mixture(schedule):
    return MixtureOracle([0.3, 0.7], [[-1.2, 0.4], [0.8, -0.6]], [[0.3, 0.5], [0.4, 0.2]], schedule)


def measured_order(sampler, schedule, grid="uniform", counts=(32, 64, 128)) -> float:
    """Least-squares slope of log error against log step, inside (0, 1), against 4,096 steps of the best sampler."""
    oracle, z = mixture(schedule), torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    span = {"start": 0.9, "end": 0.1}
    exact = integrate(DPMSolver(), oracle, z, time_grid("log_snr", 4096, schedule, **span))
    errors = [
        (integrate(sampler, oracle, z, time_grid(grid, n, schedule, **span)) - exact).abs().mean().log().item()
        for n in counts
    ]
    slope, _ = torch.linalg.lstsq(
        torch.stack([torch.tensor(counts, dtype=F64).log(), torch.ones(len(counts), dtype=F64)], 1),
        torch.tensor(errors, dtype=F64)[:, None],
    ).solution[:, 0]
    return -float(slope)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "quadratic"])
def test_orders_of_convergence(name, grid):
    assert measured_order(DDIM(), SCHEDULES[name], grid) == pytest.approx(1, abs=0.12)
    assert measured_order(DPMSolver(), SCHEDULES[name], grid) == pytest.approx(2, abs=0.2)


@dataclasses.dataclass(frozen=True)
class WrongIndex(DPMSolver):
    """Remembers the x of the step before with the lambda of this one: one wrong index."""

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        z, (last, x) = super().step(denoiser, z, t, s, memory, cond=cond, generator=generator)
        return z, (last, x if memory is None else memory[1])


@dataclasses.dataclass(frozen=True)
class WrongHalf(DPMSolver):
    """Extrapolates by h / h_prev, without the half."""

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        if memory is not None:
            p, (last, x) = denoiser(z, t.expand(len(z)), cond), memory
            memory = (last, p.x + 2 * (x - p.x))
        return super().step(denoiser, z, t, s, memory, cond=cond, generator=generator)


@pytest.mark.parametrize("broken", [WrongIndex(), WrongHalf()])
def test_the_law_catches_a_broken_sampler(broken):
    order = measured_order(broken, CosineSchedule())
    assert not order > 1.7  # also false for nan


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver()])
def test_the_ode_is_that_of_the_gaussian(schedule, sampler):
    """On N(m, v) the flow is affine and known: whiten at t, colour at s."""
    oracle = GaussianOracle(torch.tensor([1.0, -2.0]), torch.tensor([0.25, 4.0]), schedule)
    z = torch.randn(8, 2, dtype=F64)
    times = time_grid("uniform", 2000, schedule, start=0.9, end=0.1)
    exact = oracle.flow(z, times[:1].expand(8), times[-1:].expand(8))
    assert float((integrate(sampler, oracle, z, times) - exact).abs().max()) < (4e-3 if sampler == DDIM() else 2e-5)


def test_ddim_on_a_unit_gaussian_with_equal_angles():
    """The standard deviation shrinks by cos(pi / 2N) a step, exactly."""
    oracle, n = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule()), 7
    z = integrate(DDIM(), oracle, torch.ones(1, 1, dtype=F64), time_grid("uniform", n, CosineSchedule()))
    assert z.item() == pytest.approx(math.cos(math.pi / (2 * n)) ** n, rel=1e-12)


def test_first_order_multistep_is_ddim():
    oracle, z = mixture(CosineSchedule()), torch.randn(5, 2, dtype=F64)
    times = time_grid("uniform", 9, CosineSchedule())
    torch.testing.assert_close(integrate(DPMSolver(order=1), oracle, z, times), integrate(DDIM(), oracle, z, times))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ddim_with_eta_one_is_ancestral(schedule):
    """Step for step, with the same noise, on a full grid and on a sub-sequence."""
    oracle, z = mixture(schedule), torch.randn(5, 2, dtype=F64)
    full = time_grid("uniform", 24, schedule, end=0.02)
    for times in (full, full[::4]):
        runs = [
            integrate(s, oracle, z, times, generator=torch.Generator().manual_seed(3)) for s in (DDIM(1.0), Ancestral())
        ]
        torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [DDIM(0.0), DDIM(0.5), DDIM(1.0), Ancestral(), Ancestral("forward"), DPMSolver()])
def test_marginals_on_the_mixture(sampler):
    """n = 20,000 from t = 0.95 to 0.05 in 200 steps: mean and covariance of the law within 5 standard errors,
    plus 0.02 for the bias of a step of this size."""
    schedule, n = CosineSchedule(), 20_000
    oracle, rng = mixture(schedule), torch.Generator().manual_seed(4)
    x = oracle.sample(2 * n, generator=rng)
    noise = torch.randn(2 * n, 2, dtype=F64, generator=rng)

    def at(time, rows):
        alpha, sigma = schedule.alpha_sigma(torch.tensor(time, dtype=F64))
        return alpha * x[rows] + sigma * noise[rows]

    start, law = at(0.95, slice(0, n)), at(0.05, slice(n, 2 * n))
    made = integrate(sampler, oracle, start, time_grid("uniform", 200, schedule, start=0.95, end=0.05), generator=rng)
    error = 5 * (2 * law.var(0) / n).sqrt() + 0.02
    assert bool(((made.mean(0) - law.mean(0)).abs() < error).all())
    assert bool(((made.T.cov() - law.T.cov()).abs() < 5 * 2 * (2 / n) ** 0.5 + 0.03).all())


def test_ancestral_steps_match_the_posterior_of_a_point():
    """Data at one point: the exact denoiser says x, and a beta-tilde step is a draw from q(z_s | z_t, x).

    n = 40,000, mean and deviation within 4 standard errors."""
    schedule, n = CosineSchedule(), 40_000
    oracle = GaussianOracle(torch.tensor([0.7]), torch.tensor([0.0]), schedule)
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.3, dtype=F64)
    z = torch.full((n, 1), -0.4, dtype=F64)
    made, _ = Ancestral().step(oracle, z, t, s, None, generator=torch.Generator().manual_seed(5))
    alpha_t, sigma_t = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    precision = 1 / sigma_s**2 + (alpha_t / alpha_s) ** 2 / (sigma_t**2 - (alpha_t * sigma_s / alpha_s) ** 2)
    information = alpha_s * 0.7 / sigma_s**2 + (alpha_t / alpha_s) * (-0.4) / (
        sigma_t**2 - (alpha_t * sigma_s / alpha_s) ** 2
    )
    mean, deviation = float(information / precision), float(precision**-0.5)
    assert made.mean().item() == pytest.approx(mean, abs=4 * deviation / n**0.5)
    assert made.std().item() == pytest.approx(deviation, abs=4 * deviation / (2 * n) ** 0.5)


def test_the_forward_variance_is_exact_for_a_unit_gaussian():
    """N(0, I) of a variance-preserving schedule, one large step: the marginal stays N(0, I) with the forward variance
    and shrinks with the posterior's, by a known amount. n = 40,000, 4 standard errors."""
    schedule, n = CosineSchedule(), 40_000
    oracle = GaussianOracle(torch.zeros(1), torch.ones(1), schedule)
    t, s = torch.tensor(0.8, dtype=F64), torch.tensor(0.4, dtype=F64)
    z = torch.randn(n, 1, dtype=F64, generator=torch.Generator().manual_seed(11))
    a, spread = Process(schedule).transition(s, t)
    sigma_s, sigma_t = schedule.alpha_sigma(s)[1], schedule.alpha_sigma(t)[1]
    for variance, expected in (("forward", 1.0), ("posterior", float(a**2 + (spread * sigma_s / sigma_t) ** 2))):
        made, _ = Ancestral(variance).step(oracle, z, t, s, None, generator=torch.Generator().manual_seed(12))
        assert made.var().item() == pytest.approx(expected, abs=4 * expected * (2 / n) ** 0.5)


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(1.0), Ancestral(), DPMSolver()])
def test_a_row_does_not_depend_on_its_neighbours(sampler):
    oracle, times = mixture(CosineSchedule()), time_grid("uniform", 6, CosineSchedule())
    z = torch.randn(4, 2, dtype=F64)
    together = integrate(sampler, oracle, z, times, generator=generators(0, range(4)))
    alone = integrate(sampler, oracle, z[2:3], times, generator=generators(0, range(4))[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver()])
def test_encoding_is_sampling_backwards(sampler):
    """Encode to t = 0.9 and back: the error falls with the steps, and is small with many."""
    schedule = CosineSchedule()
    oracle, x = mixture(schedule), torch.randn(8, 2, dtype=F64)
    errors = []
    for n in (50, 400):
        times = time_grid("uniform", n, schedule, start=0.9, end=0.05)
        z = integrate(sampler, oracle, x, times.flip(0))
        errors.append(float((integrate(sampler, oracle, z, times) - x).abs().mean()))
    assert errors[1] < errors[0] / 5
    assert errors[1] < 1e-2


def test_both_ends_are_reached_from_infinite_log_snr():
    """From t = 1 (alpha = 0) to t = 0 (sigma = 0) nothing is infinite, and the mixture's moments come out."""
    for schedule in (CosineSchedule(), RectifiedSchedule()):
        oracle = mixture(schedule)
        z = torch.randn(20_000, 2, dtype=F64)
        made = integrate(DPMSolver(), oracle, z, time_grid("uniform", 60, schedule))
        law = oracle.sample(20_000, generator=torch.Generator().manual_seed(6))
        assert bool(torch.isfinite(made).all())
        torch.testing.assert_close(made.mean(0), law.mean(0), rtol=0, atol=0.04)
        torch.testing.assert_close(made.std(0), law.std(0), rtol=0, atol=0.04)


def test_time_grids():
    schedule = LinearSchedule()
    for name in ("uniform", "log_snr", "quadratic"):
        times = time_grid(name, 10, schedule, start=0.95, end=0.01)
        assert times[[0, -1]].tolist() == pytest.approx([0.95, 0.01])
        assert bool((times.diff() < 0).all())
    steps = schedule.log_snr(time_grid("log_snr", 10, schedule, start=0.95, end=0.01)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10))
    roots = time_grid("quadratic", 10, schedule).sqrt().diff()
    torch.testing.assert_close(roots, roots.mean().expand(10))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.5], "at least two"),
        ([1.2, 0.0], r"lie in \[0, 1\]"),
        ([0.9, 0.5, 0.6], "strictly decreasing"),
        ([0.5, 0.5], "strictly decreasing"),
    ],
)
def test_bad_times(times, message):
    oracle = mixture(CosineSchedule())
    with pytest.raises(ValueError, match=message):
        integrate(DDIM(), oracle, torch.zeros(1, 2), torch.tensor(times))


def test_other_refusals():
    oracle, z, up = mixture(CosineSchedule()), torch.zeros(2, 2), torch.tensor([0.1, 0.5])
    with pytest.raises(ValueError, match="cannot encode"):
        integrate(Ancestral(), oracle, z, up)
    with pytest.raises(ValueError, match="cannot encode"):
        integrate(DDIM(0.5), oracle, z, up)
    with pytest.raises(ValueError, match="one a row"):
        integrate(Ancestral(), oracle, z, up.flip(0), generator=generators(0, range(3)))
    with pytest.raises(ValueError, match="eta must be"):
        DDIM(1.5)
    with pytest.raises(ValueError, match="order must be"):
        DPMSolver(3)
    with pytest.raises(ValueError, match="variance must be"):
        Ancestral("both")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        time_grid("uniform", 0, CosineSchedule())
    with pytest.raises(ValueError, match="log-SNR must be finite"):
        time_grid("log_snr", 4, CosineSchedule())
    with pytest.raises(ValueError, match="time grid must be"):
        time_grid("fast", 4, CosineSchedule())

"""Samplers against exact solutions: orders of convergence, marginals, identities, independence of rows."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torchdiffeq import odeint

from jensen.core.seeding import generators
from jensen.diffusion import (
    DDIM,
    Adams,
    Ancestral,
    AnnealedLangevin,
    CosineSchedule,
    Denoiser,
    DPMSolver,
    EmpiricalOracle,
    Euler,
    GaussianOracle,
    Heun,
    LinearSchedule,
    MixtureOracle,
    Prediction,
    PredictorCorrector,
    RectifiedSchedule,
    UniPC,
    VarianceExploding,
    integrate,
    time_grid,
)
from jensen.diffusion.samplers.probability_flow import velocity

F64 = torch.float64
SCHEDULES = {"cosine": CosineSchedule(), "linear": LinearSchedule(), "rectified": RectifiedSchedule()}


def mixture(schedule):
    return MixtureOracle([0.3, 0.7], [[-1.2, 0.4], [0.8, -0.6]], [[0.3, 0.5], [0.4, 0.2]], schedule)


def exact_path(oracle, z, times):
    """The solution of the probability-flow ODE at all times, by an adaptive solver to ten digits: (N, B, D)."""
    return odeint(lambda t, y: velocity(oracle, y, t), z, times, rtol=1e-10, atol=1e-10)


@functools.cache
def start_and_end(name):
    """The initial values of the paths at t = 0.9, and their exact end points at t = 0.1."""
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    return z, exact_path(mixture(SCHEDULES[name]), z, torch.tensor([0.9, 0.1], dtype=F64))[-1]


def measured_order(sampler, name, grid="uniform", counts=(32, 64, 128)) -> float:
    """The least-squares slope of log error against log step size, inside (0, 1)."""
    schedule = SCHEDULES[name]
    oracle, (z, exact) = mixture(schedule), start_and_end(name)
    span = {"start": 0.9, "end": 0.1}
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
    assert measured_order(DDIM(), name, grid) == pytest.approx(1, abs=0.12)
    assert measured_order(DPMSolver(), name, grid) == pytest.approx(2, abs=0.2)


@dataclasses.dataclass(frozen=True)
class WrongIndex(DPMSolver):
    """Combines the x of the previous step with the lambda of the current one: an off-by-one error."""

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        z, history = super().step(denoiser, z, t, s, memory, cond=cond, generator=generator)
        return z, [(history[0][0], (memory or history)[0][1])]


@dataclasses.dataclass(frozen=True)
class WrongHalf(DPMSolver):
    """Extrapolates by h / h_prev, without the factor one half."""

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        if memory is not None:
            p, (last, x) = denoiser(z, t.expand(len(z)), cond), memory[0]
            memory = [(last, p.x + 2 * (x - p.x))]
        return super().step(denoiser, z, t, s, memory, cond=cond, generator=generator)


@pytest.mark.parametrize("broken", [WrongIndex(), WrongHalf()])
def test_the_law_catches_a_broken_sampler(broken):
    order = measured_order(broken, "cosine")
    assert not order > 1.7  # also false for nan


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("sampler", [DDIM(), Euler(), DPMSolver(), DPMSolver(3), UniPC(), Adams(), Heun()])
def test_the_ode_is_that_of_the_gaussian(schedule, sampler):
    """For N(m, v) the flow is affine and known: whiten at t, unwhiten at s."""
    oracle = GaussianOracle(torch.tensor([1.0, -2.0]), torch.tensor([0.25, 4.0]), schedule)
    z = torch.randn(8, 2, dtype=F64)
    times = time_grid("uniform", 400, schedule, start=0.9, end=0.1)
    exact = oracle.flow(z, times[:1].expand(8), times[-1:].expand(8))
    assert float((integrate(sampler, oracle, z, times) - exact).abs().max()) < (
        2e-2 if sampler in (DDIM(), Euler()) else 5e-4
    )


def test_first_order_multistep_is_ddim():
    oracle, z = mixture(CosineSchedule()), torch.randn(5, 2, dtype=F64)
    times = time_grid("uniform", 9, CosineSchedule())
    torch.testing.assert_close(integrate(DPMSolver(order=1), oracle, z, times), integrate(DDIM(), oracle, z, times))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ddim_with_eta_one_is_ancestral(schedule):
    """At each step, with the same noise, on the full time grid and on a subsequence."""
    oracle, z = mixture(schedule), torch.randn(5, 2, dtype=F64)
    full = time_grid("uniform", 24, schedule, end=0.02)
    for times in (full, full[::4]):
        runs = [
            integrate(s, oracle, z, times, generator=torch.Generator().manual_seed(3)) for s in (DDIM(1.0), Ancestral())
        ]
        torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(0.0),
        DDIM(0.5),
        DDIM(1.0),
        Ancestral(),
        Ancestral("forward"),
        DPMSolver(),
        DPMSolver(3),
        DPMSolver(noise=True),
        UniPC(),
        Adams(),
        Euler(),
        Heun(),
        PredictorCorrector(DDIM(), step_size=0.05),
    ],
)
def test_marginals_on_the_mixture(sampler):
    """n = 20,000 from t = 0.95 to 0.05 in 200 steps: mean and covariance within 5 standard errors, plus 0.02 for the
    bias of steps of this size.
    """
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


def test_a_learned_variance_must_be_there():
    t, s = torch.tensor(0.8, dtype=F64), torch.tensor(0.4, dtype=F64)
    with pytest.raises(ValueError, match="learned_variance=True"):
        Ancestral("learned").step(mixture(CosineSchedule()), torch.zeros(1, 2), t, s, None)


EVERY = [
    DDIM(),
    DDIM(1.0),
    Ancestral(),
    DPMSolver(),
    DPMSolver(3),
    DPMSolver(noise=True),
    UniPC(),
    Adams(),
    Euler(),
    Heun(),
]


@pytest.mark.parametrize("sampler", [*EVERY, PredictorCorrector(DDIM()), AnnealedLangevin(2)])
def test_a_row_does_not_depend_on_its_neighbours(sampler):
    oracle, times = mixture(CosineSchedule()), time_grid("uniform", 6, CosineSchedule(), start=0.98)
    z = torch.randn(4, 2, dtype=F64)
    together = integrate(sampler, oracle, z, times, generator=generators(0, range(4)))
    alone = integrate(sampler, oracle, z[2:3], times, generator=generators(0, range(4))[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver(), DPMSolver(3), UniPC(), Adams(), Euler(), Heun()])
def test_encoding_is_sampling_backwards(sampler):
    """Encode to t = 0.9 and decode: the error falls with the number of steps, and is small for many."""
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
    """From t = 1 (alpha = 0) to t = 0 (sigma = 0) all values are finite, and the samples have the mixture's moments."""
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
    with pytest.raises(ValueError, match="one per row"):
        integrate(Ancestral(), oracle, z, up.flip(0), generator=generators(0, range(3)))
    with pytest.raises(ValueError, match="eta must be"):
        DDIM(1.5)
    with pytest.raises(ValueError, match="order must be"):
        DPMSolver(4)
    with pytest.raises(ValueError, match="from 1 to 2"):
        DPMSolver(3, noise=True)
    with pytest.raises(ValueError, match="order must be"):
        UniPC(0)
    with pytest.raises(ValueError, match="order must be from 1 to 5, got 6"):
        Adams(6)
    with pytest.raises(ValueError, match="moves must be"):
        AnnealedLangevin(moves=0)
    with pytest.raises(ValueError, match="step_size must be"):
        PredictorCorrector(DDIM(), step_size=0.0)
    with pytest.raises(ValueError, match="cannot start where alpha is 0"):
        integrate(AnnealedLangevin(), oracle, z, torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="variance must be"):
        Ancestral("both")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        time_grid("uniform", 0, CosineSchedule())
    with pytest.raises(ValueError, match="log-SNR must be finite"):
        time_grid("log_snr", 4, CosineSchedule())
    with pytest.raises(ValueError, match="time grid must be"):
        time_grid("fast", 4, CosineSchedule())


@pytest.mark.parametrize("name", SCHEDULES)
def test_orders_of_the_other_samplers(name):
    """Inside (0, 1): Euler 1, Heun 2; UniPC-p has order p + 1."""
    assert measured_order(Euler(), name) == pytest.approx(1, abs=0.12)
    assert measured_order(Heun(), name) == pytest.approx(2, abs=0.2)
    assert measured_order(UniPC(order=1), name, "log_snr") == pytest.approx(2, abs=0.3)
    assert measured_order(UniPC(order=2), name, "log_snr") == pytest.approx(3, abs=0.4)


@dataclasses.dataclass(frozen=True)
class PublishedThird(DPMSolver):
    """The published pseudo-code of (3M): the second divided difference in place of the second derivative."""

    order: int = 3

    def step(self, denoiser, z, t, s, memory, *, cond=None, generator=None):
        out, history = super().step(denoiser, z, t, s, memory, cond=cond, generator=generator)
        if len(history) == 3:
            (l0, x0), (l1, x1), (l2, x2) = history
            alpha, sigma = denoiser.schedule.alpha_sigma(s)
            h = torch.log(alpha / sigma) - l0
            second = ((x0 - x1) / (l0 - l1) - (x1 - x2) / (l1 - l2)) / (l0 - l2)
            out = out - alpha * (h**2 / 2 - h + 1 - torch.exp(-h)) * second
        return out, history


@functools.cache
def exact_start(name, n):
    """Times of n steps, the first three points of the exact path, and its end."""
    schedule = SCHEDULES[name]
    times = time_grid("log_snr", n, schedule, start=0.9, end=0.1)
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    *points, exact = exact_path(mixture(schedule), z, times[[0, 1, 2, -1]])
    return times, points, exact


def order_after_an_exact_start(sampler, name, counts=(24, 48, 96)) -> float:
    """The order of the steps alone: the first three points of the path, and their memory, are exact."""
    schedule, errors = SCHEDULES[name], []
    oracle = mixture(schedule)
    for n in counts:
        (times, points, exact), memory = exact_start(name, n), []
        for k in (1, 0):
            alpha, sigma = schedule.alpha_sigma(times[k])
            memory.append((torch.log(alpha / sigma), oracle(points[k], times[k].expand(64)).x))
        made = points[2]
        for k in range(2, n):
            made, memory = sampler.step(oracle, made, times[k], times[k + 1], memory)
        errors.append(math.log(float((made - exact).abs().mean())))
    return -float(np.polyfit(np.log(counts), errors, 1)[0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_third_order_needs_twice_the_divided_difference(name):
    """The exact integral of the parabola has order 3; the published pseudo-code of (3M) stays below 2.5."""
    assert order_after_an_exact_start(DPMSolver(order=3), name) == pytest.approx(3, abs=0.25)
    assert order_after_an_exact_start(PublishedThird(), name) < 2.5


def test_unipc_makes_one_evaluation_a_step_and_heun_two():
    for sampler, each in (
        (UniPC(3), 1),
        (Adams(), 1),
        (DPMSolver(3), 1),
        (Heun(), 2),
        (PredictorCorrector(DDIM(), moves=2), 3),
    ):
        oracle = mixture(CosineSchedule())
        calls = []
        oracle.register_forward_hook(lambda *a, calls=calls: calls.append(1))
        integrate(sampler, oracle, torch.zeros(1, 2, dtype=F64), time_grid("uniform", 6, CosineSchedule(), end=0.1))
        assert len(calls) == 6 * each


def test_a_finite_data_set_is_what_its_oracle_samples():
    data = torch.tensor([[-1.0, 2.0], [0.5, 0.5], [3.0, -1.0]])
    schedule = CosineSchedule()
    oracle = EmpiricalOracle(data, schedule)
    z, t = torch.randn(7, 2, dtype=F64), torch.linspace(0.1, 0.9, 7, dtype=F64)
    same = MixtureOracle([1.0] * 3, data, torch.zeros(3, 1), schedule)(z, t)
    p = oracle(z, t)
    torch.testing.assert_close(p.x, same.x)
    torch.testing.assert_close(p.eps, same.eps)
    made = integrate(DDIM(), oracle, torch.randn(64, 2), time_grid("uniform", 50, schedule, end=0.01))
    alpha, sigma = schedule.alpha_sigma(torch.tensor(0.01))
    nearest = torch.cdist(made, alpha * data).min(1).values
    assert float(nearest.max()) < 6 * float(sigma)
    with pytest.raises(ValueError, match="sigma = 0"):
        oracle(z, torch.zeros(7, dtype=F64))


def test_karras_grid_is_uniform_in_a_root_of_sigma():
    schedule = VarianceExploding()
    times = time_grid("karras", 18, schedule)
    roots = schedule.alpha_sigma(times)[1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(18))
    # Karras et al.'s own formula, equation 5
    k = torch.arange(19, dtype=F64) / 18
    torch.testing.assert_close(roots**7, (80 ** (1 / 7) + k * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_orders_of_adams_methods(name):
    """Inside (0, 1): p without the corrector, p + 1 with it, as far as the starting steps permit."""
    schedule, span = SCHEDULES[name], {"start": 0.9, "end": 0.1}
    oracle, z = mixture(schedule), torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    exact = integrate(UniPC(3), oracle, z, time_grid("log_snr", 1000, schedule, **span))
    for sampler, order in ((Adams(2, corrected=False), 2), (Adams(1), 2), (Adams(2), 3)):
        errors = [
            float((integrate(sampler, oracle, z, time_grid("uniform", n, schedule, **span)) - exact).abs().mean())
            for n in (48, 96)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_adams_of_order_one_without_correction_is_ddim():
    oracle, z = mixture(CosineSchedule()), torch.randn(5, 2, dtype=F64)
    times = time_grid("uniform", 9, CosineSchedule())
    torch.testing.assert_close(
        integrate(Adams(1, corrected=False), oracle, z, times), integrate(DDIM(), oracle, z, times)
    )


@dataclasses.dataclass(eq=False)
class Polynomial(Denoiser):
    """A velocity that is a power of u and does not depend on z, on the rectified schedule, where u = t."""

    power: int

    def __post_init__(self):
        super().__init__()
        self.schedule, self.null = RectifiedSchedule(), None

    def forward(self, z_t, t, cond=None):
        flow = (t**self.power)[:, None].expand_as(z_t)
        return Prediction.of_flow(flow, z_t, *self.levels(t, z_t))


@pytest.mark.parametrize("order", range(1, 6))
def test_adams_integrates_the_polynomials_of_its_order(order):
    """Exact for degree p - 1 by the explicit step, and for degree p with the corrector, on unequal steps to both
    ends.
    """
    times = torch.tensor([1.0, 0.85, 0.75, 0.6, 0.5, 0.3, 0.15, 0.0], dtype=F64)
    for power, corrected in ((order - 1, False), (order, True)):
        denoiser, memory = Polynomial(power), None
        exact = (times ** (power + 1) / (power + 1))[:, None]
        sampler = Adams(order, corrected)
        for k in range(len(times) - 1):
            made, memory = sampler.step(denoiser, exact[k : k + 1], times[k], times[k + 1], memory)
            if k >= order:
                reached = memory.y if corrected else made
                expected = exact[k] if corrected else exact[k + 1]
                torch.testing.assert_close(reached[0], expected, rtol=0, atol=1e-12)
            memory = dataclasses.replace(memory, made=exact[k + 1 : k + 2], y=exact[k : k + 1])

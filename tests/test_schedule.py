"""Schedules against their closed forms, and the process against Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from jensen.core.seeding import generator
from jensen.diffusion import (
    DDIM,
    SCHEDULES,
    BetaSchedule,
    CosineSchedule,
    FunctionSchedule,
    GaussianOracle,
    ImplicitProcess,
    LearnedSchedule,
    LinearSchedule,
    Process,
    RectifiedSchedule,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def learned(seed: int, size: float = 1.0, **settings) -> LearnedSchedule:
    """A partly trained learned schedule: all interior parameters are changed by a normal draw."""
    schedule = LearnedSchedule(9.0, -6.0, **settings)
    rng = generator(seed)
    with torch.no_grad():
        for p in schedule.interior():
            p.add_(size * torch.randn(p.shape, generator=rng))
    return schedule


ALL = [*(cls() for cls in SCHEDULES.values()), learned(0)]
named = pytest.mark.parametrize("schedule", ALL, ids=[*SCHEDULES, "learned"])


@named
def test_log_snr_is_that_of_alpha_and_sigma_and_falls(schedule):
    alpha, sigma = schedule.alpha_sigma(T)
    log_snr = schedule.log_snr(T)
    torch.testing.assert_close(log_snr, 2 * torch.log(alpha / sigma), rtol=1e-12, atol=1e-12)
    assert bool((log_snr.diff() < 0).all())


@named
def test_time_inverts_log_snr(schedule):
    torch.testing.assert_close(schedule.time(schedule.log_snr(T)), T, rtol=0, atol=1e-12)
    torch.testing.assert_close(Schedule.time(schedule, schedule.log_snr(T)), T, rtol=0, atol=1e-12)  # by bisection


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), VariancePreserving()])
def test_variance_is_preserved_and_equals_the_default_form(schedule):
    alpha, sigma = schedule.alpha_sigma(T)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(T), rtol=1e-14, atol=0)
    for ours, default in zip((alpha, sigma), Schedule.alpha_sigma(schedule, T), strict=True):
        torch.testing.assert_close(ours, default, rtol=1e-12, atol=0)


def test_endpoints():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for schedule in (CosineSchedule(), RectifiedSchedule()):
        alpha, sigma = schedule.alpha_sigma(ends)
        assert alpha.tolist() == [1.0, 0.0]
        assert sigma.tolist() == [0.0, 1.0]
        assert schedule.log_snr(ends).tolist() == [math.inf, -math.inf]


def test_linear_is_the_limit_of_a_thousand_betas():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    discrete = (1 - betas).cumprod(0).sqrt()
    alpha, _ = LinearSchedule().alpha_sigma(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    # log(1 - beta) = -beta - beta^2/2 - ...: the gap in log alpha is about sum(beta^2)/4 <= 0.034
    assert float((discrete.log() - alpha.log()).abs().max()) < 0.035


class Rising(Schedule):
    """A schedule whose log-SNR increases with time."""

    def log_snr(self, t):
        return 10 * t - 5


def test_refusals():
    half = torch.tensor([0.5])
    with pytest.raises(ValueError, match="s must be below t"):
        Process(CosineSchedule()).transition(half, half)
    with pytest.raises(ValueError, match="this schedule's rises"):
        Process(Rising()).transition(half / 2, half)
    with pytest.raises(ValueError, match="0 < beta_0 <= beta_1"):
        LinearSchedule(2.0, 1.0)


def test_cosine_values():
    alpha, sigma = CosineSchedule().alpha_sigma(torch.tensor([1 / 3], dtype=torch.float64))
    assert alpha.item() == pytest.approx(math.sqrt(3) / 2, rel=1e-15)
    assert sigma.item() == pytest.approx(0.5, rel=1e-15)


@named
def test_slopes_are_derivatives(schedule):
    """Central differences with step 1e-5 in float64, whose error is 1e-10 times the third derivative; at times
    between the levels of betas, where the slope jumps.
    """
    t = torch.linspace(0.1, 0.9, 17, dtype=torch.float64) + 4e-4
    difference = (schedule.log_snr(t + 1e-5) - schedule.log_snr(t - 1e-5)) / 2e-5
    torch.testing.assert_close(schedule.log_snr_slope(t), difference, rtol=1e-6, atol=1e-8)
    for slope, up, down in zip(
        schedule.slopes(t), schedule.alpha_sigma(t + 1e-5), schedule.alpha_sigma(t - 1e-5), strict=True
    ):
        torch.testing.assert_close(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


def test_fixed_schedules_have_the_levels_they_say():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert VariancePreserving(10.0, -6.0).log_snr(ends).tolist() == [10.0, -6.0]
    torch.testing.assert_close(VarianceExploding(0.01, 50.0).alpha_sigma(ends)[1], torch.tensor([0.01, 50.0]).double())
    assert VarianceExploding().alpha_sigma(ends)[0].tolist() == [1.0, 1.0]


def test_any_betas_give_their_product_at_every_step():
    betas = torch.rand(50, dtype=torch.float64) * 0.2 + 1e-3
    alpha, sigma = BetaSchedule(betas).alpha_sigma(torch.arange(1, 51, dtype=torch.float64) / 50)
    torch.testing.assert_close(alpha**2, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(50, dtype=torch.float64))
    ddpm = BetaSchedule(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    middle = torch.linspace(0.01, 1, 100, dtype=torch.float64)  # off the steps it lies close to the continuous one
    gap = ddpm.log_snr(middle - 3e-4) - LinearSchedule().log_snr(middle - 3e-4)
    assert float(gap.abs().max()) < 0.1


def test_any_falling_function_is_a_schedule():
    schedule = FunctionSchedule(lambda t: 8 - 14 * t**3 - t)
    torch.testing.assert_close(schedule.time(schedule.log_snr(T)), T, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="must fall strictly"):
        FunctionSchedule(lambda t: (t - 0.5) ** 2)
    with pytest.raises(ValueError, match="lowest must be below highest"):
        VariancePreserving(1.0, 1.0)
    with pytest.raises(ValueError, match="0 < smallest < largest"):
        VarianceExploding(0.0, 1.0)
    for betas in (torch.tensor([0.1]), torch.tensor([0.1, 1.0]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="betas must be one row"):
            BetaSchedule(betas)


@pytest.mark.parametrize("size", [1.0, 5.0])
def test_a_learned_schedule_keeps_its_ends_and_falls_whatever_its_parameters_are(size):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for seed in range(20):
        schedule = learned(seed, size)
        torch.testing.assert_close(schedule.log_snr(ends), torch.tensor([9.0, -6.0]).double(), rtol=1e-7, atol=0)
        assert bool((schedule.log_snr(torch.linspace(0, 1, 2001, dtype=torch.float64)).diff() < 0).all())
    start = LearnedSchedule(9.0, -6.0).log_snr(T)
    torch.testing.assert_close(start, VariancePreserving(9.0, -6.0).log_snr(T), rtol=0, atol=0.1)  # nearly linear


def test_ends_that_move_stay_in_order():
    schedule = learned(1, learn_ends=True)
    assert all(p.requires_grad for p in schedule.parameters())
    assert not any(p.requires_grad for p in learned(1).ends())
    with torch.no_grad():
        schedule.lowest.fill_(-4.0)
        schedule.stretch.fill_(math.log(0.5))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(ends), torch.tensor([3.5, -4.0]).double(), rtol=1e-6, atol=0)


def test_a_network_is_told_the_noise_level_of_a_schedule_that_moves():
    """The network gets the position of the log-SNR between the initial end points, which has the same meaning after
    training.
    """
    before, after = learned(2, learn_ends=True), learned(3, learn_ends=True)
    with torch.no_grad():
        after.lowest.fill_(-7.0)
    levels = torch.linspace(-5, 8, 14, dtype=torch.float64)
    for schedule in (before, after):
        clock = schedule.clock(schedule.time(levels))
        torch.testing.assert_close(clock, (9 - levels) / 15, rtol=0, atol=1e-9)
    assert torch.equal(CosineSchedule().clock(T), T)


def test_learned_schedule_refusals():
    with pytest.raises(ValueError, match="lowest must be below highest"):
        LearnedSchedule(-1.0, 1.0)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        LearnedSchedule(hidden=0)


LEVELS = torch.tensor([0.1, 0.2, 0.45, 0.7, 0.95], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), RectifiedSchedule()])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_implicit_family_has_the_marginals_of_the_process(schedule, eta):
    """Recursively from the last level, q(z_s | x) is the integral of q(z_s | z_t, x) q(z_t | x): its mean is affine
    in z_t.
    """
    family, x = ImplicitProcess.of_eta(schedule, LEVELS, eta), torch.randn(6, 2, dtype=torch.float64)
    q = family.marginal(x, len(LEVELS) - 1)
    for level in range(len(LEVELS) - 1, 0, -1):
        step, moved = family.backward(q.mean, x, level), family.backward(q.mean + 1, x, level)
        slope = moved.mean - step.mean
        q = Normal(step.mean, torch.sqrt((slope * q.stddev) ** 2 + step.stddev**2))
        expected = Process(schedule).marginal(x, LEVELS[level - 1].expand(6))
        torch.testing.assert_close(q.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(q.stddev, expected.stddev, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [CosineSchedule(), VarianceExploding(0.1, 10.0)])
def test_forward_and_backward_of_the_family_are_bayes_rule(schedule):
    """q(z_t | z_s, x) q(z_s | x) = q(z_s | z_t, x) q(z_t | x), for arbitrary standard deviations."""
    _, sigma = schedule.alpha_sigma(LEVELS)
    family = ImplicitProcess(schedule, LEVELS, torch.cat([sigma[:1], sigma[:-1] * 0.7]))
    x, z_s, z_t = torch.randn(3, 50, 2, dtype=torch.float64)
    for level in range(1, len(LEVELS)):
        left = family.forward(z_s, x, level).log_prob(z_t) + family.marginal(x, level - 1).log_prob(z_s)
        right = family.backward(z_t, x, level).log_prob(z_s) + family.marginal(x, level).log_prob(z_t)
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), RectifiedSchedule()])
def test_only_the_markov_member_of_the_family_forgets_x(schedule):
    process, markov = Process(schedule), ImplicitProcess.of_eta(schedule, LEVELS, 1.0)
    x, other, z = torch.randn(3, 5, 2, dtype=torch.float64)
    for level in range(1, len(LEVELS)):
        s, t = LEVELS[level - 1].expand(5), LEVELS[level].expand(5)
        a, spread = process.transition(s, t)
        step, posterior = markov.forward(z, x, level), process.posterior(z, x, s, t)
        torch.testing.assert_close(step.mean, a[:, None] * z, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(step.stddev, spread[:, None].expand(5, 2), rtol=1e-11, atol=0)
        torch.testing.assert_close(markov.backward(z, x, level).mean, posterior.mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(markov.backward(z, x, level).stddev, posterior.stddev, rtol=1e-11, atol=0)
        half = ImplicitProcess.of_eta(schedule, LEVELS, 0.5)
        gap = half.forward(z, x, level).mean - half.forward(z, other, level).mean
        assert float(gap.abs().max()) > 1e-2


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_the_sampler_draws_from_the_family_at_its_prediction(eta):
    """A step of DDIM(eta) is a draw of q(z_s | z_t, x = f(z_t)), with the same noise; the last step is N(f(z),
    d_1^2).
    """
    schedule = CosineSchedule()
    oracle = GaussianOracle(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0]), schedule)
    family, z = ImplicitProcess.of_eta(schedule, LEVELS, eta), torch.randn(5, 2, dtype=torch.float64)
    for level in range(1, len(LEVELS)):
        law = family.backward(z, oracle(z, LEVELS[level].expand(5)).x, level)
        noise = torch.randn(5, 2, dtype=torch.float64, generator=generator(level))
        step = (LEVELS[level], LEVELS[level - 1], None)
        made, _ = DDIM(eta).step(oracle, z, *step, generator=generator(level))
        torch.testing.assert_close(made, law.mean + law.stddev * noise, rtol=1e-10, atol=1e-10)
    last = ImplicitProcess(schedule, LEVELS, torch.tensor([0.3, 0, 0, 0, 0]).double()).last(z)
    assert torch.equal(last.mean, z)
    assert float(last.stddev.unique()) == pytest.approx(0.3)


def test_implicit_process_refusals():
    schedule = CosineSchedule()
    _, sigma = schedule.alpha_sigma(LEVELS)
    most = torch.cat([torch.ones(1), sigma[:-1]]).double()
    ImplicitProcess(schedule, LEVELS, most)  # sigma_t^2 = 1 - abar_(t-1) is the most there can be; d_1 is free
    too_much = most.clone()
    too_much[2] *= 1.001
    with pytest.raises(ValueError, match=r"at most 1 - abar_\(t-1\), got .* at level 2"):
        ImplicitProcess(schedule, LEVELS, too_much)
    with pytest.raises(ValueError, match="increasing"):
        ImplicitProcess(schedule, LEVELS.flip(0), most)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        ImplicitProcess(schedule, LEVELS * 2, most)
    for bad in (most[1:], -most):
        with pytest.raises(ValueError, match="deviations must be 5, one per time, each at least 0"):
            ImplicitProcess(schedule, LEVELS, bad)
    with pytest.raises(ValueError, match="eta must be"):
        ImplicitProcess.of_eta(schedule, LEVELS, 1.5)
    x = torch.zeros(1, 2)
    for level in (0, 5):
        with pytest.raises(ValueError, match="level must be from 1 to 4"):
            ImplicitProcess(schedule, LEVELS, most).backward(x, x, level)

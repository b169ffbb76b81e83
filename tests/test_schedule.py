"""Schedules against their closed forms, the process against Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.diffusion import (
    SCHEDULES,
    BetaSchedule,
    CosineSchedule,
    FunctionSchedule,
    LinearSchedule,
    Process,
    RectifiedSchedule,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ALL = [cls() for cls in SCHEDULES.values()]
named = pytest.mark.parametrize("schedule", ALL, ids=list(SCHEDULES))


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


@named
def test_a_transition_carries_one_marginal_to_the_next(schedule):
    """q(z_t | x) is q(z_t | z_s) integrated over q(z_s | x): means multiply, variances add."""
    process, s, t = Process(schedule), T[:-1], T[1:]
    a, spread = process.transition(s, t)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
    torch.testing.assert_close(a * alpha_s, alpha_t, rtol=1e-13, atol=0)
    torch.testing.assert_close(a**2 * sigma_s**2 + spread**2, sigma_t**2, rtol=1e-12, atol=1e-15)


@named
def test_posterior_is_bayes_rule(schedule):
    """q(z_s | z_t, x) q(z_t | x) = q(z_t | z_s) q(z_s | x) at any z_s, z_t, x."""
    process = Process(schedule)
    x, z_s, z_t = torch.randn(3, 64, 1, dtype=torch.float64)
    s, t = torch.rand(64, dtype=torch.float64) * 0.4 + 0.05, torch.rand(64, dtype=torch.float64) * 0.4 + 0.5
    a, spread = process.transition(s, t)
    forward = torch.distributions.Normal(a[:, None] * z_s, spread[:, None])
    left = process.posterior(z_t, x, s, t).log_prob(z_s) + process.marginal(x, t).log_prob(z_t)
    right = forward.log_prob(z_t) + process.marginal(x, s).log_prob(z_s)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_markov_transitions_compose():
    process = Process(CosineSchedule())
    r, s, t = (torch.tensor([v], dtype=torch.float64) for v in (0.2, 0.5, 0.8))
    (a1, d1), (a2, d2), (a, d) = process.transition(r, s), process.transition(s, t), process.transition(r, t)
    torch.testing.assert_close(a1 * a2, a)
    torch.testing.assert_close((a2 * d1) ** 2 + d2**2, d**2)


def test_refusals():
    half = torch.tensor([0.5])
    with pytest.raises(ValueError, match="s must be below t"):
        Process(CosineSchedule()).transition(half, half)
    with pytest.raises(ValueError, match="0 < beta_0 <= beta_1"):
        LinearSchedule(2.0, 1.0)


def test_cosine_values():
    alpha, sigma = CosineSchedule().alpha_sigma(torch.tensor([1 / 3], dtype=torch.float64))
    assert alpha.item() == pytest.approx(math.sqrt(3) / 2, rel=1e-15)
    assert sigma.item() == pytest.approx(0.5, rel=1e-15)


@named
def test_slopes_are_derivatives(schedule):
    """Central differences of step 1e-5 in float64, whose own error is of order 1e-10 of the third derivative."""
    t = torch.linspace(0.1, 0.9, 17, dtype=torch.float64)
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

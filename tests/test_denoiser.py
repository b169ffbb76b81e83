"""Every view of a prediction, the oracles, preconditioning, guidance and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.diffusion import (
    Clipped,
    CosineSchedule,
    GaussianOracle,
    Guided,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
    Prediction,
    RectifiedSchedule,
    min_snr,
    simple,
)

F64 = torch.float64
SCHEDULES = [CosineSchedule(), LinearSchedule(), RectifiedSchedule()]


def mixture(schedule) -> MixtureOracle:
    return MixtureOracle([0.3, 0.7], [[-1.5, 0.5], [1.0, -0.5]], [[0.2, 0.4], [0.3, 0.1]], schedule)


def truth(schedule, n=32):
    x, eps = torch.randn(2, n, 3, dtype=F64)
    t = torch.rand(n, dtype=F64) * 0.98 + 0.01
    alpha, sigma = (v[:, None] for v in schedule.alpha_sigma(t))
    return x, eps, alpha * x + sigma * eps, t, alpha, sigma


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("view", ["x", "eps", "v", "flow"])
def test_every_view_gives_back_every_other(schedule, view):
    x, eps, z, _, alpha, sigma = truth(schedule)
    target = Prediction(x, eps, alpha, sigma)
    build = getattr(Prediction, f"of_{view}")
    p = build(target.view(view), z, alpha, sigma)
    for name in ("x", "eps", "v", "flow"):
        torch.testing.assert_close(p.view(name), target.view(name), rtol=1e-6, atol=1e-6)


def test_views_that_are_finite_at_both_ends_and_those_that_are_refused():
    x, eps = torch.randn(2, 2, 3, dtype=F64)
    alpha, sigma = torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([[0.0], [1.0]], dtype=F64)
    z, target = alpha * x + sigma * eps, Prediction(x, eps, alpha, sigma)
    for view in ("v", "flow"):
        p = getattr(Prediction, f"of_{view}")(target.view(view), z, alpha, sigma)
        torch.testing.assert_close(p.x, x)
        torch.testing.assert_close(p.eps, eps)
    with pytest.raises(ValueError, match="no finite x at alpha = 0"):
        Prediction.of_eps(eps, z, alpha, sigma)
    with pytest.raises(ValueError, match="no finite eps at sigma = 0"):
        Prediction.of_x(x, z, alpha, sigma)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_oracle_is_the_score_of_its_own_density(schedule):
    """Tweedie: autograd of the closed-form log density equals the prediction's score; and z = alpha x + sigma eps."""
    oracle = mixture(schedule)
    z = torch.randn(40, 2, dtype=F64, requires_grad=True)
    t = torch.linspace(0.05, 0.95, 40, dtype=F64)
    p = oracle(z, t)
    (score,) = torch.autograd.grad(oracle.log_prob(z, t).sum(), z)
    torch.testing.assert_close(p.score, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.alpha * p.x + p.sigma * p.eps, z, rtol=1e-9, atol=1e-9)


def test_oracle_is_the_posterior_mean_by_quadrature():
    """E[x | z] = integral x p(x) q(z | x) / integral p(x) q(z | x) on a fine grid, one dimension."""
    schedule = CosineSchedule()
    oracle = MixtureOracle([0.25, 0.75], [[-1.0], [2.0]], [[0.09], [0.49]], schedule)
    grid = torch.linspace(-12, 12, 20001, dtype=F64)
    t, z = torch.tensor([0.4], dtype=F64), torch.tensor([[0.7]], dtype=F64)
    alpha, sigma = schedule.alpha_sigma(t)
    prior = oracle.log_prob(grid[:, None], torch.zeros(1, dtype=F64).expand(len(grid)))
    joint = prior + torch.distributions.Normal(alpha * grid, sigma).log_prob(z[0])
    weight = joint.softmax(0)
    torch.testing.assert_close(oracle(z, t).x[0, 0], (weight * grid).sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_denoiser_has_a_smaller_loss_than_the_oracle(schedule):
    """n = 20,000: the oracle's loss is below that of a scaled copy by more than 4 standard errors of the difference."""
    oracle = mixture(schedule)
    rng = torch.Generator().manual_seed(1)
    x = oracle.sample(20_000, generator=rng)
    eps = torch.randn(x.shape, generator=rng, dtype=F64)
    t = torch.rand(len(x), generator=rng, dtype=F64) * 0.9 + 0.05
    alpha, sigma = (v[:, None] for v in schedule.alpha_sigma(t))
    z = alpha * x + sigma * eps
    p = oracle(z, t)
    best = simple(p, x, eps)
    for factor in (0.95, 1.05):
        scaled = simple(Prediction.of_eps(p.eps * factor, z, alpha, sigma), x, eps)
        gap = scaled - best
        assert gap.mean() > 4 * gap.std() / len(gap) ** 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_losses_are_weights_on_one_error(schedule):
    """|eps|^2 = SNR |x|^2 for all; |v|^2 = (SNR + 1) |x|^2 where variance is preserved; |flow|^2 = |x|^2 (1 + r)^2."""
    x, eps, z, _, alpha, sigma = truth(schedule)
    p = Prediction.of_x(x + 0.1 * torch.randn_like(x), z, alpha, sigma)
    snr = (alpha**2 / sigma**2)[:, 0]
    of_x = simple(p, x, eps, view="x")
    torch.testing.assert_close(simple(p, x, eps, view="eps"), snr * of_x, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(simple(p, x, eps, view="flow"), (1 + snr.sqrt()) ** 2 * of_x, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(min_snr(p, x, eps, gamma=2.0), snr.clamp(max=2) * of_x, rtol=1e-7, atol=1e-12)
    if not isinstance(schedule, RectifiedSchedule):
        torch.testing.assert_close(simple(p, x, eps, view="v"), (snr + 1) * of_x, rtol=1e-7, atol=1e-12)


def test_losses_give_one_number_an_example():
    """An example's loss does not depend on its neighbours in the batch."""
    x, eps, z, _, alpha, sigma = truth(CosineSchedule(), n=5)
    p = Prediction.of_x(0.9 * x, z, alpha, sigma)
    alone = Prediction(*(v[2:3] for v in (p.x, p.eps, p.alpha, p.sigma)))
    for loss in (simple, min_snr):
        torch.testing.assert_close(loss(p, x, eps)[2:3], loss(alone, x[2:3], eps[2:3]))


class Fixed(nn.Module):
    """A network that returns what it is told, and remembers what it was given."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, z, t, cond=None):
        self.seen = z
        return self.out


@pytest.mark.parametrize("output", ["x", "eps", "v", "flow"])
def test_a_network_speaks_its_view(output):
    schedule = CosineSchedule()
    x, eps, z, t, alpha, sigma = truth(schedule)
    net = Fixed(Prediction(x, eps, alpha, sigma).view(output))
    p = NetworkDenoiser(net, schedule, output=output)(z, t)
    torch.testing.assert_close(p.x, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.eps, eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_edm_preconditioning(schedule, s):
    """F = 0 is the best linear denoiser; the input and F's target have unit variance; z is explained exactly."""
    _, _, z, t, alpha, sigma = truth(schedule)
    net = Fixed(torch.zeros_like(z))
    denoiser = NetworkDenoiser(net, schedule, output="edm", data_std=s)
    p = denoiser(z, t)
    wiener = GaussianOracle(torch.zeros(3, dtype=F64), torch.full((3,), s**2, dtype=F64), schedule)(z, t)
    torch.testing.assert_close(p.x, wiener.x, rtol=1e-9, atol=1e-9)
    net.out = torch.randn_like(z)
    p = denoiser(z, t)
    torch.testing.assert_close(p.alpha * p.x + p.sigma * p.eps, z, rtol=1e-9, atol=1e-9)
    # the target F* = (x - c_skip z) / c_out over x ~ N(0, s^2), eps ~ N(0, 1), and c_in z, in closed form
    variance = alpha**2 * s**2 + sigma**2
    c_skip, c_out = alpha * s**2 / variance, sigma * s / variance.sqrt()
    target_variance = ((1 - c_skip * alpha) ** 2 * s**2 + (c_skip * sigma) ** 2) / c_out**2
    torch.testing.assert_close(target_variance, torch.ones_like(target_variance))
    torch.testing.assert_close(net.seen, z / variance.sqrt())


class TwoGaussians(GaussianOracle):
    """Conditional oracle: condition 0 is N(-1, 1), condition 1 is N(1, 1), the null condition 2 is N(0, 4)."""

    def __init__(self, schedule):
        super().__init__(torch.zeros(1), torch.ones(1), schedule)
        self.null = torch.tensor(2)
        self.calls = 0

    def forward(self, z_t, t, cond=None):
        self.calls += 1
        cond = self.condition(cond, len(z_t))
        parts = [
            GaussianOracle(torch.tensor([m]), torch.tensor([v]), self.schedule)(z_t, t)
            for m, v in ((-1.0, 1.0), (1.0, 1.0), (0.0, 4.0))
        ]
        pick = torch.nn.functional.one_hot(cond, 3).to(z_t).T[:, :, None]
        x, eps = (sum(w * getattr(p, n) for w, p in zip(pick, parts, strict=True)) for n in ("x", "eps"))
        return Prediction(x, eps, parts[0].alpha, parts[0].sigma)


def test_guidance_is_linear_in_the_scale_and_one_is_off():
    oracle = TwoGaussians(CosineSchedule())
    z, t, cond = torch.randn(6, 1, dtype=F64), torch.full((6,), 0.5, dtype=F64), torch.tensor([0, 1] * 3)
    with_cond, without = oracle(z, t, cond), oracle(z, t)
    for w in (0.0, 0.5, 1.0, 3.0):
        p = Guided(oracle, w)(z, t, cond)
        torch.testing.assert_close(p.score, without.score + w * (with_cond.score - without.score))
        torch.testing.assert_close(p.x, without.x + w * (with_cond.x - without.x))
        torch.testing.assert_close(p.alpha * p.x + p.sigma * p.eps, z)


def test_guidance_outside_its_interval_is_the_conditional_model():
    oracle = TwoGaussians(CosineSchedule())
    guided = Guided(oracle, 5.0, interval=(0.2, 0.6))
    z, cond = torch.randn(2, 1, dtype=F64), torch.tensor([0, 1])
    t = torch.tensor([0.7, 0.5], dtype=F64)
    p, plain, full = guided(z, t, cond), oracle(z, t, cond), Guided(oracle, 5.0)(z, t, cond)
    torch.testing.assert_close(p.x, torch.stack([plain.x[0], full.x[1]]))


def test_guidance_refusals():
    plain = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    with pytest.raises(ValueError, match="without a condition"):
        Guided(plain, 2.0)
    with pytest.raises(ValueError, match="at least 0"):
        Guided(TwoGaussians(CosineSchedule()), -1.0)
    with pytest.raises(ValueError, match="low <= high"):
        Guided(TwoGaussians(CosineSchedule()), 1.0, interval=(0.6, 0.2))
    with pytest.raises(ValueError, match="low must be below high"):
        Clipped(plain, 1.0, 1.0)


def test_clipping_keeps_x_in_range_and_explains_z():
    oracle = Clipped(GaussianOracle(torch.zeros(2), torch.full((2,), 9.0), CosineSchedule()), -1.0, 1.0)
    z, t = 3 * torch.randn(16, 2, dtype=F64), torch.linspace(0.05, 0.95, 16, dtype=F64)
    p = oracle(z, t)
    assert float(p.x.abs().max()) <= 1
    torch.testing.assert_close(p.alpha * p.x + p.sigma * p.eps, z, rtol=1e-9, atol=1e-9)


def test_oracle_refusals():
    schedule = CosineSchedule()
    with pytest.raises(ValueError, match="must agree"):
        MixtureOracle([1.0, 1.0], [[0.0]], [[1.0]], schedule)
    with pytest.raises(ValueError, match="positive"):
        MixtureOracle([0.0], [[0.0]], [[1.0]], schedule)
    x = torch.ones(1, 1)
    with pytest.raises(ValueError, match="gamma must be positive"):
        min_snr(Prediction(x, x, x, x), x, x, gamma=0.0)

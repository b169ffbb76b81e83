"""All parametrizations of a prediction, the exact denoisers, preconditioning, guidance and clipping."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from jensen.diffusion import (
    ClassifierGuided,
    Clipped,
    CosineSchedule,
    Denoiser,
    EmpiricalOracle,
    GaussianOracle,
    Guided,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
    Prediction,
    RectifiedSchedule,
    edm,
    min_snr,
    sigmoid,
    simple,
    step_kl,
    vlb,
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
    """Tweedie's formula: the gradient of the closed-form log density equals the prediction's score; and z = alpha x
    + sigma eps.
    """
    oracle = mixture(schedule)
    z = torch.randn(40, 2, dtype=F64, requires_grad=True)
    t = torch.linspace(0.05, 0.95, 40, dtype=F64)
    p = oracle(z, t)
    (score,) = torch.autograd.grad(oracle.log_prob(z, t).sum(), z)
    torch.testing.assert_close(p.score, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.alpha * p.x + p.sigma * p.eps, z, rtol=1e-9, atol=1e-9)


def test_oracle_is_the_posterior_mean_by_quadrature():
    """E[x | z] = integral x p(x) q(z | x) / integral p(x) q(z | x) on a fine grid in one dimension."""
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
    """Squared errors: |eps|^2 = SNR |x|^2; |v|^2 = (SNR + 1) |x|^2 where variance is preserved; |flow|^2 = |x|^2 (1
    + r)^2. The terms of the bound weight the sum over the event by -SNR'/2, with SNR' by differences, and by (SNR(s)
    - SNR(t)) / 2.
    """
    x, eps, z, t, alpha, sigma = truth(schedule)
    p = Prediction.of_x(x + 0.1 * torch.randn_like(x), z, alpha, sigma)
    snr = (alpha**2 / sigma**2)[:, 0]
    of_x = simple(p, x, eps, view="x")
    torch.testing.assert_close(simple(p, x, eps, view="eps"), snr * of_x, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(simple(p, x, eps, view="flow"), (1 + snr.sqrt()) ** 2 * of_x, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(min_snr(p, x, eps, gamma=2.0), snr.clamp(max=2) * of_x, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(edm(p, x, eps, data_std=0.5), (snr + 4) * of_x, rtol=1e-7, atol=1e-12)
    weight = snr / (1 + snr * math.exp(1.5))
    torch.testing.assert_close(sigmoid(p, x, eps, bias=-1.5), weight * of_x, rtol=1e-7, atol=1e-12)
    fall = (schedule.log_snr(t - 1e-6).exp() - schedule.log_snr(t + 1e-6).exp()) / 2e-6
    slope = schedule.log_snr_slope(t)
    torch.testing.assert_close(vlb(p, x, eps, slope), fall / 2 * 3 * of_x, rtol=1e-6, atol=1e-12)
    step = schedule.log_snr(0.9 * t).exp() - snr
    torch.testing.assert_close(step_kl(p, x, eps, schedule, 0.9 * t, t), step / 2 * 3 * of_x, rtol=1e-7, atol=1e-12)
    if not isinstance(schedule, RectifiedSchedule):
        torch.testing.assert_close(simple(p, x, eps, view="v"), (snr + 1) * of_x, rtol=1e-7, atol=1e-12)


def test_losses_give_one_number_an_example():
    """An example's loss does not depend on its neighbours in the batch."""
    x, eps, z, _, alpha, sigma = truth(CosineSchedule(), n=5)
    p = Prediction.of_x(0.9 * x, z, alpha, sigma)
    alone = Prediction(*(v[2:3] for v in (p.x, p.eps, p.alpha, p.sigma)))
    for loss in (simple, min_snr, edm, sigmoid):
        torch.testing.assert_close(loss(p, x, eps)[2:3], loss(alone, x[2:3], eps[2:3]))


class Fixed(nn.Module):
    """A network that returns a given output and records its inputs."""

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
    """F = 0 gives the best linear denoiser; the input and the target of F have unit variance; z = alpha x + sigma
    eps exactly.
    """
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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_edm_loss_is_the_error_of_its_network(schedule):
    """F* = (x - c_skip z) / c_out: uniform weight on the error of F is the weight SNR + 1 / s^2 on that of x."""
    x, eps, z, t, alpha, sigma = truth(schedule)
    s, out = 0.7, torch.randn(32, 3, dtype=F64)
    p = NetworkDenoiser(Fixed(out), schedule, output="edm", data_std=s)(z, t)
    variance = alpha**2 * s**2 + sigma**2
    target = (x - alpha * s**2 / variance * z) / (sigma * s / variance.sqrt())
    expected = ((out - target) ** 2).mean(1)
    torch.testing.assert_close(edm(p, x, eps, data_std=s), expected, rtol=1e-7, atol=1e-9)


def test_losses_are_finite_at_both_ends():
    x, eps = torch.randn(2, 2, 3, dtype=F64)
    alpha, sigma = torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([[0.0], [1.0]], dtype=F64)
    p = Prediction.of_v(torch.zeros(2, 3, dtype=F64), alpha * x + sigma * eps, alpha, sigma)
    for loss in (simple, edm, sigmoid):
        assert bool(torch.isfinite(loss(p, x, eps)).all())
    ends = torch.tensor([0.1, 1.0], dtype=F64)
    last = step_kl(p, x, eps, CosineSchedule(), ends - 0.05, ends)[1]
    torch.testing.assert_close(last, CosineSchedule().log_snr(ends[1] - 0.05).exp() / 2 * ((p.x - x) ** 2)[1].sum())


class Doubled(nn.Module):
    """Twice the channels: the input and a constant."""

    def forward(self, z, t):
        return torch.cat([z, torch.full_like(z, 0.6)], 1)


def test_a_network_with_twice_the_channels_learns_variances():
    """The first half is the prediction, the second half u the fraction (1 + u) / 2; guidance and clipping do not
    change the fraction.
    """
    _, _, z, t, _, _ = truth(CosineSchedule())
    z = z.reshape(4, 8, 3, 1)
    t = t[:4]
    learned = NetworkDenoiser(Doubled(), CosineSchedule(), learned_variance=True)
    p, plain = learned(z, t), NetworkDenoiser(Fixed(z), CosineSchedule())(z, t)
    assert plain.fraction is None
    torch.testing.assert_close(p.x, plain.x)
    torch.testing.assert_close(p.fraction, torch.full_like(z, 0.8))
    torch.testing.assert_close(Clipped(learned, -1.0, 1.0)(z, t).fraction, p.fraction)
    with pytest.raises(ValueError, match="two outputs per channel"):
        NetworkDenoiser(Fixed(z), CosineSchedule(), learned_variance=True)(z, t)


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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_exact_classifiers_gradient_makes_the_exact_conditional_denoiser(schedule):
    """p(z | k) = p(z) p(k | z) / pi_k: with scale 1, guidance turns the mixture's denoiser into that of component k."""
    oracle = mixture(schedule)
    z, t, cond = torch.randn(20, 2, dtype=F64), torch.linspace(0.05, 0.95, 20, dtype=F64), torch.arange(20) % 2

    def classifier(z, t, cond):
        return oracle.log_share(z, t)[torch.arange(len(z)), cond]

    parts = [GaussianOracle(oracle.means[k], oracle.variances[k], schedule)(z, t) for k in (0, 1)]
    plain, exact = oracle(z, t), {}
    for name in ("x", "eps"):
        exact[name] = torch.where(cond[:, None] == 0, getattr(parts[0], name), getattr(parts[1], name))
    for w in (0.0, 1.0, 2.5):
        with torch.no_grad():  # as in samplers
            p = ClassifierGuided(oracle, classifier, w)(z, t, cond)
        for name in ("x", "eps"):
            value = getattr(plain, name)
            torch.testing.assert_close(getattr(p, name), value + w * (exact[name] - value), rtol=1e-8, atol=1e-8)
    free = ClassifierGuided(oracle, classifier, 3.0)(z, t)  # without a condition
    torch.testing.assert_close(free.x, plain.x)


class Parts(Denoiser):
    """Exact for p(x | a, b) = N(a + b, 1), p(x | a) = N(a, 2) and p(x) = N(0, 4); a, b = +-1, and 0 is "not given"."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.null = schedule, torch.tensor([0, 0])

    def forward(self, z_t, t, cond=None):
        a, b = self.condition(cond, len(z_t)).to(z_t).T[..., None]
        variance = 1 + (b == 0) + 2.0 * ((a == 0) & (b == 0))
        parts = [GaussianOracle(m.flatten(), v.flatten(), self.schedule) for m, v in zip(a + b, variance, strict=True)]
        found = [oracle(z[None], s[None]) for oracle, z, s in zip(parts, z_t, t, strict=True)]
        return Prediction(*(torch.cat([getattr(p, n) for p in found]) for n in ("x", "eps", "alpha", "sigma")))


def test_two_parts_of_a_condition_have_scales_of_their_own():
    """The score is that of p(x) (p(x | a) / p(x))^w (p(x | a, b) / p(x | a))^v at the noise level; w = v is guidance
    by the whole condition; w = 1, v = 0 the model of the first part.
    """
    parts, t, cond = Parts(CosineSchedule()), torch.linspace(0.1, 0.9, 4, dtype=F64), torch.tensor([[1, -1]] * 4)
    z = torch.randn(4, 1, dtype=F64)

    def first(c):
        return c * torch.tensor([1, 0])

    alpha, sigma = (level[:, None] for level in parts.schedule.alpha_sigma(t))
    x, a, free = (-(z - alpha * m) / (alpha**2 * s + sigma**2) for m, s in ((0.0, 1.0), (1.0, 2.0), (0.0, 4.0)))
    for w, v in ((3.0, 2.0), (0.5, 0.0), (1.0, 4.0)):
        score = Guided(parts, w, rest=(v, first))(z, t, cond).score
        torch.testing.assert_close(score, free + w * (a - free) + v * (x - a), rtol=1e-9, atol=1e-9)
    limited = Guided(parts, 3.0, (0.5, 1.0), (2.0, first))(z, t, cond).score
    inside = (t >= 0.5)[:, None]
    torch.testing.assert_close(limited, torch.where(inside, free + 3 * (a - free) + 2 * (x - a), x))
    whole = Guided(parts, 2.5)(z, t, cond)
    torch.testing.assert_close(Guided(parts, 2.5, rest=(2.5, first))(z, t, cond).eps, whole.eps)
    torch.testing.assert_close(Guided(parts, 1.0, rest=(0.0, first))(z, t, cond).x, parts(z, t, first(cond)).x)
    with pytest.raises(ValueError, match="scale of the second part must be at least 0, got -1"):
        Guided(parts, 2.0, rest=(-1.0, first))


def test_guidance_refusals():
    plain = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    with pytest.raises(ValueError, match="with a null condition"):
        Guided(plain, 2.0)
    with pytest.raises(ValueError, match="at least 0"):
        Guided(TwoGaussians(CosineSchedule()), -1.0)
    with pytest.raises(ValueError, match="low <= high"):
        Guided(TwoGaussians(CosineSchedule()), 1.0, interval=(0.6, 0.2))
    with pytest.raises(ValueError, match="scale must be at least 0, got -1"):
        ClassifierGuided(plain, lambda z, t, c: z.sum(1), -1.0)
    with pytest.raises(ValueError, match="no finite x at alpha = 0"):
        ClassifierGuided(plain, lambda z, t, c: z.sum(1))(torch.ones(1, 1), torch.ones(1), torch.zeros(1))
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
    with pytest.raises(ValueError, match="data_std must be positive"):
        edm(Prediction(x, x, x, x), x, x, data_std=0.0)


def test_an_oracles_classifier_is_bayes_rule():
    oracle = mixture(CosineSchedule())
    z, t = torch.randn(16, 2, dtype=F64), torch.linspace(0.05, 0.95, 16, dtype=F64)
    parts = [GaussianOracle(oracle.means[k], oracle.variances[k], oracle.schedule).log_prob(z, t) for k in (0, 1)]
    joint = torch.stack([parts[0] + math.log(0.3), parts[1] + math.log(0.7)], dim=1)
    torch.testing.assert_close(oracle.log_share(z, t), joint - oracle.log_prob(z, t)[:, None])


def test_entropies():
    """By quadrature: a Gaussian has the closed form; a mixture of distant modes adds log K or the entropy of its
    weights; an overlapping mixture agrees with the mean of -log p over n = 40,000 draws within 4 standard errors.
    """
    schedule, t = CosineSchedule(), torch.tensor([0.0, 0.3], dtype=F64)
    gaussian = GaussianOracle(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]), schedule)
    closed = torch.tensor([0.5, 3.0]).double().log().sum() / 2 + 1 + math.log(2 * math.pi)
    torch.testing.assert_close(gaussian.entropy(t)[0], closed)
    torch.testing.assert_close(MixtureOracle.entropy(gaussian, t, nodes=16), gaussian.entropy(t), rtol=1e-10, atol=0)
    far = MixtureOracle([1.0, 3.0], [[-50.0], [50.0]], [[1.0], [1.0]], schedule)
    of_weights = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    unit = 0.5 * math.log(2 * math.pi * math.e)
    torch.testing.assert_close(far.entropy(t), torch.full((2,), unit + of_weights, dtype=F64), rtol=1e-9, atol=0)
    near = mixture(schedule)
    x = near.sample(40_000, generator=torch.Generator().manual_seed(0))
    surprise = -near.log_prob(x, torch.zeros(len(x), dtype=F64))
    assert near.entropy(t)[0].item() == pytest.approx(surprise.mean().item(), abs=4 * surprise.std().item() / 200)
    with pytest.raises(ValueError, match="at most 3 dimensions"):
        MixtureOracle([1.0], torch.zeros(1, 4), torch.ones(1, 4), schedule).entropy(t)
    with pytest.raises(ValueError, match="nodes must be at least 1"):
        near.entropy(t, nodes=0)


@pytest.mark.parametrize("variance", [1e-1, 1e-2, 1e-4, 1e-8, 1e-12])
def test_the_entropy_of_a_narrow_mode_inside_a_wide_one(variance):
    """By scipy's adaptive quadrature between the modes' edges, to 1e-8."""
    oracle = MixtureOracle([0.5, 0.5], [[0.0], [0.3]], [[1.0], [variance]], CosineSchedule())
    law = [stats.norm(0, 1), stats.norm(0.3, variance**0.5)]

    def surprise(x):
        log_p = np.logaddexp(*(each.logpdf(x) for each in law)) - math.log(2)
        return -log_p * math.exp(log_p)

    steps = variance**0.5 * np.array([1.0, 3, 6, 9, 12, 20])
    edges = np.unique(np.concatenate([np.linspace(-12, 12, 13), 0.3 - steps, [0.3], 0.3 + steps]))
    exact = math.fsum(integrate.quad(surprise, a, b, epsabs=1e-13, limit=200)[0] for a, b in pairwise(edges))
    found = oracle.entropy(torch.zeros(1, dtype=F64))
    assert found.item() == pytest.approx(exact, abs=1e-8)


def test_a_finite_data_set_has_the_density_of_its_kernels():
    """Its density equals that of the mixture of points, its score that of the denoiser."""
    schedule, data = CosineSchedule(), torch.randn(5, 3, dtype=F64)
    oracle, t = EmpiricalOracle(data, schedule), torch.linspace(0.1, 0.9, 7, dtype=F64)
    z = torch.randn(7, 3, dtype=F64, requires_grad=True)
    log_p = oracle.log_prob(z, t)
    torch.testing.assert_close(log_p, MixtureOracle([1.0] * 5, data, torch.zeros(5, 1), schedule).log_prob(z, t))
    (score,) = torch.autograd.grad(log_p.sum(), z)
    torch.testing.assert_close(oracle(z, t).score, score)


def test_variances_keep_to_the_condition_under_guidance():
    class Spread(TwoGaussians):
        def forward(self, z_t, t, cond=None):
            p = super().forward(z_t, t, cond)
            return replace(p, fraction=self.condition(cond, len(z_t)).to(z_t)[:, None].expand_as(z_t) / 4)

    z, t, cond = torch.randn(2, 1, dtype=F64), torch.full((2,), 0.5, dtype=F64), torch.tensor([0, 1])
    p = Guided(Spread(CosineSchedule()), 3.0)(z, t, cond)
    assert p.fraction[:, 0].tolist() == [0.0, 0.25]

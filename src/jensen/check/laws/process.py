r"""The forward process: schedules, q(z_t | z_s), q(z_s | z_t, x), the variance, the Markov factorisation.

Expected values are written out for $\alpha = \cos(\pi t/2)$, $\sigma = \sin(\pi t/2)$, or computed by running a chain
of betas: none of them uses jensen's schedules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from jensen.check.evidence import Claims, close, differs
from jensen.check.law import law
from jensen.check.line import F64, f64, randn
from jensen.check.schedules import schedule as check_schedule
from jensen.core.seeding import generator
from jensen.diffusion import (
    BetaSchedule,
    CosineSchedule,
    FunctionSchedule,
    ImplicitProcess,
    ImprovedCosineSchedule,
    LearnedSchedule,
    LinearSchedule,
    Process,
    RectifiedSchedule,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)

TIGHT = 1e-9


def cos_sin(t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma of the cosine schedule, written out."""
    return torch.cos(t * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def posterior_deviation(s: Tensor, t: Tensor) -> Tensor:
    """Sigma_{t|s} sigma_s / sigma_t of the cosine schedule, by the angles u of t and v of s."""
    u, v = t * (math.pi / 2), s * (math.pi / 2)
    return torch.sqrt(torch.sin(u + v) * torch.sin(u - v)) / torch.cos(v) * torch.sin(v) / torch.sin(u)


def betas() -> Tensor:
    """DDPM's betas for 50 steps."""
    return torch.linspace(2e-3, 0.3, 50, dtype=F64)


def at_steps(*steps: int) -> list[Tensor]:
    """The times of these steps of 50."""
    return [f64([k / 50]) for k in steps]


def chain(first: int, last: int) -> tuple[float, float]:
    """Factor and variance after z <- sqrt(1 - beta) z + sqrt(beta) n with the betas first + 1 to last."""
    factor, variance = 1.0, 0.0
    for beta in betas()[first:last].tolist():
        factor, variance = factor * math.sqrt(1 - beta), (1 - beta) * variance + beta
    return factor, variance


@law("process/marginal")
def marginal(_: float) -> Claims:
    r"""A chain of small steps has the same marginal as one draw of alpha_t x + sigma_t eps.

    $$q(z_t \mid x) = N(\alpha_t x,\ \sigma_t^2)$$
    z <- sqrt(1 - beta) z + sqrt(beta) n multiplies the factors and adds variance at each step, so that after i steps
    alpha^2 = prod (1 - beta_j) and sigma^2 = 1 - alpha^2.
    Source: Ho et al. (2020), equation 4.
    """
    process, x = Process(BetaSchedule(betas())), f64([[1.7]])
    for i in (1, 10, 50):
        factor, variance = chain(0, i)
        q = process.marginal(x, *at_steps(i))
        yield close(f"mean after {i} steps", factor * 1.7, q.mean, TIGHT)
        yield close(f"variance after {i} steps", variance, q.variance, TIGHT)
    t = f64([0.0, 0.3, 1.0])
    q, (alpha, sigma) = Process(CosineSchedule()).marginal(x.expand(3, 1), t), cos_sin(t)
    yield close("mean at t = 0, 0.3, 1, cosine", 1.7 * alpha, q.mean[:, 0], TIGHT)
    yield close("deviation at t = 0, 0.3, 1, cosine", sigma, q.stddev[:, 0], TIGHT)


@law("process/transition")
def transition(_: float) -> Claims:
    r"""Between any two times the process makes one Gaussian step: the composition of all the small steps between.

    $$q(z_t \mid z_s) = N(a_{t|s} z_s,\ \sigma_{t|s}^2), \quad a_{t|s} = \alpha_t/\alpha_s, \quad
    \sigma_{t|s}^2 = \sigma_t^2 - a_{t|s}^2 \sigma_s^2$$
    a alpha_s x must be alpha_t x, and a^2 sigma_s^2 + sigma_{t|s}^2 the variance sigma_t^2. On the cosine schedule
    sigma_{t|s}^2 = sin(u + v) sin(u - v) / cos(v)^2 at the angles u of t and v of s; on DDPM's schedule in continuous
    time a^2 = exp(-(B(t) - B(s))) = 1 - sigma_{t|s}^2, B the integral of beta.
    Source: Kingma et al., VDM (2021), appendix A.1.
    """
    process = Process(BetaSchedule(betas()))
    for i, j in ((1, 2), (3, 20), (10, 50)):
        a, spread = process.transition(*at_steps(i, j))
        factor, variance = chain(i, j)
        yield close(f"factor of steps {i + 1} to {j}", factor, a, TIGHT)
        yield close(f"variance of steps {i + 1} to {j}", variance, spread**2, TIGHT)
    s, t = f64([0.1, 0.3, 0.2]), f64([0.2, 0.9, 0.95])
    v, u = s * math.pi / 2, t * math.pi / 2
    gained = 0.1 * (t - s) + 19.9 * (t**2 - s**2) / 2
    for name, schedule, factors, variances in (
        ("cosine", CosineSchedule(), u.cos() / v.cos(), torch.sin(u + v) * torch.sin(u - v) / torch.cos(v) ** 2),
        ("linear betas in continuous time", LinearSchedule(), torch.exp(-gained / 2), 1 - torch.exp(-gained)),
    ):
        a, spread = Process(schedule).transition(s, t)
        yield close(f"factor, {name}", factors, a, TIGHT)
        yield close(f"variance, {name}", variances, spread**2, TIGHT)


@law("process/posterior")
def posterior(_: float) -> Claims:
    r"""Given the data, the reverse step is Gaussian, by Bayes' rule.

    $$q(z_s \mid z_t, x) = N\Big(\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t +
    \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} x,\ \frac{\sigma_{t|s}^2\sigma_s^2}{\sigma_t^2}\Big)$$
    q(z_s | z_t, x) is proportional to q(z_t | z_s) q(z_s | x): two Gaussians in z_s of precisions a^2 / sigma_{t|s}^2
    and 1 / sigma_s^2, whose sum is sigma_t^2 / (sigma_{t|s}^2 sigma_s^2). Here the product is integrated on a grid.
    Source: Ho et al. (2020), equation 7; Kingma et al., VDM (2021), appendix A.2.
    """
    x, z_t, s, t = 0.8, -0.5, 0.3, 0.65
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (cos_sin(f64(v)) for v in (s, t))
    z, a = torch.linspace(-6, 6, 6001, dtype=F64), alpha_t / alpha_s
    forward = sigma_t**2 - a**2 * sigma_s**2
    mass = torch.softmax(-((z_t - a * z) ** 2) / (2 * forward) - (z - alpha_s * x) ** 2 / (2 * sigma_s**2), 0)
    mean, rows = mass @ z, (f64([[z_t]]), f64([[x]]))
    q = Process(CosineSchedule()).posterior(*rows, f64([s]), f64([t]))
    yield close("mean, by integrating Bayes' rule", mean, q.mean, TIGHT)
    yield close("variance, by integrating Bayes' rule", mass @ (z - mean) ** 2, q.variance, TIGHT)
    bar, i = (1 - betas()).cumprod(0), 19  # DDPM's step 20, from 19
    before, after, b = float(bar[i - 1]), float(bar[i]), float(betas()[i])
    q = Process(BetaSchedule(betas())).posterior(*rows, *at_steps(i, i + 1))
    mean_ddpm = (math.sqrt(before) * b * x + math.sqrt(1 - b) * (1 - before) * z_t) / (1 - after)
    yield close("mean in DDPM's notation, step 20", mean_ddpm, q.mean, TIGHT)
    yield close("variance in DDPM's notation, step 20", (1 - before) / (1 - after) * b, q.variance, TIGHT)


@law("errata/posterior-mean")
def posterior_mean(_: float) -> Claims:
    r"""The posterior's mean weighs z_t by a_{t|s} sigma_s^2 / sigma_t^2, with a to the first power, not squared.

    $$\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t + \ldots, \text{ not }
    \frac{a_{t|s}^2\sigma_s^2}{\sigma_t^2} z_t$$
    The slope of E[z_s | z_t, x] in z_t is Cov(z_s, z_t) / Var z_t, and given x the covariance is a sigma_s^2. By the
    chain of betas, steps 10 and 40 of 50.
    Source: Ho et al. (2020), equation 7.
    """
    (a, forward), (_factor, before) = chain(10, 40), chain(0, 10)
    process, x, times = Process(BetaSchedule(betas())), f64([[0.0]]), at_steps(10, 40)
    found = process.posterior(x + 1, x, *times).mean - process.posterior(x, x, *times).mean
    yield close("slope of the posterior's mean in z_t", a * before / (a**2 * before + forward), found, TIGHT)
    yield differs("with a squared, relative to it, the slope", 1.0, a, 0.5)


@law("process/variance-preservation")
def variance_preservation(_: float) -> Claims:
    r"""Data of unit variance keep it: Var z_t = alpha_t^2 Var x + sigma_t^2.

    $$\alpha_t^2 + \sigma_t^2 = 1 \;\Rightarrow\; \mathrm{Var}\, z_t = 1 \text{ for data of variance } 1$$
    It holds for the cosine, linear, beta, learned and any log-SNR schedule; the straight line of flow matching has
    variance (1 - t)^2 + t^2 instead, 1/2 in the middle, and the exploding one 1 + sigma^2.
    Source: Song et al. (2021), section 3.4.
    Assumes: data of unit variance.
    """
    t = torch.linspace(0.02, 1, 50, dtype=F64)
    for name, schedule, expected in (
        ("cosine", CosineSchedule(), torch.ones_like(t)),
        ("linear", LinearSchedule(), torch.ones_like(t)),
        ("betas", BetaSchedule(betas()), torch.ones_like(t)),
        ("linear log-SNR", VariancePreserving(), torch.ones_like(t)),
        ("learned", LearnedSchedule(), torch.ones_like(t)),
        ("rectified", RectifiedSchedule(), (1 - t) ** 2 + t**2),
        ("exploding", VarianceExploding(0.1, 10.0), 1 + (0.1 * 100**t) ** 2),
    ):
        low, high = (Process(schedule).marginal(f64([[x]]).expand(50, 1), t) for x in (-1.0, 1.0))  # of variance 1
        variance = (high.mean - low.mean) ** 2 / 4 + low.variance
        yield close(f"variance of z_t over the exact one, {name}", 1.0, variance[:, 0] / expected, TIGHT)


@law("process/markov")
def markov(_: float) -> Claims:
    r"""The process factorises forwards without x and backwards with it; both factorisations are one joint Gaussian.

    $$q(z_1, \ldots, z_T \mid x) = q(z_1 \mid x) \prod_t q(z_t \mid z_{t-1}) =
    q(z_T \mid x) \prod_t q(z_{t-1} \mid z_t, x)$$
    Given x the levels are jointly Gaussian with mean alpha_t x and, because q(z_t | z_s) does not depend on x,
    Cov(z_s, z_t) = a_{t|s} sigma_s^2. The density at random points is computed from that covariance alone.
    Source: Ho et al. (2020), equations 2 and 5; Kingma et al., VDM (2021), section 3.2.
    """
    times, x = f64([0.1, 0.25, 0.4, 0.7, 0.9]), f64(0.6)
    alpha, sigma = cos_sin(times)
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    early, late = torch.minimum(i, j), torch.maximum(i, j)
    joint = MultivariateNormal(alpha * x, alpha[late] / alpha[early] * sigma[early] ** 2)
    z = joint.sample((64,))
    process, rows = Process(CosineSchedule()), x.expand(64, 1)
    levels, at = [z[:, k : k + 1] for k in range(5)], [t.expand(64) for t in times]
    forwards, backwards = (process.marginal(rows, at[k]).log_prob(levels[k]) for k in (0, 4))
    for k in range(1, 5):
        a, spread = process.transition(at[k - 1], at[k])
        forwards = forwards + Normal(a[:, None] * levels[k - 1], spread[:, None]).log_prob(levels[k])
        backwards = backwards + process.posterior(levels[k], rows, at[k - 1], at[k]).log_prob(levels[k - 1])
    yield close("log density forwards, five levels", joint.log_prob(z), forwards[:, 0], 1e-8)
    yield close("log density backwards, five levels", joint.log_prob(z), backwards[:, 0], 1e-8)


@law("process/implicit-forward")
def implicit_forward(_: float) -> Claims:
    r"""DDIM's processes run forwards by Bayes' rule, and their marginals are those of the Markov chain.

    $$q_\sigma(z_t | z_s, x)\, q(z_s | x) = q_\sigma(z_s | z_t, x)\, q(z_t | x)$$
    Both sides are the joint density of two neighbouring levels given x, whatever the deviation of the reverse step.
    Source: Song et al., DDIM (2021), equation 8.
    """
    x, low, high = randn(0, 3, 5, 1)
    for eta in (0.3, 1.0):
        family = ImplicitProcess.of_eta(CosineSchedule(), f64([0.2, 0.5, 0.8]), eta)
        for level in (1, 2):
            down = family.backward(high, x, level).log_prob(low) + family.marginal(x, level).log_prob(high)
            up = family.forward(low, x, level).log_prob(high) + family.marginal(x, level - 1).log_prob(low)
            yield close(f"joint density at level {level}, eta = {eta}", down, up, TIGHT)


@law("schedule/conditions")
def conditions(_: float) -> Claims:
    r"""Every schedule decreases in SNR, ends in noise, has the inverse that it states, and defines one process.

    $$\lambda(t) = \log(\alpha_t^2/\sigma_t^2),\ \lambda' < 0, \quad t = \lambda^{-1}(\lambda(t))$$
    `jensen.check.schedule` on all of jensen's schedules; and their log-SNRs at t = 0.3 against their formulas.
    Source: Kingma et al., VDM (2021), section 3.1.
    """
    learned, rng = LearnedSchedule(9.0, -6.0), generator(0)
    with torch.no_grad():
        for p in learned.interior():
            p.add_(torch.randn(p.shape, generator=rng))
    third = 0.3 * math.pi / 2
    bar = (math.cos(third * 0.308 / 0.3 / 1.008) / math.cos(0.004 * math.pi / 1.008)) ** 2
    every: dict[str, tuple[Schedule, bool, float | None]] = {
        "cosine": (CosineSchedule(), True, -2 * math.log(math.tan(third))),
        "improved cosine": (ImprovedCosineSchedule(), True, math.log(bar / (1 - bar))),
        "linear": (LinearSchedule(), True, -math.log(math.expm1(0.1 * 0.3 + 19.9 * 0.09 / 2))),
        "rectified": (RectifiedSchedule(), False, 2 * math.log(0.7 / 0.3)),
        "linear log-SNR": (VariancePreserving(), True, 13.3 - 18.3 * 0.3),
        "exploding": (VarianceExploding(), False, -2 * (0.7 * math.log(0.002) + 0.3 * math.log(80.0))),
        "learned": (learned, True, None),
        "of a function": (FunctionSchedule(lambda t: 8 - 14 * t**3 - t), True, 8 - 14 * 0.027 - 0.3),
    }
    for name, (schedule, preserving, log_snr) in every.items():
        known = Process(schedule)
        with torch.no_grad():
            yield check_schedule(
                schedule, variance_preserving=preserving, transition=known.transition, posterior=known.posterior
            ).failures(name)
        if log_snr is not None:
            yield close(f"{name}: log-SNR at 0.3", log_snr, schedule.log_snr(f64(0.3)), TIGHT)

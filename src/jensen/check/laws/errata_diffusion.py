"""Wrong formulas of diffusion and score models that circulate, each with the number that refutes it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, bounded, close, means_are
from jensen.check.law import Law, draws, law
from jensen.check.laws.diffusion_bound import HIGH, LOW, X, discrete, error, gaussian
from jensen.check.laws.diffusion_implicit import point, posterior_deviation
from jensen.check.laws.diffusion_process import betas, chain, cos_sin
from jensen.check.laws.score_matching import noised, times
from jensen.check.line import F64, normal_nodes
from jensen.core.seeding import generator
from jensen.diffusion import (
    DDIM,
    BetaSchedule,
    CosineSchedule,
    Prediction,
    Process,
    VariancePreserving,
    bound,
    step_kl,
)
from jensen.score import KernelDensity, denoising


def off(claim: str, exact: Tensor | float, wrong: Tensor | float, least: float) -> Evidence:
    """A wrong formula is wrong by at least so much."""
    gap = (torch.as_tensor(wrong, dtype=F64) - torch.as_tensor(exact, dtype=F64)).abs()
    return bounded(f"{claim} is off by", gap, least, relation="at least")


@law(
    "errata/snr-square",
    formula=r"\mathrm{SNR} = \alpha^2/\sigma^2, \text{ not } \alpha/\sigma^2",
    source="Kingma et al., VDM (2021), equation 3; the KL it must give: equation 13",
)
def snr_square(_: float) -> Iterator[Evidence]:
    r"""The SNR is a ratio of two variances: alpha^2 / sigma^2.

    Half its fall from s to t is the divergence of a reverse step for an error of 1 in x, whose exact value is
    alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2), from two Gaussians of one variance. At s = 0.3, t = 0.6 on the
    cosine schedule it is 1.662; with alpha / sigma^2 for the SNR it would be 1.712, and from 0.6 to 0.9 not 0.251 but
    0.369.
    """
    schedule = CosineSchedule()
    for s, t, least in ((0.3, 0.6, 0.04), (0.6, 0.9, 0.1)):
        both = torch.tensor([s, t], dtype=F64)
        (alpha_s, alpha_t), (sigma_s, sigma_t) = cos_sin(both)
        forward = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        exact = alpha_s**2 * forward / (2 * sigma_s**2 * sigma_t**2)
        one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
        prediction = Prediction.of_x(one, zero, alpha_t.view(1, 1), sigma_t.view(1, 1))  # z = 0, x = 0, x_hat = 1
        found = step_kl(prediction, zero, zero, schedule, both[:1], both[1:])
        yield close(f"the divergence from {t} to {s}", exact, found, 1e-8)
        half_fall = schedule.log_snr(both).exp().diff() / -2
        yield close(f"half the fall of jensen's SNR from {s} to {t}", exact, half_fall, 1e-8)
        wrong = (alpha_s / sigma_s**2 - alpha_t / sigma_t**2) / 2
        yield off(f"half the fall of alpha / sigma^2 from {s} to {t}", exact, wrong, least)


@law(
    "errata/posterior-mean",
    formula=r"\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t + \ldots, \text{ not } "
    r"\frac{a_{t|s}^2\sigma_s^2}{\sigma_t^2} z_t",
    source="Ho et al. (2020), equation 7",
)
def posterior_mean(_: float) -> Iterator[Evidence]:
    r"""The posterior's mean weighs z_t by a_{t|s} sigma_s^2 / sigma_t^2, with a to the first power.

    The slope of E[z_s | z_t, x] in z_t is Cov(z_s, z_t) / Var z_t, and given x the covariance is a sigma_s^2. By the
    chain of betas, steps 10 and 40 of 50.
    """
    (a, forward), (_factor, before) = chain(10, 40), chain(0, 10)
    after = a**2 * before + forward
    exact = a * before / after
    process, x = Process(BetaSchedule(betas())), torch.zeros(1, 1, dtype=F64)
    s, t = (torch.tensor([k / 50], dtype=F64) for k in (10, 40))
    found = process.posterior(x + 1, x, s, t).mean - process.posterior(x, x, s, t).mean
    yield close("slope of the posterior's mean in z_t", exact, found, 1e-9)
    yield off("with a squared, relative to it, the slope", 1.0, a, 0.5)


@law(
    "errata/kernel-score",
    formula=r"\nabla\log p = \frac1{p}\,\frac1M\sum_i N(x; x_i, h^2)\,\frac{x_i - x}{h^2}, "
    r"\text{ not without the } \tfrac1M",
    source="Vincent (2011), section 4.2",
)
def kernel_score(_: float) -> Iterator[Evidence]:
    r"""The gradient of a mean of M kernels is a mean: without its 1/M the score is M times too large.

    Five data; the exact score is the derivative of log p by central differences. Stein's identity E[x s(x)] = -1 would
    read -5.
    """
    data, h = torch.tensor([[-1.3], [-0.2], [0.1], [0.4], [2.2]], dtype=F64), 0.6
    x = torch.tensor([[-2.0], [0.9], [3.0]], dtype=F64)

    def log_p(x: Tensor) -> Tensor:
        return (-((x - data.T) ** 2) / (2 * h**2)).logsumexp(1) - math.log(5 * math.sqrt(2 * math.pi) * h)

    exact = (log_p(x + 1e-5) - log_p(x - 1e-5)) / 2e-5
    yield close("jensen's score", exact, KernelDensity(data, h).score(x)[:, 0], 1e-7)
    kernels = torch.exp(-((x - data.T) ** 2) / (2 * h**2)) / (math.sqrt(2 * math.pi) * h)
    wrong = (kernels * (data.T - x)).sum(1) / h**2 / log_p(x).exp()
    yield close("without 1/M, over the exact score", 5.0, wrong / exact, 1e-6)
    yield off("without 1/M the score", exact, wrong, 1.0)


@law(
    "errata/denoising-target",
    formula=r"\arg\min_s E|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \nabla\log q_\sigma, "
    r"\text{ not } \nabla\log p; \quad p = N(0,1),\ \sigma = 1: \ -x/2",
    source="Vincent (2011), section 4.3; Song & Ermon (2019), section 2.1",
)
def denoising_target(_: float) -> Iterator[Evidence]:
    r"""Denoising score matching fits the score of the noised density, not of the clean one.

    For data N(0, 1) and sigma = 1, s = a x costs E|a z + eps|^2 / 2 = (2 a^2 + 2 a + 1) / 2 with z = x + eps: it is
    least at a = -1/2, the score of N(0, 2), where it is 1/4; at a = -1, the score of the data, it is 1/2.
    """
    places, mass = normal_nodes(20)
    x, eps = places.repeat_interleave(20)[:, None], places.repeat(20)[:, None]
    weight = (mass[:, None] * mass).reshape(-1)

    def cost(a: float | Tensor) -> Tensor:
        return weight @ denoising(times(a), x, eps, 1.0)

    for a in (-1.0, -0.5, 0.3):
        yield close(f"the loss at a = {a}", (2 * a**2 + 2 * a + 1) / 2, cost(a), 1e-9)
    for a, slope in ((-0.5, 0.0), (-1.0, -1.0)):
        at = torch.tensor(a, dtype=F64, requires_grad=True)
        yield close(f"its slope at a = {a}", slope, torch.autograd.grad(cost(at), at)[0], 1e-9)
    yield off("what the clean score costs more: the loss at -1", cost(-0.5), cost(-1.0), 0.2)
    x, eps, weight = noised()
    slopes = [float(weight @ denoising(times(a), x, eps, 1.0)) for a in (-0.1, 0.0, 0.1)]
    best = -0.1 * (slopes[2] - slopes[0]) / (slopes[2] - 2 * slopes[1] + slopes[0]) / 2
    z = x + eps
    yield close("best slope on two modes: -1 / E z^2 of the noised", -1 / (weight @ z[:, 0] ** 2), best, 1e-8)
    yield off("-1 / E x^2 of the clean", best, -1 / (weight @ x[:, 0] ** 2), 0.2)


@law(
    "errata/ddim-root",
    formula=r"\alpha_s x + \sqrt{\sigma_s^2 - d^2}\,\epsilon, \text{ not } "
    r"\alpha_s x + (\sqrt{\sigma_s^2} - d^2)\,\epsilon",
    source="Song et al., DDIM (2021), equation 7",
)
def ddim_root(precision: float) -> Iterator[Evidence]:
    r"""In DDIM's mean the step's variance is taken off inside the root.

    Only then is the variance of z_s given x sigma_s^2 - d^2 + d^2. With d^2 outside it would be
    (sigma_s - d^2)^2 + d^2: from t = 0.8 to s = 0.7 at eta = 1, 0.647 instead of 0.794. Measured through the sampler on
    data at one point.
    """
    s, t, x = torch.tensor(0.7, dtype=F64), torch.tensor(0.8, dtype=F64), 0.8
    (alpha_s, sigma_s), (alpha_t, sigma_t) = cos_sin(s), cos_sin(t)
    n = draws(20_000, precision)
    z = alpha_t * x + sigma_t * torch.randn(n, 1, dtype=F64, generator=generator(1))
    made, _memory = DDIM(1.0).step(point(x), z, t, s, None, generator=generator(2))
    unit = torch.stack([made - alpha_s * x, (made - alpha_s * x) ** 2], 1)[:, :, 0]
    exact = torch.tensor([0.0, float(sigma_s**2)], dtype=F64)
    yield means_are("mean and variance of z_s about alpha_s x", exact, unit)
    noise = torch.randn(n, 1, dtype=F64, generator=generator(2))
    d = posterior_deviation(s, t)
    eps = (z - alpha_t * x) / sigma_t
    right = alpha_s * x + torch.sqrt(sigma_s**2 - d**2) * eps + d * noise
    yield close("the step, written out", right, made, 1e-9)
    yield off("with d^2 outside the root the variance", sigma_s**2, (sigma_s - d**2) ** 2 + d**2, 0.14)


@law(
    "errata/vdm-interval",
    formula=r"s = \tfrac{i-1}{T},\ t = \tfrac iT; \quad \mathrm{SNR}(\tfrac iT) - \mathrm{SNR}(\tfrac iT) = 0",
    source="Kingma et al., VDM (2021), section 3.2 and equation 13",
)
def interval(precision: float) -> Iterator[Evidence]:
    r"""A step of the discrete bound goes from (i-1)/T to i/T: with i/T on both sides every term is 0.

    And the error belongs to the later end: taken at the earlier one the sum is a lower Riemann sum, which for T = 5
    lies far below the bound's and below its continuous limit.
    """
    n = draws(4000, precision)
    oracle = gaussian(VariancePreserving(HIGH, LOW))
    found = bound(oracle, torch.full((n, 1), X, dtype=F64), steps=5, samples=1, generator=generator(1)).steps
    exact = discrete(5)
    yield means_are("the step of T = 5 furthest off", exact, found)
    x, z = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    s, t = (torch.tensor([k / 5], dtype=F64) for k in (2, 3))
    alpha, sigma = (v.view(1, 1) for v in oracle.schedule.alpha_sigma(t))
    width = (LOW - HIGH) / 5
    fall = math.exp(HIGH + 2 * width) - math.exp(HIGH + 3 * width)
    for name, begin, exact_kl in (("from (i-1)/T", s, fall / 2), ("from i/T itself", t, 0.0)):
        kl = step_kl(Prediction.of_x(x + 1, z, alpha, sigma), x, (z - alpha * x) / sigma, oracle.schedule, begin, t)
        yield close(f"the divergence of an error of 1 to i/T, {name}", exact_kl, kl, 1e-9)
    yield off("a sum whose terms are all 0", exact.sum(), 0.0, 2.0)
    snr = torch.exp(torch.linspace(HIGH, LOW, 6, dtype=F64))
    early = ((snr[:-1] - snr[1:]) / 2 * error(snr[:-1])).sum()
    yield off("the sum with the error at (i-1)/T", exact.sum(), early, 1.0)


LAWS: tuple[Law, ...] = (snr_square, posterior_mean, kernel_score, denoising_target, ddim_root, interval)

r"""DDIM: a family of processes with the marginals of the diffusion process, from deterministic (eta = 0) to Markov.

Expected values are written out for $\alpha = \cos(\pi t/2)$, $\sigma = \sin(\pi t/2)$.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from jensen.check.evidence import Claims, bounded, close, differs, mean_is, means_are
from jensen.check.law import draws, law
from jensen.check.laws.process import TIGHT, cos_sin, posterior_deviation
from jensen.check.line import F64, f64, randn
from jensen.check.samplers import place, quantile, two_modes
from jensen.core.seeding import generator
from jensen.diffusion import DDIM, CosineSchedule, GaussianOracle, ImplicitProcess, integrate, time_grid
from jensen.report import plots

LEVELS = f64([0.1, 0.2, 0.45, 0.7, 0.95])
ALPHA, SIGMA = cos_sin(LEVELS)
ETAS = (0.0, 0.4, 1.0)
UNIT = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
"""The exact denoiser of N(0, 1)."""


def point(x: float) -> GaussianOracle:
    """The exact denoiser of data that all equal x."""
    return GaussianOracle(f64([x]), f64([0.0]), CosineSchedule())


def sampled(eta: float, levels: Tensor, n: int) -> Tensor:
    """Samples at LEVELS[0] for data that all equal 0.8, standardised, (n,)."""
    z = integrate(DDIM(eta), point(0.8), ALPHA[-1] * 0.8 + SIGMA[-1] * randn(1, n, 1), levels, generator=generator(2))
    return ((z - ALPHA[0] * 0.8) / SIGMA[0])[:, 0]


@law("ddim/marginals")
def marginals(precision: float) -> Claims:
    r"""Every process of the DDIM family has the marginals of the Markov diffusion process.

    $$q(z_t \mid x) = N(\alpha_t x, \sigma_t^2) \text{ for every } t \text{ and every choice of } d_t$$
    z_s = alpha_s x + sqrt(sigma_s^2 - d^2) (z_t - alpha_t x) / sigma_t + d n with standard normal n. If z_t is
    N(alpha_t x, sigma_t^2), z_s has the mean alpha_s x and the variance sigma_s^2 - d^2 + d^2.
    Source: Song et al., DDIM (2021), lemma 1.
    """
    x = f64([[0.8], [-1.1]])
    for eta in ETAS:
        family, found = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, eta), []
        mean, deviation = ALPHA[-1] * x, SIGMA[-1].expand(2, 1)
        for level in range(len(LEVELS) - 1, 0, -1):
            here, moved = family.backward(mean, x, level), family.backward(mean + 1, x, level)
            deviation = torch.sqrt(((moved.mean - here.mean) * deviation) ** 2 + here.variance)
            mean = here.mean
            found.append(torch.stack([mean, deviation]))
        means, deviations = torch.stack(found, 1)
        alphas, sigmas = (v[:-1].flip(0)[:, None, None] for v in (ALPHA, SIGMA))
        yield close(f"means at each level, eta = {eta}", alphas * x, means, TIGHT)
        yield close(f"standard deviations at each level, eta = {eta}", sigmas, deviations, TIGHT)
        unit = sampled(eta, LEVELS.flip(0), draws(10_000, precision))
        yield mean_is(f"mean of standardised samples after four steps, eta = {eta}", 0.0, unit)
        yield mean_is(f"mean square of standardised samples after four steps, eta = {eta}", 1.0, unit**2)


@law("ddim/deterministic")
def deterministic(_: float) -> Claims:
    r"""With eta = 0, so d = 0, the DDIM sampler is deterministic: its result is a function of the initial noise.

    $$d = 0: \quad z_s = \alpha_s \hat x + \sigma_s \hat\epsilon$$
    For N(0, 1) data and the cosine schedule x_hat = alpha_t z and eps_hat = sigma_t z. A step multiplies z by
    alpha_s alpha_t + sigma_s sigma_t = cos(pi (t - s) / 2), and N equal steps multiply it by cos(pi / 2N)^N.
    Source: Song et al., DDIM (2021), section 4.1 and equation 12.
    """
    family, zero = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, 0.0), f64([[0.0]])
    spread = torch.stack([family.backward(zero, zero, k).stddev for k in range(1, len(LEVELS))])
    yield close("standard deviation of each step", 0.0, spread, 0.0)
    oracle, z = two_modes(), torch.randn(16, 1, dtype=F64)
    times = time_grid("uniform", 9, oracle.schedule, end=0.02)
    one, two = (integrate(DDIM(), oracle, z, times, generator=generator(seed)) for seed in (1, 2))
    yield close("samples from two generators and one start", one, two, 0.0)
    for n in (2, 7, 40):
        z = integrate(DDIM(), UNIT, f64([[1.0]]), time_grid("uniform", n, UNIT.schedule))
        yield close(f"N(0, 1) data: factor by which {n} steps multiply z", math.cos(math.pi / 2 / n) ** n, z, TIGHT)


@law("ddim/step")
def one_step(_: float) -> Claims:
    r"""A DDIM step is a sample of q(z_s | z_t, x) with the predicted x; at eta = 1 it is an ancestral (DDPM) step.

    $$z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2\tilde\sigma^2}\,\hat\epsilon + \eta\tilde\sigma\, n,
    \quad \tilde\sigma = \sigma_{t|s}\sigma_s/\sigma_t$$
    n is standard normal, and the same in the sampler and in the formula. At eta = 1 the mean is that of the posterior,
    (a sigma_s^2 z + alpha_s sigma_{t|s}^2 x_hat) / sigma_t^2 with a = alpha_t / alpha_s.
    Source: Song et al., DDIM (2021), equations 12 and 16.
    """
    mean, variance = torch.tensor(0.5), torch.tensor(0.3)  # in single precision, as the oracle's are
    oracle = GaussianOracle(mean[None], variance[None], CosineSchedule())
    z, s, t, noise = torch.randn(32, 1, dtype=F64), LEVELS[1], LEVELS[3], randn(3, 32, 1)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = cos_sin(s), cos_sin(t)
    x = mean + alpha_t * variance * (z - alpha_t * mean) / (alpha_t**2 * variance + sigma_t**2)
    eps, tilde = (z - alpha_t * x) / sigma_t, posterior_deviation(s, t)
    for eta in ETAS:
        made, _ = DDIM(eta).step(oracle, z, t, s, None, generator=generator(3))
        expected = alpha_s * x + torch.sqrt(sigma_s**2 - (eta * tilde) ** 2) * eps + eta * tilde * noise
        yield close(f"z_s, eta = {eta}", expected, made, 1e-7)
    forward = (tilde * sigma_t / sigma_s) ** 2
    ancestral = (alpha_t / alpha_s * sigma_s**2 * z + alpha_s * forward * x) / sigma_t**2 + tilde * noise
    yield close("z_s, eta = 1, by the posterior", ancestral, made, 1e-7)


@law("errata/ddim-root")
def ddim_root(precision: float) -> Claims:
    r"""In the mean of a DDIM step the variance d^2 is subtracted inside the square root, not outside.

    $$\alpha_s x + \sqrt{\sigma_s^2 - d^2}\,\epsilon, \text{ not }
    \alpha_s x + (\sqrt{\sigma_s^2} - d^2)\,\epsilon$$
    Only then is the variance of z_s given x sigma_s^2. With d^2 outside it would be (sigma_s - d^2)^2 + d^2: from
    t = 0.8 to s = 0.7 at eta = 1, 0.647 instead of 0.794. The sampler is tested on data that all equal one point x.
    Source: Song et al., DDIM (2021), equation 7.
    """
    s, t, x, n = f64(0.7), f64(0.8), 0.8, draws(20_000, precision)
    (alpha_s, sigma_s), (alpha_t, sigma_t), d = cos_sin(s), cos_sin(t), posterior_deviation(s, t)
    eps = randn(1, n, 1)
    made, _memory = DDIM(1.0).step(point(x), alpha_t * x + sigma_t * eps, t, s, None, generator=generator(2))
    moments = torch.cat([made - alpha_s * x, (made - alpha_s * x) ** 2], 1)
    yield means_are("mean and mean square of z_s - alpha_s x", f64([0.0, float(sigma_s**2)]), moments)
    right = alpha_s * x + torch.sqrt(sigma_s**2 - d**2) * eps + d * randn(2, n, 1)
    yield close("z_s", right, made, TIGHT)
    yield differs("variance of z_s with d^2 outside the square root", sigma_s**2, (sigma_s - d**2) ** 2 + d**2, 0.14)


@law("ddim/objectives")
def objectives(_: float) -> Claims:
    r"""Every process of the DDIM family has DDPM's training loss up to weights, so one network serves all of them.

    $$KL\big(q_\sigma(z_s|z_t,x)\,\|\,q_\sigma(z_s|z_t,\hat x)\big) = \gamma_t\,|\epsilon - \hat\epsilon|^2,
    \quad \gamma_t = \frac{(\alpha_s\sigma_t/\alpha_t - \sqrt{\sigma_s^2 - d_t^2})^2}{2 d_t^2}$$
    Both Gaussians have the variance d^2, and their means differ by (alpha_s - sqrt(sigma_s^2 - d^2) alpha_t / sigma_t)
    (x - x_hat), with x - x_hat = -(sigma_t / alpha_t)(eps - eps_hat). The weight gamma_t does not depend on z_t, x or
    the prediction, so the optimal prediction at each level is the same for every d.
    Source: Song et al., DDIM (2021), theorem 1.
    Assumes: d > 0 at every level.
    """
    z, x, guess = randn(4, 3, 40, 1)
    for eta in (0.2, 0.6, 1.0):
        family = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, eta)
        for k in (1, 3):
            true, model = (family.backward(z, mean, k) for mean in (x, guess))
            kl = kl_divergence(Normal(true.mean, true.stddev), Normal(model.mean, model.stddev))
            square = (ALPHA[k] / SIGMA[k]) ** 2 * (x - guess) ** 2  # |eps - eps_hat|^2
            d = eta * posterior_deviation(LEVELS[k - 1], LEVELS[k])
            kept = torch.sqrt(SIGMA[k - 1] ** 2 - d**2)
            gamma = (ALPHA[k - 1] * SIGMA[k] / ALPHA[k] - kept) ** 2 / (2 * d**2)
            claim = f"KL over gamma_t |eps - eps_hat|^2, eta = {eta}, level {k}"
            yield close(claim, 1.0, kl / (gamma * square), 1e-8)


def implicit_variance(steps: int) -> float:
    """The variance of samples for N(0, 1) data after this number of equal DDIM steps."""
    return math.cos(math.pi / 2 / steps) ** (2 * steps)


def ancestral_variance(steps: int) -> float:
    """The variance of samples after this number of steps with eta = 1, each of which adds noise of variance d^2."""
    variance = f64(1.0)
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=F64)):
        (alpha_s, sigma_s), (alpha_t, sigma_t), d = cos_sin(s), cos_sin(t), posterior_deviation(s, t)
        variance = (alpha_s * alpha_t + torch.sqrt(sigma_s**2 - d**2) * sigma_t) ** 2 * variance + d**2
    return float(variance)


@law("ddim/fewer-steps")
def fewer_steps(precision: float) -> Claims:
    r"""A model trained at T noise levels can sample at any subsequence of them, with the same marginals.

    $$\mathrm{Var} = \cos^{2N}(\pi/2N) \to 1 \text{ for } N(0, 1) \text{ data and } N \text{ equal steps}$$
    The training loss depends only on the marginals, and DDIM has the same marginals on any subsequence. For data that
    all equal one point every subsequence is exact. For other data the error of N steps is of order 1/N; for N(0, 1) the
    variance of the samples is known for DDIM and for ancestral sampling.
    Source: Song et al., DDIM (2021), section 4.2 and table 1.
    """
    n = draws(10_000, precision)
    for places in ((4, 0), (4, 2, 0)):
        unit = sampled(0.6, LEVELS[list(places)], n)
        yield mean_is(f"one-point data: mean square of standardised samples, {len(places) - 1} steps", 1.0, unit**2)
    for steps in (5, 10):
        times, start = time_grid("uniform", steps, UNIT.schedule), randn(3, n, 1)
        for name, eta, exact in (("DDIM", 0.0, implicit_variance), ("ancestral", 1.0, ancestral_variance)):
            made = integrate(DDIM(eta), UNIT, start, times, generator=generator(4))[:, 0]
            yield mean_is(f"N(0, 1) data: variance of samples, {steps} steps, {name}", exact(steps), made**2)
    u, oracle = (torch.arange(2000, dtype=F64) + 0.5) / 2000, two_modes()
    times = time_grid("uniform", 20, oracle.schedule, start=0.9, end=0.1)
    off = (quantile(oracle, integrate(DDIM(), oracle, place(oracle, u, 0.9), times), 0.1) - u).abs()
    yield bounded("two modes: largest error of a quantile, 20 steps, DDIM", off, 0.1, relation="at most")


@fewer_steps.drawn
def _plot() -> str:
    counts = [3, 5, 8, 12, 20, 35, 60, 100]
    exact = {"DDIM": implicit_variance, "ancestral": ancestral_variance}
    rows = {name: [1 - variance(n) for n in counts] for name, variance in exact.items()}
    return plots.curves(counts, rows, title="1 - variance of samples, for N(0, 1) data", xlabel="steps", log=True)

r"""DDIM: a family of processes with the same marginals, deterministic at one end and Markov at the other.

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
    """Draws of the sampler at LEVELS[0] for data that all equal 0.8, standardised, (n,)."""
    z = integrate(DDIM(eta), point(0.8), ALPHA[-1] * 0.8 + SIGMA[-1] * randn(1, n, 1), levels, generator=generator(2))
    return ((z - ALPHA[0] * 0.8) / SIGMA[0])[:, 0]


@law("ddim/marginals")
def marginals(precision: float) -> Claims:
    r"""Every process of the family has the marginals of the Markov one, by induction from the last level down.

    $$q_\sigma(z_t \mid x) = N(\alpha_t x, \sigma_t^2) \text{ for every } t \text{ and every choice of } d_t$$
    z_s = alpha_s x + sqrt(sigma_s^2 - d^2) (z_t - alpha_t x) / sigma_t + d n: if z_t is N(alpha_t x, sigma_t^2), the
    bracket over sigma_t is standard normal, so z_s has mean alpha_s x and variance sigma_s^2 - d^2 + d^2. Also the
    sampler's own steps, with draws, on data that all equal one point.
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
        lower = slice(0, -1)
        yield close(f"means at each level, eta = {eta}", ALPHA[lower].flip(0)[:, None, None] * x, means, TIGHT)
        yield close(f"deviations at each level, eta = {eta}", SIGMA[lower].flip(0)[:, None, None], deviations, TIGHT)
    for eta in ETAS:
        unit = sampled(eta, LEVELS.flip(0), draws(10_000, precision))
        yield mean_is(f"mean after the sampler's four steps, standardised, eta = {eta}", 0.0, unit)
        yield mean_is(f"square after them, eta = {eta}", 1.0, unit**2)


@law("ddim/deterministic")
def deterministic(_: float) -> Claims:
    r"""With d = 0 nothing is drawn: a path is a function of its start.

    $$d = 0: \quad z_s = \alpha_s \hat x + \sigma_s \hat\epsilon$$
    On N(0, 1) data and the cosine schedule x_hat = alpha z and eps_hat = sigma z, so a step multiplies z by
    alpha_s alpha_t + sigma_s sigma_t = cos(pi (t - s) / 2), and N equal steps by cos(pi / 2N)^N.
    Source: Song et al., DDIM (2021), section 4.1 and equation 12.
    """
    family, zero = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, 0.0), f64([[0.0]])
    spread = torch.stack([family.backward(zero, zero, k).stddev for k in range(1, len(LEVELS))])
    yield close("deviation of each step", 0.0, spread, 0.0)
    oracle, z = two_modes(), torch.randn(16, 1, dtype=F64)
    times = time_grid("uniform", 9, oracle.schedule, end=0.02)
    one, two = (integrate(DDIM(), oracle, z, times, generator=generator(seed)) for seed in (1, 2))
    yield close("the same from two generators", one, two, 0.0)
    for n in (2, 7, 40):
        z = integrate(DDIM(), UNIT, f64([[1.0]]), time_grid("uniform", n, UNIT.schedule))
        yield close(f"N(0, 1) shrinks in {n} steps by", math.cos(math.pi / 2 / n) ** n, z, TIGHT)


@law("ddim/step")
def one_step(_: float) -> Claims:
    r"""A step of the sampler is a draw of the family at its prediction; at eta = 1 it is the ancestral one.

    $$z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2\tilde\sigma^2}\,\hat\epsilon + \eta\tilde\sigma\, n,
    \quad \tilde\sigma = \sigma_{t|s}\sigma_s/\sigma_t$$
    The prediction takes the place of x in q_sigma(z_s | z_t, x). With the same noise, by the formula written out; at
    eta = 1 the mean is (a sigma_s^2 z + alpha_s sigma_{t|s}^2 x_hat) / sigma_t^2.
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
        yield close(f"the step with the same noise, eta = {eta}", expected, made, 1e-7)
    forward = (tilde * sigma_t / sigma_s) ** 2
    ancestral = (alpha_t / alpha_s * sigma_s**2 * z + alpha_s * forward * x) / sigma_t**2 + tilde * noise
    yield close("eta = 1 is a draw of the posterior", ancestral, made, 1e-7)


@law("errata/ddim-root")
def ddim_root(precision: float) -> Claims:
    r"""In DDIM's mean the step's variance is subtracted inside the root, not outside.

    $$\alpha_s x + \sqrt{\sigma_s^2 - d^2}\,\epsilon, \text{ not }
    \alpha_s x + (\sqrt{\sigma_s^2} - d^2)\,\epsilon$$
    Only then is the variance of z_s given x sigma_s^2 - d^2 + d^2. With d^2 outside it would be
    (sigma_s - d^2)^2 + d^2: from t = 0.8 to s = 0.7 at eta = 1, 0.647 instead of 0.794. Measured through the sampler on
    data that all equal one point.
    Source: Song et al., DDIM (2021), equation 7.
    """
    s, t, x, n = f64(0.7), f64(0.8), 0.8, draws(20_000, precision)
    (alpha_s, sigma_s), (alpha_t, sigma_t), d = cos_sin(s), cos_sin(t), posterior_deviation(s, t)
    eps = randn(1, n, 1)
    made, _memory = DDIM(1.0).step(point(x), alpha_t * x + sigma_t * eps, t, s, None, generator=generator(2))
    moments = torch.cat([made - alpha_s * x, (made - alpha_s * x) ** 2], 1)
    yield means_are("mean and variance of z_s about alpha_s x", f64([0.0, float(sigma_s**2)]), moments)
    right = alpha_s * x + torch.sqrt(sigma_s**2 - d**2) * eps + d * randn(2, n, 1)
    yield close("the step, written out", right, made, TIGHT)
    yield differs("with d^2 outside the root the variance", sigma_s**2, (sigma_s - d**2) ** 2 + d**2, 0.14)


@law("ddim/objectives")
def objectives(_: float) -> Claims:
    r"""Every member with d > 0 has the objective of DDPM up to weights: one network serves the whole family.

    $$KL\big(q_\sigma(z_s|z_t,x)\,\|\,q_\sigma(z_s|z_t,\hat x)\big) = \gamma_t\,|\epsilon - \hat\epsilon|^2,
    \quad \gamma_t = \frac{(\alpha_s\sigma_t/\alpha_t - \sqrt{\sigma_s^2 - d_t^2})^2}{2 d_t^2}$$
    The two steps share their variance d^2 and their means differ by (alpha_s - sqrt(sigma_s^2 - d^2) alpha_t /
    sigma_t)(x - x_hat), with x - x_hat = -(sigma_t / alpha_t)(eps - eps_hat). The weight is the same whatever z_t, x
    and the prediction are, so each level has one optimum for every d; at d = 0 it is infinite.
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
            claim = f"divergence over gamma times the error of eps, eta = {eta}, level {k}"
            yield close(claim, 1.0, kl / (gamma * square), 1e-8)


def implicit_variance(steps: int) -> float:
    """The variance of N(0, 1) data after this number of equal DDIM steps."""
    return math.cos(math.pi / 2 / steps) ** (2 * steps)


def ancestral_variance(steps: int) -> float:
    """The same with eta = 1: each step multiplies z and adds fresh variance."""
    variance = 1.0
    for k, j in pairwise(range(steps, -1, -1)):
        u, v = k / steps * math.pi / 2, j / steps * math.pi / 2
        forward = math.sin(u + v) * math.sin(u - v) / math.cos(v) ** 2
        factor = math.cos(u) / math.cos(v) * math.sin(v) ** 2 + math.cos(v) * forward * math.cos(u)
        variance = (factor / math.sin(u) ** 2) ** 2 * variance + forward * (math.sin(v) / math.sin(u)) ** 2
    return variance


@law("ddim/fewer-steps")
def fewer_steps(precision: float) -> Claims:
    r"""A model of T levels samples on any few of them: the marginals of a sub-sequence are those of the whole.

    $$\mathrm{Var} = \cos^{2N}(\pi/2N) \to 1 \text{ in } N \text{ steps, for any sub-sequence of the levels}$$
    The objective fixes the marginals alone, and the family of a sub-sequence has them too, since the induction holds
    for any levels: it is exact on data that all equal one point. The error of a step is the prediction's own, of order
    1/N: on N(0, 1) the variance is known for DDIM and for ancestral sampling.
    Source: Song et al., DDIM (2021), section 4.2 and table 1.
    """
    n = draws(10_000, precision)
    for places in ((4, 0), (4, 2, 0)):
        unit = sampled(0.6, LEVELS[list(places)], n)
        yield mean_is(f"square on a point, standardised, in {len(places) - 1} steps", 1.0, unit**2)
    for steps in (5, 10):
        times, start = time_grid("uniform", steps, UNIT.schedule), randn(3, n, 1)
        for name, eta, exact in (("DDIM", 0.0, implicit_variance), ("ancestral", 1.0, ancestral_variance)):
            made = integrate(DDIM(eta), UNIT, start, times, generator=generator(4))[:, 0]
            yield mean_is(f"variance on N(0, 1) in {steps} steps, {name}", exact(steps), made**2)
    u, oracle = (torch.arange(2000, dtype=F64) + 0.5) / 2000, two_modes()
    times = time_grid("uniform", 20, oracle.schedule, start=0.9, end=0.1)
    off = (quantile(oracle, integrate(DDIM(), oracle, place(oracle, u, 0.9), times), 0.1) - u).abs()
    yield bounded("DDIM in 20 steps on two modes: largest error of a quantile", off, 0.1, relation="at most")


@fewer_steps.drawn
def _plot() -> str:
    counts = [3, 5, 8, 12, 20, 35, 60, 100]
    exact = {"DDIM": implicit_variance, "ancestral": ancestral_variance}
    rows = {name: [1 - variance(n) for n in counts] for name, variance in exact.items()}
    return plots.curves(counts, rows, title="Variance that is lost on N(0, 1)", xlabel="steps", log=True)

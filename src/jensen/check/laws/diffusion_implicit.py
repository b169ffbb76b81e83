r"""DDIM: one family of processes with the same marginals, deterministic at one end and Markov at the other.

What is expected is written out for $\alpha = \cos(\pi t/2)$, $\sigma = \sin(\pi t/2)$.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from jensen.check.evidence import Evidence, bounded, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.laws.diffusion_process import cos_sin
from jensen.check.line import F64
from jensen.check.samplers import place, quantile, two_modes
from jensen.core.seeding import generator
from jensen.diffusion import DDIM, CosineSchedule, GaussianOracle, ImplicitProcess, integrate, time_grid
from jensen.report import plots

TIGHT = 1e-9
DDIM_PAPER = "Song et al., DDIM (2021)"
LEVELS = torch.tensor([0.1, 0.2, 0.45, 0.7, 0.95], dtype=F64)
ETAS = (0.0, 0.4, 1.0)


def posterior_deviation(s: Tensor, t: Tensor) -> Tensor:
    """Sigma_{t|s} sigma_s / sigma_t, by the angles u of t and v of s."""
    u, v = t * (math.pi / 2), s * (math.pi / 2)
    return torch.sqrt(torch.sin(u + v) * torch.sin(u - v)) / torch.cos(v) * torch.sin(v) / torch.sin(u)


def point(x: float) -> GaussianOracle:
    """The exact denoiser of data that are all x."""
    return GaussianOracle(torch.tensor([x], dtype=F64), torch.tensor([0.0], dtype=F64), CosineSchedule())


@law(
    "ddim/marginals",
    formula=r"q_\sigma(z_t \mid x) = N(\alpha_t x, \sigma_t^2) \text{ for every } t \text{ and every choice of } d_t",
    source=f"{DDIM_PAPER}, lemma 1",
)
def marginals(precision: float) -> Iterator[Evidence]:
    r"""Every process of the family has the marginals of the Markov one, by induction from the last level down.

    z_s = alpha_s x + sqrt(sigma_s^2 - d^2) (z_t - alpha_t x) / sigma_t + d n: if z_t is N(alpha_t x, sigma_t^2), the
    bracket over sigma_t is standard normal, so z_s has mean alpha_s x and variance sigma_s^2 - d^2 + d^2. The same
    steps as the sampler makes them on data at one point, with draws.
    """
    x, (alpha, sigma) = torch.tensor([[0.8], [-1.1]], dtype=F64), cos_sin(LEVELS)
    for eta in ETAS:
        family = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, eta)
        mean, deviation = alpha[-1] * x, sigma[-1].expand(2, 1)
        means, deviations = [], []
        for level in range(len(LEVELS) - 1, 0, -1):
            here, moved = family.backward(mean, x, level), family.backward(mean + 1, x, level)
            deviation = torch.sqrt(((moved.mean - here.mean) * deviation) ** 2 + here.variance)
            mean = here.mean
            means.append(mean)
            deviations.append(deviation)
        expected = alpha[:-1].flip(0)[:, None, None] * x
        yield close(f"means down the levels, eta = {eta}", expected, torch.stack(means), TIGHT)
        spread = sigma[:-1].flip(0)[:, None, None].expand(4, 2, 1)
        yield close(f"deviations down the levels, eta = {eta}", spread, torch.stack(deviations), TIGHT)
    n = draws(10_000, precision)
    for eta in ETAS:
        z = alpha[-1] * 0.8 + sigma[-1] * torch.randn(n, 1, dtype=F64, generator=generator(1))
        z = integrate(DDIM(eta), point(0.8), z, LEVELS.flip(0), generator=generator(2))
        unit = ((z - alpha[0] * 0.8) / sigma[0])[:, 0]
        yield mean_is(f"mean after the sampler's four steps, standardised, eta = {eta}", 0.0, unit)
        yield mean_is(f"square after them, eta = {eta}", 1.0, unit**2)


@law(
    "ddim/deterministic",
    formula=r"d = 0: \quad z_s = \alpha_s \hat x + \sigma_s \hat\epsilon",
    source=f"{DDIM_PAPER}, section 4.1 and equation 12",
)
def deterministic(_: float) -> Iterator[Evidence]:
    r"""With d = 0 nothing is drawn: a path is a function of its start.

    On N(0, 1) data and the cosine schedule x_hat = alpha z and eps_hat = sigma z, so a step multiplies z by
    alpha_s alpha_t + sigma_s sigma_t = cos(pi (t - s) / 2), and N equal steps by cos(pi / 2N)^N.
    """
    family = ImplicitProcess.of_eta(CosineSchedule(), LEVELS, 0.0)
    zero = torch.zeros(1, 1, dtype=F64)
    spread = torch.stack([family.backward(zero, zero, k).stddev for k in range(1, len(LEVELS))])
    yield close("deviation of each step", 0.0, spread, 0.0)
    oracle, z = two_modes(), torch.randn(16, 1, dtype=F64)
    times = time_grid("uniform", 9, oracle.schedule, end=0.02)
    one, two = (integrate(DDIM(), oracle, z, times, generator=generator(seed)) for seed in (1, 2))
    yield close("the same from two generators", one, two, 0.0)
    unit = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    for n in (2, 7, 40):
        times = time_grid("uniform", n, unit.schedule)
        z = integrate(DDIM(), unit, torch.ones(1, 1, dtype=F64), times)
        yield close(f"N(0, 1) shrinks in {n} steps by", math.cos(math.pi / 2 / n) ** n, z, TIGHT)


@law(
    "ddim/step",
    formula=r"z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2\tilde\sigma^2}\,\hat\epsilon + \eta\tilde\sigma\, n, "
    r"\quad \tilde\sigma = \sigma_{t|s}\sigma_s/\sigma_t",
    source=f"{DDIM_PAPER}, equations 12 and 16",
)
def one_step(_: float) -> Iterator[Evidence]:
    r"""A step of the sampler is a draw of the family at its prediction; at eta = 1 it is the ancestral one.

    The prediction takes the place of x in q_sigma(z_s | z_t, x). With the same noise, by the formula written out; at
    eta = 1 the mean is (a sigma_s^2 z + alpha_s sigma_{t|s}^2 x_hat) / sigma_t^2.
    """
    oracle = GaussianOracle(torch.tensor([0.5]), torch.tensor([0.3]), CosineSchedule())
    z, s, t = torch.randn(32, 1, dtype=F64), LEVELS[1], LEVELS[3]
    noise = torch.randn(32, 1, dtype=F64, generator=generator(3))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = cos_sin(s), cos_sin(t)
    mean, variance = torch.tensor(0.5), torch.tensor(0.3)  # in single precision, as the oracle was given them
    x = mean + alpha_t * variance * (z - alpha_t * mean) / (alpha_t**2 * variance + sigma_t**2)
    eps, tilde = (z - alpha_t * x) / sigma_t, posterior_deviation(s, t)
    for eta in ETAS:
        made, _ = DDIM(eta).step(oracle, z, t, s, None, generator=generator(3))
        expected = alpha_s * x + torch.sqrt(sigma_s**2 - (eta * tilde) ** 2) * eps + eta * tilde * noise
        yield close(f"the step with the same noise, eta = {eta}", expected, made, 1e-7)
    forward = (tilde * sigma_t / sigma_s) ** 2
    ancestral = (alpha_t / alpha_s * sigma_s**2 * z + alpha_s * forward * x) / sigma_t**2 + tilde * noise
    yield close("eta = 1 is a draw of the posterior", ancestral, made, 1e-7)


@law(
    "ddim/objectives",
    formula=r"KL\big(q_\sigma(z_s|z_t,x)\,\|\,q_\sigma(z_s|z_t,\hat x)\big) = \gamma_t\,|\epsilon - \hat\epsilon|^2, "
    r"\quad \gamma_t = \frac{(\alpha_s\sigma_t/\alpha_t - \sqrt{\sigma_s^2 - d_t^2})^2}{2 d_t^2}",
    source=f"{DDIM_PAPER}, theorem 1",
    assumptions="d > 0 at every level",
)
def objectives(_: float) -> Iterator[Evidence]:
    r"""Every member with d > 0 has the objective of DDPM up to weights: one network serves the whole family.

    The two steps share their variance d^2 and their means differ by (alpha_s - sqrt(sigma_s^2 - d^2) alpha_t /
    sigma_t)(x - x_hat), with x - x_hat = -(sigma_t / alpha_t)(eps - eps_hat). The weight is the same whatever z_t, x
    and the prediction are, so each level has one optimum for every d; at d = 0 it is infinite.
    """
    schedule, (alpha, sigma) = CosineSchedule(), cos_sin(LEVELS)
    z, x, guess = torch.randn(3, 40, 1, dtype=F64, generator=generator(4))
    for eta in (0.2, 0.6, 1.0):
        family = ImplicitProcess.of_eta(schedule, LEVELS, eta)
        for level in (1, 3):
            true, model = (family.backward(z, mean, level) for mean in (x, guess))
            kl = kl_divergence(Normal(true.mean, true.stddev), Normal(model.mean, model.stddev))
            square = (alpha[level] / sigma[level]) ** 2 * (x - guess) ** 2  # |eps - eps_hat|^2
            d = eta * posterior_deviation(LEVELS[level - 1], LEVELS[level])
            kept = torch.sqrt(sigma[level - 1] ** 2 - d**2)
            gamma = (alpha[level - 1] * sigma[level] / alpha[level] - kept) ** 2 / (2 * d**2)
            claim = f"divergence over gamma times the error of eps, eta = {eta}, level {level}"
            yield close(claim, 1.0, kl / (gamma * square), 1e-8)


def ancestral_variance(steps: int) -> float:
    """Of N(0, 1) data after so many equal steps with eta = 1: z multiplies, fresh variance is added."""
    variance, times = 1.0, [1 - k / steps for k in range(steps)] + [0.0]
    for t, s in pairwise(times):
        u, v = t * math.pi / 2, s * math.pi / 2
        forward = math.sin(u + v) * math.sin(u - v) / math.cos(v) ** 2
        a = math.cos(u) / math.cos(v)
        factor = (a * math.sin(v) ** 2 + math.cos(v) * forward * math.cos(u)) / math.sin(u) ** 2
        variance = factor**2 * variance + forward * math.sin(v) ** 2 / math.sin(u) ** 2
    return variance


@law(
    "ddim/fewer-steps",
    formula=r"\mathrm{Var} = \cos^{2N}(\pi/2N) \to 1 \text{ in } N \text{ steps, for any sub-sequence of the levels}",
    source=f"{DDIM_PAPER}, section 4.2 and table 1",
)
def fewer_steps(precision: float) -> Iterator[Evidence]:
    r"""A model of T levels samples on any few of them: the marginals of a sub-sequence are those of the whole.

    The objective fixes the marginals alone, and the family of a sub-sequence has them too (its induction runs over
    whatever levels there are): exact on data at a point, whatever the levels. What a step costs is the
    prediction's own error, of order 1/N: on N(0, 1) the variance is known for DDIM and for ancestral sampling.
    """
    n, (alpha, sigma) = draws(10_000, precision), cos_sin(LEVELS)
    for places in ((4, 0), (4, 2, 0)):
        z = alpha[-1] * 0.8 + sigma[-1] * torch.randn(n, 1, dtype=F64, generator=generator(1))
        z = integrate(DDIM(0.6), point(0.8), z, LEVELS[list(places)], generator=generator(2))
        unit = ((z - alpha[0] * 0.8) / sigma[0])[:, 0]
        yield mean_is(f"square on a point, standardised, in {len(places) - 1} steps", 1.0, unit**2)
    unit_data = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    for steps in (5, 10):
        times = time_grid("uniform", steps, unit_data.schedule)
        start = torch.randn(n, 1, dtype=F64, generator=generator(3))
        for name, eta, exact in (
            ("DDIM", 0.0, math.cos(math.pi / 2 / steps) ** (2 * steps)),
            ("ancestral", 1.0, ancestral_variance(steps)),
        ):
            made = integrate(DDIM(eta), unit_data, start, times, generator=generator(4))[:, 0]
            yield mean_is(f"variance on N(0, 1) in {steps} steps, {name}", exact, made**2)
    u, oracle = (torch.arange(2000, dtype=F64) + 0.5) / 2000, two_modes()
    times = time_grid("uniform", 20, oracle.schedule, start=0.9, end=0.1)
    made = quantile(oracle, integrate(DDIM(), oracle, place(oracle, u, 0.9), times), 0.1)
    yield bounded(
        "DDIM in 20 steps on two modes: largest error of a quantile", (made - u).abs(), 0.1, relation="at most"
    )


@fewer_steps.drawn
def _plot() -> str:
    counts = [3, 5, 8, 12, 20, 35, 60, 100]
    return plots.curves(
        counts,
        {
            "DDIM": [1 - math.cos(math.pi / 2 / n) ** (2 * n) for n in counts],
            "ancestral": [1 - ancestral_variance(n) for n in counts],
        },
        title="Variance that is lost on N(0, 1)",
        xlabel="steps",
        log=True,
    )


LAWS: tuple[Law, ...] = (marginals, deterministic, one_step, objectives, fewer_steps)

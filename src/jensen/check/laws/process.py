r"""The forward process of diffusion: schedules, q(z_t | z_s), q(z_s | z_t, x), variance, factorisation.

Expected values do not use jensen's schedules: they are written out for $\alpha = \cos(\pi t/2)$,
$\sigma = \sin(\pi t/2)$, or computed step by step for DDPM's betas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from jensen import diffusion
from jensen.check.evidence import Claims, close, differs
from jensen.check.law import law
from jensen.check.line import F64, f64, randn
from jensen.check.schedules import schedule as check_schedule
from jensen.core.seeding import generator
from jensen.diffusion import BetaSchedule, CosineSchedule, LearnedSchedule, LinearSchedule, Process, Schedule

TIGHT = 1e-9


def cos_sin(t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma of the cosine schedule, written out."""
    return torch.cos(t * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def posterior_deviation(s: Tensor, t: Tensor) -> Tensor:
    """Sigma_{t|s} sigma_s / sigma_t of the cosine schedule, by the angles u of t and v of s."""
    u, v = t * (math.pi / 2), s * (math.pi / 2)
    return torch.sqrt(torch.sin(u + v) * torch.sin(u - v)) / torch.cos(v) * torch.sin(v) / torch.sin(u)


BETAS = torch.linspace(2e-3, 0.3, 50, dtype=F64)  # DDPM's, for 50 steps


def at_steps(*steps: int) -> list[Tensor]:
    """The times of these steps of 50."""
    return [f64([k / 50]) for k in steps]


def chain(first: int, last: int) -> tuple[float, float]:
    """Factor and variance after z <- sqrt(1 - beta) z + sqrt(beta) n with the betas first + 1 to last."""
    factor, variance = 1.0, 0.0
    for beta in BETAS[first:last].tolist():
        factor, variance = factor * math.sqrt(1 - beta), (1 - beta) * variance + beta
    return factor, variance


@law("process/marginal")
def marginal(_: float) -> Claims:
    r"""The distribution of z_t given x is Gaussian: many small noising steps equal one draw of alpha_t x + sigma_t eps.

    $$q(z_t \mid x) = N(\alpha_t x,\ \sigma_t^2)$$
    z <- sqrt(1 - beta) z + sqrt(beta) n multiplies the factors and adds variance, so that after i steps
    alpha^2 = prod (1 - beta_j) and sigma^2 = 1 - alpha^2.
    Source: Ho et al. (2020), equation 4.
    """
    process, x = Process(BetaSchedule(BETAS)), f64([[1.7]])
    for i in (1, 10, 50):
        factor, variance = chain(0, i)
        q = process.marginal(x, *at_steps(i))
        yield close(f"mean of z_t after {i} of 50 steps", factor * 1.7, q.mean, TIGHT)
        yield close(f"variance of z_t after {i} of 50 steps", variance, q.variance, TIGHT)
    t = f64([0.0, 0.3, 1.0])
    q, (alpha, sigma) = Process(CosineSchedule()).marginal(x.expand(3, 1), t), cos_sin(t)
    yield close("mean of z_t at t = 0, 0.3, 1 on the cosine schedule", 1.7 * alpha, q.mean[:, 0], TIGHT)
    yield close("its standard deviation", sigma, q.stddev[:, 0], TIGHT)


@law("process/transition")
def transition(_: float) -> Claims:
    r"""The transition between any two times is Gaussian, and is the composition of all small steps between them.

    $$q(z_t \mid z_s) = N(a_{t|s} z_s,\ \sigma_{t|s}^2), \quad a_{t|s} = \alpha_t/\alpha_s, \quad
    \sigma_{t|s}^2 = \sigma_t^2 - a_{t|s}^2 \sigma_s^2$$
    a alpha_s x must be alpha_t x, and a^2 sigma_s^2 + sigma_{t|s}^2 must be sigma_t^2. On the cosine schedule
    sigma_{t|s}^2 = sin(u + v) sin(u - v) / cos(v)^2 at the angles u of t and v of s; on DDPM's schedule in continuous
    time a^2 = exp(-(B(t) - B(s))) = 1 - sigma_{t|s}^2, with B the integral of beta.
    Source: Kingma et al., VDM (2021), appendix A.1.
    """
    process = Process(BetaSchedule(BETAS))
    for i, j in ((1, 2), (3, 20), (10, 50)):
        (a, spread), (factor, variance) = process.transition(*at_steps(i, j)), chain(i, j)
        yield close(f"factor a, steps {i + 1} to {j} of 50", factor, a, TIGHT)
        yield close(f"variance, steps {i + 1} to {j} of 50", variance, spread**2, TIGHT)
    s, t = f64([0.1, 0.3, 0.2]), f64([0.2, 0.9, 0.95])
    v, u, gained = s * math.pi / 2, t * math.pi / 2, 0.1 * (t - s) + 19.9 * (t**2 - s**2) / 2
    for name, schedule, factors, variances in (
        ("cosine schedule", CosineSchedule(), u.cos() / v.cos(), torch.sin(u + v) * torch.sin(u - v) / v.cos() ** 2),
        ("linear beta(t)", LinearSchedule(), torch.exp(-gained / 2), 1 - torch.exp(-gained)),
    ):
        a, spread = Process(schedule).transition(s, t)
        yield close(f"factor a, {name}", factors, a, TIGHT)
        yield close(f"variance, {name}", variances, spread**2, TIGHT)


@law("process/posterior")
def posterior(_: float) -> Claims:
    r"""Given x, the reverse step is Gaussian, with the mean and variance of Bayes' rule.

    $$q(z_s \mid z_t, x) = N\Big(\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t +
    \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} x,\ \frac{\sigma_{t|s}^2\sigma_s^2}{\sigma_t^2}\Big)$$
    q(z_s | z_t, x) is proportional to q(z_t | z_s) q(z_s | x): two Gaussians in z_s of precisions a^2 / sigma_{t|s}^2
    and 1 / sigma_s^2, whose sum is sigma_t^2 / (sigma_{t|s}^2 sigma_s^2). The product is integrated on a grid.
    Source: Ho et al. (2020), equation 7; Kingma et al., VDM (2021), appendix A.2.
    """
    x, z_t, s, t = 0.8, -0.5, 0.3, 0.65
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (cos_sin(f64(v)) for v in (s, t))
    z, a = torch.linspace(-6, 6, 6001, dtype=F64), alpha_t / alpha_s
    forward = sigma_t**2 - a**2 * sigma_s**2
    mass = torch.softmax(-((z_t - a * z) ** 2) / (2 * forward) - (z - alpha_s * x) ** 2 / (2 * sigma_s**2), 0)
    mean, rows = mass @ z, (f64([[z_t]]), f64([[x]]))
    q = Process(CosineSchedule()).posterior(*rows, f64([s]), f64([t]))
    yield close("mean, by integration of Bayes' rule", mean, q.mean, TIGHT)
    yield close("variance, by integration of Bayes' rule", mass @ (z - mean) ** 2, q.variance, TIGHT)
    before, after = (1 - BETAS).cumprod(0)[18:20].tolist()  # DDPM's step 20
    b = float(BETAS[19])
    q = Process(BetaSchedule(BETAS)).posterior(*rows, *at_steps(19, 20))
    mean_ddpm = (math.sqrt(before) * b * x + math.sqrt(1 - b) * (1 - before) * z_t) / (1 - after)
    yield close("mean by DDPM's formula, step 20", mean_ddpm, q.mean, TIGHT)
    yield close("variance by DDPM's formula, step 20", (1 - before) / (1 - after) * b, q.variance, TIGHT)


@law("errata/posterior-mean")
def posterior_mean(_: float) -> Claims:
    r"""In the mean of q(z_s | z_t, x) the weight of z_t contains the factor a_{t|s} to the first power, not squared.

    $$\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t + \ldots, \text{ not }
    \frac{a_{t|s}^2\sigma_s^2}{\sigma_t^2} z_t$$
    The slope of E[z_s | z_t, x] in z_t is Cov(z_s, z_t) / Var z_t, and given x the covariance is a sigma_s^2. From
    DDPM's betas, steps 10 and 40 of 50.
    Source: Ho et al. (2020), equation 7.
    """
    (a, forward), (_factor, before) = chain(10, 40), chain(0, 10)
    process, x, times = Process(BetaSchedule(BETAS)), f64([[0.0]]), at_steps(10, 40)
    found = process.posterior(x + 1, x, *times).mean - process.posterior(x, x, *times).mean
    yield close("weight of z_t in the mean", a * before / (a**2 * before + forward), found, TIGHT)
    yield differs("this weight with a_{t|s}^2 instead of a_{t|s}, over the exact one", 1.0, a, 0.5)


@law("process/variance-preservation")
def variance_preservation(_: float) -> Claims:
    r"""A variance-preserving process keeps the variance of data of unit variance: Var z_t = 1 at every t.

    $$\mathrm{Var}\, z_t = \alpha_t^2\,\mathrm{Var}\,x + \sigma_t^2; \quad
    \alpha_t^2 + \sigma_t^2 = 1 \;\Rightarrow\; \mathrm{Var}\, z_t = 1$$
    This holds for the cosine, linear, beta, learned and log-SNR schedules. The straight line of flow matching has
    variance (1 - t)^2 + t^2 instead, 1/2 at t = 1/2, and the variance-exploding process 1 + sigma^2.
    Source: Song et al. (2021), section 3.4.
    Assumes: data of unit variance.
    """
    t = torch.linspace(0.02, 1, 50, dtype=F64)
    for name, schedule, expected in (
        ("cosine", CosineSchedule(), 1.0),
        ("linear", LinearSchedule(), 1.0),
        ("betas", BetaSchedule(BETAS), 1.0),
        ("linear log-SNR", diffusion.VariancePreserving(), 1.0),
        ("learned", LearnedSchedule(), 1.0),
        ("rectified", diffusion.RectifiedSchedule(), (1 - t) ** 2 + t**2),
        ("variance-exploding", diffusion.VarianceExploding(0.1, 10.0), 1 + (0.1 * 100**t) ** 2),
    ):
        low, high = (Process(schedule).marginal(f64([[x]]).expand(50, 1), t) for x in (-1.0, 1.0))  # of variance 1
        variance = (high.mean - low.mean) ** 2 / 4 + low.variance
        yield close(f"variance of z_t over the exact one, {name} schedule", 1.0, variance[:, 0] / expected, TIGHT)


@law("process/markov")
def markov(_: float) -> Claims:
    r"""The joint density of all z_t given x factorises forward, without x, and backward, given x.

    $$q(z_1, \ldots, z_T \mid x) = q(z_1 \mid x) \prod_t q(z_t \mid z_{t-1}) =
    q(z_T \mid x) \prod_t q(z_{t-1} \mid z_t, x)$$
    Given x the z_t are jointly Gaussian with means alpha_t x and, because q(z_t | z_s) does not depend on x,
    Cov(z_s, z_t) = a_{t|s} sigma_s^2. The expected density at random points is computed from this covariance Cov(z_s,
    z_t).
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
    forward, backward = (process.marginal(rows, at[k]).log_prob(levels[k]) for k in (0, 4))
    for k in range(1, 5):
        a, spread = process.transition(at[k - 1], at[k])
        forward = forward + Normal(a[:, None] * levels[k - 1], spread[:, None]).log_prob(levels[k])
        backward = backward + process.posterior(levels[k], rows, at[k - 1], at[k]).log_prob(levels[k - 1])
    yield close("log density of five z_t by the forward factors", joint.log_prob(z), forward[:, 0], 1e-8)
    yield close("log density of five z_t by the backward factors", joint.log_prob(z), backward[:, 0], 1e-8)


@law("process/implicit-forward")
def implicit_forward(_: float) -> Claims:
    r"""The forward steps of DDIM's processes follow from their backward steps by Bayes' rule.

    $$q_\sigma(z_t | z_s, x)\, q(z_s | x) = q_\sigma(z_s | z_t, x)\, q(z_t | x)$$
    Both sides are the joint density of two neighbouring levels z_s, z_t given x, for every standard deviation of the
    backward step; the marginals q(z_t | x) are those of the Markov chain.
    Source: Song et al., DDIM (2021), equation 8.
    """
    x, low, high = randn(0, 3, 5, 1)
    for eta in (0.3, 1.0):
        family = diffusion.ImplicitProcess.of_eta(CosineSchedule(), f64([0.2, 0.5, 0.8]), eta)
        for level in (1, 2):
            down = family.backward(high, x, level).log_prob(low) + family.marginal(x, level).log_prob(high)
            up = family.forward(low, x, level).log_prob(high) + family.marginal(x, level - 1).log_prob(low)
            yield close(f"log joint density of levels {level - 1} and {level}, eta = {eta}", down, up, TIGHT)


@law("schedule/conditions")
def conditions(_: float) -> Claims:
    r"""In every schedule the SNR decreases, almost only noise is left at the end, and transitions form one process.

    $$\lambda(t) = \log(\alpha_t^2/\sigma_t^2),\ \lambda' < 0, \quad t = \lambda^{-1}(\lambda(t))$$
    `jensen.check.schedule` on all of jensen's schedules, which also tests the inverse of the log-SNR; and the log-SNR
    at t = 0.3 against each schedule's formula.
    Source: Kingma et al., VDM (2021), section 3.1.
    """
    learned, rng = LearnedSchedule(9.0, -6.0), generator(0)
    with torch.no_grad():
        for w in learned.interior():
            w.add_(torch.randn(w.shape, generator=rng))
    third = 0.3 * math.pi / 2
    bar = (math.cos(third * 0.308 / 0.3 / 1.008) / math.cos(0.004 * math.pi / 1.008)) ** 2
    exploding = -2 * (0.7 * math.log(0.002) + 0.3 * math.log(80.0))
    every: dict[str, tuple[Schedule, bool, float | None]] = {
        "cosine": (CosineSchedule(), True, -2 * math.log(math.tan(third))),
        "improved cosine": (diffusion.ImprovedCosineSchedule(), True, math.log(bar / (1 - bar))),
        "linear": (LinearSchedule(), True, -math.log(math.expm1(0.1 * 0.3 + 19.9 * 0.09 / 2))),
        "rectified": (diffusion.RectifiedSchedule(), False, 2 * math.log(0.7 / 0.3)),
        "linear log-SNR": (diffusion.VariancePreserving(), True, 13.3 - 18.3 * 0.3),
        "variance-exploding": (diffusion.VarianceExploding(), False, exploding),
        "learned": (learned, True, None),
        "FunctionSchedule": (diffusion.FunctionSchedule(lambda t: 8 - 14 * t**3 - t), True, 8 - 14 * 0.027 - 0.3),
    }
    for name, (schedule, vp, log_snr) in every.items():
        of, p = f"{name} schedule", Process(schedule)
        with torch.no_grad():
            found = check_schedule(schedule, variance_preserving=vp, transition=p.transition, posterior=p.posterior)
            yield found.failures(of)
        if log_snr is not None:
            yield close(f"{of}: log-SNR at t = 0.3", log_snr, schedule.log_snr(f64(0.3)), TIGHT)

r"""The forward process: schedules, q(z_t | z_s), q(z_s | z_t, x), the variance, the Markov factorisation.

What is expected is written out for $\alpha = \cos(\pi t/2)$, $\sigma = \sin(\pi t/2)$, or made by running a chain of
betas: no schedule of jensen's is asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from jensen.check.evidence import Evidence, close
from jensen.check.law import Law, law
from jensen.check.line import F64
from jensen.check.schedules import schedule as check_schedule
from jensen.core.seeding import generator
from jensen.diffusion import (
    BetaSchedule,
    CosineSchedule,
    FunctionSchedule,
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
VDM = "Kingma et al., VDM (2021)"
DDPM = "Ho et al. (2020)"


def cos_sin(t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma of the cosine schedule, written out."""
    return torch.cos(t * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def betas() -> Tensor:
    """DDPM's, of 50 steps."""
    return torch.linspace(2e-3, 0.3, 50, dtype=F64)


def chain(first: int, last: int) -> tuple[float, float]:
    """Factor and variance after z <- sqrt(1 - beta) z + sqrt(beta) n with the betas first + 1 to last."""
    factor, variance = 1.0, 0.0
    for beta in betas()[first:last].tolist():
        factor, variance = factor * math.sqrt(1 - beta), (1 - beta) * variance + beta
    return factor, variance


@law(
    "process/marginal",
    formula=r"q(z_t \mid x) = N(\alpha_t x,\ \sigma_t^2)",
    source=f"{DDPM}, equation 4",
)
def marginal(_: float) -> Iterator[Evidence]:
    r"""A chain of small steps ends where one draw of alpha_t x + sigma_t eps is made.

    z <- sqrt(1 - beta) z + sqrt(beta) n multiplies factors and carries variances along, so that after i steps
    alpha^2 = prod (1 - beta_j) and sigma^2 = 1 - alpha^2.
    """
    process, x = Process(BetaSchedule(betas())), torch.tensor([[1.7]], dtype=F64)
    for i in (1, 10, 50):
        factor, variance = chain(0, i)
        q = process.marginal(x, torch.tensor([i / 50], dtype=F64))
        yield close(f"mean after {i} steps", factor * 1.7, q.mean, TIGHT)
        yield close(f"variance after {i} steps", variance, q.variance, TIGHT)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    q, (alpha, sigma) = Process(CosineSchedule()).marginal(x.expand(3, 1), t), cos_sin(t)
    yield close("mean at t = 0, 0.3, 1, cosine", 1.7 * alpha, q.mean[:, 0], TIGHT)
    yield close("deviation at t = 0, 0.3, 1, cosine", sigma, q.stddev[:, 0], TIGHT)


@law(
    "process/transition",
    formula=r"q(z_t \mid z_s) = N(a_{t|s} z_s,\ \sigma_{t|s}^2), \quad a_{t|s} = \alpha_t/\alpha_s, \quad "
    r"\sigma_{t|s}^2 = \sigma_t^2 - a_{t|s}^2 \sigma_s^2",
    source=f"{VDM}, appendix A.1",
)
def transition(_: float) -> Iterator[Evidence]:
    r"""Between any two times the process is one Gaussian step, that of all the small steps between.

    a alpha_s x must be alpha_t x, and a^2 sigma_s^2 + sigma_{t|s}^2 the variance sigma_t^2. On the cosine schedule
    sigma_{t|s}^2 = sin(u + v) sin(u - v) / cos(v)^2 at the angles u of t and v of s; on DDPM's continuous one
    a^2 = exp(-(B(t) - B(s))) = 1 - sigma_{t|s}^2, B the integral of beta.
    """
    process = Process(BetaSchedule(betas()))
    for i, j in ((1, 2), (3, 20), (10, 50)):
        a, spread = process.transition(*(torch.tensor([k / 50], dtype=F64) for k in (i, j)))
        factor, variance = chain(i, j)
        yield close(f"factor of steps {i + 1} to {j}", factor, a, TIGHT)
        yield close(f"variance of steps {i + 1} to {j}", variance, spread**2, TIGHT)
    s, t = torch.tensor([0.1, 0.3, 0.2], dtype=F64), torch.tensor([0.2, 0.9, 0.95], dtype=F64)
    a, spread = Process(CosineSchedule()).transition(s, t)
    v, u = s * math.pi / 2, t * math.pi / 2
    yield close("factor, cosine", torch.cos(u) / torch.cos(v), a, TIGHT)
    yield close("variance, cosine", torch.sin(u + v) * torch.sin(u - v) / torch.cos(v) ** 2, spread**2, TIGHT)
    a, spread = Process(LinearSchedule()).transition(s, t)
    gained = 0.1 * (t - s) + 19.9 * (t**2 - s**2) / 2
    yield close("factor, linear betas in continuous time", torch.exp(-gained / 2), a, TIGHT)
    yield close("variance, linear betas in continuous time", 1 - torch.exp(-gained), spread**2, TIGHT)


@law(
    "process/posterior",
    formula=r"q(z_s \mid z_t, x) = N\Big(\frac{a_{t|s}\sigma_s^2}{\sigma_t^2} z_t + "
    r"\frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} x,\ \frac{\sigma_{t|s}^2\sigma_s^2}{\sigma_t^2}\Big)",
    source=f"{DDPM}, equation 7; {VDM}, appendix A.2",
)
def posterior(_: float) -> Iterator[Evidence]:
    r"""Given the data, a step back is Gaussian, by Bayes' rule.

    q(z_s | z_t, x) is proportional to q(z_t | z_s) q(z_s | x): two Gaussians in z_s of precisions a^2 / sigma_{t|s}^2
    and 1 / sigma_s^2, whose sum is sigma_t^2 / (sigma_{t|s}^2 sigma_s^2). Here the product is integrated on a grid.
    """
    x, z_t, s, t = 0.8, -0.5, 0.3, 0.65
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (cos_sin(torch.tensor(v, dtype=F64)) for v in (s, t))
    z = torch.linspace(-6, 6, 6001, dtype=F64)
    forward = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    mass = torch.softmax(
        -((z_t - alpha_t / alpha_s * z) ** 2) / (2 * forward) - (z - alpha_s * x) ** 2 / (2 * sigma_s**2), 0
    )
    mean = mass @ z
    rows = (torch.tensor([[z_t]], dtype=F64), torch.tensor([[x]], dtype=F64))
    q = Process(CosineSchedule()).posterior(*rows, torch.tensor([s], dtype=F64), torch.tensor([t], dtype=F64))
    yield close("mean, by integrating Bayes' rule", mean, q.mean, TIGHT)
    yield close("variance, by integrating Bayes' rule", mass @ (z - mean) ** 2, q.variance, TIGHT)
    beta = betas()
    bar = (1 - beta).cumprod(0)
    i = 19  # DDPM's step 20, from 19
    before, after, b = float(bar[i - 1]), float(bar[i]), float(beta[i])
    q = Process(BetaSchedule(beta)).posterior(*rows, *(torch.tensor([k / 50], dtype=F64) for k in (i, i + 1)))
    mean_ddpm = (math.sqrt(before) * b * x + math.sqrt(1 - b) * (1 - before) * z_t) / (1 - after)
    yield close("mean in DDPM's letters, step 20", mean_ddpm, q.mean, TIGHT)
    yield close("variance in DDPM's letters, step 20", (1 - before) / (1 - after) * b, q.variance, TIGHT)


@law(
    "process/variance-preservation",
    formula=r"\alpha_t^2 + \sigma_t^2 = 1 \;\Rightarrow\; \mathrm{Var}\, z_t = 1 \text{ for data of variance } 1",
    source="Song et al. (2021), section 3.4",
    assumptions="data of unit variance",
)
def variance_preservation(_: float) -> Iterator[Evidence]:
    r"""Data of unit variance keep it: Var z_t = alpha_t^2 Var x + sigma_t^2.

    It holds for the cosine, linear, beta, learned and any log-SNR schedule; the straight line of flow matching has
    variance (1 - t)^2 + t^2 instead, 1/2 in the middle, and the exploding one 1 + sigma^2.
    """
    t = torch.linspace(0.02, 1, 50, dtype=F64)

    def variance(schedule: Schedule) -> Tensor:
        q = [Process(schedule).marginal(torch.full((50, 1), x, dtype=F64), t) for x in (-1.0, 1.0)]  # variance 1
        means = torch.stack([v.mean for v in q])
        return (means.var(0, unbiased=False) + q[0].variance)[:, 0]

    for name, schedule in (
        ("cosine", CosineSchedule()),
        ("linear", LinearSchedule()),
        ("betas", BetaSchedule(betas())),
        ("linear log-SNR", VariancePreserving()),
        ("learned", LearnedSchedule()),
    ):
        yield close(f"variance of z_t, {name}", 1.0, variance(schedule).detach(), TIGHT)
    yield close("variance of z_t, rectified", (1 - t) ** 2 + t**2, variance(RectifiedSchedule()), TIGHT)
    exploded = 1 + (0.1 * 100**t) ** 2
    yield close("variance of z_t, exploding", 1.0, variance(VarianceExploding(0.1, 10.0)) / exploded, TIGHT)


@law(
    "process/markov",
    formula=r"q(z_1, \ldots, z_T \mid x) = q(z_1 \mid x) \prod_t q(z_t \mid z_{t-1}) = "
    r"q(z_T \mid x) \prod_t q(z_{t-1} \mid z_t, x)",
    source=f"{DDPM}, equations 2 and 5; {VDM}, section 3.2",
)
def markov(_: float) -> Iterator[Evidence]:
    r"""The process factorises forwards without x and backwards with it, and both are one joint Gaussian.

    Given x the levels are jointly Gaussian with mean alpha_t x and, because q(z_t | z_s) does not look at x,
    Cov(z_s, z_t) = a_{t|s} sigma_s^2. Its density at random points is computed from that covariance alone.
    """
    times = torch.tensor([0.1, 0.25, 0.4, 0.7, 0.9], dtype=F64)
    alpha, sigma = cos_sin(times)
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    early, late = torch.minimum(i, j), torch.maximum(i, j)
    covariance = alpha[late] / alpha[early] * sigma[early] ** 2
    x = torch.tensor(0.6, dtype=F64)
    joint = MultivariateNormal(alpha * x, covariance)
    z = joint.sample((64,))
    exact = joint.log_prob(z)
    process, rows = Process(CosineSchedule()), x.expand(64, 1)

    def at(k: int) -> tuple[Tensor, Tensor]:
        return z[:, k : k + 1], times[k].expand(64)

    forwards = process.marginal(rows, at(0)[1]).log_prob(at(0)[0])
    backwards = process.marginal(rows, at(4)[1]).log_prob(at(4)[0])
    for k in range(1, 5):
        (z_s, s), (z_t, t) = at(k - 1), at(k)
        a, spread = process.transition(s, t)
        forwards = forwards + torch.distributions.Normal(a[:, None] * z_s, spread[:, None]).log_prob(z_t)
        backwards = backwards + process.posterior(z_t, rows, s, t).log_prob(z_s)
    yield close("log density forwards, five levels", exact, forwards[:, 0], 1e-8)
    yield close("log density backwards, five levels", exact, backwards[:, 0], 1e-8)


@law(
    "schedule/conditions",
    formula=r"\lambda(t) = \log(\alpha_t^2/\sigma_t^2),\ \lambda' < 0, \quad t = \lambda^{-1}(\lambda(t))",
    source=f"{VDM}, section 3.1",
)
def conditions(_: float) -> Iterator[Evidence]:
    r"""Every schedule falls in SNR, ends in noise, has the inverse it says, and makes one process.

    The user-facing check, on all of jensen's; and log-SNRs at t = 0.3 against their formulas.
    """
    learned = LearnedSchedule(9.0, -6.0)
    rng = generator(0)
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
        process = Process(schedule)
        with torch.no_grad():
            report = check_schedule(
                schedule, variance_preserving=preserving, transition=process.transition, posterior=process.posterior
            )
        worst = max(report.evidence, key=lambda e: e.excess - e.tolerance)
        failed = len(report.failed)
        yield Evidence(f"{name}: claims of {len(report.evidence)} that fail (worst: {worst.claim})", 0.0, failed, 0.0)
        if log_snr is not None:
            yield close(f"{name}: log-SNR at 0.3", log_snr, schedule.log_snr(torch.tensor(0.3, dtype=F64)), TIGHT)


LAWS: tuple[Law, ...] = (marginal, transition, posterior, variance_preservation, markov, conditions)

r"""The variational bound of diffusion: KL divergences of reverse steps, their sum, and the limit of continuous time.

Expectations are written out for data N(m, v), whose denoiser is $\hat x = (m + u v y)/(1 + u v)$ at $y = z/\alpha$ and
SNR u, so that $E|x - \hat x|^2 = ((x - m)^2 + u v^2)/(1 + u v)^2$; log-SNRs are those of the schedules' formulas.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from jensen.check.evidence import Claims, Evidence, bounded, close, differs, means_are
from jensen.check.law import draws, law
from jensen.check.laws.process import TIGHT, cos_sin, posterior_deviation
from jensen.check.line import F64, f64, normal_nodes
from jensen.check.samplers import order_of
from jensen.core.seeding import generator
from jensen.diffusion import (
    CosineSchedule,
    Denoiser,
    FunctionSchedule,
    GaussianOracle,
    LearnedSchedule,
    Prediction,
    Process,
    Schedule,
    VariancePreserving,
    bound,
    step_kl,
    vlb,
)
from jensen.report import plots

M, V, X = 0.4, 0.6, 1.3  # data N(M, V), and the point at which bounds are taken
HIGH, LOW = 6.0, -4.0  # log-SNR at t = 0 and at t = 1, linear in between
BOTH = f64([[M - math.sqrt(V)], [M + math.sqrt(V)]])  # a quadratic's mean over N(M, V) is its mean over these two


def gaussian(schedule: Schedule) -> GaussianOracle:
    """The exact denoiser of N(M, V), float64."""
    return GaussianOracle(f64([M]), f64([V]), schedule)


def error(snr: Tensor) -> Tensor:
    """E |X - x_hat(z)|^2 over z given x = X."""
    return ((X - M) ** 2 + snr * V**2) / (1 + snr * V) ** 2


def discrete(steps: int, later: bool = True) -> Tensor:
    """Half the decrease of SNR over each of T equal steps times the error at its later end, (T,)."""
    snr = torch.exp(torch.linspace(HIGH, LOW, steps + 1, dtype=F64))
    return (snr[:-1] - snr[1:]) / 2 * error(snr[1:] if later else snr[:-1])


def limit() -> float:
    """Half the integral of the error over SNR, by the trapezoidal rule in log-SNR."""
    log_snr = torch.linspace(LOW, HIGH, 20_001, dtype=F64)
    return float(torch.trapezoid(log_snr.exp() * error(log_snr.exp()), log_snr)) / 2


@law("vdm/step-kl")
def step(_: float) -> Claims:
    r"""The KL divergence of a reverse step is half the decrease of SNR times the squared error of x.

    $$KL\big(q(z_s|z_t,x)\,\|\,q(z_s|z_t,\hat x)\big) = \tfrac12\,(\mathrm{SNR}(s) - \mathrm{SNR}(t))\,
    |x - \hat x|^2, \quad \mathrm{SNR} = \alpha^2/\sigma^2$$
    Both steps are Gaussians of one variance d^2 = sigma_{t|s}^2 sigma_s^2 / sigma_t^2 whose means differ by
    alpha_s sigma_{t|s}^2 / sigma_t^2 (x - x_hat), so KL = alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2)
    |x - x_hat|^2, and alpha_s^2 sigma_{t|s}^2 / (sigma_s^2 sigma_t^2) = alpha_s^2/sigma_s^2 - alpha_t^2/sigma_t^2.
    Source: Kingma et al., VDM (2021), equation 13 and appendix A.4.
    Assumes: the model's step has the posterior's variance.
    """
    s, t, schedule, rng = f64([0.1, 0.3, 0.6]), f64([0.2, 0.7, 0.95]), CosineSchedule(), generator(0)
    x, eps = (torch.randn(3, 2, dtype=F64, generator=rng) for _ in range(2))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = ([v[:, None] for v in cos_sin(time)] for time in (s, t))
    z, off = alpha_t * x + sigma_t * eps, f64([0.7, -0.4])
    found = step_kl(Prediction.of_x(x + off, z, alpha_t, sigma_t), x, eps, schedule, s, t)
    falls = ((alpha_s / sigma_s) ** 2 - (alpha_t / sigma_t) ** 2)[:, 0]
    yield close("half the decrease of SNR times the error", falls / 2 * off.square().sum(), found, TIGHT * 100)
    deviation = posterior_deviation(s, t)[:, None]
    shift = alpha_s * (deviation / sigma_s) ** 2 * off
    yield close("two Gaussians of one variance", (shift / deviation).square().sum(1) / 2, found, TIGHT * 100)
    true, model = (Process(schedule).posterior(z, mean, s, t) for mean in (x, x + off))
    kl = kl_divergence(Normal(true.mean, true.stddev), Normal(model.mean, model.stddev))
    yield close("torch's divergence of jensen's posteriors", found, kl.sum(1), TIGHT * 1000)


@law("errata/snr-square")
def snr_square(_: float) -> Claims:
    r"""The SNR is a ratio of two variances: alpha^2 / sigma^2, not alpha / sigma^2.

    $$\mathrm{SNR} = \alpha^2/\sigma^2, \text{ not } \alpha/\sigma^2$$
    Half its decrease from s to t is the divergence of a reverse step for an error of 1 in x, whose exact value is
    alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2), from two Gaussians of one variance. At s = 0.3, t = 0.6 on the
    cosine schedule it is 1.662; with alpha / sigma^2 for the SNR it would be 1.712, and from 0.6 to 0.9 not 0.251 but
    0.369.
    Source: Kingma et al., VDM (2021), equation 3; the KL it must give: equation 13.
    """
    schedule, zero = CosineSchedule(), f64([[0.0]])
    for s, t, least in ((0.3, 0.6, 0.04), (0.6, 0.9, 0.1)):
        both = f64([s, t])
        (alpha_s, alpha_t), (sigma_s, sigma_t) = cos_sin(both)
        forward = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        exact = alpha_s**2 * forward / (2 * sigma_s**2 * sigma_t**2)
        prediction = Prediction.of_x(zero + 1, zero, alpha_t.view(1, 1), sigma_t.view(1, 1))  # z = 0, x = 0, x_hat = 1
        found = step_kl(prediction, zero, zero, schedule, both[:1], both[1:])
        yield close(f"the divergence from {t} to {s}", exact, found, 1e-8)
        half_fall = schedule.log_snr(both).exp().diff() / -2
        yield close(f"half the decrease of jensen's SNR from {s} to {t}", exact, half_fall, 1e-8)
        wrong = (alpha_s / sigma_s**2 - alpha_t / sigma_t**2) / 2
        yield differs(f"half the decrease of alpha / sigma^2 from {s} to {t}", exact, wrong, least)


@law("vdm/discrete-loss")
def discrete_loss(precision: float) -> Claims:
    r"""The bound's steps run from (i-1)/T to i/T, each with the error at its later, noisier end.

    $$L_T = \sum_{i=1}^T \tfrac12\,(\mathrm{SNR}(\tfrac{i-1}{T}) - \mathrm{SNR}(\tfrac iT))\,
    E|x - \hat x(z_{i/T})|^2$$
    The denoiser is evaluated at z_t, t = i/T, and the SNR decreases from s = (i-1)/T to t. Each of T = 5 steps is
    estimated from draws of z_t and compared with its closed form for Gaussian data, and so are both end terms:
    L_T = KL(q(z_1|x) || N(0, 1)) and L_0 = -E log N(x; x_hat(z_0), sigma_0^2 / alpha_0^2).
    Source: Kingma et al., VDM (2021), equations 11 to 13; Ho et al. (2020), equation 5.
    """
    x = f64([[X]]).expand(draws(4000, precision), 1)
    found = bound(gaussian(VariancePreserving(HIGH, LOW)), x, steps=5, samples=1, generator=generator(1))
    yield means_are("the step furthest off, of T = 5", discrete(5), found.steps)
    variance, first = 1 / (1 + math.exp(LOW)), f64(math.exp(HIGH))  # sigma_1^2, the SNR of z_0
    prior = ((1 - variance) * X**2 + variance - 1 - math.log(variance)) / 2
    yield close("the prior's divergence", prior, found.prior[0], TIGHT)
    read = (math.log(2 * math.pi) - HIGH + first * error(first)) / 2
    yield means_are("the reconstruction", read, found.reconstruction)


@law("errata/vdm-interval")
def interval(precision: float) -> Claims:
    r"""A step of the discrete bound goes from (i-1)/T to i/T: with i/T on both sides every term is 0.

    $$s = \tfrac{i-1}{T},\ t = \tfrac iT; \quad \mathrm{SNR}(\tfrac iT) - \mathrm{SNR}(\tfrac iT) = 0$$
    And the error belongs to the later end: taken at the earlier one the sum is a lower Riemann sum, which for T = 5
    lies far below the bound's and below its continuous limit.
    Source: Kingma et al., VDM (2021), section 3.2 and equation 13.
    """
    oracle, x = gaussian(VariancePreserving(HIGH, LOW)), f64([[X]]).expand(draws(4000, precision), 1)
    exact = discrete(5)
    found = bound(oracle, x, steps=5, samples=1, generator=generator(1)).steps
    yield means_are("the step of T = 5 furthest off", exact, found)
    zero, z, (s, t) = f64([[0.0]]), f64([[1.0]]), (f64([k / 5]) for k in (2, 3))
    alpha, sigma = (v.view(1, 1) for v in oracle.schedule.alpha_sigma(t))
    width = (LOW - HIGH) / 5
    fall = math.exp(HIGH + 2 * width) - math.exp(HIGH + 3 * width)
    for name, begin, exact_kl in (("from (i-1)/T", s, fall / 2), ("from i/T itself", t, 0.0)):
        kl = step_kl(Prediction.of_x(zero + 1, z, alpha, sigma), zero, z / sigma, oracle.schedule, begin, t)
        yield close(f"the divergence of an error of 1 to i/T, {name}", exact_kl, kl, TIGHT)
    yield differs("a sum whose terms are all 0", exact.sum(), 0.0, 2.0)
    yield differs("the sum with the error at (i-1)/T", exact.sum(), discrete(5, later=False).sum(), 1.0)


@law("vdm/continuous-limit")
def continuous_limit(_: float) -> Claims:
    r"""With more steps the discrete loss decreases to the continuous one, with a gap of order 1/T.

    $$L_T \searrow L_\infty = -\tfrac12\, E\int_0^1 \mathrm{SNR}'(t)\,|x - \hat x(z_t)|^2\,dt$$
    L_T is a Riemann sum of half the integral of the error over SNR, with the error taken at the noisier end, where it
    is larger: an upper sum, which decreases each time the steps are halved; its gap is of first order.
    Source: Kingma et al., VDM (2021), equation 14 and appendix F.
    Assumes: the exact denoiser, whose error rises with the noise, on average over data.
    """
    oracle, counts, x = gaussian(VariancePreserving(HIGH, LOW)), [2**k for k in range(10)], f64([[X]])
    found = f64([float(oracle.bound(x, steps=n).diffusion) for n in counts])
    yield close("T steps", torch.stack([discrete(n).sum() for n in counts]), found, TIGHT * 1000)
    value = float(oracle.bound(x).diffusion)
    yield close("infinitely many steps", limit(), value, 1e-6)
    averaged = torch.stack([oracle.bound(BOTH, steps=n).diffusion.mean() for n in counts])
    yield bounded("doubling the steps lowers the mean loss", averaged.diff(), 0.0, relation="at most")
    gaps = (averaged - oracle.bound(BOTH).diffusion.mean()).tolist()
    yield bounded("the mean gap to the limit", min(gaps), 0.0, relation="at least")
    yield Evidence("order of the gap in 1/T", 1.0, order_of(gaps[5:], counts[5:]), 0.1)
    yield close("the integral of vlb over t, by quadrature", value, _integral(oracle), 1e-6)


def _integral(oracle: Denoiser) -> Tensor:
    """The integral of jensen's `vlb` over t by Gauss-Legendre's rule and over eps by Gauss-Hermite's, at X."""
    places, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(100))
    eps, mass = normal_nodes(20)
    t = ((places + 1) / 2).repeat_interleave(len(eps))
    noise, weight = eps.repeat(len(places))[:, None], (weights[:, None] / 2 * mass).reshape(-1)
    data = torch.full_like(noise, X)
    alpha, sigma = (v.detach()[:, None] for v in oracle.schedule.alpha_sigma(t))
    with torch.no_grad():
        prediction = oracle(alpha * data + sigma * noise, t)
        return weight @ vlb(prediction, data, noise, oracle.schedule.log_snr_slope(t))


@continuous_limit.drawn
def _plot() -> str:
    counts = [2**k for k in range(10)]
    gaps = [float(discrete(n).sum()) - limit() for n in counts]
    rows = {"gap of T steps, nats": gaps, "order 1": [gaps[-1] * counts[-1] / n for n in counts]}
    return plots.curves(counts, rows, title="The discrete loss and its limit", xlabel="steps T", log=True)


@law("vdm/schedule-invariance")
def invariance(_: float) -> Claims:
    r"""In continuous time the loss depends on the schedule by its two ends alone.

    $$L_\infty = \tfrac12\int_{\mathrm{SNR}_{min}}^{\mathrm{SNR}_{max}} E|x - \hat x|^2\, d\,\mathrm{SNR}$$
    With SNR itself as the variable of integration t drops out: schedules that share their two ends have one loss,
    though its integrand over t, and so the variance of its estimate, differs.
    Source: Kingma et al., VDM (2021), section 5.1.
    """
    learned, rng = LearnedSchedule(HIGH, LOW, hidden=4), generator(0)
    with torch.no_grad():
        for p in learned.interior():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    schedules: dict[str, Schedule] = {
        "linear log-SNR": VariancePreserving(HIGH, LOW),
        "cubic log-SNR": FunctionSchedule(lambda t: HIGH + (LOW - HIGH) * (t + 2 * t**3) / 3),
        "learned": learned,
    }
    for name, schedule in schedules.items():
        yield close(f"the integral on the {name} schedule", limit(), _integral(gaussian(schedule)), 1e-5)


@law("vdm/bound")
def tight(_: float) -> Claims:
    r"""The bound lies below log p(x), and comes up to it as the schedule's ends move apart.

    $$-(L_T + L_\infty + L_0) \le \log p(x), \text{ with equality as the ends go to } \pm\infty$$
    In continuous time and with the exact denoiser the reverse process is the true one, so that all the loss is at the
    ends: the prior's divergence from q(z_1) and the reconstruction's from q(x | z_0). Mean over the data, which for
    quadratics is the mean over m - s and m + s.
    Source: Kingma et al., VDM (2021), equation 11; Sohl-Dickstein et al. (2015), section 2.4.
    Assumes: on average over data, and the exact denoiser.
    """
    ends = ((2.0, -2.0), (5.0, -5.0), (8.0, -8.0), (14.0, -14.0))
    values = [gaussian(VariancePreserving(*pair)).bound(BOTH).likelihood.value.mean() for pair in ends]
    gaps = -(math.log(2 * math.pi * V) + 1) / 2 - torch.stack(values)  # log p less the bound
    yield bounded("log p less the bound", gaps, 0.0, relation="at least")
    yield bounded("it falls as the ends move apart", gaps.diff(), 0.0, relation="at most")
    yield Evidence("what is lost from SNR e^14 to e^-14, nats", 0.0, float(gaps[-1]), 1e-5)

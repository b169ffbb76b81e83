r"""The variational bound of diffusion: KL divergences of reverse steps, their sum, and its continuous-time limit.

Expected values are written out for data N(m, v). The exact denoiser is $\hat x = (m + u v y)/(1 + u v)$ at
$y = z/\alpha$ and SNR u, so that $E|x - \hat x|^2 = ((x - m)^2 + u v^2)/(1 + u v)^2$.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from jensen import diffusion
from jensen.check.evidence import Claims, Evidence, bounded, close, differs, means_are
from jensen.check.law import draws, law
from jensen.check.laws.process import TIGHT, cos_sin, posterior_deviation
from jensen.check.line import F64, f64, normal_nodes
from jensen.check.samplers import order_of
from jensen.core.seeding import generator
from jensen.diffusion import CosineSchedule, Denoiser, Prediction, Process, Schedule, VariancePreserving, step_kl
from jensen.report import plots

M, V, X = 0.4, 0.6, 1.3  # data N(M, V), and the point at which bounds are taken
HIGH, LOW = 6.0, -4.0  # log-SNR at t = 0 and at t = 1, linear in between
BOTH = f64([[M - math.sqrt(V)], [M + math.sqrt(V)]])  # a quadratic's mean over N(M, V) is its mean over these two


def gaussian(schedule: Schedule) -> diffusion.GaussianOracle:
    """The exact denoiser of N(M, V), float64."""
    return diffusion.GaussianOracle(f64([M]), f64([V]), schedule)


def five_steps(precision: float) -> diffusion.Bound:
    """The bound with T = 5 steps at X, with one draw of each z_t per row."""
    x = f64([[X]]).expand(draws(4000, precision), 1)
    oracle = gaussian(VariancePreserving(HIGH, LOW))
    return diffusion.bound(oracle, x, steps=5, samples=1, generator=generator(1))


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
    r"""The KL divergence of a reverse step is half the decrease of the SNR times the squared error of x_hat.

    $$KL\big(q(z_s|z_t,x)\,\|\,q(z_s|z_t,\hat x)\big) = \tfrac12\,(\mathrm{SNR}(s) - \mathrm{SNR}(t))\,
    |x - \hat x|^2, \quad \mathrm{SNR} = \alpha^2/\sigma^2$$
    Both steps are Gaussians with variance d^2 = sigma_{t|s}^2 sigma_s^2 / sigma_t^2 whose means differ by
    alpha_s sigma_{t|s}^2 / sigma_t^2 (x - x_hat), so that KL = alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2)
    |x - x_hat|^2, and alpha_s^2 sigma_{t|s}^2 / (sigma_s^2 sigma_t^2) = SNR(s) - SNR(t).
    Source: Kingma et al., VDM (2021), equation 13 and appendix A.4.
    Assumes: the model's step has the posterior's variance.
    """
    s, t, schedule, rng = f64([0.1, 0.3, 0.6]), f64([0.2, 0.7, 0.95]), CosineSchedule(), generator(0)
    x, eps = (torch.randn(3, 2, dtype=F64, generator=rng) for _ in range(2))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = ([v[:, None] for v in cos_sin(time)] for time in (s, t))
    z, off = alpha_t * x + sigma_t * eps, f64([0.7, -0.4])
    found = step_kl(Prediction.of_x(x + off, z, alpha_t, sigma_t), x, eps, schedule, s, t)
    falls = ((alpha_s / sigma_s) ** 2 - (alpha_t / sigma_t) ** 2)[:, 0]
    yield close(
        "KL of a step: half the decrease of the SNR times |x - x_hat|^2",
        falls / 2 * off.square().sum(),
        found,
        TIGHT * 100,
    )
    deviation = posterior_deviation(s, t)[:, None]
    shift = alpha_s * (deviation / sigma_s) ** 2 * off
    yield close(
        "KL of a step: of two Gaussians of equal variance", (shift / deviation).square().sum(1) / 2, found, TIGHT * 100
    )
    true, model = (Process(schedule).posterior(z, mean, s, t) for mean in (x, x + off))
    kl = kl_divergence(Normal(true.mean, true.stddev), Normal(model.mean, model.stddev))
    yield close("KL of a step: by torch, of q(z_s | z_t, x) for x and x_hat", found, kl.sum(1), TIGHT * 1000)


@law("errata/snr-square")
def snr_square(_: float) -> Claims:
    r"""The signal-to-noise ratio is a ratio of variances: alpha^2 / sigma^2, not alpha / sigma^2.

    $$\mathrm{SNR} = \alpha^2/\sigma^2, \text{ not } \alpha/\sigma^2$$
    Half its decrease from s to t is the KL divergence of a reverse step for |x - x_hat| = 1, which is
    alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2). On the cosine schedule from 0.3 to 0.6 this is 1.662, and from
    0.6 to 0.9 it is 0.251; with alpha / sigma^2 instead of the SNR it would be 1.712 and 0.369.
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
        yield close(f"KL of the step from t = {t} to s = {s}", exact, found, 1e-8)
        half_fall = schedule.log_snr(both).exp().diff() / -2
        yield close(f"half the decrease of the SNR from {s} to {t}", exact, half_fall, 1e-8)
        wrong = (alpha_s / sigma_s**2 - alpha_t / sigma_t**2) / 2
        yield differs(f"half the decrease of alpha / sigma^2 from {s} to {t}", exact, wrong, least)


@law("vdm/discrete-loss")
def discrete_loss(precision: float) -> Claims:
    r"""The steps of the discrete bound run from i/T to (i-1)/T, each with the error at the noisier time i/T.

    $$L_T = \sum_{i=1}^T \tfrac12\,(\mathrm{SNR}(\tfrac{i-1}{T}) - \mathrm{SNR}(\tfrac iT))\,
    E|x - \hat x(z_{i/T})|^2$$
    Each of T = 5 steps is estimated from samples of z_t and compared with its closed form for Gaussian data, and so are
    the terms at both ends: KL(q(z_1|x) || N(0, 1)) and -E log N(x; x_hat(z_0), sigma_0^2 / alpha_0^2).
    Source: Kingma et al., VDM (2021), equations 11 to 13; Ho et al. (2020), equation 5.
    """
    found = five_steps(precision)
    yield means_are("terms of 5 steps (the one with the largest error)", discrete(5), found.steps)
    variance, first = 1 / (1 + math.exp(LOW)), f64(math.exp(HIGH))  # sigma_1^2, the SNR of z_0
    prior = ((1 - variance) * X**2 + variance - 1 - math.log(variance)) / 2
    yield close("prior term", prior, found.prior[0], TIGHT)
    read = (math.log(2 * math.pi) - HIGH + first * error(first)) / 2
    yield means_are("reconstruction term", read, found.reconstruction)


@law("errata/vdm-interval")
def interval(precision: float) -> Claims:
    r"""A step of the discrete bound runs from i/T to (i-1)/T: with i/T in both places every term is 0.

    $$s = \tfrac{i-1}{T},\ t = \tfrac iT; \quad \mathrm{SNR}(\tfrac iT) - \mathrm{SNR}(\tfrac iT) = 0$$
    The error belongs to the noisier time t: with the error at s the sum is a lower Riemann sum, which for T = 5 is far
    below the correct one and below the continuous limit.
    Source: Kingma et al., VDM (2021), section 3.2 and equation 13.
    """
    exact, schedule = discrete(5), VariancePreserving(HIGH, LOW)
    yield means_are("terms of 5 steps (the one with the largest error)", exact, five_steps(precision).steps)
    zero, z, (s, t) = f64([[0.0]]), f64([[1.0]]), (f64([k / 5]) for k in (2, 3))
    alpha, sigma = (v.view(1, 1) for v in schedule.alpha_sigma(t))
    width = (LOW - HIGH) / 5
    fall = math.exp(HIGH + 2 * width) - math.exp(HIGH + 3 * width)
    for name, begin, exact_kl in (("s = (i-1)/T", s, fall / 2), ("s = i/T", t, 0.0)):
        kl = step_kl(Prediction.of_x(zero + 1, z, alpha, sigma), zero, z / sigma, schedule, begin, t)
        yield close(f"KL of a step with |x - x_hat| = 1, {name}", exact_kl, kl, TIGHT)
    yield differs("sum of all terms with s = i/T", exact.sum(), 0.0, 2.0)
    yield differs("sum of all terms with the error at (i-1)/T", exact.sum(), discrete(5, later=False).sum(), 1.0)


@law("vdm/continuous-limit")
def continuous_limit(_: float) -> Claims:
    r"""As the number of steps T grows, the discrete loss decreases to the continuous-time loss, with a gap O(1/T).

    $$L_T \searrow L_\infty = -\tfrac12\, E\int_0^1 \mathrm{SNR}'(t)\,|x - \hat x(z_t)|^2\,dt$$
    L_T is a Riemann sum of half the integral of the error over the SNR. The error is taken at the noisier end of each
    step, where it is larger: an upper sum, which decreases when the steps are halved.
    Source: Kingma et al., VDM (2021), equation 14 and appendix F.
    Assumes: the exact denoiser, whose error increases with the noise, on average over data.
    """
    oracle, counts, x = gaussian(VariancePreserving(HIGH, LOW)), [2**k for k in range(10)], f64([[X]])
    found = f64([float(oracle.bound(x, steps=n).diffusion) for n in counts])
    yield close(
        "L_T at x, T = 1, 2, 4, ..., 512", torch.stack([discrete(n).sum() for n in counts]), found, TIGHT * 1000
    )
    value = float(oracle.bound(x).diffusion)
    yield close("L_infinity at x", limit(), value, 1e-6)
    averaged = torch.stack([oracle.bound(BOTH, steps=n).diffusion.mean() for n in counts])
    yield bounded("change of the mean L_T when T doubles", averaged.diff(), 0.0, relation="at most")
    gaps = (averaged - oracle.bound(BOTH).diffusion.mean()).tolist()
    yield bounded("mean of L_T - L_infinity", min(gaps), 0.0, relation="at least")
    yield Evidence("order of the mean of L_T - L_infinity in 1/T", 1.0, order_of(gaps[5:], counts[5:]), 0.1)
    yield close("integral of the loss `vlb` over t, by quadrature", value, _integral(oracle), 1e-6)


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
        return weight @ diffusion.vlb(prediction, data, noise, oracle.schedule.log_snr_slope(t))


@continuous_limit.drawn
def _plot() -> str:
    counts = [2**k for k in range(10)]
    gaps = [float(discrete(n).sum()) - limit() for n in counts]
    rows = {"gap of T steps, nats": gaps, "order 1": [gaps[-1] * counts[-1] / n for n in counts]}
    return plots.curves(counts, rows, title="The discrete loss and its limit", xlabel="steps T", log=True)


@law("vdm/schedule-invariance")
def invariance(_: float) -> Claims:
    r"""The continuous-time loss depends on the schedule only through the SNR at its two ends.

    $$L_\infty = \tfrac12\int_{\mathrm{SNR}_{min}}^{\mathrm{SNR}_{max}} E|x - \hat x|^2\, d\,\mathrm{SNR}$$
    With the SNR as the variable of integration, t drops out. The integrand over t, and so the variance of a Monte Carlo
    estimate, does depend on the schedule.
    Source: Kingma et al., VDM (2021), section 5.1.
    """
    learned, rng = diffusion.LearnedSchedule(HIGH, LOW, hidden=4), generator(0)
    with torch.no_grad():
        for p in learned.interior():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    for name, schedule in (
        ("linear log-SNR", VariancePreserving(HIGH, LOW)),
        ("cubic log-SNR", diffusion.FunctionSchedule(lambda t: HIGH + (LOW - HIGH) * (t + 2 * t**3) / 3)),
        ("learned", learned),
    ):
        yield close(f"loss on the {name} schedule, by quadrature", limit(), _integral(gaussian(schedule)), 1e-5)


@law("vdm/bound")
def tight(_: float) -> Claims:
    r"""The bound is at most log p(x), and approaches it as the SNR tends to infinity at t = 0 and to 0 at t = 1.

    $$-(L_{prior} + L_\infty + L_{rec}) \le \log p(x), \text{ with equality in the limit}$$
    In continuous time, with the exact denoiser, the reverse process is the true one. All of the loss is at the ends:
    the KL divergence of q(z_1) from the prior, and of the decoder p(x | z_0) from q(x | z_0).
    Source: Kingma et al., VDM (2021), equation 11; Sohl-Dickstein et al. (2015), section 2.4.
    Assumes: the exact denoiser, and means over data.
    """
    ends = ((2.0, -2.0), (5.0, -5.0), (8.0, -8.0), (14.0, -14.0))
    values = [gaussian(VariancePreserving(*pair)).bound(BOTH).likelihood.value.mean() for pair in ends]
    gaps = -(math.log(2 * math.pi * V) + 1) / 2 - torch.stack(values)  # log p less the bound
    yield bounded("mean of log p(x) minus the bound", gaps, 0.0, relation="at least")
    yield bounded("change of this mean from each range of SNR to a wider one", gaps.diff(), 0.0, relation="at most")
    yield Evidence("this mean for SNR from e^14 to e^-14, nats", 0.0, float(gaps[-1]), 1e-5)

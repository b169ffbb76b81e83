r"""The variational bound of diffusion: KL divergences between reverse steps, their sum, its continuous limit.

Expectations are written out for data N(m, v), whose denoiser is $\hat x = (m + u v y)/(1 + u v)$ at $y = z/\alpha$ and
SNR u, so that $E|x - \hat x|^2 = ((x - m)^2 + u v^2)/(1 + u v)^2$; log-SNRs are those of the schedules' formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from jensen.check.evidence import Evidence, bounded, close, means_are
from jensen.check.law import Law, draws, law
from jensen.check.line import F64, normal_nodes
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

TIGHT = 1e-9
VDM = "Kingma et al., VDM (2021)"
M, V, X = 0.4, 0.6, 1.3  # data N(M, V), and the point at which bounds are taken
HIGH, LOW = 6.0, -4.0  # log-SNR at t = 0 and at t = 1, linear in between


def gaussian(schedule: Schedule) -> GaussianOracle:
    """The exact denoiser of N(M, V), float64."""
    return GaussianOracle(torch.tensor([M], dtype=F64), torch.tensor([V], dtype=F64), schedule)


def error(snr: Tensor, x: float = X) -> Tensor:
    """E |x - x_hat(z)|^2 over z given x."""
    return ((x - M) ** 2 + snr * V**2) / (1 + snr * V) ** 2


def discrete(steps: int, x: float = X) -> Tensor:
    """Half the fall of SNR over each of T equal steps times the error at its later end, (T,)."""
    snr = torch.exp(torch.linspace(HIGH, LOW, steps + 1, dtype=F64))
    return (snr[:-1] - snr[1:]) / 2 * error(snr[1:], x)


def limit(x: float = X) -> float:
    """Half the integral of the error over SNR, by the trapezoidal rule in log-SNR."""
    log_snr = torch.linspace(LOW, HIGH, 20_001, dtype=F64)
    return float(torch.trapezoid(log_snr.exp() * error(log_snr.exp(), x), log_snr)) / 2


@law(
    "vdm/step-kl",
    formula=r"KL\big(q(z_s|z_t,x)\,\|\,q(z_s|z_t,\hat x)\big) = \tfrac12\,(\mathrm{SNR}(s) - \mathrm{SNR}(t))\,"
    r"|x - \hat x|^2, \quad \mathrm{SNR} = \alpha^2/\sigma^2",
    source=f"{VDM}, equation 13 and appendix A.4",
    assumptions="the model's step has the posterior's variance",
)
def step(_: float) -> Iterator[Evidence]:
    r"""The divergence of a reverse step is half the fall of SNR times the error of x.

    Both steps are Gaussians of one variance d^2 = sigma_{t|s}^2 sigma_s^2 / sigma_t^2 whose means differ by
    alpha_s sigma_{t|s}^2 / sigma_t^2 (x - x_hat), so KL = alpha_s^2 sigma_{t|s}^2 / (2 sigma_s^2 sigma_t^2)
    |x - x_hat|^2, and alpha_s^2 sigma_{t|s}^2 / (sigma_s^2 sigma_t^2) = alpha_s^2/sigma_s^2 - alpha_t^2/sigma_t^2.
    """
    s, t = torch.tensor([0.1, 0.3, 0.6], dtype=F64), torch.tensor([0.2, 0.7, 0.95], dtype=F64)
    schedule, rng = CosineSchedule(), generator(0)
    x, eps = (torch.randn(3, 2, dtype=F64, generator=rng) for _ in range(2))
    u, v = t[:, None] * math.pi / 2, s[:, None] * math.pi / 2
    z, off = torch.cos(u) * x + torch.sin(u) * eps, torch.tensor([0.7, -0.4], dtype=F64)
    prediction = Prediction.of_x(x + off, z, torch.cos(u), torch.sin(u))
    found = step_kl(prediction, x, eps, schedule, s, t)
    square = off.square().sum()
    snr = [1 / torch.tan(angle[:, 0]) ** 2 for angle in (v, u)]
    yield close("half the fall of SNR times the error", (snr[0] - snr[1]) / 2 * square, found, TIGHT * 100)
    forward = torch.sin(u + v) * torch.sin(u - v) / torch.cos(v) ** 2
    shift = torch.cos(v) * forward / torch.sin(u) ** 2 * off
    variance = forward * torch.sin(v) ** 2 / torch.sin(u) ** 2
    yield close("two Gaussians of one variance", (shift**2 / variance).sum(1) / 2, found, TIGHT * 100)
    process = Process(schedule)
    true, model = (process.posterior(z, mean, s, t) for mean in (x, x + off))
    kl = torch.distributions.kl_divergence(Normal(true.mean, true.stddev), Normal(model.mean, model.stddev))
    yield close("torch's divergence of jensen's posteriors", found, kl.sum(1), TIGHT * 1000)


@law(
    "vdm/discrete-loss",
    formula=r"L_T = \sum_{i=1}^T \tfrac12\,(\mathrm{SNR}(\tfrac{i-1}{T}) - \mathrm{SNR}(\tfrac iT))\,"
    r"E|x - \hat x(z_{i/T})|^2",
    source=f"{VDM}, equations 11 to 13; Ho et al. (2020), equation 5",
)
def discrete_loss(precision: float) -> Iterator[Evidence]:
    r"""The bound's steps run from (i-1)/T to i/T, each an error at its later, noisier end.

    The denoiser is asked at z_t, t = i/T, and the SNR falls from s = (i-1)/T to t. Each of T = 5 steps is estimated
    from draws of z_t and held to its closed form for Gaussian data, and so are both end terms:
    L_T = KL(q(z_1|x) || N(0, 1)) and L_0 = -E log N(x; x_hat(z_0), sigma_0^2 / alpha_0^2).
    """
    count, oracle = draws(4000, precision), gaussian(VariancePreserving(HIGH, LOW))
    x = torch.full((count, 1), X, dtype=F64)
    found = bound(oracle, x, steps=5, samples=1, generator=generator(1))
    yield means_are("the step furthest off, of T = 5", discrete(5), found.steps)
    snr = math.exp(LOW)
    variance = 1 / (1 + snr)  # sigma_1^2
    prior = (snr * variance * X**2 + variance - 1 - math.log(variance)) / 2
    yield close("the prior's divergence", prior, found.prior[0], TIGHT)
    first = torch.tensor(math.exp(HIGH), dtype=F64)
    read = (math.log(2 * math.pi) - HIGH + float(first * error(first))) / 2
    yield means_are("the reconstruction", torch.tensor(read), found.reconstruction)


@law(
    "vdm/continuous-limit",
    formula=r"L_T \searrow L_\infty = -\tfrac12\, E\int_0^1 \mathrm{SNR}'(t)\,|x - \hat x(z_t)|^2\,dt",
    source=f"{VDM}, equation 14 and appendix F",
    assumptions="for the exact denoiser, whose error rises with the noise, on average over data",
)
def continuous_limit(_: float) -> Iterator[Evidence]:
    r"""More steps make the discrete loss fall to the continuous one, with a gap of order 1/T.

    L_T is a Riemann sum of half the integral of the error over SNR, with the error taken at the noisier end, where it
    is larger: an upper sum, which falls with every halving of the steps; its gap is first order.
    """
    oracle, counts = gaussian(VariancePreserving(HIGH, LOW)), [2**k for k in range(10)]
    x = torch.tensor([[X]], dtype=F64)
    found = [float(oracle.bound(x, steps=n).diffusion) for n in counts]
    yield close(
        "T steps", torch.stack([discrete(n).sum() for n in counts]), torch.tensor(found, dtype=F64), TIGHT * 1000
    )
    value = float(oracle.bound(x).diffusion)
    yield close("infinitely many steps", limit(), value, 1e-6)
    points = torch.tensor([[M - math.sqrt(V)], [M + math.sqrt(V)]], dtype=F64)  # a quadratic's mean over N(M, V)
    averaged = torch.stack([oracle.bound(points, steps=n).diffusion.mean() for n in counts])
    yield bounded("a doubling lowers the mean loss", averaged.diff(), 0.0, relation="at most")
    gaps = (averaged - oracle.bound(points).diffusion.mean()).tolist()
    yield bounded("the mean gap to the limit", min(gaps), 0.0, relation="at least")
    yield Evidence("order of the gap in 1/T", 1.0, order_of(gaps[5:], counts[5:]), 0.1)
    yield close("the integral of vlb over t, by quadrature", value, _integral(oracle), 1e-6)


def _integral(oracle: Denoiser, x: float = X) -> Tensor:
    """Of jensen's `vlb` over t by Gauss-Legendre's rule and over eps by Gauss-Hermite's."""
    places, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(100))
    eps, mass = normal_nodes(20)
    t = ((places + 1) / 2).repeat_interleave(len(eps))
    noise, weight = eps.repeat(len(places))[:, None], (weights[:, None] / 2 * mass).reshape(-1)
    data = torch.full_like(noise, x)
    alpha, sigma = (v.detach()[:, None] for v in oracle.schedule.alpha_sigma(t))
    with torch.no_grad():
        prediction = oracle(alpha * data + sigma * noise, t)
        return weight @ vlb(prediction, data, noise, oracle.schedule.log_snr_slope(t))


@continuous_limit.drawn
def _plot() -> str:
    counts = [2**k for k in range(10)]
    gaps = [float(discrete(n).sum()) - limit() for n in counts]
    return plots.curves(
        counts,
        {"gap of T steps, nats": gaps, "order 1": [gaps[-1] * counts[-1] / n for n in counts]},
        title="The discrete loss and its limit",
        xlabel="steps T",
        log=True,
    )


@law(
    "vdm/schedule-invariance",
    formula=r"L_\infty = \tfrac12\int_{\mathrm{SNR}_{min}}^{\mathrm{SNR}_{max}} E|x - \hat x|^2\, d\,\mathrm{SNR}",
    source=f"{VDM}, section 5.1",
)
def invariance(_: float) -> Iterator[Evidence]:
    r"""In continuous time only the ends of the schedule matter.

    With SNR itself as the variable of integration t drops out: schedules that share their two ends have one loss,
    though its integrand over t, and so the variance of its estimate, differs.
    """
    learned = LearnedSchedule(HIGH, LOW, hidden=4)
    rng = generator(0)
    with torch.no_grad():
        for p in learned.interior():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    schedules: dict[str, Schedule] = {
        "linear log-SNR": VariancePreserving(HIGH, LOW),
        "cubic log-SNR": FunctionSchedule(lambda t: HIGH + (LOW - HIGH) * (t + 2 * t**3) / 3),
        "learned": learned,
    }
    expected = limit()
    for name, schedule in schedules.items():
        yield close(f"the integral on the {name} schedule", expected, _integral(gaussian(schedule)), 1e-5)


@law(
    "vdm/bound",
    formula=r"-(L_T + L_\infty + L_0) \le \log p(x), \text{ with equality as the ends go to } \pm\infty",
    source=f"{VDM}, equation 11; Sohl-Dickstein et al. (2015), section 2.4",
    assumptions="on average over data, and the exact denoiser",
)
def tight(_: float) -> Iterator[Evidence]:
    r"""The bound lies below log p(x), and comes up to it as the schedule's ends move apart.

    In continuous time and with the exact denoiser the reverse process is the true one, so that all that is lost is
    lost at the ends: the prior's divergence from q(z_1) and the reconstruction's from q(x | z_0). Mean over the data,
    which for quadratics is that over m - s and m + s.
    """
    x = torch.tensor([[M - math.sqrt(V)], [M + math.sqrt(V)]], dtype=F64)
    log_p = -(math.log(2 * math.pi * V) + 1) / 2
    ends = ((2.0, -2.0), (5.0, -5.0), (8.0, -8.0), (14.0, -14.0))
    values = [gaussian(VariancePreserving(*pair)).bound(x).likelihood.value.mean() for pair in ends]
    gaps = log_p - torch.stack(values)
    yield bounded("log p less the bound", gaps, 0.0, relation="at least")
    yield bounded("it falls as the ends move apart", gaps.diff(), 0.0, relation="at most")
    yield Evidence("what is lost from SNR e^14 to e^-14, nats", 0.0, float(gaps[-1]), 1e-5)


LAWS: tuple[Law, ...] = (step, discrete_loss, continuous_limit, invariance, tight)

"""Samplers of diffusion models: orders of convergence, marginals, steps with closed forms, Langevin moves."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from jensen import diffusion
from jensen.check.evidence import Claims, Evidence, Report, close, mean_is, means_are
from jensen.check.law import Law, draws, law
from jensen.check.laws.implicit import UNIT, point
from jensen.check.laws.process import cos_sin, posterior_deviation
from jensen.check.line import F64, f64, randn
from jensen.check.samplers import order_of, place, two_modes
from jensen.check.samplers import sampler as check_sampler
from jensen.core.seeding import generator
from jensen.diffusion import DDIM, Adams, Ancestral, AnnealedLangevin, CosineSchedule, DPMSolver, Prediction, Sampler
from jensen.diffusion.samplers.langevin import langevin_move
from jensen.report import plots

COUNTS = (16, 32, 64)
ORDERS: dict[str, tuple[Sampler, float, str]] = {
    "Euler": (diffusion.Euler(), 1, "uniform"),
    "DDIM": (DDIM(), 1, "uniform"),
    "Heun": (diffusion.Heun(), 2, "uniform"),
    "DPM-Solver++(2M)": (DPMSolver(), 2, "uniform"),
    "UniPC-1": (diffusion.UniPC(order=1), 2, "log_snr"),
    "UniPC-2": (diffusion.UniPC(order=2), 3, "log_snr"),
    "Adams-Bashforth 2": (Adams(2, corrected=False), 2, "uniform"),
    "Adams 2, corrected": (Adams(2), 3, "uniform"),
}
"""Samplers, the order of each, and its time grid."""


def errors(name: str) -> list[float]:
    """Mean distance of a sampler to the exact path from t = 0.9 to 0.1, by the number of steps."""
    oracle, u, (sampler, _, grid) = two_modes(), (torch.arange(32, dtype=F64) + 0.5) / 32, ORDERS[name]
    start, end = place(oracle, u, 0.9), place(oracle, u, 0.1)
    grids = [diffusion.time_grid(grid, n, oracle.schedule, start=0.9, end=0.1) for n in COUNTS]
    return [float((diffusion.integrate(sampler, oracle, start, times) - end).abs().mean()) for times in grids]


@law("samplers/order")
def order(_: float) -> Claims:
    r"""ODE samplers converge to the exact path of the probability-flow ODE, each with its stated order.

    $$|z^{(N)} - z| = O(N^{-p}), \qquad z_s = F_s^{-1}(F_t(z_t))$$
    F_t is the distribution function of z_t. The flow keeps the marginals and is increasing on the line, so that each
    path stays at the same quantile: the exact path is F_s^{-1} F_t. Errors are means over 32 paths on two modes.
    Source: Song et al. (2021), section 4.3; Lu et al., DPM-Solver++ (2022), theorem 2; Zhao et al., UniPC (2023),
    theorem 3.1; Hairer, Norsett & Wanner (1993), section III.2.
    Assumes: one dimension, t between 0.9 and 0.1, the exact denoiser.
    """
    for name, (_sampler, exact, _grid) in ORDERS.items():
        yield Evidence(f"order of convergence of {name}", exact, order_of(errors(name), COUNTS), 0.3)


@order.drawn
def _plot() -> str:
    rows = {name: errors(name) for name in ("DDIM", "Heun", "DPM-Solver++(2M)", "UniPC-2", "Adams 2, corrected")}
    return plots.curves(COUNTS, rows, title="Error of the path against steps", xlabel="steps", log=True)


def _kept(name: str, sampler: Sampler, order: float, text: str) -> Law:
    """The law that a sampler passes `jensen.check.sampler`, with its order of convergence if it is deterministic."""

    def trial(precision: float) -> Report:
        n = draws(3000, precision, least=1000)
        return check_sampler(sampler, order=order or 1.0, deterministic=order > 0, counts=COUNTS, steps=100, draws=n)

    return law(f"samplers/{name}", text)(trial)


KEPT = [
    _kept(
        "deterministic",
        DPMSolver(),
        2.0,
        r"""A deterministic sampler keeps the marginals, and run backward it encodes data so that they can be decoded.

        $$z_t \sim p_t \Rightarrow z_s \sim p_s; \quad z_t \mapsto z_s \mapsto z_t$$
        `jensen.check.sampler` on the second-order multistep solver DPM-Solver++(2M).
        Source: Song et al. (2021), section 4.3; Song et al., DDIM (2021), section 4.3.
        """,
    ),
    _kept(
        "ancestral",
        Ancestral(),
        0.0,
        r"""Ancestral sampling keeps the marginals in the limit of small steps.

        $$z_s \sim q(z_s \mid z_t, \hat x(z_t))$$
        A step of finite size has an error: the true q(z_s | z_t) is a mixture over x, Gaussian only in the limit.
        Source: Ho et al. (2020), algorithm 2.
        """,
    ),
    _kept(
        "sde",
        DPMSolver(noise=True),
        0.0,
        r"""The DPM-Solver++ of the reverse SDE keeps the marginals in the limit of small steps.

        $$z_s = \tfrac{\sigma_s}{\sigma_t}e^{-h} z_t + \alpha_s(1 - e^{-2h})\hat x + \sigma_s\sqrt{1 - e^{-2h}}\,n$$
        h is half the increase of the log-SNR. The solver integrates the linear part and the noise n exactly, and
        approximates x_hat by a linear function of h.
        Source: Lu et al., DPM-Solver++ (2022), equation 18.
        """,
    ),
    _kept(
        "corrected",
        diffusion.PredictorCorrector(DDIM(), step_size=0.05),
        0.0,
        r"""Langevin corrector moves after each step of a sampler keep the marginal at that noise level.

        $$z \leftarrow z + \delta\,\nabla\log p_s(z) + \sqrt{2\delta}\,n$$
        The stationary distribution of a move is p_s, up to an error of the order of its step size delta.
        Source: Song et al. (2021), algorithm 1.
        """,
    ),
]


@law("samplers/exact-steps")
def exact_steps(_: float) -> Claims:
    r"""At any step size the posterior's variance is exact for data at one point, the forward one for N(0, 1) data.

    $$x = x_0 \text{ surely}: \ z_s \sim q(z_s|z_t,x_0) \text{ in one step; }
    x \sim N(0, 1): \ d = \sigma_{t|s} \text{ keeps } N(0, 1)$$
    Compared with the formulas on the same noise. At a point x_hat = x. On N(0, 1), x_hat = alpha_t z gives the mean
    a z, and the true variance of z_s given z_t is 1 - a^2 = sigma_{t|s}^2.
    Source: Ho et al. (2020), section 3.2; Lu et al., DPM-Solver++ (2022), equation 18.
    """
    z, s, t, noise = torch.randn(32, 1, dtype=F64), f64(0.3), f64(0.8), randn(3, 32, 1)
    (alpha_s, sigma_s), (alpha_t, sigma_t), tilde = cos_sin(s), cos_sin(t), posterior_deviation(s, t)
    a, forward = alpha_t / alpha_s, (tilde * sigma_t / sigma_s) ** 2
    mean = (a * sigma_s**2 * z + alpha_s * forward * 0.7) / sigma_t**2
    samplers: dict[str, Sampler] = {
        "ancestral": Ancestral(),
        "SDE solver": DPMSolver(noise=True),
        "DDIM, eta = 1": DDIM(1.0),
    }
    for name, sampler in samplers.items():
        found, _memory = sampler.step(point(0.7), z, t, s, None, generator=generator(3))
        yield close(f"{name}: step from t = 0.8 to 0.3 for data at one point", mean + tilde * noise, found, 1e-9)
    found, _memory = Ancestral("forward").step(UNIT, z, t, s, None, generator=generator(3))
    ahead = (a * sigma_s**2 + alpha_s * forward * alpha_t) / sigma_t**2  # with x_hat = alpha_t z
    yield close("factor of z in the mean of z_s, for N(0, 1) data", a, ahead, 1e-9)
    claim = "ancestral with the forward variance: step for N(0, 1) data"
    yield close(claim, a * z + torch.sqrt(1 - a**2) * noise, found, 1e-9)


@law("samplers/langevin-move")
def move(precision: float) -> Claims:
    r"""A Langevin move on Gaussian data has a closed form, and annealed over noise levels it samples the data.

    $$z' = (1 - \delta/w)\,z + \sqrt{2\delta}\,n, \quad \mathrm{Var}_\infty = w/(1 - \delta/2w), \quad
    \delta = c\,\sigma_t^2$$
    For N(0, v) data z_t has variance w = alpha^2 v + sigma^2 and score -z / w. Annealed from much to little noise on
    the variance-exploding schedule, samples approach N(0.7, 0.3): every move is affine, so that mean and variance
    follow a recursion.
    Source: Song & Ermon (2019), algorithm 1; Roberts & Tweedie (1996), section 1.4.1.
    """
    oracle = diffusion.GaussianOracle(f64([0.0]), f64([0.5]), CosineSchedule())
    z, t = torch.randn(32, 1, dtype=F64), f64(0.4)
    alpha, sigma = cos_sin(t)
    delta, w = 0.3 * sigma**2, alpha**2 * 0.5 + sigma**2
    found = langevin_move(oracle, z, t, step_size=0.3, cond=None, generator=generator(3))
    expected = (1 - delta / w) * z + torch.sqrt(2 * delta) * randn(3, 32, 1)
    yield close("one move on the same noise", expected, found, 1e-9)
    schedule, start = diffusion.VarianceExploding(0.1, 10.0), 10 * randn(4, draws(4000, precision), 1)
    far, times = (
        diffusion.GaussianOracle(f64([0.7]), f64([0.3]), schedule),
        diffusion.time_grid("log_snr", 10, schedule),
    )
    sampler = AnnealedLangevin(5, step_size=0.2)
    found = diffusion.integrate(sampler, far, start, times, generator=generator(5))[:, 0]
    mean, variance = 0.0, 100.0
    for k in range(1, 11):
        level = 0.1 * 100 ** (1 - k / 10)
        step, factor = 0.2 * level**2, 1 - 0.2 * level**2 / (0.3 + level**2)
        for _ in range(5):
            mean, variance = 0.7 + factor * (mean - 0.7), factor**2 * variance + 2 * step
    yield mean_is("mean after 10 noise levels of 5 moves", mean, found)
    yield mean_is("variance after 10 noise levels of 5 moves", variance, (found - mean) ** 2)


class WithFraction(diffusion.GaussianOracle):
    """The exact denoiser of N(0, 1), with the fraction f of a learned variance."""

    def __init__(self, fraction: float):
        super().__init__(f64([0.0]), f64([1.0]), CosineSchedule())
        self.fraction = fraction

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return replace(super().forward(z_t, t, cond), fraction=torch.full_like(z_t, self.fraction))


@law("samplers/learned-variance")
def learned_variance(precision: float) -> Claims:
    r"""A learned variance d^2 interpolates between the posterior's and the forward variance in the logarithm.

    $$\log d^2 = f \log \sigma_{t|s}^2 + (1 - f) \log \tilde\sigma^2$$
    f = 0 gives the posterior's variance and f = 1 the forward one. Measured on samples of one step from one z_t.
    Source: Nichol & Dhariwal (2021), equation 15.
    """
    t, s, z = f64(0.7), f64(0.4), f64([[0.8]])
    for f in (0.0, 0.3, 1.0):
        denoiser, rows = WithFraction(f), z.expand(draws(20_000, precision), 1)
        low, _ = Ancestral("learned").step(denoiser, rows, t, s, None, generator=generator(0))
        process = diffusion.Process(denoiser.schedule)
        known = process.posterior(z, denoiser(z, t.expand(1)).x, s, t)
        square = process.transition(s, t)[1] ** (2 * f) * known.stddev[0, 0] ** (2 * (1 - f))
        yield means_are(f"variance of a step, f = {f}", square.reshape(1), (low - known.mean).square())


@law("samplers/annealed-carry")
def annealed_carry(_: float) -> Claims:
    r"""Annealed Langevin sampling multiplies z_t by alpha_s / alpha_t before its moves at the next noise level s.

    $$z_s = \frac{\alpha_s}{\alpha_t}\,z_t \text{ and Langevin moves at } s$$
    With a step size of almost 0 only the factor remains, which is not 1 on a variance-preserving schedule.
    Source: Song & Ermon (2019), algorithm 1, where alpha = 1.
    """
    z = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    for t, s in ((0.7, 0.4), (0.3, 0.1)):
        moved, _ = AnnealedLangevin(moves=1, step_size=1e-24).step(WithFraction(0.0), z, f64(t), f64(s), None)
        factor = math.cos(math.pi * s / 2) / math.cos(math.pi * t / 2)
        yield close(f"z_s for t = {t}, s = {s}, step size 0", factor * z, moved, 1e-9)

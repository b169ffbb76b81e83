"""Samplers: orders of convergence, marginals, steps that are exact, encoding. Paths are known by their quantiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from jensen.check.evidence import Evidence, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.laws.diffusion_implicit import point, posterior_deviation
from jensen.check.laws.diffusion_process import cos_sin
from jensen.check.line import F64
from jensen.check.samplers import order_of, place, two_modes
from jensen.check.samplers import sampler as check_sampler
from jensen.core.seeding import generator
from jensen.diffusion import (
    DDIM,
    Adams,
    Ancestral,
    AnnealedLangevin,
    CosineSchedule,
    DPMSolver,
    Euler,
    GaussianOracle,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    VarianceExploding,
    integrate,
    time_grid,
)
from jensen.diffusion.samplers.langevin import langevin_move
from jensen.report import plots

COUNTS = (16, 32, 64)
ORDERS: dict[str, tuple[Sampler, float, str]] = {
    "Euler": (Euler(), 1, "uniform"),
    "DDIM": (DDIM(), 1, "uniform"),
    "Heun": (Heun(), 2, "uniform"),
    "DPM-Solver++(2M)": (DPMSolver(), 2, "uniform"),
    "UniPC-1": (UniPC(order=1), 2, "log_snr"),
    "UniPC-2": (UniPC(order=2), 3, "log_snr"),
    "Adams-Bashforth 2": (Adams(2, corrected=False), 2, "uniform"),
    "Adams 2, corrected": (Adams(2), 3, "uniform"),
}


def errors(sampler: Sampler, grid: str) -> list[float]:
    """Mean distance to the exact path from t = 0.9 to 0.1, by the number of steps."""
    oracle, u = two_modes(), (torch.arange(32, dtype=F64) + 0.5) / 32
    start, end = place(oracle, u, 0.9), place(oracle, u, 0.1)
    grids = [time_grid(grid, n, oracle.schedule, start=0.9, end=0.1) for n in COUNTS]
    return [float((integrate(sampler, oracle, start, times) - end).abs().mean()) for times in grids]


@law(
    "samplers/order",
    formula=r"|z^{(N)} - z| = O(N^{-p}), \qquad z_s = F_s^{-1}(F_t(z_t))",
    source="Song et al. (2021), section 4.3; Lu et al., DPM-Solver++ (2022), theorem 2; Zhao et al., UniPC (2023), "
    "theorem 3.1; Hairer, Norsett & Wanner (1993), section III.2",
    assumptions="on the line, between t = 0.9 and 0.1, with the exact denoiser",
)
def order(_: float) -> Iterator[Evidence]:
    r"""Samplers of the ODE converge to its exact path, each with its order.

    The flow keeps the marginals, and on the line a map that keeps order and carries F_t to F_s is F_s^{-1} F_t: the
    path of a quantile is the quantile's. Errors are measured on 32 paths of two modes.
    """
    for name, (sampler, exact, grid) in ORDERS.items():
        found = order_of(errors(sampler, grid), COUNTS)
        yield Evidence(f"order of {name}", exact, found, 0.3)


@order.drawn
def _plot() -> str:
    shown = ("DDIM", "Heun", "DPM-Solver++(2M)", "UniPC-2", "Adams 2, corrected")
    return plots.curves(
        COUNTS,
        {name: errors(ORDERS[name][0], ORDERS[name][2]) for name in shown},
        title="Error of the path against steps",
        xlabel="steps",
        log=True,
    )


def _checked(sampler: Sampler, precision: float, deterministic: bool, order: float = 1.0) -> Iterator[Evidence]:
    count = draws(3000, precision, least=1000)
    report = check_sampler(
        sampler, order=order, deterministic=deterministic, counts=(16, 32, 64), steps=100, draws=count
    )
    yield from report.evidence


@law(
    "samplers/deterministic",
    formula=r"z_t \sim p_t \Rightarrow z_s \sim p_s; \quad z_t \mapsto z_s \mapsto z_t",
    source="Song et al. (2021), section 4.3; Song et al., DDIM (2021), section 4.3",
)
def keeps(precision: float) -> Iterator[Evidence]:
    """A deterministic sampler keeps the marginals, encodes, comes back, draws nothing, and treats rows alone.

    The user-facing check, on the second-order multistep solver.
    """
    yield from _checked(DPMSolver(), precision, deterministic=True, order=2.0)


@law(
    "samplers/ancestral",
    formula=r"z_s \sim q(z_s \mid z_t, \hat x(z_t))",
    source="Ho et al. (2020), algorithm 2",
)
def ancestral(precision: float) -> Iterator[Evidence]:
    """Ancestral sampling keeps the marginals as the steps grow short.

    Its bias is that of a step: the true q(z_s | z_t) is a mixture over x, Gaussian only in the limit.
    """
    yield from _checked(Ancestral(), precision, deterministic=False)


@law(
    "samplers/sde",
    formula=r"z_s = \tfrac{\sigma_s}{\sigma_t}e^{-h} z_t + \alpha_s(1 - e^{-2h})\hat x + \sigma_s\sqrt{1 - e^{-2h}}\,n",
    source="Lu et al., DPM-Solver++ (2022), equation 18",
)
def sde(precision: float) -> Iterator[Evidence]:
    """The solver of the reverse SDE keeps the marginals as the steps grow short.

    It integrates the linear part and the noise exactly and x_hat as a line in h, so that its bias is smaller.
    """
    yield from _checked(DPMSolver(noise=True), precision, deterministic=False)


@law(
    "samplers/corrected",
    formula=r"z \leftarrow z + \delta\,\nabla\log p_s(z) + \sqrt{2\delta}\,n",
    source="Song et al. (2021), algorithm 1",
)
def corrected(precision: float) -> Iterator[Evidence]:
    """Langevin moves after each step leave the marginal that the step has come to.

    A move's stationary law is p_s up to the order of its step.
    """
    yield from _checked(PredictorCorrector(DDIM(), step_size=0.05), precision, deterministic=False)


@law(
    "samplers/exact-steps",
    formula=r"x = x_0 \text{ surely}: \ z_s \sim q(z_s|z_t,x_0) \text{ in one step; } "
    r"x \sim N(0, 1): \ d = \sigma_{t|s} \text{ keeps } N(0, 1)",
    source="Ho et al. (2020), section 3.2; Lu et al., DPM-Solver++ (2022), equation 18",
)
def exact_steps(_: float) -> Iterator[Evidence]:
    r"""For data at a point the posterior's variance is exact whatever the step, for N(0, 1) data the forward one is.

    With the same noise, by the formulas written out: at a point x_hat = x; on N(0, 1), x_hat = alpha_t z makes the mean
    a z, and the true variance of z_s given z_t is 1 - a^2 = sigma_{t|s}^2.
    """
    z, s, t = torch.randn(32, 1, dtype=F64), torch.tensor(0.3, dtype=F64), torch.tensor(0.8, dtype=F64)
    noise = torch.randn(32, 1, dtype=F64, generator=generator(3))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = cos_sin(s), cos_sin(t)
    tilde = posterior_deviation(s, t)
    forward = (tilde * sigma_t / sigma_s) ** 2
    mean = (alpha_t / alpha_s * sigma_s**2 * z + alpha_s * forward * 0.7) / sigma_t**2
    for name, sampler in (
        ("ancestral", Ancestral()),
        ("SDE solver", DPMSolver(noise=True)),
        ("DDIM, eta 1", DDIM(1.0)),
    ):
        made, _memory = sampler.step(point(0.7), z, t, s, None, generator=generator(3))
        yield close(f"{name}, data at a point, from t = 0.8 to 0.3", mean + tilde * noise, made, 1e-9)
    unit = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    made, _memory = Ancestral("forward").step(unit, z, t, s, None, generator=generator(3))
    a = alpha_t / alpha_s
    ahead = (a * sigma_s**2 + alpha_s * forward * alpha_t) / sigma_t**2  # alpha_t z for x: this is a again
    yield close("the factor on N(0, 1) is a", a, ahead, 1e-9)
    yield close("forward variance, N(0, 1) data", a * z + torch.sqrt(1 - a**2) * noise, made, 1e-9)


@law(
    "samplers/langevin-move",
    formula=r"z' = (1 - \delta/w)\,z + \sqrt{2\delta}\,n, \quad \mathrm{Var}_\infty = w/(1 - \delta/2w), \quad "
    r"\delta = c\,\sigma_t^2",
    source="Song & Ermon (2019), algorithm 1; Roberts & Tweedie (1996), section 1.4.1",
)
def move(precision: float) -> Iterator[Evidence]:
    r"""A Langevin move at time t on N(0, v) data is linear, and known; annealed over levels it finds the data.

    The marginal's variance is w = alpha^2 v + sigma^2, its score -z / w. Annealed from wide noise to little over the
    exploding schedule, N(0.7, 0.3) comes out: every move is affine, so mean and variance follow a recursion.
    """
    oracle = GaussianOracle(torch.tensor([0.0], dtype=F64), torch.tensor([0.5], dtype=F64), CosineSchedule())
    z, t = torch.randn(32, 1, dtype=F64), torch.tensor(0.4, dtype=F64)
    alpha, sigma = cos_sin(t)
    delta, w = 0.3 * sigma**2, alpha**2 * 0.5 + sigma**2
    made = langevin_move(oracle, z, t, step_size=0.3, cond=None, generator=generator(3))
    noise = torch.randn(32, 1, dtype=F64, generator=generator(3))
    yield close("a move with the same noise", (1 - delta / w) * z + torch.sqrt(2 * delta) * noise, made, 1e-9)
    n, schedule = draws(4000, precision), VarianceExploding(0.1, 10.0)
    far = GaussianOracle(torch.tensor([0.7], dtype=F64), torch.tensor([0.3], dtype=F64), schedule)
    times = time_grid("log_snr", 10, schedule)
    start = 10 * torch.randn(n, 1, dtype=F64, generator=generator(4))
    made = integrate(AnnealedLangevin(5, step_size=0.2), far, start, times, generator=generator(5))[:, 0]
    mean, variance = 0.0, 100.0
    for k in range(1, 11):
        level = 0.1 * 100 ** (1 - k / 10)
        step, w_k = 0.2 * level**2, 0.3 + level**2
        for _ in range(5):
            factor = 1 - step / w_k
            mean, variance = 0.7 + factor * (mean - 0.7), factor**2 * variance + 2 * step
    yield mean_is("mean after ten levels of five moves", mean, made)
    yield mean_is("square about it", variance, (made - mean) ** 2)


LAWS: tuple[Law, ...] = (order, keeps, ancestral, sde, corrected, exact_steps, move)

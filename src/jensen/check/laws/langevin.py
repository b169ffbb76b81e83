"""Langevin dynamics: the stationary distribution, ascent without noise, escape times, annealing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jensen import score
from jensen.check.chains import mcmc as check_mcmc
from jensen.check.evidence import Claims, Evidence, bounded, close, estimate_is, mean_is
from jensen.check.law import draws, law
from jensen.check.line import F64, Line, f64, mixture, randn
from jensen.core.seeding import generator
from jensen.report import plots
from jensen.score import first_passage_time, kramers_time, langevin, mala, score_of

EVEN = (0.5, 0.5)  # weights of two modes
TWO = mixture(EVEN, (-1.5, 1.5), (0.5, 0.8))


@law("langevin/stationary")
def stationary(precision: float) -> Claims:
    r"""With noise the chain converges to the density p, up to an error of the order of the step size.

    $$x \leftarrow x + \delta\,\nabla\log p + \sqrt{2\delta}\,n: \quad
    \mathrm{Var}_\infty = \frac{v}{1 - \delta/2v} \text{ on } N(0, v)$$
    On N(0, v) a step multiplies x by r = 1 - delta/v and adds variance 2 delta: after k steps
    Var_k = r^{2k} Var_0 + 2 delta (1 - r^{2k}) / (1 - r^2). The limit is v / (1 - delta/2v), which tends to v with
    delta.
    Source: Roberts & Tweedie (1996), section 1.4.1.
    """
    v, start = 2.0, 3 + randn(1, draws(20_000, precision), 1)
    for delta, steps in ((0.1, 8), (1.0, 4), (1.0, 30)):
        x = langevin(lambda x: -x / v, start, delta, steps, generator=generator(2))[:, 0]
        r = 1 - delta / v
        variance = r ** (2 * steps) + 2 * delta * (1 - r ** (2 * steps)) / (1 - r**2)
        yield mean_is(f"mean after {steps} steps of size {delta}", 3 * r**steps, x)
        yield mean_is(f"variance after {steps} steps of size {delta}", variance, (x - 3 * r**steps) ** 2)
    x = torch.randn(32, 1, dtype=F64)
    found = langevin(lambda x: -x / v, x, 0.3, 1, generator=generator(3))
    yield close("one step, given its noise", x - 0.3 * x / v + math.sqrt(0.6) * randn(3, 32, 1), found, 1e-12)


@stationary.drawn
def _plot_stationary() -> str:
    steps = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6]
    starts = (randn(1, 4000, 1) / math.sqrt(1 - delta / 2) for delta in steps)
    ends = (langevin(torch.neg, x, d, 40, generator=generator(2)) for x, d in zip(starts, steps, strict=True))
    rows = {
        "measured": [float(x.var()) for x in ends],
        "exact: 1 / (1 - step/2)": [1 / (1 - d / 2) for d in steps],
    }
    title = "Stationary variance of Langevin on N(0, 1)"
    return plots.curves(steps, rows | {"the density's": [1.0] * len(steps)}, title=title, xlabel="step")


@law("langevin/noise-free")
def noise_free(_: float) -> Claims:
    r"""Without noise, Langevin dynamics is gradient ascent on log p: every chain converges to a mode.

    $$x \leftarrow x + \delta\,\nabla\log p(x) \;\to\; \nabla\log p(x) = 0$$
    On N(0, v) each step multiplies the distance to the mode by 1 - delta/v. On a mixture of two Gaussians log p
    increases from every start until the gradient vanishes, at one of two points.
    Source: Welling & Teh (2011), section 2, for the noise that makes the difference.
    """
    x = langevin(lambda x: -x / 4, f64([[3.0]]), 0.5, 7, noise=False)
    yield close("x after 7 steps of size 0.5 from 3 on N(0, 4)", 3 * (1 - 0.5 / 4) ** 7, x, 1e-12)
    slope, heights, start = score_of(TWO), [], torch.linspace(-5, 5, 41, dtype=F64)[:, None]
    ends = langevin(slope, start, 0.1, 400, noise=False, on_step=lambda _, x: heights.append(TWO(x)))
    yield close("gradient of log p at the end points", 0.0, slope(ends), 1e-8)
    yield bounded("increase of log p in each step", torch.stack(heights).diff(dim=0), 0.0, 1e-12, relation="at least")
    yield Evidence("number of distinct end points", 2.0, len(ends.round(decimals=5).unique()), 0.0)


@law("langevin/adjusted")
def adjusted(precision: float) -> Claims:
    r"""With a Metropolis accept-reject step the chain keeps the density exactly, for every step size.

    $$a = \min\Big(1, \frac{p(y)\,q(x|y)}{p(x)\,q(y|x)}\Big), \quad q(y|x) =
    N(x + \delta\nabla\log p(x), 2\delta)$$
    p(x) q(y|x) a(x, y) is symmetric in x and y (detailed balance). `jensen.check.mcmc` on two modes, with a step size
    at which the unadjusted chain has a large error; and the acceptance rate by quadrature over x and the proposal y.
    Source: Roberts & Tweedie (1996), section 1.4.2.
    """
    log_p, chains = mixture(EVEN, (-1.0, 1.0), (0.4, 0.9)), draws(10_000, precision, least=1000)
    yield from check_mcmc(lambda x, g: mala(log_p, x, 0.25, 1, generator=g).x, log_p, moves=8, chains=chains).evidence
    line, unit = Line.of(log_p, (-10.0, 10.0), 401), torch.linspace(-7, 7, 281, dtype=F64)
    y = (line.x + 0.25 * score_of(log_p)(line.x) + math.sqrt(0.5) * unit).reshape(-1, 1)
    back = (line.x.repeat_interleave(281, 0) - y - 0.25 * score_of(log_p)(y)) ** 2
    log_ratio = (log_p(y) - back[:, 0]).view(401, 281) - log_p(line.x)[:, None] + unit**2 / 2
    exact = line.mass @ log_ratio.clamp(max=0).exp() @ torch.softmax(-(unit**2) / 2, 0)
    start = line.quantile(torch.rand(chains, dtype=F64, generator=generator(4)))
    yield mean_is("acceptance rate", float(exact), mala(log_p, start, 0.25, 1, generator=generator(5)).acceptance)


SHARP_AND_FLAT = mixture(EVEN, (-2.0, 2.0), (0.3, 1.2))


@law("langevin/sharp-and-flat")
def sharp_and_flat(precision: float) -> Claims:
    r"""Chains without noise end in modes by the width of their basins; chains with noise, by probability mass.

    $$\text{basin} \propto \text{width}, \quad \text{occupancy} = \text{mass}$$
    A narrow and a wide mode of equal mass. Uniform starts climb to the mode in whose basin they lie: the basins meet
    where log p is minimal. Of chains with noise, started from exact samples of p, one half remains near each mode.
    Source: Kramers (1940); Gardiner (2009), section 5.5.3.
    """
    inside = torch.linspace(-4, 4, 80_001, dtype=F64)[20_001:60_000, None]  # between the modes
    saddle = float(inside[SHARP_AND_FLAT(inside).argmin()])
    starts, slope = torch.linspace(-6, 6, 1201, dtype=F64)[:, None], score_of(SHARP_AND_FLAT)
    ends = score.basin(slope, starts, f64([[-2.0], [2.0]]), step_size=0.08, steps=150)
    yield close("share of uniform starts that climb to the wide mode", (6 - saddle) / 12, ends.double().mean(), 2e-3)
    line = Line.of(SHARP_AND_FLAT, (-12.0, 12.0))
    x = line.quantile(torch.rand(draws(4000, precision), dtype=F64, generator=generator(1)))
    x = langevin(slope, x, 0.005, 200, generator=generator(2))
    mass = line.mass @ (line.places > saddle).double()
    yield mean_is("share of chains with noise on the side of the wide mode", float(mass), (x[:, 0] > saddle).double())


@sharp_and_flat.drawn
def _plot_modes() -> str:
    slope, starts = score_of(SHARP_AND_FLAT), torch.linspace(-6, 6, 600, dtype=F64)[:, None]
    ends = langevin(slope, starts, 0.08, 150, noise=False)[:, 0].tolist()
    noisy = langevin(slope, starts, 0.02, 1500, generator=generator(1))[:, 0].tolist()
    title = "Uniform starts on a sharp and a flat mode of equal mass"
    return plots.histograms({"without noise": ends, "with noise": noisy}, title=title, xlabel="end point")


@law("langevin/escape")
def escape(precision: float) -> Claims:
    r"""The mean time until a chain with noise leaves a mode is a double integral of the density.

    $$\tau = \int_a^b \frac{dy}{p(y)} \int_{-\infty}^y p(z)\,dz \approx
    \frac{2\pi\, e^{U(s) - U(a)}}{\sqrt{|U''(a)\,U''(s)|}}$$
    tau is the mean first passage time from a to b. On the density exp(-|x|) it is 2(e^b - 1) - b from 0 to b. For a
    round trip from a to b and back the inner integrals add up to 1. Kramers' formula, with U = -log p and s the saddle
    between the modes, is the limit of a high barrier. A simulation with small steps delta acts as if a boundary were
    0.5826 sqrt(2 delta) further away.
    Source: Gardiner (2009), equations 5.5.23 and 5.5.32; Kramers (1940), equation 17.
    """
    laplace = first_passage_time(lambda x: -x[:, 0].abs(), 0.0, 2.0, edge=-40.0)
    yield close("mean time from 0 to 2 on exp(-|x|)", 2 * (math.exp(2) - 1) - 2, laplace, 1e-4)
    y = torch.linspace(-1.5, 1.5, 20_001, dtype=F64)
    both = first_passage_time(TWO, -1.5, 1.5, edge=-8.0) + first_passage_time(TWO, 1.5, -1.5, edge=12.0)
    exact = torch.trapezoid(torch.exp(-TWO(y[:, None])), y)
    yield close("mean time of a round trip: the integral of 1/p", exact, both, 1e-4 * both)

    def well(height: float) -> Callable[[Tensor], Tensor]:
        return lambda x: -height * (x[:, 0] ** 2 - 1) ** 2

    low, high = (kramers_time(well(h), -1.0, 0.0) / first_passage_time(well(h), -1.0, 1.0, edge=-3.0) for h in (4, 16))
    kramers = 2 * math.pi / math.sqrt(8 * 4.0 * 4 * 4.0) * math.exp(4.0)
    yield close("Kramers' time for U = 4 (x^2 - 1)^2", kramers, kramers_time(well(4), -1.0, 0.0), 1e-6)
    yield Evidence("Kramers' time over the exact time for U = 16 (x^2 - 1)^2", 1.0, high, 0.06)
    yield bounded("relative error of Kramers' time there", abs(high - 1), abs(low - 1), relation="at most")
    delta, start = 0.002, torch.zeros(draws(1500, precision), 1, dtype=F64)
    seen = score.exit_times(lambda x: -x, start, lambda x: x[:, 0].abs() > 1.0, delta, 3000, generator=generator(1))
    y = torch.linspace(0, 1.0 + 0.5826 * math.sqrt(2 * delta), 20_001, dtype=F64)  # by symmetry, from a wall at 0
    p = torch.exp(-(y**2) / 2)
    inner = torch.cumulative_trapezoid(torch.cat([p[:1], p]), torch.cat([y[:1], y]))
    exact = torch.trapezoid(inner / p, y)
    yield mean_is("simulated mean exit time from [-1, 1] on N(0, 1)", float(exact), seen.clamp(max=3000 * delta))


@law("langevin/annealed")
def annealed(precision: float) -> Claims:
    r"""Plain Langevin dynamics misses the weights of distant modes; annealing from high to low noise finds them.

    $$\delta_i = c\,\sigma_i^2, \quad \sigma_1 > \ldots > \sigma_L$$
    Chains hardly ever move between distant modes: those of plain Langevin stay on the side where they started, half of
    them on each. At a noise level wider than the gap there is one mode, and as the noise decreases the chains split by
    the weights.
    Source: Song & Ermon (2019), sections 3.2.2 and 4.3, algorithm 1.
    """
    weight, far, n = f64([0.2, 0.8]), f64([-5.0, 5.0]), draws(1500, precision)

    def noised_score(x: Tensor, sigma: Tensor) -> Tensor:
        variance = 0.25 + sigma[:, None] ** 2
        share = torch.softmax(weight.log() - (x - far) ** 2 / (2 * variance), 1)
        return ((share @ far)[:, None] - x) / variance

    start, zero, levels = 15 * randn(1, n, 1), torch.zeros(n, dtype=F64), score.geometric(15.0, 0.1, 16)
    plain = langevin(lambda x: noised_score(x, zero), start, 0.05, 300, generator=generator(2))
    ours = score.annealed_langevin(noised_score, start, levels, 0.1, 40, generator=generator(3))
    claim = "share of chains in the mode of weight 0.8, annealed (0.01 allowed for 16 noise levels)"
    yield estimate_is(claim, 0.8, (ours > 0).double().mean(), math.sqrt(0.8 * 0.2 / n), bias=0.01)
    yield mean_is("mean within the mode of weight 0.8, annealed", 5.0, ours[ours[:, 0] > 0, 0])
    yield mean_is(
        "share of chains in the mode of weight 0.8 without annealing: half, as at the start",
        0.5,
        (plain[:, 0] > 0).double(),
    )

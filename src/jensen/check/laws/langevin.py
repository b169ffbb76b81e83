"""Langevin dynamics: its stationary distribution, ascent without noise, the time it takes to leave a mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jensen.check.chains import mcmc as check_mcmc
from jensen.check.evidence import Claims, Evidence, bounded, close, estimate_is, mean_is
from jensen.check.law import draws, law
from jensen.check.line import F64, Line, f64, randn
from jensen.core.seeding import generator
from jensen.report import plots
from jensen.score import (
    annealed_langevin,
    basin,
    exit_times,
    first_passage_time,
    geometric,
    kramers_time,
    langevin,
    mala,
    score_of,
)


def pair(left: float, right: float, narrow: float, wide: float) -> Callable[[Tensor], Tensor]:
    """Log of an equal mixture of N(left, narrow^2) and N(right, wide^2), (B, 1) -> (B,)."""
    mean, deviation = f64([left, right]), f64([narrow, wide])
    constant = deviation.log() + math.log(2 * math.sqrt(2 * math.pi))
    return lambda x: (-((x - mean) ** 2) / (2 * deviation**2) - constant).logsumexp(1)


@law("langevin/stationary")
def stationary(precision: float) -> Claims:
    r"""With noise the chain converges to the density, up to the order of its step.

    $$x \leftarrow x + \delta\,\nabla\log p + \sqrt{2\delta}\,n: \quad
    \mathrm{Var}_\infty = \frac{v}{1 - \delta/2v} \text{ on } N(0, v)$$
    On N(0, v) a move multiplies by r = 1 - delta/v and adds 2 delta: Var_k = r^{2k} Var_0 + 2 delta (1 - r^{2k}) /
    (1 - r^2), which tends to v / (1 - delta / 2v), and to v with the step. Exact at every k.
    Source: Roberts & Tweedie (1996), section 1.4.1.
    """
    v, start = 2.0, 3 + randn(1, draws(20_000, precision), 1)
    for delta, steps in ((0.1, 8), (1.0, 4), (1.0, 30)):
        x = langevin(lambda x: -x / v, start, delta, steps, generator=generator(2))[:, 0]
        r = 1 - delta / v
        variance = r ** (2 * steps) + 2 * delta * (1 - r ** (2 * steps)) / (1 - r**2)
        yield mean_is(f"mean after {steps} steps of {delta}", 3 * r**steps, x)
        yield mean_is(f"variance after {steps} steps of {delta}", variance, (x - 3 * r**steps) ** 2)
    x = torch.randn(32, 1, dtype=F64)
    made = langevin(lambda x: -x / v, x, 0.3, 1, generator=generator(3))
    yield close("one move with the same noise", x - 0.3 * x / v + math.sqrt(0.6) * randn(3, 32, 1), made, 1e-12)


@stationary.drawn
def _plot_stationary() -> str:
    steps = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6]
    starts = (randn(1, 4000, 1) / math.sqrt(1 - delta / 2) for delta in steps)
    ends = (langevin(torch.neg, x, d, 40, generator=generator(2)) for x, d in zip(starts, steps, strict=True))
    rows = {"measured": [float(x.var()) for x in ends], "1 / (1 - step/2)": [1 / (1 - d / 2) for d in steps]}
    title = "Stationary variance of Langevin on N(0, 1)"
    return plots.curves(steps, rows | {"the density's": [1.0] * len(steps)}, title=title, xlabel="step")


@law("langevin/noise-free")
def noise_free(_: float) -> Claims:
    r"""Without noise it climbs to a mode, and keeps nothing of the density but its modes.

    $$x \leftarrow x + \delta\,\nabla\log p(x) \;\to\; \nabla\log p(x) = 0$$
    On N(0, v) the distance shrinks by 1 - delta/v a step. On two modes every start climbs (log p never decreases) to
    one of two places where the gradient vanishes.
    Source: Welling & Teh (2011), section 2, for the noise that makes the difference.
    """
    x = langevin(lambda x: -x / 4, f64([[3.0]]), 0.5, 7, noise=False)
    yield close("3 after 7 steps of 0.5 on N(0, 4)", 3 * (1 - 0.5 / 4) ** 7, x, 1e-12)
    log_p, heights = pair(-1.5, 1.5, 0.5, 0.8), []
    start = torch.linspace(-5, 5, 41, dtype=F64)[:, None]
    ends = langevin(score_of(log_p), start, 0.1, 400, noise=False, on_step=lambda _, x: heights.append(log_p(x)))
    yield close("the gradient where they end", 0.0, score_of(log_p)(ends), 1e-8)
    yield bounded("log p from step to step", torch.stack(heights).diff(dim=0), 0.0, 1e-12, relation="at least")
    yield Evidence("places where they end", 2.0, len(ends.round(decimals=5).unique()), 0.0)


@law("langevin/adjusted")
def adjusted(precision: float) -> Claims:
    r"""With the Metropolis step the density is kept exactly, in detailed balance, whatever the step size.

    $$a = \min\Big(1, \frac{p(y)\,q(x|y)}{p(x)\,q(y|x)}\Big), \quad q(y|x) =
    N(x + \delta\nabla\log p(x), 2\delta)$$
    p(x) q(y|x) a(x, y) is symmetric in x and y. `jensen.check.mcmc` on two modes with a step size at which the
    unadjusted chain is far off, and the acceptance rate by quadrature over x and the proposal.
    Source: Roberts & Tweedie (1996), section 1.4.2.
    """
    log_p, chains = pair(-1.0, 1.0, 0.4, 0.9), draws(10_000, precision, least=1000)
    yield from check_mcmc(lambda x, g: mala(log_p, x, 0.25, 1, generator=g).x, log_p, moves=8, chains=chains).evidence
    line, unit = Line.of(log_p, (-10.0, 10.0), 401), torch.linspace(-7, 7, 281, dtype=F64)
    y = (line.x + 0.25 * score_of(log_p)(line.x) + math.sqrt(0.5) * unit).reshape(-1, 1)
    back = (line.x.repeat_interleave(281, 0) - y - 0.25 * score_of(log_p)(y)) ** 2
    log_ratio = (log_p(y) - back[:, 0]).view(401, 281) - log_p(line.x)[:, None] + unit**2 / 2
    exact = line.mass @ log_ratio.clamp(max=0).exp() @ torch.softmax(-(unit**2) / 2, 0)
    start = line.quantile(torch.rand(chains, dtype=F64, generator=generator(4)))
    taken = mala(log_p, start, 0.25, 1, generator=generator(5)).acceptance
    yield mean_is("share of moves that is accepted", float(exact), taken)


SHARP_AND_FLAT = pair(-2.0, 2.0, 0.3, 1.2)  # two modes of equal mass


@law("langevin/sharp-and-flat")
def sharp_and_flat(precision: float) -> Claims:
    r"""With a sharp and a flat mode of equal mass, ascent without noise favours the wide basin; with noise mass counts.

    $$\text{basin} \propto \text{width}, \quad \text{occupancy} = \text{mass}$$
    Uniform starts climb to the mode in whose basin they are: the shares are the basins' lengths, split where log p is
    minimal. With noise chains from exact draws stay at one half each: sharpness plays no part.
    Source: Kramers (1940); Gardiner (2009), section 5.5.3.
    """
    inside = torch.linspace(-4, 4, 80_001, dtype=F64)[20_001:60_000, None]  # between the modes
    saddle = float(inside[SHARP_AND_FLAT(inside).argmin()])
    starts, slope = torch.linspace(-6, 6, 1201, dtype=F64)[:, None], score_of(SHARP_AND_FLAT)
    ends = basin(slope, starts, f64([[-2.0], [2.0]]), step_size=0.08, steps=150)
    yield close("share of uniform starts that climb to the flat mode", (6 - saddle) / 12, ends.double().mean(), 2e-3)
    line = Line.of(SHARP_AND_FLAT, (-12.0, 12.0))
    x = line.quantile(torch.rand(draws(4000, precision), dtype=F64, generator=generator(1)))
    x = langevin(slope, x, 0.005, 200, generator=generator(2))
    mass = line.mass @ (line.places > saddle).double()
    yield mean_is("share of chains with noise on the flat side", float(mass), (x[:, 0] > saddle).double())


@sharp_and_flat.drawn
def _plot_modes() -> str:
    slope, starts = score_of(SHARP_AND_FLAT), torch.linspace(-6, 6, 600, dtype=F64)[:, None]
    ends = langevin(slope, starts, 0.08, 150, noise=False)[:, 0].tolist()
    noisy = langevin(slope, starts, 0.02, 1500, generator=generator(1))[:, 0].tolist()
    title = "Uniform starts on a sharp and a flat mode of equal mass"
    return plots.histograms({"without noise": ends, "with noise": noisy}, title=title, xlabel="where they end")


@law("langevin/escape")
def escape(precision: float) -> Claims:
    r"""The mean time in which a chain with noise leaves a mode is known; the round trip is int dy / p(y).

    $$\tau = \int_a^b \frac{dy}{p(y)} \int_{-\infty}^y p(z)\,dz \approx
    \frac{2\pi\, e^{U(s) - U(a)}}{\sqrt{|U''(a)\,U''(s)|}}$$
    On the density exp(-|x|) the time from 0 to b is 2(e^b - 1) - b. For a round trip between two places the inner
    integrals add up to 1. Kramers' time is the limit of a high barrier. Simulated with small steps delta, which act as
    if a boundary were 0.5826 sqrt(2 delta) further away.
    Source: Gardiner (2009), equations 5.5.23 and 5.5.32; Kramers (1940), equation 17.
    """
    laplace = first_passage_time(lambda x: -x[:, 0].abs(), 0.0, 2.0, edge=-40.0)
    yield close("time from 0 to 2 on exp(-|x|)", 2 * (math.exp(2) - 1) - 2, laplace, 1e-4)
    log_p, y = pair(-1.5, 1.5, 0.5, 0.8), torch.linspace(-1.5, 1.5, 20_001, dtype=F64)
    both = first_passage_time(log_p, -1.5, 1.5, edge=-8.0) + first_passage_time(log_p, 1.5, -1.5, edge=12.0)
    yield close("the round trip", torch.trapezoid(torch.exp(-log_p(y[:, None])), y), both, 1e-4 * both)

    def well(height: float) -> Callable[[Tensor], Tensor]:
        return lambda x: -height * (x[:, 0] ** 2 - 1) ** 2

    low, high = (kramers_time(well(h), -1.0, 0.0) / first_passage_time(well(h), -1.0, 1.0, edge=-3.0) for h in (4, 16))
    exact = 2 * math.pi / math.sqrt(8 * 4.0 * 4 * 4.0) * math.exp(4.0)
    yield close("Kramers' time of 4 (x^2 - 1)^2", exact, kramers_time(well(4), -1.0, 0.0), 1e-6)
    yield Evidence("over the exact time at a barrier of 16", 1.0, high, 0.06)
    yield bounded("it is nearer than at 4", abs(high - 1), abs(low - 1), relation="at most")
    delta, start = 0.002, torch.zeros(draws(1500, precision), 1, dtype=F64)
    seen = exit_times(lambda x: -x, start, lambda x: x[:, 0].abs() > 1.0, delta, 3000, generator=generator(1))
    y = torch.linspace(0, 1.0 + 0.5826 * math.sqrt(2 * delta), 20_001, dtype=F64)  # by symmetry, from a wall at 0
    p = torch.exp(-(y**2) / 2)
    inner = torch.cumulative_trapezoid(torch.cat([p[:1], p]), torch.cat([y[:1], y]))
    exact = float(torch.trapezoid(inner / p, y))
    yield mean_is("mean time out of [-1, 1] on N(0, 1)", exact, seen.clamp(max=3000 * delta))


@law("langevin/annealed")
def annealed(precision: float) -> Claims:
    r"""Plain Langevin does not find the weights of distant modes; annealed from much noise to little it does.

    $$\delta_i = c\,\sigma_i^2, \quad \sigma_1 > \ldots > \sigma_L$$
    Hardly any chain moves between distant modes, so that chains stay on the side where they started, half of them on
    each. With noise wider than the gap there is one mode, and chains divide by weight as the noise falls.
    Source: Song & Ermon (2019), sections 3.2.2 and 4.3, algorithm 1.
    """
    weight, far, n = f64([0.2, 0.8]), f64([-5.0, 5.0]), draws(1500, precision)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        variance = 0.25 + sigma[:, None] ** 2
        share = torch.softmax(weight.log() - (x - far) ** 2 / (2 * variance), 1)
        return ((share @ far)[:, None] - x) / variance

    start, least = 15 * randn(1, n, 1), torch.zeros(n, dtype=F64)
    plain = langevin(lambda x: score(x, least), start, 0.05, 300, generator=generator(2))
    ours = annealed_langevin(score, start, geometric(15.0, 0.1, 16), 0.1, 40, generator=generator(3))
    claim = "share of the heavy mode, annealed, up to 0.01 for the number of levels"
    yield estimate_is(claim, 0.8, (ours > 0).double().mean(), math.sqrt(0.8 * 0.2 / n), bias=0.01)
    yield mean_is("mean inside it", 5.0, ours[ours[:, 0] > 0, 0])
    yield mean_is("share of the heavy mode, plain: that of the starts", 0.5, (plain[:, 0] > 0).double())

"""Langevin dynamics: where it settles, where it climbs, how long it takes to leave a mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jensen.check.chains import mcmc as check_mcmc
from jensen.check.evidence import Evidence, bounded, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.line import F64, Line
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
    mean, deviation = (torch.tensor(v, dtype=F64) for v in ((left, right), (narrow, wide)))
    return lambda x: (
        (-((x - mean) ** 2) / (2 * deviation**2) - deviation.log()).logsumexp(1) - math.log(2 * math.sqrt(2 * math.pi))
    )


@law(
    "langevin/stationary",
    formula=r"x \leftarrow x + \delta\,\nabla\log p + \sqrt{2\delta}\,n: \quad "
    r"\mathrm{Var}_\infty = \frac{v}{1 - \delta/2v} \text{ on } N(0, v)",
    source="Roberts & Tweedie (1996), section 1.4.1",
)
def stationary(precision: float) -> Iterator[Evidence]:
    r"""With noise the chain settles at the density, but for the order of its step.

    On N(0, v) a move multiplies by r = 1 - delta/v and adds 2 delta: Var_k = r^{2k} Var_0 + 2 delta (1 - r^{2k}) /
    (1 - r^2), which tends to v / (1 - delta / 2v), and to v with the step. Exact at every k.
    """
    n, v = draws(20_000, precision), 2.0
    start = 3 + torch.randn(n, 1, dtype=F64, generator=generator(1))
    for delta, steps in ((0.1, 8), (1.0, 4), (1.0, 30)):
        x = langevin(lambda x: -x / v, start, delta, steps, generator=generator(2))[:, 0]
        r = 1 - delta / v
        variance = r ** (2 * steps) + 2 * delta * (1 - r ** (2 * steps)) / (1 - r**2)
        yield mean_is(f"mean after {steps} steps of {delta}", 3 * r**steps, x)
        yield mean_is(f"variance after {steps} steps of {delta}", variance, (x - 3 * r**steps) ** 2)
    x = torch.randn(32, 1, dtype=F64)
    noise = torch.randn(32, 1, dtype=F64, generator=generator(3))
    made = langevin(lambda x: -x / v, x, 0.3, 1, generator=generator(3))
    yield close("one move with the same noise", x - 0.3 * x / v + math.sqrt(0.6) * noise, made, 1e-12)


@stationary.drawn
def _plot_stationary() -> str:
    steps = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6]
    found = []
    for delta in steps:
        start = torch.randn(4000, 1, dtype=F64, generator=generator(1)) / math.sqrt(1 - delta / 2)
        found.append(float(langevin(torch.neg, start, delta, 40, generator=generator(2)).var()))
    return plots.curves(
        steps,
        {"measured": found, "1 / (1 - step/2)": [1 / (1 - d / 2) for d in steps], "the density's": [1.0] * len(steps)},
        title="Variance at which Langevin settles on N(0, 1)",
        xlabel="step",
    )


@law(
    "langevin/noise-free",
    formula=r"x \leftarrow x + \delta\,\nabla\log p(x) \;\to\; \nabla\log p(x) = 0",
    source="Welling & Teh (2011), section 2, for the noise that makes the difference",
)
def noise_free(_: float) -> Iterator[Evidence]:
    r"""Without noise it climbs to a mode, and all that is kept of the density is its modes.

    On N(0, v) the distance shrinks by 1 - delta/v a step. On two modes every start climbs (log p never falls) to one of
    two places where the gradient vanishes; the variance of where chains end is that of the modes, not of p.
    """
    x = langevin(lambda x: -x / 4, torch.full((1, 1), 3.0, dtype=F64), 0.5, 7, noise=False)
    yield close("3 after 7 steps of 0.5 on N(0, 4)", 3 * (1 - 0.5 / 4) ** 7, x, 1e-12)
    log_p = pair(-1.5, 1.5, 0.5, 0.8)
    score, heights = score_of(log_p), []
    start = torch.linspace(-5, 5, 41, dtype=F64)[:, None]
    ends = langevin(score, start, 0.1, 400, noise=False, on_step=lambda _, x: heights.append(log_p(x)))
    yield close("the gradient where they end", 0.0, score(ends), 1e-8)
    yield bounded("log p from step to step", torch.stack(heights).diff(dim=0), 0.0, 1e-12, relation="at least")
    yield Evidence("places where they end", 2.0, len(ends.round(decimals=5).unique()), 0.0)


@law(
    "langevin/adjusted",
    formula=r"a = \min\Big(1, \frac{p(y)\,q(x|y)}{p(x)\,q(y|x)}\Big), \quad q(y|x) = "
    r"N(x + \delta\nabla\log p(x), 2\delta)",
    source="Roberts & Tweedie (1996), section 1.4.2",
)
def adjusted(precision: float) -> Iterator[Evidence]:
    r"""With the Metropolis step the density is kept exactly, in detailed balance, whatever the step.

    p(x) q(y|x) a(x, y) is symmetric in x and y. The user-facing check, on two modes with a step at which the unadjusted
    chain is far off.
    """
    log_p = pair(-1.0, 1.0, 0.4, 0.9)
    chains = draws(10_000, precision, least=1000)
    report = check_mcmc(lambda x, g: mala(log_p, x, 0.25, 1, generator=g).x, log_p, moves=8, chains=chains)
    yield from report.evidence
    line = Line.of(log_p, (-10.0, 10.0), 401)  # the share that is accepted, by quadrature over x and the proposal
    x, slope = line.x, score_of(log_p)(line.x)
    unit = torch.linspace(-7, 7, 281, dtype=F64)
    mass = torch.softmax(-(unit**2) / 2, 0)
    y = (x + 0.25 * slope + math.sqrt(0.5) * unit).reshape(-1, 1)
    back = ((x.repeat_interleave(281, 0) - y - 0.25 * score_of(log_p)(y)) ** 2)[:, 0].view(401, 281)
    log_ratio = log_p(y).view(401, 281) - log_p(x)[:, None] - back + unit**2 / 2
    exact = line.mass @ log_ratio.clamp(max=0).exp() @ mass
    start = line.quantile(torch.rand(chains, dtype=F64, generator=generator(4)))
    taken = mala(log_p, start, 0.25, 1, generator=generator(5)).acceptance
    yield mean_is("share of moves that is accepted", float(exact), taken)


SHARP, FLAT = 0.3, 1.2  # deviations of two modes of one mass


@law(
    "langevin/sharp-and-flat",
    formula=r"\text{basin} \propto \text{width}, \quad \text{occupancy} = \text{mass}",
    source="Kramers (1940); Gardiner (2009), section 5.5.3",
)
def sharp_and_flat(precision: float) -> Iterator[Evidence]:
    r"""Of a sharp and a flat mode of one mass, ascent without noise favours the wide basin; with noise the mass counts.

    Uniform starts climb to the mode in whose basin they are: the shares are the basins' lengths, split where log p is
    least. With noise chains from exact draws stay at one half each, and no sharpness is preferred.
    """
    log_p = pair(-2.0, 2.0, SHARP, FLAT)
    places = torch.linspace(-4, 4, 80_001, dtype=F64)
    inside = places[(places > -2) & (places < 2)]
    saddle = float(inside[log_p(inside[:, None]).argmin()])
    starts = torch.linspace(-6, 6, 1201, dtype=F64)[:, None]
    modes = torch.tensor([[-2.0], [2.0]], dtype=F64)
    ends = basin(score_of(log_p), starts, modes, step_size=0.08, steps=150)
    yield close("share of uniform starts that climb to the flat mode", (6 - saddle) / 12, ends.double().mean(), 2e-3)
    n = draws(4000, precision)
    line = Line.of(log_p, (-12.0, 12.0))
    x = line.quantile(torch.rand(n, dtype=F64, generator=generator(1)))
    x = langevin(score_of(log_p), x, 0.005, 200, generator=generator(2))
    mass = line.mass @ (line.places > saddle).double()
    share = (x[:, 0] > saddle).double()
    yield mean_is("share of chains with noise on the flat side", float(mass), share)


@sharp_and_flat.drawn
def _plot_modes() -> str:
    log_p, starts = pair(-2.0, 2.0, SHARP, FLAT), torch.linspace(-6, 6, 600, dtype=F64)[:, None]
    ends = langevin(score_of(log_p), starts, 0.08, 150, noise=False)[:, 0].tolist()
    noisy = langevin(score_of(log_p), starts, 0.02, 1500, generator=generator(1))[:, 0].tolist()
    return plots.histograms(
        {"without noise": ends, "with noise": noisy},
        title="Uniform starts on a sharp and a flat mode of one mass",
        xlabel="where they end",
    )


@law(
    "langevin/escape",
    formula=r"\tau = \int_a^b \frac{dy}{p(y)} \int_{-\infty}^y p(z)\,dz \approx "
    r"\frac{2\pi\, e^{U(s) - U(a)}}{\sqrt{|U''(a)\,U''(s)|}}",
    source="Gardiner (2009), equations 5.5.23 and 5.5.32; Kramers (1940), equation 17",
)
def escape(precision: float) -> Iterator[Evidence]:
    r"""A chain with noise leaves a mode after a time that is known, and there and back is one over the density between.

    On the density exp(-|x|) the time from 0 to b is 2(e^b - 1) - b. There and back between two places the inner
    integrals add up to 1, so it takes int dy / p(y). Kramers' time is the limit of a high barrier. Simulated with
    small steps, to which a boundary is as if 0.5826 sqrt(2 delta) further off.
    """
    laplace = first_passage_time(lambda x: -x[:, 0].abs(), 0.0, 2.0, edge=-40.0)
    yield close("time from 0 to 2 on exp(-|x|)", 2 * (math.exp(2) - 1) - 2, laplace, 1e-4)
    log_p = pair(-1.5, 1.5, 0.5, 0.8)
    there = first_passage_time(log_p, -1.5, 1.5, edge=-8.0)
    back = first_passage_time(log_p, 1.5, -1.5, edge=12.0)
    y = torch.linspace(-1.5, 1.5, 20_001, dtype=F64)
    yield close(
        "there and back", torch.trapezoid(torch.exp(-log_p(y[:, None])), y), there + back, 1e-4 * (there + back)
    )
    ratios = []
    for height in (4.0, 16.0):
        well = _double_well(height)
        ratios.append(kramers_time(well, -1.0, 0.0) / first_passage_time(well, -1.0, 1.0, edge=-3.0))
    exact = 2 * math.pi / math.sqrt(8 * 4.0 * 4 * 4.0) * math.exp(4.0)
    yield close("Kramers' time of 4 (x^2 - 1)^2", exact, kramers_time(_double_well(4.0), -1.0, 0.0), 1e-6)
    yield Evidence("over the exact time at a barrier of 16", 1.0, ratios[1], 0.06)
    yield bounded("it is nearer than at 4", abs(ratios[1] - 1), abs(ratios[0] - 1), relation="at most")
    n, delta = draws(1500, precision), 0.002
    start = torch.zeros(n, 1, dtype=F64)
    shifted = 1.0 + 0.5826 * math.sqrt(2 * delta)
    seen = exit_times(lambda x: -x, start, lambda x: x[:, 0].abs() > 1.0, delta, 3000, generator=generator(1))
    exact = _two_sided(shifted)
    yield mean_is("mean time out of [-1, 1] on N(0, 1)", exact, seen.clamp(max=3000 * delta))


def _double_well(height: float) -> Callable[[Tensor], Tensor]:
    return lambda x: -height * (x[:, 0] ** 2 - 1) ** 2


def _two_sided(edge: float) -> float:
    """Mean time of the diffusion on N(0, 1) from 0 out of [-edge, edge]: by symmetry from a wall at 0."""
    y = torch.linspace(0, edge, 20_001, dtype=F64)
    p = torch.exp(-(y**2) / 2)
    inner = torch.cumulative_trapezoid(torch.cat([p[:1], p]), torch.cat([y[:1], y]))
    return float(torch.trapezoid(inner / p, y))


@law(
    "langevin/annealed",
    formula=r"\delta_i = c\,\sigma_i^2, \quad \sigma_1 > \ldots > \sigma_L",
    source="Song & Ermon (2019), sections 3.2.2 and 4.3, algorithm 1",
)
def annealed(precision: float) -> Iterator[Evidence]:
    r"""Plain Langevin does not know the weights of modes far apart; annealed from wide noise it finds them.

    Between far modes hardly any chain moves, so that chains stay on the side where they started, half of them on each.
    With noise wider than the gap there is one mode, and chains are divided by weight as the noise falls.
    """
    weight, far = torch.tensor([0.2, 0.8], dtype=F64), torch.tensor([-5.0, 5.0], dtype=F64)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        variance = 0.25 + sigma[:, None] ** 2
        share = torch.softmax(weight.log() - (x - far) ** 2 / (2 * variance), 1)
        return ((share @ far)[:, None] - x) / variance

    n = draws(1500, precision)
    start, least = 15 * torch.randn(n, 1, dtype=F64, generator=generator(1)), torch.zeros(n, dtype=F64)
    plain = langevin(lambda x: score(x, least), start, 0.05, 300, generator=generator(2))
    sigmas = geometric(15.0, 0.1, 16)
    ours = annealed_langevin(score, start, sigmas, 0.1, 40, generator=generator(3))
    error = math.sqrt(0.8 * 0.2 / n)
    found = float((ours[:, 0] > 0).double().mean())
    claim = "share of the heavy mode, annealed, but for 0.01 that so many levels leave"
    yield Evidence(claim, 0.8, found, 5 * error + 0.01, stderr=error)
    yield mean_is("mean inside it", 5.0, ours[ours[:, 0] > 0, 0])
    yield mean_is("share of the heavy mode, plain: that of the starts", 0.5, (plain[:, 0] > 0).double())


LAWS: tuple[Law, ...] = (stationary, noise_free, adjusted, sharp_and_flat, escape, annealed)

"""Modes: how long chains stay in each mode, how long they take to leave it, and where gradient ascent ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.core.distances import squared_distances
from jensen.core.seeding import Rng
from jensen.core.shapes import check_finite, checked
from jensen.score.diagnostics import r_hat
from jensen.score.dynamics import LogProb, langevin, score_of
from jensen.score.matching import Score


@dataclass(frozen=True)
class Occupancy:
    """The fraction of draws in each mode.

    Attributes:
        share: (K,), sums to 1.
        stderr: (K,), standard errors from the spread between chains.
    """

    share: Float[Tensor, " k"]
    stderr: Float[Tensor, " k"]


@checked
def occupancy(modes: Int[Tensor, "steps chains"], count: int) -> Occupancy:
    r"""The fraction of draws in each of `count` modes, $\pm\, \mathrm{sd}_c / \sqrt{C}$ over C independent chains.

    The errors are valid for any autocorrelation within a chain; a chain that never changes its mode counts as one draw.

    Args:
        modes: (steps, chains), the mode that each draw is in, 0 to count - 1; see `basin`.
        count: number K of modes, at least 1.

    Raises:
        ValueError: for fewer than two chains, or a mode out of range.

    >>> occupancy(torch.tensor([[0, 1], [0, 0]]), 2).share
    tensor([0.7500, 0.2500])
    """
    if modes.ndim != 2 or modes.shape[1] < 2 or not modes.numel():
        raise ValueError(f"standard errors need at least two chains, got draws of shape {tuple(modes.shape)}")
    if not bool(((modes >= 0) & (modes < count)).all()):
        raise ValueError(f"modes must be from 0 to {count - 1}, got {int(modes.min())} to {int(modes.max())}")
    shares = torch.stack([(modes == k).float().mean(0) for k in range(count)])  # (K, C)
    return Occupancy(shares.mean(1), shares.std(1) / math.sqrt(modes.shape[1]))


@checked
def basin(
    score: Score, x: Float[Tensor, "b ..."], modes: Float[Tensor, "k ..."], *, step_size: float, steps: int
) -> Int[Tensor, " b"]:
    """The mode that gradient ascent reaches from each row, (B,): the one nearest to its end point.

    Args:
        score: the gradient of log p.
        x: (B, ...).
        modes: (K, ...), the positions of the modes.
        step_size: step size of the ascent, below the smallest variance of a mode.
        steps: number of steps of the ascent, enough to converge.

    >>> two = torch.distributions.Normal(torch.tensor([-2.0, 2.0]), torch.tensor([0.5, 0.5]))
    >>> log_prob = lambda x: two.log_prob(x).logsumexp(1)
    >>> places = torch.tensor([[-2.0], [2.0]])
    >>> basin(score_of(log_prob), torch.tensor([[-0.1], [0.1]]), places, step_size=0.05, steps=200)
    tensor([0, 1])
    """
    if not len(modes):
        raise ValueError(f"modes must be at least one, got shape {tuple(modes.shape)}")
    ends = langevin(score, x, step_size, steps, noise=False)
    check_finite(modes=modes, **{"the end of the ascent": ends})
    return next(squared_distances(ends.flatten(1), modes.to(ends).flatten(1), len(x))).argmin(1)


@torch.no_grad()
@checked
def exit_times(
    score: Score,
    x: Float[Tensor, "b ..."],
    left: Callable[[Tensor], Tensor],
    step_size: float,
    steps: int,
    *,
    generator: Rng = None,
) -> Float[Tensor, " b"]:
    r"""The diffusion's time $k \delta$ at which each chain of `langevin` is first observed outside a region, (B,), or
    inf.

    Positions are checked only every delta, so exits are observed later than those of the continuous diffusion: as if
    the boundary were $0.5826 \sqrt{2\delta}$ further away.

    Args:
        score: the gradient of log p.
        x: (B, ...), the starting points, inside the region.
        left: whether each row is outside the region, (B, ...) -> (B,) bool.
        step_size: step size delta, positive.
        steps: maximum number of steps, at least 1.
        generator: None, one, or one per row.

    Raises:
        ValueError: for a step size that is not positive, or steps < 1.

    Source: Broadie, Glasserman & Kou (1997), theorem 1.1, for the shift; the constant is -zeta(1/2) / sqrt(2 pi).

    >>> exit_times(lambda x: torch.ones_like(x), torch.zeros(2, 1), lambda x: x[:, 0] > 1e9, 0.1, 5)
    tensor([inf, inf])
    """
    times = x.new_full((len(x),), math.inf)

    def look(k: int, x: Tensor) -> None:
        times[left(x) & times.isinf()] = k * step_size

    langevin(score, x, step_size, steps, generator=generator, on_step=look)
    return times


@dataclass(frozen=True)
class Escape:
    """The mean exit time.

    Attributes:
        mean: total time inside divided by the number of chains that left; inf if none did.
        stderr: mean / sqrt(number of chains that left), as for an exponential law.
        share: the fraction of chains that left before the horizon.
    """

    mean: float
    stderr: float
    share: float


@checked
def mean_exit_time(times: Float[Tensor, " b"], horizon: float) -> Escape:
    r"""The mean of exit times, some of which were not observed: $\sum_i \min(\tau_i, T) / \#\{\tau_i \le T\}$.

    If all were observed this is their mean; otherwise it is the maximum-likelihood mean of an exponential law, which
    exit times of a deep mode follow.

    Args:
        times: (B,), inf where a chain was still inside at the horizon; at least one.
        horizon: T, the length of the observation, positive.

    Raises:
        ValueError: for no times, or a horizon that is not positive.

    Source: Lawless (2003), section 4.1.1.

    >>> mean_exit_time(torch.tensor([1.0, 2.0, math.inf]), 3.0).mean
    3.0
    """
    if not len(times) or bool(times.isnan().any()) or not 0 < horizon < math.inf:
        raise ValueError(
            f"times must be (B,), B at least 1, not nan, and horizon positive, got {len(times)} times and {horizon}"
        )
    seen = int((times <= horizon).sum())
    mean = float(times.double().clamp(max=horizon).sum()) / seen if seen else math.inf
    return Escape(mean, mean / math.sqrt(seen) if seen else math.inf, seen / len(times))


def first_passage_time(log_prob: LogProb, start: float, target: float, *, edge: float, points: int = 20_001) -> float:
    r"""Exact mean time of $dX = (\log p)'\,dt + \sqrt2\,dW$ from `start` to `target` on the line.

    $$\tau = \int_{start}^{target} \frac{dy}{p(y)} \int_{edge}^{y} p(z)\,dz$$

    by the trapezoidal rule, written here for start < target; the opposite case is its mirror image. The transition
    times in both directions add up to $\int dy/p(y)$ (p normalised): for two modes of equal mass each is about half of
    it, regardless of how sharp the modes are.

    Args:
        log_prob: maps (B, 1) to log p up to a constant, (B,).
        start, target: two different positions.
        edge: a reflecting boundary behind the start, as seen from the target, beyond which there is almost no mass.
        points: nodes of the rule, at least 3.

    Raises:
        ValueError: for positions that are not increasing, or points < 3.

    Source: Gardiner (2009), equation 5.5.23.

    >>> laplace = lambda x: -x[:, 0].abs()  # from 0 to b: 2 (e^b - 1) - b
    >>> exact = 2 * (math.e - 1) - 1
    >>> abs(first_passage_time(laplace, 0.0, 1.0, edge=-39.0) - exact) < 1e-5
    True
    """
    if not (edge <= start < target or edge >= start > target):
        raise ValueError(f"edge, start and target must come in this order, got {edge}, {start} and {target}")
    if points < 3:
        raise ValueError(f"points must be at least 3, got {points}")
    behind, ahead = _grid(edge, start, points), _grid(start, target, points)
    top = max(float(log_prob(places[:, None]).max()) for places in (behind, ahead))
    p_behind, p_ahead = (torch.exp(log_prob(places[:, None]) - top) for places in (behind, ahead))
    gained = torch.cumulative_trapezoid(torch.cat([p_ahead[:1], p_ahead]), torch.cat([ahead[:1], ahead]))  # from 0
    mass = torch.trapezoid(p_behind, behind) + gained
    return float(torch.trapezoid(mass / p_ahead, ahead))


def _grid(a: float, b: float, points: int) -> Tensor:
    return torch.linspace(a, b, points, dtype=torch.float64)


def kramers_time(log_prob: LogProb, mode: float, saddle: float) -> float:
    r"""The asymptotic mean time to cross a high barrier on the line, from one mode to the mode beyond the saddle.

    $$\tau \approx \frac{2\pi}{\sqrt{|U''(mode)\, U''(saddle)|}}\; e^{U(saddle) - U(mode)}, \qquad U = -\log p$$

    It tends to `first_passage_time` as the barrier grows; $\sqrt{2\pi/U''(mode)}\,p(mode)$ is the mass of the mode, so
    the time depends on the mass of the mode, not on its sharpness.

    Args:
        log_prob: maps (B, 1) to log p up to a constant, (B,), twice differentiable.
        mode, saddle: the positions of the density's maximum and minimum.

    Raises:
        ValueError: if log p is not concave at the mode and convex at the saddle.

    Source: Kramers (1940), equation 17; Gardiner (2009), equation 5.5.32.

    >>> round(kramers_time(lambda x: -2 * (x[:, 0] ** 2 - 1) ** 2, -1.0, 0.0), 3)  # 2 pi / sqrt(16 * 8) e^2
    4.104
    """
    value, curvature = zip(*(_curvature(log_prob, place) for place in (mode, saddle)), strict=True)
    if not curvature[0] < 0 < curvature[1]:
        raise ValueError(f"log p must be concave at the mode {mode} and convex at the saddle {saddle}")
    return 2 * math.pi / math.sqrt(-curvature[0] * curvature[1]) * math.exp(value[0] - value[1])


def _curvature(log_prob: LogProb, place: float) -> tuple[float, float]:
    with torch.enable_grad():
        x = torch.tensor([[place]], dtype=torch.float64, requires_grad=True)
        value = log_prob(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    return value.item(), curvature.item()


@dataclass(frozen=True)
class ModeReport:
    """Measurements of one of two modes on the line under Langevin dynamics.

    Attributes:
        place: position of the mode.
        height: log p at the mode minus log p at the saddle.
        mass: the exact probability of its side of the saddle.
        basin: fraction of uniform starting points from which gradient ascent ends here.
        occupancy, occupancy_stderr: fraction of draws on its side, of chains with noise from the same starting points.
        escape: the measured time to reach the other mode.
        exact: `first_passage_time` to it.
        kramers: `kramers_time` to it.
    """

    place: float
    height: float
    mass: float
    basin: float
    occupancy: float
    occupancy_stderr: float
    escape: Escape
    exact: float
    kramers: float


@dataclass(frozen=True)
class TwoModes:
    """Measurements of both modes, and whether the chains have mixed between them.

    Attributes:
        left, right: the modes.
        saddle: position of the saddle between them.
        r_hat: R-hat of the chains of the occupancy, for the variable "left or right of the saddle".
    """

    left: ModeReport
    right: ModeReport
    saddle: float
    r_hat: float


def two_modes(
    log_prob: LogProb,
    left: float,
    right: float,
    span: tuple[float, float],
    *,
    step_size: float,
    steps: int,
    chains: int = 400,
    generator: torch.Generator | None = None,
) -> TwoModes:
    """Occupancy, escape times and basins of the two modes of a density on the line.

    Without noise a chain stays in the basin it starts in, so the wider basin gets more chains; with noise, a mode is
    occupied in proportion to its mass, and the time to leave it is set by its mass, not by its height or sharpness.

    Args:
        log_prob: maps (B, 1) to log p up to a constant, (B,), twice differentiable.
        left, right: positions near the modes, left < right.
        span: an interval that contains nearly all of the mass; chains start at equally spaced points in it.
        step_size: step size of the chains, well below the smallest variance of a mode.
        steps: number of steps of each chain, at least 8; the occupancy discards the first half.
        chains: number of chains, at least 2.
        generator: random generator for the noise.

    Raises:
        ValueError: for positions that are not increasing, or a number out of its range.

    >>> pair = torch.distributions.Normal(torch.tensor([-1.5, 1.5]), torch.tensor([0.5, 0.8]))
    >>> log_prob = lambda x: pair.log_prob(x).logsumexp(1)
    >>> report = two_modes(log_prob, -1.5, 1.5, (-5.0, 6.0), step_size=0.02, steps=500, chains=50)
    >>> report.left.height > report.right.height, report.left.basin < report.right.basin
    (True, True)
    """
    low, high = span
    if not low < left < right < high:
        raise ValueError(f"span and modes must be in order, got {low}, {left}, {right} and {high}")
    if chains < 2 or steps < 8:
        raise ValueError(f"chains must be at least 2 and steps at least 8, got {chains} and {steps}")
    score = score_of(log_prob)
    saddle = _best(lambda x: -log_prob(x), left, right)
    left, right = _best(log_prob, low, saddle), _best(log_prob, saddle, high)
    modes = torch.tensor([[left], [right]], dtype=torch.float64)

    starts, sides = _grid(low, high, chains)[:, None], []
    langevin(score, starts, step_size, steps, generator=generator, on_step=lambda _, x: sides.append(x[:, 0] > saddle))
    kept = torch.stack(sides[steps // 2 :]).long()
    occupied, ends = occupancy(kept, 2), basin(score, starts, modes, step_size=step_size, steps=steps)
    total = _mass(log_prob, low, saddle) + _mass(log_prob, high, saddle)

    def report(k: int) -> ModeReport:
        here, there, edge, beyond = ((left, right, low, torch.ge), (right, left, high, torch.le))[k]
        times = exit_times(
            score, modes[k].expand(chains, 1), lambda x: beyond(x[:, 0], there), step_size, steps, generator=generator
        )
        return ModeReport(
            place=here,
            height=_value(log_prob, here) - _value(log_prob, saddle),
            mass=_mass(log_prob, edge, saddle) / total,
            basin=float((ends == k).double().mean()),
            occupancy=float(occupied.share[k]),
            occupancy_stderr=float(occupied.stderr[k]),
            escape=mean_exit_time(times, steps * step_size),
            exact=first_passage_time(log_prob, here, there, edge=edge),
            kramers=kramers_time(log_prob, here, saddle),
        )

    return TwoModes(report(0), report(1), saddle, float(r_hat(kept.double())))


def _best(value: LogProb, a: float, b: float) -> float:
    places = _grid(a, b, 20_001)
    return float(places[value(places[:, None]).argmax()])


def _value(log_prob: LogProb, place: float) -> float:
    return float(log_prob(torch.tensor([[place]], dtype=torch.float64)))


def _mass(log_prob: LogProb, a: float, b: float) -> float:
    places = _grid(a, b, 20_001)
    return abs(float(torch.trapezoid(torch.exp(log_prob(places[:, None])), places)))

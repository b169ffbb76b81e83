"""Samplers of diffusion models against exact paths and exact distributions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, bounded, close, mean_is
from jensen.check.line import F64, rows_alone, uniform_evidence
from jensen.diffusion import CosineSchedule, Denoiser, MixtureOracle, Sampler, integrate, time_grid

Path = Callable[[Denoiser, Tensor, Tensor, torch.Generator], Tensor]
"""Maps (denoiser, z at times[0], times, generator) to z at times[-1]."""

EXACT = 1e-9  # below it errors are rounding and have no order


def two_modes() -> MixtureOracle:
    """The exact denoiser of two unequal modes on the line, with the cosine schedule."""
    return MixtureOracle([0.3, 0.7], [[-1.2], [0.8]], [[0.3], [0.2]], CosineSchedule())


def quantile(oracle: MixtureOracle, z: Tensor, t: float) -> Tensor:
    """P(Z_t <= z) for z (B, 1), (B,): a sum of normal distribution functions."""
    mean, deviation, weight = _law(oracle, t)
    return torch.special.ndtr((z.double() - mean) / deviation) @ weight


def place(oracle: MixtureOracle, u: Tensor, t: float) -> Tensor:
    """The quantiles u (B,) of z_t, (B, 1), by bisection."""
    mean, deviation, _ = _law(oracle, t)
    low, high = (
        torch.full((len(u), 1), float(edge), dtype=F64)
        for edge in ((mean - 10 * deviation).min(), (mean + 10 * deviation).max())
    )
    for _ in range(80):
        middle = (low + high) / 2
        below = quantile(oracle, middle, t)[:, None] < u[:, None]
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _law(oracle: MixtureOracle, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means, deviations and weights of z_t's components, (K,)."""
    alpha, sigma = oracle.schedule.alpha_sigma(torch.tensor(t, dtype=F64))
    deviation = torch.sqrt(alpha**2 * oracle.variances[:, 0] + sigma**2)
    return alpha * oracle.means[:, 0], deviation, oracle.weights / oracle.weights.sum()


def _spread(what: str, oracle: MixtureOracle, z: Tensor, t: float, bias: float) -> Evidence:
    """Mean squared distance from a mode divided by its variance, with modes weighted by their posterior; 1 if z_t is
    exact.
    """
    mean, deviation, weight = _law(oracle, t)
    place = (z.double() - mean) / deviation
    square = (torch.softmax(weight.log() - deviation.log() - place**2 / 2, 1) * place**2).sum(1)
    found = mean_is(f"{what}: squared distance from a mode over the mode's variance", 1.0, square)
    return dataclasses.replace(found, tolerance=found.tolerance + bias)


def order_of(errors: Sequence[float], counts: Sequence[int]) -> float:
    """The least-squares slope of log error against log step; nan if an error is not finite."""
    x, y = (torch.tensor(v, dtype=F64).log() for v in (counts, errors))
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


def sampler(
    sampler: Sampler | Path,
    oracle: MixtureOracle | None = None,
    *,
    order: float = 1.0,
    deterministic: bool | None = None,
    encodes: bool = True,
    start: float = 0.9,
    end: float = 0.1,
    counts: Sequence[int] = (32, 64, 128),
    steps: int = 200,
    draws: int | None = None,
    bias: float | None = None,
    grid: str = "uniform",
) -> Report:
    r"""Whether a sampler maps the distribution of $z_t$ at one time to that at another, with an exact denoiser.

    On the line the probability-flow ODE keeps quantiles: $z_s = F_s^{-1}(F_t(z_t))$ with $F_t$ a sum of normal
    distribution functions, so that every path is known without solving the ODE. A deterministic sampler must converge
    to this path with its order, and decode what it encodes; a stochastic one must map the marginal $F_t$ to $F_s$, with
    the right spread in each mode. By default the numbers of draws and steps detect 5% more noise than an ancestral step
    has. For both: a path of one step moves z, and a path of several steps includes the last one; the same generator
    gives the same draws; and no row depends on another.

    Args:
        sampler: one of jensen's (its `step`), or a function (denoiser, z, times, generator) -> z, which gets a
            denoiser `denoiser(z, t)` of z (B, 1) and t (B,) that returns `.x`, `.eps`, `.v` and `.score`, and
            decreasing times (increasing ones to encode).
        oracle: exact denoiser in one dimension; by default two unequal modes under the cosine schedule.
        order: the claimed order of convergence; a sampler of higher order passes too.
        deterministic: whether the sampler claims to use no random numbers; None: tested.
        encodes: whether a deterministic sampler also claims to run backwards, from data to noise.
        start, end: times of the path, 0 <= end < start <= 1.
        counts: increasing numbers of steps with which the order is measured.
        steps: number of steps of the path whose marginal is tested.
        draws: number of draws on that path, at least 1,000; by default 40,000, or 10,000 for a deterministic sampler.
        bias: allowed bias of a quantile for this number of steps, 1 / (2 steps) by default; for the variance in a mode
            five times this is allowed, because it changes the variance of a quantile by about a fifth.
        grid: name of a `jensen.diffusion.time_grid`.

    Raises:
        ValueError: for an oracle of more than one dimension, fewer than two counts, or fewer than 1,000 draws.

    Source: Song et al. (2021), section 4.3 for the flow; Hairer, Norsett & Wanner (1993), section II.3 for orders.

    >>> from jensen.diffusion import DDIM
    >>> sampler(DDIM()).holds
    True

    A sampler that uses alpha at t instead of alpha at s:

    >>> def mine(denoiser, z, times, generator):
    ...     for t, s in zip(times[:-1], times[1:]):
    ...         p = denoiser(z, t.expand(len(z)))
    ...         (alpha, _), (_, sigma) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
    ...         z = alpha * p.x + sigma * p.eps
    ...     return z
    >>> sampler(mine).failed[0].claim
    'order of convergence to the exact path'

    A diffusers scheduler, which uses its own times, the same number of them (start = 1, end = 1/1000, encodes = False;
    the oracle has its betas, `BetaSchedule`):

    >>> def scheduled(denoiser, z, times, generator, scheduler):
    ...     scheduler.set_timesteps(len(times))  # the last of these steps goes below the first beta, and is not made
    ...     for t in scheduler.timesteps[:-1]:
    ...         eps = denoiser(z, ((t + 1) / 1000).expand(len(z))).eps
    ...         z = scheduler.step(eps, t, z, generator=generator).prev_sample
    ...     return z

    An azula sampler, given one of its denoisers whose `schedule` is `denoiser.schedule.alpha_sigma` and whose posterior
    has the mean `denoiser(z, t).x`; it draws from torch's global generator, for which `drawing` substitutes the
    generator of the check:

    >>> def sampled(kind, denoiser, z, times, generator):
    ...     from jensen.core.seeding import drawing
    ...     ends = {"start": float(times[0]), "stop": float(times[-1]), "steps": len(times) - 1}
    ...     with drawing(generator):
    ...         return kind(denoiser, **ends)(z)
    """
    oracle = oracle or two_modes()
    if oracle.means.shape[1] != 1:
        raise ValueError(f"the oracle must be of one dimension, got {oracle.means.shape[1]}")
    if len(counts) < 2 or (draws is not None and draws < 1000):
        raise ValueError(f"counts must be at least two and draws at least 1,000, got {len(counts)} and {draws}")
    trial = _Trial(_path_of(sampler), oracle, start, end, grid, tuple(counts))
    u = (torch.arange(64, dtype=F64) + 0.5) / 64
    above, below = place(oracle, u, start), place(oracle, u, end)
    few = trial.times(counts[0])
    one, again, other = (trial.run(above, few, *seeds) for seeds in ((1, 1), (1, 2), (2, 1)))
    drawn = float((one - other).abs().max())
    settled = drawn == 0 if deterministic is None else deterministic
    out: list[Evidence] = []
    if deterministic is True:
        out.append(Evidence("deterministic: difference between the results of two generators", 0.0, drawn, 0.0))
    if deterministic is False:
        out.append(
            bounded("stochastic: difference between the results of two generators", drawn, 1e-6, relation="at least")
        )
    if settled:
        out += trial.path_evidence(above, below, order)
    v = torch.rand(draws or (10_000 if settled else 40_000), dtype=F64, generator=torch.Generator().manual_seed(3))
    made = trial.run(place(oracle, v, start), trial.times(steps), 4)
    bias = 1 / (2 * steps) if bias is None else bias
    out += uniform_evidence(f"the marginal after {steps} steps", quantile(oracle, made, end), bias)
    out.append(_spread(f"the marginal after {steps} steps", oracle, made, end, 5 * bias))
    moved = (trial.run(above, trial.times(1), 6) - above).abs().max()
    out.append(bounded("distance moved by a path of one step", moved, 1e-6, relation="at least"))
    out += trial.last_evidence(above)
    out.append(close("the same generator gives the same draws", one, again, 0.0))
    out.append(rows_alone("a row does not depend on the other rows", lambda rows: trial.run(above[8 * rows], few, 5)))
    if settled and encodes:
        out += trial.encoding_evidence(above, below, order)
    return Report.of(out)


def _path_of(sampler: Any) -> Path:
    if not callable(getattr(sampler, "step", None)):
        path: Path = sampler
        return path
    return lambda denoiser, z, times, generator: integrate(sampler, denoiser, z, times, generator=generator)


@dataclass(frozen=True)
class _Trial:
    """A sampler, the data, and the times of its paths."""

    path: Path
    oracle: MixtureOracle
    start: float
    end: float
    grid: str
    counts: tuple[int, ...]

    def times(self, n: int) -> Tensor:
        return time_grid(self.grid, n, self.oracle.schedule, start=self.start, end=self.end)

    def run(self, z: Tensor, times: Tensor, seed: int = 0, outside: int = 0) -> Tensor:
        """The path with a generator of this seed; `outside` seeds torch's global generator."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(outside)
            return self.path(self.oracle, z, times, torch.Generator().manual_seed(seed))

    def last_evidence(self, above: Tensor) -> Iterator[Evidence]:
        """Whether the last of several steps is made; no claim for a path that uses its own times."""
        for n in (self.counts[0], self.counts[-1]):
            times = self.times(n)
            first, last = times.clone(), times.clone()
            first[1], last[-1] = (times[0] + times[1]) / 2, (times[-2] + times[-1]) / 2
            made, by_first, by_last = (self.run(above, t, 6) for t in (times, first, last))
            moved = float((by_last - made).abs().max())
            if moved or not torch.equal(by_first, made):
                claim = f"the last of {n} steps is taken: difference from a path whose last step is half as long"
                yield bounded(claim, moved, 1e-6, relation="at least")

    def path_evidence(self, above: Tensor, below: Tensor, order: float) -> Iterator[Evidence]:
        ends = [self.run(above, self.times(n)) for n in self.counts]
        yield self._converges("order of convergence to the exact path", ends, below, order)

    def encoding_evidence(self, above: Tensor, below: Tensor, order: float) -> Iterator[Evidence]:
        there = [self.run(below, self.times(n).flip(0)) for n in self.counts]
        yield self._converges("order of convergence of encoding", there, above, order)
        n = self.counts[-1]
        error = float((self.run(there[-1], self.times(n)) - below).abs().mean())
        yield Evidence(f"round-trip error of encoding and decoding in {n} steps", 0.0, error, 2 / n, "at most")

    def _converges(self, claim: str, made: Sequence[Tensor], exact: Tensor, order: float) -> Evidence:
        errors = [float((z - exact).abs().mean()) for z in made]
        if errors[-1] < EXACT:
            return Evidence(f"{claim}: error of an exact sampler", 0.0, errors[-1], EXACT)
        return Evidence(claim, order, order_of(errors, self.counts), 0.25, "at least")

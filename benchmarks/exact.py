"""Sampling problems with known solutions: exact denoisers, the same noise, start and end for every library.

The schedule is DDPM's: 1,000 betas from 1e-4 to 0.02, native to diffusers. Every path starts at its last step (t = 1,
sigma / alpha = 157.4) and ends at its first (t = 1/1000, sigma / alpha = 0.01), not at sigma = 0, which methods
treat differently. Data have mean 0 and variance 1 in every coordinate. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from jensen.diffusion import BetaSchedule, Denoiser, MixtureOracle, UniPC, integrate, time_grid

F64 = torch.float64
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
SCHEDULE = BetaSchedule(BETAS)
GRIDS = ("uniform", "log_snr", "karras", "quadratic")

Run = Callable[[Denoiser, Tensor], Tensor]
"""Maps the noise at the start to the end of the path by a sampler."""


@cache
def times(grid: str, steps: int) -> Tensor:
    """Jensen's grid of that name between the common start and end, (steps + 1,)."""
    return time_grid(grid, steps, SCHEDULE, start=1.0, end=1 / len(BETAS))


@dataclass(frozen=True)
class Problem:
    """An exact denoiser, where paths start, and where they end.

    Attributes:
        name: name of the data.
        oracle: the denoiser.
        start: (N, D) noise.
        end: (N, D), the exact solution of the probability-flow ODE.
        uncertainty: mean distance between `end` and the solution with half the steps.
    """

    name: str
    oracle: MixtureOracle
    start: Tensor
    end: Tensor
    uncertainty: float

    def error(self, made: Tensor) -> float:
        """Mean distance to the exact end, over the square root of D; infinite if a method failed."""
        distance = (made - self.end).norm(dim=1).mean() / math.sqrt(made.shape[1])
        return float(distance) if bool(torch.isfinite(distance)) else math.inf


def problem(name: str, oracle: MixtureOracle, rows: int, steps: int) -> Problem:
    """Solve it: third-order UniPC on `steps` equal steps of log-SNR."""
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(rows, oracle.means.shape[1], dtype=F64, generator=rng)
    coarse, fine = (integrate(UniPC(3), oracle, start, times("log_snr", n)) for n in (steps // 2, steps))
    return Problem(name, oracle, start, fine, float((fine - coarse).norm(dim=1).mean()))


def problems(rows: int = 512, steps: int = 1000) -> list[Problem]:
    """The problems of the two mixtures."""
    return [problem("ring of 8, D = 2", ring(), rows, steps), problem("5 at random, D = 8", scattered(), rows, steps)]


def ring(components: int = 8, deviation: float = 0.15) -> MixtureOracle:
    """Equal isotropic components on a circle in the plane."""
    angles = torch.arange(components, dtype=F64) * (2 * math.pi / components)
    means = math.sqrt(2 * (1 - deviation**2)) * torch.stack([angles.cos(), angles.sin()], 1)
    variances = torch.full((components, 1), deviation**2, dtype=F64)
    return MixtureOracle(torch.ones(components, dtype=F64), means, variances, SCHEDULE)


def scattered(components: int = 5, dimension: int = 8, seed: int = 0) -> MixtureOracle:
    """Components of random weights, means and widths, standardised to mean 0 and variance 1."""
    rng = torch.Generator().manual_seed(seed)
    means = 0.8 * torch.randn(components, dimension, dtype=F64, generator=rng)
    variances = 0.05 + 0.45 * torch.rand(components, dimension, dtype=F64, generator=rng)
    weights = 0.5 + torch.rand(components, dtype=F64, generator=rng)
    share = (weights / weights.sum())[:, None]
    means = means - (share * means).sum(0)
    variance = (share * (variances + means**2)).sum(0)
    return MixtureOracle(weights, means / variance.sqrt(), variances / variance, SCHEDULE)

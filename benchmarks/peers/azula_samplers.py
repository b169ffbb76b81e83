"""azula's deterministic samplers on an exact denoiser, along jensen's time grids.

azula samples along equal steps of its schedule's time. Jensen's grids are set by the property `timesteps`; nothing else
of a sampler is changed. Its multistep samplers run with orders up to 5, without order 1 where that is Euler's method.
Stochastic samplers have no path to compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from azula.denoise import Denoiser as AzulaDenoiser
from azula.denoise import DiracPosterior
from azula.sample import (
    DDIMSampler,
    EulerSampler,
    HeunSampler,
    REABSampler,
    Sampler,
    vABSampler,
    xEABSampler,
    zABSampler,
    zEABSampler,
)
from torch import Tensor

from exact import GRIDS, Run, times
from jensen.diffusion import Denoiser

SINGLE = {DDIMSampler: 1, EulerSampler: 1, HeunSampler: 2}  # evaluations per step
MULTISTEP = {
    zABSampler: range(2, 6),
    vABSampler: range(2, 6),
    zEABSampler: range(2, 6),
    xEABSampler: range(2, 6),
    REABSampler: range(1, 6),
}


class Exact(AzulaDenoiser):
    """A jensen denoiser as an azula denoiser."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule.alpha_sigma

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        return DiracPosterior(self.denoiser(x_t, t.expand(len(x_t))).x)


def _run(kind: type[Sampler], grid: Tensor, options: dict[str, int], denoiser: Denoiser, z: Tensor) -> Tensor:
    along = type(kind.__name__, (kind,), {"timesteps": property(lambda _: grid)})
    return along(Exact(denoiser), silent=True, **options)(z)


def runs(evaluations: int) -> Iterator[tuple[str, str, Run]]:
    """Yields (method, grid, run) with at most this number of evaluations."""
    for grid in GRIDS:
        for kind, each in SINGLE.items():
            name = kind.__name__.removesuffix("Sampler")
            yield name, grid, partial(_run, kind, times(grid, evaluations // each), {})
        for kind, orders in MULTISTEP.items():
            for order in orders:
                name = f"{kind.__name__.removesuffix('Sampler')} {order}"
                yield name, grid, partial(_run, kind, times(grid, evaluations), {"order": order})

"""azula's samplers and schedules, adapted to `jensen check`.

azula draws from torch's global generator, which `drawing` replaces by that of the check. The check's time grid is set
by the property `timesteps`, as in `azula_samplers`; nothing else of a sampler is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from azula import noise
from azula.sample import (
    DDIMSampler,
    DDPMSampler,
    EulerSampler,
    HeunSampler,
    ItoSampler,
    PCSampler,
    REABSampler,
    Sampler,
    vABSampler,
    xEABSampler,
    zABSampler,
    zEABSampler,
)
from torch import Tensor

from jensen import check
from jensen.core.seeding import drawing
from jensen.diffusion import Denoiser
from peers.azula_samplers import Exact


@dataclass(frozen=True)
class Path:
    """A sampler of this kind along the check's times."""

    kind: type[Sampler]
    options: dict[str, Any]

    def __call__(self, denoiser: Denoiser, z: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        along = type(self.kind.__name__, (self.kind,), {"timesteps": property(lambda _: times)})
        with drawing(generator):
            return along(Exact(denoiser), silent=True, **self.options)(z)


SAMPLERS: tuple[tuple[type[Sampler], dict[str, Any], dict[str, Any]], ...] = (
    (DDPMSampler, {}, {"deterministic": False}),
    (DDIMSampler, {}, {"deterministic": True}),
    (DDIMSampler, {"eta": 1.0}, {"deterministic": False}),
    (EulerSampler, {}, {"deterministic": True}),
    (HeunSampler, {}, {"deterministic": True, "order": 2}),
    (ItoSampler, {}, {"deterministic": False}),
    (PCSampler, {"delta": 0.05}, {"deterministic": False}),
    *((kind, {"order": 2}, {"deterministic": True, "order": 2}) for kind in (zABSampler, vABSampler)),
    *((kind, {"order": 2}, {"deterministic": True, "order": 2}) for kind in (zEABSampler, xEABSampler)),
    *((REABSampler, {"order": n}, {"deterministic": True, "order": n}) for n in (1, 2)),
)


def _levels(schedule: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule(t)
    return alpha.expand_as(t), sigma.expand_as(t)


def reports() -> Iterator[tuple[str, check.Report]]:
    """Yields (what was checked, its evidence)."""
    for kind, options, claims in SAMPLERS:
        name = ", ".join([kind.__name__, *(f"{key} = {value}" for key, value in options.items())])
        yield name, check.sampler(Path(kind, options), **claims)
    for name in noise.__all__:
        kind = getattr(noise, name)
        if kind is not noise.Schedule:
            preserving = name in ("VPSchedule", "CosineSchedule")  # up to sigma_min^2 = 1e-6, as documented
            levels = partial(_levels, kind())
            yield name, check.schedule(levels, variance_preserving=preserving, tolerance=1e-5)

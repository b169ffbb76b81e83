"""diffusers' schedulers, adapted to `jensen check`: their noise levels, and their steps along their own times.

A path starts at the last of the betas and ends at the first (t = 1/1000). With spacing "linspace" the times are
integers from 999 down to 0, and the last step, to data, is not made; the multistep schedulers have no time 0 and end at
the noise level of the first beta (`final_sigmas_type`). In between, a scheduler uses its own times, in the number that
the check requests. Its levels are in float32, which moves an end by about 1e-6. `DDIMScheduler` is also run with
spacing "trailing": its step goes to t - 1000 // N for every spacing, which is the next "trailing" time if N divides
1000, but not the next "linspace" time.

Schedulers that keep x / alpha (`EulerDiscreteScheduler` and its like) get z / alpha and use their own
`scale_model_input`. The denoiser is evaluated at the scheduler's noise level, taken from its `sigmas` if it has them,
since some round their times but not their levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from exact import BETAS, SCHEDULE
from jensen import check
from jensen.diffusion import Denoiser, MixtureOracle

FIRST = 1 / len(BETAS)
TO_SIGMA_MIN = (DEISMultistepScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)
SCALED = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, LMSDiscreteScheduler)


def levels(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at t = (step + 1) / T."""
    alpha_square = scheduler.alphas_cumprod.double()[(t * len(scheduler.alphas_cumprod) - 1).round().long()]
    return alpha_square.sqrt(), (1 - alpha_square).sqrt()


@dataclass(frozen=True)
class Path:
    """A scheduler of this kind, from the last of the betas to the first, along its times of this spacing."""

    kind: type
    options: dict[str, Any] = field(default_factory=dict)
    stepping: dict[str, Any] = field(default_factory=dict)
    spacing: str = "linspace"

    def __call__(self, denoiser: Denoiser, z: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        scheduler = self.kind(trained_betas=BETAS.numpy(), timestep_spacing=self.spacing, **self.options)
        steps = len(times) - 1
        whole = self.spacing == "trailing" or isinstance(scheduler, TO_SIGMA_MIN)
        scheduler.set_timesteps(steps if whole else steps + 1)
        scaled = isinstance(scheduler, SCALED)
        noisy = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        alpha = denoiser.schedule.alpha_sigma(times[[0, -1]])[0]
        z = z / alpha[0] if scaled else z
        for k, t in enumerate(scheduler.timesteps[:steps]):
            place = self._place(scheduler, denoiser, k, t)
            seen = scheduler.scale_model_input(z, t)
            eps = denoiser(seen.to(z), place.to(z).expand(len(z))).eps
            z = scheduler.step(eps, t, z, **self.stepping, **noisy).prev_sample
        return z * alpha[1] if scaled else z

    def _place(self, scheduler: Any, denoiser: Denoiser, k: int, t: Tensor) -> Tensor:
        if not hasattr(scheduler, "sigmas"):
            return (t + 1) / len(BETAS)
        return denoiser.schedule.time(-2 * scheduler.sigmas[k].double().log())


PLAIN = {"clip_sample": False}
TO_FIRST = {**PLAIN, "set_alpha_to_one": False}
LAST = {"final_sigmas_type": "sigma_min"}
DRAWS: dict[str, Any] = {"deterministic": False}
SOLVES: dict[str, Any] = {"deterministic": True}
SAMPLERS: tuple[tuple[str, Path, dict[str, Any]], ...] = (
    ("DDPMScheduler, fixed_small", Path(DDPMScheduler, {**PLAIN, "variance_type": "fixed_small"}), DRAWS),
    ("DDPMScheduler, fixed_large", Path(DDPMScheduler, {**PLAIN, "variance_type": "fixed_large"}), DRAWS),
    ("DDIMScheduler, linspace", Path(DDIMScheduler, TO_FIRST), SOLVES),
    ("DDIMScheduler, trailing", Path(DDIMScheduler, TO_FIRST, {}, "trailing"), {**SOLVES, "counts": (50, 100, 200)}),
    ("DDIMScheduler, trailing, eta = 1", Path(DDIMScheduler, TO_FIRST, {"eta": 1.0}, "trailing"), DRAWS),
    ("EulerDiscreteScheduler", Path(EulerDiscreteScheduler), SOLVES),
    ("EulerAncestralDiscreteScheduler", Path(EulerAncestralDiscreteScheduler), DRAWS),
    ("LMSDiscreteScheduler", Path(LMSDiscreteScheduler), SOLVES),
    (
        "DEISMultistepScheduler, order 2",
        Path(DEISMultistepScheduler, {"solver_order": 2, "lower_order_final": False}),
        {**SOLVES, "order": 2},
    ),
    *(
        (f"DPMSolverMultistepScheduler, {kind}, order {n}", Path(DPMSolverMultistepScheduler, options), claims)
        for kind, n, claims in (
            ("dpmsolver++", 1, SOLVES),
            ("dpmsolver++", 2, {**SOLVES, "order": 2}),
            ("sde-dpmsolver++", 2, DRAWS),
        )
        for options in [{"algorithm_type": kind, "solver_order": n, "lower_order_final": False, **LAST}]
    ),
    (
        "UniPCMultistepScheduler, order 2",
        Path(UniPCMultistepScheduler, {"solver_order": 2, "lower_order_final": False, **LAST}),
        {**SOLVES, "order": 2},
    ),
)


def reports() -> Iterator[tuple[str, check.Report]]:
    """Yields (what was checked, its evidence)."""
    oracle = MixtureOracle([0.3, 0.7], [[-1.2], [0.8]], [[0.3], [0.2]], SCHEDULE)
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    for betas in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
        made = DDPMScheduler(beta_schedule=betas)
        yield f"DDPMScheduler, betas {betas}", check.schedule(partial(levels, made), times=times)
    for rescaled in (False, True):
        made = DDIMScheduler(rescale_betas_zero_snr=rescaled)
        yield f"DDIMScheduler, zero SNR {rescaled}", check.schedule(partial(levels, made), times=times)
    for name, path, claims in SAMPLERS:
        yield (
            name,
            check.sampler(path, oracle, start=1.0, end=FIRST, encodes=False, **{"counts": (50, 125, 250), **claims}),
        )

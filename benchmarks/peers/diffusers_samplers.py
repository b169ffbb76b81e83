"""diffusers' DDIM, DPMSolverMultistep and UniPC on an exact denoiser, each with its own spacings.

Betas, start and end are those of `exact`: `final_sigmas_type="sigma_min"` and, for DDIM, `set_alpha_to_one=False` let
a path end at the first of the betas, not at sigma = 0. `timestep_spacing="leading"` starts below the noise level of
the given noise, which is a different problem, and is left out. Other choices were made in the peer's favour:

- The denoiser is evaluated at the scheduler's exact noise level, which it rounds to an integer step for a network.
- The Karras, exponential and Lu spacings reach the end one step early and then make a step of size 0: that evaluation
  is neither made nor counted.
- jensen's quadratic grid is tried too: as `timesteps` for DPMSolverMultistep; as `sigmas` for UniPC, which takes only
  levels of the rectified schedule, whose path is the same up to a scale.
- Every order (1 to 5 for UniPC), solver type and way to lower the order at the end is tried, without duplicates: the
  Lu and exponential spacings are equal; so are bh1 and bh2 from order 3 on, where B(h) cancels; `lower_order_final` of
  order 2 is `euler_at_final` below 15 steps and has no effect above. The beta spacing has errors above 0.29 here.

diffusers keeps its levels in float32, which moves an end by 1e-6 and does not matter here: on the same grid, in
float64, jensen's DDIM, DPM-Solver++ 2 and UniPC 3 end within 1e-6 of diffusers' ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from exact import BETAS, SCHEDULE, Run, times
from jensen.diffusion import Denoiser

Options = Mapping[str, Any]

SPACINGS: dict[str, Options] = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
EARLY = ("karras", "exponential", "lu")  # these reach the end one step early
ENDINGS: dict[str, Options] = {
    "": {"lower_order_final": False},
    "lower order last": {"lower_order_final": True},
    "Euler last": {"lower_order_final": False, "euler_at_final": True},
}
DPM_SOLVERS = (  # order, solver type, endings that differ
    (1, "midpoint", ("",)),
    (2, "midpoint", ("", "Euler last")),
    (2, "heun", ("", "Euler last")),
    (3, "midpoint", ("", "lower order last", "Euler last")),
)
UNIPC_SOLVERS = (
    (1, "bh1", ("",)),
    (1, "bh2", ("",)),
    (2, "bh1", ("", "lower order last")),
    (2, "bh2", ("", "lower order last")),
    *((order, "bh2", ("", "lower order last")) for order in (3, 4, 5)),
)


@dataclass(frozen=True)
class DDIM:
    """`DDIMScheduler`, eta = 0; its last step has a time below 0 and goes to the first of the betas."""

    spacing: str
    evaluations: int

    def __call__(self, denoiser: Denoiser, z: Tensor) -> Tensor:
        scheduler = DDIMScheduler(
            trained_betas=BETAS.numpy(), clip_sample=False, set_alpha_to_one=False, timestep_spacing=self.spacing
        )
        scheduler.set_timesteps(self.evaluations)
        for t in scheduler.timesteps:
            eps = denoiser(z, ((t + 1) / len(BETAS)).to(z).expand(len(z))).eps
            z = scheduler.step(eps, int(t), z).prev_sample
        return z


@dataclass(frozen=True)
class Multistep:
    """A scheduler that keeps its levels in `sigmas`.

    Attributes:
        kind: `DPMSolverMultistepScheduler` or `UniPCMultistepScheduler`.
        options: options of the scheduler.
        spacing: spacing for `set_timesteps`.
        evaluations: number of evaluations of the denoiser.
    """

    kind: type
    options: Options
    spacing: Options
    evaluations: int

    def __call__(self, denoiser: Denoiser, z: Tensor) -> Tensor:
        scheduler = self.kind(trained_betas=BETAS.numpy(), final_sigmas_type="sigma_min", **self.options)
        scheduler.set_timesteps(**self.spacing)
        scheduler.set_begin_index(0)
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas.to(z))
        scale = torch.sqrt(alpha**2 + sigma**2)  # 1, except for levels of the rectified schedule
        places = denoiser.schedule.time(2 * torch.log(alpha / sigma))
        z = scale[0] * z
        for k in range(self.evaluations):
            eps = denoiser(z / scale[k], places[k].expand(len(z))).eps
            z = scheduler.step(eps, scheduler.timesteps[k], z).prev_sample
        return z / scale[self.evaluations]


def runs(evaluations: int) -> Iterator[tuple[str, str, Run]]:
    """Yields (method, grid, run) with exactly this number of evaluations."""
    for spacing in ("linspace", "trailing"):
        yield "DDIM", spacing, DDIM(spacing, evaluations)
    for order, solver, ending in _each(DPM_SOLVERS):
        name = _name(f"DPM-Solver++ {order}", solver if order == 2 else "", ending)
        options = {"solver_order": order, "solver_type": solver, **ENDINGS[ending]}
        spaced = partial(_spaced, name, DPMSolverMultistepScheduler, options, evaluations)
        yield from spaced(("linspace", "trailing", "karras", "lu"))
        whole = (times("quadratic", evaluations)[:-1] * len(BETAS) - 1).round().int().tolist()
        yield name, "quadratic", Multistep(DPMSolverMultistepScheduler, options, {"timesteps": whole}, evaluations)
    for order, solver, ending in _each(UNIPC_SOLVERS):
        name = _name(f"UniPC {order}", solver if order < 3 else "", ending)
        options = {"solver_order": order, "solver_type": solver, **ENDINGS[ending]}
        spaced = partial(_spaced, name, UniPCMultistepScheduler, options, evaluations)
        yield from spaced(("linspace", "trailing", "karras", "exponential"))
        straight = {**options, "use_flow_sigmas": True, "prediction_type": "epsilon"}
        sigmas = {"sigmas": _rectified(times("quadratic", evaluations))}
        yield name, "quadratic", Multistep(UniPCMultistepScheduler, straight, sigmas, evaluations)


def _each(solvers: Iterable[tuple[int, str, tuple[str, ...]]]) -> Iterator[tuple[int, str, str]]:
    return ((order, solver, ending) for order, solver, endings in solvers for ending in endings)


def _name(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _spaced(
    name: str, kind: type, options: Options, evaluations: int, spacings: Iterable[str]
) -> Iterator[tuple[str, str, Run]]:
    for spacing in spacings:
        steps = {"num_inference_steps": evaluations + (spacing in EARLY)}
        yield name, spacing, Multistep(kind, {**options, **SPACINGS[spacing]}, steps, evaluations)


def _rectified(grid: Tensor) -> Any:
    """Levels sigma / (alpha + sigma) at jensen's times."""
    alpha, sigma = SCHEDULE.alpha_sigma(grid)
    return (sigma / (alpha + sigma)).numpy()

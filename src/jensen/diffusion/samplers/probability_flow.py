"""Euler's and Heun's methods on the probability-flow ODE in t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng
from jensen.diffusion.denoiser import Denoiser, Prediction
from jensen.diffusion.samplers.base import Memory, levels, rows_at


def velocity(denoiser: Denoiser, z: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
    r"""$dz/dt = \dot\alpha_t \hat x + \dot\sigma_t \hat\epsilon$, whose flow has the marginals of the process.

    Args:
        denoiser: the denoiser that predicts x and eps.
        z: (B, ...) at time t.
        t: (), at which the schedule's slope is finite: not 0 if sigma starts like the square root of t.
        cond: (B, ...) or None.

    Raises:
        ValueError: if the slope is not finite.

    Source: Song et al. (2021), equation 13, in terms of a prediction.
    """
    p: Prediction = denoiser(z, rows_at(t, z), cond)
    alpha_slope, sigma_slope = denoiser.schedule.slopes(t.to(z.device, torch.float64))
    if not bool(torch.isfinite(alpha_slope) & torch.isfinite(sigma_slope)):
        raise ValueError(f"the velocity must be finite, and this schedule's slope is infinite at t = {float(t):g}")
    return alpha_slope * p.x + sigma_slope * p.eps


@dataclass(frozen=True)
class Euler:
    r"""$z_s = z_t + (s - t)\, \dot z(z_t, t)$: first order in the step size.

    Source: Song et al. (2021), section 4.3.
    """

    deterministic = True

    def step(
        self,
        denoiser: Denoiser,
        z: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Memory,
        *,
        cond: Tensor | None = None,
        generator: Rng = None,
    ) -> tuple[Tensor, Memory]:
        return z + (s.double() - t.double()) * velocity(denoiser, z, t, cond), None


@dataclass(frozen=True)
class Heun:
    r"""Euler's step, then the mean of the velocities at both its ends: second order, two evaluations.

    A step to sigma_s = 0 is Euler's, since a prediction of x has no finite eps there.

    Source: Karras et al. (2022), algorithm 1.
    """

    deterministic = True

    def step(
        self,
        denoiser: Denoiser,
        z: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Memory,
        *,
        cond: Tensor | None = None,
        generator: Rng = None,
    ) -> tuple[Tensor, Memory]:
        h = s.double() - t.double()
        first = velocity(denoiser, z, t, cond)
        ahead = z + h * first
        if bool(levels(denoiser, s, z)[1] == 0):
            return ahead, None
        return z + h / 2 * (first + velocity(denoiser, ahead, s, cond)), None

"""Adams' multistep methods in coordinates that straighten the path, with a corrector that needs no extra evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.samplers.base import Memory, levels, rows_at

Velocity = tuple[Tensor, Tensor]
"""A pair (u, dy/du): a velocity and its position."""

HIGHEST = 5  # above it, extrapolation amplifies the errors of the last velocities


def integral(history: Sequence[Velocity], start: Tensor, end: Tensor) -> Tensor:
    r"""$\int P(u)\, du$ from start to end for the polynomial P through all of `history`.

    The weights solve $\sum_j w_j v_j^k = h / (k + 1)$ with $v_j = (u_j - start) / h$ and h = end - start.

    Args:
        history: (u, velocity) pairs, all u different.
        start, end: values of u.

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I (1993), section III.5.
    """
    h = (end - start).double()
    places = torch.stack([(u - start).double() / h for u, _ in history])
    powers = torch.arange(len(history), device=h.device)
    weights = torch.linalg.solve(places[None] ** powers[:, None], h / (powers + 1))
    return sum((w * v for w, (_, v) in zip(weights, history, strict=True)), start=torch.zeros(()).to(history[0][1]))


@dataclass(frozen=True)
class _Past:
    """The end and the start of the last step, and the velocities it used, newest first."""

    made: Tensor
    y: Tensor
    history: list[Velocity]


@dataclass(frozen=True)
class Adams:
    r"""Adams-Bashforth of order p, corrected by Adams-Moulton of order p + 1; one evaluation per step.

    $y = z / (\alpha + \sigma)$ and $u = \sigma / (\alpha + \sigma)$ make every schedule the straight one,
    $dy/du = \hat\epsilon - \hat x$, and $y_s = y_t + \int_{u_t}^{u_s} P(u)\, du$ for the polynomial P through the last
    p velocities. u is finite at both ends, so no step loses order there. Before it continues from $y_t$, the corrector
    repeats the last step with the velocity at $y_t$ as an additional node; the velocity itself is not evaluated again.
    Order 1 without correction is DDIM. If z is not the result of the last step, the method restarts from it.

    Args:
        order: p, 1 to 5.
        corrected: whether the next evaluation corrects each step.

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I (1993), section III.5; Zhao et al.,
    UniPC (2023), algorithm 1, for the correction without extra cost; Zhang & Chen (2023), section 3, for the methods
    without it.
    """

    order: int = 4
    corrected: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.order <= HIGHEST:
            raise ValueError(f"order must be from 1 to {HIGHEST}, got {self.order}")

    @property
    def deterministic(self) -> bool:
        return True

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
        p = denoiser(z, rows_at(t, z), cond)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(denoiser, t, z), levels(denoiser, s, z)
        here, ahead = sigma_t / (alpha_t + sigma_t), sigma_s / (alpha_s + sigma_s)
        y, history = z / (alpha_t + sigma_t), [(here, p.flow)]
        if memory is not None and torch.equal(memory.made, z):
            history += memory.history[: self.order]
            if self.corrected:
                y = memory.y + integral(history, memory.history[0][0], here)
        made = (alpha_s + sigma_s) * (y + integral(history[: self.order], here, ahead))
        return made, _Past(made, y, history[: self.order])

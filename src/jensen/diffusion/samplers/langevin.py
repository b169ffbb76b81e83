"""Langevin moves at a fixed time: a sampler (annealed Langevin), or correctors after another sampler's steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count
from jensen.diffusion.denoiser import Denoiser, Prediction
from jensen.diffusion.samplers.base import Memory, Sampler, levels, rows_at


def langevin_move(
    denoiser: Denoiser, z: Tensor, t: Tensor, *, step_size: float, cond: Tensor | None, generator: Rng
) -> Tensor:
    r"""$z + \delta\, \nabla \log p_t(z) + \sqrt{2 \delta}\, n$ with $\delta = \mathrm{step\_size} \cdot \sigma_t^2$.

    p_t is invariant up to order delta; at sigma_t = 0 z is unchanged.

    Source: Song & Ermon (2019), algorithm 1.
    """
    _, sigma = levels(denoiser, t, z)
    if bool(sigma == 0):
        return z
    p: Prediction = denoiser(z, rows_at(t, z), cond)
    delta = step_size * sigma**2
    return z - delta / sigma * p.eps + torch.sqrt(2 * delta) * normal(z.shape, generator, like=z)


def _check(moves: int, step_size: float) -> None:
    check_count(moves=moves)
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")


@dataclass(frozen=True)
class PredictorCorrector:
    r"""A step of any sampler, then Langevin moves at the new time.

    The moves leave the path that a multistep predictor remembers, so each of its steps starts without history and has
    order 1; Heun's method keeps order 2.

    Args:
        predictor: any sampler; its memory is kept only at sigma_s = 0, where there are no moves.
        moves: corrections per step, at least 1; each costs one evaluation.
        step_size: step size of a move, in units of sigma_s^2.

    Source: Song et al. (2021), algorithm 1.
    """

    predictor: Sampler
    moves: int = 1
    step_size: float = 0.1

    def __post_init__(self) -> None:
        _check(self.moves, self.step_size)

    @property
    def deterministic(self) -> bool:
        return False

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
        z, memory = self.predictor.step(denoiser, z, t, s, memory, cond=cond, generator=generator)
        made = z
        for _ in range(self.moves):
            z = langevin_move(denoiser, z, s, step_size=self.step_size, cond=cond, generator=generator)
        return z, memory if z is made else None


@dataclass(frozen=True)
class AnnealedLangevin:
    r"""Rescale z to $z_t \alpha_s/\alpha_t$, then make Langevin moves at the noise level of time s.

    The sampler of noise-conditional score networks, for variance-exploding schedules with many levels.

    Args:
        moves: number of moves at each level, at least 1.
        step_size: step size of a move, in units of sigma_s^2.

    Source: Song & Ermon (2019), algorithm 1.
    """

    moves: int = 10
    step_size: float = 0.1

    def __post_init__(self) -> None:
        _check(self.moves, self.step_size)

    @property
    def deterministic(self) -> bool:
        return False

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
        alpha_t, alpha_s = levels(denoiser, t, z)[0], levels(denoiser, s, z)[0]
        if bool(alpha_t == 0):
            raise ValueError("annealed Langevin cannot start where alpha is 0: choose times below 1")
        z = z * (alpha_s / alpha_t)
        for _ in range(self.moves):
            z = langevin_move(denoiser, z, s, step_size=self.step_size, cond=cond, generator=generator)
        return z, None

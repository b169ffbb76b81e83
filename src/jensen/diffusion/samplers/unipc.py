"""UniPC: a multistep predictor with a corrector that needs no extra evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.samplers.base import Memory, levels, rows_at
from jensen.diffusion.samplers.exponential import Prediction, integral


@dataclass(frozen=True)
class _Past:
    """The end and the start of the last step: z, its levels, and the predictions it used, newest first."""

    made: Tensor
    z: Tensor
    alpha: Tensor
    sigma: Tensor
    history: list[Prediction]


@dataclass(frozen=True)
class UniPC:
    r"""UniPC-p: predict with the last p predictions, correct with these and the new one; one evaluation per step.

    Before it continues from z_t, it repeats the last step with the prediction at z_t as an additional node, which
    raises the order by one; the prediction itself is not evaluated again. The weights are the exact integrals of the
    interpolating polynomial: the paper's B(h) cancels from its equation 12 wherever that is solved in full. If z is not
    the result of the last step, the method restarts from it.

    Args:
        order: p, 1 to 3.

    Source: Zhao et al., UniPC (2023), algorithms 5 to 7, data prediction.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 3:
            raise ValueError(f"order must be from 1 to 3, got {self.order}")

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
        alpha_t, sigma_t = levels(denoiser, t, z)
        alpha_s, sigma_s = levels(denoiser, s, z)
        if bool(sigma_t == 0) or bool(alpha_t == 0):  # lambda is infinite: nothing to extrapolate from
            return alpha_s * p.x + sigma_s * p.eps, None
        here, ahead = torch.log(alpha_t / sigma_t), torch.log(alpha_s / sigma_s)
        history = [(here, p.x)]
        if memory is not None and torch.equal(memory.made, z):
            history += memory.history[: self.order]
            start = memory.history[0][0]
            z = sigma_t / memory.sigma * memory.z + alpha_t * integral(history[: self.order + 1], start, here)
        ratio = sigma_s / sigma_t
        if bool(sigma_s == 0) or bool(alpha_s == 0):  # nothing to integrate the polynomial over: first order
            return ratio * z + (alpha_s - alpha_t * ratio) * p.x, None
        made = ratio * z + alpha_s * integral(history[: self.order], here, ahead)
        return made, _Past(made, z, alpha_t, sigma_t, history[: self.order])

"""Train a diffusion model to denoise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss
from jensen.diffusion import Prediction, simple, uniform_times
from jensen.diffusion.times import Times
from jensen.models.diffusion import Diffusion

DenoisingLoss = Callable[[Prediction, Tensor, Tensor], Tensor]


class Denoising(Objective):
    r"""$E_{t,\epsilon}\, \ell(\mathrm{prediction}(\alpha_t x + \sigma_t\epsilon, t, c), x, \epsilon)$.

    Args:
        model: what is trained.
        loss: (prediction, x, eps) -> (B,); the mean squared error of eps by default.
        times: n -> (n,) training times.
        drop: probability with which a row's condition is replaced by the null condition.

    Raises:
        ValueError: if `drop` is outside [0, 1], or positive for a denoiser without a null condition.

    Source: Ho et al. (2020), algorithm 1; Ho & Salimans (2022), algorithm 1 for `drop`.
    """

    model: Diffusion

    def __init__(
        self,
        model: Diffusion,
        *,
        loss: DenoisingLoss = partial(simple, view="eps"),
        times: Times = uniform_times,
        drop: float = 0.0,
    ):
        super().__init__()
        if not 0 <= drop <= 1:
            raise ValueError(f"drop must be in [0, 1], got {drop}")
        if drop > 0 and model.denoiser.null is None:
            raise ValueError("drop needs a denoiser with a null condition, and this one has none")
        self.model, self.loss, self.times, self.drop = model, loss, times, drop

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        denoiser = self.model.denoiser
        x = self.model.standardize(batch["x"])
        t = self.times(len(x)).to(x)
        eps = torch.randn_like(x)
        alpha, sigma = denoiser.levels(t, x)
        prediction = denoiser(alpha * x + sigma * eps, t, self._condition(batch.get("cond")))
        return {"model": Loss.of(self.loss(prediction, x, eps).mean())}

    def _condition(self, cond: Tensor | None) -> Tensor | None:
        null = self.model.denoiser.null
        if cond is None or null is None or self.drop == 0:
            return cond
        dropped = torch.rand(len(cond), device=cond.device) < self.drop
        return torch.where(dropped.reshape(-1, *(1,) * (cond.ndim - 1)), null.to(cond), cond)

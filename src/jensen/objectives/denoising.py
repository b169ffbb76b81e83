"""Train a diffusion model to denoise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from jensen.core.objective import Objective
from jensen.core.shapes import single
from jensen.core.types import Batch, Loss, entry
from jensen.diffusion import Denoiser, Prediction, discrete_times, simple, step_kl, uniform_times
from jensen.diffusion.times import Times
from jensen.models.diffusion import Diffusion

LOOKED_AT = 2**14  # number of random times to check: enough to hit each of a few thousand levels

DenoisingLoss = Callable[[Prediction, Tensor, Tensor], Tensor]


class Denoising(Objective):
    r"""$E_{t,\epsilon}\, \ell(\mathrm{prediction}(\alpha_t x + \sigma_t\epsilon, t, c), x, \epsilon)$.

    Args:
        model: the model to train.
        loss: (prediction, x, eps) -> (B,); the mean squared error of eps by default.
        times: maps n to (n,) training times. `uniform_times` and `logit_normal_times` never draw 0 or 1, where some
            parametrisations are singular; `discrete_times` draws 1.
        drop: probability with which a row's condition is replaced by the null condition; 1 trains without conditions.

    Raises:
        ValueError: if `drop` is outside [0, 1], or neither 0 nor 1 for a denoiser without a null condition; if the
            schedule has parameters to train, since a weighted loss is minimised by favouring some noise level, not by
            the best schedule; if the network's output is singular at one of the times, as eps is at alpha = 0 and x at
            sigma = 0.

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
        check_drop(model, drop)
        if not callable(loss):
            raise ValueError(f"loss must be a function of (prediction, x, eps), got {loss!r}")
        if any(p.requires_grad for p in model.denoiser.schedule.parameters()):
            raise ValueError("a weighted loss cannot train the schedule: freeze it, or use VariationalDiffusion")
        with torch.random.fork_rng(devices=[]):
            model.denoiser.check_times(times(LOOKED_AT))
        self.model, self.loss, self.times, self.drop = model, loss, times, drop

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        denoiser = self.model.denoiser
        x = self.model.standardize(training_rows(self.model, batch))
        t = self.times(len(x)).to(single(x))
        eps = torch.randn_like(x)
        alpha, sigma = denoiser.levels(t, x)
        prediction = denoiser(
            (alpha * x + sigma * eps).to(x), t, drop_conditions(denoiser, batch.get("cond"), self.drop)
        )
        return {"model": self._loss(prediction, x, eps, t)}

    def _loss(self, prediction: Prediction, x: Tensor, eps: Tensor, t: Tensor) -> Loss:
        return Loss.of(self.loss(prediction, x, eps).mean())


class Hybrid(Denoising):
    r"""$L_{simple} + w L_{vlb}$: the variances learn from the bound, the mean only from the simple loss.

    $L_{vlb} = T\, E_i\, KL(q(z_{i-1} | z_i, x) \| p(z_{i-1} | z_i))$ over the T levels i / T, in nats per dimension,
    with no gradient through the mean. The term of the first level has no learned variance and is left out.

    Args:
        model: model with a denoiser that learns variances.
        steps: number of steps T, at least 2; sample on the same grid or a subset of it.
        weight: w.
        loss: (prediction, x, eps) -> (B,).
        drop: as in `Denoising`.

    Raises:
        ValueError: for steps < 2, a weight that is not positive, and as in `Denoising`; when called, if the denoiser
            learns no variances.

    Source: Nichol & Dhariwal (2021), equation 16 and section 3.1.
    """

    def __init__(
        self,
        model: Diffusion,
        *,
        steps: int,
        weight: float = 1e-3,
        loss: DenoisingLoss = partial(simple, view="eps"),
        drop: float = 0.0,
    ):
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight}")
        super().__init__(model, loss=loss, times=discrete_times(steps), drop=drop)
        self.steps, self.weight = steps, weight

    def _loss(self, prediction: Prediction, x: Tensor, eps: Tensor, t: Tensor) -> Loss:
        if prediction.fraction is None:
            raise ValueError("the hybrid loss needs a denoiser that learns variances (learned_variance=True)")
        error = self.loss(prediction, x, eps)
        fixed = replace(prediction, x=prediction.x.detach(), eps=prediction.eps.detach())
        before = (t - 1 / self.steps).clamp_min(1 / self.steps)
        kl = step_kl(fixed, x, eps, self.model.denoiser.schedule, torch.minimum(before, t), t)
        bound = self.steps * kl / x[0].numel()
        return Loss.of((error + self.weight * bound).mean(), error=error, bound=bound)


def training_rows(model: Diffusion, batch: Batch) -> Tensor:
    """The batch's x.

    Raises:
        ValueError: if its rows do not have the model's shape.
    """
    x = entry(batch, "x")
    if tuple(x.shape[1:]) != model.shape:
        raise ValueError(f"x must be rows of the model's shape, {model.shape}, got {tuple(x.shape[1:])}")
    return x


def check_drop(model: Diffusion, drop: float) -> None:
    """Raise without a denoiser, for a probability outside [0, 1], or one between 0 and 1 without a null condition."""
    if not isinstance(getattr(model, "denoiser", None), Denoiser):
        raise ValueError(f"model must be a Diffusion, got {type(model).__name__}")
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must be in [0, 1], got {drop}")
    if 0 < drop < 1 and model.denoiser.null is None:
        raise ValueError(f"drop must be 0 or 1 for a denoiser without a null condition, got {drop}")


def drop_conditions(denoiser: Denoiser, cond: Tensor | None, probability: float) -> Tensor | None:
    """Conditions, each replaced by the null condition with this probability; None (no condition) if it is 1."""
    if probability == 1:
        return None
    if cond is None or denoiser.null is None or probability == 0:
        return cond
    dropped = torch.rand(len(cond), device=cond.device) < probability
    return torch.where(dropped.reshape(-1, *(1,) * (cond.ndim - 1)), denoiser.null.to(cond), cond)

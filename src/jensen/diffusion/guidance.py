"""Guidance wraps a denoiser in another denoiser, so that samplers need not know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import checked
from jensen.diffusion.denoiser import Denoiser, Prediction


def interval_of(interval: Any, name: str = "interval") -> tuple[float, float]:
    """Two times, as floats, or ValueError unless 0 <= low <= high <= 1."""
    pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not pair or not all(isinstance(t, Real) for t in interval) or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"{name} must be two times, 0 <= low <= high <= 1, got {interval}")
    return float(interval[0]), float(interval[1])


class Guided(Denoiser):
    r"""Classifier-free guidance: $\epsilon_\emptyset + w (\epsilon_c - \epsilon_\emptyset)$, also for x.

    w = 1 is the conditional model, w = 0 the unconditional one. At times outside `interval` the conditional model is
    used unchanged, which also costs less. If c has two parts a and b, they can have different scales:

    $$\epsilon_\emptyset + w (\epsilon_a - \epsilon_\emptyset) + v (\epsilon_{a,b} - \epsilon_a)$$

    Args:
        denoiser: conditional, with a null condition.
        scale: guidance scale w, at least 0.
        interval: (low, high), the times between which guidance is active.
        rest: (v, function), the scale of the second part, at least 0, and a function from conditions (a, b), (B, ...),
            to conditions of the first part alone; the denoiser is then evaluated three times, unless the second parts
            are empty. None: c is one part.

    Raises:
        ValueError: if the denoiser has no null condition, a scale is negative, or the interval is invalid; when
            called, for conditions whose rows do not have the shape of the null condition.

    Source: Ho & Salimans (2022), equation 6, with w = 1 + their weight; Kynkaanniemi et al. (2024) for the interval;
    Brooks et al., InstructPix2Pix (2023), equation 3, for two parts.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        interval: tuple[float, float] = (0.0, 1.0),
        rest: tuple[float, Callable[[Tensor], Tensor]] | None = None,
    ):
        super().__init__()
        if denoiser.null is None:
            raise ValueError("guidance needs a denoiser with a null condition, got one whose null is None")
        if not scale >= 0:
            raise ValueError(f"guidance scale must be at least 0, got {scale}")
        if rest is not None and not rest[0] >= 0:
            raise ValueError(f"guidance scale of the second part must be at least 0, got {rest[0]}")
        self.denoiser, self.scale, self.interval, self.rest = denoiser, scale, interval_of(interval), rest
        self.schedule = denoiser.schedule
        self.null = denoiser.null

    def defined(self, t: Float[Tensor, "*b"]) -> bool:
        return self.denoiser.defined(t)

    @checked
    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        second, first_part = self.rest or (self.scale, None)
        if cond is None or (self.scale == second == 1) or not bool(inside.any()):
            plain: Prediction = self.denoiser(z_t, t, cond)
            return plain
        null = self.condition(None, len(z_t))
        assert null is not None
        if cond.numel() != null.numel():
            raise ValueError(f"conditions must have the shape {tuple(null.shape)}, got {tuple(cond.shape)}")
        given = [cond, null.to(cond).view_as(cond)]
        if first_part is not None and not torch.equal(part := first_part(cond), cond):
            given.append(part)
        n = len(given)
        p = self.denoiser(torch.cat([z_t] * n), torch.cat([t] * n), torch.cat(given))
        fraction = None if p.fraction is None else p.fraction.chunk(n)[0]  # variances are not guided
        w, v = (torch.where(inside, k, 1.0).to(z_t).reshape(-1, *(1,) * (z_t.ndim - 1)) for k in (self.scale, second))

        def guided(both: Tensor) -> Tensor:
            whole, free, *part = both.chunk(n)
            return free + w * (part[0] - free) + v * (whole - part[0]) if part else free + w * (whole - free)

        return Prediction(guided(p.x), guided(p.eps), *self.levels(t, z_t), fraction)


class ClassifierGuided(Denoiser):
    r"""Guidance by a classifier's gradient: $\hat\epsilon - w\, \sigma_t \nabla_{z_t} \log p(c | z_t)$, also for x.

    It is the denoiser of $p(z_t)\, p(c | z_t)^w$: for w = 1 and the true classifier, exactly that of x given c. The
    denoiser is called without a condition; without a condition there is no guidance.

    Args:
        denoiser: denoiser of p(x), unconditional or with a null condition.
        log_prob: (z_t, t, cond) -> (B,), $\log p(c | z_t)$ in nats, differentiable in z_t; a classifier of noisy data.
        scale: guidance scale w, at least 0.

    Raises:
        ValueError: if the scale is negative; when called, at alpha = 0, where the guided x is not finite.

    Source: Dhariwal & Nichol (2021), algorithm 2; Song et al. (2021), equation 14.

    >>> from jensen.diffusion import CosineSchedule, MixtureOracle
    >>> oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[0.1], [0.1]], CosineSchedule())
    >>> guided = ClassifierGuided(oracle, lambda z, t, c: oracle.log_share(z, t)[torch.arange(len(z)), c], scale=1.0)
    >>> z, half = torch.zeros(1, 1), torch.tensor([0.5])
    >>> bool(guided(z, half, torch.tensor([1])).x > oracle(z, half).x)
    True
    """

    def __init__(self, denoiser: Denoiser, log_prob: Callable[[Tensor, Tensor, Tensor], Tensor], scale: float = 1.0):
        super().__init__()
        if not scale >= 0:
            raise ValueError(f"guidance scale must be at least 0, got {scale}")
        self.denoiser, self.log_prob, self.scale = denoiser, log_prob, scale
        self.schedule = denoiser.schedule
        self.null = denoiser.null

    def defined(self, t: Float[Tensor, "*b"]) -> bool:
        return self.denoiser.defined(t) and bool((self.schedule.alpha_sigma(t)[0] != 0).all())

    @checked
    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        p: Prediction = self.denoiser(z_t, t)
        if cond is None or self.scale == 0:
            return p
        if bool((p.alpha == 0).any()):
            raise ValueError("guidance by a classifier has no finite x at alpha = 0: choose times below 1")
        with torch.enable_grad():
            z = z_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(z, t, cond).sum(), z)
        push = self.scale * p.sigma * gradient
        return replace(p, x=p.x + p.sigma / p.alpha * push, eps=p.eps - push)


class Clipped(Denoiser):
    """Clamps the predicted x to the range of the data and adjusts eps accordingly.

    Guidance drives x out of the range; clipping it ("static thresholding") prevents that.

    Args:
        denoiser: any denoiser.
        low, high: range of the data.

    Source: Saharia et al., Imagen (2022), section 2.3.
    """

    def __init__(self, denoiser: Denoiser, low: float, high: float):
        super().__init__()
        if not low < high:
            raise ValueError(f"low must be below high, got {low} and {high}")
        self.denoiser, self.low, self.high = denoiser, low, high
        self.schedule = denoiser.schedule
        self.null = denoiser.null

    def defined(self, t: Float[Tensor, "*b"]) -> bool:
        return self.denoiser.defined(t)

    @checked
    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        p = self.denoiser(z_t, t, cond)
        x = p.x.clamp(self.low, self.high)
        # z_t = alpha x + sigma eps, so a change of x by d changes eps by -(alpha / sigma) d
        change = torch.where(p.sigma > 0, p.alpha / p.sigma.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
        kept: Prediction = replace(p, x=x, eps=p.eps - change * (x - p.x))
        return kept

"""Guidance wraps a denoiser in a denoiser; a sampler never learns of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.diffusion.denoiser import Denoiser, Prediction


class Guided(Denoiser):
    r"""Classifier-free guidance: $\epsilon_\emptyset + w (\epsilon_c - \epsilon_\emptyset)$, and x alike.

    w = 1 is the conditional model, w = 0 the unconditional one. Outside `interval` of times the
    conditional model is used as it is, which also saves the second half of the evaluation.

    Args:
        denoiser: conditional, with a null condition.
        scale: w >= 0.
        interval: (low, high) times between which guidance acts.

    Raises:
        ValueError: if the denoiser has no null condition, scale is negative, or the interval is not one.

    Source: Ho & Salimans (2022), equation 6, with w = 1 + their weight; Kynkaanniemi et al. (2024).
    """

    def __init__(self, denoiser: Denoiser, scale: float, interval: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        if denoiser.null is None:
            raise ValueError("guidance needs a denoiser that was also trained without a condition (null is None)")
        if not scale >= 0:
            raise ValueError(f"guidance scale must be at least 0, got {scale}")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"interval must be two times, 0 <= low <= high <= 1, got {interval}")
        self.denoiser, self.scale, self.interval = denoiser, scale, interval
        self.schedule = denoiser.schedule
        self.null = denoiser.null

    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        if cond is None or self.scale == 1 or not bool(inside.any()):
            plain: Prediction = self.denoiser(z_t, t, cond)
            return plain
        null = self.condition(None, len(z_t))
        assert null is not None
        both = self.denoiser(torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([cond, null.to(cond)]))
        (x, x_0), (eps, eps_0) = both.x.chunk(2), both.eps.chunk(2)
        alpha, sigma = self.levels(t, z_t)
        w = torch.where(inside, self.scale, 1.0).to(z_t).reshape(-1, *(1,) * (z_t.ndim - 1))
        return Prediction(x_0 + w * (x - x_0), eps_0 + w * (eps - eps_0), alpha, sigma)


class Clipped(Denoiser):
    """Keeps the predicted x inside the range of the data and eps consistent with it.

    A guided x leaves the range; clipping it ("static thresholding") brings the path back.

    Args:
        denoiser: any.
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

    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        p = self.denoiser(z_t, t, cond)
        x = p.x.clamp(self.low, self.high)
        # z_t = alpha x + sigma eps, so a change of x by d changes eps by -(alpha / sigma) d
        change = torch.where(p.sigma > 0, p.alpha / p.sigma.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
        return Prediction(x, p.eps - change * (x - p.x), p.alpha, p.sigma)

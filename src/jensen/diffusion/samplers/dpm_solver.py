"""DPM-Solver++: exponential integrators in lambda = log(alpha / sigma), multistep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.samplers.base import Memory, levels, rows_at
from jensen.diffusion.samplers.exponential import integral


@dataclass(frozen=True)
class DPMSolver:
    r"""DPM-Solver++(1), (2M) and (3M), and the SDE versions of the first two.

    $z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s (1 - e^{-h}) D$ with $h = \lambda_s - \lambda_t$ and $D = \hat x_t$
    at order 1, $D = \hat x_t + \frac{h}{2 h_{prev}} (\hat x_t - \hat x_{prev})$ at order 2. Order 3 is the exact
    integral of the parabola through the last three predictions. Published pseudo-code of (3M) has only order 2, since
    it uses the second divided difference, which is half of the second derivative. The first step of any multistep
    method has order 1, so a whole path shows order 3 only if it starts smoothly.

    With `noise`,
    $z_s = \frac{\sigma_s}{\sigma_t} e^{-h} z_t + \alpha_s (1 - e^{-2h}) D + \sigma_s \sqrt{1 - e^{-2h}}\, n$.

    The memory holds the last (lambda, x) pairs, newest first. A step to or from an infinite lambda has order 1.

    Args:
        order: 1 (which is DDIM), 2 or 3.
        noise: integrate the reverse SDE instead of the ODE; order 1 or 2.

    Source: Lu et al., DPM-Solver++ (2022), algorithm 2, equations 14 and 18.
    """

    order: int = 2
    noise: bool = False

    def __post_init__(self) -> None:
        most = 2 if self.noise else 3
        if not 1 <= self.order <= most:
            raise ValueError(f"order must be from 1 to {most}, got {self.order}")

    @property
    def deterministic(self) -> bool:
        return not self.noise

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
        if bool(sigma_t == 0):  # the first step of an encoding: eps is known only from the prediction
            return alpha_s * p.x + sigma_s * p.eps, None
        here, ahead = torch.log(alpha_t / sigma_t), torch.log(alpha_s / sigma_s)
        history = [(here, p.x), *(memory or [])][: self.order] if bool(torch.isfinite(here)) else []
        order = len(history) if bool(torch.isfinite(ahead)) else 1
        ratio = sigma_s / sigma_t
        if order == 3:
            return ratio * z + alpha_s * integral(history, here, ahead), history
        x = p.x
        if order == 2:
            before, x_before = history[1]
            x = x + (ahead - here) / (2 * (here - before)) * (x - x_before)
        if not self.noise:
            return ratio * z + (alpha_s - alpha_t * ratio) * x, history
        decay = ratio * alpha_t / alpha_s  # e^{-h}, finite at both ends
        fresh = (1 - decay**2).clamp_min(0)
        noise = normal(z.shape, generator, like=z)
        return ratio * decay * z + alpha_s * fresh * x + sigma_s * fresh.sqrt() * noise, history

"""DDIM: deterministic at eta = 0, ancestral at eta = 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.process import Process
from jensen.diffusion.samplers.base import Memory, levels, rows_at


@dataclass(frozen=True)
class DDIM:
    r"""$z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\epsilon + \eta \tilde\sigma\, n$.

    $\tilde\sigma$ is the standard deviation of $q(z_s | z_t, x)$, so that eta = 1 is ancestral sampling with
    beta-tilde; eta = 0 draws no noise. It is of first order in the step size.

    Args:
        eta: amount of noise, in [0, 1].

    Source: Song et al., DDIM (2021), equations 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

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
        alpha_s, sigma_s = levels(denoiser, s, z)
        if self.deterministic:
            return alpha_s * p.x + sigma_s * p.eps, None
        posterior = Process(denoiser.schedule).posterior(z, p.x, s.double(), t.double())
        deviation = self.eta * posterior.stddev
        kept = torch.sqrt((sigma_s**2 - deviation**2).clamp_min(0))
        return alpha_s * p.x + kept * p.eps + deviation * normal(z.shape, generator, like=z), None

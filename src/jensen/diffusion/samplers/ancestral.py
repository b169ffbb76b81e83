"""Ancestral sampling: draws from the posterior of a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.process import Process
from jensen.diffusion.samplers.base import Memory, levels, rows_at


@dataclass(frozen=True)
class Ancestral:
    r"""A draw from $q(z_s \mid z_t, x = \hat x)$, with the posterior's variance or the forward one.

    Args:
        variance: "posterior" (beta-tilde, exact for data at a point), or "forward" (beta, exact for
            N(0, I) data of a variance-preserving schedule). The last step, to sigma_s = 0, adds no noise.

    Source: Ho et al. (2020), equations 6, 7 and section 3.2.
    """

    variance: str = "posterior"

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward"):
            raise ValueError(f"variance must be 'posterior' or 'forward', got {self.variance!r}")

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
        p = denoiser(z, rows_at(t, z), cond)
        process = Process(denoiser.schedule)
        posterior = process.posterior(z, p.x, s.to(z), t.to(z))
        if bool(levels(denoiser, s, z)[1] == 0):
            return posterior.mean, None
        if self.variance == "posterior":
            deviation = posterior.stddev
        else:
            deviation = process.transition(s.to(z), t.to(z))[1]
        return posterior.mean + deviation * normal(z.shape, generator, like=z), None

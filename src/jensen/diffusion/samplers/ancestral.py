"""Ancestral sampling: draws from the posterior of a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Normal

from jensen.core.seeding import Rng, normal
from jensen.diffusion.denoiser import Denoiser, Prediction
from jensen.diffusion.process import Process
from jensen.diffusion.samplers.base import Memory, levels, rows_at


@dataclass(frozen=True)
class Ancestral:
    r"""A draw from $q(z_s \mid z_t, x = \hat x)$, with the posterior's, the forward or a learned variance.

    Args:
        variance: "posterior" (beta-tilde, exact for data at a single point), "forward" (beta, exact for N(0, I) data of
            a variance-preserving schedule), or "learned": $\beta^f \tilde\beta^{1-f}$ with the prediction's fraction f.
            The last step, to sigma_s = 0, adds no noise.

    Source: Ho et al. (2020), equations 6, 7 and section 3.2; Nichol & Dhariwal (2021), equation 15.
    """

    variance: str = "posterior"

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward", "learned"):
            raise ValueError(f"variance must be 'posterior', 'forward' or 'learned', got {self.variance!r}")

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
        posterior = process.posterior(z, p.x, s.double(), t.double())
        if bool(levels(denoiser, s, z)[1] == 0):
            return posterior.mean, None
        noise = normal(z.shape, generator, like=z)
        return posterior.mean + self._deviation(p, process, posterior, s.double(), t.double()) * noise, None

    def _deviation(self, p: Prediction, process: Process, posterior: Normal, s: Tensor, t: Tensor) -> Tensor:
        if self.variance == "posterior":
            return posterior.stddev
        forward = process.transition(s, t)[1]
        if self.variance == "forward":
            return forward
        if p.fraction is None:
            raise ValueError("learned variances need a denoiser that predicts them (learned_variance=True)")
        return forward**p.fraction * posterior.stddev ** (1 - p.fraction)

"""The forward process and its exact conditionals, from the schedule alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from jensen.core.shapes import right_pad
from jensen.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Process:
    r"""$q(z_t | x)$, $q(z_t | z_s)$ and $q(z_s | z_t, x)$ for $0 \le s < t \le 1$.

    Source: Kingma et al. (2021), equations 1, 2 and appendix A.2.

    >>> from jensen.diffusion import CosineSchedule
    >>> q = Process(CosineSchedule()).marginal(torch.ones(1, 2), torch.tensor([1.0]))
    >>> q.mean.abs().max().item() < 1e-6, q.stddev.tolist()
    (True, [[1.0, 1.0]])
    """

    schedule: Schedule

    def marginal(self, x: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Normal:
        """q(z_t | x) = N(alpha_t x, sigma_t^2), elementwise, of the shape of x."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return Normal(right_pad(alpha, x) * x, right_pad(sigma, x).expand_as(x), validate_args=False)

    def transition(
        self, s: Float[Tensor, "*b"], t: Float[Tensor, "*b"]
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        r"""$a_{t|s} = \alpha_t/\alpha_s$ and $\sigma_{t|s} = (\sigma_t^2 - a_{t|s}^2 \sigma_s^2)^{1/2}$.

        They are the factor and the standard deviation of $q(z_t | z_s)$.

        Raises:
            ValueError: unless s < t everywhere.
        """
        if not bool((s < t).all()):
            raise ValueError("a transition goes from s to a later t: s must be below t")
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.schedule.alpha_sigma(s), self.schedule.alpha_sigma(t)
        a = alpha_t / alpha_s
        return a, torch.sqrt((sigma_t**2 - a**2 * sigma_s**2).clamp_min(0))

    def posterior(self, z_t: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], s: Tensor, t: Tensor) -> Normal:
        r"""$q(z_s | z_t, x)$: mean $\frac{a\sigma_s^2}{\sigma_t^2} z_t + \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} x$,
        standard deviation $\sigma_{t|s}\sigma_s/\sigma_t$; s and t are (B,) or ().
        """
        a, spread = self.transition(s, t)
        (alpha_s, sigma_s), (_, sigma_t) = self.schedule.alpha_sigma(s), self.schedule.alpha_sigma(t)
        mean = right_pad(a * sigma_s**2 / sigma_t**2, x) * z_t + right_pad(alpha_s * spread**2 / sigma_t**2, x) * x
        return Normal(mean, right_pad(spread * sigma_s / sigma_t, x).expand_as(x), validate_args=False)

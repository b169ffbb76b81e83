"""Noise schedules by their log-SNR: z_t = alpha_t x + sigma_t eps, t = 0 is data, t = 1 is noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Schedule(nn.Module, ABC):
    r"""A decreasing log-SNR $\lambda(t) = \log(\alpha_t^2 / \sigma_t^2)$ on t in [0, 1].

    A subclass gives `log_snr`. By default it is variance preserving:
    $\alpha_t^2 = \mathrm{sigmoid}(\lambda)$, $\sigma_t^2 = \mathrm{sigmoid}(-\lambda)$.

    Source: Kingma et al., Variational Diffusion Models (2021), section 3.1.
    """

    @abstractmethod
    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """log(alpha_t^2 / sigma_t^2) at times t in [0, 1], of the shape of t; infinite where either is 0."""

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """alpha_t and sigma_t, each of the shape of t."""
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The time t with `log_snr(t)` equal to the argument, clipped to [0, 1]; by bisection unless overridden."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60 if log_snr.dtype == torch.float64 else 30):
            middle = (low + high) / 2
            later = self.log_snr(middle) > log_snr  # SNR still too high: the time is later
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2


class CosineSchedule(Schedule):
    r"""$\alpha_t = \cos(\pi t/2)$, $\sigma_t = \sin(\pi t/2)$ exactly; variance preserving.

    Source: Nichol & Dhariwal (2021), equation 17 with s = 0; Salimans & Ho (2022), section 4.

    >>> alpha, sigma = CosineSchedule().alpha_sigma(torch.tensor([0.5]))
    >>> bool(torch.allclose(alpha, sigma))
    True
    """

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (torch.log(alpha) - torch.log(sigma))

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


class LinearSchedule(Schedule):
    r"""DDPM's linear betas in continuous time: $\alpha_t^2 = \exp(-\beta_0 t - (\beta_1-\beta_0) t^2/2)$.

    Args:
        beta_0, beta_1: rate at t = 0 and t = 1; 0.1 and 20 are DDPM's 1e-4 and 0.02 over 1,000 steps.

    Raises:
        ValueError: unless 0 < beta_0 <= beta_1.

    Source: Ho et al. (2020), section 4; Song et al. (2021), equation 33.

    >>> round(float(LinearSchedule().alpha_sigma(torch.tensor(1.0))[0]), 4)
    0.0066
    """

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0):
        super().__init__()
        if not 0 < beta_0 <= beta_1:
            raise ValueError(f"betas must satisfy 0 < beta_0 <= beta_1, got {beta_0} and {beta_1}")
        self.beta_0, self.beta_1 = beta_0, beta_1

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_0 * t + (self.beta_1 - self.beta_0) * t**2 / 2

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -torch.log(torch.expm1(self._integral(t)))

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        integral = self._integral(t)
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        integral = nn.functional.softplus(-log_snr)
        slope = self.beta_1 - self.beta_0
        return 2 * integral / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * slope * integral))


class RectifiedSchedule(Schedule):
    r"""The straight line of flow matching: $\alpha_t = 1 - t$, $\sigma_t = t$.

    Source: Liu et al. (2023), equation 1; Lipman et al. (2023), equation 22, with time reversed.

    >>> RectifiedSchedule().alpha_sigma(torch.tensor([0.25]))
    (tensor([0.7500]), tensor([0.2500]))
    """

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        return 1 - t, t

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.sigmoid(-log_snr / 2)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": CosineSchedule,
    "linear": LinearSchedule,
    "rectified": RectifiedSchedule,
}

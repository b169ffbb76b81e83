"""Noise schedules, defined by their log-SNR: z_t = alpha_t x + sigma_t eps, t = 0 is data, t = 1 is noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import checked


class Schedule(nn.Module, ABC):
    r"""A decreasing log-SNR $\lambda(t) = \log(\alpha_t^2 / \sigma_t^2)$ on t in [0, 1].

    A subclass gives `log_snr`. By default it is variance preserving:
    $\alpha_t^2 = \mathrm{sigmoid}(\lambda)$, $\sigma_t^2 = \mathrm{sigmoid}(-\lambda)$.

    Source: Kingma et al., Variational Diffusion Models (2021), section 3.1.
    """

    @abstractmethod
    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """log(alpha_t^2 / sigma_t^2) at times t in [0, 1], with the shape of t; infinite where either is 0."""

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """alpha_t and sigma_t, each with the shape of t."""
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def slopes(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """Derivatives of alpha_t and sigma_t with respect to t, each with the shape of t."""
        alpha, sigma = torch.func.jvp(self.alpha_sigma, (t,), (torch.ones_like(t),))[1]
        return alpha, sigma

    def log_snr_slope(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Derivative of the log-SNR with respect to t, at most 0, with the shape of t."""
        slope: Tensor = torch.func.jvp(self.log_snr, (t,), (torch.ones_like(t),))[1]
        return slope

    def clock(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The network's time input at time t: t itself, unless the schedule is learned or time is the noise level."""
        return t

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The time t at which `log_snr(t)` equals the argument, clipped to [0, 1]; by bisection unless overridden."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60 if log_snr.dtype == torch.float64 else 30):
            middle = (low + high) / 2
            later = self.log_snr(middle) > log_snr  # the SNR is still too high, so the time is later
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
        beta_0, beta_1: rates at t = 0 and t = 1; 0.1 and 20 correspond to DDPM's 1e-4 and 0.02 with 1,000 steps.

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
        integral = nn.functional.softplus(-log_snr).clamp(max=(self.beta_0 + self.beta_1) / 2)
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


class VariancePreserving(Schedule):
    r"""Log-SNR linear in t, $\lambda(t) = \lambda_{max} + (\lambda_{min} - \lambda_{max})\, t$.

    $\alpha_t^2 + \sigma_t^2 = 1$ exactly.

    Args:
        highest, lowest: log-SNR at t = 0 and at t = 1.

    Raises:
        ValueError: unless lowest < highest.

    Source: Kingma et al., VDM (2021), appendix H: the fixed schedule, with their end points as defaults.

    >>> VariancePreserving().log_snr(torch.tensor([0.0, 1.0]))
    tensor([13.3000, -5.0000])
    """

    def __init__(self, highest: float = 13.3, lowest: float = -5.0):
        super().__init__()
        if not lowest < highest:
            raise ValueError(f"log-SNR must fall with t: lowest must be below highest, got {lowest} and {highest}")
        self.highest, self.lowest = highest, lowest

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.highest + (self.lowest - self.highest) * t

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return ((log_snr - self.highest) / (self.lowest - self.highest)).clamp(0, 1)


class VarianceExploding(Schedule):
    r"""$\alpha_t = 1$, $\sigma_t = \sigma_{min}^{1-t} \sigma_{max}^t$: noise is added without scaling the data.

    Args:
        smallest, largest: sigma at t = 0 and at t = 1.

    Raises:
        ValueError: unless 0 < smallest < largest.

    Source: Song et al. (2021), equation 31, with the range of Karras et al. (2022), table 1.
    """

    def __init__(self, smallest: float = 0.002, largest: float = 80.0):
        super().__init__()
        if not 0 < smallest < largest:
            raise ValueError(f"sigmas must satisfy 0 < smallest < largest, got {smallest} and {largest}")
        self.smallest, self.largest = smallest, largest

    def _log_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.smallest) * (1 - t) + math.log(self.largest) * t

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * self._log_sigma(t)

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        return torch.ones_like(t), self._log_sigma(t).exp()

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        low, high = math.log(self.smallest), math.log(self.largest)
        return ((-log_snr / 2 - low) / (high - low)).clamp(0, 1)


class KarrasSchedule(Schedule):
    r"""$\alpha_t = 1$, $\sigma_t = \sigma_{min} + t (\sigma_{max} - \sigma_{min})$: time is the noise level, as in EDM.

    The network's time input is $\log \sigma_t$, mapped to [0, 1]. The defaults are EDM's range for data of standard
    deviation 1: 0.002 and 80 for data of standard deviation 1/2.

    Args:
        smallest, largest: sigma at t = 0 and at t = 1.

    Raises:
        ValueError: unless 0 < smallest < largest.

    Source: Karras et al. (2022), table 1.

    >>> [round(float(v), 6) for v in KarrasSchedule().alpha_sigma(torch.tensor([0.0, 1.0]))[1]]
    [0.004, 160.0]
    """

    def __init__(self, smallest: float = 0.004, largest: float = 160.0):
        super().__init__()
        if not 0 < smallest < largest:
            raise ValueError(f"sigmas must satisfy 0 < smallest < largest, got {smallest} and {largest}")
        self.smallest, self.largest = smallest, largest

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * torch.log(self.alpha_sigma(t)[1])

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        return torch.ones_like(t), self.smallest + t * (self.largest - self.smallest)

    def time(self, log_snr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return ((torch.exp(-log_snr / 2) - self.smallest) / (self.largest - self.smallest)).clamp(0, 1)

    def clock(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        low, high = math.log(self.smallest), math.log(self.largest)
        return (self.log_snr(t) / -2 - low) / (high - low)


class BetaSchedule(Schedule):
    r"""Any array of betas: $\alpha_{i/T}^2 = \prod_{j \le i} (1 - \beta_j)$, $\log \alpha^2$ linear in between.

    Time i / T is step i of T, and t = 0 is the data: $\alpha_0^2 = 1$. T equal steps from t = 1 to 0 are DDPM's chain,
    including its last step from the first level to the data.

    Args:
        betas: (T,), each in (0, 1).

    Raises:
        ValueError: if betas are not one row of numbers in (0, 1), at least two.

    Source: Ho et al. (2020), equation 4; Lu et al., DPM-Solver (2022), appendix D.1, for times in between.

    >>> schedule = BetaSchedule(torch.linspace(1e-4, 0.02, 1000))
    >>> round(float(schedule.alpha_sigma(torch.tensor(1.0))[0]) ** 2, 6)
    4e-05
    """

    log_alpha_square: Tensor

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be one row of at least two numbers in (0, 1)")
        self.register_buffer("log_alpha_square", torch.log1p(-torch.nn.functional.pad(betas, (1, 0))).cumsum(0))

    def _log_alpha_square(self, t: Tensor) -> Tensor:
        steps, known = len(self.log_alpha_square) - 1, self.log_alpha_square.to(t.device, torch.float64)
        place = t.double() * steps
        below = place.detach().nan_to_num().floor().clamp(0, steps - 1).long()
        return torch.lerp(known[below], known[below + 1], place - below)

    @checked
    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        log_alpha_square = self._log_alpha_square(t)
        return (log_alpha_square - torch.log(-torch.expm1(log_alpha_square))).to(t.dtype)

    def alpha_sigma(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        log_alpha_square = self._log_alpha_square(t)
        return torch.exp(log_alpha_square / 2).to(t), torch.sqrt(-torch.expm1(log_alpha_square)).to(t)


class ImprovedCosineSchedule(BetaSchedule):
    r"""Improved DDPM's betas: $\beta_i = \min(1 - f(i/T) / f((i-1)/T),\ b)$, so that $\alpha^2_{i/T} = f(i/T) / f(0)$.

    $f(t) = \cos^2\left(\frac{\pi}{2} \frac{t + s}{1 + s}\right)$. The cap b keeps alpha above 0 at the last level,
    where f is 0, so that a network may predict eps there. Between levels it interpolates as `BetaSchedule` does.

    Args:
        steps: number of steps T, at least 2.
        offset: s, at least 0; it prevents the first betas from being too small.
        largest: b, in (0, 1), the cap on beta, which the last level reaches.

    Raises:
        ValueError: for a setting out of its range.

    Source: Nichol & Dhariwal (2021), equation 17 and section 3.2.

    >>> alpha, _ = ImprovedCosineSchedule(steps=1000).alpha_sigma(torch.tensor([0.5, 1.0]))
    >>> [round(float(v), 6) for v in alpha]
    [0.70274, 4.9e-05]
    """

    def __init__(self, steps: int = 1000, offset: float = 0.008, largest: float = 0.999):
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        if not 0 <= offset < math.inf:
            raise ValueError(f"offset must be at least 0, got {offset}")
        if not 0 < largest < 1:
            raise ValueError(f"largest must be in (0, 1), got {largest}")
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        level = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
        super().__init__((1 - level[1:] / level[:-1]).clamp(max=largest))


class FunctionSchedule(Schedule):
    """A variance-preserving schedule with any log-SNR.

    Args:
        log_snr: a strictly decreasing function of t in [0, 1].

    Raises:
        ValueError: if log_snr does not decrease on a grid of 1,001 times.

    >>> schedule = FunctionSchedule(lambda t: 10 - 16 * t**2)
    >>> round(float(schedule.time(schedule.log_snr(torch.tensor(0.3)))), 4)
    0.3
    """

    def __init__(self, log_snr: Callable[[Tensor], Tensor]):
        super().__init__()
        values = log_snr(torch.linspace(0, 1, 1001, dtype=torch.float64))
        if not bool((values.diff() < 0).all()):
            raise ValueError("log-SNR must fall strictly with t, and this one does not")
        self._function = log_snr

    def log_snr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self._function(t)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": CosineSchedule,
    "improved-cosine": ImprovedCosineSchedule,
    "linear": LinearSchedule,
    "rectified": RectifiedSchedule,
    "variance-preserving": VariancePreserving,
    "variance-exploding": VarianceExploding,
    "edm": KarrasSchedule,
}

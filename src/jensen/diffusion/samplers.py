"""One loop, and samplers that are a step each; what a multistep method remembers is explicit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.process import Process
from jensen.diffusion.schedule import Schedule

Memory = Any


@runtime_checkable
class Sampler(Protocol):
    """One step from time t to time s; `memory` is None at first and whatever the last step returned then."""

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
    ) -> tuple[Tensor, Memory]: ...


def integrate(
    sampler: Sampler,
    denoiser: Denoiser,
    z: Tensor,
    times: Tensor,
    *,
    cond: Tensor | None = None,
    generator: Rng = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Carry z along `times`: z at times[0] in, z at times[-1] out.

    Decreasing times sample, increasing times encode (deterministic samplers only).

    Args:
        sampler: a step.
        denoiser: perhaps guided.
        z: (B, ...), at times[0].
        times: (N + 1,), strictly monotone, in [0, 1].
        cond: (B, ...) or None.
        generator: None, one, or one a row.
        on_step: called with (number of steps done, z) after each.

    Raises:
        ValueError: if times are not strictly monotone in [0, 1], or a stochastic sampler is asked to encode.

    >>> from jensen.diffusion import CosineSchedule, GaussianOracle
    >>> oracle = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    >>> z = integrate(DDIM(), oracle, torch.ones(1, 1, dtype=torch.float64), torch.linspace(1, 0, 9).double())
    >>> abs(float(z) - math.cos(math.pi / 16) ** 8) < 1e-12  # exactly cos^N(pi / 2N)
    True
    """
    _check_times(times)
    if bool(times[-1] > times[0]) and not getattr(sampler, "deterministic", True):
        raise ValueError(f"{type(sampler).__name__} draws noise, so it cannot encode: give decreasing times")
    memory: Memory = None
    for k in range(len(times) - 1):
        z, memory = sampler.step(denoiser, z, times[k], times[k + 1], memory, cond=cond, generator=generator)
        if on_step is not None:
            on_step(k + 1, z)
    return z


def _check_times(times: Tensor) -> None:
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be one row of at least two, got shape {tuple(times.shape)}")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(f"times must lie in [0, 1], got {times.min().item():g} to {times.max().item():g}")
    steps = times.diff()
    if not (bool((steps < 0).all()) or bool((steps > 0).all())):
        raise ValueError("times must be strictly decreasing (to sample) or increasing (to encode)")


def time_grid(
    name: str,
    steps: int,
    schedule: Schedule,
    *,
    start: float = 1.0,
    end: float = 0.0,
) -> Tensor:
    """Decreasing times (steps + 1,) from `start` to `end`, float64: take them to the dtype of z.

    Args:
        name: "uniform" in t; "log_snr": uniform in log-SNR between schedule's values there, which must
            be finite; "quadratic": uniform in sqrt(t), denser towards the data.
        steps: at least 1.
        schedule: gives the log-SNR.
        start, end: 0 <= end < start <= 1.

    Raises:
        ValueError: for steps < 1, times out of order, an infinite log-SNR, or an unknown name.

    Source: Song et al. (2021), appendix D.2 for quadratic; Lu et al. (2022), section 3.3 for log-SNR.

    >>> from jensen.diffusion import RectifiedSchedule
    >>> time_grid("uniform", 4, RectifiedSchedule()).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= end < start <= 1:
        raise ValueError(f"times must satisfy 0 <= end < start <= 1, got start {start} and end {end}")
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    match name:
        case "uniform":
            return start + (end - start) * ramp
        case "quadratic":
            return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * ramp) ** 2
        case "log_snr":
            first, last = schedule.log_snr(torch.tensor([start, end], dtype=torch.float64))
            if not bool(torch.isfinite(first) & torch.isfinite(last)):
                raise ValueError(f"log-SNR must be finite at start {start} and end {end}: choose times inside (0, 1)")
            times = schedule.time(first + (last - first) * ramp)
            times[0], times[-1] = start, end
            return times
    raise ValueError(f"time grid must be uniform, log_snr or quadratic, got {name!r}")


def _levels(denoiser: Denoiser, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = denoiser.schedule.alpha_sigma(t.to(z.device))
    return alpha.to(z.dtype), sigma.to(z.dtype)


def _times(t: Tensor, z: Tensor) -> Tensor:
    return t.to(z).expand(len(z))


@dataclass(frozen=True)
class DDIM:
    r"""$z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\epsilon + \eta \tilde\sigma\, n$.

    $\tilde\sigma$ is the standard deviation of $q(z_s | z_t, x)$, so that eta = 1 is ancestral sampling with
    beta-tilde; eta = 0 draws nothing. First order in the step.

    Args:
        eta: in [0, 1].

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
        p = denoiser(z, _times(t, z), cond)
        alpha_s, sigma_s = _levels(denoiser, s, z)
        if self.deterministic:
            return alpha_s * p.x + sigma_s * p.eps, None
        posterior = Process(denoiser.schedule).posterior(z, p.x, s.to(z), t.to(z))
        deviation = self.eta * posterior.stddev
        kept = torch.sqrt((sigma_s**2 - deviation**2).clamp_min(0))
        return alpha_s * p.x + kept * p.eps + deviation * normal(z.shape, generator, like=z), None


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
        p = denoiser(z, _times(t, z), cond)
        process = Process(denoiser.schedule)
        posterior = process.posterior(z, p.x, s.to(z), t.to(z))
        if bool(_levels(denoiser, s, z)[1] == 0):
            return posterior.mean, None
        if self.variance == "posterior":
            deviation = posterior.stddev
        else:
            deviation = process.transition(s.to(z), t.to(z))[1]
        return posterior.mean + deviation * normal(z.shape, generator, like=z), None


@dataclass(frozen=True)
class DPMSolver:
    r"""DPM-Solver++(2M): the exact linear part, and x extrapolated in $\lambda = \log(\alpha/\sigma)$.

    $z_s = \frac{\sigma_s}{\sigma_t} z_t + \bigl(\alpha_s - \alpha_t\frac{\sigma_s}{\sigma_t}\bigr) D$,
    $D = \hat x_t + \frac{h}{2 h_{prev}} (\hat x_t - \hat x_{prev})$, with h the steps in lambda. The memory is
    the last (lambda, x). A step to or from an infinite lambda is of first order, as is the first.

    Args:
        order: 1 (which is DDIM) or 2.

    Source: Lu et al., DPM-Solver++ (2022), algorithm 2.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")

    @property
    def deterministic(self) -> bool:
        return True

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
        p = denoiser(z, _times(t, z), cond)
        alpha_t, sigma_t = _levels(denoiser, t, z)
        alpha_s, sigma_s = _levels(denoiser, s, z)
        lambda_t, lambda_s = torch.log(alpha_t / sigma_t), torch.log(alpha_s / sigma_s)
        x = p.x
        if self.order == 2 and memory is not None and bool(torch.isfinite(lambda_s)):
            lambda_last, x_last = memory
            x = x + (lambda_s - lambda_t) / (2 * (lambda_t - lambda_last)) * (x - x_last)
        if bool(sigma_t == 0):  # the first step of an encoding: nothing is known of eps but the prediction
            return alpha_s * p.x + sigma_s * p.eps, (lambda_t, p.x)
        ratio = sigma_s / sigma_t
        return ratio * z + (alpha_s - alpha_t * ratio) * x, (lambda_t, p.x)


SAMPLERS: dict[str, Sampler] = {"dpm++": DPMSolver(), "ddim": DDIM(), "ancestral": Ancestral()}

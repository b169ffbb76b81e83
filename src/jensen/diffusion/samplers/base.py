"""The sampling loop, its time grids, and the protocol of a sampler: one step with explicit memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.seeding import Rng
from jensen.core.shapes import check_count, check_rows, single
from jensen.diffusion.denoiser import Denoiser, Prediction
from jensen.diffusion.schedule import Schedule

Memory = Any
RHO = 7  # Karras et al.'s exponent
ROUNDING = 1e-12  # relative: levels that differ by less count as equal


@runtime_checkable
class Sampler(Protocol):
    """One step from time t to time s; `memory` is None at first, then what the last step returned along with this z.

    The noise levels at t and s differ: between equal ones `integrate` makes no step. The memory describes the path that
    led to z. Code that changes z between two steps must pass None, and the next step starts without history.
    """

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
    """Integrate from z at times[0] to z at times[-1].

    Decreasing times sample, increasing times encode (deterministic samplers only). Between levels that are equal up to
    rounding, on a plateau of the schedule, z and the sampler's memory are unchanged. A path in half precision is
    computed in float32: only the denoiser gets z rounded, and the result has the dtype of the input.

    Args:
        sampler: makes one step.
        denoiser: the denoiser, possibly with guidance.
        z: (B, ...), at times[0].
        times: (N + 1,), in [0, 1], strictly monotone in the precision of the computation.
        cond: (B, ...) or None.
        generator: None, one, or one per row.
        on_step: called with (number of steps done, z) after each.

    Raises:
        ValueError: if times are not strictly monotone in [0, 1], z has no floating dtype, or a stochastic sampler is
            used to encode.

    >>> from jensen.diffusion import DDIM, CosineSchedule, GaussianOracle
    >>> oracle = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    >>> z = integrate(DDIM(), oracle, torch.ones(1, 1, dtype=torch.float64), torch.linspace(1, 0, 9).double())
    >>> abs(float(z) - math.cos(math.pi / 16) ** 8) < 1e-12  # exactly cos^N(pi / 2N)
    True
    """
    check_rows(z=z)
    given, z = z.dtype, single(z)
    if z.dtype != given:
        denoiser = _Rounded(denoiser, given)
    _check_times(times, z.dtype)
    if bool(times[-1] > times[0]) and not getattr(sampler, "deterministic", True):
        raise ValueError(f"{type(sampler).__name__} draws noise, so it cannot encode: give decreasing times")
    memory: Memory = None
    for k, (t, s) in enumerate(pairwise(times)):
        if not _equal(levels(denoiser, t, z), levels(denoiser, s, z)):
            made = sampler.step(denoiser, z, t, s, memory, cond=cond, generator=generator)
            if not isinstance(made, tuple) or getattr(made[0], "shape", None) != z.shape:
                name, shape = type(sampler).__name__, tuple(z.shape)
                raise ValueError(f"{name}.step must return (z, memory), and z must keep its shape, {shape}")
            z, memory = made
        if on_step is not None:
            on_step(k + 1, z.to(given))
    return z.to(given)


class _Rounded(Denoiser):
    """A half-precision denoiser on a float32 path: it gets z rounded, and the time unrounded."""

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype):
        super().__init__()
        self.denoiser, self.dtype = denoiser, dtype
        self.schedule, self.null = denoiser.schedule, denoiser.null

    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        p = self.denoiser(z_t.to(self.dtype), t, cond)
        x, eps, alpha, sigma = (single(v) for v in (p.x, p.eps, p.alpha, p.sigma))
        return Prediction(x, eps, alpha, sigma, None if p.fraction is None else single(p.fraction))


def _equal(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether two pairs of levels differ only by rounding, which the differences of multistep methods would amplify."""
    return all(torch.allclose(a, b, rtol=ROUNDING, atol=0) for a, b in zip(before, after, strict=True))


def _check_times(times: Tensor, dtype: torch.dtype) -> None:
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be one row of at least two, got shape {tuple(times.shape)}")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(f"times must lie in [0, 1], got {times.min().item():g} to {times.max().item():g}")
    steps = times.to(dtype).diff()
    if not (bool((steps < 0).all()) or bool((steps > 0).all())):
        word = str(dtype).removeprefix("torch.")
        raise ValueError(f"times must be strictly decreasing (to sample) or increasing (to encode) in {word}")


def time_grid(
    name: str,
    steps: int,
    schedule: Schedule,
    *,
    start: float = 1.0,
    end: float = 0.0,
) -> Tensor:
    """Decreasing times (steps + 1,) from `start` to `end`, float64.

    Args:
        name: "uniform" in t; "log_snr": uniform in log-SNR between the schedule's values at the ends, which must be
            finite; "karras": uniform in (sigma / alpha)^(1/7), with the same condition;
            "quadratic": uniform in sqrt(t), denser towards the data.
        steps: number of steps, at least 1.
        schedule: the noise schedule, for its log-SNR.
        start, end: 0 <= end < start <= 1.

    Raises:
        ValueError: for steps < 1, times out of order, an infinite log-SNR, or an unknown name.

    Source: Song et al., DDIM (2021), appendix D.2 for quadratic; Lu et al. (2022), section 3.3 for log-SNR;
    Karras et al. (2022), equation 5.

    >>> from jensen.diffusion import RectifiedSchedule
    >>> time_grid("uniform", 4, RectifiedSchedule()).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_count(steps=steps)
    if not 0 <= end < start <= 1:
        raise ValueError(f"times must satisfy 0 <= end < start <= 1, got start {start} and end {end}")
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    match name:
        case "uniform":
            return start + (end - start) * ramp
        case "quadratic":
            return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * ramp) ** 2
        case "log_snr" | "karras":
            first, last = schedule.log_snr(torch.tensor([start, end], dtype=torch.float64))
            if not bool(torch.isfinite(first) & torch.isfinite(last)):
                raise ValueError(f"log-SNR must be finite at start {start} and end {end}: choose times inside (0, 1)")
            if name == "log_snr":
                times = schedule.time(first + (last - first) * ramp)
            else:
                first, last = torch.exp(-first / 2 / RHO), torch.exp(-last / 2 / RHO)
                times = schedule.time(-2 * RHO * torch.log(first + (last - first) * ramp))
            times[0], times[-1] = start, end
            return times
    raise ValueError(f"time grid must be uniform, quadratic, log_snr or karras, got {name!r}")


def levels(denoiser: Denoiser, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t at one time, (), float64, on the device of z; as scalars they keep the dtype of z."""
    return denoiser.schedule.alpha_sigma(t.to(z.device, torch.float64))


def rows_at(t: Tensor, z: Tensor) -> Tensor:
    """The same time for every row of z, (B,), at least in float32."""
    return t.to(single(z)).expand(len(z))

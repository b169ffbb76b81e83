"""Sharpness: power at high frequencies, relative to real pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Sharpness:
    """High-frequency power relative to real pictures: 1 is as sharp, below 1 is blurred, above 1 is noisy."""

    value: float
    stderr: float


def high_frequency_power(pictures: Tensor, cutoff: float = 0.25) -> Float[Tensor, " n"]:
    r"""Mean of $|\hat x(f)|^2$ over frequencies with $|f| \ge$ cutoff, (N,): 1 for white noise of variance 1.

    Args:
        pictures: (N, C, H, W).
        cutoff: cycles per pixel, above 0 and at most 1/2 (the Nyquist frequency).

    Raises:
        ValueError: for anything but pictures of at least 2 by 2, floating-point and finite, or a cutoff out of range.

    >>> board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)
    >>> float(high_frequency_power(board.view(1, 1, 4, 4), cutoff=0.5))  # one of the 7 such frequencies has all of it
    2.2857142857142856
    """
    if pictures.ndim != 4 or min(pictures.shape[2:]) < 2 or not pictures.numel():
        raise ValueError(f"pictures must be (N, C, H, W) of 2 by 2 or more, got shape {tuple(pictures.shape)}")
    if not pictures.is_floating_point() or not bool(pictures.isfinite().all()):
        raise ValueError(
            f"pictures must be floating-point and finite, got {str(pictures.dtype).removeprefix('torch.')}"
        )
    if not 0 < cutoff <= 0.5:
        raise ValueError(f"cutoff must be above 0 and at most 0.5, got {cutoff}")
    x = pictures.detach().double()
    power = torch.fft.fft2(x, norm="ortho").abs().square()
    rows, columns = (torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    high = torch.hypot(rows[:, None], columns[None]) >= cutoff
    found: Tensor = power[..., high].mean((1, 2))
    return found


def sharpness(real: Tensor, fake: Tensor, cutoff: float = 0.25) -> Sharpness:
    """Ratio of the mean high-frequency power of fake pictures to that of real ones, with its first-order error.

    Args:
        real: (N, C, H, W), N at least 2.
        fake: (M, C, H, W), M at least 2.
        cutoff: as in `high_frequency_power`.

    Raises:
        ValueError: as in `high_frequency_power`; for fewer than two pictures, pictures of different sizes, or real
            pictures without such power.

    >>> x = torch.randn(50, 1, 8, 8)
    >>> round(sharpness(x, x / 2).value, 9)
    0.25
    """
    if min(real.ndim, fake.ndim) < 4 or min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"real and fake must be at least two pictures each, of the same size, got shapes {tuple(real.shape)} "
            f"and {tuple(fake.shape)}"
        )
    p, q = high_frequency_power(real, cutoff), high_frequency_power(fake, cutoff)
    x = real.double()  # below this it is rounding of the transform
    if not float(p.mean()) > (64 * torch.finfo(x.dtype).eps) ** 2 * float(x.square().mean()) * x[0, 0].numel():
        raise ValueError(f"real pictures must have power at {cutoff} cycles per pixel and above, got none")
    ratio = q.mean() / p.mean()
    variance = q.var() / len(q) + ratio.square() * p.var() / len(p)
    return Sharpness(float(ratio), float(variance.sqrt() / p.mean()))

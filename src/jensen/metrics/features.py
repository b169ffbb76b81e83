"""Features of samples: checks, gathering over processes, and floors of metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def checked(features: Tensor, least: int = 2, name: str = "features") -> Tensor:
    """Features as float64, (N, d), without gradient.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, or fewer than `least` rows.

    >>> checked(torch.zeros(3, 2)).dtype
    torch.float64
    """
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(f"{name} must be (N, d), one row per sample, got shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} must be floating-point, got {str(features.dtype).removeprefix('torch.')}")
    if len(features) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(features)}")
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name} must be finite, and some are not")
    return features.detach().double()


def numbers(x: Tensor, least: int, name: str) -> Tensor:
    """Rows of any event and any real dtype as float64, (N, d), without gradient; (N,) are N numbers.

    Raises:
        ValueError: for fewer than `least` rows, empty events, complex numbers, or numbers that are not finite.

    >>> numbers(torch.zeros(3, 2, 2, dtype=torch.uint8), 1, "samples").shape
    torch.Size([3, 4])
    """
    if x.ndim < 1 or len(x) < least or x[:1].numel() < 1 or x.is_complex():
        shape = tuple(x.shape)
        raise ValueError(f"{name} must be (N, ...), real numbers, with at least {least} rows, got {x.dtype} {shape}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be finite, and some are not")
    return x.detach().double().reshape(len(x), -1)


def pair(real: Tensor, fake: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two samples of features, as `checked`, of the same width.

    Raises:
        ValueError: as in `checked`, or if the widths differ.
    """
    x, y = checked(real, least, "real features"), checked(fake, least, "fake features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"real and fake features must have the same width, got {x.shape[1]} and {y.shape[1]}")
    return x, y


def gathered(features: Float[Tensor, "n d"]) -> Float[Tensor, "all d"]:
    """The rows of all processes, in order of rank; a single process gets its own.

    The processes may hold different numbers of rows. Metrics that compare pairs (kernel distance, PRDC, two-sample
    tests) need all rows in one place; those that need only moments use `FeatureStatistics.reduced` instead.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be (N, d), one row per sample, got shape {tuple(features.shape)}")
    if not (dist.is_available() and dist.is_initialized()):
        return features
    rows = torch.zeros(dist.get_world_size(), dtype=torch.long, device=features.device)
    rows[dist.get_rank()] = len(features)
    dist.all_reduce(rows)
    padded = features.new_zeros(int(rows.max()), *features.shape[1:])
    padded[: len(features)] = features
    found = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(found, padded)
    return torch.cat([part[:n] for part, n in zip(found, rows.tolist(), strict=True)])


def floor(metric: Callable[[Tensor, Tensor], T], real: Tensor, n: int, generator: torch.Generator | None = None) -> T:
    """The floor, a perfect model's value: `metric` of real rows against n other real rows, without replacement.

    Args:
        metric: function of (real, fake).
        real: (N, ...), more than n.
        n: the number of generated samples; the other N - n are the reference.
        generator: random generator for the choice of the n rows.

    Raises:
        ValueError: if n is not from 1 to N - 1.

    >>> floor(lambda a, b: (len(a), len(b)), torch.zeros(10, 2), 4)
    (6, 4)
    """
    most = len(real) - 1 if real.ndim else 0
    if not 1 <= n <= most:
        raise ValueError(f"n must be from 1 to {most}, fewer than the real samples, got {n}")
    order = torch.randperm(len(real), generator=generator).to(real.device)
    return metric(real[order[n:]], real[order[:n]])

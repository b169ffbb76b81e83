"""Conversion and validation of distribution parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from jensen.core.shapes import check_broadcast

Classes = TypeVar("Classes")


def parameters(*values: int | float | Tensor) -> tuple[Tensor, ...]:
    """The same numbers as tensors with a common shape and floating dtype, at least single precision.

    >>> [p.dtype for p in parameters(torch.tensor([1, 2]), 0.5)]
    [torch.float32, torch.float32]
    """
    tensors = [v for v in values if isinstance(v, Tensor)]
    floating = [v.dtype for v in tensors if v.is_floating_point()] or [torch.get_default_dtype()]
    dtype, device = reduce(torch.promote_types, floating, torch.float32), tensors[0].device if tensors else None
    same = [v.to(dtype) if isinstance(v, Tensor) else torch.tensor(v, dtype=dtype, device=device) for v in values]
    check_broadcast(**{f"parameter {k}": v for k, v in enumerate(same, 1)})
    broadcast: tuple[Tensor, ...] = torch.broadcast_tensors(*same)
    return broadcast


def check_positive(name: str, value: Tensor) -> None:
    """Raise unless all values are positive and finite.

    Raises:
        ValueError: the message contains the first invalid value.
    """
    check(name, "positive and finite", value, (value > 0) & torch.isfinite(value))


def check_finite(name: str, value: Tensor) -> None:
    """Raise unless all values are finite."""
    check(name, "finite", value, torch.isfinite(value))


def check(name: str, wanted: str, value: Tensor, right: Tensor) -> None:
    """Raise unless `right` holds for all values.

    Raises:
        ValueError: the message contains the first invalid value.
    """
    if not bool(right.all()):
        raise ValueError(f"{name} must be {wanted}, got {value[~right][0].item():.4g}")


def classes(make: Callable[[], Classes], logits: Tensor) -> Classes:
    """The distribution over classes that `make` returns; torch's errors, of several lines, in one sentence."""
    try:
        return make()
    except (ValueError, RuntimeError):
        raise ValueError(f"logits must be finite numbers of each class, (..., C), got {tuple(logits.shape)}") from None


def check_temperature(temperature: float) -> None:
    """Raise unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

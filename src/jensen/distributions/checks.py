"""What the distributions here say of parameters that make no sense."""

from __future__ import annotations

import torch
from torch import Tensor


def check_positive(name: str, value: Tensor) -> None:
    """Refuse a parameter unless all of it is positive and finite.

    Raises:
        ValueError: with the first value that is not.
    """
    wrong = ~((value > 0) & torch.isfinite(value))
    if bool(wrong.any()):
        raise ValueError(f"{name} must be positive and finite, got {float(value[wrong][0]):.4g}")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

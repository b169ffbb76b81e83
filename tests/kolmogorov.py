"""How far draws are from a law."""

from __future__ import annotations

import math

import torch


def kolmogorov(u) -> float:
    """Sqrt(n) times the largest distance from the uniform law; above 1.95 once in a thousand."""
    u = u.detach().double().sort().values
    n = len(u)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * max(float((steps[1:] - u).max()), float((u - steps[:-1]).max()))

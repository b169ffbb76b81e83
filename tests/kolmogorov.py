"""Kolmogorov's test of draws against a distribution."""

from __future__ import annotations

import math

import torch


def kolmogorov(u) -> float:
    """sqrt(n) times the largest distance of the empirical from the uniform distribution function; exceeds 1.95 with
    probability 0.001.
    """
    u = u.detach().double().sort().values
    n = len(u)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * max(float((steps[1:] - u).max()), float((u - steps[:-1]).max()))

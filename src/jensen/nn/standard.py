"""Standardised data: inputs and outputs of networks at mean 0 and standard deviation 1."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standardized(nn.Module):
    """(x - mean) / std.

    >>> Standardized(1.0, 2.0)(torch.tensor([5.0]))
    tensor([2.])
    """

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x - self.mean) / self.std


class Unstandardized(nn.Module):
    """Maps the mean of standardised data, and the log of its scale if there is one, to those of the original data.

    Args:
        mean, std: of the original data.
        numbers: 1 for means alone, 2 for means followed by log scales.
        axes: number of axes of an example; means and log scales are joined along the first of them.

    >>> Unstandardized(1.0, 2.0, 2, axes=1)(torch.tensor([[3.0, 0.0]]))
    tensor([[7.0000, 0.6931]])
    """

    def __init__(self, mean: float, std: float, numbers: int, axes: int):
        super().__init__()
        self.mean, self.std, self.numbers, self.axis = mean, std, numbers, -axes

    def forward(self, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        mean, *log_scale = out.chunk(self.numbers, self.axis)
        return torch.cat([self.mean + self.std * mean, *(v + math.log(self.std) for v in log_scale)], self.axis)

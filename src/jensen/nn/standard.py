"""Data and standardised data, as layers of a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

Number = float | Tensor


class Standardized(nn.Module):
    """(x - mean) / std.

    Args:
        mean, std: of the original data: numbers, or tensors that broadcast with x, such as (D,) for columns.

    >>> Standardized(1.0, 2.0)(torch.tensor([5.0]))
    tensor([2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Number, std: Number):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value), persistent=False)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x - self.mean) / self.std


class Unstandardized(Standardized):
    """Maps the mean of standardised data, and the log of its scale if there is one, to those of the original data.

    Args:
        mean, std: of the original data, see `Standardized`.
        numbers: 1 for means alone, 2 for means followed by log scales.
        axes: number of axes of an example; means and log scales are joined along the first of them.

    >>> Unstandardized(1.0, 2.0, 2, axes=1)(torch.tensor([[3.0, 0.0]]))
    tensor([[7.0000, 0.6931]])
    """

    def __init__(self, mean: Number, std: Number, numbers: int = 1, axes: int = 1):
        super().__init__(mean, std)
        self.numbers, self.axis = numbers, -axes

    def forward(self, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        mean, *log_scale = out.chunk(self.numbers, self.axis)
        return torch.cat([self.mean + self.std * mean, *(v + self.std.log() for v in log_scale)], self.axis)

"""Standardised data, as a layer of a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_broadcast

Number = float | Tensor


class Standardized(nn.Module):
    """(x - mean) / std.

    Args:
        mean, std: moments of the original data: numbers, or tensors that broadcast with x, such as (D,) for columns.

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
        check_broadcast(x=x, mean=self.mean, std=self.std)
        return (x - self.mean) / self.std

"""Helpers for shapes and precision: one number per example, broadcast against events of any rank."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def right_pad(values: Float[Tensor, "*b"], like: Float[Tensor, "..."]) -> Tensor:
    """Append axes of size one to `values` until it has as many as `like`, so that they broadcast.

    >>> import torch
    >>> right_pad(torch.ones(2), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def single(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The same numbers in at least single precision: half precisions become float32, others are unchanged.

    >>> import torch
    >>> single(torch.ones(1, dtype=torch.bfloat16)).dtype, single(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype.itemsize < 4 else x


def sum_per_example(x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Sum over all axes but the first, (B, ...) -> (B,), in at least single precision.

    >>> import torch
    >>> sum_per_example(torch.full((1, 1003), 0.5, dtype=torch.bfloat16))  # bfloat16 would say 502
    tensor([501.5000])
    """
    return single(x).flatten(1).sum(1)


def mean_per_example(x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Mean over all axes but the first: (B, ...) -> (B,)."""
    return x.flatten(1).mean(dim=1)

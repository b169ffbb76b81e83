"""Helpers for shapes and precision: one number per example, broadcast against events of any rank."""

from __future__ import annotations

from numbers import Integral

from jaxtyping import Float
from torch import Tensor


def check_rows(**tensors: Tensor) -> None:
    """Raise unless each tensor has rows of floating-point numbers, (B, ...); only shapes and dtypes are read.

    >>> import torch
    >>> check_rows(x=torch.ones(2, dtype=torch.long))
    Traceback (most recent call last):
    ValueError: x must be rows of floating-point numbers, (B, ...), got int64 (2,)
    """
    for name, x in tensors.items():
        if not x.ndim or not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise ValueError(f"{name} must be rows of floating-point numbers, (B, ...), got {kind} {tuple(x.shape)}")


def check_alike(**tensors: Tensor) -> None:
    """Raise unless all tensors have one shape.

    >>> import torch
    >>> check_alike(x=torch.ones(2, 3), eps=torch.ones(2, 1))
    Traceback (most recent call last):
    ValueError: x and eps must have one shape, got (2, 3) and (2, 1)
    """
    shapes = [tuple(x.shape) for x in tensors.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{' and '.join(tensors)} must have one shape, got {' and '.join(map(str, shapes))}")


def check_count(**numbers: int) -> None:
    """Raise unless each number is whole and at least 1.

    >>> check_count(chunk=0)
    Traceback (most recent call last):
    ValueError: chunk must be at least 1, got 0
    """
    for name, number in numbers.items():
        whole = " and whole" * (not isinstance(number, Integral))
        if whole or number < 1:
            raise ValueError(f"{name} must be at least 1{whole}, got {number}")


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

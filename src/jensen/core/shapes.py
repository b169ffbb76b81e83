"""Helpers for shapes and precision: one number per example, broadcast against events of any rank."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from numbers import Integral
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """The same function, or class, which raises a ValueError for tensors of another kind or shape than it declares.

    Declarations are jaxtyping's, as in `Float[Tensor, "b ..."]`: a size that has a name is the same in all arguments.
    Only dtypes and shapes are read, so that it costs some microseconds and never waits for a GPU.

    >>> import torch
    >>> @checked
    ... def scaled(x: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Tensor:
    ...     return right_pad(t, x) * x
    >>> scaled(torch.ones(2, 3), torch.ones(3))
    Traceback (most recent call last):
    ValueError: t must be floating-point numbers of shape (B,) with B = 2, got float32 (3,)
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    forms = [
        (place, name, form)
        for place, (name, parameter) in enumerate(signature(function).parameters.items())
        if (form := _Form.of(parameter.annotation)) is not None
    ]

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        sizes: dict[str, int] = {}
        for place, name, form in forms:
            value = args[place] if place < len(args) else named.get(name)
            if isinstance(value, Tensor):
                form.check(name, value, sizes)
        return function(*args, **named)

    return call  # type: ignore[return-value]


def _boolean(x: Tensor) -> bool:
    return x.dtype == torch.bool


KINDS: dict[str, tuple[str, Callable[[Tensor], bool]]] = {
    "Float": ("floating-point numbers", lambda x: x.is_floating_point()),
    "Int": ("whole numbers", lambda x: not (x.is_floating_point() or x.is_complex() or _boolean(x))),
    "Num": ("numbers", lambda x: not (x.is_complex() or _boolean(x))),
    "Bool": ("true or false", _boolean),
    "Shaped": ("numbers", lambda _: True),
}


@dataclass(frozen=True)
class _Form:
    """What a tensor must be: one of these kinds, with these axes before and after any number of others."""

    kinds: tuple[str, ...]
    dims: tuple[str, ...]

    @classmethod
    def of(cls, annotation: object) -> _Form | None:
        """The form that an annotation declares; None if it is not that of a tensor."""
        found = re.findall(r"\b(Float|Int|Num|Bool|Shaped)\[Tensor, [\"']([^\"']*)[\"']\]", str(annotation))
        if not found:
            return None
        kinds, dims = zip(*found, strict=True)
        return cls(kinds, tuple(dims[0].split()) if len(set(dims)) == 1 else ("...",))

    def check(self, name: str, x: Tensor, sizes: dict[str, int]) -> None:
        open_at = next((k for k, dim in enumerate(self.dims) if dim == "..." or dim.startswith("*")), None)
        known = len(self.dims) - (open_at is not None)
        right = x.ndim == known if open_at is None else x.ndim >= known
        if right:
            for k, dim in enumerate(self.dims):
                if k != open_at and dim.isidentifier() and not dim.startswith("_"):
                    size = x.shape[k if open_at is None or k < open_at else k - len(self.dims)]
                    right &= sizes.setdefault(dim, size) == size
        if not right or not any(KINDS[kind][1](x) for kind in self.kinds):
            raise ValueError(f"{name} must be {self.described(sizes)}, got {_got(x)}")

    def described(self, sizes: dict[str, int]) -> str:
        kinds = " or ".join(KINDS[kind][0] for kind in self.kinds)
        named = [dim.upper() if dim.isidentifier() else "..." if dim.startswith("*") else dim for dim in self.dims]
        shape = f"({', '.join(named)}{',' * (len(named) == 1 and named != ['...'])})"
        given = ", ".join(f"{dim.upper()} = {sizes[dim]}" for dim in self.dims if dim in sizes)
        return f"{kinds} of shape {shape}" + f" with {given}" * bool(given)


def _got(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def check_rows(**tensors: Tensor) -> None:
    """Raise unless each tensor has rows of floating-point numbers, (B, ...); only shapes and dtypes are read.

    >>> import torch
    >>> check_rows(x=torch.ones(2, dtype=torch.long))
    Traceback (most recent call last):
    ValueError: x must be rows of floating-point numbers, (B, ...), got int64 (2,)
    """
    for name, x in tensors.items():
        if not x.ndim or not x.is_floating_point():
            raise ValueError(f"{name} must be rows of floating-point numbers, (B, ...), got {_got(x)}")


def check_floating(**tensors: Tensor) -> None:
    """Raise unless each tensor is of floating-point numbers, of any shape.

    >>> import torch
    >>> check_floating(logits=torch.ones(2, dtype=torch.long))
    Traceback (most recent call last):
    ValueError: logits must be floating-point numbers, got int64 (2,)
    """
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating-point numbers, got {_got(x)}")


def check_finite(**tensors: Tensor) -> None:
    """Raise unless all numbers are finite. It waits for a GPU: not for a training step.

    >>> import torch
    >>> check_finite(x=torch.tensor([0.0, torch.nan]))
    Traceback (most recent call last):
    ValueError: x must be finite, got nan
    """
    for name, x in tensors.items():
        if not bool((finite := x.isfinite()).all()):
            raise ValueError(f"{name} must be finite, got {x[~finite].flatten()[0].item()}")


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


def check_broadcast(**tensors: Tensor) -> None:
    """Raise unless the shapes broadcast.

    >>> import torch
    >>> check_broadcast(value=torch.ones(3), logits=torch.ones(2))
    Traceback (most recent call last):
    ValueError: value and logits must have shapes that broadcast, got (3,) and (2,)
    """
    try:
        torch.broadcast_shapes(*(x.shape for x in tensors.values()))
    except RuntimeError:
        shapes = " and ".join(str(tuple(x.shape)) for x in tensors.values())
        raise ValueError(f"{' and '.join(tensors)} must have shapes that broadcast, got {shapes}") from None


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


def check_at_least_zero(**numbers: float | int) -> None:
    """Raise unless each number is at least 0 and finite.

    >>> check_at_least_zero(elapsed=-1.0)
    Traceback (most recent call last):
    ValueError: elapsed must be at least 0 and finite, got -1.0
    """
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {number}")


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

"""Small pictures with known factors, drawn here: a shape, its size, its orientation and its position."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

FACTORS = ("shape", "scale", "orientation", "x", "y")
"""The columns of the factors."""

SUBPIXELS = 8  # subpixels along each side of a pixel: 64 shades


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 0.64


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u**2 + (v / 0.5) ** 2 <= 1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    x, y = 1.26 * u, 1.26 * v + 0.25  # the curve lies within 1.26 of (0, 0.25)
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"square": _square, "ellipse": _ellipse, "heart": _heart}
"""The interior of each shape by name, inside the unit disc; v points up."""


def sprites(
    size: int = 24, *, scales: int = 4, orientations: int = 8, positions: int = 8
) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, "n 5"]]:
    """All combinations of the factors, each once; the last factor (y) varies fastest.

    Factors are independent and uniform over these pictures. An orientation is a part of a quarter turn, counter-
    clockwise, so that a square, too, looks different at each. Positions are whole pixels apart, so a picture at the
    next position is the same picture shifted. The extent of a sprite is from half to all of the largest that fits.

    Args:
        size: side of a picture in pixels.
        scales, orientations, positions: levels of the factors, at least 1; `positions` is the number for x and for y.

    Returns:
        Images (N, 1, size, size), float32, the share of each pixel that is covered, in [0, 1]; and factors (N, 5),
        int64, from 0, in the order of `FACTORS`: shape by `SHAPES`, scale rising, x to the right, y downwards.
        N is 3 * scales * orientations * positions^2.

    Raises:
        ValueError: if there are no levels of a factor, or too many positions for a sprite with a radius of 3 pixels.

    >>> images, factors = sprites()
    >>> images.shape, factors[-1]
    (torch.Size([6144, 1, 24, 24]), tensor([2, 3, 7, 7, 7]))
    """
    levels = (len(SHAPES), scales, orientations, positions, positions)
    if min(levels) < 1:
        raise ValueError(f"scales, orientations and positions must be at least 1, got {levels[1:4]}")
    radius = (size - positions + 1) / 2
    if radius < 3:
        raise ValueError(f"size must be at least positions + 5, {positions + 5}, got {size}")
    factors = torch.cartesian_prod(*(torch.arange(n) for n in levels)).view(-1, 5)
    # each sprite once, in the middle of a canvas as wide as all its places; a picture is a window on it
    canvas = size + positions - 1
    drawn = torch.stack(
        [
            _covered(shape, radius * _scale(s, scales), 0.5 * math.pi * o / orientations, canvas)
            for shape in SHAPES.values()
            for s in range(scales)
            for o in range(orientations)
        ]
    )
    windows = drawn.unfold(1, size, 1).unfold(2, size, 1).flip(1, 2)  # (drawn, y, x, size, size)
    return windows.transpose(1, 2).reshape(-1, 1, size, size), factors


def _scale(index: int, levels: int) -> float:
    """The scales, from a half to 1."""
    return 1.0 if levels == 1 else 0.5 + 0.5 * index / (levels - 1)


def _covered(inside: Callable[[Tensor, Tensor], Tensor], radius: float, angle: float, side: int) -> Tensor:
    """The share of each pixel that a shape in the middle covers, (side, side)."""
    fine = side * SUBPIXELS
    at = ((torch.arange(fine, dtype=torch.float64) + 0.5) / SUBPIXELS - side / 2) / radius
    right, up = at[None, :], -at[:, None]
    u = math.cos(angle) * right + math.sin(angle) * up
    v = -math.sin(angle) * right + math.cos(angle) * up
    return inside(u, v).view(side, SUBPIXELS, side, SUBPIXELS).float().mean((1, 3))

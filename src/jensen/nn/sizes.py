"""Named sizes of networks, and the cost of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jensen.core.modes import evaluating
from jensen.nn.grids import Pyramid

Size = Literal["tiny", "small", "base", "large"]
Role = Literal["denoiser", "encoder", "decoder", "generator", "critic", "points"]

TINY: dict[Role, dict[str, int]] = {
    "denoiser": {"width": 32, "blocks": 2},
    "encoder": {"width": 32, "blocks": 1},
    "decoder": {"width": 32, "blocks": 1},
    "generator": {"width": 32, "blocks": 1},
    "critic": {"width": 32, "blocks": 1},
    "points": {"width": 128, "layers": 3},
}
GROWTH: dict[Size, int] = {"tiny": 1, "small": 2, "base": 4, "large": 8}
FINER: dict[Size, int] = {"tiny": 1, "small": 1, "base": 2, "large": 2}
LARGEST = 20  # positions a side of the finest grid, on average over rows and columns


def sized(role: Role, size: Size, shape: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of a network for examples of a shape.

    They fit `UNet` (denoiser), `PictureEncoder`, `PictureDecoder`, `ResidualGenerator` and `ResidualCritic`; `points`
    gives the width and the number of hidden layers of a fully connected network, in any role.

    "tiny" trains on two CPU cores; "small", "base" and "large" take about 4, 16 and 64 times its operations. The width
    doubles from one to the next, and the patch is the smallest power of two for which the sides of the grid have at
    most 20 positions: 1 up to 20 x 20 pixels, 2 up to 40 x 40, 4 above. "base" and "large" halve the patch, where it
    can be halved, instead of doubling the width once; with the added grid they take up to 1.75 times as many
    operations.

    Args:
        role: role of the network.
        size: "tiny", "small", "base" or "large".
        shape: (C, H, W) of a picture; not used for points.

    Raises:
        ValueError: for an unknown role or size, or a shape that is not a picture's.

    >>> sized("encoder", "small", (1, 28, 28))
    {'width': 64, 'blocks': 1, 'patch': 2}
    >>> sized("denoiser", "base", (3, 32, 32))
    {'widths': (64, 128, 256, 256), 'blocks': 2, 'patch': 1, 'attention': 16}
    >>> sized("points", "tiny", (2,))
    {'width': 128, 'layers': 3}
    """
    for name, value, known in (("role", role, get_args(Role)), ("size", size, get_args(Size))):
        if value not in known:
            raise ValueError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    settings: dict[str, Any] = dict(TINY[role])
    settings["width"] *= GROWTH[size]
    if role == "points":
        return settings
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (C, H, W), got {tuple(shape)}")
    _, height, wide = shape
    coarse = 2 ** max(0, math.ceil(math.log2(math.sqrt(height * wide) / LARGEST)))
    patch = max(1, coarse // FINER[size])
    width = settings["width"] * patch // coarse
    if role != "denoiser":
        return {**settings, "width": width, "patch": patch}
    widths = tuple(Pyramid((height, wide), patch).widths(width))
    return {"widths": widths, "blocks": settings["blocks"], "patch": patch, "attention": 8 * FINER[size]}


def parameters(module: nn.Module) -> int:
    """Number of a module's trainable parameters.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def operations(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of one forward pass, in matrix products and convolutions.

    A module and inputs on the device "meta" are counted without computing anything.

    >>> operations(nn.Linear(3, 2), torch.zeros(5, 3))
    30
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(module):
        module(*inputs)
    return counter.get_total_flops() // 2

"""Residual convolutional networks from pictures to vectors and from vectors to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import checked
from jensen.nn.grids import Pyramid, crop, pad
from jensen.nn.residual import GROUPS, Residual, check_sizes, zero


class PictureEncoder(nn.Module):
    """Maps pictures to vectors, (B, C, H, W) -> (B, outputs): the parameters of q(z | x), or logits of classes.

    Patches are folded into channels; residual blocks follow on grids that are halved until the smaller side is
    4 to 7; a linear layer sees the whole last grid. Sides are padded to multiples of the grids' cells by repeating the
    border. The rows of a batch are independent.

    Args:
        shape: (C, H, W), any sides.
        outputs: number of outputs per picture, at least 1.
        width: channels of the finest grid, a multiple of 8; doubled at each halving, up to four times.
        blocks: number of residual blocks per grid, of two 3 x 3 convolutions each, at least 1.
        patch: side of a patch.

    Raises:
        ValueError: for a setting out of range.

    >>> import torch
    >>> PictureEncoder((3, 33, 17), 20, width=8)(torch.zeros(2, 3, 33, 17)).shape
    torch.Size([2, 20])
    """

    def __init__(self, shape: Sequence[int], outputs: int, *, width: int = 32, blocks: int = 1, patch: int = 1):
        super().__init__()
        channels, height, wide = shape
        check_sizes(width, channels=channels, outputs=outputs, blocks=blocks)
        pyramid = Pyramid((height, wide), patch)
        self.factor = pyramid.factor
        widths = pyramid.widths(width)
        last = widths[-1]
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 3, padding=1)]
        for fine, coarse in pairwise(widths):
            layers += [*_residuals(fine, blocks), nn.Conv2d(fine, coarse, 2, stride=2)]
        layers += [*_residuals(last, blocks), nn.GroupNorm(GROUPS, last), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * math.prod(pyramid.coarsest), outputs))

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b outputs"]:
        return cast(Tensor, self.body(pad(x, self.factor)))


class PictureDecoder(nn.Module):
    """Maps vectors to pictures, (B, latents) -> (B, channels_out, H, W): the parameters of p(x | z), unbounded.

    The mirror image of `PictureEncoder`. It starts at zero, so that p(x | z) is at first the same for every z.

    Args:
        latents: dimension of the vectors, at least 1.
        shape: (C, H, W), any sides.
        channels_out: number of channels of the output, C by default; 2 C for two parameters per number, which `chunk(2,
            dim=1)` separates.
        width: channels of the finest grid, a multiple of 8; doubled on each coarser grid, up to four times.
        blocks: number of residual blocks per grid, at least 1.
        patch: side of a patch.

    Raises:
        ValueError: for a setting out of range.

    >>> import torch
    >>> PictureDecoder(20, (3, 33, 17), channels_out=6, width=8)(torch.zeros(2, 20)).shape
    torch.Size([2, 6, 33, 17])
    """

    def __init__(
        self,
        latents: int,
        shape: Sequence[int],
        *,
        channels_out: int | None = None,
        width: int = 32,
        blocks: int = 1,
        patch: int = 1,
    ):
        super().__init__()
        channels, height, wide = shape
        outputs = channels if channels_out is None else channels_out
        check_sizes(width, latents=latents, channels_out=outputs, blocks=blocks)
        self.size = (height, wide)
        pyramid = Pyramid(self.size, patch)
        widths = pyramid.widths(width)
        grid = (widths[-1], *pyramid.coarsest)
        layers: list[nn.Module] = [nn.Linear(latents, math.prod(grid)), nn.Unflatten(1, grid)]
        for coarse, fine in pairwise(reversed(widths)):
            layers += [*_residuals(coarse, blocks), nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2)]
        layers += [*_residuals(width, blocks), nn.GroupNorm(GROUPS, width), nn.SiLU()]
        head = nn.Conv2d(width, outputs * patch**2, 3, padding=1)
        zero(head)
        self.body = nn.Sequential(*layers, head, nn.PixelShuffle(patch))

    @checked
    def forward(self, z: Float[Tensor, "b latents"]) -> Float[Tensor, "b c h w"]:
        return crop(self.body(z), self.size)


def _residuals(width: int, blocks: int) -> list[nn.Module]:
    return [Residual(width) for _ in range(blocks)]

r"""A generator and a critic of residual blocks without normalisation, as in R3GAN.

Blocks are $x + W_3\,\phi(W_2\,\phi(W_1 x))$ with 1 x 1, 3 x 3 and 1 x 1 convolutions and a leaky ReLU $\phi$. At
initialisation $W_3$ is zero, and $W_1$ and $W_2$ are scaled by $L^{-1/4}$ for L blocks (Fixup), so that the size of the
first updates does not grow with depth. The generator upsamples bilinearly, the critic downsamples by averages. The
pixels of a patch are equal at initialisation, otherwise they would start as a checkerboard.

Source: Huang et al. (2024), section 3 (R3GAN); Zhang et al. (2019), section 3 (Fixup, with m = 3 layers a block);
Aitken et al. (2017), section 3 (equal pixels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import checked
from jensen.nn.grids import Pyramid, crop, pad
from jensen.nn.residual import check_sizes, zero

SLOPE = 0.2  # of the leaky ReLU below 0
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # of weights before it, so that mean squares are kept

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ResidualGenerator(nn.Module):
    """Maps noise to pictures, (B, latents) -> (B, C, H, W), unbounded: clamp pictures before showing them.

    A learned coarse grid, each channel multiplied by a linear function of the noise, is refined by residual blocks and
    bilinear upsampling. There is no tanh at the end: on pictures with large areas at an end of the scale it saturates
    in the first steps, where it passes no gradient.

    Args:
        latents: dimension of the noise.
        shape: (C, H, W) of a picture, any sides.
        width: channels of the finest grid, a multiple of 8; twice as many on the next coarser, up to four times.
        blocks: residual blocks a grid, at least 1.
        patch: side of the patches into which the finest grid is unfolded.

    Raises:
        ValueError: for a setting out of range.

    >>> ResidualGenerator(16, (3, 33, 17), width=8)(torch.zeros(2, 16)).shape
    torch.Size([2, 3, 33, 17])
    """

    def __init__(self, latents: int, shape: Sequence[int], *, width: int = 32, blocks: int = 1, patch: int = 1):
        super().__init__()
        channels, height, wide = shape
        check_sizes(width, channels=channels, latents=latents, blocks=blocks)
        self.size = (height, wide)
        pyramid = Pyramid(self.size, patch)
        widths = pyramid.widths(width)
        self.enter = _scaled(nn.Linear(latents, widths[-1], bias=False))
        self.basis = nn.Parameter(torch.randn(widths[-1], *pyramid.coarsest))
        number = blocks * len(widths)
        layers: list[nn.Module] = []
        for coarse, fine in pairwise(reversed(widths)):
            layers += [*_blocks(coarse, blocks, number), *_mixed(coarse, fine)]
            layers += [nn.Upsample(scale_factor=2, mode="bilinear")]
        layers += _blocks(width, blocks, number)
        leave = _even(_scaled(nn.Conv2d(width, channels * patch**2, 3, padding=1)), patch**2)
        self.body = nn.Sequential(*layers, leave, nn.PixelShuffle(patch))

    @checked
    def forward(self, z: Float[Tensor, "b latents"]) -> Float[Tensor, "b c h w"]:
        return crop(self.body(self.enter(z)[:, :, None, None] * self.basis), self.size)


class ResidualCritic(nn.Module):
    """Maps pictures to logits, (B, C, H, W) -> (B,), twice differentiable for gradient penalties. Rows are independent.

    The mirror image of `ResidualGenerator`: blocks and averages of 2 x 2 positions, then one learned weight per channel
    and position of the coarsest grid, and a linear function of the channels.

    Args:
        shape: (C, H, W) of its input, any sides; a pack of m pictures has m C channels.
        width: channels of the finest grid, a multiple of 8; twice as many on the next coarser, up to four times.
        blocks: residual blocks a grid, at least 1.
        patch: side of the patches that are folded into channels.

    Raises:
        ValueError: for a setting out of range.

    >>> ResidualCritic((3, 33, 17), width=8)(torch.zeros(2, 3, 33, 17)).shape
    torch.Size([2])
    """

    def __init__(self, shape: Sequence[int], *, width: int = 32, blocks: int = 1, patch: int = 1):
        super().__init__()
        channels, height, wide = shape
        check_sizes(width, channels=channels, blocks=blocks)
        pyramid = Pyramid((height, wide), patch)
        widths = pyramid.widths(width)
        self.factor, number = pyramid.factor, blocks * len(widths)
        enter = _scaled(nn.Conv2d(channels * patch**2, width, 3, padding=1))
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), enter]
        for fine, coarse in pairwise(widths):
            layers += [*_blocks(fine, blocks, number), nn.AvgPool2d(2), *_mixed(fine, coarse)]
        self.body = nn.Sequential(*layers, *_blocks(widths[-1], blocks, number))
        cells = math.prod(pyramid.coarsest)
        self.basis = nn.Parameter(torch.randn(widths[-1], *pyramid.coarsest) / math.sqrt(cells))
        self.leave = _scaled(nn.Linear(widths[-1], 1, bias=False))

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        h = (self.body(pad(x, self.factor)) * self.basis).sum((2, 3))
        return cast(Tensor, self.leave(h)[:, 0])


class _Block(nn.Module):
    """x + W3 lrelu(W2 lrelu(W1 x))."""

    def __init__(self, width: int, number: int):
        super().__init__()
        gain, leave = GAIN * number**-0.25, nn.Conv2d(width, width, 1, bias=False)
        zero(leave)
        self.body = nn.Sequential(
            *(_scaled(nn.Conv2d(width, width, 1), gain), nn.LeakyReLU(SLOPE)),
            *(_scaled(nn.Conv2d(width, width, 3, padding=1), gain), nn.LeakyReLU(SLOPE)),
            leave,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _blocks(width: int, blocks: int, number: int) -> list[nn.Module]:
    return [_Block(width, number) for _ in range(blocks)]


def _mixed(before: int, after: int) -> list[nn.Module]:
    """A convolution that changes the number of channels; the identity if they are equal."""
    return [] if before == after else [_scaled(nn.Conv2d(before, after, 1, bias=False))]


def _even(layer: nn.Conv2d, pixels: int) -> nn.Conv2d:
    """The layer with the same weights for every pixel of a patch."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[::pixels].repeat_interleave(pixels, 0))
    return layer


def _scaled(layer: Layer, gain: float = 1.0) -> Layer:
    """Weights N(0, gain^2 / fan-in), biases zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer

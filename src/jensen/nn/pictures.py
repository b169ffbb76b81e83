"""A convolutional generator and a fully connected critic for small pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.shapes import check_count, checked
from jensen.nn.mlp import mlp

SLOPE = 0.2  # of LeakyReLU below 0
COARSE = 4  # smallest side of the grid that a generator of pictures starts from


def doublings(height: int, width: int) -> int:
    """The number of times that both sides can be halved evenly, down to a grid of at least 4 x 4.

    >>> doublings(24, 64), doublings(8, 9)
    (2, 0)
    """
    if height % 2 or width % 2 or min(height, width) < 2 * COARSE:
        return 0
    return 1 + doublings(height // 2, width // 2)


class ChannelNorm(nn.Module):
    r"""$h / \sqrt{\mathrm{mean}_c\, h_c^2 + \epsilon}$ at every position: keeps a generator's features from growing.

    Source: Karras et al. (2018), section 4.2.

    >>> h = ChannelNorm()(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1))
    >>> torch.allclose(h.square().mean(), torch.tensor(1.0))
    True
    """

    @checked
    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-6)


class PictureGenerator(nn.Module):
    """Maps noise to a picture in (-1, 1): a coarse feature grid, upsampled by a factor 2 per doubling.

    Args:
        latents: dimension of the noise.
        shape: (C, H, W) of a picture, sides multiples of 2^doublings.
        width: feature channels at full resolution; each coarser level has twice as many.
        doublings: number of upsamplings from the coarse grid to the picture, at least 1.

    Raises:
        ValueError: if a side is not a multiple of 2^doublings, or for doublings below 1.

    >>> PictureGenerator(16, (3, 8, 8), width=4)(torch.zeros(2, 16)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, latents: int, shape: Sequence[int], *, width: int = 32, doublings: int = 1):
        super().__init__()
        check_count(latents=latents, width=width)
        channels, height, wide = shape
        factor = 2**doublings
        if doublings < 1 or height % factor or wide % factor:
            raise ValueError(
                f"doublings must be at least 1 and halve height and width evenly, got {doublings} for {height} x {wide}"
            )
        c = width * factor
        grid = (c, height // factor, wide // factor)
        layers: list[nn.Module] = [
            *(nn.Linear(latents, math.prod(grid)), nn.Unflatten(1, grid), ChannelNorm(), nn.LeakyReLU(SLOPE)),
            *(nn.Conv2d(c, c, 3, padding=1), ChannelNorm(), nn.LeakyReLU(SLOPE)),
        ]
        for _ in range(doublings):
            finer = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1)
            layers += [finer, ChannelNorm(), nn.LeakyReLU(SLOPE)]
            c //= 2
        self.body = nn.Sequential(*layers, nn.Conv2d(c, channels, 3, padding=1), nn.Tanh())

    @checked
    def forward(self, z: Float[Tensor, "b latents"]) -> Float[Tensor, "b c h w"]:
        return cast(Tensor, self.body(z))


class PictureCritic(nn.Module):
    """Maps pictures to logits, (B, C, H, W) -> (B,): fully connected, without normalisation across the batch.

    Args:
        shape: (C, H, W) of its input; a pack of m pictures has m C channels.
        width: width of the hidden layers.
        layers: number of hidden layers.

    >>> PictureCritic((1, 8, 8), width=16)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2])
    """

    def __init__(self, shape: Sequence[int], *, width: int = 256, layers: int = 2):
        super().__init__()
        widths = [math.prod(shape), *[width] * layers, 1]
        self.body = mlp(*widths, activation=lambda: nn.LeakyReLU(SLOPE))

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        return cast(Tensor, self.body(x.flatten(1))[:, 0])

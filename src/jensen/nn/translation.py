"""Networks that translate pictures into pictures, and a critic of patches.

Neither couples the pictures of a batch: normalisation is within one picture, so that a gradient penalty per picture is
well defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.shapes import check_count, checked
from jensen.nn.grids import crop, pad
from jensen.nn.residual import GROUPS, Residual, check_sizes, zero


class Translator(nn.Module):
    r"""Maps pictures to pictures of the same size, $x \mapsto x + f(x)$, with f a residual network on patches.

    f is zero at initialisation, so that a translator starts as the identity.

    Args:
        channels: number of channels of a picture.
        width: hidden channels, a multiple of 8.
        blocks: number of residual blocks of two 3 x 3 convolutions on the grid of patches.
        patch: side of a patch, folded into channels; sides are padded to multiples of it.

    Raises:
        ValueError: for a width that is not a multiple of 8.

    Source: Johnson et al. (2016), residual blocks; Zhu et al. (2017), section 4.

    >>> import torch
    >>> x = torch.rand(2, 1, 16, 16)
    >>> bool((Translator(1)(x) == x).all())
    True
    """

    def __init__(self, channels: int, *, width: int = 48, blocks: int = 4, patch: int = 2):
        super().__init__()
        check_count(channels=channels, width=width, blocks=blocks, patch=patch)
        check_sizes(width)
        self.patch = patch
        self.enter = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.leave = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        zero(self.leave)

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        check_count(rows=len(x))  # torch folds no rows wrongly
        h = self.enter(F.pixel_unshuffle(pad(x, self.patch), self.patch))
        for block in self.blocks:
            h = block(h)
        return x + crop(F.pixel_shuffle(self.leave(F.silu(self.norm(h))), self.patch), x.shape[2:])


class PatchCritic(nn.Module):
    r"""Logits (B, 1, h, w), one per patch of the picture: convolutions only, so that receptive fields are bounded.

    Each width is a 4 x 4 convolution with stride 2, followed by a final 3 x 3 convolution. The receptive field has
    $r = 1 + \sum_l (k_l - 1) \prod_{m < l} s_m$ pixels per side: 8, 18, 38 for one, two, three widths. There is no
    normalisation, which would let a logit depend on the whole picture. Smaller pictures are padded to one patch.

    Args:
        channels: number of channels of a picture; of source and target together for a conditional critic.
        widths: channels of the layers.

    Raises:
        ValueError: for no widths.

    Source: Isola et al. (2017), section 3.2.2 (PatchGAN).

    >>> import torch
    >>> critic = PatchCritic(1, widths=(16,))
    >>> critic(torch.zeros(2, 1, 16, 16)).shape, critic.receptive_field
    (torch.Size([2, 1, 8, 8]), 8)
    """

    def __init__(self, channels: int, *, widths: Sequence[int] = (32, 64)):
        super().__init__()
        check_count(channels=channels)
        if not widths:
            raise ValueError("widths must be at least one")
        self.least = 2 ** len(widths)
        layers: list[nn.Module] = []
        for a, b in pairwise((channels, *widths)):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    @property
    def receptive_field(self) -> int:
        """Side of the patch that one logit depends on, in pixels."""
        seen, jump = 1, 1
        for layer in self.net:
            if isinstance(layer, nn.Conv2d):
                seen += (layer.kernel_size[0] - 1) * jump
                jump *= layer.stride[0]
        return seen

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 i j"]:
        height, width = x.shape[2:]
        logits: Tensor = self.net(F.pad(x, (0, max(0, self.least - width), 0, max(0, self.least - height))))
        return logits

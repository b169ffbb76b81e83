"""diffusers' UNet2DModel with as many parameters as jensen's captcha network.

Its shape is that of `diffusers_captcha`: four levels (24 rows halve three times), two layers per block as in the
library's training example, attention at the two lower levels; of a dozen shapes of this size it has the fewest
operations per picture. It is not conditioned on text, which makes it cheaper.
"""

from __future__ import annotations

from diffusers import UNet2DModel
from torch import Tensor, nn

from jensen.data.space import Space

WIDTHS = (32, 32, 64, 96)
LEVELS = ("Block2D", "Block2D", "AttnBlock2D", "AttnBlock2D")


def _kinds(way: str) -> tuple[str, ...]:
    """DownBlock2D, AttnDownBlock2D, ..."""
    return tuple(level.replace("Block2D", f"{way}Block2D") for level in LEVELS)


class Network(nn.Module):
    """The network: (B, C, H, W), times in [0, 1] (B,), text (unused) -> (B, C, H, W)."""

    def __init__(self, space: Space):
        super().__init__()
        channels, *size = space.shape
        self.unet = UNet2DModel(
            sample_size=tuple(size),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=WIDTHS,
            down_block_types=_kinds("Down"),
            up_block_types=_kinds("Up")[::-1],
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.unet(x, 1000 * t).sample

"""The network of a diffusion or score model."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from jensen.core.settings import Settings
from jensen.data.space import Classes, Space, Text
from jensen.nn import TimeMLP, UNet
from jensen.recipes.settings import Momentum, Positive

OF_KIND = {"mlp": ("width", "dropout"), "unet": ("widths", "patch")}
"""Settings that only one kind of network has."""
CHUNK = {"mlp": 256, "unet": 32}
"""Number of samples that are evaluated together."""


class DenoiserNetwork(Settings):
    """A network whose inputs are noised data, a noise level and optionally a condition."""

    kind: Literal["mlp", "unet"] = "mlp"
    """fully connected residual network, or U-Net"""
    blocks: Positive = 3
    """residual blocks; unet: at each level, on the way down and on the way up"""
    width: Positive = 256
    """units of the hidden layers (mlp)"""
    dropout: Momentum = 0.0
    """dropout probability of hidden units (mlp)"""
    widths: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=6)] = (96, 192)
    """channels of each level, multiples of 8 (unet)"""
    patch: Literal[1, 2, 4] = 4
    """side of the patches that the first layer folds into channels (unet)"""

    @property
    def chunk(self) -> int:
        return CHUNK[self.kind]

    def refuse(self, space: Space, cond: Classes | Text | None) -> None:
        """Raise a ValueError for data or conditions that the network does not take, or settings of the other kind."""
        for kind, keys in OF_KIND.items():
            if kind != self.kind:
                self.refuse_idle(f"by network.kind {self.kind}", *keys, prefix="network.")
        if self.kind == "mlp":
            if isinstance(cond, Text):
                raise ValueError("network.kind must be unet for data with texts, got mlp")
            return
        if not space.pictures:
            raise ValueError("network.kind must be mlp for points, got unet")
        if any(width % 8 for width in self.widths):
            raise ValueError(f"network.widths must be multiples of 8, got {self.widths}")
        height, width = space.shape[1:]
        factor = self.patch * 2 ** (len(self.widths) - 1)
        if height % factor or width % factor:
            raise ValueError(
                "height and width of pictures must be multiples of network.patch 2^(levels - 1), "
                f"{factor} for this network, got {height} and {width}"
            )

    def network(self, space: Space, cond: Classes | Text | None, *, outputs: int = 1) -> nn.Module:
        """A network called with z_t (B, *shape), t (B,) and, if there are conditions, one per row, (B, width)."""
        size = None if cond is None else cond.size
        if self.kind == "mlp":
            return TimeMLP(
                space.shape,
                width=self.width,
                blocks=self.blocks,
                classes=size,
                dropout=self.dropout,
                outputs=outputs,
            )
        channels, height, width = space.shape
        net = UNet(
            channels,
            (height, width),
            alphabet=size,
            length=1 if cond is None else cond.width,
            widths=self.widths,
            blocks=self.blocks,
            patch=self.patch,
            outputs=outputs,
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

"""Networks of families: the kind of network for some data, and the network of a diffusion or score model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from jensen.core.settings import Depth, Settings, Width
from jensen.data.space import Classes, Space, Text
from jensen.nn import Size, TimeMLP, UNet, operations, parameters, sized
from jensen.recipes.settings import Momentum

TINY = 12  # pixels along the shorter side, up to which a picture is learnt by fully connected layers
OF_KIND = {"mlp": ("width", "dropout"), "unet": ("widths", "patch", "attention")}
"""Settings that only one kind of network has."""
ROWS = {"mlp": 256, "unet": 32}
"""Most samples that are evaluated together."""
PIXELS = 2**16
"""Pixels that a U-Net evaluates together on a CPU: with more they leave its cache."""


def large(space: Space) -> bool:
    """Whether the data are pictures for which convolutions are worth their cost.

    >>> large(Space((1, 28, 28))), large(Space((1, 8, 8))), large(Space((2,)))
    (True, False, False)
    """
    return space.pictures and min(space.shape[1:]) > TINY


def channels_last(net: nn.Module) -> nn.Module:
    """The same network in the memory format with which convolutions on a CPU are fastest."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def cost(name: str, build: Callable[[], nn.Module], *shapes: Sequence[int]) -> str:
    """A network's parameters and multiply-adds for one example, in a sentence; nothing is computed.

    Args:
        name: name of the network.
        build: returns the network.
        shapes: shapes of its inputs, for one example.

    >>> cost("critic", lambda: nn.Linear(1000, 2000), (1000,))
    'critic: 2.0 million parameters, 2.0 million multiply-adds per example'
    """
    with torch.device("meta"):
        network = build()
        done = operations(network, *(torch.zeros(1, *shape) for shape in shapes))
    return f"{name}: {_count(parameters(network))} parameters, {_count(done)} multiply-adds per example"


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} million" if n >= 1e5 else f"{n:,}"


class DenoiserNetwork(Settings):
    """A network whose inputs are noised data, a noise level and optionally a condition.

    Settings that are null take their values from the size, which suits the data.
    """

    kind: Literal["auto", "mlp", "unet"] = "auto"
    """mlp: fully connected residual network; unet: U-Net; auto: unet for pictures with sides above 12 pixels or with
    texts"""
    size: Size = "tiny"
    """tiny: for two CPU cores; small, base, large: about 4, 16 and 64 times its operations, for GPUs"""
    blocks: Depth | None = None
    """residual blocks; unet: at each level, on the way down and on the way up"""
    width: Width | None = None
    """units of the hidden layers (mlp)"""
    dropout: Momentum = 0.0
    """dropout probability of hidden units (mlp)"""
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] | None = None
    """channels of each level, multiples of 8 (unet)"""
    patch: Literal[1, 2, 4] | None = None
    """side of the patches that the first layer folds into channels (unet)"""
    attention: Annotated[int, Field(ge=0, le=4096)] | None = None
    """self-attention at levels with sides of at most this many pixels; 0: none (unet)"""

    def kind_for(self, space: Space) -> str:
        if self.kind != "auto":
            return self.kind
        return "unet" if large(space) or (space.pictures and isinstance(space.cond, Text)) else "mlp"

    def chunk(self, space: Space) -> int:
        """Number of samples that are evaluated together."""
        kind = self.kind_for(space)
        if kind == "mlp" or torch.cuda.is_available():
            return ROWS[kind]
        most = max(1, min(ROWS[kind], PIXELS // math.prod(space.shape[1:])))
        return int(2 ** (most.bit_length() - 1))  # a power of two, which the threads of a CPU share evenly

    def refuse(self, space: Space, cond: Classes | Text | None) -> None:
        """Raise a ValueError for data or conditions that the network does not take, or settings of the other kind."""
        own = self.kind_for(space)
        for kind, keys in OF_KIND.items():
            if kind != own:
                self.refuse_idle(f"by network.kind {own}", *keys, prefix="network.")
        if own == "mlp":
            if isinstance(cond, Text):
                raise ValueError("network.kind must be unet for data with texts, got mlp")
            return
        if not space.pictures:
            raise ValueError("network.kind must be mlp for points, got unet")
        if any(width % 8 for width in self.widths or ()):
            raise ValueError(f"network.widths must be multiples of 8, got {self.widths}")

    def network(self, space: Space, cond: Classes | Text | None, *, outputs: int = 1) -> nn.Module:
        """A network called with z_t (B, *shape), t (B,) and, if there are conditions, one per row, (B, width)."""
        size = None if cond is None else cond.size
        if self.kind_for(space) == "mlp":
            width, layers = sized("points", self.size, space.shape).values()
            return TimeMLP(
                space.shape,
                width=self.width or width,
                blocks=self.blocks or layers,
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
            written=cond.length * cond.written if isinstance(cond, Text) else None,
            outputs=outputs,
            **self._sizes(space),
        )
        return channels_last(net)

    def _sizes(self, space: Space) -> dict[str, Any]:
        """Sizes of a U-Net's layers."""
        named = sized("denoiser", self.size, space.shape)
        return {key: value if (own := getattr(self, key)) is None else own for key, value in named.items()}

    def summary(self, space: Space) -> list[str]:
        """The cost of the network without a condition."""
        what = {"mlp": "fully connected network", "unet": "U-Net"}[self.kind_for(space)]
        named = all(getattr(self, key) is None for key in ("blocks", "width", "widths", "patch", "attention"))
        size = f" of size {self.size}" if named else ""
        return [cost(what + size, lambda: self.network(space, None), space.shape, ())]

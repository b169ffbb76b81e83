"""denoising-diffusion-pytorch's Unet with as many parameters as jensen's captcha network.

Four levels as by default (24 rows halve three times); of five shapes within 7 percent of this size, (1, 2, 8, 8) times
14 was the fastest in either precision, before the default (1, 2, 4, 8). Its weights are in channels-last
format, which is faster in float32 and as fast in bfloat16. It is not conditioned on text, which makes it cheaper.

The package imports torchvision only to load and save pictures, and torchvision is not built for every torch: without
it, `stand_in_for_torchvision` lets the import succeed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from jensen.data.space import Space


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Context manager: empty modules replace torchvision during the import, unless it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    parts = {name: ModuleType(f"torchvision.{name}") for name in ("transforms", "utils")}
    whole = ModuleType("torchvision")
    whole.__dict__.update(parts)
    modules = {"torchvision": whole, **{part.__name__: part for part in parts.values()}}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


with stand_in_for_torchvision():
    from denoising_diffusion_pytorch import Unet

WIDTH, LEVELS = 14, (1, 2, 8, 8)


class Network(nn.Module):
    """The network: (B, C, H, W), times in [0, 1] (B,), text (unused) -> (B, C, H, W)."""

    def __init__(self, space: Space):
        super().__init__()
        unet = Unet(WIDTH, dim_mults=LEVELS, channels=space.shape[0])
        self.unet = unet.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.unet(x.contiguous(memory_format=torch.channels_last), 1000 * t)

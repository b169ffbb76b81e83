"""Dead units: hidden units that are never active."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Units:
    """The hidden units behind one ReLU or LeakyReLU.

    Attributes:
        layer: name of the activation in the network.
        never: number of units that were positive for no input: dead for a ReLU, merely linear for a LeakyReLU.
        of: number of units (channels, for a convolution).
    """

    layer: str
    never: int
    of: int


@torch.no_grad()
def never_positive(network: nn.Module, run: Callable[[], Any]) -> list[Units]:
    """Units of each ReLU and LeakyReLU that are positive for no input of `run`, which calls the network.

    For a convolution a unit is a channel, positive if it is positive anywhere. An activation is listed once for each
    call, so pass all inputs in one call.

    Args:
        network: the network to inspect.
        run: calls the network, in evaluation mode, on (N, ...).

    Source: Lu et al. (2020), section 1, for units that are dead for all inputs.

    >>> layer = nn.Linear(1, 3)
    >>> layer.weight.data, layer.bias.data = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([0.0, 1.0, -1.0])
    >>> net = nn.Sequential(layer, nn.ReLU())
    >>> never_positive(net, lambda: net(torch.ones(5, 1)))
    [Units(layer='1', never=1, of=3)]
    """
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.append((name, _ever(out))))
        for name, module in network.named_modules()
        if isinstance(module, nn.ReLU | nn.LeakyReLU)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [Units(name, int((~ever).sum()), len(ever)) for name, ever in seen]


def _ever(out: Tensor) -> Tensor:
    """Which units are positive somewhere, (units,)."""
    return (out > 0).transpose(0, 1).flatten(1).any(1)

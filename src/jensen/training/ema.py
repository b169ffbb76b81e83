"""Averaged weights: what is sampled and exported."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Average <- decay average + (1 - decay) model, over parameters and floating buffers; others are copied.

    Both are modules of one structure; buffers left out of the state dict are averaged as well.

    Raises:
        ValueError: unless 0 <= decay <= 1.

    >>> average, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> update_average(average, model, decay=0.75)
    >>> average.weight.item()
    1.5
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    modules = zip(average.modules(), model.modules(), strict=True)
    pairs = {  # once each, tied ones too
        mine: getattr(other, name)
        for one, other in modules
        for name, mine in chain(one._parameters.items(), one._buffers.items())
        if mine is not None
    }
    ours = [mine for mine in pairs if mine.is_floating_point()]
    if ours:
        torch._foreach_lerp_(ours, [pairs[mine] for mine in ours], 1 - decay)
    for mine, now in pairs.items():
        if not mine.is_floating_point():
            mine.copy_(now)


def warm_decay(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + step) / (10 + step)): early steps are soon forgotten.

    >>> warm_decay(0.998)(0), warm_decay(0.998)(10**6)
    (0.1, 0.998)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return lambda step: min(decay, (1 + step) / (10 + step))

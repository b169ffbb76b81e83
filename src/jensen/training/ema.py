"""Averaged weights: what is sampled and exported."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Average <- decay average + (1 - decay) model, over parameters and floating buffers; others are copied.

    Both are looked at by name, buffers left out of the state dict included.

    Raises:
        ValueError: unless 0 <= decay <= 1.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    named_ours = dict(average.named_parameters()) | dict(average.named_buffers())
    named_theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in named_ours.items():
        if tensor.is_floating_point():
            ours.append(tensor)
            theirs.append(named_theirs[name])
        else:
            tensor.copy_(named_theirs[name])
    if ours:
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def warm_decay(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + step) / (10 + step)): early steps are soon forgotten.

    >>> warm_decay(0.998)(0), warm_decay(0.998)(10**6)
    (0.1, 0.998)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return lambda step: min(decay, (1 + step) / (10 + step))

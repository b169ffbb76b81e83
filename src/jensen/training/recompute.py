"""Activation checkpointing: activations within blocks are not stored, but computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module) -> int:
    """Store only the inputs of each block of a module's networks; returns the number of blocks.

    Gradients are the same numbers, for losses that contain no gradient; training takes one more forward pass of the
    blocks, and less memory. A block is a member of a `ModuleList` or `Sequential` with at least two layers that have
    parameters. A block that changes its own state in a forward pass, by batch norm or the power iteration of a spectral
    norm, is left as it is.

    Source: Chen et al. (2016), "Training deep nets with sublinear memory cost".

    >>> import torch
    >>> block = lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> net = nn.Sequential(block(), block())
    >>> recompute(net), net(torch.ones(1, 2)).shape
    (2, torch.Size([1, 2]))
    """
    found = list(_blocks(module))
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(found)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks."""
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child in module.children():
        if listed and _layers(child) >= 2 and not any(map(_changes, child.modules())):
            yield child
        else:
            yield from _blocks(child)


def _layers(module: nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def _changes(module: nn.Module) -> bool:
    """Whether a forward pass changes the module's buffers."""
    return isinstance(module, _BatchNorm) or parametrize.is_parametrized(module) or bool(module._forward_pre_hooks)

"""The state that differs between processes that train together: random numbers and buffers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from jensen.training.distributed import rank, told
from jensen.training.step import random_state


def process_state(module: nn.Module, **more: Any) -> dict[str, Any]:
    """Random state, buffers and `more` of this process; every process must call it.

    The buffers are those that differ from the first process's, which are in the module's own state.
    """
    own = buffers(module)
    digests = {name: _digest(value) for name, value in own.items() if isinstance(value, Tensor)}
    first = told(digests)
    kept = {name: value for name, value in own.items() if name not in digests or digests[name] != first.get(name)}
    return {"rng": random_state(), "buffers": kept if rank() else {}, **more}


def buffers(module: nn.Module) -> dict[str, Any]:
    """The module's state on the CPU, without the parameters, which are equal in all processes."""
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = {name: value for name, value in module.state_dict().items() if name not in weights}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in kept.items()}


def _digest(x: Tensor) -> str:
    bits = x.to_dense().contiguous().reshape(-1).view(torch.uint8)
    return f"{x.dtype} {tuple(x.shape)} {hashlib.sha256(bits.numpy().data).hexdigest()}"

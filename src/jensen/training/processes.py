"""The state that differs between processes that train together: random numbers and buffers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from jensen.training.distributed import collect
from jensen.training.step import random_state


def process_states(module: nn.Module, **more: Any) -> list[dict[str, Any]]:
    """Random state, buffers and `more` of every process, in order of rank, for the first process; nothing for others.

    The buffers are those that differ from the first process's, which are in the module's own state.
    """
    every = collect({"rng": random_state(), "buffers": buffers(module), **more})
    return [
        own | {"buffers": _differing(own["buffers"], every[0]["buffers"]) if k else {}} for k, own in enumerate(every)
    ]


def buffers(module: nn.Module) -> dict[str, Any]:
    """The module's state on the CPU, without the parameters, which are equal in all processes."""
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = {name: value for name, value in module.state_dict().items() if name not in weights}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in kept.items()}


def _differing(own: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in own.items() if not (isinstance(v, Tensor) and v.equal(first[k]))}

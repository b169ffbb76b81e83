"""The cost of a sample, in network evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn


def evaluations(model: nn.Module, run: Callable[[], object]) -> int:
    """The number of network evaluations of `run`: calls of the most often called layer with parameters.

    >>> import torch
    >>> net = nn.Linear(2, 2)
    >>> evaluations(net, lambda: net(net(torch.zeros(1, 2))))
    2
    """
    calls: Counter[nn.Module] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        calls[module] += 1

    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return max(calls.values(), default=0)

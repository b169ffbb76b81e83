"""Numbers that are not finite: in a tree of tensors, and in a computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def non_finite(tree: Any, name: str = "") -> str:
    """The dotted name of the first tensor with an infinite or nan entry in a tree, or "".

    >>> import torch
    >>> non_finite({"a": torch.ones(2), "b": [torch.tensor([1.0, float("nan")])]}), non_finite({"a": torch.ones(2)})
    ('b.0', '')
    """
    if isinstance(tree, Tensor):
        return "" if bool(tree.isfinite().all()) else name
    pairs: Any = tree.items() if isinstance(tree, Mapping) else ()
    pairs = enumerate(tree) if isinstance(tree, list | tuple) else pairs
    for key, value in pairs:
        if found := non_finite(value, f"{name}.{key}" if name else str(key)):
            return found
    return ""


class _Overflow(TorchDispatchMode):
    """Finds the first operation with a result that is not finite from operands that are."""

    found: str = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        sound = bool(given) and not self.found and not non_finite(given)
        result = func(*args, **(kwargs or {}))
        if sound and non_finite([v for v in tree_leaves(result) if isinstance(v, Tensor)]):
            self.found = func.overloadpacket.__name__
        return result


def overflow(function: Callable[[], object]) -> str:
    """The first operation of a call with a result that is not finite although its operands are, or "".

    >>> import torch
    >>> overflow(lambda: torch.full((2,), 100.0).exp().log()), overflow(lambda: torch.ones(2).exp())
    ('exp', '')
    """
    mode = _Overflow()
    with suppress(Exception), mode:
        function()
    return mode.found

"""Numbers that are not finite: where they arise, and steps that are skipped because of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jensen.core.types import NonFiniteLoss

if TYPE_CHECKING:
    from jensen.training.step import TrainState


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


def refuse_non_finite(state: TrainState) -> None:
    """Raise a NonFiniteLoss that names a player and a tensor unless everything that a checkpoint holds is finite."""
    if place := non_finite(state.state_dict()):
        names = {p: name for name, p in state.objective.named_parameters()}
        owners = {f"objective.{names[p]}": player for player, own in state.players.items() for p in own.parameters}
        optimized = (player for player in state.players if place.startswith(f"optimizers.{player}."))
        player = owners.get(place) or next(optimized, next(iter(state.players)))
        raise NonFiniteLoss(state.step, player, place, "the state")


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


@dataclass
class Tolerance:
    """Undoes steps whose numbers are not finite, up to `most` in a row; the batch is dropped, and the step made again.

    Everything that a checkpoint holds is copied before each step and restored: weights, averages, optimizers, buffers,
    random state. The weights after a step are checked too.

    Attributes:
        most: number of skipped steps in a row, at least 0; 0 copies nothing.
        on_skip: called with the error of each skipped step.
    """

    most: int = 0
    on_skip: Callable[[NonFiniteLoss], None] = lambda _: None

    def __call__(self, state: TrainState, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The terms of the first good step.

        Raises:
            NonFiniteLoss: if more than `most` steps in a row are not finite.
        """
        if not self.most:
            return step()
        kept = copy.deepcopy(state.state_dict())
        for left in range(self.most, -1, -1):
            try:
                terms = step()
                refuse_non_finite(state)
                break
            except NonFiniteLoss as error:
                state.load_state_dict(copy.deepcopy(kept) | {"draws": state.draws})
                if not left:
                    raise
                self.on_skip(error)
        return terms

"""Training steps whose numbers are not finite: refused, or skipped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from jensen.core.types import NonFiniteLoss
from jensen.training.distributed import anywhere
from jensen.training.finite import non_finite
from jensen.training.sharding import shares
from jensen.training.step import TrainState


def infinite(state: TrainState) -> str:
    """The dotted name of a tensor of the state that is not finite in some process, or ""; all processes call it."""
    return anywhere(non_finite(shares(state.state_dict())))


def refuse_non_finite(state: TrainState) -> None:
    """Raise a NonFiniteLoss that names a player and a tensor unless everything that a checkpoint holds is finite; all
    processes call it.
    """
    if place := infinite(state):
        names = {p: name for name, p in state.objective.named_parameters()}
        owners = {f"objective.{names[p]}": player for player, own in state.players.items() for p in own.parameters}
        optimized = (player for player in state.players if place.startswith(f"optimizers.{player}."))
        player = owners.get(place) or next(optimized, next(iter(state.players)))
        raise NonFiniteLoss(state.step, player, place, "the state")


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

    def __post_init__(self) -> None:
        if not (isinstance(self.most, int) and self.most >= 0):
            raise ValueError(f"most must be a whole number of at least 0, got {self.most}")

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
                    raise NonFiniteLoss(error.step, error.player, error.term, error.what, self.most) from error
                self.on_skip(error)
        return terms

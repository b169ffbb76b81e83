"""The loop around the step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from jensen.core.types import Stream
from jensen.training.budget import Budget
from jensen.training.step import TrainState, Update, descend, train_step


def fit(
    state: TrainState,
    stream: Stream,
    budget: Budget,
    *,
    update: Update = descend,
    on_step: Callable[[TrainState, dict[str, Tensor]], None] | None = None,
) -> None:
    """Step until the budget is used up. The clock stands still while `on_step` does its work.

    Args:
        state: changed in place; a state that has been loaded goes on where it was.
        stream: opened at `state.draws`.
        budget: steps or minutes of training.
        update: how players move.
        on_step: called after each step with the state and the step's terms.
    """
    batches = stream(state.draws)
    while True:
        budget.start()
        budget.look()
        if budget.done(state.step):
            break
        terms = train_step(state, batches, update=update)
        if on_step is not None:
            budget.pause()
            on_step(state, terms)
    budget.pause()

"""A recipe prepared for training, as `jensen train` does: what the benchmarks time and evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from jensen.core.seeding import begin_globally
from jensen.data.dataset import Data
from jensen.recipes.recipe import Recipe
from jensen.runs.opening import open_data
from jensen.runs.train import new_objective, new_state
from jensen.training import Budget, TrainState, fit, train_step


@dataclass
class Training:
    """A recipe in training, on the CPU and without a folder.

    Attributes:
        recipe: the recipe, adapted to its data.
        data: the opened data set.
        state: objective, players and averaged model.
        budget: length of the training, in steps or minutes.
    """

    recipe: Recipe
    data: Data
    state: TrainState
    budget: Budget

    def __post_init__(self) -> None:
        self.stream = self.recipe.family.stream(self.data, self.recipe.training.batch_size, self.recipe.seed)
        self.update, self.batches = self.recipe.family.update(), self.stream(0)

    def step(self) -> dict[str, Tensor]:
        """Take one training step."""
        return train_step(self.state, self.batches, update=self.update)

    def run(self, on_step: Callable[[TrainState, dict[str, Tensor]], None] | None = None) -> float:
        """Train for the whole budget; returns the seconds, not counting `on_step`."""
        fit(self.state, self.stream, self.budget, update=self.update, on_step=on_step)
        return self.budget.seconds()


def prepare(recipe: Recipe, data: Data | None = None) -> Training:
    """The recipe before its first step; its weights depend on its seed alone.

    Args:
        recipe: recipe to train.
        data: data to train on, or None for the data of the recipe.
    """
    data = open_data(recipe) if data is None else data
    recipe = recipe.on(data.space)
    begin_globally(recipe.seed)
    objective, budget = new_objective(recipe, data), recipe.training.budget()
    return Training(recipe, data, new_state(recipe, objective, budget), budget)

"""A user's objective, which is passed from Python together with its model."""

from __future__ import annotations

from torch import nn

from jensen.core.objective import Objective
from jensen.data.space import Space
from jensen.recipes.families.base import Family


class Own(Family):
    """An objective passed from Python; the settings contain its name, but opening the run requires its model."""

    trained: str = ""
    """class of the model"""
    by: str = ""
    """class of the objective, or name of the loss"""

    def model(self, space: Space) -> nn.Module:
        raise ValueError(
            f"it was trained by a user's objective{f', {self.by}' * bool(self.by)}: give the model"
            f"{f', a {self.trained},' * bool(self.trained)} as in jensen.open(path, model=module)"
        )

    def objective(self, model: nn.Module, space: Space) -> Objective:
        raise ValueError("a user's objective must be passed from Python, as in jensen.train(objective, data=x)")

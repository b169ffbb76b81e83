"""An objective of one's own, given from Python together with its model."""

from __future__ import annotations

from torch import nn

from jensen.core.objective import Objective
from jensen.data.space import Space
from jensen.recipes.families.base import Family


class Own(Family):
    """An objective given from Python; the settings name it, but the run opens only with its model."""

    trained: str = ""
    """class of the model"""
    by: str = ""
    """class of the objective, or name of the loss"""

    def model(self, space: Space) -> nn.Module:
        raise ValueError(
            f"it was trained by an objective of one's own{f', {self.by}' * bool(self.by)}: give the model"
            f"{f', a {self.trained},' * bool(self.trained)} as in jensen.open(path, model=module)"
        )

    def objective(self, model: nn.Module, space: Space) -> Objective:
        raise ValueError("an objective of one's own is given from Python, as in jensen.train(objective, data=x)")

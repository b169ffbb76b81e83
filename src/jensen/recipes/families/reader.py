"""Readers: networks that read the texts or classes that pictures show."""

from __future__ import annotations

from torch import nn

from jensen.core.objective import Objective
from jensen.data.space import Space
from jensen.nn import Reader as Network
from jensen.objectives import Reading
from jensen.recipes.families.base import Family
from jensen.recipes.settings import NonNegative, Training


class Reader(Family):
    """Convolutions, a recurrence over columns, a softmax for each character; trained by cross-entropy."""

    noise: NonNegative = 0.15
    """largest standard deviation of the noise added to training pictures"""
    shift: int = 2
    """largest shift of training pictures, in pixels"""

    def refuse(self, space: Space, training: Training) -> None:
        if not space.pictures or space.cond is None:
            raise ValueError("family reader needs pictures with a text or a class each")

    def model(self, space: Space) -> nn.Module:
        assert space.cond is not None
        return Network(space.shape[0], alphabet=space.cond.size, length=space.cond.width)

    def objective(self, model: nn.Module, space: Space) -> Objective:
        return Reading(model, noise=self.noise, shift=self.shift)

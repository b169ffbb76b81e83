"""Readers: networks that recognise the text or class of a picture."""

from __future__ import annotations

from torch import nn

from jensen.core.objective import Objective
from jensen.data.space import Space
from jensen.nn import Reader as Network
from jensen.objectives import Reading
from jensen.recipes.families.base import Family
from jensen.recipes.settings import NonNegative, Training


class Reader(Family):
    """Convolutions, a recurrent network over columns and a softmax per character, trained by cross-entropy."""

    noise: NonNegative = 0.15
    """largest standard deviation of the noise added to training pictures"""
    shift: int = 2
    """largest shift of training pictures, in pixels"""

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        if not space.pictures or space.cond is None:
            raise ValueError("family reader needs pictures that each have a text or a class")

    def model(self, space: Space) -> nn.Module:
        assert space.cond is not None
        return Network(space.shape[0], alphabet=space.cond.size, length=space.cond.width)

    def objective(self, model: nn.Module, space: Space) -> Objective:
        return Reading(model, noise=self.noise, shift=self.shift)

"""Readers: networks that recognise the text of a picture, or the class of a picture or point."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from jensen.core.objective import Objective
from jensen.core.settings import Settings, Width
from jensen.data.space import Space, Text
from jensen.nn import AttentiveReader, Classifier, PictureEncoder, Size, Standardized, mlp, sized
from jensen.nn import Reader as Network
from jensen.objectives import Reading
from jensen.recipes.families.base import Family
from jensen.recipes.networks import cost
from jensen.recipes.settings import NonNegative, Training


class ClassNetwork(Settings):
    """The network of a reader of classes: convolutions for pictures, fully connected layers for points."""

    size: Size = "tiny"
    """tiny: for two CPU cores; small, base, large: about 4, 16 and 64 times its operations, for GPUs"""
    width: Width | None = None
    """channels of the finest grid, or units of the hidden layers; null: by the size"""
    features: Width = 64
    """units of the last hidden layer, which serves as features in judging"""

    def network(self, space: Space) -> nn.Module:
        """The untrained network, on standardised data."""
        assert space.cond is not None
        encoder: nn.Module
        own = {} if self.width is None else {"width": self.width}
        if space.pictures:
            encoder = PictureEncoder(space.shape, self.features, **sized("encoder", self.size, space.shape) | own)
        else:
            width, layers = (sized("points", self.size, space.shape) | own).values()
            encoder = mlp(space.dims, *[width] * layers, self.features, activation=nn.SiLU)
        scaled = nn.Sequential(Standardized(*space.moments()), encoder)
        return Classifier(scaled, self.features, classes=space.cond.size)


class Reader(Family):
    """A network that reads the class of an example, or each character of the text in a picture, by cross-entropy.

    Texts: convolutions, then a recurrent network over columns or attention, and a softmax per character.
    """

    noise: NonNegative = 0.15
    """largest standard deviation of the noise added to training pictures"""
    shift: Annotated[int, Field(ge=0)] = 2
    """largest shift of training pictures, in pixels; at most an eighth of a side"""
    texts: Literal["recurrent", "attention"] = "recurrent"
    """how texts are read: by a recurrent network over columns, or by attention with one query per character"""
    network: ClassNetwork = ClassNetwork()

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        if space.cond is None or not (space.pictures or not isinstance(space.cond, Text)):
            raise ValueError("family reader needs data with a class for each example, or pictures with a text each")
        if not space.pictures:
            self.refuse_idle("for points", "noise", "shift")
        if isinstance(space.cond, Text):
            self.network.refuse_idle("for texts", "size", "width", "features", prefix="network.")
        else:
            self.refuse_idle("for classes", "texts")

    def model(self, space: Space) -> nn.Module:
        if isinstance(space.cond, Text):
            made = Network if self.texts == "recurrent" else AttentiveReader
            return made(space.shape[0], alphabet=len(space.cond.alphabet), length=space.cond.length)
        return self.network.network(space)

    def objective(self, model: nn.Module, space: Space) -> Objective:
        if not space.pictures:
            return Reading(model, noise=0.0, shift=0)
        return Reading(model, noise=self.noise, shift=min(self.shift, min(space.shape[1:]) // 8))

    def summary(self, space: Space) -> list[str]:
        if isinstance(space.cond, Text):
            return []
        return [cost(f"classifier of size {self.network.size}", lambda: self.network.network(space), space.shape)]

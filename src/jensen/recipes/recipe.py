"""A recipe: data, family, training and judging as one value. Only this file imports all kinds of them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from jensen.core.settings import Settings
from jensen.data.space import Space
from jensen.judging.settings import COMMON, Judging
from jensen.recipes.families import (  # noqa: F401
    autoencoder,
    diffusion,
    gan,
    kernel,
    mixture,
    own,
    reader,
    score,
    translation,
    vae,
)
from jensen.recipes.families.base import Family
from jensen.recipes.settings import Training
from jensen.recipes.sources import (  # noqa: F401
    arrays,
    captcha,
    digits,
    memory,
    pair,
    pictures,
    points,
    sprites,
    stacked,
    table,
    two,
)
from jensen.recipes.sources.base import Source

AnySource = Annotated[SerializeAsAny[Source], BeforeValidator(Source.parse)]
AnyFamily = Annotated[SerializeAsAny[Family], BeforeValidator(Family.parse)]


class Recipe(Settings):
    """Everything needed to reproduce a run."""

    name: str
    """of the recipe"""
    about: str = ""
    """description of the recipe, one line"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """random seed of data, weights, batches and samples"""
    data: AnySource
    family: AnyFamily
    training: Training
    judging: Judging = Judging()
    space: Space | None = None
    """space of the data, filled in when the data are opened"""

    @model_validator(mode="after")
    def _suits(self) -> Self:
        for key in sorted(self.unjudged):
            if getattr(self.judging, key) != Judging.model_fields[key].default:
                raise ValueError(f"judging.{key} is not used by family {self.family.kind}: leave it out")
        space = self.space or self.data.known()
        if space is not None:
            self.family.refuse(space, self.training)
        return self

    @property
    def unjudged(self) -> set[str]:
        """Settings of `judging` that no judge of the family's runs uses."""
        return set(Judging.model_fields) - COMMON - self.family.judged

    def lasting(self, training: Training) -> Self:
        """The same recipe with the steps or minutes of `training`."""
        return self.model_copy(update={"training": self.training.lasting(training)})

    def on(self, space: Space) -> Self:
        """The same recipe, with the space of the opened data and the settings that the source chose from the data.

        Raises:
            ValueError: if the family cannot be used with the data.
        """
        self.family.refuse(space, self.training)
        return self.model_copy(update={"space": space, "data": self.data.settled(space)})

    def tree(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return self.model_dump(mode="json")

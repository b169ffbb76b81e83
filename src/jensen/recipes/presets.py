"""Recipes by name. Each differs from the defaults of its data and its family in what is written here alone."""

from __future__ import annotations

from functools import partial

from jensen.judging.settings import Judging
from jensen.recipes.families.base import Family
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.base import Source

PRESETS: dict[str, Recipe] = {}


def add(
    name: str, about: str, data: Source, family: Family, training: Training, judging: Judging | None = None
) -> None:
    """Add a preset."""
    PRESETS[name] = Recipe(
        name=name, about=about, data=data, family=family, training=training, judging=judging or Judging()
    )


_READER = partial(Training, batch_size=128, rate=3e-3, warmup=240, decay=0.9, average=0.99, precision="bfloat16")

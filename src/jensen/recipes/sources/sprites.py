"""Sprites: small shapes drawn from known factors."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import generator
from jensen.data.dataset import Data, Factors, Truths, spaced
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.data.sprites import FACTORS, sprites
from jensen.recipes.sources.base import Opener, Source, fingerprint, no_runs

Levels = Annotated[int, Field(ge=2, le=20)]  # a score of 20 bins could not tell more levels apart


class Sprites(Source):
    """Every combination of shape, scale, orientation and position once; a pixel is set if a shape covers at least half
    of it.
    """

    size: Annotated[int, Field(ge=1, le=1_024)] = 20
    """width and height of a picture in pixels"""
    scales: Levels = 3
    """number of scales"""
    orientations: Levels = 4
    """number of orientations"""
    positions: Levels = 8
    """number of positions along x and along y"""
    test: Annotated[int, Field(ge=2)] = 300
    """number of held-out pictures, the same for every seed"""

    @model_validator(mode="after")
    def _room(self) -> Sprites:
        if self.size < self.positions + 5:
            raise ValueError(f"size must be at least positions + 5, {self.positions + 5}, got {self.size}")
        count = 3 * self.scales * self.orientations * self.positions**2
        if self.test >= count:
            raise ValueError(f"test must be below the number of pictures, {count}, got {self.test}")
        return self

    def known(self) -> Space:
        return Space((1, self.size, self.size), 2)

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        x, values = _grid(self.size, self.scales, self.orientations, self.positions)
        order = torch.randperm(len(x), generator=generator(0))
        train, test = Tensors(x=x[order[self.test :]]), Tensors(x=x[order[: self.test]])
        name = f"{len(x)} sprites of {self.size} x {self.size} pixels"
        truths = Truths(factors=Factors(x, values, FACTORS))
        return Data(name, fingerprint(self), spaced(self.known(), train), train, test, truths)


@lru_cache(maxsize=4)
def _grid(size: int, scales: int, orientations: int, positions: int) -> tuple[Tensor, Tensor]:
    covered, values = sprites(size, scales=scales, orientations=orientations, positions=positions)
    return (covered >= 0.5).float() * 2 - 1, values

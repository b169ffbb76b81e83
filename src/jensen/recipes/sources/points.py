"""Points in the plane from a known distribution: two moons, a ring of modes, a grid of modes."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived, generator
from jensen.core.settings import MOST_ROWS
from jensen.data.dataset import Data, Truths, spaced
from jensen.data.mixtures import Modes, grid, ring
from jensen.data.moons import NOISE, moons, moons_log_prob
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.recipes.sources.base import Opener, Source, fingerprint, no_runs

Count = Annotated[int, Field(ge=16, le=MOST_ROWS)]
Length = Annotated[float, Field(gt=0)]
Balance = Annotated[float, Field(gt=0, le=1)]


class Points(Source):
    """Points drawn from a distribution; the held-out ones are the same for every seed."""

    points: Count = 100_000
    """number of training points"""
    test: Count = 2_500
    """number of held-out points"""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the distribution in a sentence."""

    @abstractmethod
    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Points (n, 2)."""

    @abstractmethod
    def truths(self) -> Truths:
        """What is known exactly of the distribution."""

    def known(self) -> Space:
        return Space((2,))

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        train, test = (
            Tensors(x=self.draw(n, generator(derived(own, part))))
            for n, own, part in ((self.points, seed, "train"), (self.test, 0, "test"))
        )
        return Data(self.name, fingerprint(self), spaced(self.known(), train), train, test, self.truths())


class Moons(Points):
    """Points around two half circles."""

    points: Count = 20_000
    """number of training points"""
    test: Count = 2_000
    """number of held-out points"""
    noise: Length = NOISE
    """standard deviation of the points around the half circles"""

    @property
    def name(self) -> str:
        return f"two moons, noise {self.noise:g}"

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return moons(n, noise=self.noise, generator=rng)

    def truths(self) -> Truths:
        return Truths(log_p=lambda x, sigma: moons_log_prob(x.double(), noise=math.hypot(self.noise, sigma)))


class Mixture(Points):
    """Points around modes."""

    std: Length = 0.1
    """standard deviation of each mode"""
    balance: Balance = 1.0
    """weight of the rarest mode divided by that of the most frequent one"""

    @abstractmethod
    def law(self) -> Modes:
        """The mixture from which the points are drawn."""

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return self.law().draw(n, rng)

    def truths(self) -> Truths:
        law = self.law()
        return Truths(log_p=lambda x, sigma: law.noised(sigma).log_prob(x.double()), modes=law)


class Ring(Mixture):
    """Points around modes on a circle."""

    modes: Annotated[int, Field(ge=1, le=10_000)] = 8
    """number of modes"""
    radius: Length = 1.0
    """radius of the circle"""
    std: Length = 0.01
    """standard deviation of each mode"""

    @property
    def name(self) -> str:
        return f"a ring of {self.modes} modes, standard deviation {self.std:g}, balance {self.balance:g}"

    def law(self) -> Modes:
        return ring(self.modes, radius=self.radius, std=self.std, balance=self.balance)


class Grid(Mixture):
    """Points around modes on a square grid."""

    side: Annotated[int, Field(ge=1, le=100)] = 5
    """modes along a side of the grid"""
    spacing: Length = 2.0
    """distance between neighbouring modes"""

    @property
    def name(self) -> str:
        return f"a grid of {self.side} x {self.side} modes, standard deviation {self.std:g}, balance {self.balance:g}"

    def law(self) -> Modes:
        return grid(self.side, spacing=self.spacing, std=self.std, balance=self.balance)

"""Data that recipes share, as settings: scikit-learn's digits, the two moons."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core.seeding import numbered
from jensen.data.digits import LEVELS, Digits, binarize, digits, to_unit
from jensen.data.moons import moons, moons_log_prob
from jensen.recipes.base import Real, Settings

SEEN, KEPT = 11, 12  # streams of random numbers: to train on, to judge with


@cache
def all_digits() -> Digits:
    """The digits, read once."""
    return digits()


class DigitsData(Settings):
    """Handwritten digits, (N, 1, 8, 8): "ink" is {0, 1}, "grey" 17 levels in [-1, 1]."""

    scale: Literal["ink", "grey"] = "ink"

    def train(self) -> tuple[Tensor, Tensor]:
        """Pictures and their labels to train on, 1,437."""
        return self._scaled(all_digits().train), all_digits().train_labels

    def test(self) -> tuple[Tensor, Tensor]:
        """Pictures and their labels to judge with, 360."""
        return self._scaled(all_digits().test), all_digits().test_labels

    def real(self) -> Real:
        labels = all_digits().train_labels, all_digits().test_labels
        name = "scikit-learn's digits, " + ("ink in {0, 1}" if self.scale == "ink" else "grey levels in [-1, 1]")
        levels = None if self.scale == "ink" else LEVELS
        return Real(name, self.train()[0], self.test()[0], labels, levels)

    def _scaled(self, levels: Tensor) -> Tensor:
        return binarize(levels) if self.scale == "ink" else to_unit(levels)


class MoonsData(Settings):
    """Points around two half circles, (N, 2)."""

    points: Annotated[int, Field(ge=16)] = 20_000
    test: Annotated[int, Field(ge=16)] = 2_000
    noise: Annotated[float, Field(gt=0)] = 0.1

    def train_points(self, seed: int) -> Tensor:
        """Points to train on."""
        return moons(self.points, noise=self.noise, generator=_stream(seed, SEEN))

    def real(self, seed: int) -> Real:
        name = described(self)
        return Real(name, self.train_points(seed), self.test_points(seed))

    def log_p(self, x: Tensor) -> Tensor:
        """Log density of the points' own law, (N,) nats."""
        return moons_log_prob(x.double(), noise=self.noise)

    def test_points(self, seed: int) -> Tensor:
        """Fresh points to judge with."""
        return moons(self.test, noise=self.noise, generator=_stream(seed, KEPT))


def described(settings: Settings) -> str:
    """Data by kind and by their settings: two that are described alike follow one law."""
    name = type(settings).__name__.removesuffix("Data").lower()
    said = ", ".join(f"{key} {value}" for key, value in settings.model_dump(mode="json").items())
    return f"{name} ({said})" if said else name


def _stream(seed: int, number: int) -> torch.Generator:
    return numbered(seed, number, 1009)

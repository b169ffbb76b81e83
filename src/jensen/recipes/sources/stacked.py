"""Stacked digits: three handwritten digits as the channels of a picture, a thousand modes with known probabilities."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived, generator
from jensen.core.settings import MOST_ROWS
from jensen.data.dataset import Data, Truths, spaced
from jensen.data.digits import LEVELS, SIDE
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.data.stacked import CHANNELS, mode_shares, stacked, stacked_stream
from jensen.recipes.sources.base import Opener, Source, fingerprint, no_runs
from jensen.recipes.sources.digits import DigitReader, Part, pictures


class StackedDigits(Source):
    """Three random digits as the channels of a picture; every training batch has new combinations."""

    balance: Annotated[float, Field(gt=0, le=1)] = 1.0
    """probability of the rarest digit divided by that of the most frequent one"""
    points: Annotated[int, Field(ge=16, le=MOST_ROWS)] = 20_000
    """number of training pictures that samples are compared with"""
    test: Annotated[int, Field(ge=16, le=MOST_ROWS)] = 2_500
    """number of held-out pictures, made of held-out digits; the same for every seed"""

    def known(self) -> Space:
        return Space((CHANNELS, SIDE, SIDE), LEVELS)

    def open_reader(self, runs: Opener = no_runs) -> DigitReader:
        return DigitReader()

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        train, test = self._draw("train", self.points, seed), self._draw("test", self.test, 0)
        return Data(
            f"stacked digits, balance {self.balance:g}",
            fingerprint(self),
            spaced(self.known(), train),
            train,
            test,
            Truths(reader=self.open_reader(), shares=mode_shares(self.balance)),
            streams=lambda batch_size, seed: stacked_stream(
                *pictures("handwritten", "train"), batch_size, seed, balance=self.balance
            ),
        )

    def _draw(self, part: Part, n: int, seed: int) -> Tensors:
        rng = generator(derived(seed, part))
        x, mode = stacked(*pictures("handwritten", part), n, balance=self.balance, generator=rng)
        return Tensors(x=x, read=torch.stack([mode // 100, mode // 10 % 10, mode % 10], 1))

"""Digits: scikit-learn's handwritten digits, or digits printed in several fonts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived, generator
from jensen.core.settings import MOST_ROWS
from jensen.data.dataset import Data, Truths, spaced
from jensen.data.digits import LEVELS, SIDE, binarize, digits, to_unit
from jensen.data.digits import Digits as Handwritten
from jensen.data.pool import Tensors
from jensen.data.printed import FONTS, UNSEEN_FONTS, enlarge, printed
from jensen.data.space import Classes, Space
from jensen.recipes.sources.base import Opener, Source, fingerprint, no_runs

if TYPE_CHECKING:
    from sklearn.svm import SVC

Style = Literal["handwritten", "printed"]
Scale = Literal["ink", "grey"]
Part = Literal["train", "test"]

CLASSES = Classes(tuple("0123456789"))
HANDWRITTEN = 1437  # to train on
PRINTED, PRINTED_SIDE, PRINTED_TEST = 2000, 16, 600


@lru_cache(maxsize=32)
def pictures(
    style: Style, part: Part, n: int | None = None, *, side: int = SIDE, scale: Scale = "grey"
) -> tuple[Tensor, Tensor]:
    """Digits of one style, (n, 1, side, side) in [-1, 1], and their labels (n,): the same on each call.

    The second half of the printed test digits is in fonts that are not in the training set. The first n handwritten
    digits cycle through the classes: the first of every class, then the second of every class, ...

    Args:
        style: handwritten ones are 8 x 8, enlarged to `side`; printed ones are drawn at `side`.
        part: "train" or "test".
        n: number of digits; None: all handwritten ones, 2000 printed ones to train on, 600 to test.
        side: width and height of a picture in pixels, at least 8.
        scale: "ink", two levels, or "grey", 17 levels.
    """
    levels, labels = _handwritten(part, n) if style == "handwritten" else _printed(part, n, side)
    x = enlarge(to_unit(levels), side)
    return binarize(x) if scale == "ink" else x, labels


@cache
def _read() -> Handwritten:
    return digits()


def _handwritten(part: Part, n: int | None) -> tuple[Tensor, Tensor]:
    if part == "test":
        return _read().test, _read().test_labels
    levels, labels = _read().train, _read().train_labels
    if n is None:
        return levels, labels
    earlier = (labels[:, None] == labels).tril(-1).sum(1)  # of its own class
    first = (earlier * CLASSES.size + labels).argsort()[:n]
    return levels[first], labels[first]


def _printed(part: Part, n: int | None, side: int) -> tuple[Tensor, Tensor]:
    n = n or (PRINTED if part == "train" else PRINTED_TEST)
    new = n // 2 if part == "test" else 0
    drawn = [
        printed(count, side=side, fonts=fonts, generator=generator(derived(0, "printed digits", part)))
        for count, fonts in ((n - new, FONTS), (new, UNSEEN_FONTS))
        if count
    ]
    return torch.cat([found.levels for found in drawn]), torch.cat([found.labels for found in drawn])


@dataclass(frozen=True)
class DigitReader:
    """A support vector machine that reads every channel of a picture as a digit; trained on first use and cached.

    It is trained on the whole training set, even if a generator is trained on fewer digits.

    Attributes:
        style, side, scale: style, side and scale of the digits.
        known: number of printed digits in its training set.
    """

    style: Style = "handwritten"
    side: int = SIDE
    scale: Scale = "grey"
    known: int = PRINTED

    clear_means = "as clear as 95% of the held-out digits"

    def read(self, x: Tensor) -> Tensor:
        """The digits (N, C) read in pictures (N, C, side, side)."""
        return torch.from_numpy(_machine(self).predict(_flat(x))).view(x.shape[:2])

    def clarity(self, x: Tensor) -> Tensor:
        """Clarity of each digit: the smallest of the nine margins of the predicted class, (N, C) float64.

        A margin is the decision function between two classes: usually beyond 1 or -1, and 0 if undecided.
        """
        read, pairs = self.read(x).flatten(), torch.from_numpy(_machine(self).decision_function(_flat(x)))
        first, second = torch.triu_indices(CLASSES.size, CLASSES.size, 1)
        margins = torch.full((len(pairs), CLASSES.size, CLASSES.size), torch.inf, dtype=pairs.dtype)
        margins[:, first, second], margins[:, second, first] = pairs, -pairs
        return margins[torch.arange(len(read)), read].amin(1).view(x.shape[:2])

    def clear(self, x: Tensor) -> Tensor:
        """Which digits are as clear as 95% of the held-out digits, (N, C) bool."""
        return self.clarity(x) >= _least(self)

    def _pictures(self, part: Part) -> tuple[Tensor, Tensor]:
        known = self.known if (self.style, part) == ("printed", "train") else None
        return pictures(self.style, part, known, side=self.side, scale=self.scale)


def _flat(x: Tensor) -> object:
    return x.detach().cpu().flatten(0, 1).flatten(1).numpy()


@cache
def _machine(reader: DigitReader) -> SVC:
    from sklearn.svm import SVC  # seconds to import

    x, labels = reader._pictures("train")
    return SVC(C=10.0, gamma="scale", decision_function_shape="ovo").fit(_flat(x), labels.numpy())


@cache
def _least(reader: DigitReader) -> float:
    return float(reader.clarity(reader._pictures("test")[0]).quantile(0.05))


class Digits(Source):
    """One digit per picture: scikit-learn's handwritten digits, or digits printed in several fonts."""

    style: Style = "handwritten"
    """handwritten: scikit-learn's; printed: in several fonts"""
    scale: Scale = "grey"
    """grey: 17 levels, interpolated where handwritten digits are enlarged; ink: two levels"""
    side: Annotated[int, Field(ge=SIDE, le=256)] | None = None
    """width and height of a picture in pixels; null: 8 for handwritten, 16 for printed digits"""
    pictures: Annotated[int, Field(ge=10, le=MOST_ROWS)] | None = None
    """number of training digits; null: 1437 handwritten or 2000 printed ones"""
    test: Annotated[int, Field(ge=20, le=MOST_ROWS)] | None = None
    """number of printed held-out digits, half of them in fonts that are not in the training set; null: 600"""

    @model_validator(mode="after")
    def _there(self) -> Digits:
        if self.style == "handwritten" and (self.pictures or 0) > HANDWRITTEN:
            raise ValueError(f"pictures must be at most {HANDWRITTEN} for handwritten digits, got {self.pictures}")
        if self.style == "handwritten":
            self.refuse_idle("for handwritten digits, of which 360 are held out", "test")
        return self

    @property
    def pixels(self) -> int:
        """Number of pixels along a side."""
        return self.side or (SIDE if self.style == "handwritten" else PRINTED_SIDE)

    def known(self) -> Space:
        exact = self.style == "printed" or self.pixels == SIDE
        levels = 2 if self.scale == "ink" else LEVELS if exact else None
        return Space((1, self.pixels, self.pixels), levels, cond=CLASSES)

    def open_reader(self, runs: Opener = no_runs) -> DigitReader:
        return DigitReader(self.style, self.pixels, self.scale, max(PRINTED, self.pictures or 0))

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        train, test = (
            Tensors(x=x, cond=labels[:, None])
            for x, labels in (
                pictures(self.style, part, n, side=self.pixels, scale=self.scale)
                for part, n in (("train", self.pictures), ("test", self.test))
            )
        )
        what = "scikit-learn's digits" if self.style == "handwritten" else "digits printed in several fonts"
        few = f", {len(train)} to train on" if self.pictures else ""
        n = len(test)
        return Data(
            f"{what}, {'grey' if self.scale == 'grey' else 'two levels'}, {self.pixels} x {self.pixels}{few}",
            fingerprint(self, self.pixels, len(train), n, without=("side", "pictures", "test")),
            spaced(self.known(), train),
            train,
            test,
            Truths(reader=self.open_reader()),
            unseen=torch.arange(n) >= n - n // 2 if self.style == "printed" else None,
        )

"""Handwritten and printed digits as settings: two kinds of pictures of the same things."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core.protocols import Sampleable
from jensen.core.seeding import generator
from jensen.data.digits import SIDE, to_unit
from jensen.data.printed import FONTS, UNSEEN_FONTS, Printed, enlarge, printed
from jensen.recipes.base import Positive, Settings
from jensen.recipes.data import KEPT, SEEN, all_digits
from jensen.recipes.folder import RunError

CLASSES, HANDWRITTEN = 10, 1437  # how many there are, of the latter to train on
ADDED, PAIRED = 13, 14  # streams of random numbers: of generated pictures, of pairs
LOOKED = 16  # pictures of a run that are looked at before it is relied on
READ = 2000  # printed pictures, or more, that readers learn from, however few are trained on
Kind = Literal["handwritten", "printed"]


def handwritten(n: int | None) -> tuple[Tensor, Tensor]:
    """The first n handwritten digits to train on, (n, 1, 8, 8) in [-1, 1], and their labels; None: all there are.

    The classes in turn, so that few are as many of each: the first of every class, the second of every class, ...
    """
    everything = all_digits()
    pictures, labels = to_unit(everything.train), everything.train_labels
    if n is None:
        return pictures, labels
    earlier = (labels[:, None] == labels).tril(-1).sum(1)  # of its own class
    places = (earlier * CLASSES + labels).argsort()[:n]
    return pictures[places], labels[places]


def print_to_train(n: int, side: int) -> tuple[Tensor, Tensor]:
    """N printed digits to train on, (n, 1, side, side) in [-1, 1], and their labels."""
    drawn = _printed(n, side, FONTS, SEEN)
    return to_unit(drawn.levels), drawn.labels


def print_to_test(n: int, side: int) -> tuple[Tensor, Tensor]:
    """N others with their labels, the later half in fonts never trained on."""
    new = n // 2
    seen, unseen = _printed(n - new, side, FONTS, KEPT), _printed(new, side, UNSEEN_FONTS, KEPT)
    return to_unit(torch.cat([seen.levels, unseen.levels])), torch.cat([seen.labels, unseen.labels])


class TwoKinds(Settings):
    """Side a: handwritten, 8 x 8 enlarged; side b: printed. In [-1, 1]; the same data for every seed of a run.

    At 8 x 8 the strokes of print are a pixel of grey and look like handwriting; hence the larger side.
    """

    side: Annotated[int, Field(ge=SIDE)] = 16  # pixels of a picture
    handwritten: Annotated[int, Field(ge=CLASSES, le=HANDWRITTEN)] | None = None  # to train on; all there are
    printed: Annotated[int, Field(ge=CLASSES)] = 2000  # renderings to train on
    test: Annotated[int, Field(ge=20)] = 600  # renderings to judge with, half of them in fonts never trained on

    def check(self) -> None:
        """Raise a ValueError for what is pointed to and not there."""

    def training(self) -> dict[str, Tensor]:
        """Pictures "a" (handwritten, 1, side, side) and "b" (printed, 1, side, side); "a_labels" and "b_labels"."""
        return self._of(self.handwritten, self.printed)

    def known(self) -> dict[str, Tensor]:
        """The same for readers, who judge: a side that is small in training is whole for them."""
        return self._of(None, max(READ, self.printed))

    def _of(self, n: int | None, printed: int) -> dict[str, Tensor]:
        (a, a_labels), (b, b_labels) = handwritten(n), print_to_train(printed, self.side)
        return {"a": enlarge(a, self.side), "a_labels": a_labels, "b": b, "b_labels": b_labels}

    def held_out(self) -> dict[str, Tensor]:
        """The same, never trained on, and "b_unseen": which of b are in fonts never trained on."""
        a, (b, b_labels) = all_digits(), print_to_test(self.test, self.side)
        return {
            "a": enlarge(to_unit(a.test), self.side),
            "a_labels": a.test_labels,
            "b": b,
            "b_labels": b_labels,
            "b_unseen": torch.arange(self.test) >= self.test - self.test // 2,
        }


@cache
def _printed(n: int, side: int, fonts: tuple[str, ...], stream: int) -> Printed:
    return printed(n, side=side, fonts=fonts, generator=generator(stream))


class PairedKinds(TwoKinds):
    """Pairs by class: handwritten digits each with printed ones of the same label."""

    partners: Positive = 4  # of each handwritten digit

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Pictures of a and their partners, both (handwritten partners, 1, side, side); printed ones equally often."""
        data, rng = self.training(), generator(PAIRED)
        left, right = [], []
        for label in range(CLASSES):
            own = (data["a_labels"] == label).nonzero()[:, 0].repeat(self.partners)
            theirs = (data["b_labels"] == label).nonzero()[:, 0]
            rounds = -(-len(own) // len(theirs))
            shuffled = [theirs[torch.randperm(len(theirs), generator=rng)] for _ in range(rounds)]
            left.append(own)
            right.append(torch.cat(shuffled)[: len(own)])
        return data["a"][torch.cat(left)], data["b"][torch.cat(right)]


class UnpairedKinds(TwoKinds):
    """Two heaps; a small one can be enlarged by what a generator drew that was trained on it, and on nothing else.

    `jensen train digits-gan --set data.pictures=N` trains one on what `handwritten=N` leaves of side a, and with
    `data.kind=printed` as well on the N renderings of side b.
    """

    enlarge_a: str | None = None  # run folder of a generator of handwritten digits, 8 x 8 in [-1, 1]
    enlarge_b: str | None = None  # of printed ones, of this side
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of generated pictures in a heap that is enlarged
    jitter: Annotated[float, Field(ge=0)] = 0.07  # each draw turned, stretched, slanted and shifted: see `Jitter`

    def check(self) -> None:
        for drawer in self._drawers().values():
            drawer.draw(LOOKED)

    def heaps(self) -> tuple[Tensor, Tensor]:
        """Pictures of a and of b to train on, real ones first, without labels."""
        data, drawers = self.training(), self._drawers()
        heaps = []
        for side in "ab":
            real = data[side]
            if side in drawers:
                real = torch.cat([real, enlarge(drawers[side].draw(self._added(real)), self.side)])
            heaps.append(real)
        return heaps[0], heaps[1]

    def _drawers(self) -> dict[str, Drawer]:
        found = {}
        if self.enlarge_a is not None:
            few = self.handwritten is not None
            found["a"] = Drawer("data.enlarge_a", self.enlarge_a, SIDE, handwritten(self.handwritten)[0], few)
        if self.enlarge_b is not None:
            real = print_to_train(self.printed, self.side)[0]
            found["b"] = Drawer("data.enlarge_b", self.enlarge_b, self.side, real, True)
        return found

    def _added(self, real: Tensor) -> int:
        """So many that they are `share` of the whole."""
        return max(1, round(len(real) * self.share / (1 - self.share)))


@dataclass(frozen=True)
class Drawer:
    """A run whose samples enlarge a heap.

    Attributes:
        key: the setting that names it.
        folder: of the run.
        side: pixels of a picture that it is to draw.
        real: pictures of the heap, (N, 1, side, side).
        strict: whether it must have learnt from these alone.
    """

    key: str
    folder: str
    side: int
    real: Tensor
    strict: bool

    def draw(self, n: int) -> Tensor:
        """N pictures (N, 1, side, side) in [-1, 1].

        Raises:
            RunError: if there is no such run, it does not draw such pictures, or learnt from others than the heap's.
        """
        from jensen.recipes.running import open_run  # which reads recipes by name, those of this module among them

        key, folder = self.key, self.folder
        try:
            recipe, model = open_run(Path(folder), "cpu")
        except RunError as error:
            raise RunError(f"{key}: {error}") from error
        if not isinstance(model, Sampleable):
            raise RunError(f"{key}: {folder} is a run of {recipe.recipe}, which draws nothing")
        made = model.sample(n, generator=generator(ADDED))
        if tuple(made.shape[1:]) != (1, self.side, self.side):
            wanted = (1, self.side, self.side)
            raise RunError(f"{key}: {folder} draws pictures of shape {tuple(made.shape[1:])}, and {wanted} is wanted")
        if float(made.min()) > -0.5:  # ink and no ink as 1 and 0
            raise RunError(f"{key}: {folder} draws pictures from {float(made.min()):.2g} on, and [-1, 1] is wanted")
        if self.strict and not _rows(recipe.real().train) <= _rows(self.real):
            raise RunError(
                f"{key}: {folder} was trained on pictures that are not among the {len(self.real)} of this side: "
                f"train it on these alone, as digits-gan does with data.pictures={len(self.real)}"
            )
        return made.clamp(-1, 1)


def _rows(pictures: Tensor) -> set[bytes]:
    return {x.numpy().tobytes() for x in pictures}

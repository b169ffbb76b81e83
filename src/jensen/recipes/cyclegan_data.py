"""Handwritten and printed digits as settings: two kinds of pictures of the same things."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

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

ADDED, PAIRED = 13, 14  # streams of random numbers: of generated pictures, of pairs
LOOKED = 16  # pictures of a run that are looked at before it is relied on


class TwoKinds(Settings):
    """Side a: handwritten, 8 x 8 enlarged; side b: printed. In [-1, 1]; the same data for every seed of a run.

    At 8 x 8 the strokes of print are a pixel of grey and look like handwriting; hence the larger side.
    """

    side: Annotated[int, Field(ge=SIDE)] = 16  # pixels of a picture
    printed: Annotated[int, Field(ge=10)] = 2000  # renderings to train on
    test: Annotated[int, Field(ge=20)] = 600  # renderings to judge with, half of them in fonts never trained on

    def check(self) -> None:
        """Raise a ValueError for what is pointed to and not there."""

    def training(self) -> dict[str, Tensor]:
        """Pictures "a" (1437, 1, side, side) and "b" (printed, 1, side, side); "a_labels" and "b_labels"."""
        a, b = all_digits(), _printed(self.printed, self.side, FONTS, SEEN)
        return {
            "a": enlarge(to_unit(a.train), self.side),
            "a_labels": a.train_labels,
            "b": to_unit(b.levels),
            "b_labels": b.labels,
        }

    def held_out(self) -> dict[str, Tensor]:
        """The same, never trained on, and "b_unseen": which of b are in fonts never trained on."""
        a = all_digits()
        new = self.test // 2
        seen, unseen = (
            _printed(self.test - new, self.side, FONTS, KEPT),
            _printed(new, self.side, UNSEEN_FONTS, KEPT),
        )
        return {
            "a": enlarge(to_unit(a.test), self.side),
            "a_labels": a.test_labels,
            "b": to_unit(torch.cat([seen.levels, unseen.levels])),
            "b_labels": torch.cat([seen.labels, unseen.labels]),
            "b_unseen": torch.arange(self.test) >= self.test - new,
        }


@cache
def _printed(n: int, side: int, fonts: tuple[str, ...], stream: int) -> Printed:
    return printed(n, side=side, fonts=fonts, generator=generator(stream))


class PairedKinds(TwoKinds):
    """Pairs by class: handwritten digits each with printed ones of the same label."""

    partners: Positive = 4  # of each handwritten digit

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Pictures of a and their partners, both (1437 partners, 1, side, side); printed ones equally often."""
        data, rng = self.training(), generator(PAIRED)
        left, right = [], []
        for label in range(10):
            own = (data["a_labels"] == label).nonzero()[:, 0].repeat(self.partners)
            theirs = (data["b_labels"] == label).nonzero()[:, 0]
            rounds = -(-len(own) // len(theirs))
            shuffled = [theirs[torch.randperm(len(theirs), generator=rng)] for _ in range(rounds)]
            left.append(own)
            right.append(torch.cat(shuffled)[: len(own)])
        return data["a"][torch.cat(left)], data["b"][torch.cat(right)]


class UnpairedKinds(TwoKinds):
    """Two heaps; a small one can be enlarged by what a generator drew that was trained on it."""

    enlarge_a: str | None = None  # run folder of a generator of handwritten digits, 8 x 8 in [-1, 1]
    enlarge_b: str | None = None  # of printed ones, of this side
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of generated pictures in a heap that is enlarged
    jitter: Annotated[float, Field(ge=0)] = 0.07  # each draw turned, stretched, slanted and shifted: see `Jitter`

    def check(self) -> None:
        for name, folder, side in (("enlarge_a", self.enlarge_a, SIDE), ("enlarge_b", self.enlarge_b, self.side)):
            if folder is not None:
                _drawn(f"data.{name}", folder, side, LOOKED)

    def heaps(self) -> tuple[Tensor, Tensor]:
        """Pictures of a and of b to train on, real ones first, without labels."""
        data = self.training()
        a, b = data["a"], data["b"]
        if self.enlarge_a is not None:
            made = _drawn("data.enlarge_a", self.enlarge_a, SIDE, self._added(a))
            a = torch.cat([a, enlarge(made, self.side)])
        if self.enlarge_b is not None:
            b = torch.cat([b, _drawn("data.enlarge_b", self.enlarge_b, self.side, self._added(b))])
        return a, b

    def _added(self, real: Tensor) -> int:
        """So many that they are `share` of the whole."""
        return max(1, round(len(real) * self.share / (1 - self.share)))


def _drawn(key: str, folder: str, side: int, n: int) -> Tensor:
    """N pictures (N, 1, side, side) in [-1, 1] of the run in `folder`.

    Raises:
        RunError: if it is none, or does not draw such pictures.
    """
    from jensen.recipes.running import open_run  # which reads recipes by name, those of this module among them

    try:
        recipe, model = open_run(Path(folder), "cpu")
    except RunError as error:
        raise RunError(f"{key}: {error}") from error
    if not isinstance(model, Sampleable):
        raise RunError(f"{key}: {folder} is a run of {recipe.recipe}, which draws nothing")
    made = model.sample(n, generator=generator(ADDED))
    if tuple(made.shape[1:]) != (1, side, side):
        wanted = (1, side, side)
        raise RunError(f"{key}: {folder} draws pictures of shape {tuple(made.shape[1:])}, and {wanted} is wanted")
    if float(made.min()) > -0.5:  # ink and no ink as 1 and 0
        raise RunError(f"{key}: {folder} draws pictures from {float(made.min()):.2g} on, and [-1, 1] is wanted")
    return made.clamp(-1, 1)

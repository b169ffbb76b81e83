"""Two kinds of pictures for translation: handwritten and printed digits."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jensen.adversarial import Jitter
from jensen.core.progress import Track, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import derived, generator
from jensen.core.settings import MOST_ROWS
from jensen.core.types import Stream
from jensen.data.dataset import Data, some
from jensen.data.digits import SIDE
from jensen.data.pool import Tensors, pool_stream
from jensen.data.printed import enlarge
from jensen.data.space import Space
from jensen.data.unpaired import transformed, unpaired_stream
from jensen.recipes.sources.base import Opener, Place, Source, fingerprint, no_runs
from jensen.recipes.sources.digits import CLASSES, HANDWRITTEN, PRINTED, Digits


class HandwrittenPrinted(Source):
    """Side a: handwritten digits, 8 x 8 enlarged; side b: printed digits; the same data for every seed.

    At 8 x 8 pixels printed digits look like handwritten ones; hence the default of 16. Samples of a generator can be
    added to a side with few training pictures, if it was trained on only these: `jensen train digits-gan --set
    data.pictures=N` for handwritten=N; add `--set data.style=printed` for printed=N.
    """

    pairing: Literal["unpaired", "by-class"] = "unpaired"
    """unpaired: batches of the two sides are independent; by-class: pairs have the same label"""
    side: Annotated[int, Field(ge=SIDE, le=256)] = 16
    """width and height of a picture in pixels"""
    handwritten: Annotated[int, Field(ge=10, le=HANDWRITTEN)] | None = None
    """number of handwritten training digits; null: all 1437"""
    printed: Annotated[int, Field(ge=10, le=MOST_ROWS)] = PRINTED
    """number of printed training digits"""
    test: Annotated[int, Field(ge=20, le=MOST_ROWS)] = 600
    """number of printed held-out digits, half of them in fonts that are not in the training set"""
    jitter: Annotated[float, Field(ge=0)] = 0.07
    """standard deviation of the random affine map applied to each picture of a batch, in units of half its side"""
    partners: Annotated[int, Field(ge=1, le=1_000)] = 4
    """printed digits paired with each handwritten digit, for pairing by-class"""
    enlarge_a: Place | None = None
    """folder of a run whose samples, 8 x 8 handwritten digits, are added to side a"""
    enlarge_b: Place | None = None
    """folder of a run whose samples, printed digits, are added to side b"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """share of generated pictures on a side to which samples are added"""

    @model_validator(mode="after")
    def _no_idle(self) -> HandwrittenPrinted:
        if self.pairing == "unpaired":
            self.refuse_idle("for pairing unpaired", "partners")
        else:
            self.refuse_idle("for pairing by-class", "enlarge_a", "enlarge_b")
        if not (self.enlarge_a or self.enlarge_b):
            self.refuse_idle("where no side is enlarged", "share")
        return self

    def sides(self) -> tuple[Digits, Digits]:
        """The sources of the two sides."""
        return (
            Digits(side=self.side, pictures=self.handwritten),
            Digits(style="printed", side=self.side, pictures=self.printed, test=self.test),
        )

    def known(self) -> Space:
        a, b = self.sides()
        return replace(a.known(), b=b.known(), paired=self.pairing == "by-class")

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        own = fingerprint(self, without=("pairing", "jitter", "partners", "enlarge_a", "enlarge_b", "share"))
        a, b = (replace(side.open(seed), name=f"{side.style} digits", fingerprint=own) for side in self.sides())
        x, by_class = {"a": some(a.train), "b": some(b.train)}, self.pairing == "by-class"
        if by_class:
            pairs = self._pairs(x["a"], x["b"])
        else:
            heaps = {side: Tensors(x=self._enlarged(side, rows["x"], runs)) for side, rows in x.items()}

        def streams(batch_size: int, seed: int) -> Stream:
            stream = pool_stream(batch_size, seed, **pairs) if by_class else unpaired_stream(batch_size, seed, **heaps)
            if not self.jitter:
                return stream
            return transformed(stream, Jitter(self.jitter).by, lambda n: torch.randn(n, 2, 3), derived(seed, "jitter"))

        return replace(a, space=replace(a.space, b=b.space, paired=by_class), b=b, streams=streams)

    def _enlarged(self, side: str, real: Tensor, runs: Opener) -> Tensor:
        """Training pictures of a side, and samples of a run added to it, which are `share` of the total."""
        key, (a, b) = f"enlarge_{side}", self.sides()
        folder = getattr(self, key)
        if folder is None:
            return real
        few = side == "b" or self.handwritten is not None
        n = max(1, round(len(real) * self.share / (1 - self.share)))
        learnt = (a.model_copy(update={"side": None}) if side == "a" else b).open(0)  # as runs draw them
        return torch.cat([real, enlarge(_samples(f"data.{key}", folder, n, learnt, few, runs), self.side)])

    def _pairs(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each handwritten digit `partners` times, paired with different printed digits of its label, all used equally
        often.
        """
        rng, left, right = generator(derived(0, "pairs")), [], []
        for label in range(CLASSES.size):
            own = (a["cond"] == label).nonzero()[:, 0].repeat(self.partners)
            theirs = (b["cond"] == label).nonzero()[:, 0]
            rounds = -(-len(own) // len(theirs))
            shuffled = [theirs[torch.randperm(len(theirs), generator=rng)] for _ in range(rounds)]
            left.append(own)
            right.append(torch.cat(shuffled)[: len(own)])
        return {"a": a["x"][torch.cat(left)], "b": b["x"][torch.cat(right)]}


def _samples(key: str, folder: str, n: int, real: Data, strict: bool, runs: Opener) -> Tensor:
    """Draw n samples of a run, rounded to the levels of its data.

    Args:
        key: the setting that names the run.
        folder: folder of the run.
        n: number of samples.
        real: a side's own data.
        strict: whether the run must have been trained on only these data.
        runs: opens the run.

    Raises:
        ValueError: if there is no such run, its samples are of another kind, or it was trained on other pictures.
    """
    try:
        run = runs(folder)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    wanted, got = ((space.shape, space.levels) for space in (real.space, run.space))
    if not isinstance(run.model, Sampleable) or got != wanted:
        raise ValueError(
            f"{key} must be a run that draws pictures {wanted[0]} of {wanted[1]} levels, got {folder}, "
            f"a run of {run.name} on {got[0]} of {got[1]} levels"
        )
    if strict and not _rows(run.open_data()) <= _rows(real):
        raise ValueError(
            f"{key} must be a run trained on the {len(real.train)} pictures of this side only, got {folder}: "
            f"train it with data.pictures={len(real.train)}"
        )
    return run.space.settled(run.model.sample(n, generator=generator(derived(0, key))))


def _rows(data: Data) -> set[bytes]:
    return {row.numpy().tobytes() for row in some(data.train)["x"]}

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
from jensen.core.types import Stream
from jensen.data.dataset import Data, Truths, some, spaced
from jensen.data.digits import LEVELS, SIDE
from jensen.data.pool import Tensors, pool_stream
from jensen.data.printed import enlarge
from jensen.data.space import Space
from jensen.data.unpaired import transformed, unpaired_stream
from jensen.recipes.sources.base import Opener, Place, Source, fingerprint, no_runs
from jensen.recipes.sources.digits import CLASSES, HANDWRITTEN, PRINTED, DigitReader, Style, pictures, unseen


class HandwrittenPrinted(Source):
    """Side a: handwritten digits, 8 x 8 enlarged; side b: printed digits; the same data for every seed.

    At 8 x 8 the strokes of print are a pixel of grey and look like handwriting; hence the larger side. A small side can
    be enlarged by samples of a generator that was trained on it, and on nothing else: `jensen train digits-gan --set
    data.pictures=N` for handwritten=N, with `data.style=printed` for printed=N.
    """

    pairing: Literal["unpaired", "by-class"] = "unpaired"
    """unpaired: batches drawn from each side by itself; by-class: pairs of one label"""
    side: Annotated[int, Field(ge=SIDE)] = 16
    """pixels along a side of a picture"""
    handwritten: Annotated[int, Field(ge=10, le=HANDWRITTEN)] | None = None
    """handwritten training digits; null: all, 1437"""
    printed: Annotated[int, Field(ge=10)] = PRINTED
    """printed training digits"""
    test: Annotated[int, Field(ge=20)] = 600
    """printed held-out digits, half of them in fonts never trained on"""
    jitter: Annotated[float, Field(ge=0)] = 0.07
    """standard deviation of a random affine map of each drawn picture, in units of half its side"""
    partners: Annotated[int, Field(ge=1)] = 4
    """of each handwritten digit, for pairing by-class"""
    enlarge_a: Place | None = None
    """folder of a run that draws handwritten digits, 8 x 8, to add to side a"""
    enlarge_b: Place | None = None
    """folder of a run that draws printed digits to add to side b"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """of generated pictures on a side that is enlarged"""

    @model_validator(mode="after")
    def _no_idle(self) -> HandwrittenPrinted:
        unpaired, enlarged = self.pairing == "unpaired", self.enlarge_a or self.enlarge_b
        for key, why in (
            ("partners", "pairing is unpaired" * unpaired),
            ("enlarge_a", "pairing is by-class" * (not unpaired)),
            ("enlarge_b", "pairing is by-class" * (not unpaired)),
            ("share", "no side is enlarged" * (not enlarged)),
        ):
            if why and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} does nothing where {why}: leave it out")
        return self

    def known(self) -> Space:
        b = Space((1, self.side, self.side), LEVELS, cond=CLASSES)
        return replace(b, levels=LEVELS if self.side == SIDE else None, b=b)  # enlarging interpolates between levels

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        space = self.known()
        assert space.b is not None
        a, b = self._side("handwritten", space), self._side("printed", space.b)
        x = {"a": some(a.train), "b": some(b.train)}
        if self.pairing == "by-class":
            pairs = self._pairs(x["a"], x["b"])
        else:
            heaps = {
                "a": Tensors(x=self._enlarged("handwritten", x["a"]["x"], runs)),
                "b": Tensors(x=self._enlarged("printed", x["b"]["x"], runs)),
            }

        def streams(batch_size: int, seed: int) -> Stream:
            paired = self.pairing == "by-class"
            stream = pool_stream(batch_size, seed, **pairs) if paired else unpaired_stream(batch_size, seed, **heaps)
            return transformed(stream, Jitter(self.jitter), derived(seed, "jitter")) if self.jitter else stream

        return replace(a, space=replace(a.space, b=b.space), b=b, streams=streams)

    def _side(self, style: Style, space: Space) -> Data:
        counts = (self.handwritten, None) if style == "handwritten" else (self.printed, self.test)
        train, held_out = (
            Tensors(x=x, cond=labels[:, None])
            for x, labels in (
                pictures(style, "train", counts[0], side=self.side),
                pictures(style, "test", counts[1], side=self.side),
            )
        )
        return Data(
            f"{style} digits",
            fingerprint(self, without=("pairing", "jitter", "partners", "enlarge_a", "enlarge_b", "share")),
            spaced(space, train),
            train,
            held_out,
            Truths(reader=DigitReader(style, self.side, known=max(PRINTED, self.printed))),
            unseen=unseen(style, len(held_out)),
        )

    def _enlarged(self, style: Style, real: Tensor, runs: Opener) -> Tensor:
        """Training pictures of a side, and samples of the run that enlarges it: `share` of the whole."""
        key = "enlarge_a" if style == "handwritten" else "enlarge_b"
        folder = getattr(self, key)
        if folder is None:
            return real
        n = max(1, round(len(real) * self.share / (1 - self.share)))
        if style == "handwritten":
            learnt, strict = pictures(style, "train", self.handwritten)[0], self.handwritten is not None
        else:
            learnt, strict = real, True
        return torch.cat([real, enlarge(_samples(f"data.{key}", folder, n, learnt, strict, runs), self.side)])

    def _pairs(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every handwritten digit `partners` times, each with another printed one of its label, all equally often."""
        rng, left, right = generator(derived(0, "pairs")), [], []
        for label in range(CLASSES.size):
            own = (a["cond"] == label).nonzero()[:, 0].repeat(self.partners)
            theirs = (b["cond"] == label).nonzero()[:, 0]
            rounds = -(-len(own) // len(theirs))
            shuffled = [theirs[torch.randperm(len(theirs), generator=rng)] for _ in range(rounds)]
            left.append(own)
            right.append(torch.cat(shuffled)[: len(own)])
        return {"a": a["x"][torch.cat(left)], "b": b["x"][torch.cat(right)]}


def _samples(key: str, folder: str, n: int, real: Tensor, strict: bool, runs: Opener) -> Tensor:
    """N samples of a run, on the levels of its data.

    Args:
        key: the setting that names the run.
        folder: of the run.
        n: number of samples.
        real: pictures of the side, (N, 1, H, W), as the run draws them.
        strict: whether the run must have been trained on these alone.
        runs: opens the run.

    Raises:
        ValueError: if there is no such run, it draws other pictures, or it was trained on others.
    """
    try:
        run = runs(folder)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    shape = tuple(real.shape[1:])
    if not isinstance(run.model, Sampleable) or (run.space.shape, run.space.levels) != (shape, LEVELS):
        raise ValueError(
            f"{key} must be a run that draws pictures {shape} of {LEVELS} levels, got {folder}, a run of {run.name} "
            f"on {run.space.shape} of {run.space.levels} levels"
        )
    if strict and not _rows(some(run.open_data().train)["x"]) <= _rows(real):
        raise ValueError(
            f"{key} must be a run trained on the {len(real)} pictures of this side alone, got {folder}: train it with "
            f"data.pictures={len(real)}"
        )
    return run.space.settled(run.model.sample(n, generator=generator(derived(0, key))))


def _rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}

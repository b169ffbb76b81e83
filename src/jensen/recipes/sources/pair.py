"""A user's two folders of pictures, for translation between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, SerializeAsAny, model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived
from jensen.core.types import Batch, Stream
from jensen.data.dataset import Data
from jensen.data.pool import Rows, drawn_rows
from jensen.data.space import Space
from jensen.data.unpaired import side_by_side, transformed
from jensen.recipes.sources.base import Opener, Source, fingerprint, no_runs
from jensen.recipes.sources.pictures import CHANNELS, Pictures, mirror

ASide = Annotated[SerializeAsAny[Source], BeforeValidator(Source.parse)]
FOLDERS = ("trainA", "trainB")


class Pair(Source):
    """Side a and side b: two sources of pictures; b has the size of a, and both are in colour if one of them is."""

    a: ASide = Pictures()
    """pictures of side a"""
    b: ASide = Pictures()
    """pictures of side b"""
    pairing: Literal["unpaired", "by-name"] = "unpaired"
    """unpaired: batches of the two sides are independent; by-name: files with the same name, apart from the suffix, are
    pairs"""
    flip: bool = False
    """mirror both pictures of a pair together with probability 1/2; for pairing by-name"""

    @model_validator(mode="after")
    def _used(self) -> Pair:
        if self.pairing == "unpaired":
            self.refuse_idle("with pairing unpaired, which has data.a.flip and data.b.flip", "flip")
        return self

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """A folder with subfolders trainA and trainB, and testA and testB if there are any."""
        a, b = (path / name for name in FOLDERS)
        if not (a.is_dir() and b.is_dir()):
            return None
        tests = [path / f"test{side}" for side in "AB"]
        held = [str(test) if all(t.is_dir() for t in tests) else None for test in tests]
        return cls(a=Pictures(path=str(a), held_out=held[0]), b=Pictures(path=str(b), held_out=held[1]))

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        a, b = self._opened(lambda side: side.open(seed, track, runs))
        if a.space.shape != b.space.shape or not a.space.pictures:
            raise ValueError(
                f"data.a and data.b must be pictures of the same size, got {a.space.shape} and {b.space.shape}"
            )
        own = fingerprint(self, a.fingerprint, b.fingerprint, without=("a", "b", "pairing", "flip"))
        sides, by_name = {"a": a, "b": b}, self.pairing == "by-name"
        if by_name and not (a.streams is None and b.streams is None):
            raise ValueError(
                "data.pairing must be unpaired for a side whose pictures change from batch to batch, as by "
                "data.a.flip, got by-name: data.flip mirrors both pictures of a pair"
            )
        pairs = matched(a, b) if by_name else None

        def streams(batch_size: int, seed: int) -> Stream:
            if pairs is not None:
                drawn = drawn_rows(pairs, batch_size, seed)
                return (
                    transformed(drawn, mirror, torch.rand, derived(seed, "flip"), jointly=True) if self.flip else drawn
                )
            return side_by_side(**{name: side.stream(batch_size, derived(seed, name)) for name, side in sides.items()})

        notes = (*(f"side a: {note}" for note in a.notes), *(f"side b: {note}" for note in b.notes))
        return replace(
            a,
            fingerprint=own,
            space=replace(a.space, b=b.space, paired=by_name),
            b=replace(b, fingerprint=own),
            streams=streams,
            notes=notes,
        )

    def settled(self, space: Space) -> Pair:
        assert space.b is not None
        return self.model_copy(update={"a": self.a.settled(space), "b": self.b.settled(space.b)})

    def _opened(self, opened: Callable[[Source], Data]) -> tuple[Data, Data]:
        """Both sides, with the size of side a, and with the channels of the side that sets them, or of the side in
        colour.

        They apply if a side does not specify its own.
        """
        a = opened(self.a)
        size = a.space.shape[1:]
        sides = self.a, self.b.model_copy(update={"size": size}) if _open(self.b, "size", None) else self.b
        b = opened(sides[1])
        if not (a.space.pictures and b.space.pictures):
            raise ValueError(f"data.a and data.b must be pictures, got {a.space.shape} and {b.space.shape}")
        found = a.space.shape[0], b.space.shape[0]
        given = [n for n, side in zip(found, sides, strict=True) if not _open(side, "channels", "auto")]
        named = {count: name for name, count in CHANNELS.items()}[max(given or found)]
        other = {"channels": named}
        first, second = (
            opened(side.model_copy(update=other)) if _open(side, "channels", "auto") and CHANNELS[named] != n else data
            for side, data, n in zip(sides, (a, b), found, strict=True)
        )
        return first, second


def _open(side: Source, key: str, value: object) -> bool:
    """Whether a side leaves a setting open."""
    return isinstance(side, Pictures) and getattr(side, key) == value


class Pairs:
    """Rows of pairs {"a", "b"}, given the index of each picture of a pair."""

    def __init__(self, a: Rows, b: Rows, index: Tensor):
        self.a, self.b, self.index = a, b, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        left, right = self.index[index].T
        return {"a": self.a[left]["x"], "b": self.b[right]["x"]}


def matched(a: Data, b: Data) -> Pairs:
    """Pairs of training pictures with the same name, apart from the suffix.

    Raises:
        ValueError: if there is no such pair.
    """
    left, right = _stems(a.names), _stems(b.names)
    both = sorted(set(left) & set(right))
    if not both:
        raise ValueError(
            f"data.pairing by-name needs pictures of the same name on both sides, got none among {len(left)} and "
            f"{len(right)}"
        )
    return Pairs(a.train, b.train, torch.tensor([[left[stem], right[stem]] for stem in both]))


def _stems(names: Sequence[str]) -> dict[str, int]:
    return {str(PurePosixPath(name).with_suffix("")): k for k, name in enumerate(names)}

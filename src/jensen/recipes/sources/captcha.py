"""CAPTCHAs: pictures of random texts, drawn by the captcha package, and the network that reads them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived
from jensen.core.settings import MOST_ROWS
from jensen.core.types import Batch
from jensen.data.captcha import Split, Style, draw, random_text
from jensen.data.dataset import Data, Truths, spaced
from jensen.data.pool import Tensors
from jensen.data.space import Space, Text
from jensen.nn import Recogniser
from jensen.recipes.sources.base import OpenedRun, Opener, Source, absolute, fingerprint, no_runs
from jensen.shipped import said, shipped

AUTO, READERS, SECOND = "auto", ("captcha-reader", "captcha-release-reader"), ("captcha-release-second-reader",)
CLEAR = 0.9  # probability of a character


def _known(reader: str) -> str:
    return reader if reader == AUTO or shipped(reader) else absolute(reader)


class Captcha(Source):
    """CAPTCHA pictures of random texts; texts of the held-out pictures are never trained on."""

    alphabet: str = "0123456789"
    """characters that texts are made of, without repeats"""
    length: int = 4
    """number of characters in a text, or the most"""
    shortest: int | None = None
    """fewest characters in a text; null: data.length"""
    height: int = 24
    """height of a picture in pixels"""
    width: int = 64
    """width of a picture in pixels"""
    ink: tuple[int, int] = (70, 140)
    """lowest and highest luminance of the ink, from 60 to 200"""
    colour: bool = False
    """coloured pictures: three channels with random hues"""
    fonts: tuple[str, ...] = ()
    """names of fonts of captcha and matplotlib; with data.papers and data.inks they are part of the condition"""
    papers: tuple[str, ...] = ()
    """names of patterns of the paper: plain, stripes, dots, grid, rings, clouds"""
    inks: tuple[str, ...] = ()
    """names of hues of the ink: red, orange, green, teal, blue, violet"""
    pictures: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 40_000
    """number of training pictures"""
    test: Annotated[int, Field(ge=2, le=MOST_ROWS)] = 2_000
    """number of held-out pictures, the same for every seed"""
    reader: Annotated[str, AfterValidator(_known)] = AUTO
    """reader of samples: the folder of a run that reads such pictures, or the name of one that is part of jensen; auto:
    one that is part of jensen and was trained on pictures of this style, if there is one"""
    second: Annotated[str, AfterValidator(_known)] = AUTO
    """another reader, only for judging: a run as for data.reader; auto: one that is part of jensen and was trained on
    pictures of this size and these texts in other fonts, if there is one"""

    @model_validator(mode="after")
    def _drawable(self) -> Captcha:
        self.style()
        return self

    def style(self) -> Style:
        return Style(**{field.name: getattr(self, field.name) for field in fields(Style)})

    def known(self) -> Space:
        shape = (self.style().channels, self.height, self.width)
        return Space(shape, 256, cond=self.style().texts)

    def open_reader(self, runs: Opener = no_runs) -> TextReader | None:
        """The reader of samples, by which a service filters them too."""
        return self._open("reader", runs, READERS, lambda source: source.style() == self.style())

    def open_second(self, runs: Opener = no_runs) -> TextReader | None:
        """The second reader, which nothing but judging uses."""
        size, texts = (self.height, self.width, self.colour), self.style().texts

        def fits(source: Captcha) -> bool:
            its = (source.height, source.width, source.colour)
            return its == size and source.style().texts.what == texts.what and source.fonts != self.fonts

        return self._open("second", runs, SECOND, fits)

    def _open(
        self, key: str, runs: Opener, names: tuple[str, ...], fits: Callable[[Captcha], bool]
    ) -> TextReader | None:
        chosen, space = getattr(self, key), self.known()
        if chosen == AUTO:
            found = [] if runs is no_runs else [runs(name) for name in names if shipped(name)]
            fitting = (run for run in found if isinstance(run.source, Captcha) and fits(run.source))
            return next((read_by(run, space) for run in fitting), None)
        try:
            run = runs(chosen)
        except ValueError as error:
            raise ValueError(f"data.{key}: {error}") from error
        return read_by(run, space, f"data.{key}")

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        reader, second = self.open_reader(runs), self.open_second(runs)
        train = drawn(self.style(), self.pictures, seed, "train", track)
        return Data(
            f"CAPTCHA pictures, {self.length} characters of {self.alphabet}",
            fingerprint(self, without=("reader", "second")),
            spaced(self.known(), train),
            train,
            HeldOut(self.style(), self.test, track),
            Truths(reader=reader, second=second),
            asks=self.asks,
        )

    def asks(self, n: int) -> Tensor:
        """Random held-out texts (n, length), without repeats if there are enough; the same for every seed."""
        rng = random.Random("asked")
        distinct = list(dict.fromkeys(random_text(rng, self.style(), "test") for _ in range(20 * n)))
        return self.style().texts.encode([distinct[k % len(distinct)] for k in range(n)])


_DRAWN: dict[tuple[Style, int, int, Split], Tensors] = {}


def drawn(style: Style, count: int, seed: int, split: Split, track: Track) -> Tensors:
    """Pictures of one split, uint8, and their texts; the last few results are cached.

    A different count gives different pictures, so a generator and a reader are not trained on the same ones.
    """
    key = style, count, seed, split
    if key not in _DRAWN:
        advance = track({"train": "drawing training pictures", "test": "drawing held-out pictures"}[split], count)
        texts, pictures = draw(style, count, derived(seed, split, count), split=split, on_progress=advance)
        if len(_DRAWN) >= 4:
            del _DRAWN[next(iter(_DRAWN))]
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        _DRAWN[key] = Tensors(x=x, cond=style.texts.encode(texts))
    return _DRAWN[key]


@dataclass(frozen=True)
class HeldOut:
    """Held-out pictures, drawn on first use so that training does not wait for them."""

    style: Style
    rows: int
    track: Track = silent

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Tensor) -> Batch:
        return drawn(self.style, self.rows, 0, "test", self.track)[index]


@dataclass(frozen=True)
class TextReader:
    """A network that reads pictures of text, on the CPU."""

    network: Recogniser

    clear_means = f"every character read with a probability of at least {CLEAR}"

    def read(self, x: Tensor) -> Tensor:
        """The characters (N, length) read in pictures (N, C, H, W)."""
        return self.network.read(x.cpu())[0]

    def clear(self, x: Tensor) -> Tensor:
        """Which characters are read with a probability of at least 0.9, (N, length) bool."""
        return self.network.read(x.cpu())[1] >= CLEAR


def read_by(run: OpenedRun, space: Space, key: str = "data.reader") -> TextReader:
    """The reader of a run that the setting `key` names.

    Raises:
        ValueError: if the run is not a reader, or its pictures differ from those of `space`.
    """
    if not isinstance(run.model, Recogniser):
        raise ValueError(f"{key} must be a run that reads texts, got {said(run.folder)}, a run of {run.name}")
    if _read(run.space) != _read(space):
        raise ValueError(f"{key} must read {_read(space)}, got {said(run.folder)} for {_read(run.space)}")
    return TextReader(run.model)


def _read(space: Space) -> str:
    """What a reader of these pictures reads, in words."""
    texts = space.cond.what if isinstance(space.cond, Text) else "classes"
    return f"pictures of shape {space.shape} with {texts}"

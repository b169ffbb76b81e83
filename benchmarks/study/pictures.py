"""What is studied: the pictures of a model and of the classical drawer, their readers, and what is kept of all."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from jensen import configure
from jensen.core.progress import Track
from jensen.core.seeding import derived
from jensen.data.captcha import Painter, Split, Style, draw, random_text
from jensen.data.dataset import Data
from jensen.data.pool import Tensors, from_bytes, to_bytes
from jensen.data.space import Space, Text
from jensen.metrics import Proportion, wilson
from jensen.recipes.sources.captcha import Captcha, TextReader
from jensen.runs.opening import Run
from jensen.training.checkpoint import replacing
from ours import Training, prepare

PART = 64  # pictures that are drawn and kept together
HEIGHT = 24  # pixels, to which pictures are reduced for neighbours, styles and the attacker
CHUNK = 500  # pictures that are turned into floats at a time


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and trained.

    Attributes:
        asked: held-out texts.
        scanned: pictures that the off-the-shelf program reads.
        same: pictures of one string.
        known: training pictures whose labels are asked for; also those of the positive controls.
        shown: fonts and papers in which one string is shown.
        training: training pictures among which neighbours are searched; None: all.
        styles, style_steps: real pictures, and steps, of the reader of styles.
        classical, classical_steps: pictures and steps of the attacker's own training.
        attack: pictures that the attacker labels, in rising order.
        tune_steps: steps of the attacker on the fewest of them.
        batch: pictures of a step.
    """

    asked: int = 1000
    scanned: int = 500
    same: int = 200
    known: int = 500
    shown: int = 6
    training: int | None = None
    styles: int = 16_000
    style_steps: int = 1500
    classical: int = 30_000
    classical_steps: int = 2000
    attack: tuple[int, ...] = (100, 1000, 10_000)
    tune_steps: int = 150
    batch: int = 128


SMALL = Sizes(
    asked=20,
    scanned=4,
    same=6,
    known=20,
    shown=2,
    training=64,
    styles=64,
    style_steps=4,
    classical=64,
    classical_steps=4,
    attack=(4, 16),
    tune_steps=2,
    batch=8,
)


@dataclass(frozen=True)
class Store:
    """Results in a folder, by name and by what they were made of: what is there is not made again."""

    folder: Path

    def kept(self, name: str, made_of: object, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of this name, made by `make` unless they are there."""
        path = self.folder / f"{name}-{digest(made_of)}.safetensors"
        if path.is_file():
            return load_file(path)
        found = {key: value.contiguous() for key, value in make().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(save(found))
        return found

    @property
    def drawn(self) -> int:
        """Number of pictures of the model that are there, at most."""
        return PART * len(list(self.folder.glob("drawn/*/*")))


def digest(*made_of: object) -> str:
    """Twelve digits of a hash."""
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]


def digest_of(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Study:
    """A run, its readers and what is drawn for it.

    Attributes:
        run: the run that draws.
        reader: the reader by which the service filters pictures.
        second: a reader that neither training nor the filter has seen, or None.
        sizes: how much is drawn and trained.
        store: what is kept.
        track: shows progress.
    """

    run: Run
    reader: TextReader
    second: TextReader | None
    sizes: Sizes
    store: Store
    track: Track

    @property
    def source(self) -> Captcha:
        assert isinstance(self.run.recipe.data, Captcha)
        return self.run.recipe.data

    @property
    def style(self) -> Style:
        return self.source.style()

    @property
    def texts(self) -> Text:
        return self.style.texts

    @property
    def readers(self) -> dict[str, TextReader]:
        """Readers by name."""
        return {"the filter's reader": self.reader} | (
            {} if self.second is None else {"the second reader": self.second}
        )

    def characters(self, labels: Sequence[str]) -> Tensor:
        """The characters of labels, (N, length)."""
        return self.texts.legible(self.texts.encode(labels))

    def drawn(self, name: str, labels: Sequence[str]) -> Tensor:
        """The model's pictures of labels, uint8 (N, C, H, W); equal labels get different pictures."""
        advance, parts = self.track(f"model: {name}", len(labels)), []
        for first in range(0, len(labels), PART):
            part = labels[first : first + PART]
            parts.append(self.store.kept(f"drawn/{name}/{first:05d}", part, self._drawing(name, first, part))["x"])
            advance(len(part))
        return torch.cat(parts)

    def _drawing(self, name: str, first: int, labels: Sequence[str]) -> Callable[[], dict[str, Tensor]]:
        def make() -> dict[str, Tensor]:
            x = self.run.draw(len(labels), cond=self.texts.encode(labels), seed=derived(0, name, first))
            return {"x": to_bytes(self.run.space.settled(x))}

        return make

    def real(self, name: str, labels: Sequence[str], style: Style | None = None) -> Tensor:
        """The classical drawer's pictures of labels, uint8 (N, C, H, W)."""
        advance = self.track(f"drawer: {name}", len(labels))
        x = draw(style or self.style, len(labels), derived(0, "study", name), texts=labels, on_progress=advance)[1]
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    def random(self, name: str, style: Style, n: int, split: Split, seed: int) -> tuple[list[str], Tensor]:
        """The classical drawer's pictures of random texts, and their labels."""
        found, x = draw(style, n, seed, split=split, on_progress=self.track(f"drawer: {name}", n))
        return found, torch.from_numpy(x).permute(0, 3, 1, 2)

    @cached_property
    def asked(self) -> list[str]:
        """Labels of held-out texts."""
        return labels(self.style, self.sizes.asked, "test", "asked")

    @cached_property
    def asked_pictures(self) -> tuple[Tensor, Tensor]:
        """Pictures of `asked` by the model and by the classical drawer."""
        return self.drawn("held-out texts", self.asked), self.real("held-out texts", self.asked)

    @cached_property
    def accepted(self) -> Tensor:
        """Which of the model's pictures of `asked` the filter keeps, (N,) bool."""
        return right(self.reader, self.asked_pictures[0], self.characters(self.asked))

    @property
    def training_seed(self) -> int:
        """The seed of the run's training pictures."""
        return derived(self.run.recipe.seed, "train", self.source.pictures)

    def painted(self, index: Sequence[int]) -> tuple[list[str], Tensor]:
        """Labels and pictures of the run's training pictures with these numbers."""
        painter = Painter(self.style)
        names, x = zip(*(painter.paint(self.training_seed, k, split="train") for k in index), strict=True)
        return list(names), torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2)


def labels(style: Style, n: int, split: Split, salt: str) -> list[str]:
    """Random texts of a split, each with a random style of each kind, as the service asks for them."""
    rng = random.Random(f"study/{salt}")
    kinds = [names for names in style.looks if names]
    return [" ".join([random_text(rng, style, split), *map(rng.choice, kinds)]) for _ in range(n)]


def in_data(style: Style, labels: Sequence[str]) -> Tensor:
    """Whether the styles of labels, which name all of them, occur together in data, (N,) bool."""
    rows = style.texts.encode(labels)[:, style.length :] - 1
    return torch.tensor([style.together(*row) for row in rows.tolist()])


def read(reader: TextReader, x: Tensor) -> Tensor:
    """The characters (N, length) that are read in pictures, uint8."""
    return torch.cat([reader.read(from_bytes(part)) for part in x.split(CHUNK)])


def right(reader: TextReader, x: Tensor, characters: Tensor) -> Tensor:
    """Which pictures are read as these characters, (N,) bool."""
    return (read(reader, x) == characters).all(1)


def share(of: Tensor) -> Proportion | None:
    """The share of true values, (N,) bool, with its interval; None of none."""
    return wilson(int(of.sum()), len(of)) if len(of) else None


def reduced(x: Tensor) -> Tensor:
    """Pictures, uint8, whose height is divided by a whole number so that it is at least HEIGHT, as uint8."""
    factor = max(1, x.shape[2] // HEIGHT)
    return torch.cat([F.avg_pool2d(part.float(), factor).round().byte() for part in x.split(CHUNK)])


def fitted(
    study: Study,
    name: str,
    x: Tensor,
    characters: Tensor,
    texts: Text,
    *,
    steps: int,
    rate: float = 3e-3,
    start: nn.Module | None = None,
) -> tuple[TextReader, float]:
    """A reader of small pictures, trained from `start` or anew, and the minutes that this took; it is kept.

    Args:
        study: the study.
        name: of the reader.
        x: (N, C, H, W), uint8.
        characters: (N, length), what is to be read.
        texts: alphabet and length.
        steps, rate: length of training and learning rate.
        start: a network of the same form.
    """
    batch = study.sizes.batch
    training = prepared(x, characters, texts, steps=steps, batch=batch, rate=rate)
    advance = study.track(f"training: {name}", steps)

    def make() -> dict[str, Tensor]:
        for network in (training.state.objective.model, training.state.average) if start is not None else ():
            network.load_state_dict(start.state_dict())
        seconds = training.run(on_step=lambda *_: advance(1))
        return {**training.state.average.state_dict(), "seconds": torch.tensor(seconds)}

    made_of = (steps, batch, rate, digest_of(x), digest_of(characters), None if start is None else weights_of(start))
    found = study.store.kept(f"readers/{name}", made_of, make)
    minutes = float(found.pop("seconds")) / 60
    network = training.state.average
    network.load_state_dict(found)
    return TextReader(network), minutes


def prepared(x: Tensor, characters: Tensor, texts: Text, *, steps: int, batch: int, rate: float) -> Training:
    """A reader of small pictures before its first step."""
    rows = Tensors(x=x, cond=characters)
    data = Data("study", "study", Space(tuple(x.shape[1:]), 256, cond=texts), rows, rows)
    words = {"steps": steps, "batch_size": batch, "rate": rate, "warmup": max(1, steps // 10)}
    return prepare(configure("captcha-reader", [f"training.{key}={value}" for key, value in words.items()]), data)


def weights_of(module: nn.Module) -> str:
    """A hash of a module's weights."""
    return digest([(name, digest_of(value)) for name, value in module.state_dict().items()])

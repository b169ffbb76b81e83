"""Data that a source has opened: training rows, held-out rows, and what is known exactly of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from jensen.core.seeding import generator
from jensen.core.types import Stream
from jensen.data.mixtures import Modes
from jensen.data.pool import Rows, Tensors, drawn_rows, exact_bytes, from_bytes
from jensen.data.space import Space

READ = 1024  # rows that are read at a time


def some(rows: Rows, most: int | None = None) -> dict[str, Tensor]:
    """All rows in memory, in order, or at most `most` of them in a random order, which depends only on their number.

    The first of the latter are a random choice too: files are often sorted by class.
    """
    if most is None:
        return dict(rows[torch.arange(len(rows))])
    chosen, order = _chosen(len(rows), most)
    return {name: value[order] for name, value in rows[chosen].items()}


def in_memory(rows: Rows, most: int) -> Tensors:
    """The rows of `some`; pictures of 256 levels are kept as bytes, a quarter of the memory of floats.

    >>> rows = Tensors(x=torch.tensor([[-1.0], [1.0]]))
    >>> held = in_memory(rows, 2)
    >>> held.tensors["x"].dtype, torch.equal(held[:]["x"], some(rows, 2)["x"])
    (torch.uint8, True)
    """
    parts: dict[str, list[Tensor]] = {}
    chosen, order = _chosen(len(rows), most)
    for index in chosen.split(READ):
        for name, v in rows[index].items():
            parts.setdefault(name, []).append(exact_bytes(v) if name == "x" else v)
    if any(v.dtype != torch.uint8 for v in parts["x"]):
        parts["x"] = [from_bytes(v) for v in parts["x"]]
    return Tensors(**{name: torch.cat(v)[order] for name, v in parts.items()})


def _chosen(n: int, most: int) -> tuple[Tensor, Tensor]:
    """Random row numbers, at most `most` of n, sorted, and the random order of the rows that are read by them."""
    chosen, place = torch.randperm(n, generator=generator(0))[:most].sort()
    return chosen, place.argsort()


class Reader(Protocol):
    """A reader of pictures: a network or another classifier, trained independently of any generator."""

    def read(self, x: Tensor) -> Tensor:
        """Classes (N, width) of samples x (N, ...): one per example, or one for each of its characters or channels."""
        ...

    def clear(self, x: Tensor) -> Tensor:
        """Which of these classes are as clear as in nearly all real data, (N, width) bool; `clear_means` states the
        criterion.
        """
        ...

    @property
    def clear_means(self) -> str:
        """The words after "clear: ", such as "as clear as 95% of the held-out digits"."""
        ...


@dataclass(frozen=True)
class Factors:
    """Every combination of the factors that generate the pictures.

    Attributes:
        x: (N, C, H, W).
        values: (N, F) levels.
        names: names of the factors.
    """

    x: Tensor
    values: Tensor
    names: tuple[str, ...]


LogDensity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Truths:
    """What is known exactly of the data; None if unknown.

    Attributes:
        log_p: called with (x (N, D), sigma): log density of the data with Gaussian noise of that standard deviation
            added, (N,) nats; sigma = 0 for the data themselves.
        modes: the modes of points in the plane.
        factors: the factors that generate the pictures.
        reader: a reader of the pictures.
        second: another reader of them, which is only used for judging.
        shares: exact shares of the reader's classes, (size ** width,), in the order of their digits.
    """

    log_p: LogDensity | None = None
    modes: Modes | None = None
    factors: Factors | None = None
    reader: Reader | None = None
    second: Reader | None = None
    shares: Tensor | None = None


Asks = Callable[[int], Tensor | None]
Streams = Callable[[int, int], Stream]


@dataclass(frozen=True)
class Data:
    """A source, opened.

    Attributes:
        name: as it appears in a sentence, such as "scikit-learn's digits, 17 levels of grey".
        fingerprint: a hash of content and settings; runs with the same one can be compared.
        space: all that a model may know of the data.
        train: training rows.
        test: held-out rows.
        truths: what is known exactly.
        asks: called with n, returns conditions (n, width) of samples in judging; None: conditions of the held-out rows.
        streams: called with (batch size, seed), returns training batches; None: rows drawn with replacement.
        b: side b of data for translation, whose side a is this object.
        unseen: which held-out rows are of a kind that does not occur in training, (len(test),) bool.
        names: names of the training rows, if they have names.
        notes: what the source chose by itself or left out, one sentence each.
    """

    name: str
    fingerprint: str
    space: Space
    train: Rows
    test: Rows
    truths: Truths = field(default_factory=Truths)
    asks: Asks | None = None
    streams: Streams | None = None
    b: Data | None = None
    unseen: Tensor | None = None
    names: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    def stream(self, batch_size: int, seed: int) -> Stream:
        """Training batches {"x", "cond", "index"}; draw n depends only on (seed, n).

        If it is a `Draws`, as for jensen's own sources, each of several processes reads only its own rows.
        """
        if self.streams is not None:
            return self.streams(batch_size, seed)
        return drawn_rows(self.train, batch_size, seed)

    def asked(self, n: int) -> Tensor | None:
        """Conditions of n samples in judging, (n, width), or None if the data have none: those of held-out rows in a
        random order, as often as needed.
        """
        if self.asks is not None:
            return self.asks(n)
        if self.space.cond is None:
            return None
        order = torch.randperm(len(self.test), generator=generator(0))
        return self.test[order[torch.arange(n) % len(order)]]["cond"]


MOST_NUMBERS = 2**26  # in memory at once, half a gigabyte in double precision


def spaced(space: Space, train: Rows, most: int = 5000, *, by_column: bool = False) -> Space:
    """`space` with the number of training rows, and their mean and standard deviation.

    Mean and standard deviation are those of at most `most` rows and `MOST_NUMBERS` numbers, over all dimensions or by
    column, rounded to six significant digits, since the order of summation differs between machines.

    Raises:
        ValueError: for data, or a column, whose values are all equal.

    >>> from jensen.data.pool import Tensors
    >>> spaced(Space((2,)), Tensors(x=torch.tensor([[1.0, 10.0], [3.0, 50.0]])), by_column=True).mean
    (2.0, 30.0)
    """
    x = some(train, min(most, max(2, MOST_NUMBERS // math.prod(space.shape))))["x"].double()
    if not by_column:
        if not float(x.std()) > 0:
            raise ValueError(f"data must have at least two different values, got {float(x.flatten()[0]):g} everywhere")
        return replace(space, rows=len(train), mean=round(float(x.mean()), 6), std=round(float(x.std()), 6))
    mean, std = x.mean(0), x.std(0)
    if constant := [k for k, v in enumerate(std.tolist()) if not v > 0]:
        name = space.columns[constant[0]] if space.columns else constant[0] + 1
        raise ValueError(f"column {name} must have at least two different values: leave it out with data.columns")
    digits = tuple(tuple(float(f"{value:.6g}") for value in v.tolist()) for v in (mean, std))
    return replace(space, rows=len(train), mean=digits[0], std=digits[1])

"""Data that a source has opened: rows to train on, rows held out, and what is known exactly of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from jensen.core.seeding import generator
from jensen.core.types import Stream
from jensen.data.mixtures import Modes
from jensen.data.pool import Rows, drawn_rows
from jensen.data.space import Space


def some(rows: Rows, most: int | None = None) -> dict[str, Tensor]:
    """At most `most` rows in memory, a random choice that depends on their number alone, in their own order."""
    if most is None or len(rows) <= most:
        return dict(rows[torch.arange(len(rows))])
    return dict(rows[torch.randperm(len(rows), generator=generator(0))[:most].sort().values])


class Reader(Protocol):
    """Reads what pictures show: a network or a classical classifier that no generator was trained with."""

    def read(self, x: Tensor) -> Tensor:
        """Classes (N, width) of samples x (N, ...): of each example, or of each of its characters or channels."""
        ...

    def clear(self, x: Tensor) -> Tensor:
        """(N, width) bool: which of these are as clear as nearly all real data are; how clear is `clear_means`."""
        ...

    @property
    def clear_means(self) -> str:
        """The words after "clear: ", such as "as clear as 95% of the held-out digits"."""
        ...


@dataclass(frozen=True)
class Factors:
    """Every combination of the factors that pictures were drawn from.

    Attributes:
        x: (N, C, H, W).
        values: (N, F) levels.
        names: of the factors.
    """

    x: Tensor
    values: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Truths:
    """What is known exactly of data; None where it is not.

    Attributes:
        log_p: called with (x (N, D), sigma): log density of the data with Gaussian noise of that standard deviation
            added, (N,) nats; sigma = 0 for the data themselves.
        modes: the modes of points in the plane.
        factors: the factors that pictures were drawn from.
        reader: what reads pictures.
        shares: exact shares of the reader's classes, (size ** width,), in the order of their digits.
    """

    log_p: Callable[[Tensor, float], Tensor] | None = None
    modes: Modes | None = None
    factors: Factors | None = None
    reader: Reader | None = None
    shares: Tensor | None = None


Asks = Callable[[int], Tensor | None]
Streams = Callable[[int, int], Stream]


@dataclass(frozen=True)
class Data:
    """A source, opened.

    Attributes:
        name: in a sentence: "scikit-learn's digits, 17 levels of grey".
        fingerprint: of content and settings: runs with the same one can be compared.
        space: all that a model may know.
        train: to train on.
        test: held out.
        truths: what is known exactly.
        asks: called with n: conditions (n, width) to judge samples by; None: those of the held-out rows, in turn.
        streams: called with (batch size, seed): training batches, where they are not rows drawn with replacement.
        b: side b, for translation; this is then side a.
        unseen: which held-out rows are of a kind that training rows never are, (len(test),) bool.
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

    def stream(self, batch_size: int, seed: int) -> Stream:
        """Training batches {"x", "cond", "index"}; draw n is a function of (seed, n) alone."""
        if self.streams is not None:
            return self.streams(batch_size, seed)
        return drawn_rows(self.train, batch_size, seed)

    def asked(self, n: int) -> Tensor | None:
        """Conditions of n samples to be judged, (n, width), or None where data have none."""
        if self.asks is not None:
            return self.asks(n)
        if self.space.cond is None:
            return None
        return self.test[torch.arange(n) % len(self.test)]["cond"]


def spaced(space: Space, train: Rows, most: int = 5000) -> Space:
    """`space` with the number of training rows, and their mean and standard deviation.

    These are of at most `most` rows, rounded to six decimals: the order of a sum differs between machines.
    """
    x = some(train, most)["x"].double()
    return replace(space, rows=len(train), mean=round(float(x.mean()), 6), std=round(float(x.std()), 6))

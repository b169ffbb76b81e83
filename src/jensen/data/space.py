"""The space of data: all that a model may know of its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """One class per example, conditions (N, 1).

    >>> Classes(("cat", "dog")).encode(["dog"]).tolist()
    [[1]]
    """

    names: tuple[str, ...]

    width = 1

    @property
    def size(self) -> int:
        return len(self.names)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Conditions (N, 1) from names.

        Raises:
            ValueError: for an unknown name.
        """
        for text in texts:
            if text not in self.names:
                known = ", ".join(self.names[:12]) + ", ..." * (len(self.names) > 12)
                raise ValueError(f"a class must be one of {known}, got {text!r}")
        return torch.tensor([[self.names.index(text)] for text in texts]).view(len(texts), 1)

    def decode(self, cond: Tensor) -> list[str]:
        return [self.names[k] for k in cond[:, 0].tolist()]


@dataclass(frozen=True)
class Text:
    """A text of fixed length per example, conditions (N, length).

    >>> Text("abc", 2).encode(["ca"]).tolist()
    [[2, 0]]
    """

    alphabet: str
    length: int

    @property
    def width(self) -> int:
        return self.length

    @property
    def size(self) -> int:
        return len(self.alphabet)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Conditions (N, length) from texts.

        Raises:
            ValueError: for a text of another length, or with a character that is not in the alphabet.
        """
        for text in texts:
            if len(text) != self.length or not set(text) <= set(self.alphabet):
                raise ValueError(f"texts must be {self.length} characters of {self.alphabet!r}, got {text!r}")
        return torch.tensor([[self.alphabet.index(c) for c in text] for text in texts]).view(len(texts), self.length)

    def decode(self, cond: Tensor) -> list[str]:
        return ["".join(self.alphabet[k] for k in row) for row in cond.tolist()]


@dataclass(frozen=True)
class Space:
    """All that a model may know of its data; it is stored in config.json, so that sampling needs no data.

    Attributes:
        shape: (C, H, W) of pictures in [-1, 1], or (D,) of points.
        levels: number of values of each dimension, evenly spaced on [-1, 1]; None: continuous data with a density.
        mean, std: over all dimensions of the training data.
        cond: what an example may be conditioned on.
        rows: number of training examples.
        b: space of side b, for translation between two kinds of pictures; this space is then that of side a.
        paired: whether training batches contain pairs of the two sides.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    mean: float = 0.0
    std: float = 1.0
    cond: Classes | Text | None = None
    rows: int = 0
    b: Space | None = None
    paired: bool = False

    @property
    def pictures(self) -> bool:
        return len(self.shape) == 3

    @property
    def dims(self) -> int:
        return math.prod(self.shape)

    def settled(self, x: Tensor) -> Tensor:
        """Samples rounded to the levels of the data, as they would be stored.

        >>> Space((1,), levels=3).settled(torch.tensor([-0.7, 0.2, 5.0])).tolist()
        [-1.0, 0.0, 1.0]
        """
        if self.levels is None:
            return x
        steps = (self.levels - 1) / 2
        return ((x.clamp(-1, 1) + 1) * steps).round() / steps - 1

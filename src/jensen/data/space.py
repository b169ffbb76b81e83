"""The space of data: all that a model may know of its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_DIMS = 2**26  # numbers of one example
MOST_CHARACTERS = 2**16  # of a text


@dataclass(frozen=True)
class Classes:
    """One class per example, conditions (N, 1).

    >>> Classes(("cat", "dog")).encode(["dog"]).tolist()
    [[1]]
    """

    names: tuple[str, ...]

    width = 1

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names of classes must be at least one, and different, got {list(self.names[:12])}")

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

    def legible(self, cond: Tensor) -> Tensor:
        """What a reader reads of conditions: all of them."""
        return cond

    def example(self, k: int) -> str:
        """Name number k, for examples of commands."""
        return self.names[k % self.size]


@dataclass(frozen=True)
class Text:
    """A text per example, conditions (N, width): its characters, then one number for each kind of style.

    Shorter texts end in spaces, if a space is in the alphabet. Styles are named after the text, in any order; a kind
    without a name has the number 0.

    Attributes:
        alphabet: the characters, without repeats.
        length: most characters of a text; without a space in the alphabet, the number of characters.
        shortest: fewest characters of a text, if a space is in the alphabet.
        written: whether the text is written in the picture, from left to right; captions are not.
        styles: names of the styles of each kind, all different.

    >>> Text("abc", 2).encode(["ca"]).tolist()
    [[2, 0]]
    >>> Text("abc ", 3).encode(["ca"]).tolist()
    [[2, 0, 3]]
    >>> texts = Text("abc", 2, styles=(("serif", "sans"), ("red", "blue")))
    >>> texts.encode(["ca blue serif", "ca sans"]).tolist()
    [[2, 0, 1, 2], [2, 0, 2, 0]]
    >>> texts.decode(texts.encode(["ca blue serif", "ca sans"]))
    ['ca serif blue', 'ca sans']
    """

    alphabet: str
    length: int
    shortest: int = 0
    written: bool = True
    styles: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"alphabet must be at least one character, and different ones, got {self.alphabet!r}")
        if not 1 <= self.length <= MOST_CHARACTERS:
            raise ValueError(f"length must be from 1 to {MOST_CHARACTERS}, got {self.length}")
        if not 0 <= self.shortest <= self.length:
            raise ValueError(f"shortest must be from 0 to {self.length}, the length, got {self.shortest}")
        names = [name for kind in self.styles for name in kind]
        if len(set(names)) < len(names) or not all(self.styles) or any(name.split() != [name] for name in names):
            raise ValueError(f"names of styles must be different words, at least one of each kind, got {self.styles}")

    @property
    def width(self) -> int:
        return self.length + len(self.styles)

    @property
    def size(self) -> int:
        return max(len(self.alphabet), *(1 + len(kind) for kind in self.styles), 0)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Conditions (N, width) from texts, each followed by the names of its styles, if there are any.

        Raises:
            ValueError: for a text of another length, or with a character that is not in the alphabet; for an unknown
                style, or two of one kind.
        """
        return torch.tensor([self._row(text) for text in texts], dtype=torch.long).view(len(texts), self.width)

    def _row(self, text: str) -> list[int]:
        characters, *named = (text.split() or [""]) if self.styles else [text]
        if not self.least <= len(characters) <= self.length or not set(characters) <= set(self.alphabet):
            raise ValueError(f"texts must be {self.what}, got {characters!r}")
        return [self.alphabet.index(c) for c in characters.ljust(self.length)] + self._numbers(named)

    def _numbers(self, named: Sequence[str]) -> list[int]:
        numbers = [0] * len(self.styles)
        for name in named:
            kind = next((k for k, names in enumerate(self.styles) if name in names), None)
            if kind is None:
                known = "; ".join(", ".join(names) for names in self.styles)
                raise ValueError(f"styles must be among {known}, got {name!r}")
            if numbers[kind]:
                raise ValueError(
                    f"a text must have one style of a kind, got {self.styles[kind][numbers[kind] - 1]} and {name}"
                )
            numbers[kind] = 1 + self.styles[kind].index(name)
        return numbers

    @property
    def what(self) -> str:
        """In words.

        >>> Text("abc", 3).what, Text("abc ", 3, 2).what, Text("abc ", 3).what
        ("3 characters of 'abc'", "2 to 3 characters of 'abc'", "at most 3 characters of 'abc '")
        """
        fewer = f"{self.least} to " if self.least else "at most "
        alphabet = self.alphabet.replace(" ", "") if self.least else self.alphabet
        return f"{fewer * (self.least < self.length)}{self.length} characters of {alphabet!r}"

    @property
    def least(self) -> int:
        """Fewest characters of a text."""
        return self.shortest if self.padded else self.length

    @property
    def padded(self) -> bool:
        """Whether texts can be shorter than `length`."""
        return " " in self.alphabet

    def legible(self, cond: Tensor) -> Tensor:
        """What a reader reads of conditions (N, width): the characters, (N, length)."""
        return cond[:, : self.length]

    def example(self, k: int) -> str:
        """Text number k of a list of different texts, for examples of commands.

        >>> texts = Text("abc", 2, styles=(("serif", "sans"),))
        >>> texts.example(0), texts.example(1)
        ('ab serif', 'ca sans')
        """
        letters = self.alphabet.strip() or self.alphabet
        characters = "".join(letters[i % len(letters)] for i in range(k * self.length, (k + 1) * self.length))
        return " ".join([characters, *(names[k % len(names)] for names in self.styles)])

    def decode(self, cond: Tensor) -> list[str]:
        """Texts and the names of their styles, from conditions (N, width), or texts from characters (N, length)."""
        return [self._text(row) for row in cond.tolist()]

    def unstyled(self, cond: Tensor) -> Tensor:
        """Conditions (N, width) whose styles are not named; the null condition stays as it is.

        >>> texts = Text("abc", 2, styles=(("serif", "sans"),))
        >>> texts.decode(texts.unstyled(texts.encode(["ab sans", "ca"])))
        ['ab', 'ca']
        """
        style = torch.arange(self.width, device=cond.device) >= self.length
        return cond.masked_fill(style & (cond != self.size), 0)

    def _text(self, row: Sequence[int]) -> str:
        characters = "".join(self.alphabet[k] for k in row[: self.length]).rstrip()
        named = [kind[k - 1] for kind, k in zip(self.styles, row[self.length :], strict=False) if k]
        return " ".join([characters, *named])


@dataclass(frozen=True)
class Space:
    """All that a model may know of its data; it is stored in config.json, so that sampling needs no data.

    Attributes:
        shape: (C, H, W) of pictures in [-1, 1], or (D,) of points.
        levels: number of values of each dimension, evenly spaced on [-1, 1]; None: continuous data with a density.
        mean, std: mean and standard deviation over all dimensions of the training data, or one of each per column of
            points whose columns have different scales.
        columns: names of the columns of points, if they have names.
        cond: kind of condition of an example; None if there is none.
        rows: number of training examples.
        b: space of side b, for translation between two kinds of pictures; this space is then that of side a.
        paired: whether training batches contain pairs of the two sides.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    cond: Classes | Text | None = None
    rows: int = 0
    b: Space | None = None
    paired: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or self.dims > MOST_DIMS:
            raise ValueError(
                f"shape must be of numbers from 1, with a product of at most {MOST_DIMS}, got {self.shape}"
            )
        if self.levels is not None and not 2 <= self.levels <= 2**16:
            raise ValueError(f"levels must be from 2 to {2**16}, got {self.levels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            numbers = values if isinstance(values, tuple) else (values,)
            if len(numbers) not in (1, self.shape[0]) or not all(map(math.isfinite, numbers)):
                raise ValueError(f"{name} must be a finite number, or one for each column, got {values}")
            if name == "std" and min(numbers) <= 0:
                raise ValueError(f"std must be positive, got {values}")

    @property
    def pictures(self) -> bool:
        return len(self.shape) == 3

    @property
    def dims(self) -> int:
        return math.prod(self.shape)

    @property
    def by_column(self) -> bool:
        """Whether every column has a mean and a standard deviation."""
        return isinstance(self.std, tuple)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each () or (D,).

        >>> Space((2,), mean=(0.0, 5.0), std=(1.0, 10.0)).moments()
        (tensor([0., 5.]), tensor([ 1., 10.]))
        """
        return torch.tensor(self.mean), torch.tensor(self.std)

    def comparable(self, x: Tensor) -> Tensor:
        """Data with comparable distances: columns of different scales are standardised, other data unchanged.

        >>> Space((2,), mean=(0.0, 5.0), std=(1.0, 10.0)).comparable(torch.tensor([[3.0, 25.0]]))
        tensor([[3., 2.]])
        """
        if not self.by_column:
            return x
        mean, std = (v.to(x) for v in self.moments())
        return (x - mean) / std

    @property
    def unit(self) -> str:
        """The unit of distances between `comparable` data, to end a sentence; "" if it is the unit of the data."""
        return ", in standard deviations of each column" * self.by_column

    def settled(self, x: Tensor) -> Tensor:
        """Samples rounded to the levels of the data, as they would be stored.

        >>> Space((1,), levels=3).settled(torch.tensor([-0.7, 0.2, 5.0])).tolist()
        [-1.0, 0.0, 1.0]
        """
        if self.levels is None:
            return x
        steps = (self.levels - 1) / 2
        return ((x.clamp(-1, 1) + 1) * steps).round() / steps - 1

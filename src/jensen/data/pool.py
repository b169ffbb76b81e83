"""Rows of data, and streams of batches drawn from them: row k of draw n depends only on (seed, n, k)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jensen.core.seeding import checked_seed, numbered
from jensen.core.types import Batch, Draws


class Rows(Protocol):
    """Examples by index: tensors in memory, or a table larger than memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch:
        """The rows with these indices: "x" (B, ...) float, pictures in [-1, 1]; "cond" (B, width) where there are any.

        "read" (B, width), if it is there, holds the classes that the data's reader should read, if they are not the
        condition.
        """
        ...


class Tensors:
    """Rows in memory; uint8 pictures are returned as float32 in [-1, 1].

    Raises:
        ValueError: if the tensors differ in their number of rows, or have none.

    >>> rows = Tensors(x=torch.arange(10.0), cond=torch.zeros(10, 1))
    >>> len(rows), rows[torch.tensor([3])]["x"].tolist()
    (10, [3.0])
    """

    def __init__(self, **tensors: Tensor):
        sizes = {len(v) for v in tensors.values()}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"tensors must have equally many rows, at least one, got {sorted(sizes)}")
        self.tensors = tensors
        self.rows = sizes.pop()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Tensor | slice) -> Batch:
        return {name: from_bytes(v[index]) for name, v in self.tensors.items()}


@dataclass(frozen=True)
class Examples:
    """The "x" of rows as `jensen.core.protocols.Indexed`: `of` the rows that are asked for.

    >>> Examples(Tensors(x=torch.tensor([0, 255], dtype=torch.uint8)), torch.abs)[:1]
    tensor([1.])
    """

    rows: Tensors
    of: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice, /) -> Tensor:
        return self.of(self.rows[index]["x"])


def drawn_rows(rows: Rows, batch_size: int, seed: int) -> Draws:
    """Batches of `batch_size` rows, drawn with replacement, with their indices as "index"; only drawn rows are read.

    Raises:
        ValueError: if batch_size < 1, or a seed of more than 64 bits.

    >>> stream = drawn_rows(Tensors(x=torch.arange(100)), 4, seed=0)
    >>> first = [b["x"].tolist() for b, _ in zip(stream(0), range(3))]
    >>> next(stream(2))["x"].tolist() == first[2]
    True
    """
    checked_seed(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def draw(n: int, part: slice) -> Batch:
        index = torch.randint(len(rows), (batch_size,), generator=numbered(seed, n))[part]
        return {"index": index, **rows[index]}

    return Draws(draw, batch_size)


def pool_stream(batch_size: int, seed: int, **tensors: Tensor) -> Draws:
    """`drawn_rows` of tensors (N, ...) by name.

    Raises:
        ValueError: see `Tensors` and `drawn_rows`.
    """
    return drawn_rows(Tensors(**tensors), batch_size, seed)


def from_bytes(x: Tensor) -> Tensor:
    """Maps uint8 in [0, 255] to float32 in [-1, 1]; other types are unchanged."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def exact_bytes(x: Tensor) -> Tensor:
    """Floats x as uint8 if `from_bytes` restores them bit for bit, otherwise unchanged.

    >>> [exact_bytes(torch.tensor([v, 1.0])).dtype for v in (-1.0, 0.0)]
    [torch.uint8, torch.float32]
    """
    if x.dtype != torch.float32 or not bool(x.isfinite().all()):
        return x
    found = to_bytes(x)
    return found if torch.equal(from_bytes(found), x) else x


def to_bytes(x: Tensor) -> Tensor:
    """Maps floats in [-1, 1] to uint8, clipped and rounded: the inverse of `from_bytes`.

    Raises:
        ValueError: if a number is not finite, since it would become black or white.

    >>> to_bytes(torch.tensor([-1.0, 0.0, 3.0])).tolist()
    [0, 128, 255]
    """
    refuse_nonfinite(x)
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def refuse_nonfinite(x: Tensor) -> None:
    """Raise a ValueError if samples contain numbers that are not finite, which no picture can show."""
    if wrong := int((~x.isfinite()).sum()):
        raise ValueError(f"samples must be finite numbers, got {wrong} of {x.numel()} that are not")

"""Rows in chunks of a fixed size, so that the last bits of a row never depend on the number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count


@dataclass(frozen=True)
class Chunk:
    """Rows of a batch, followed by padding: copies of the first row, with noise that is drawn for them.

    Attributes:
        rows: which rows of the batch.
        size: number of rows with the padding.
        generator: None, one, or `size` of them.
        cond: conditions, (size, ...), or None.
    """

    rows: slice
    size: int
    generator: Rng
    cond: Tensor | None

    @property
    def n(self) -> int:
        """The number of rows without the padding."""
        return int(self.rows.stop - self.rows.start)

    def normal(self, shape: Sequence[int], *, like: Tensor) -> Float[Tensor, "size ..."]:
        return normal((self.size, *shape), self.generator, like=like)

    def take(self, batch: Tensor) -> Tensor:
        """The rows of the chunk from the whole batch, and the padding."""
        return _padded(batch[self.rows], self.size)


def _padded(rows: Tensor, size: int) -> Tensor:
    return torch.cat([rows, rows[:1].expand(size - len(rows), *rows.shape[1:])])


def chunks(n: int, size: int, *, cond: Tensor | None = None, generator: Rng = None) -> Iterator[Chunk]:
    """Split n rows into chunks of `size` rows.

    Args:
        n: number of rows, at least 1.
        size: number of rows of a chunk.
        cond: (n, ...) conditions, or None.
        generator: None, one, or n of them, one per row.

    Raises:
        ValueError: for n < 1, or if the number of conditions or generators is not n.

    >>> [(chunk.n, chunk.take(torch.arange(5)).tolist()) for chunk in chunks(5, 3)]
    [(3, [0, 1, 2]), (2, [3, 4, 3])]
    """
    check_count(n=n)
    if cond is not None and (cond.ndim == 0 or len(cond) != n):
        raise ValueError(f"conditions must be {n}, one per row, got shape {tuple(cond.shape)}")
    if isinstance(generator, Sequence) and len(generator) != n:
        raise ValueError(f"generators must be {n}, one per row, got {len(generator)}")
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        rng = generator
        if isinstance(generator, Sequence):
            spare = torch.Generator(generator[0].device).manual_seed(0)
            rng = [*generator[rows], *[spare] * (first + size - rows.stop)]
        yield Chunk(rows, size, rng, None if cond is None else _padded(cond[rows], size))


def refuse_condition(cond: Tensor | None) -> None:
    """Raise a ValueError for a condition that is given to a model without conditions."""
    if cond is not None:
        raise ValueError("cond must be None for a model without conditions")

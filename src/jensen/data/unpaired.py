"""Streams of two or more sides that are drawn independently, and streams of transformed draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from jensen.core.seeding import checked_seed, derived, drawing, numbered
from jensen.core.types import Batch, Stream
from jensen.data.pool import Rows, drawn_rows


def unpaired_stream(batch_size: int, seed: int, **sides: Rows) -> Stream:
    """Batches of `batch_size` values of "x" from each side, drawn independently; the keys are the names of the sides.

    The order of each side depends only on (seed, its name): see `drawn_rows`.

    Raises:
        ValueError: if batch_size < 1, or the seed is beyond 64 bits.

    >>> import torch
    >>> from jensen.data.pool import Tensors
    >>> batch = next(unpaired_stream(4, 0, a=Tensors(x=torch.arange(10)), b=Tensors(x=torch.arange(1000)))(0))
    >>> batch["a"].shape, batch["b"].shape
    (torch.Size([4]), torch.Size([4]))
    """
    streams = [drawn_rows(rows, batch_size, derived(checked_seed(seed), name)) for name, rows in sides.items()]

    def opened(start: int) -> Iterator[Batch]:
        for parts in zip(*(stream(start) for stream in streams), strict=True):
            yield {name: part["x"] for name, part in zip(sides, parts, strict=True)}

    return opened


def transformed(stream: Stream, transform: Callable[[Tensor], Tensor], seed: int) -> Stream:
    """A stream with each of its floating-point tensors transformed, (B, ...) -> (B, ...).

    The random numbers of the transform in draw n depend only on (seed, n).
    """

    def opened(start: int) -> Iterator[Batch]:
        for draw, batch in enumerate(stream(start), start):
            with drawing(numbered(seed, draw)):
                yield {name: transform(x) if x.is_floating_point() else x for name, x in batch.items()}

    return opened

"""Streams of two or more sides that are drawn independently, and streams of transformed draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from jensen.core.seeding import checked_seed, derived, drawing, numbered
from jensen.core.types import Batch, Draws
from jensen.data.pool import Rows, drawn_rows


def unpaired_stream(batch_size: int, seed: int, **sides: Rows) -> Draws:
    """Batches of `batch_size` rows of "x" from each side, drawn independently; the keys are the names of the sides.

    The order of each side depends only on (seed, its name): see `drawn_rows`.

    Raises:
        ValueError: if batch_size < 1, or the seed is beyond 64 bits.

    >>> import torch
    >>> from jensen.data.pool import Tensors
    >>> batch = next(unpaired_stream(4, 0, a=Tensors(x=torch.arange(10)), b=Tensors(x=torch.arange(1000)))(0))
    >>> batch["a"].shape, batch["b"].shape
    (torch.Size([4]), torch.Size([4]))
    """
    streams = {name: drawn_rows(rows, batch_size, derived(checked_seed(seed), name)) for name, rows in sides.items()}

    def draw(n: int, rows: slice) -> Batch:
        return {name: stream.draw(n, rows)["x"] for name, stream in streams.items()}

    return Draws(draw, batch_size)


def transformed(
    stream: Draws, transform: Callable[[Tensor, Tensor], Tensor], noise: Callable[[int], Tensor], seed: int
) -> Draws:
    """A stream with each of its floating-point tensors x (B, ...) replaced by transform(x, noise(B)).

    The noise in draw n depends only on (seed, n). It is drawn for whole batches, even if only some of their rows are
    read.
    """

    def draw(n: int, rows: slice) -> Batch:
        batch = stream.draw(n, rows)
        with drawing(numbered(seed, n)):
            return {
                name: transform(x, noise(stream.batch_size)[rows]) if x.is_floating_point() else x
                for name, x in batch.items()
            }

    return replace(stream, draw=draw)

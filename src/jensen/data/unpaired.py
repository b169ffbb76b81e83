"""Streams of two or more sides that are drawn independently, and streams of transformed draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from jensen.core.seeding import checked_seed, derived, drawing, numbered
from jensen.core.types import Batch, Draws, Stream
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
    seed = checked_seed(seed)
    found = side_by_side(**{name: drawn_rows(rows, batch_size, derived(seed, name)) for name, rows in sides.items()})
    assert isinstance(found, Draws)
    return found


def side_by_side(**streams: Stream) -> Stream:
    """Batches with the "x" of each stream, under its name: `Draws` if all of them are."""
    draws = [stream for stream in streams.values() if isinstance(stream, Draws)]
    if len(draws) == len(streams):

        def draw(n: int, rows: slice) -> Batch:
            return {name: stream.draw(n, rows)["x"] for name, stream in zip(streams, draws, strict=True)}

        return Draws(draw, draws[0].batch_size)

    def opened(start: int) -> Iterator[Batch]:
        for batches in zip(*(stream(start) for stream in streams.values()), strict=False):
            yield {name: batch["x"] for name, batch in zip(streams, batches, strict=True)}

    return opened


def transformed(
    stream: Draws,
    transform: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[int], Tensor],
    seed: int,
    *,
    jointly: bool = False,
) -> Draws:
    """A stream with each of its floating-point tensors x (B, ...) replaced by transform(x, noise(B)).

    With `jointly`, all tensors of a batch have the same noise, otherwise each has its own. The noise in draw n depends
    only on (seed, n). It is drawn for whole batches, even if only some of their rows are read.
    """

    def draw(n: int, rows: slice) -> Batch:
        batch = stream.draw(n, rows)
        with drawing(numbered(seed, n)):
            u = noise(stream.batch_size)[rows] if jointly else None
            return {
                name: transform(x, noise(stream.batch_size)[rows] if u is None else u) if x.is_floating_point() else x
                for name, x in batch.items()
            }

    return replace(stream, draw=draw)

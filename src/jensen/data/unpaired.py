"""Streams of unpaired data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from jensen.core.seeding import drawing, generators, numbered
from jensen.core.types import Batch, Stream
from jensen.data.pool import pool_stream


def unpaired_stream(
    batch_size: int, seed: int, *, transform: Callable[[Tensor], Tensor] | None = None, **sides: Tensor
) -> Stream:
    """Draws of `batch_size` rows from each of several tensors, of any numbers of rows, independently of one another.

    Each side has an order of its own, a function of (seed, its name) alone: see `pool_stream`.

    Args:
        batch_size: at least 1.
        seed: of the draws.
        transform: of every side's draws, (B, ...) -> (B, ...); its own draws are a function of (seed, n) too.
        sides: (N_k, ...) each, by name.

    Raises:
        ValueError: if batch_size < 1, or a side is empty.

    >>> import torch
    >>> batch = next(unpaired_stream(4, seed=0, a=torch.arange(10), b=torch.arange(1000))(0))
    >>> batch["a"].shape, batch["b"].shape
    (torch.Size([4]), torch.Size([4]))
    """
    *seeds, last = (rng.initial_seed() % 2**31 for rng in generators(seed, [*sides, "transform"]))
    streams = [pool_stream(batch_size, own, **{name: x}) for own, (name, x) in zip(seeds, sides.items(), strict=True)]

    def opened(start: int) -> Iterator[Batch]:
        for draw, parts in enumerate(zip(*(stream(start) for stream in streams), strict=True), start):
            batch = {name: x for part in parts for name, x in part.items()}
            if transform is not None:
                with drawing(numbered(last, draw)):
                    batch = {name: transform(x) for name, x in batch.items()}
            yield batch

    return opened

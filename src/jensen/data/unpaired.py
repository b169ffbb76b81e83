"""Streams of unpaired data."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from jensen.core.seeding import generators
from jensen.core.types import Batch, Stream
from jensen.data.pool import pool_stream


def unpaired_stream(batch_size: int, seed: int, **sides: Tensor) -> Stream:
    """Draws of `batch_size` rows from each of several tensors, of any numbers of rows, independently of one another.

    Each side has an order of its own, a function of (seed, its name) alone: see `pool_stream`.

    Args:
        batch_size: at least 1.
        seed: of the draws.
        sides: (N_k, ...) each, by name.

    Raises:
        ValueError: if batch_size < 1, or a side is empty.

    >>> import torch
    >>> batch = next(unpaired_stream(4, seed=0, a=torch.arange(10), b=torch.arange(1000))(0))
    >>> batch["a"].shape, batch["b"].shape
    (torch.Size([4]), torch.Size([4]))
    """
    seeds = [rng.initial_seed() % 2**31 for rng in generators(seed, list(sides))]
    streams = [pool_stream(batch_size, own, **{name: x}) for own, (name, x) in zip(seeds, sides.items(), strict=True)]

    def opened(start: int) -> Iterator[Batch]:
        for parts in zip(*(stream(start) for stream in streams), strict=True):
            yield {name: x for part in parts for name, x in part.items()}

    return opened

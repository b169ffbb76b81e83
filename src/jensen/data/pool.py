"""Streams: batches as a pure function of a seed and a draw number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jensen.core.seeding import checked_seed, numbered
from jensen.core.types import Batch, Stream


def pool_stream(batch_size: int, seed: int, **tensors: Tensor) -> Stream:
    """Draws of `batch_size` rows, with replacement, from tensors of equally many rows.

    Pictures of uint8 come out as float32 in [-1, 1]; draw n depends on (seed, n) alone.

    Args:
        batch_size: at least 1.
        seed: of the draws.
        tensors: (N, ...) each, by name.

    Raises:
        ValueError: if batch_size < 1, the seed is beyond 64 bits, or the tensors differ in their number of rows.

    >>> stream = pool_stream(4, seed=0, x=torch.arange(100))
    >>> first = [b["x"].tolist() for b, _ in zip(stream(0), range(3))]
    >>> next(stream(2))["x"].tolist() == first[2]
    True
    """
    sizes = {len(v) for v in tensors.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"tensors must have equally many rows, at least one, got {sorted(sizes)}")
    return drawn_rows(
        lambda index: {k: from_bytes(v[index]) for k, v in tensors.items()}, sizes.pop(), batch_size, seed
    )


def drawn_rows(take: Callable[[Tensor], Batch], rows: int, batch_size: int, seed: int) -> Stream:
    """Draws of `batch_size` of so many rows, with replacement: `take` of their numbers.

    Raises:
        ValueError: if batch_size < 1, or the seed is beyond 64 bits.
    """
    checked_seed(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def opened(start: int) -> Iterator[Batch]:
        draw = start
        while True:
            rng = numbered(seed, draw)
            yield take(torch.randint(rows, (batch_size,), generator=rng))
            draw += 1

    return opened


def from_bytes(x: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]; other types are left as they are."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def to_bytes(x: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8, clipped and rounded: the inverse of `from_bytes`.

    Raises:
        ValueError: if a number is not finite, which would come out as black or white.

    >>> to_bytes(torch.tensor([-1.0, 0.0, 3.0])).tolist()
    [0, 128, 255]
    """
    refuse_nonfinite(x)
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def refuse_nonfinite(x: Tensor) -> None:
    """Raise a ValueError if samples hold a number that is not finite: no picture could show it."""
    if wrong := int((~x.isfinite()).sum()):
        raise ValueError(f"samples must be finite numbers to be shown, got {wrong} of {x.numel()} that are not")

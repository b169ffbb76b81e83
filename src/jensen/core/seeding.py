"""Randomness at public edges: one generator, or one a row so that no row depends on its neighbours."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

Rng = torch.Generator | Sequence[torch.Generator] | None


def normal(shape: Sequence[int], rng: Rng = None, *, like: Tensor) -> Tensor:
    """Standard normal draws of the device and dtype of `like`.

    Args:
        shape: (B, ...).
        rng: None (torch's global generator), one generator, or B of them, one a row.
        like: gives device and dtype.

    Raises:
        ValueError: if there are several generators but not one a row.

    >>> a, b = (generator(7) for _ in range(2))
    >>> x = torch.zeros(())
    >>> bool((normal((2, 3), [a, generator(8)], like=x)[0] == normal((1, 3), [b], like=x)[0]).all())
    True
    """
    shape = tuple(shape)
    if rng is None or isinstance(rng, torch.Generator):
        device = like.device if rng is None else rng.device
        return torch.randn(shape, generator=rng, device=device, dtype=like.dtype).to(like.device)
    if len(rng) != shape[0]:
        raise ValueError(f"generators must be one a row, {shape[0]}, got {len(rng)}")
    rows = [torch.randn(shape[1:], generator=g, device=g.device, dtype=like.dtype) for g in rng]
    return torch.stack(rows).to(like.device) if rows else torch.empty(shape, dtype=like.dtype, device=like.device)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that starts at `seed`."""
    return torch.Generator(device).manual_seed(seed)


def generators(seed: int, keys: Sequence[object]) -> list[torch.Generator]:
    """One generator a key, each a pure function of (seed, key, how often the key came before).

    So the picture of a text does not depend on what else is asked for, nor on the order. Torch's CPU generator
    takes 32 bits of a seed: among n keys about n^2 / 2^33 pairs share their draws.

    >>> a, b = generators(5, ["7038", "4411"])[0], generators(5, ["9", "7038"])[1]
    >>> a.initial_seed() == b.initial_seed()
    True
    """
    seen: Counter[object] = Counter()
    out = []
    for key in keys:
        digest = hashlib.sha256(f"{seed}/{key}/{seen[key]}".encode()).digest()
        out.append(generator(int.from_bytes(digest[:8], "big") >> 1))
        seen[key] += 1
    return out

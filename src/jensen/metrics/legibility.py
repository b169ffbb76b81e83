"""Legibility: whether a picture shows the requested text."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from jensen.core.shapes import checked
from jensen.metrics.proportion import Proportion, wilson


@dataclass(frozen=True)
class Legibility:
    """Fractions of whole texts and of single characters that were read correctly."""

    exact: Proportion
    character: Proportion


@checked
def legibility(read: Int[Tensor, "..."], asked: Int[Tensor, "..."]) -> Legibility:
    """Compare the texts that a reader read with the requested ones.

    The interval of `character` treats characters as independent, although those of one picture are not quite
    independent.

    Args:
        read, asked: (N, length) indices of characters.

    Raises:
        ValueError: if the shapes differ or are empty.

    >>> import torch
    >>> print(legibility(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 0]])).exact.value)
    0.5
    """
    if read.shape != asked.shape or read.ndim != 2 or read.numel() == 0:
        raise ValueError(f"read and asked must both be (N, length), got {tuple(read.shape)} and {tuple(asked.shape)}")
    same = read == asked
    return Legibility(
        exact=wilson(int(same.all(1).sum()), len(same)),
        character=wilson(int(same.sum()), same.numel()),
    )

"""Distances between pictures: whether a sample is a copy, and how varied samples are."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest_distance(
    queries: Float[Tensor, "n ..."], references: Float[Tensor, "m ..."], chunk: int = 256
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Root mean square distance of each query to its nearest reference, and that reference's index.

    Args:
        queries: (N, ...).
        references: (M, ...) of the same event shape.
        chunk: queries compared at a time; memory is chunk M floats.

    Raises:
        ValueError: if there are no references or the event shapes differ.

    >>> nearest_distance(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    (tensor([0.7071]), tensor([1]))
    """
    if len(references) == 0 or queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"references must be at least one of shape {tuple(queries.shape[1:])}, "
            f"got {len(references)} of {tuple(references.shape[1:])}"
        )
    flat = references.flatten(1).float()
    half_norms = flat.square().sum(1) / 2
    indices = torch.cat([(half_norms - q @ flat.T).argmin(1) for q in queries.flatten(1).float().split(chunk)])
    # the distance itself is computed without the cancellation of the expanded square
    gaps = queries.flatten(1).double() - references[indices].flatten(1).double()
    return gaps.square().mean(1).sqrt().to(queries.dtype), indices


def mean_pairwise_distance(groups: Float[Tensor, "g m ..."]) -> Float[Tensor, " g"]:
    """Root mean square distance between two different members, per group: (G, M, ...) -> (G,).

    It equals (2 s^2)^(1/2) with s^2 the unbiased variance of the members, averaged over the event.

    Raises:
        ValueError: for groups of fewer than two.

    >>> mean_pairwise_distance(torch.tensor([[[0.0], [3.0]]]))
    tensor([3.])
    """
    if groups.ndim < 2 or groups.shape[1] < 2:
        raise ValueError(f"groups must be (G, M, ...) with M at least 2, got {tuple(groups.shape)}")
    return (2 * groups.flatten(2).var(dim=1).mean(dim=1)).sqrt()

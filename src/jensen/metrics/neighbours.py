"""Distances between pictures: whether a sample is a copy, and how varied samples are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.metrics.proportion import Proportion, wilson


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


@dataclass(frozen=True)
class Memorisation:
    """Whether samples lie nearer to the training data than fresh data do.

    Attributes:
        nearer: probability that a sample is nearer to its nearest training datum than a fresh datum to its own, ties
            half: 1/2 for a model that knows the law and not the data, 1 for copies, below 1/2 for samples that lie off
            the data.
        stderr: of it, over the choice of samples and of fresh data, the training data as they are.
        p_value: of `nearer` above 1/2, one-sided, normal.
        copied: share of samples nearer than all but 5 percent of fresh data: 5 percent is expected.
        drawn, fresh: medians of the two distances, root mean square a number.
    """

    nearer: float
    stderr: float
    p_value: float
    copied: Proportion
    drawn: float
    fresh: float


def memorisation(
    samples: Float[Tensor, "n ..."], training: Float[Tensor, "t ..."], fresh: Float[Tensor, "m ..."]
) -> Memorisation:
    r"""Compare distances to the nearest training datum, of samples and of data that were never trained on.

    $P(d(x, T) < d(x', T)) + \frac12 P(=)$, the statistic of Mann and Whitney, with DeLong's error. Small means of
    either distance say nothing by themselves: fresh data are the baseline.

    Args:
        samples: (N, ...), N at least 2.
        training: (T, ...).
        fresh: (M, ...), M at least 20, of the same event.

    Raises:
        ValueError: for too few, for events of different shapes, or numbers that are not finite.

    Source: Meehan, Chaudhuri & Dasgupta (2020), section 3 (data copying); DeLong et al. (1988), section 2.

    >>> train, fresh = torch.randn(2, 100, 3)
    >>> memorisation(train[:30], train, fresh).nearer
    1.0
    """
    if len(samples) < 2 or len(fresh) < 20:
        raise ValueError(f"there must be at least 2 samples and 20 fresh data, got {len(samples)} and {len(fresh)}")
    for name, rows in (("samples", samples), ("training data", training), ("fresh data", fresh)):
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{name} must be finite, and some are not")
    drawn, baseline = (nearest_distance(rows, training)[0].double() for rows in (samples, fresh))
    earlier = (drawn[:, None] < baseline).double() + (drawn[:, None] == baseline).double() / 2
    nearer = float(earlier.mean())
    stderr = math.sqrt(float(earlier.mean(1).var()) / len(drawn) + float(earlier.mean(0).var()) / len(baseline))
    score = (nearer - 0.5) / stderr if stderr > 0 else (nearer - 0.5) * math.inf if nearer != 0.5 else 0.0
    return Memorisation(
        nearer=nearer,
        stderr=stderr,
        p_value=math.erfc(score / math.sqrt(2)) / 2,
        copied=wilson(int((drawn < baseline.quantile(0.05)).sum()), len(drawn)),
        drawn=float(drawn.median()),
        fresh=float(baseline.median()),
    )

"""Energy distance between two samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """An estimate of a distance and its standard error."""

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value


def energy_distance(x: Tensor, y: Tensor, *, chunk: int = 2048) -> Distance:
    r"""$2 E|X - Y| - E|X - X'| - E|Y - Y'|$: zero if and only if the two distributions are equal.

    Unbiased (pairs of one sample leave out the pair of a point with itself), so it may come out below zero. The
    standard error is that of its first-order projection; between equal distributions that term vanishes, the
    estimate is of order 1/n, and the error to compare with is the value between two samples of the data.

    Args:
        x: (N, ...), N at least 2, flattened to vectors.
        y: (M, ...) of the same event, M at least 2.
        chunk: rows whose distances are held at once.

    Raises:
        ValueError: for fewer than two rows, or events of different sizes.

    Source: Szekely & Rizzo (2013), Energy statistics, eq. 2.5.

    >>> x = torch.zeros(4, 1)
    >>> energy_distance(x, x + 3).value
    6.0
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    if min(len(x), len(y)) < 2:
        raise ValueError(f"samples must have at least 2 rows, got {len(x)} and {len(y)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples must be of events of one size, got {x.shape[1]} and {y.shape[1]}")
    xy, yx = _mean_distances(x, y, chunk), _mean_distances(y, x, chunk)
    xx = _mean_distances(x, x, chunk) * len(x) / (len(x) - 1)
    yy = _mean_distances(y, y, chunk) * len(y) / (len(y) - 1)
    value = 2 * xy.mean() - xx.mean() - yy.mean()
    variance = (2 * (xy - xx)).var() / len(x) + (2 * (yx - yy)).var() / len(y)
    return Distance(float(value), float(variance.sqrt()))


def _mean_distances(x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """(N,): of each row of x, its mean distance from the rows of y."""
    rows = [torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist").mean(1) for part in x.split(chunk)]
    return torch.cat(rows)

"""Distances between pictures: whether samples are copies, and how diverse they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from jensen.core.distances import squared_distances
from jensen.core.protocols import Indexed
from jensen.core.shapes import check_count, checked
from jensen.metrics.discrepancy import Distance
from jensen.metrics.proportion import Proportion, wilson
from jensen.metrics.ranks import auc


def nearest_distance(
    queries: Num[Tensor, "n ..."], references: Indexed, chunk: int = 1024
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Root mean square distance of each query to its nearest reference, and that reference's index.

    Computed in float64 without cancellation, for all dtypes: the distance of a copy is exactly 0. Integers are
    allowed.

    Args:
        queries: (N, ...); (N,) are N numbers.
        references: (M, ...) of the same event shape, of which `chunk` rows are read at a time.
        chunk: number of rows of each that are compared at once; memory is about 8 chunk (chunk + 4 D) bytes.

    Returns:
        (N,) distances, float64 if the queries are, otherwise float32; and (N,) indices.

    Raises:
        ValueError: if there are no references, the event shapes differ, or numbers are not finite.

    >>> nearest_distance(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    (tensor([0.7071]), tensor([1]))
    """
    check_count(chunk=chunk)
    if 0 in (queries.ndim, getattr(references, "ndim", 1)):
        raise ValueError(f"queries and references must be rows, (n, ...), got queries of shape {tuple(queries.shape)}")
    event, dims = references[:1].shape[1:], queries.shape[1:].numel()
    if not len(references) or not dims or queries.shape[1:] != event:
        raise ValueError(
            f"references must be at least one of shape {tuple(queries.shape[1:])}, not empty, "
            f"got shape {(len(references), *event)}"
        )

    def flat(rows: Tensor, name: str) -> Tensor:
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{name} must be finite, and some are not")
        return rows.detach().reshape(len(rows), dims)

    x = flat(queries, "queries")
    least = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for first in range(0, len(references), chunk):
        y = flat(references[first : first + chunk], "references")
        found = [d.min(1) for d in squared_distances(x, y, chunk)]
        values, places = (torch.cat([f[k] for f in found]) for k in (0, 1))
        nearer = values < least
        least, index = torch.where(nearer, values, least), torch.where(nearer, places + first, index)
    return (least / dims).sqrt().to(torch.promote_types(queries.dtype, torch.float32)), index


def mean_pairwise_distance(groups: Num[Tensor, "g m ..."]) -> Float[Tensor, " g"]:
    """Root mean square distance between two different members of each group: (G, M, ...) -> (G,).

    It equals (2 s^2)^(1/2) with s^2 the unbiased variance of the members, averaged over the event.

    Raises:
        ValueError: for groups of fewer than two, empty events, or numbers that are not finite.

    >>> mean_pairwise_distance(torch.tensor([[[0.0], [3.0]]]))
    tensor([3.])
    """
    if groups.ndim < 2 or groups.shape[1] < 2 or 0 in groups.shape[2:]:
        raise ValueError(f"groups must be (G, M, ...) with M at least 2, got {tuple(groups.shape)}")
    if not bool(groups.isfinite().all()):
        raise ValueError("groups must be finite, and some are not")
    variance = groups.double().reshape(*groups.shape[:2], math.prod(groups.shape[2:])).var(dim=1)
    return (2 * variance.mean(dim=1)).sqrt().to(torch.promote_types(groups.dtype, torch.float32))


@checked
def mean_over_pairs(values: Num[Tensor, "n n"]) -> Distance:
    r"""The mean of $k(x_i, x_j)$ over all pairs $i \ne j$ of N independent draws, with the jackknife's standard error.

    If k is a distance, this is how far two draws are apart; if k is 1 for equal classes, how often two draws are of the
    same class.

    Args:
        values: (N, N), symmetric, N at least 3; the diagonal is not used.

    Raises:
        ValueError: for fewer than three draws.

    Source: Efron & Stein (1981), the jackknife's variance.

    >>> mean_over_pairs(torch.tensor([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])).value
    2.0
    """
    n = len(values)
    if n < 3:
        raise ValueError(f"values must be of at least 3 draws, got {n}")
    rows = values.double().sum(1) - values.double().diagonal()
    without = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    return Distance(float(rows.sum() / (n * (n - 1))), float(((n - 1) * without.var(correction=0)).sqrt()))


@checked
def variety(x: Num[Tensor, "n ..."], groups: Num[Tensor, "n ..."] | None = None, *, standardize: bool = True) -> float:
    r"""Root mean square distance per dimension between two examples of the same group.

    By default each example is first shifted and scaled to mean 0 and variance 1, so that brightness and contrast of
    pictures do not count. The distance is then $(2 s^2)^{1/2}$, where $s^2$ is the pooled variance within groups: the
    sum of squared distances to the mean of each group, divided by the number of examples minus the number of groups.

    Args:
        x: (N, ...), N greater than the number of groups.
        groups: (N, ...), equal for examples of the same group; None: all in one.
        standardize: whether each example is standardised first.

    Raises:
        ValueError: if no group has two examples.

    >>> round(variety(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), 4)
    2.0
    """
    rows = x.double().flatten(1)
    rows = torch.nn.functional.layer_norm(rows, rows.shape[1:]) if standardize else rows
    groups = torch.zeros(len(rows), 1) if groups is None else groups
    _, group, sizes = groups.unique(dim=0, return_inverse=True, return_counts=True)
    if len(sizes) == len(rows):
        raise ValueError(f"a group must have at least two examples, got {len(rows)} groups of one")
    means = rows.new_zeros(len(sizes), rows.shape[1]).index_add(0, group, rows) / sizes[:, None]
    return float((2 * (rows - means[group]).square().mean(1).sum() / (len(rows) - len(sizes))).sqrt())


@dataclass(frozen=True)
class Memorisation:
    """Whether samples are closer to the training data than held-out data are.

    Attributes:
        nearer: probability that a sample is closer to its nearest training example than a held-out example is to its
            own, ties counting half: 1/2 for a model of the true distribution, 1 for copies, below 1/2 for samples away
            from the data. Samples concentrated where data are dense are closer too: a high value means copied or
            concentrated (for exact copies `drawn` is 0).
        stderr: standard error of `nearer`, over the choice of samples and held-out data, for fixed training data; 0 if
            the two sets of distances do not overlap (`interval` still has a width).
        interval: 95 percent interval of `nearer`, as for `auc`.
        p_value: one-sided probability of a value at least this large if samples and held-out data had the same
            distribution.
        copied: fraction of samples closer than all but 5 percent of held-out data; 5 percent is expected.
        drawn, fresh: medians of the two distances, root mean square per number.
    """

    nearer: float
    stderr: float
    interval: Proportion
    p_value: float
    copied: Proportion
    drawn: float
    fresh: float


def memorisation(
    samples: Num[Tensor, "n ..."], training: Num[Tensor, "t ..."], fresh: Num[Tensor, "m ..."]
) -> Memorisation:
    r"""Compare distances to the nearest training example, for samples and for held-out data.

    $P(d(x, T) < d(x', T)) + \frac12 P(=)$: `auc`, the statistic of Mann and Whitney, with DeLong's error. Small
    distances mean nothing by themselves: held-out data are the baseline. It detects copies, but also samples that are
    merely concentrated: for N(0, I), the value also exceeds 1/2 for samples with half the standard deviation.

    Args:
        samples: (N, ...), N at least 2, of any real dtype.
        training: (T, ...).
        fresh: (M, ...), M at least 20, events of the same shape.

    Raises:
        ValueError: for too few rows, events of different shapes, or numbers that are not finite.

    Source: Meehan, Chaudhuri & Dasgupta (2020), section 3 (data copying); DeLong et al. (1988), section 2.

    >>> train, fresh = torch.randn(2, 100, 3)
    >>> memorisation(train[:30], train, fresh).nearer
    1.0
    """
    if min(samples.ndim, fresh.ndim) < 1 or len(samples) < 2 or len(fresh) < 20:
        shapes = f"{tuple(samples.shape)} and {tuple(fresh.shape)}"
        raise ValueError(f"samples must be at least 2 and fresh data at least 20, got shapes {shapes}")
    for name, rows in (("samples", samples), ("training data", training), ("fresh data", fresh)):
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{name} must be finite, and some are not")
    return nearness(*(nearest_distance(rows.double(), training)[0] for rows in (samples, fresh)))


def nearness(drawn: Num[Tensor, " n"], fresh: Num[Tensor, " m"]) -> Memorisation:
    """Compare distances to the nearest training example that are known already, as `memorisation` does.

    Args:
        drawn, fresh: distances of samples, (N,), and of held-out data, (M,).

    Raises:
        ValueError: as in `auc`.

    >>> nearness(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])).nearer
    0.75
    """
    drawn, fresh = drawn.double(), fresh.double()
    found = auc(drawn, fresh)
    return Memorisation(
        nearer=found.value,
        stderr=found.stderr,
        interval=found.interval,
        p_value=found.p_value,
        copied=wilson(int((drawn < fresh.quantile(0.05)).sum()), len(drawn)),
        drawn=float(drawn.quantile(0.5)),
        fresh=float(fresh.quantile(0.5)),
    )

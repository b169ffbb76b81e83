"""Precision, recall, density and coverage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count
from jensen.metrics.features import pair
from jensen.metrics.proportion import Proportion, wilson


@dataclass(frozen=True)
class PRDC:
    """The four numbers. A row's ball is open; its radius is the distance to the k-th nearest other row of its sample.

    Attributes:
        precision: fraction of fake rows in a ball of a real one.
        recall: fraction of real rows in a ball of a fake one.
        density: mean number of real balls that contain a fake row, divided by k: 1 on average for a perfect model.
        coverage: fraction of real balls that contain a fake row; `expected_coverage` for a perfect model.
        density_stderr: standard error of `density` over the choice of the fake rows.
        real, fake: numbers of rows.
        k: number of neighbours.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    density_stderr: float
    real: int
    fake: int
    k: int

    @property
    def precision_interval(self) -> Proportion:
        """95 percent interval over the choice of the fake rows, for fixed real rows."""
        return wilson(round(self.precision * self.fake), self.fake)

    @property
    def recall_interval(self) -> Proportion:
        """95 percent interval over the choice of the real rows, for fixed fake rows."""
        return wilson(round(self.recall * self.real), self.real)

    @property
    def coverage_interval(self) -> Proportion:
        """95 percent interval, as if the balls were independent."""
        return wilson(round(self.coverage * self.real), self.real)


def expected_coverage(real: int, fake: int, k: int = 5) -> float:
    r"""$1 - \prod_{i=1}^k \frac{N - i}{N + M - i}$: for N rows and M others of one continuous distribution.

    Raises:
        ValueError: unless k is at least 1 and below both N and M.

    Source: Naeem et al. (2020), section 3, on the expected value of coverage.

    >>> round(expected_coverage(10_000, 10_000), 4)
    0.9688
    """
    _fits(real, fake, k)
    return 1 - math.prod((real - i) / (real + fake - i) for i in range(1, k + 1))


def prdc(real: Tensor, fake: Tensor, k: int = 5, *, chunk: int = 256) -> PRDC:
    """Precision, recall, density and coverage by the k nearest neighbours, Euclidean, in float64.

    A row is in a ball if its distance is below the radius: <, as in the package of Naeem et al.; Kynkaanniemi et al.
    write <=. They differ only for ties: a row that occurs k + 1 times or more has an empty ball (radius 0), and for
    features with few values, neighbours at exactly the radius do not count. Distances come from a matrix product; where
    rounding could matter (duplicates, copies, integers) they are computed directly.

    Args:
        real: (N, d), N above k.
        fake: (M, d), M above k.
        k: number of neighbours, at least 1.
        chunk: number of rows whose distances are held in memory at a time; memory is about 20 chunk max(N, M) bytes and
            a few copies of the features.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, different widths, or k that is out of
            range.

    Source: Kynkaanniemi et al. (2019), section 2; Naeem et al. (2020), section 3.

    >>> x = torch.arange(8.0)[:, None]
    >>> found = prdc(x, x[:4] + 0.25, k=2)
    >>> found.precision, found.recall, found.density, found.coverage
    (1.0, 0.75, 1.125, 0.625)
    """
    check_count(chunk=chunk)
    x, y = pair(real, fake)
    _fits(len(x), len(y), k)
    centre = x.mean(0)
    x, y = x - centre, y - centre  # shorter vectors lose less to cancellation in the expanded square
    ours, theirs = _radii(x, k, chunk), _radii(y, k, chunk)
    recalled, covered, inside = [], [], torch.zeros(len(y), dtype=torch.float32, device=y.device)
    for real_balls, fake_balls in _memberships(x, y, ours, theirs, chunk):
        covered.append(real_balls.any(1))
        recalled.append(fake_balls.any(1))
        inside += real_balls.float().sum(0)  # integers: exact up to 2^24
    crowd = inside.double() / k
    return PRDC(
        precision=float((inside > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(crowd.mean()),
        coverage=float(torch.cat(covered).double().mean()),
        density_stderr=float(crowd.std()) / len(y) ** 0.5,
        real=len(x),
        fake=len(y),
        k=k,
    )


def _fits(real: int, fake: int, k: int) -> None:
    if not isinstance(k, Integral) or k < 1 or min(real, fake) <= k:
        raise ValueError(f"k must be at least 1 and below the numbers of rows, got k = {k} of {real} and {fake}")


def _memberships(x: Tensor, y: Tensor, ours: Tensor, theirs: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunk by chunk of x, (B, M): whether y lies in the ball of x, and x in the ball of y."""
    left, right = _expanded(x, y)
    slack = _rounding(x, y)
    room = x.new_empty(min(chunk, len(x)), len(y))  # reused: allocating memory costs as much as the product
    for start in range(0, len(x), chunk):
        rows = slice(start, start + chunk)
        squares = torch.mm(left[rows], right.T, out=room[: len(left[rows])])
        limits = ours[rows, None].square(), theirs[None].square()
        surely = tuple(squares < limit - slack for limit in limits)
        if all(torch.equal(s, squares < limit + slack) for s, limit in zip(surely, limits, strict=True)):
            yield surely[0], surely[1]
        else:
            exact = _distances(x[rows], y)
            yield exact < ours[rows, None], exact < theirs[None]


def _radii(x: Tensor, k: int, chunk: int) -> Float[Tensor, " n"]:
    """Distance from each row to the k-th nearest other row."""
    left, right = _expanded(x, x)
    found, room = [], x.new_empty(min(chunk, len(x)), len(x))
    for start in range(0, len(x), chunk):
        rows = left[start : start + chunk]
        squares = torch.mm(rows, right.T, out=room[: len(rows)])
        squares.diagonal(start).fill_(torch.inf)
        found.append(squares.topk(k, dim=1, largest=False).indices[:, -1])
    return _distances(x[:, None], x[torch.cat(found)][:, None])[:, 0, 0]


def _expanded(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Extended rows whose inner product is the squared distance."""
    ones = x.new_ones
    left = torch.cat([-2 * x, x.square().sum(1, keepdim=True), ones(len(x), 1)], 1)
    right = torch.cat([y, ones(len(y), 1), y.square().sum(1, keepdim=True)], 1)
    return left, right


def _rounding(x: Tensor, y: Tensor) -> float:
    """A bound on the rounding error of the product."""
    longest = max(float(v.square().sum(1).max()) for v in (x, y))
    return 8 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * longest


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances without the cancellation of the expanded square."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

"""Precision, recall, density and coverage: whether samples lie where the data are, and everywhere they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.metrics.features import pair
from jensen.metrics.proportion import Proportion, wilson


@dataclass(frozen=True)
class PRDC:
    """The four numbers; a ball is open, about a row and as wide as to the k-th nearest other row of its own sample.

    Attributes:
        precision: share of fake rows in a ball of the real ones.
        recall: share of real rows in a ball of the fake ones.
        density: balls of the real rows that a fake row lies in, over k: 1 in the mean for a perfect model.
        coverage: share of the real rows' balls with a fake row inside; `expected_coverage` for a perfect model.
        density_stderr: over the choice of the fake rows.
        real, fake: rows.
        k: of the neighbours.
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
        """95 percent, over the choice of the fake rows, the real ones as they are."""
        return wilson(round(self.precision * self.fake), self.fake)

    @property
    def recall_interval(self) -> Proportion:
        """95 percent, over the choice of the real rows, the fake ones as they are."""
        return wilson(round(self.recall * self.real), self.real)

    @property
    def coverage_interval(self) -> Proportion:
        """95 percent, as if the balls were independent."""
        return wilson(round(self.coverage * self.real), self.real)


def expected_coverage(real: int, fake: int, k: int = 5) -> float:
    r"""$1 - \prod_{i=1}^k \frac{N - i}{N + M - i}$: of N rows by M others of the same continuous law.

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

    A row lies in a ball if it is nearer than its radius: <, as Naeem et al. publish it with their package, where
    Kynkaanniemi et al. write <=. The two differ by ties alone: of rows that come k + 1 times or more the ball is empty
    (radius 0), and features that take few values lose neighbours at the very radius. Distances come from a matrix
    product; where that could not tell a distance from a radius (duplicates, copies, whole numbers) they are taken
    directly.

    Args:
        real: (N, d), N above k.
        fake: (M, d), M above k.
        k: at least 1.
        chunk: rows whose distances are held at once; memory is about 20 chunk max(N, M) bytes and a few copies of the
            features.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, two widths, or k that does not fit.

    Source: Kynkaanniemi et al. (2019), section 2; Naeem et al. (2020), section 3.

    >>> x = torch.arange(8.0)[:, None]
    >>> found = prdc(x, x[:4] + 0.25, k=2)
    >>> found.precision, found.recall, found.density, found.coverage
    (1.0, 0.75, 1.125, 0.625)
    """
    _fits(len(real), len(fake), k)
    x, y = pair(real, fake)
    centre = x.mean(0)
    x, y = x - centre, y - centre  # the shorter the vectors, the less their expanded square cancels
    ours, theirs = _radii(x, k, chunk), _radii(y, k, chunk)
    recalled, covered, inside = [], [], torch.zeros(len(y), dtype=torch.float32, device=y.device)
    for real_balls, fake_balls in _memberships(x, y, ours, theirs, chunk):
        covered.append(real_balls.any(1))
        recalled.append(fake_balls.any(1))
        inside += real_balls.float().sum(0)  # whole numbers: exact up to 2^24
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
    if k < 1 or min(real, fake) <= k:
        raise ValueError(f"k must be at least 1 and below the numbers of rows, got k = {k} of {real} and {fake}")


def _memberships(x: Tensor, y: Tensor, ours: Tensor, theirs: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunk by chunk of x, (B, M): whether y lies in the ball of x, and x in the ball of y."""
    left, right = _expanded(x, y)
    slack = _rounding(x, y)
    room = x.new_empty(min(chunk, len(x)), len(y))  # used again: fresh memory costs as much as the product
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
    """Distance of each row to the k-th nearest other row."""
    left, right = _expanded(x, x)
    found, room = [], x.new_empty(min(chunk, len(x)), len(x))
    for start in range(0, len(x), chunk):
        rows = left[start : start + chunk]
        squares = torch.mm(rows, right.T, out=room[: len(rows)])
        squares.diagonal(start).fill_(torch.inf)
        found.append(squares.topk(k, dim=1, largest=False).indices[:, -1])
    return _distances(x[:, None], x[torch.cat(found)][:, None])[:, 0, 0]


def _expanded(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose product is the squared distance."""
    ones = x.new_ones
    left = torch.cat([-2 * x, x.square().sum(1, keepdim=True), ones(len(x), 1)], 1)
    right = torch.cat([y, ones(len(y), 1), y.square().sum(1, keepdim=True)], 1)
    return left, right


def _rounding(x: Tensor, y: Tensor) -> float:
    """What the product may be off by."""
    longest = max(float(v.square().sum(1).max()) for v in (x, y))
    return 8 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * longest


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Without the cancellation of the expanded square."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

"""Squared distance of two distributions in a kernel's space: unbiased, with its standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Maps rows (n, d) and (m, d) to the kernel of every pair, (n, m)."""


@dataclass(frozen=True)
class Distance:
    """An estimate of a distance and its standard error."""

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value


def discrepancy(
    kernel: Kernel, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], own: tuple[Tensor, Tensor], chunk: int
) -> Distance:
    r"""$E k(X, X') + E k(Y, Y') - 2 E k(X, Y)$ over all pairs of different rows: unbiased, so it may be below zero.

    Its variance is $F - V$, and at least V: F is the empirical variance of the projections, in which the second-order
    term V of Hoeffding's decomposition is counted twice. But for similar distributions the estimate is roughly the
    square of a Gaussian, and where it is small, so is F: intervals of two standard errors cover as little as 83
    percent. W, the value that includes the pairs of a row with itself, is never negative, and the error tau of its root
    does not depend on its size, $\tau^2 = F / 4W$, or $V / 2b$ at equality, where $b = E W$. The longer arm of $(\sqrt
    W \pm 2\tau)^2$ exceeds two errors by $4\tau^2$, so $2\tau^2$, with the larger tau, is added to the standard error.
    Intervals of two standard errors then cover 92 to 100 percent. Far from equality the addition vanishes; at equality
    the standard error is about the standard deviation in many dimensions, and up to 2.5 times as much in one.

    Args:
        kernel: a conditionally positive definite kernel.
        x: (N, d), N at least 2.
        y: (M, d), M at least 2.
        own: k(x, x) of each row of x, (N,), or of y, (M,).
        chunk: number of rows whose kernel values are held in memory at a time.

    Source: Gretton et al. (2012), lemma 6; Serfling (1980), section 5.2, lemma A.
    """
    check_count(chunk=chunk)
    n, m = len(x), len(y)
    (xx, x_all), (yy, y_all) = _within(kernel, x, own[0], chunk), _within(kernel, y, own[1], chunk)
    xy = _moments(kernel, x, y, chunk)
    value, whole = xx.mean + yy.mean - 2 * xy.mean, x_all + y_all - 2 * xy.mean
    first = 4 * (xx.rows - xy.rows).var() / n + 4 * (yy.rows - xy.columns).var() / m
    second = 2 * xx.remainder / (n * (n - 1)) + 2 * yy.remainder / (m * (m - 1)) + 4 * xy.remainder / (n * m)
    root = torch.maximum(_share(first, 2 * whole), _share(second, whole - value))
    return Distance(float(value), float(torch.maximum(first - second, second).sqrt() + root))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)


@dataclass(frozen=True)
class _Moments:
    """Means of a kernel over rows, over columns and over all entries, and the mean of its square."""

    rows: Tensor
    columns: Tensor
    square: Tensor

    @property
    def mean(self) -> Tensor:
        return self.rows.mean()

    @property
    def remainder(self) -> Tensor:
        """Variance of the kernel after its row and column means are subtracted."""
        spread = self.square - self.rows.square().mean() - self.columns.square().mean() + self.mean.square()
        return spread.clamp_min(0)


def _moments(kernel: Kernel, x: Tensor, y: Tensor, chunk: int) -> _Moments:
    rows, columns, square = [], y.new_zeros(len(y)), y.new_zeros(())
    for part in x.split(chunk):
        k = kernel(part, y)
        rows.append(k.mean(1))
        columns += k.sum(0)
        square += k.square_().sum()
    return _Moments(torch.cat(rows), columns / len(x), square / (len(x) * len(y)))


def _within(kernel: Kernel, x: Tensor, own: Tensor, chunk: int) -> tuple[_Moments, Tensor]:
    """Means over one sample without the pairs of a row with itself, and the mean with them."""
    n, every = len(x), _moments(kernel, x, x, chunk)
    rows = (n * every.rows - own) / (n - 1)
    return _Moments(rows, rows, (n * n * every.square - own.square().sum()) / (n * (n - 1))), every.mean

"""Kernel distance: the maximum mean discrepancy of a cubic kernel, without bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.metrics.energy import Distance
from jensen.metrics.features import pair


def kernel_distance(real: Tensor, fake: Tensor, *, chunk: int = 1024) -> Distance:
    r"""$E k(X, X') + E k(Y, Y') - 2 E k(X, Y)$ with $k(x, y) = (x^T y / d + 1)^3$, over all pairs of different rows.

    Unbiased, so it may come out below zero. The standard error is of first and second order (Hoeffding's decomposition
    of a U-statistic): the variance F of the projections as they are found holds twice the second-order term V too much,
    hence F - V, and at least V. Near equality it is on the safe side, by at most the root of 2.

    Args:
        real: (N, d), N at least 3.
        fake: (M, d), M at least 3.
        chunk: rows whose kernel is held at once; memory is about 16 chunk max(N, M) bytes.

    Raises:
        ValueError: for features that are not (N, d) floating-point and finite, too few rows, or two widths.

    Source: Binkowski et al. (2018), section 4 (kernel inception distance); Serfling (1980), section 5.2, lemma A.

    >>> x = torch.zeros(4, 2)
    >>> kernel_distance(x, x + 1).value  # 1 + 8 - 2
    7.0
    """
    x, y = pair(real, fake, least=3)
    n, m = len(x), len(y)
    xx, yy, xy = _within(x, chunk), _within(y, chunk), _moments(x, y, chunk)
    value = xx.mean + yy.mean - 2 * xy.mean
    first = 4 * (xx.rows - xy.rows).var() / n + 4 * (yy.rows - xy.columns).var() / m
    second = 2 * xx.remainder / (n * (n - 1)) + 2 * yy.remainder / (m * (m - 1)) + 4 * xy.remainder / (n * m)
    return Distance(float(value), float(torch.maximum(first - second, second).sqrt()))


@dataclass(frozen=True)
class _Kernel:
    """Means of a kernel over rows, columns and everything, and of its square."""

    rows: Tensor
    columns: Tensor
    square: Tensor

    @property
    def mean(self) -> Tensor:
        return self.rows.mean()

    @property
    def remainder(self) -> Tensor:
        """Variance of what is left of the kernel without its means over rows and columns."""
        spread = self.square - self.rows.square().mean() - self.columns.square().mean() + self.mean.square()
        return spread.clamp_min(0)


def _moments(x: Tensor, y: Tensor, chunk: int) -> _Kernel:
    rows, columns, square = [], y.new_zeros(len(y)), y.new_zeros(())
    for part in x.split(chunk):
        k = _cubic(part @ y.T / x.shape[1])
        rows.append(k.mean(1))
        columns += k.sum(0)
        square += k.square_().sum()
    return _Kernel(torch.cat(rows), columns / len(x), square / (len(x) * len(y)))


def _within(x: Tensor, chunk: int) -> _Kernel:
    """Of one sample, without the pairs of a row with itself."""
    n, own, every = len(x), _cubic(x.square().sum(1) / x.shape[1]), _moments(x, x, chunk)
    rows = (n * every.rows - own) / (n - 1)
    return _Kernel(rows, rows, (n * n * every.square - own.square().sum()) / (n * (n - 1)))


def _cubic(product: Tensor) -> Tensor:
    base = product + 1
    return base * base * base

"""The ratio of the total variances of two samples."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Num
from torch import Tensor

from jensen.metrics.features import numbers


@dataclass(frozen=True)
class VarianceRatio:
    """A ratio of total variances and its standard error, to first order."""

    value: float
    stderr: float


def variance_ratio(x: Num[Tensor, "..."], y: Num[Tensor, "..."]) -> VarianceRatio:
    r"""$E|X - E X|^2 / E|Y - E Y|^2$: below 1 for samples x that are too concentrated, above 1 for noisy ones.

    Args:
        x: (N, ...), N at least 2.
        y: (M, ...), M at least 2.

    Raises:
        ValueError: for fewer than two rows, or numbers that are not finite.

    >>> import torch
    >>> z = torch.tensor([[-1.0], [1.0]])
    >>> variance_ratio(2 * z, z).value
    4.0
    """
    x, y = numbers(x, 2, "x"), numbers(y, 2, "y")
    a, b = ((v - v.mean(0)).square().sum(1) for v in (x, y))
    ratio = a.mean() / b.mean()
    error = (a.var() / len(a) + ratio**2 * b.var() / len(b)).sqrt() / b.mean()
    return VarianceRatio(float(ratio), float(error))

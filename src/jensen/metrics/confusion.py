"""The confusion matrix, and the permutation of classes that explains it best."""

from __future__ import annotations

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jensen.core.shapes import check_count, checked


def check_classes(classes: int, **labels: Tensor) -> None:
    """Raise unless the numbers are from 0 to classes - 1.

    >>> check_classes(2, labels=torch.tensor([0, 2]))
    Traceback (most recent call last):
    ValueError: labels must be from 0 to 1, got 0 to 2
    """
    check_count(classes=classes)
    for name, y in labels.items():
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise ValueError(f"{name} must be from 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")


@checked
def confusion(labels: Int[Tensor, " n"], predicted: Int[Tensor, " n"], classes: int) -> Int[Tensor, "k k"]:
    """The confusion matrix: counts by label (row) and by predicted class (column).

    Args:
        labels, predicted: (N,), from 0 to classes - 1.
        classes: number of classes K.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    check_classes(classes, labels=labels, predicted=predicted)
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


@checked
def best_renaming(table: Int[Tensor, "k k"]) -> tuple[list[int], int]:
    r"""The permutation $\pi$ with the largest $\sum_k n_{k \pi(k)}$, and this number of predictions that agree.

    It measures classes that a method without labels, such as clustering or unpaired translation, may have permuted.

    Args:
        table: (K, K) counts, rows by label, columns by predicted class.

    Source: Kuhn (1955), the assignment problem.

    >>> best_renaming(torch.tensor([[0, 9], [8, 1]]))
    ([1, 0], 17)
    """
    rows, columns = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    return columns.tolist(), int(table[torch.from_numpy(rows), torch.from_numpy(columns)].sum())

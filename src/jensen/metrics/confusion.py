"""The confusion matrix, and the permutation of classes that explains it best."""

from __future__ import annotations

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jensen.core.shapes import check_alike


def confusion(labels: Int[Tensor, " n"], predicted: Int[Tensor, " n"], classes: int) -> Int[Tensor, "k k"]:
    """The confusion matrix: counts by label (row) and by predicted class (column).

    Args:
        labels, predicted: (N,), from 0 to classes - 1.
        classes: number of classes K.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    check_alike(labels=labels, predicted=predicted)
    if labels.is_floating_point() or predicted.is_floating_point():
        raise ValueError(f"labels must be whole numbers, got {labels.dtype} and {predicted.dtype}")
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


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

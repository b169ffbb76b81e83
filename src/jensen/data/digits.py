"""Scikit-learn's handwritten digits: real 8 x 8 pictures with 17 grey levels, included in the library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 17
SIDE = 8


@dataclass(frozen=True)
class Digits:
    """The 1,797 digits in a fixed split: a fifth of every class is test data.

    Attributes:
        train: (1437, 1, 8, 8) int64 levels in 0 .. 16.
        train_labels: (1437,) int64.
        test: (360, 1, 8, 8).
        test_labels: (360,).

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (1998), as scikit-learn ships it.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def digits() -> Digits:
    """Read scikit-learn's digits and split them.

    >>> d = digits()
    >>> len(d.train), len(d.test), int(d.train.max())
    (1437, 360, 16)
    """
    from sklearn.datasets import load_digits  # takes seconds to import, and only these recipes need it
    from sklearn.model_selection import train_test_split

    found = load_digits()
    train, test = train_test_split(np.arange(len(found.target)), test_size=0.2, stratify=found.target, random_state=0)
    x = torch.from_numpy(found.images).long().unsqueeze(1)
    y = torch.from_numpy(found.target).long()
    return Digits(x[train], y[train], x[test], y[test])


def to_unit(levels: Tensor) -> Tensor:
    """Levels 0 .. 16 as float32 in [-1, 1]; level k lies at the middle of its cell of width 2 / 16.

    >>> to_unit(torch.tensor([0, 8, 16])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return levels.float() / (LEVELS - 1) * 2 - 1


def binarize(x: Tensor) -> Tensor:
    """Binarize pictures in [-1, 1]: +1 (ink) for a grey level of at least 0, -1 otherwise. The threshold is fixed, so
    that log p always refers to the same data set.

    >>> binarize(torch.tensor([-0.1, 0.0, 0.5])).tolist()
    [-1.0, 1.0, 1.0]
    """
    return (x >= 0).float() * 2 - 1

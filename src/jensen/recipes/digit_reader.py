"""A reader of the handwritten digits that no generator sees: scikit-learn's support vector machine."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.metrics import Proportion, wilson
from jensen.recipes.data import DigitsData


@cache
def _machine(scale: Literal["ink", "grey"]) -> Any:
    """Trained on the 1,437 training digits of a scale; deterministic."""
    from sklearn.svm import SVC

    pictures, labels = DigitsData(scale=scale).train()
    return SVC(C=10.0, gamma="scale").fit(pictures.flatten(1).numpy(), labels.numpy())


def read_digits(pictures: Tensor, scale: Literal["ink", "grey"]) -> Tensor:
    """Labels (N,) of pictures (N, 1, 8, 8) of a scale; values between the levels are read as they are."""
    return torch.from_numpy(_machine(scale).predict(pictures.detach().cpu().flatten(1).numpy()))


def share_read(pictures: Tensor, labels: Tensor, scale: Literal["ink", "grey"]) -> Proportion:
    """How many are read as labelled, with an interval."""
    right = read_digits(pictures, scale) == labels.cpu()
    return wilson(int(right.sum()), len(right))


def ceiling(scale: Literal["ink", "grey"]) -> Proportion:
    """How many of the 360 real test digits are read as labelled."""
    return share_read(*DigitsData(scale=scale).test(), scale)

"""A reader of the handwritten digits that no generator sees: scikit-learn's support vector machine."""

from __future__ import annotations

from copy import copy
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


def clarity(pictures: Tensor, scale: Literal["ink", "grey"]) -> Tensor:
    """How clearly each picture is what it is read as: the least of that class's nine margins, (N,) float64.

    A margin is the machine's decision between two classes: 1 or more as a rule on either side of its gap, 0 undecided.
    """
    machine = copy(_machine(scale))
    machine.decision_function_shape = "ovo"
    read = read_digits(pictures, scale)
    pairs = torch.from_numpy(machine.decision_function(pictures.detach().cpu().flatten(1).numpy()))
    first, second = torch.triu_indices(10, 10, 1)
    margins = torch.full((len(pairs), 10, 10), torch.inf, dtype=pairs.dtype)
    margins[:, first, second], margins[:, second, first] = pairs, -pairs
    return margins[torch.arange(len(read)), read].amin(1)


def clear(pictures: Tensor, scale: Literal["ink", "grey"]) -> Tensor:
    """Which pictures are as clear as 95 percent of the real test digits, (N,) bool."""
    return clarity(pictures, scale) >= clarity(DigitsData(scale=scale).test()[0], scale).quantile(0.05)


def share_clear(pictures: Tensor, scale: Literal["ink", "grey"]) -> Proportion:
    """How many of them are, with an interval."""
    return wilson(int(clear(pictures, scale).sum()), len(pictures))


def read_stacked(pictures: Tensor) -> Tensor:
    """Modes 100 a + 10 b + c, (N,), of grey pictures (N, 3, 8, 8): each channel read by itself."""
    digits = [read_digits(channel, "grey") for channel in pictures.split(1, dim=1)]
    return 100 * digits[0] + 10 * digits[1] + digits[2]


def share_read(pictures: Tensor, labels: Tensor, scale: Literal["ink", "grey"]) -> Proportion:
    """How many are read as labelled, with an interval."""
    right = read_digits(pictures, scale) == labels.cpu()
    return wilson(int(right.sum()), len(right))


def ceiling(scale: Literal["ink", "grey"]) -> Proportion:
    """How many of the 360 real test digits are read as labelled."""
    return share_read(*DigitsData(scale=scale).test(), scale)

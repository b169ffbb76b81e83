"""Evaluation mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Evaluation mode for every module of the models inside, and after it each as it was; what is no module passes.

    A number said of a model belongs to the model that is sampled: in training mode dropout would move it, and batch
    norm would both move it and learn from the data that it is asked about.

    >>> norm = nn.BatchNorm1d(1)
    >>> with evaluating(norm):
    ...     norm.training
    False
    >>> norm.training
    True
    """
    modes = [(part, part.training) for model in models if isinstance(model, nn.Module) for part in model.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training

"""Temporary evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Context manager: every module of the models is in evaluation mode inside and restored afterwards.

    Models that are not modules are ignored. In training mode dropout and batch norm would change what is measured, and
    batch norm would also update its running statistics.

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

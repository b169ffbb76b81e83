"""The Frechet distance of given features by torch-fidelity, pytorch-fid and torchmetrics.

The first two import torchvision, for networks and data that are not used here, and torchvision is not built for every
torch: without it, an object with any attribute lets the imports succeed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

PARTS = ("datasets", "models", "models.inception", "transforms", "transforms.functional")


class _Anything(ModuleType):
    """Stands for any module or base class of torchvision."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else MagicMock()


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Context manager: modules with any attribute replace torchvision during the imports, unless it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ["torchvision", *(f"torchvision.{part}" for part in PARTS)]
    modules = {name: _Anything(name) for name in names}
    for name in names[1:]:
        parent, _, part = name.rpartition(".")
        setattr(modules[parent], part, modules[name])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with stand_in_for_torchvision():
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric


def torch_fidelity(real: Tensor, fake: Tensor) -> float:
    """Maps features to the distance, as `calculate_metrics` does it."""
    found = fid_statistics_to_metric(fid_features_to_statistics(real), fid_features_to_statistics(fake), verbose=False)
    return float(found["frechet_inception_distance"])


def pytorch_fid(real: Tensor, fake: Tensor) -> float:
    """Maps features to the distance, as `calculate_fid_given_paths` does it."""
    sides = [(v.mean(0), np.cov(v, rowvar=False)) for v in (real.numpy(), fake.numpy())]
    with _roots_with_an_estimate():
        return float(calculate_frechet_distance(*sides[0], *sides[1]))


@contextmanager
def _roots_with_an_estimate() -> Iterator[None]:
    """Scipy's square root as pytorch-fid calls it: newer scipy has no `disp` and returns only the root."""
    newer = linalg.sqrtm

    def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
        return newer(matrix) if disp else (newer(matrix), 0.0)

    linalg.sqrtm = sqrtm
    try:
        yield
    finally:
        linalg.sqrtm = newer


def torchmetrics(real: Tensor, fake: Tensor) -> float:
    """Maps features to the distance by torchmetrics."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = FrechetInceptionDistance(Identity(), normalize=True).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())

"""Shapes in signatures are checked while tests run; torch stays on one thread a worker."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
_hook = install_import_hook(
    [
        "jensen.core.shapes",
        "jensen.core.types",
        "jensen.distributions",
        "jensen.estimators",
        "jensen.variational",
        "jensen.adversarial",
        "jensen.score",
        "jensen.diffusion",
        "jensen.nn",
        "jensen.metrics",
        "jensen.models",
        "jensen.data.pictures",
    ],
    "beartype.beartype",
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)

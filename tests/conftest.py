"""Shapes in signatures are checked while tests run; torch uses one thread in each worker."""

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


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Decoded pictures are cached in a folder of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JENSEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def short_judging():
    """Diffusion models are judged by round trips of 2 and 4 steps, and guidance by 64 samples."""
    from jensen.judging import paths

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRIPS", (2, 4)), ("TRIP", 4), ("COMPARED", 64)):
            patch.setattr(paths, name, value)
        yield

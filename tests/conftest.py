"""Shapes in signatures are checked while tests run; torch uses one thread in each worker and what it starts."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from PIL import Image

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: threads of two would wait in turn
pytest.register_assert_rewrite("captcha_service")
settings.register_profile("always", derandomize=True, database=None, deadline=None)
settings.register_profile("long", max_examples=10_000, database=None, deadline=None)
settings.load_profile("always")
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


@pytest.fixture
def double_precision():
    """Tests in double precision, from the same seed."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def short_judging():
    """Diffusion models are judged by round trips of 2 and 4 steps, bounds of 4 strata, guidance by 64 samples and films
    of two frames.
    """
    from jensen.judging import bounds, paths

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRIPS", (2, 4)), ("TRIP", 4), ("COMPARED", 64), ("FILM", 2), ("STRIP", 2)):
            patch.setattr(paths, name, value)
        patch.setattr(bounds, "STRATA", 4)
        yield


@pytest.fixture(scope="module")
def short_classifier():
    """The classifier whose features judges use is trained for 5 passes over the data, but not for 400 steps."""
    from jensen.metrics import embeddings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "LEAST", 10)
        yield


@pytest.fixture
def blank_plots(monkeypatch):
    """Plots are made, but empty pictures are written in their place; previews are of 20 points."""
    from matplotlib.figure import Figure

    from jensen.runs import preview

    def blank(figure, file, **settings):
        if settings["format"] == "svg":
            file.write("<svg></svg>")
        else:
            Image.new("RGB", (8, 8)).save(file, settings["format"])

    monkeypatch.setattr(Figure, "savefig", blank)
    monkeypatch.setattr(preview, "POINTS", 20)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    """A visitor of a CAPTCHA service that the tests of a file share."""
    from captcha_service import visiting

    with visiting(tmp_path_factory.mktemp("service"), pictures=200) as found:
        yield found


@pytest.fixture
def own(tmp_path):
    """A visitor of a CAPTCHA service of one test."""
    from captcha_service import visiting

    with visiting(tmp_path) as found:
        yield found

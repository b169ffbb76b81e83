"""Autoencoders, kernel densities and mixtures on a user's data: from training to a comparison of runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from jensen.cli.main import main
from jensen.recipes.families import vae
from jensen.runs.opening import open_run
from jensen.training.strict_json import loads
from tiny import words_of

pytestmark = pytest.mark.usefixtures("short_judging", "short_classifier", "blank_plots")
RNG = np.random.default_rng(0)
ROWS = 240  # of which about 24 are held out
DATA = {
    "2 columns": ("two.csv", {}),
    "8 columns": ("eight.csv", {}),
    "digits": ("digits", {}),
    "idx": ("idx", {}),
    "rgb": ("rgb", {"data.size": [32, 32]}),
    "alpha": ("alpha", {"data.size": [48, 64], "data.channels": "rgba"}),
}
SHAPES = {
    "2 columns": (2,),
    "8 columns": (8,),
    "digits": (1, 8, 8),
    "idx": (1, 28, 28),
    "rgb": (3, 32, 32),
    "alpha": (4, 48, 64),
}
FAMILIES = {
    "plain": ("vae", {"network.latents": [3]}),
    "bottom-up": ("vae", {"network.latents": [3, 2]}),
    "ladder": ("vae", {"network.latents": [3, 2], "network.direction": "ladder"}),
    "categorical": (
        "vae",
        {"network.latents": [3], "network.latent": "categorical", "prior": "standard", "bound.samples": 2},
    ),
    "per-datum": ("vae", {"network.latents": [3], "inference": "per-datum"}),
    "autoencoder": ("autoencoder", {"network.latents": 3}),
    "kernel": ("kernel", {}),
    "mixture": ("mixture", {"components": 2}),
}
POINTS = ("2 columns", "8 columns")
FITTED = ("kernel", "mixture")
JUDGED = {"judging.samples": 24, "judging.rows": 24, "judging.mode_samples": 1}
IMPORTANCE = {"judging.importance": 10, "judging.importance_rows": 4, "judging.refine_rows": 0}
PAIRS = [
    *(("plain", data) for data in DATA),
    ("bottom-up", "8 columns"),
    ("bottom-up", "alpha"),
    ("ladder", "2 columns"),
    ("ladder", "idx"),
    ("categorical", "digits"),
    ("categorical", "rgb"),
    ("per-datum", "2 columns"),
    ("per-datum", "idx"),
    ("autoencoder", "2 columns"),
    ("autoencoder", "rgb"),
    ("kernel", "2 columns"),
    ("kernel", "digits"),
    ("mixture", "2 columns"),
]
JUDGES = [("plain", "idx"), ("categorical", "digits"), ("per-datum", "2 columns"), ("mixture", "2 columns")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tables with columns of different scales, an IDX file, and folders of colour pictures."""
    path = tmp_path_factory.mktemp("own")
    for name, columns in (("two.csv", 2), ("eight.csv", 8)):
        x = RNG.normal(size=(ROWS, columns)) * 10.0 ** np.linspace(-3, 3, columns)
        np.savetxt(path / name, x, delimiter=",", header=",".join(f"c{k}" for k in range(columns)), comments="")
    pixels = RNG.integers(0, 256, (ROWS, 28, 28), dtype=np.uint8)
    (path / "idx").write_bytes(bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes())
    for name, mode, size in (("rgb", "RGB", (32, 32)), ("alpha", "RGBA", (64, 48))):
        (path / name).mkdir()
        for k in range(ROWS):
            noise = RNG.integers(0, 256, (3, 4, len(mode)), dtype=np.uint8)
            Image.fromarray(noise, mode).resize(size).save(path / name / f"{k}.png")
    return path


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory):
    """A run of three steps, stopped after two and resumed."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(family, data):
        out = folder / f"{family} {data}"
        if out not in made:
            kind, settings = FAMILIES[family]
            name, chosen = DATA[data]
            words = settings | chosen | JUDGED | {"training.previews": 0}
            if kind == "vae":
                words |= IMPORTANCE
            if kind in ("vae", "autoencoder"):
                words |= {"network.hidden": 8, "network.depth": 1} if 8 in SHAPES[data] or data in POINTS else {}
                words |= {"training.batch_size": 4} | ({"network.width": 8} if data in ("idx", "rgb", "alpha") else {})
            given = name if name == "digits" else str(place / name)
            steps = ["1"] if family in FITTED else ["2", "3"]
            start = ["train", kind, "--data", given, *words_of(words)]
            for more, step in zip((start, ["train", kind, "--resume"]), steps, strict=False):
                assert main([*more, "--out", str(out), "--steps", step, "--no-evaluate"]) == 0
            made[out] = out
        return out

    return run


@pytest.fixture(autouse=True)
def _quick(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(vae, "FIT_STEPS", 2)
    monkeypatch.setattr(vae, "FIT_DRAWS", 4)


@pytest.mark.parametrize(("family", "data"), PAIRS)
def test_every_family_trains_resumes_samples_and_interpolates(runs, tmp_path, family, data):
    out, shape = runs(family, data), SHAPES[data]
    model = open_run(out).model
    assert model.sample(2).shape == (2, *shape)
    assert all(bool(v.isfinite().all()) for v in load_file(out / "model.safetensors").values())
    file = tmp_path / ("x.csv" if data in POINTS else "x.png")
    assert main(["sample", str(out), "-n", "3", "--out", str(file)]) == 0
    if data in POINTS:
        assert len(file.read_text().split()) >= 3
    between = main(["sample", str(out), "-n", "2", "--interpolate", "3", "--out", str(tmp_path / "y.png")])
    assert between == (2 if family in ("categorical", *FITTED) else 0)
    means = main(["sample", str(out), "-n", "3", "--mean", "--out", str(tmp_path / "z.png")])
    assert means == (2 if family in FITTED else 0)


@pytest.mark.parametrize(("family", "data"), JUDGES)
def test_every_family_is_judged(runs, family, data):
    out = runs(family, data)
    assert main(["evaluate", str(out)]) == 0
    found = loads((out / "evaluation.json").read_text())
    assert (out / "report.html").stat().st_size > 0
    assert "log_p" in json.dumps(found) or family == "autoencoder"
    discrete = FAMILIES[family][0] in ("vae", "autoencoder") and data not in POINTS
    assert (out / "samples" / "means.png").exists() == discrete


def test_runs_on_the_same_table_are_compared(runs, capsys):
    folders = [str(runs(family, "2 columns")) for family in ("plain", "mixture")]
    capsys.readouterr()
    assert main(["compare", *folders]) == 0
    assert capsys.readouterr().out.count("mixture") >= 1

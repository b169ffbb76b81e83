"""Families on a user's data: each trains, resumes, draws, interpolates, is judged and compared."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from jensen.cli.main import main
from jensen.runs.evaluate import read_evaluation

pytestmark = pytest.mark.usefixtures("short_judging", "short_classifier", "blank_plots")
RNG = np.random.default_rng(0)
N = 80
QUICK = {
    "training.batch_size": 4,
    "training.previews": 0,
    "training.save_every": 2,
    "judging.samples": 20,
    "judging.rows": 24,
    "judging.mode_samples": 1,
}
DENOISED = {"judging.steps": [], "judging.ode_rows": 0, "judging.bound_steps": 0, "sampling.steps": 3}
BOUNDED = DENOISED | {"judging.bound_steps": 2}
MLP = {"network.kind": "mlp", "network.width": 16, "network.blocks": 1}
UNET = {"network.widths": [8, 8], "network.blocks": 1, "network.patch": 4, "network.attention": 0}
CRITIC = {"judging.critic_steps": 2}
CONV = {"network.width": 8, "network.critic_width": 8, "network.latents": 4}
WGAN = {"game.loss": "wasserstein", "game.penalty": "wgan-gp", "game.penalty_weight": 10}
HINGE = {"game.loss": "hinge", "network.spectral": True, "game.penalty": "none"}
BOUND = {"network.schedule": "learned", "loss.name": "bound", "loss.times": "uniform"}


def table(path, columns):
    x = RNG.normal(size=(N, columns)) * 10.0 ** np.arange(columns)
    lines = [",".join([*map(repr, row), "ab"[k % 2]]) for k, row in enumerate(x.tolist())]
    path.write_text("\n".join([",".join([*(f"c{k}" for k in range(columns)), "kind"]), *lines]))


def pictures(path, size, *, captions=False, each=N // 2):
    """A folder of two classes with alpha and a broken file, or with captions."""
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for k in range(each):
            mode = "RGBA" if k % 3 else "RGB"
            x = RNG.integers(0, 256, (*size, len(mode)), dtype=np.uint8)
            Image.fromarray(x, mode).save(path / name / f"{k}.png")
    (path / "cat" / "broken.png").write_bytes(b"nothing")
    if captions:
        rows = [{"file_name": f"{c}/{k}.png", "text": f"a {c} {k % 3}"} for c in ("cat", "dog") for k in range(each)]
        (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for columns in (2, 8):
        table(folder / f"{columns}.csv", columns)
    bytes_ = RNG.integers(0, 256, (N, 28, 28), dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + np.array(bytes_.shape, ">u4").tobytes()
    (folder / "ink-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes_.tobytes(), mtime=0))
    labels = bytes([0, 0, 8, 1]) + np.array([N], ">u4").tobytes() + bytes(k % 2 for k in range(N))
    (folder / "ink-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))
    pictures(folder / "square", (32, 32))
    pictures(folder / "wide", (48, 64), captions=True)
    pictures(folder / "two" / "trainA", (20, 20), each=12)
    pictures(folder / "two" / "trainB", (30, 24), each=12)
    return folder


CELLS = [
    ("diffusion", "8.csv", MLP | BOUNDED | BOUND, ["a"]),
    ("diffusion", "digits", MLP | BOUNDED | {"network.output": "edm", "loss.name": "edm"}, ["3"]),
    ("diffusion", "wide", UNET | DENOISED | {"data.cond": "text"}, ["a cat 1"]),
    ("score", "square", UNET | DENOISED | {"network.levels": 3}, []),
    ("gan", "2.csv", CONV | CRITIC | {"game.packing": 2}, []),
    ("gan", "8.csv", CONV | CRITIC | WGAN, []),
    ("gan", "ink-images-idx3-ubyte.gz", CONV | CRITIC | HINGE, []),
    ("reader", "8.csv", {"network.width": 8}, []),
    ("reader", "square", {"network.width": 8}, []),
    ("reader", "wide", {}, []),
    ("translation", "two", {"network.width": 8, "network.critic": [8, 8], "weights.pool": 4}, []),
]


def words(settings):
    return [w for k, v in settings.items() for w in ("--set", f"{k}={v if isinstance(v, str) else json.dumps(v)}")]


@pytest.mark.parametrize(("family", "name", "settings", "texts"), CELLS)
def test_a_family_on_own_data(data, tmp_path, monkeypatch, capsys, family, name, settings, texts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JENSEN_CACHE", str(data / "cache"))
    path = name if name == "digits" else str(data / name)
    start = ["train", family, "--data", path, "--out", "run"]
    held = {} if name in ("digits", "two") else {"data.test": 0.5}
    assert main([*start, "--steps", "2", "--no-evaluate", *words(QUICK | held | settings)]) == 0, (
        capsys.readouterr().err
    )
    assert main([*start, "--steps", "3", "--resume"]) == 0, capsys.readouterr().err
    found = read_evaluation(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "nan" not in page.split("<details>")[0].lower().replace("nano", "").split()
    capsys.readouterr()
    if family == "reader":
        assert "exact" in found
        return
    if family == "translation":
        assert main(["sample", "run", "-n", "2", "--out", "made"]) == 0
        assert len(list((tmp_path / "made").iterdir())) == 8
        assert {"a_to_b_cycle", "b_to_a_moved"} <= found.keys()
        return
    points = name.endswith(".csv")
    asked = [w for text in texts for w in ("--text", text)] or ["-n", "3"]
    assert main(["sample", "run", *asked, "--out", "made.csv" if points else "made"]) == 0, capsys.readouterr().err
    lines = (tmp_path / "made.csv").read_text().split() if points else list((tmp_path / "made").iterdir())
    assert len(lines) == points + (len(texts) or 3)  # a line of names
    assert {"frechet", "copies", "transport"} <= found.keys()
    if family != "score":
        assert main(["sample", "run", "-n", "2", "--interpolate", "3", "--out", "between.png"]) == 0
    if family == "diffusion" and name != "wide":
        assert {"legibility", "ceiling"} <= found.keys()


def test_runs_of_several_families_are_compared(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, settings in (("diffusion", MLP | DENOISED), ("gan", CONV | CRITIC)):
        start = ["train", name, "--data", str(data / "8.csv"), "--out", name, "--steps", "2", "--no-evaluate"]
        assert main([*start, *words(QUICK | {"data.test": 0.35} | settings)]) == 0
    assert main(["compare", "diffusion", "gan", "-n", "40", "--html", "page.html"]) == 0, capsys.readouterr().err
    assert "in standard deviations of each column" in (tmp_path / "page.html").read_text()

"""The notebook in examples/: each cell runs in any order after the first, and every number is the same again."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.usefixtures("short_classifier", "blank_plots")


def cells():
    """The notebook's code, cell by cell, on a scale of a few steps and samples."""
    spec = importlib.util.spec_from_file_location("render", EXAMPLES / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    text = (EXAMPLES / "gan_vae.py").read_text(encoding="utf-8")
    assert "\nSCALE = 1.0" in text
    code = [body for kind, body in render.cells(text.replace("\nSCALE = 1.0", "\nSCALE = 0.001")) if kind == "code"]
    return code[0], code[1:]


def said(body, names):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, "gan_vae.py", "exec"), names)
    return printed.getvalue()


def numbers(names):
    """Every number of the comparison except those that depend on the machine's speed."""
    found = names["compared"]().as_dict()
    timeless = [{key: value for key, value in run.items() if key not in ("cost", "line")} for run in found.pop("runs")]
    return repr((found, timeless))


def contents(folder, pattern):
    return {path.name: path.read_bytes() for path in sorted((folder / "runs").glob(pattern))}


def test_every_cell_gives_the_same_numbers_in_any_order(tmp_path, monkeypatch):
    monkeypatch.delenv("JENSEN_DIGITS", raising=False)
    first, others = cells()
    found = []
    for name, step in (("forward", 1), ("backward", -1)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        names: dict = {}
        said(first, names)
        found.append(([said(body, names) for body in others[::step]][::step], numbers(names)))
    assert found[0] == found[1]
    a, b = (tmp_path / "forward", tmp_path / "backward")
    for pattern in ("gan_vae/*.png", "gan_vae/*/model.safetensors"):
        assert contents(a, pattern) == contents(b, pattern)
        assert len(contents(a, pattern)) > 0
    again: dict = {}  # a new program opens the finished runs
    said(first, again)
    (k,) = [k for k, body in enumerate(others) if "log_likelihood" in body]
    assert said(others[k], again) == found[0][0][k]


def test_the_digits_of_an_idx_file(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
    shape = b"".join(n.to_bytes(4, "big") for n in pictures.shape)
    Path(tmp_path, "images.idx").write_bytes(bytes([0, 0, 8, 3]) + shape + pictures.tobytes())
    monkeypatch.setenv("JENSEN_DIGITS", str(tmp_path / "images.idx"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    first, others = cells()
    said(first, names)
    (likely,) = [body for body in others if "log_likelihood" in body]
    assert said(others[0], names).startswith("images.idx, 256 levels: ")
    assert said(likely, names).count("±") == 2

"""The notebooks in examples/: each cell runs in any order after the first, and every number is the same again."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jensen.metrics import wilson
from jensen.shipped import shipped

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.usefixtures("short_classifier", "blank_plots")


def cells(name="gan_vae"):
    """A notebook's code, cell by cell, on a scale of a few steps and samples."""
    spec = importlib.util.spec_from_file_location("render", EXAMPLES / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert "\nSCALE = 1.0" in text
    code = [body for kind, body in render.cells(text.replace("\nSCALE = 1.0", "\nSCALE = 0.001")) if kind == "code"]
    return code[0], code[1:]


def said(body, names):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, "notebook", "exec"), names)
    return printed.getvalue()


def numbers(names):
    """Every number of the comparison except those that depend on the machine's speed."""
    found = names["compared"]().as_dict()
    timeless = [{key: value for key, value in run.items() if key not in ("cost", "line")} for run in found.pop("runs")]
    return repr((found, timeless))


def contents(folder, pattern):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"runs/{pattern}"))}


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


def quick(folder):
    """A copy of the model that draws CAPTCHAs, which draws them in four steps."""
    shutil.copytree(shipped("captcha-release"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["family"]["sampling"]["steps"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_every_cell_about_captchas_gives_the_same_numbers_in_any_order(tmp_path, monkeypatch):
    first, others = cells("captcha_ddpm")
    (serving,) = [k for k, body in enumerate(others) if "with service()" in body]
    served, *found = quick(tmp_path / "served"), {}, {}
    for name, printed, step in zip(("forward", "backward"), found, (1, -1), strict=True):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        names: dict = {}
        said(first, names)
        names["SERVED"] = str(served)
        for k in list(range(len(others)))[::step]:
            if (k, step) != (serving, -1):  # the service is started once: it takes longer than all else
                printed[k] = said(others[k], names)
    assert found[0].pop(serving).splitlines() == [
        "/answer      solved: True",
        "/siteverify  success: True, error-codes: []",
        "/siteverify  success: False, error-codes: ['timeout-or-duplicate']",
    ]
    assert found[0] == found[1]
    assert all(printed for k, printed in found[0].items() if "tabulate" in others[k])
    a, b = (contents(tmp_path / name, "captcha_ddpm/*.png") for name in ("forward", "backward"))
    assert len(a.pop("runs/captcha_ddpm/served.png")) > 0
    assert (a, len(a)) == (b, 7)
    weights = [contents(tmp_path / name, "captcha_ddpm/*/model.safetensors") for name in ("forward", "backward")]
    assert (weights[0], len(weights[0])) == (weights[1], 2)


def test_the_numbers_of_the_study_are_those_that_it_wrote(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.parent / "benchmarks")
    from study.copies import Copies
    from study.diversity import Diversity
    from study.legibility import Legibility, Legible
    from study.page import Found, numbers
    from study.resistance import Attack, Resistance

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    first, others = cells("captcha_ddpm")
    said(first, names)
    (body,) = [body for body in others if "STUDY.exists()" in body]
    command = "python benchmarks/captcha_study.py captcha-release"
    assert said(body, names) == f"there is no docs/captcha/numbers.json: {command}\n"
    few, most = wilson(3, 10), wilson(9, 10)
    reader = Legible("a reader", most, most, None, few, None, None, {}, [])
    legible, diverse = Legibility([reader], most, None, "AB", [], None), Diversity("AB", "", [], [], 0, 0, [])
    copies = Copies(0, [], (torch.zeros(0), torch.zeros(0)), [], [])
    resistance = Resistance((), 0, 0.0, most, True, [Attack(1000, 1.0, few, few)], None)
    written = {"command": command, "trial": True, **numbers(Found(legible, diverse, copies, resistance))}
    Path("docs/captcha").mkdir(parents=True)
    Path("docs/captcha/numbers.json").write_text(json.dumps(written))
    assert said(body, names).splitlines() == [
        f"{command}, a trial at tiny sizes",
        "",
        f"{'reader':<40}  reads",
        f"{'a reader':<40}  {most}",
        f"an attacker with 1,000 labelled pictures  {few}",
    ]

"""Names that are markup elsewhere (HTML, rich, mathtext, jinja), and weights of another model than that of a run."""

from __future__ import annotations

import csv
import re
import shutil
from html import unescape

import pytest
import torch

from jensen.cli.main import main
from jensen.training.checkpoint import save
from jensen.training.saved import load
from test_resume import going_on, words
from tiny import DIFFUSION, words_of

NAMES = ["<script>alert(1)</script>", "[red]a[/red]", r"$\frac{", "{{ 7 * 7 }}", "{% raw %}", "&lt;b>"]
"""Classes, columns, and parts of the names of files and runs."""


@pytest.fixture
def table(tmp_path):
    """Points whose columns and classes have such names, in a file that has one too."""
    path = tmp_path / "[red] {{ x }} $y$.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([NAMES[0], NAMES[2], "class"])
        rows.writerows((k % 7 + k / 90, k * k % 11, NAMES[k % len(NAMES)]) for k in range(90))
    return path


def literal(page):
    """Whether a page shows all names as they are, and nothing of them is a tag of its own."""
    return "<script>alert" not in page and "{{ 7 * 7 }}" in page and all(name in unescape(page) for name in NAMES)


def test_a_run_on_data_of_hostile_names(table, tmp_path, capsys):
    """Inspected, trained, judged, drawn by class and compared: terminal, pages and plots have the names literally."""
    page = tmp_path / "page.html"
    assert main(["data", "check", str(table), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (NAMES[0], NAMES[2]))
    assert literal(page.read_text())
    run = tmp_path / "[b] <i> {{ 1 }} $z$"
    tiny = DIFFUSION | {"data.label": "class", "training.batch_size": 8, "training.previews": 1}
    assert main(["train", "diffusion", "--data", str(table), "--out", str(run), "--steps", "2", *words_of(tiny)]) == 0
    report = (run / "report.html").read_text()
    assert "<script>alert" not in report
    assert "<i> {{" not in report
    assert NAMES[0] in unescape(report)  # a column
    assert "Traceback" not in capsys.readouterr().err
    out = tmp_path / "x.csv"
    assert main(["sample", str(run), "--label", *NAMES, "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) >= len(NAMES)
    capsys.readouterr()
    assert main(["sample", str(run), "--label", "[red]"]) == 2
    assert "got '[red]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A GAN of 2 steps with its checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "ring"
    assert main(words(out, "--no-evaluate", steps=2)) == 0
    return out


def wider(tensors):
    return {name: torch.cat([v, v]) if v.ndim else v for name, v in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(objective=wider(state["objective"])),
        lambda state: state.update(averages=[wider(average) for average in state["averages"]]),
        lambda state: state.update(averages=[]),
        lambda state: state.update(optimizers={}),
        lambda state: [v["param_groups"].clear() for v in state["optimizers"].values()],
        lambda state: state.update(processes=[{}]),
    ],
)
def test_a_checkpoint_of_another_model_is_one_sentence(run, tmp_path, capsys, change):
    """Torch's "Error(s) in loading state_dict for X:" reaches no one, and the run is as it was."""
    copy = shutil.copytree(run, tmp_path / "copy")
    state = dict(load(copy / "state"))
    change(state)
    save(copy / "state", state["step"], state)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(going_on(copy, "--resume", "--steps", "4")) == 2
    said = capsys.readouterr().err
    why = r"weights of another model .*|a checkpoint that does not fit config.json \(\w+: .*\): train again"
    assert re.fullmatch(rf"jensen: \S+/state has ({why})\n", said), said
    assert "Error(s)" not in said
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before

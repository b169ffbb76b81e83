"""What is shown to people and read back, for any run name and any result: names, commands, numbers, pictures."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
from functools import partial
from html import unescape
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jensen.cli import comparing, show
from jensen.cli.main import main
from jensen.data.pool import from_bytes, to_bytes
from jensen.judging import JUDGES
from jensen.models import Diffusion
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table
from jensen.report.scatter import scatter
from jensen.runs.compare import compare
from jensen.runs.folder import EVALUATION, command
from jensen.training.journal import Journal, read_journal
from jensen.training.strict_json import dumps, loads
from test_cli import refused
from tiny import DIFFUSION, words_of

ODD = "[/b] :fire: $x$ it's[red]"  # an unopened closing tag, an emoji name, mathematics, quotes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained, unjudged run with an unusual name."""
    out = tmp_path_factory.mktemp("runs") / ODD.replace("/", "|")
    settings = DIFFUSION | {"data.points": 100, "data.test": 60, "judging.bound_steps": 2, "training.batch_size": 8}
    words = words_of(settings | {"training.previews": 0, "sampling.steps": 2})
    assert main(["train", "moons-diffusion", "--out", str(out), "--steps", "2", "--no-evaluate", *words]) == 0
    return out


def strict(text):
    """Parses JSON without NaN and Infinity."""

    def never(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=never)


# names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_is_shown_as_it_is(monkeypatch, tmp_path, terminal):
    """In lines, rows, tables and bars, brackets, colons and dollars of a name are literal."""
    out = io.StringIO()
    settings = {"file": out, "width": 200, "soft_wrap": True, "force_terminal": terminal, "color_system": None}
    monkeypatch.setattr(show, "console", show.plain_console(**settings))
    show.line(ODD)
    show.rows([(ODD, ODD)])
    show.console.print(show.grid(Table((ODD,), [(ODD,)])))
    with show.tracking() as track:
        track(ODD, 1)(1)
    (tmp_path / ODD.replace("/", "|") / "samples").mkdir(parents=True)
    (preview := tmp_path / ODD.replace("/", "|") / "samples" / "step-000001.png").touch()
    with show.watching(tmp_path / ODD.replace("/", "|")) as watch:
        watch(1, 1.0, None, {"loss": 0.5, "examples_per_second": 3.0})
    assert out.getvalue().count(ODD) >= 6
    assert "loss 0.500  3 examples/s" in out.getvalue()
    assert str(preview) in out.getvalue()


def test_a_run_of_an_odd_name_is_judged_and_drawn_by_its_own_hints(run, tmp_path, capsys):
    """The printed commands work when a shell splits them."""
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    said = dict(re.findall(r"^(report|numbers|samples) +(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert all(Path(*shlex.split(said[name])).is_file() for name in ("report", "numbers"))
    words = shlex.split(said["samples"])
    assert words[:3] == ["jensen", "sample", str(run)]
    assert main([*words[1:-1], str(tmp_path / "x.png")]) == 0
    assert command("evaluate", run) in unescape((run / "report.html").read_text())


def test_runs_of_odd_names_are_compared(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "compared", partial(compare, judge_steps=2))
    folders = [run, tmp_path / "_[bold]", tmp_path / "a["]
    for folder in folders[1:]:
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((run / name).read_bytes())
    page = tmp_path / "page.html"
    capsys.readouterr()
    assert main(["compare", *(str(folder) for folder in folders), "-n", "40", "--html", str(page)]) == 0
    out, drawn = capsys.readouterr().out, unescape(page.read_text())
    for folder in folders:
        assert out.count(folder.name) >= 5  # drawn, a column, a row, a cost, a line
        assert drawn.count(f"{folder.name}</text>") == drawn.count("<svg")  # a bar of each metric, a curve of the judge


def test_every_line_of_a_plot_is_in_its_legend():
    """With literal names, one entry per line."""
    names = ["_hidden", "a $b$ c", r"$\frac", *"defg"]
    drawn = plots.curves([1, 2], {name: [1.0, 2.0] for name in names}, title="t", xlabel="x")
    assert re.findall(r"<text[^>]*>([^<]*)</text>", drawn)[-len(names) :] == names
    drawn = plots.rivals(names, [(1.0, 0.1)] * len(names), title="t")
    assert set(names) <= set(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))


# numbers --------------------------------------------------------------------------------------------------------------


def test_what_is_written_as_json_is_json_and_comes_back():
    tree = {"a": [1, 2.5, None, True, "x"], "b": {"mean": math.inf, "low": (-math.inf, 0.1)}, "c": math.nan}
    text = dumps(tree, indent=2)
    assert strict(text) == {
        "a": [1, 2.5, None, True, "x"],
        "b": {"mean": "Infinity", "low": ["-Infinity", 0.1]},
        "c": "NaN",
    }
    back = loads(text)
    assert back["b"] == {"mean": math.inf, "low": [-math.inf, 0.1]}
    assert math.isnan(back["c"])
    assert back["a"] == tree["a"]
    with pytest.raises(TypeError, match="not JSON serializable"):
        dumps({"a": torch.zeros(())})


def test_a_journal_is_json_and_comes_back(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(step=1, seconds=0, loss=math.inf)
    Journal(tmp_path / "journal.jsonl", after=1).write(step=2, seconds=0, loss=-math.inf)
    for text in (tmp_path / "journal.jsonl").read_text().splitlines():
        strict(text)
    assert [line["loss"] for line in read_journal(tmp_path / "journal.jsonl")] == [math.inf, -math.inf]


def test_an_evaluation_with_an_infinity_is_json_and_can_be_compared(run, tmp_path, monkeypatch):
    """A bound of minus infinity is saved, shown in the table of `compare`, and written to its JSON."""
    facts = {"kind": "lower bound", "measure": "density", "dims": 2}
    diverged = Finding("worst", "a bound that diverged", -math.inf, 0.1, best="high", form="nats", facts=facts)
    monkeypatch.setitem(JUDGES, "worst", lambda case: Part("Worst", findings=[diverged]))
    monkeypatch.setattr(comparing, "compared", partial(compare, judge_steps=2))
    folder = tmp_path / "diverged"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    assert main(["evaluate", str(folder), "--json", str(tmp_path / "e.json")]) == 0
    for path in (folder / EVALUATION, tmp_path / "e.json"):
        assert strict(path.read_text())["findings"]["worst"]["value"] == "-Infinity"
    assert main(["compare", str(run), str(folder), "-n", "40", "--json", str(tmp_path / "c.json")]) == 0
    said = strict((tmp_path / "c.json").read_text())["runs"][1]["likelihoods"]
    assert "-Infinity" in [likely["mean"] for likely in said]


# pictures -------------------------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_no_picture(run, tmp_path, capsys, monkeypatch):
    """It would show NaN as black, infinity as white, and omit points: refused, and nothing is written."""
    x = torch.zeros(2, 1, 4, 4)
    assert torch.equal(to_bytes(from_bytes(torch.arange(256, dtype=torch.uint8))), torch.arange(256, dtype=torch.uint8))
    for wrong in (math.nan, math.inf, -math.inf):
        x[1, 0, 2, 3] = wrong
        with pytest.raises(ValueError, match=r"samples must be finite numbers, got 1 of 32 that are not"):
            to_bytes(x)
        with pytest.raises(ValueError, match=r"got 1 of 4 that are not"):
            scatter(torch.tensor([[0.0, 1.0], [wrong, 0.0]]))
    monkeypatch.setattr(Diffusion, "restore", lambda self, z: z * math.nan)
    for name in ("x.png", "x.csv"):
        assert main(["sample", str(run), "-n", "3", "--out", str(tmp_path / name)]) == 2
        assert "finite numbers, got 6 of 6" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_nan_is_neither_drawn_nor_judged(run, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    weights = load_file(run / "model.safetensors")
    weights["denoiser.net.exit.weight"][0, 0] = math.nan
    save_file(weights, tmp_path / "model.safetensors")
    before = sorted(tmp_path.iterdir())
    for words in (["sample", str(tmp_path)], ["evaluate", str(tmp_path)], ["compare", str(run), str(tmp_path)]):
        refused(capsys, words, "model.safetensors has weights that are not finite: denoiser.net.exit.weight")
    assert sorted(tmp_path.iterdir()) == before

"""Every block of docs/own.md runs, in at most twelve lines each."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from jensen.cli.main import main
from jensen.judging.case import JUDGES
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.sources.base import Source

TEXT = (Path(__file__).parent.parent / "docs" / "own.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.usefixtures("blank_plots", "short_classifier")
SHORT = ["--steps", "2", "--no-evaluate", "--batch-size", "4", "--set", "training.previews=0"]


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """An empty folder, and nothing registered afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    kept = [(known, dict(known)) for known in (Source.kinds, Family.kinds, JUDGES, PRESETS)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


def blocks(language):
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)
    assert all(len([line for line in block.splitlines() if line]) <= 12 for block in found)
    return found


def test_the_commands_run():
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).tolist()
    Path("points.csv").write_text("".join(f"{a},{b}\n" for a, b in points))
    for name, colour in (("cat", 40), ("dog", 200)):
        Path("pictures", name).mkdir(parents=True)
        for k in range(140):
            Image.new("RGBA", (8, 8), (colour, k, 7, 255 - k)).save(f"pictures/{name}/{k}.png")
    Path("pictures/cat/broken.png").write_bytes(b"no picture")
    (commands,) = blocks("sh")
    for command in commands.splitlines():
        words = shlex.split(command)[1:]
        tiny = [["--set", "data.pictures=32", "--set", "data.test=16"], []]["captcha" not in words]
        steps = ["--steps", "3", *SHORT[2:]] if "--resume" in words else SHORT
        more = {"train": [*steps, *tiny], "compare": ["-n", "40"]}.get(words[0], [])
        assert main([*words, *more]) == 0, command
    assert len(list(Path("drawn").glob("*.png"))) == 2


def test_the_python_runs(capsys):
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "own.md", "exec"), names)
    assert "centre" in JUDGES
    assert names["same"].recipe.family == names["Denoiser"](width=16)
    assert names["made"].shape == (100, 2)
    gap = names["gap"]
    assert -0.1 < gap.mean() < 3 * gap.std() / len(gap) ** 0.5  # of held-out points, in 8 dimensions
    said = capsys.readouterr().out
    assert "holds: the best critic is positive where u = p/q > 1" in said
    assert "FAILS" in said  # the ELBO is wrong

"""The surroundings of a command: its environment, and names of files and runs in any characters."""

from __future__ import annotations

import os
import subprocess
import sys
from html import unescape
from xml.etree import ElementTree

import pytest
import torch

from jensen.report import plots
from jensen.report.scatter import Classes, scatter
from test_resume import words

NAMES = ["a$b", "$x$", "x\x07y\x1bz", "漢字", "a\nb\tc", os.fsdecode(b"\xff"), "_{^}", "a&<b>", "\\"]


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_names_anything_without_a_warning(name):
    """The picture is well-formed XML and holds the name, with the replacement character for what no text holds."""
    said = "".join("\ufffd" if c < " " or "\ud800" <= c <= "\udfff" else c for c in name)
    for drawn in (
        plots.bars([name, "other"], [1.0, 2.0], title="", xlabel=""),
        plots.curves([1, 2], {name: [1.0, 2.0], "other": [2.0, 3.0]}, title="", xlabel=""),
        plots.rivals([name, "other"], [(1.0, 0.1), (2.0, 0.1)], title=""),
    ):
        texts = [unescape(element.text or "") for element in ElementTree.fromstring(drawn).iter() if element.text]
        assert said in [text.strip() for text in texts]
    x = torch.randn(20, 2)
    scatter(x, names=[name, "other"], scale=1, classes=Classes(torch.zeros(20, dtype=torch.long), [name]))


def test_a_run_in_hostile_surroundings(tmp_path):
    """A notebook's backend of matplotlib, an ASCII terminal without columns, and a path that is not UTF-8."""
    out = tmp_path / os.fsdecode("漢 $x$ ".encode() + b"\xff")
    program = f"""
import sys
from jensen.cli.main import main
run = {str(out)!r}
commands = [{words("RUN", steps=2)!r}, ["sample", "RUN", "-n", "2"], ["curves", "RUN"], ["recipes", "ring-gan"]]
sys.exit(max(main([run if word == "RUN" else word for word in command]) for command in commands))
"""
    odd = {"MPLBACKEND": "module://a.notebook", "PYTHONIOENCODING": "ascii", "COLUMNS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | odd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert r"\u6f22 $x$ \udcff" in done.stdout
    assert {path.name for path in out.iterdir()} >= {"report.html", "evaluation.json", "curves.csv"}
    assert "\ufffd" not in (out / "report.html").read_text()

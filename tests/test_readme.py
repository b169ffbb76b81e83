"""The Python code of README runs and prints what README says."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    printed = []
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        printed.append(capsys.readouterr().out)
    first, checked, orders = printed
    assert re.match(r"-\d\d\.\d+ ± 0\.\d+ nats\n", first)
    assert {p.name for p in (tmp_path / "runs" / "readme").iterdir()} >= {"report.html", "x.png", "evaluation.json"}
    assert checked.startswith("FAILS: the mean gradient in parameter 1 of 1 is the gradient of E_q[f]: 1.0")
    assert "= 2 (within 5 standard errors of 0.043, sees errors from 0.3)" in checked
    assert orders == "DDIM converges with order 1.0\nDPMSolver converges with order 2.0\n"

"""What README shows, runs and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    checked, printed = capsys.readouterr().out.split("\n", 2)[0::2]
    assert checked.startswith("FAILS: the mean gradient in parameter 1 of 1 is that of E_q[f]: 1.0")
    assert checked.endswith("= 2 (within 5 standard errors of 0.043, sees errors from 0.3)")
    assert printed == "DDIM converges with order 1.0\nDPMSolver converges with order 2.0\n"

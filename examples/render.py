"""Run a notebook in text form, and write it as Markdown with its printed output and its pictures.

    python examples/render.py examples/gan_vae.py docs/gan_vae.md

Cells begin with `# %%` or `# %% [markdown]`. PNG files that a cell writes into a folder below `runs/` follow the cell;
they are copied to a folder beside the Markdown file.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path


def cells(text: str) -> list[tuple[str, str]]:
    """Kind ("markdown" or "code") and body of each cell."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [("markdown" if "[markdown]" in head else "code", body.strip("\n")) for head, body in pairs]


def prose(body: str) -> str:
    """Comment lines without their mark."""
    return "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines())


def pictures() -> dict[Path, int]:
    """PNG files below runs/ but not inside a run, with their modification times."""
    return {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/*.png")}


def render(notebook: Path, out: Path) -> None:
    """Run every cell in one namespace; stops where one fails."""
    beside = out.parent / out.stem
    beside.mkdir(parents=True, exist_ok=True)
    namespace: dict[str, object] = {"__name__": "__main__"}
    written = []
    for kind, body in cells(notebook.read_text(encoding="utf-8")):
        if kind == "markdown":
            written.append(prose(body))
            continue
        before, printed = pictures(), io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(body, str(notebook), "exec"), namespace)
        written.append(f"```python\n{body}\n```")
        if printed.getvalue().strip():
            written.append(f"```text\n{printed.getvalue().rstrip()}\n```")
        for path, when in sorted(pictures().items(), key=lambda found: found[1]):
            if before.get(path) != when:
                shutil.copy(path, beside / path.name)
                written.append(f"![{path.stem.replace('-', ', ')}]({beside.name}/{path.name})")
    out.write_text("\n\n".join(written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    render(Path(sys.argv[1]), Path(sys.argv[2]))

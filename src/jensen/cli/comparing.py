"""`jensen compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jensen.cli import show
from jensen.cli.files import writable
from jensen.runs.compare import compare as compared
from jensen.runs.comparison import parts, write_comparison
from jensen.runs.folder import behind
from jensen.runs.use import use
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps

WIDE = 200  # width in columns without a terminal


def compare(
    folders: Sequence[Path],
    features: str,
    n: int | None,
    seed: int,
    html: Path | None,
    json_file: Path | None,
    files: Sequence[Path] = (),
) -> None:
    """`jensen compare`."""
    use(files)
    for file, ending in ((html, ".html"), (json_file, ".json")):
        if file is not None:
            writable(file, ending)
    for note in (note for folder in folders for note in behind(folder)):
        show.note(note)
    with show.tracking() as track:
        found = compared(folders, features=features, n=n, seed=seed, track=track)
    show.line()
    show.line(f"{found.data.name}; {found.n} samples of each run, compared by {found.features}")
    console = show.console if show.console.is_terminal else show.plain_console(width=WIDE)
    for part in parts(found):
        for table in part.tables:
            show.line()
            show.line(part.title)
            console.print(show.grid(table))
    if json_file is not None:
        write_text(json_file, dumps(found.as_dict(), indent=2) + "\n")
        show.line(f"numbers: {json_file}")
    if html is not None:
        write_comparison(found, html)
        show.line(f"page: {html}")

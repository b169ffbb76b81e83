"""`jensen compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from jensen.cli import show
from jensen.cli.files import writable
from jensen.recipes.comparing import compare as compared
from jensen.recipes.comparing import line
from jensen.recipes.comparing_page import cost_table, judge_table, likelihood_table, table_of, write_comparison
from jensen.recipes.folder import behind
from jensen.report.page import Table
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps

WIDE = 200  # columns where there is no terminal


def compare(
    folders: Sequence[Path], features: str | None, n: int | None, seed: int, html: Path | None, json_file: Path | None
) -> None:
    """`jensen compare`."""
    for file, ending in ((html, ".html"), (json_file, ".json")):
        if file is not None:
            writable(file, ending)
    for note in (note for folder in folders for note in behind(folder)):
        show.note(note)
    with show.tracking() as track:
        found = compared(folders, features=features, n=n, seed=seed, track=track)
    tables = {
        f"{found.real.name}; {found.n} samples of each; by {found.features}": table_of(found),
        **{
            f"mean log p of test data, {measure}": likelihood_table(found.contestants, measure)
            for measure in ("mass", "density")
        },
        f"judges; a fresh one learns from {found.judged_floor.seen} of each": judge_table(found),
        "costs": cost_table(found.contestants),
    }
    console = show.console if show.console.is_terminal else show.plain_console(width=WIDE)
    for title, table in tables.items():
        if table.rows:
            show.line()
            show.line(title)
            console.print(_grid(table))
    show.line()
    show.rows([(c.name, line(found, c)) for c in found.contestants])
    if json_file is not None:
        write_text(json_file, dumps(found.as_dict(), indent=2) + "\n")
        show.line(f"numbers: {json_file}")
    if html is not None:
        write_comparison(found, html)
        show.line(f"page: {html}")


def _grid(table: Table) -> Grid:
    """As people look at it in a terminal."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in table.head:
        grid.add_column(name, overflow="fold")
    for row in table.rows:
        grid.add_row(*row)
    return grid

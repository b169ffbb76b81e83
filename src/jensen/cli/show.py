"""Terminal output: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jensen.core.progress import Advance, Track, Watch, silent
from jensen.recipes.families.base import Family
from jensen.recipes.families.own import Own
from jensen.recipes.presets import PRESETS
from jensen.recipes.recipe import Recipe
from jensen.recipes.words import settings as described
from jensen.report.findings import Table as Numbers
from jensen.report.gallery import made_previews
from jensen.training.distributed import rank

PLAIN_EVERY = 15.0  # seconds between lines without a terminal


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Standard output was closed: what is printed from here on is dropped."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise BrokenPipeError


def plain_console(**settings: Any) -> Console:
    """A console without markup, so that brackets and colons in names of runs are shown literally."""
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS" or value.strip("0")}
    return _Console(markup=False, emoji=False, highlight=False, _environ=environment, **settings)


console = plain_console(soft_wrap=True)


@contextmanager
def tracking() -> Iterator[Track]:
    """A `Track` that shows a progress bar for each task on a terminal, otherwise a line when it is done."""
    if rank() != 0:
        yield silent
        return
    if not console.is_terminal:
        yield _plain_track
        return
    columns = (SpinnerColumn(), TextColumn("{task.description:<24}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=False) as progress:

        def track(name: str, total: int) -> Advance:
            task = progress.add_task(name, total=total)
            return lambda done: progress.advance(task, done)

        yield track


def _plain_track(name: str, total: int) -> Advance:
    start, done = time.perf_counter(), 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if done >= total:
            console.print(f"{name}: {total} in {time.perf_counter() - start:.1f} s")

    return advance


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """A `Watch` that shows training: loss, examples per second, time left, and the path of the newest preview."""
    if rank() != 0 or not console.is_terminal:
        yield _plain_watch(folder)  # only the first process calls it
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=1.0, numbers="")

        def watch(step: int, share: float, left: float | None, numbers: Mapping[str, float]) -> None:
            progress.update(task, completed=share, numbers=_numbers(step, left, numbers, folder))

        yield watch


def _plain_watch(folder: Path) -> Watch:
    last = 0.0

    def watch(step: int, share: float, left: float | None, numbers: Mapping[str, float]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= PLAIN_EVERY or share >= 1:
            last = now
            console.print(f"training {100 * share:3.0f}%  {_numbers(step, left, numbers, folder)}")

    return watch


FIRST = ("loss", "generator/loss", "critic/loss", "translators/game", "critics/loss", "legibility")
"""Names of the journal's numbers that are shown, if present."""


def _numbers(step: int, left: float | None, numbers: Mapping[str, float], folder: Path) -> str:
    words = [f"step {step}", *(f"{name} {numbers[name]:.3f}" for name in FIRST if name in numbers)]
    if "examples_per_second" in numbers:
        words.append(f"{numbers['examples_per_second']:.0f} examples/s")
    if left is not None:
        words.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
    if made := made_previews(folder)[-1:]:
        words.append(str(made[0][1]))
    return "  ".join(words)


def line(text: str = "") -> None:
    """Print a line without markup; of several processes the first does."""
    if rank() == 0:
        console.print(text)


def expected(length: str) -> None:
    """Print how long training takes."""
    line(f"training takes {length}")


def note(text: str) -> None:
    """Print a line to standard error; of several processes the first does."""
    if rank() == 0:
        typer.echo(f"jensen: {text}", err=True)


def rows(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns without truncation; of several processes the first does."""
    if rank() != 0:
        return
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(Text.assemble((f"{name:<{width}}", "dim"), "  ", (value, "bold")))


def grid(table: Numbers) -> Table:
    """A table of a report, for the terminal."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in table.head:
        made.add_column(name, overflow="fold")
    for row in table.rows:
        made.add_row(*map(Text, row))
    return made


def presets() -> None:
    """Print all recipes, one per line."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("recipe", "family", "data", "what it is"):
        table.add_column(name, no_wrap=name != "what it is")
    for name, recipe in PRESETS.items():
        table.add_row(Text(name, "bold"), recipe.family.kind, recipe.data.kind, recipe.about)
    wide = console if console.is_terminal else plain_console(width=160)
    wide.print(table)
    line()
    families = Table(box=None, pad_edge=False, header_style="dim")
    families.add_column("family, for your own data", no_wrap=True)
    families.add_column("what it is")
    for name, family in Family.kinds.items():
        if family is Own:  # given from Python alone
            continue
        families.add_row(Text(name, "bold"), (inspect.getdoc(family) or "").split("\n\n")[0].replace("\n", " "))
    wide.print(families)
    line()
    line(
        "jensen recipes NAME shows the settings of one; jensen train RECIPE trains it; jensen train FAMILY --data PATH"
    )


def settings(recipe: Recipe, data: str = "") -> None:
    """Print all settings of a recipe: key, value, description; `data` are the command-line words for its data."""
    line(f"{recipe.name}: {recipe.about}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("setting", "value", "meaning"):
        table.add_column(name, overflow="fold")
    for key, (value, meaning) in described(recipe).items():
        as_word = value if isinstance(value, str) else json.dumps(value)  # in the form that --set takes
        table.add_row(Text(key, "bold"), as_word, " ".join(meaning.split()))
    (console if console.is_terminal else plain_console(width=160)).print(table)
    line()
    line(f"jensen train {recipe.name} {data}--set KEY=VALUE")

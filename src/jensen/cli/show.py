"""What people see: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from jensen.recipes.base import Advance, Recipe, Track, Training, Watch, silent
from jensen.recipes.settings import configure, keys
from jensen.training.distributed import rank

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal


def plain_console(**settings: Any) -> Console:
    """A console that shows text as it is: no bracket or colon in the name of a run is ours to read."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


console = plain_console(soft_wrap=True)


@contextmanager
def tracking() -> Iterator[Track]:
    """A `Track` that shows a bar for each piece of work, or a line when it is done."""
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
def watching() -> Iterator[Watch]:
    """A `Watch` that shows training: loss, pictures a second, legibility so far, time left."""
    if rank() != 0 or not console.is_terminal:
        yield _plain_watch()  # which the first process alone calls
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
            progress.update(task, completed=share, numbers=_numbers(step, left, numbers))

        yield watch


def _plain_watch() -> Watch:
    last = 0.0

    def watch(step: int, share: float, left: float | None, numbers: Mapping[str, float]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= PLAIN_EVERY or share >= 1:
            last = now
            console.print(f"training {100 * share:3.0f}%  {_numbers(step, left, numbers)}")

    return watch


def _numbers(step: int, left: float | None, numbers: Mapping[str, float]) -> str:
    words = [f"step {step}"]
    for name, value in numbers.items():
        if name == "pictures_per_second":
            words.append(f"{value:.0f} pictures/s")
        elif name == "legibility":
            words.append(f"legible {100 * value:.0f}%")
        else:
            words.append(f"{name} {value:.3f}")
    if left is not None:
        words.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
    return "  ".join(words)


def line(text: str = "") -> None:
    """A line as it is."""
    console.print(text)


def note(text: str) -> None:
    """A line beside the results, on standard error."""
    typer.echo(f"jensen: {text}", err=True)


def rows(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values in two columns, never cut."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(Text.assemble((f"{name:<{width}}", "dim"), "  ", (value, "bold")))


def recipes(known: Mapping[str, type[Recipe]]) -> None:
    """Each recipe with its settings and their defaults."""
    for name, cls in known.items():
        console.print(Text.assemble((name, "bold"), f"  {cls.summary}"))
        tree: Any = configure(name).model_dump(mode="json")
        idle = {f"training.{name}" for name in Training.RATES} if "rates" in cls.model_fields else set()
        for key in keys(cls):
            if key in idle:
                continue
            node = tree
            for part in key.split("."):
                node = node[part]
            if key != "recipe":
                console.print(f"    {key} = {node}")

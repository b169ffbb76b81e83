"""journal.jsonl: one line of JSON for each logged step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsFloat

from jensen.training.checkpoint import read, write_text
from jensen.training.strict_json import dumps, loads


class Journal:
    """Appends lines to a file. If it is opened at a step, it first removes the lines after that step, which a resumed
    run writes again.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> journal = Journal(folder / "journal.jsonl")
    >>> journal.write(step=1, seconds=0.1, loss=0.5); journal.write(step=2, seconds=0.2, loss=0.25)
    >>> [line["loss"] for line in Journal(folder / "journal.jsonl", after=1).lines()]
    [0.5]
    """

    def __init__(self, path: Path, after: int = 0):
        self.path = path
        kept = [line for line in self.lines() if line["step"] <= after]
        write_text(path, "".join(dumps(line) + "\n" for line in kept))

    def write(self, **line: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(dumps(line) + "\n")

    def sync(self) -> None:
        """Wait until the lines are on disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        return read_journal(self.path)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal. What is no line of a journal is skipped, such as the incomplete last line that a killed
    process leaves: a line is a mapping with a whole number `step` and a number `seconds`.

    Raises:
        DamagedFile: as `read`.
    """
    lines = []
    if path.exists():
        for text in read(path).decode(errors="replace").split("\n"):
            with suppress(json.JSONDecodeError):
                if _is_line(line := loads(text)):
                    lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    return isinstance(line, dict) and type(line.get("step")) is int and type(line.get("seconds")) in (int, float)


class Means:
    """Running means of numbers by name, since the last `take`.

    >>> means = Means()
    >>> means.add({"loss": 1.0}); means.add({"loss": 2.0})
    >>> means.take(), means.count
    ({'loss': 1.5}, 0)
    """

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0):
        self.sums, self.count = dict(sums or {}), count

    def add(self, terms: Mapping[str, SupportsFloat]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def take(self) -> dict[str, float]:
        """Return the means and reset them."""
        found = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return found

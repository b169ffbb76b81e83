"""Training curves: the numbers of a run's journal, by step."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from jensen.runs.folder import RunError
from jensen.training.checkpoint import write_text
from jensen.training.journal import read_journal


def curves(folder: Path) -> dict[str, list[float]]:
    """The numbers in the journal of a run by name, one row for each step with an entry; NaN: not written.

    Raises:
        RunError: if there are no curves.
    """
    by_step: dict[int, dict[str, float]] = {}
    for line in read_journal(folder / "journal.jsonl"):
        numbers = {name: float(v) for name, v in line.items() if isinstance(v, int | float) and name != "step"}
        if len(numbers) > 1:  # a note has only its time
            by_step.setdefault(line["step"], {}).update(numbers)
    if not by_step:
        raise RunError(f"{folder} has no training curves: its journal.jsonl has no line of numbers")
    names = dict.fromkeys(name for row in by_step.values() for name in row)
    table = {name: [row.get(name, math.nan) for row in by_step.values()] for name in names}
    return {"step": [float(step) for step in by_step], **table}


def write_curves(found: dict[str, list[float]], path: Path) -> None:
    """Write curves as a table, with an empty cell where a number was not written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found)
    for row in zip(*found.values(), strict=True):
        writer.writerow(["" if math.isnan(v) else f"{v:.10g}" for v in row])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())

"""Memory of training on a pack that is larger than memory should hold, and of repeated evaluation.

    python benchmarks/memory.py --gigabytes 4 --steps 2000 --plot memory.png --json memory.json

A pack of random square RGB pictures is written, then a VAE is trained on it, then the run is evaluated several times,
all in one process. The anonymous memory of the process (RssAnon of /proc/self/status, Linux only) is read after every
20 steps and after every evaluation. Pages of the pack that are mapped into memory are not counted: the system takes
them back when it needs them. Growth is the least-squares slope over the second half of the readings.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from typer import Option

import jensen
from jensen.data.decode import Form
from jensen.data.pack import FACTS, PIXELS, VERSION
from jensen.training.strict_json import dumps
from machine import facts, table, write_json

BLOCK = 4096
SMALL = {"training.previews": 0, "judging.samples": 64, "judging.rows": 64, "judging.importance_rows": 4}


def anonymous() -> float:
    """Anonymous memory of this process in MB."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def write_random_pack(out: Path, gigabytes: float, form: Form) -> int:
    """Write a pack of random pictures; returns their number."""
    n = round(gigabytes * 2**30 / np.prod(form.shape))
    out.mkdir(parents=True)
    pixels = np.lib.format.open_memmap(out / PIXELS, mode="w+", dtype=np.uint8, shape=(n, *form.shape))
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for first in range(0, n, BLOCK):
        rows = rng.integers(0, 256, (min(BLOCK, n - first), *form.shape), np.uint8)
        pixels[first : first + BLOCK] = rows
        digest.update(rows.tobytes())
    pixels.flush()
    names = [f"{k:07d}.png" for k in range(n)]
    kept = {"version": VERSION, "key": "random", "sha256": digest.hexdigest(), "form": asdict(form), "names": names}
    empty = {"labels": [None] * n, "texts": [None] * n, "broken": {}, "skipped": {}}
    (out / FACTS).write_text(dumps(kept | empty), encoding="utf-8")
    return n


def growth(values: list[float], distance: int) -> float:
    """MB per 1,000 units of `distance` between readings, over the second half of the readings."""
    late = values[len(values) // 2 :]
    return 1000 / distance * float(np.polyfit(np.arange(len(late)), late, 1)[0])


def draw(path: Path, training: list[float], evaluations: list[float], every: int) -> None:
    """Plot the readings in two panels."""
    figure = Figure((9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(np.arange(1, len(training) + 1) * every, training, color="#2563eb")
    left.set(xlabel="training step", ylabel="anonymous memory [MB]", ylim=(0, 1.1 * max(training + evaluations)))
    right.plot(np.arange(1, len(evaluations) + 1), evaluations, "o-", color="#2563eb")
    right.set(xlabel="evaluation of the same run")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(
    gigabytes: Annotated[float, Option(help="size of the pack")] = 4.0,
    size: Annotated[int, Option(help="height and width of the pictures")] = 64,
    steps: Annotated[int, Option(help="training steps")] = 2000,
    evaluations: Annotated[int, Option(help="evaluations of the run")] = 10,
    json: Annotated[Path | None, Option(help="file for the numbers")] = None,
    plot: Annotated[Path | None, Option(help="file for the plot")] = None,
) -> None:
    """Train and evaluate while reading this process's memory."""
    every, own = 20, anonymous()
    training: list[float] = []
    with TemporaryDirectory() as folder:
        n = write_random_pack(Path(folder) / "random.pack", gigabytes, Form(3, size, size))
        run = jensen.train(
            "vae",
            Path(folder) / "run",
            data=Path(folder) / "random.pack",
            steps=steps,
            batch_size=16,
            settings=SMALL | {"training.log_every": every},
            watch=lambda *_: training.append(anonymous()),
        )
        after = []
        for _ in range(evaluations):
            run.evaluate()
            after.append(anonymous())
    rows = [
        ("library", f"{own:.0f}", ""),
        (
            f"{steps:,} steps on {n:,} pictures",
            f"{max(training):.0f}",
            f"{growth(training, every):+.1f} per 1,000 steps",
        ),
        (f"{evaluations} evaluations", f"{max(after):.0f}", f"{growth(after, 1) / 1000:+.1f} per evaluation"),
    ]
    print(table(("part", "largest [MB]", "growth [MB]"), rows))
    write_json(json, {"machine": facts(), "library": own, "training": training, "evaluations": after})
    if plot is not None:
        draw(plot, training, after, every)


if __name__ == "__main__":
    typer.run(main)

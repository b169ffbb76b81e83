"""Precision, recall, density and coverage: jensen's `prdc` and the reference implementation, package prdc.

Both get the same features in float64 and take turns; the four numbers must agree. Memory is the peak, not counting the
features.

    python benchmarks/prdc.py --json prdc.json
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from typer import Option

from calls import take_turns
from jensen.metrics import prdc
from machine import facts, table, write_json

_here = sys.path.pop(0)  # this file and the peer have the same name
try:
    from prdc import compute_prdc
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")
finally:
    sys.path.insert(0, _here)

Four = tuple[float, float, float, float]
HEADER = ("library", "seconds", "MiB", "precision", "recall", "density", "coverage", "jensen is")


def main(
    rows: Annotated[int, Option(min=100, help="Rows of each sample.")] = 10_000,
    dims: Annotated[int, Option(min=1)] = 64,
    k: Annotated[int, Option(min=1, help="Neighbours.")] = 5,
    repeats: Annotated[int, Option(min=1, help="Turns of each function.")] = 5,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Seconds and memory of PRDC: jensen and prdc."""
    torch.manual_seed(0)
    real, fake = torch.randn(rows, dims).double(), 0.1 + 0.95 * torch.randn(rows, dims).double()

    def ours() -> Four:
        found = prdc(real, fake, k)
        return found.precision, found.recall, found.density, found.coverage

    def theirs() -> Four:
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
        return found["precision"], found["recall"], found["density"], found["coverage"]

    runs = take_turns({"jensen": ours, "prdc": theirs}, repeats)
    torch.testing.assert_close(runs["jensen"].found, runs["prdc"].found, rtol=1e-9, atol=0)
    times = [b / a for a, b in zip(runs["jensen"].seconds, runs["prdc"].seconds, strict=True)]
    about = {**facts(), "prdc": version("prdc")}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{rows:,} rows of each, {dims} dimensions, k = {k}; {repeats} turns\n")
    lines = []
    for name, run in runs.items():
        ratio = "" if name == "jensen" else f"{statistics.median(times):.1f}x [{min(times):.1f}, {max(times):.1f}]"
        held = "-" if run.mebibytes is None else f"{run.mebibytes:.0f}"
        lines.append((name, f"{run.median:.2f}", held, *(f"{v:.4f}" for v in run.found), ratio))
    print(table(HEADER, lines))
    settings = {"rows": rows, "dims": dims, "k": k, "repeats": repeats}
    write_json(json_file, {"facts": about, "settings": settings, "runs": {n: vars(r) for n, r in runs.items()}})


if __name__ == "__main__":
    typer.run(main)

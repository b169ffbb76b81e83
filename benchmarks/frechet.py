"""Frechet distance of features: jensen's `frechet_distance`, torch-fidelity, pytorch-fid, torchmetrics.

The time from features in memory to the distance, in float64, without networks and pictures. All take turns and must
agree to six digits. A separate row includes jensen's standard error, which is computed on demand.

    python benchmarks/frechet.py --json frechet.json
"""

from __future__ import annotations

import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from typer import Option

from calls import take_turns
from jensen.metrics import frechet_distance
from machine import facts, table, write_json

try:
    from peers import torch_fidelity_metrics as peers
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install --no-deps -r benchmarks/requirements-alone.txt")

HEADER = ("library", "seconds", "distance", "jensen is")
NAMES = ("torch-fidelity", "pytorch-fid", "torchmetrics")


def with_error(real: torch.Tensor, fake: torch.Tensor) -> float:
    """The distance, after its standard error is computed too."""
    found = frechet_distance(real, fake)
    return found.value if found.stderr >= 0 else -1.0


def main(
    rows: Annotated[int, Option(min=2, help="Rows of each sample.")] = 5000,
    dims: Annotated[int, Option(min=1)] = 2048,
    repeats: Annotated[int, Option(min=1, help="Turns of each function.")] = 3,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Seconds of a Frechet distance: jensen and three others."""
    torch.manual_seed(0)
    mix = torch.randn(dims, dims).double() / dims**0.5
    real, fake = torch.randn(rows, dims).double() @ mix, 0.1 + 1.1 * torch.randn(rows, dims).double() @ mix.T
    runs = take_turns(
        {
            "jensen": lambda: frechet_distance(real, fake).value,
            "jensen, with its error": lambda: with_error(real, fake),
            "torch-fidelity": lambda: peers.torch_fidelity(real, fake),
            "pytorch-fid": lambda: peers.pytorch_fid(real, fake),
            "torchmetrics": lambda: peers.torchmetrics(real, fake),
        },
        repeats,
    )
    ours = runs["jensen"]
    about = {**facts(), **{name: version(name) for name in NAMES}}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{rows:,} rows of each, {dims} dimensions; {repeats} turns\n")
    lines = []
    for name, run in runs.items():
        torch.testing.assert_close(run.found, ours.found, rtol=1e-6, atol=0)
        times = [b / a for a, b in zip(ours.seconds, run.seconds, strict=True)]
        ratio = "" if run is ours else f"{statistics.median(times):.1f}x [{min(times):.1f}, {max(times):.1f}]"
        lines.append((name, f"{run.median:.2f}", f"{run.found:.6f}", ratio))
    print(table(HEADER, lines))
    settings = {"rows": rows, "dims": dims, "repeats": repeats}
    write_json(json_file, {"facts": about, "settings": settings, "runs": {n: vars(r) for n, r in runs.items()}})


if __name__ == "__main__":
    typer.run(main)

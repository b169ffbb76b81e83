"""Pictures per second of a whole training step: jensen's captcha recipe and diffusers' recipe.

A step is loading a batch, forward, backward, clipping, optimizer and weight averaging; jensen's is its real
`train_step`. The contenders take turns, `--steps` steps each, `--repeats` times, on the same pictures, with the same
batch size.

    python benchmarks/captcha_step.py --json step.json

Columns: "ratio" is the speed divided by that of diffusers in float32, the median over turns with minimum and maximum;
"of peak" is the number of operations per second (matrix products, convolutions and attention) as a fraction of the
machine's peak in that precision: the best that a large matrix product or convolution reached in any turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer import Option

from jensen import configure
from jensen.data.dataset import Data
from jensen.recipes.recipe import Recipe
from jensen.runs.opening import open_data
from machine import count_flops, facts, matrix_speed, table, write_json
from ours import prepare

try:
    from peers.diffusers_captcha import Network, Peer, PeerSettings
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SCHEDULED = 100_000  # steps of the peer's learning rate schedule: far more than are made


@dataclass
class Contender:
    """One recipe in one precision.

    Attributes:
        name, precision: names of both.
        step: takes one training step.
        parameters: number of parameters of the network.
        flops: operations of a step.
        speeds: pictures per second in each turn.
    """

    name: str
    precision: str
    step: Callable[[], object]
    parameters: int
    flops: int = 0
    speeds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)

    def ready(self, warmup: int) -> None:
        """Count a step's operations, then warm up."""
        self.flops = count_flops(self.step)
        for _ in range(warmup):
            self.step()

    def turn(self, steps: int, batch: int) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.speeds.append(steps * batch / (time.perf_counter() - start))


def configured(pictures: int, precision: str) -> Recipe:
    """The captcha recipe."""
    return configure("captcha", [f"data.pictures={pictures}", f"training.precision={precision}"])


def ours(recipe: Recipe, data: Data) -> Contender:
    """The recipe, untrained."""
    training = prepare(recipe, data)
    size = sum(p.numel() for p in training.state.objective.parameters())
    return Contender("jensen", recipe.training.precision, training.step, size)


def peer(recipe: Recipe, data: Data, settings: PeerSettings) -> Contender:
    """The recipe of diffusers, on the same batches."""
    made = Peer(data.space, settings, SCHEDULED, recipe.seed)
    batches = data.stream(settings.batch_size, recipe.seed)(0)
    return Contender("diffusers", settings.precision, lambda: made.train_step(batches), made.parameters)


def contenders(pictures: int, network: Network) -> list[Contender]:
    """The peer in float32 as documented, jensen in bfloat16, then both in the other precision."""
    half, full = configured(pictures, "bfloat16"), configured(pictures, "float32")
    data, batch = open_data(half), half.training.batch_size
    return [
        peer(full, data, PeerSettings(network, batch)),
        ours(half, data),
        ours(full, data),
        peer(half, data, PeerSettings(network, batch, precision="bfloat16")),
    ]


def measure(
    found: list[Contender], *, batch: int, repeats: int, steps: int, warmup: int, peak: int
) -> dict[str, float]:
    """Let the contenders take turns; returns the best matrix speed seen in each precision."""
    peaks = dict.fromkeys(DTYPES, 0.0)
    for contender in found:
        contender.ready(warmup)
    for turn in range(repeats):
        for name, dtype in DTYPES.items():
            peaks[name] = max(peaks[name], matrix_speed(dtype, peak))
        for contender in found:
            contender.turn(steps, batch)
        seen = ", ".join(f"{c.name} {c.precision} {c.speeds[-1]:.1f}" for c in found)
        print(f"turn {turn + 1} of {repeats}: {seen} pictures/s", file=sys.stderr, flush=True)
    return peaks


def summary(found: list[Contender], batch: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """One row per contender."""
    base = found[0]
    rows = []
    for c in found:
        ratios = [a / b for a, b in zip(c.speeds, base.speeds, strict=True)]
        rows.append(
            {
                "recipe": c.name,
                "precision": c.precision,
                "parameters": c.parameters,
                "pictures_per_second": c.speed,
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "flops_per_picture": c.flops / batch,
                "share_of_peak": c.speed * c.flops / batch / peaks[c.precision],
                "turns": c.speeds,
            }
        )
    return rows


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row["recipe"],
        row["precision"],
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['pictures_per_second']:.1f}",
        f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
        f"{row['flops_per_picture'] / 1e9:.2f}",
        f"{100 * row['share_of_peak']:.0f}%",
    )


HEADER = ("recipe", "precision", "parameters", "pictures/s", "ratio", "GFLOP/picture", "of peak")


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 7,
    steps: Annotated[int, Option(min=1, help="Training steps in a turn.")] = 10,
    warmup: Annotated[int, Option(min=0, help="Steps before the first turn.")] = 5,
    pictures: Annotated[int, Option(min=64, help="Number of training pictures.")] = 4096,
    peak: Annotated[int, Option(min=64, help="Side of the matrices for the measured peak.")] = 4096,
    network: Annotated[Network, Option(help="How the peer is conditioned on the text.")] = "class-embedding",
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Pictures per second of a training step: jensen and diffusers."""
    batch = configured(pictures, "bfloat16").training.batch_size
    found = contenders(pictures, network)
    peaks = measure(found, batch=batch, repeats=repeats, steps=steps, warmup=warmup, peak=peak)
    rows = summary(found, batch, peaks)
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    print(f"batch: {batch}; {repeats} turns of {steps} steps; peer's network: {network}")
    print("measured peak: " + ", ".join(f"{v / 1e9:.0f} GFLOP/s {k}" for k, v in peaks.items()), end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    gain = statistics.median(a / b for a, b in zip(found[1].speeds, found[2].speeds, strict=True))
    print(f"\njensen in {found[1].precision} over jensen in {found[2].precision}: {gain:.2f}")
    settings = {"batch": batch, "repeats": repeats, "steps": steps, "network": network}
    write_json(json_file, {"facts": facts(), "settings": settings, "peaks": peaks, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

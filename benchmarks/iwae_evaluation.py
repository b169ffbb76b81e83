"""Seconds per datum of log p(x) with 5,000 importance samples: jensen's `log_likelihood`, pythae's `get_nll`.

The same weights for both: the networks of the recipes `digits-vae` and `mnist-vae`, untrained, on pixels drawn at
random. pythae loops over the data and evaluates the samples in batches of `batch_size`, 100 by default,
and encodes the datum again for each sample; a second contender is pythae with all 5,000 in one batch. Both run
without gradients. The contenders take turns, `--repeats` times.

    python benchmarks/iwae_evaluation.py --json iwae.json

Columns: "jensen is" is jensen's speed divided by the row's, the median over turns with minimum and maximum; "log p" is
the mean over the data that all evaluate, with its standard error if the library gives one; "of the work" is the number
of operations of jensen's matrix products divided by the row's: the ratio of times at equal operations per second.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from typer import Option

from jensen import configure
from jensen.data.space import Space
from jensen.distributions import soft_clamp
from jensen.models import VAE
from jensen.variational import log_likelihood
from machine import count_flops, facts, table, write_json

try:
    from peers import pythae_vae
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

RECIPES = ("digits-vae", "mnist-vae")


@dataclass
class Contender:
    """One way to estimate the mean log p of some data.

    Attributes:
        name: name of the contender.
        data: number of data per turn, enough for a measurable time.
        judge: maps data to mean log p and its standard error, if known.
        flops: operations of the matrix products per datum.
        seconds: seconds per datum in each turn.
        value, stderr: mean log p of the data that all evaluate.
    """

    name: str
    data: int
    judge: Callable[[Tensor], tuple[float, float | None]]
    flops: float = 0.0
    seconds: list[float] = field(default_factory=list)
    value: float = math.nan
    stderr: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ready(self, x: Tensor, shared: int) -> None:
        """Evaluate the common data, and count the operations."""
        self.value, self.stderr = self.judge(x[:shared])
        self.flops = count_flops(lambda: self.judge(x[:shared])) / shared

    def turn(self, x: Tensor) -> None:
        start = time.perf_counter()
        self.judge(x[: self.data])
        self.seconds.append((time.perf_counter() - start) / self.data)


def contenders(model: VAE, latents: int, space: Space, samples: int, theirs: int, ours: int) -> list[Contender]:
    """All contenders on one model; `theirs` and `ours` are the numbers of data in a turn."""
    encoder, bounds = model.encoder, [math.log(v) for v in (model.encoder.family.min_std, model.encoder.family.max_std)]
    peer = pythae_vae.model(
        lambda bits: encoder.net(2 * bits - 1),  # jensen's pixels are -1 and +1, pythae's 0 and 1
        model.decoder.net,
        latents,
        space.shape,
        lambda raw: soft_clamp(raw, *bounds),
    ).eval()

    def jensen(bits: Tensor) -> tuple[float, float | None]:
        estimate = log_likelihood(model, 2 * bits - 1, samples)
        return float(estimate.value.mean()), float(estimate.stderr.square().sum().sqrt()) / len(bits)

    def pythae(batch: int) -> Callable[[Tensor], tuple[float, float | None]]:
        return lambda x: (float(peer.get_nll(x, n_samples=samples, batch_size=batch)), None)

    return [
        Contender("jensen", ours, jensen),
        Contender("pythae, batches of 100", theirs, pythae(100)),
        Contender("pythae, one batch", theirs, pythae(samples)),
    ]


@torch.no_grad()
def measure(name: str, found: list[Contender], x: Tensor, *, repeats: int, shared: int) -> None:
    """Let the contenders take turns."""
    for c in found:
        c.ready(x, shared)
    for turn in range(1, repeats + 1):
        for c in found:
            c.turn(x)
        seen = ", ".join(f"{c.name} {1000 * c.seconds[-1]:.1f}" for c in found)
        print(f"{name}, turn {turn} of {repeats}: {seen} ms per datum", file=sys.stderr, flush=True)


def summary(name: str, found: list[Contender]) -> list[dict[str, Any]]:
    """One row per contender."""
    rows = []
    for c in found:
        ratios = [b / a for a, b in zip(found[0].seconds, c.seconds, strict=True)]
        rows.append(
            {
                "networks": name,
                "library": c.name,
                "seconds_per_datum": c.median,
                "log_p": c.value,
                "stderr": c.stderr,
                "flops_per_datum": c.flops,
                "gflops_per_second": c.flops / c.median / 1e9,
                "work": found[0].flops / c.flops,
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "turns": c.seconds,
            }
        )
    return rows


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    ours = row["library"] == "jensen"
    return (
        row["networks"],
        row["library"],
        f"{1000 * row['seconds_per_datum']:.1f}",
        f"{row['log_p']:.3f}" + (f" +- {row['stderr']:.3f}" if row["stderr"] is not None else ""),
        f"{row['gflops_per_second']:.0f}",
        "" if ours else f"{100 * row['work']:.0f}%",
        "" if ours else f"{row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
    )


HEADER = ("networks of", "library", "ms/datum", "log p, nats", "GFLOP/s", "of the work", "jensen is")


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 5,
    samples: Annotated[int, Option(min=100, help="Importance samples per datum.")] = 5000,
    theirs: Annotated[int, Option(min=1, help="Data per turn of pythae.")] = 4,
    ours: Annotated[int, Option(min=1, help="Data per turn of jensen.")] = 16,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Seconds per datum of log p(x) by importance sampling: jensen and pythae."""
    rows: list[dict[str, Any]] = []
    for name in RECIPES:
        recipe = configure(name)
        torch.manual_seed(recipe.seed)
        space, latents = recipe.data.known(), recipe.family.network.latents[0]
        bits = (torch.rand(max(theirs, ours), *space.shape) < 0.3).float()
        found = contenders(recipe.family.model(space).eval(), latents, space, samples, theirs, ours)
        measure(name, found, bits, repeats=repeats, shared=theirs)
        rows += summary(name, found)
    about = {**facts(), "pythae": version("pythae")}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{samples} samples per datum; {repeats} turns", end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    settings = {"repeats": repeats, "samples": samples, "theirs": theirs, "ours": ours}
    write_json(json_file, {"facts": about, "settings": settings, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

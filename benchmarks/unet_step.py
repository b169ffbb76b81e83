"""Training steps per second of jensen's captcha U-Net and two others with as many parameters.

Only the network differs: all have the same pictures, batch size, loss (the mean squared error of
eps - x), the same clipping and the same AdamW, as the captcha recipe sets them. `captcha_step.py` compares whole
recipes instead. The contenders take turns of `--seconds` each, `--repeats` times.

    python benchmarks/unet_step.py --json unet.json

Columns: "jensen is" is jensen's speed divided by the row's in the same precision, the median over turns with minimum
and maximum; "of peak" is the number of operations per second (matrix products, convolutions and attention) as a
fraction of the machine's peak in that precision, measured in the same turns.
"""

from __future__ import annotations

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
from torch import Tensor, nn
from torch.nn import functional as F
from typer import Option

from jensen import configure
from jensen.data.space import Space
from jensen.recipes.settings import Training
from jensen.runs.opening import open_data
from machine import count_flops, facts, matrix_speed, table, write_json

try:
    from peers import ddpm_pytorch_unet, diffusers_unet
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NETWORKS: dict[str, Callable[[Space], nn.Module]] = {
    "jensen": lambda space: configure("captcha").family.model(space).denoiser.net,
    "diffusers": diffusers_unet.Network,
    "denoising-diffusion-pytorch": ddpm_pytorch_unet.Network,
}


@dataclass
class Contender:
    """One network in one precision, in training.

    Attributes:
        library, precision: names of both.
        step: takes one training step.
        parameters: number of parameters of the network.
        flops: operations of a step.
        speeds: steps per second in each turn.
    """

    library: str
    precision: str
    step: Callable[[], None]
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

    def turn(self, seconds: float) -> None:
        """Make steps for at least this time, and record their speed."""
        start, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds:
            self.step()
            steps += 1
        self.speeds.append(steps / passed)


def contender(library: str, precision: str, settings: Training, space: Space, batches: Any) -> Contender:
    """The network with its optimizer."""
    torch.manual_seed(0)
    network = NETWORKS[library](space).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )

    def step() -> None:
        batch = next(batches)
        loss = flow_error(network, batch["x"], batch["cond"], DTYPES[precision])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip or float("inf"))
        optimizer.step()

    return Contender(library, precision, step, sum(p.numel() for p in network.parameters()))


def flow_error(network: nn.Module, x: Tensor, cond: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean squared error of eps - x at uniform times of the straight schedule."""
    t, eps = torch.rand(len(x)), torch.randn_like(x)
    place = t[:, None, None, None]
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        predicted = network((1 - place) * x + place * eps, t, cond)
    return F.mse_loss(predicted.float(), eps - x)


def measure(found: list[Contender], *, repeats: int, seconds: float, warmup: int, peak: int) -> dict[str, float]:
    """Let the contenders take turns; returns the best matrix speed seen in each precision."""
    peaks = dict.fromkeys(DTYPES, 0.0)
    for c in found:
        c.ready(warmup)
    for turn in range(repeats):
        for name, dtype in DTYPES.items():
            peaks[name] = max(peaks[name], matrix_speed(dtype, peak))
        for c in found:
            c.turn(seconds)
        seen = ", ".join(f"{c.library} {c.precision} {c.speeds[-1]:.2f}" for c in found)
        print(f"turn {turn + 1} of {repeats}: {seen} steps/s", file=sys.stderr, flush=True)
    return peaks


def summary(found: list[Contender], batch: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """One row per contender."""
    ours = {c.precision: c for c in found if c.library == "jensen"}
    rows = []
    for c in found:
        ratios = [a / b for a, b in zip(ours[c.precision].speeds, c.speeds, strict=True)]
        rows.append(
            {
                "library": c.library,
                "precision": c.precision,
                "parameters": c.parameters,
                "steps_per_second": c.speed,
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "flops_per_picture": c.flops / batch,
                "share_of_peak": c.speed * c.flops / peaks[c.precision],
                "turns": c.speeds,
            }
        )
    return rows


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    ratio = f"{row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    return (
        row["library"],
        row["precision"],
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['steps_per_second']:.2f}",
        "" if row["library"] == "jensen" else ratio,
        f"{row['flops_per_picture'] / 1e9:.2f}",
        f"{100 * row['share_of_peak']:.0f}%",
    )


HEADER = ("network", "precision", "parameters", "steps/s", "jensen is", "GFLOP/picture", "of peak")


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 7,
    seconds: Annotated[float, Option(min=0.0, help="Minimum length of a turn.")] = 1.5,
    warmup: Annotated[int, Option(min=0, help="Steps before the first turn.")] = 1,
    pictures: Annotated[int, Option(min=64, help="Number of training pictures.")] = 1024,
    peak: Annotated[int, Option(min=64, help="Side of the matrices for the measured peak.")] = 4096,
    markdown: Annotated[bool, Option(help="Print only the table.")] = False,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Training steps per second of three networks with as many parameters."""
    recipe = configure("captcha", [f"data.pictures={pictures}"])
    data, training, batch = open_data(recipe), recipe.training, recipe.training.batch_size
    batches = data.stream(batch, recipe.seed)(0)
    found = [contender(library, kind, training, data.space, batches) for kind in DTYPES for library in NETWORKS]
    peaks = measure(found, repeats=repeats, seconds=seconds, warmup=warmup, peak=peak)
    rows = summary(found, batch, peaks)
    versions = {**facts(), "denoising-diffusion-pytorch": version("denoising-diffusion-pytorch")}
    if not markdown:
        print("\n".join(f"{name}: {value}" for name, value in versions.items()))
        print(f"batch: {batch}; {repeats} turns of {seconds:g} s")
        print("measured peak: " + ", ".join(f"{v / 1e9:.0f} GFLOP/s {k}" for k, v in peaks.items()), end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    settings = {"batch": batch, "repeats": repeats, "seconds": seconds}
    write_json(json_file, {"facts": versions, "settings": settings, "peaks": peaks, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

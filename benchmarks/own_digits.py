"""Ten minutes of training on handwritten digits: a reader, a diffusion model, a VAE and a GAN with the usual settings.

    python benchmarks/own_digits.py --data t10k-images-idx3-ubyte.gz --out runs/digits --json own_digits.json

`--data` is an IDX file of pictures with its file of labels beside it, such as MNIST's 10,000 test pictures. A fifth of
the pictures is held out. Each family is trained by `jensen train FAMILY --data` for `--minutes`, or for the steps given
by `--steps FAMILY=N`, and judged with 2,000 samples: the diffusion model by the share of samples that the reader reads
as asked and by the kernel distance in the reader's features, the VAE of dynamically binarised pictures by log p(x) of
held-out pictures with K = 5,000 importance samples, the GAN by the share of samples that the reader reads as clearly as
95% of the held-out pictures, and by the classes among them. The reader is trained for 2,000 steps. A run that is
already finished is only judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

import jensen
from machine import facts, table, write_json

FAMILIES = ("reader", "diffusion", "vae", "gan")
JUDGED = {"judging.samples": 2000, "judging.rows": 2000}
SETTINGS = {
    "reader": {**JUDGED, "training.rate": 0.002},
    "diffusion": {**JUDGED, "judging.steps": [], "judging.ode_rows": 0},
    "vae": {"data.levels": 2, "data.binarize": "dynamic", "judging.importance": 5000, "judging.importance_rows": 100},
    "gan": JUDGED,
}
ASKED = {  # finding, what is wanted of it
    "reader": {"exact": "at least 98.5%"},
    "diffusion": {"legibility": "at least 97%", "kernel": "at most 3 times the floor"},
    "vae": {"log_p": "at least -94"},
    "gan": {"clear": "at least 95%", "clearly_reached": "10"},
}


@dataclass(frozen=True)
class Row:
    """A finding of one run, in words."""

    family: str
    seed: int
    steps: int
    name: str
    value: str
    wanted: str


def trained(family: str, data: Path, folder: Path, seed: int, steps: int | None, minutes: float, reader: Path):
    """The run in a folder, trained unless it is finished."""
    if (folder / "model.safetensors").exists():
        return jensen.open(folder)
    own = SETTINGS[family] | {"data.test": 0.2, "training.previews": 0}
    if family in ("diffusion", "gan"):
        own["judging.features"] = str(reader)
    length = {"minutes": minutes} if steps is None else {"steps": steps}
    return jensen.train(family, folder, data=data, seed=seed, settings=own, resume=folder.exists(), **length)


def rows(run: jensen.Run, family: str, seed: int) -> list[Row]:
    """The findings that the table shows."""
    found = run.evaluate()
    steps = int(run.curves()["step"][-1])
    return [Row(family, seed, steps, found[key].name, str(found[key]), wanted) for key, wanted in ASKED[family].items()]


def main(
    data: Annotated[Path, Option(help="IDX file of pictures")],
    out: Annotated[Path, Option(help="folder of the runs")] = Path("runs/digits"),
    seeds: Annotated[int, Option(help="number of random seeds")] = 2,
    minutes: Annotated[float, Option(help="minutes of training of each run")] = 10.0,
    steps: Annotated[list[str] | None, Option(help="FAMILY=N, steps instead of minutes")] = None,
    json: Annotated[Path | None, Option(help="file for the numbers")] = None,
) -> None:
    """Train and judge every family for every seed, and print a table."""
    lengths = {"reader": 2000} | {k: int(n) for k, _, n in (word.partition("=") for word in steps or ())}
    done: list[Row] = []
    for seed in range(seeds):
        for family in FAMILIES:
            reader = out / f"reader-{seed}"
            run = trained(family, data, out / f"{family}-{seed}", seed, lengths.get(family), minutes, reader)
            done += rows(run, family, seed)
    head = ("family", "seed", "steps", "finding", "value", "wanted")
    print(table(head, [[r.family, str(r.seed), f"{r.steps:,}", r.name, r.value, r.wanted] for r in done]))
    if json is not None:
        write_json(json, {"machine": facts(), "rows": [asdict(row) for row in done]})


if __name__ == "__main__":
    typer.run(main)

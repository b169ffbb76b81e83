"""Posterior collapse and its remedies: the collapse report of one model, trained with each remedy.

Three layers of latents on scikit-learn's handwritten digits, q(z1|x) q(z2|z1) q(z3|z2) with p(x|z1) p(z1|z2) p(z2|z3)
p(z3), trained by the recipe `digits-hvae` on the plain ELBO, which leaves all layers but the first unused. Each remedy
changes one setting:

    python benchmarks/collapse.py --json collapse.json

KL is a layer's term of the bound; active units are those whose posterior mean has a variance above 0.01 over the data;
"log p(x|z) lost" is the decrease of log p(x|z) when that layer is drawn from its prior, with the layers above
unchanged. log p(x) is importance-sampled with the encoder as proposal. All numbers are in nats, on held-out digits,
with standard errors over the digits; log p(x) varies more than that between seeds, hence several seeds.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from typer import Option

from jensen import configure
from jensen.core.seeding import generator
from jensen.data.dataset import some
from jensen.models import LatentChain
from jensen.variational import log_likelihood
from jensen.variational.collapse import CollapseReport, collapse_report
from machine import table, write_json
from ours import prepare

PLAIN = ("network.latents=[16,8,4]", "network.direction=bottom-up", "bound.warm=none", "training.average=0.99")


def remedies(steps: int) -> dict[str, tuple[str, ...]]:
    """Settings that differ from the plain model's."""
    return {
        "none": (),
        "annealing, linear": ("bound.warm=linear", f"bound.warm_steps={steps // 2}"),
        "annealing, cyclical": ("bound.warm=cyclical", f"bound.warm_steps={steps // 4}"),
        "free bits, 1 nat per layer": ("bound.free_bits=1",),
        "weakened decoder": ("network.decoder_hidden=16",),
        "ladder": ("network.direction=ladder",),
        "ladder, linear annealing": ("network.direction=ladder", "bound.warm=linear", f"bound.warm_steps={steps // 2}"),
    }


@dataclass(frozen=True)
class Found:
    """One trained model.

    Attributes:
        remedy: name of the remedy.
        settings: settings that differ from the recipe's.
        seed: random seed of the training.
        report: the collapse report.
        log_p: the mean over held-out digits, and its standard error.
        seconds: seconds of training.
    """

    remedy: str
    settings: tuple[str, ...]
    seed: int
    report: CollapseReport
    log_p: tuple[float, float]
    seconds: float

    def rows(self) -> list[list[str]]:
        """One row per layer."""
        mean, error = self.log_p
        return [
            [
                self.remedy if number == 1 else "",
                str(self.seed) if number == 1 else "",
                str(number),
                str(layer.kl),
                f"{layer.active} of {layer.units}",
                str(layer.log_px_lost),
                layer.verdict,
                f"{mean:.2f} ± {error:.2f}" if number == 1 else "",
            ]
            for number, layer in enumerate(self.report.layers, start=1)
        ]


def trained(remedy: str, words: tuple[str, ...], steps: int, samples: int, seed: int) -> Found:
    """Train and evaluate one model."""
    settings = (*PLAIN, *words, f"training.steps={steps}")
    training = prepare(configure("digits-hvae", settings, seed=seed))
    seconds = training.run()
    chain, x, rng = training.state.average.eval(), some(training.data.test)["x"], generator(seed)
    assert isinstance(chain, LatentChain)
    report = collapse_report(chain, x, samples=64, generator=rng)
    log_p = log_likelihood(chain, x, samples=samples, generator=rng).value
    found = Found(remedy, settings, seed, report, (float(log_p.mean()), float(log_p.std()) / len(x) ** 0.5), seconds)
    print(f"{remedy}, seed {seed}: {seconds:.0f} s, {report.sentence}", file=sys.stderr)
    return found


def main(
    steps: Annotated[int, Option(min=4, help="Training steps of each model.")] = 1000,
    seeds: Annotated[int, Option(min=1, help="Random seeds per remedy.")] = 2,
    samples: Annotated[int, Option(min=1, help="Importance samples K of log p(x).")] = 500,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """The collapse report with each remedy."""
    torch.set_num_threads(1)
    found = [
        trained(remedy, words, steps, samples, seed)
        for remedy, words in remedies(steps).items()
        for seed in range(seeds)
    ]
    seconds = sum(f.seconds for f in found)
    print(f"torch {torch.__version__}, {steps} steps each, {seconds:.0f} s of training in all; K = {samples}\n")
    header = ("remedy", "seed", "layer", "KL", "active", "log p(x|z) lost", "verdict", "log p(x)")
    print(table(header, [row for one in found for row in one.rows()]))
    result = {"torch": torch.__version__, "steps": steps, "samples": samples, "found": [asdict(one) for one in found]}
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)

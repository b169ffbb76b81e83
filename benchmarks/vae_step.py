"""Training steps per second of a VAE: jensen, pythae and Pyro.

The same networks, batch and data for all: those of the recipes `digits-vae` (8 x 8, two hidden layers of 256, 16
latents) and `mnist-vae` (28 x 28, two of 512, 32 latents), on random pixels, since the content does not affect
the time. Every library makes its step as in its documentation: jensen's is `train_step` of the
recipe as configured (batch, bound with analytic KL, backward, a check of every gradient, clipping, fused AdamW,
average); pythae's is its trainer, once with its data loader and once with prepared batches; Pyro's is `SVI.step` on a
prepared batch. The contenders take turns of `--seconds` each, `--repeats` times.

    python benchmarks/vae_step.py --json vae.json

Column "jensen is": jensen's speed divided by the row's, the median over turns with minimum and maximum.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from typer import Option

from jensen import configure
from jensen.data.dataset import Data
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.models import VAE
from jensen.recipes.recipe import Recipe
from machine import facts, table, write_json
from ours import prepare
from turns import HEADER, Contender, show, summary, take_turns

try:
    from peers import pyro_vae, pythae_vae
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

RECIPES = ("digits-vae", "mnist-vae")
BATCHES = 12  # number of batches: an epoch of the digits


def ours(recipe: Recipe, space: Space, bits: Tensor) -> Contender:
    """Jensen's training; its pixels are -1 and +1."""
    rows = Tensors(x=2 * bits - 1)
    training = prepare(recipe, Data("random pixels", "", space, rows, rows))
    return Contender("jensen", lambda: bool(training.step()))


def pythae(model: VAE, recipe: Recipe, space: Space, bits: Tensor, *, ready: bool) -> Contender:
    """Pythae's trainer, one epoch at a time."""
    batch, latents = recipe.training.batch_size, recipe.family.network.latents[0]
    made = pythae_vae.model(model.encoder.net, model.decoder.net, latents, space.shape, lambda raw: raw)
    trainer = pythae_vae.trainer(made, bits, batch, recipe.training.rate)
    if ready:
        trainer.train_loader = pythae_vae.Prepared(bits, batch)

    def go() -> int:
        trainer.train_step(epoch=1)
        return len(trainer.train_loader)

    return Contender("pythae, prepared batches" if ready else "pythae", go)


def pyro(model: VAE, recipe: Recipe, bits: Tensor) -> Contender:
    """Pyro's inference, on one batch."""
    made = pyro_vae.VAE(model.encoder.net, model.decoder.net, recipe.family.network.latents[0])
    svi, batch = pyro_vae.inference(made, recipe.training.rate), bits[: recipe.training.batch_size]
    return Contender("Pyro, prepared batches", lambda: int(svi.step(batch) is not None))


def contenders(recipe: Recipe) -> list[Contender]:
    """The contenders, trained on as many pictures as an epoch of digits has."""
    torch.manual_seed(recipe.seed)
    space = recipe.data.known()
    bits = (torch.rand(BATCHES * recipe.training.batch_size, *space.shape) < 0.3).float()
    return [
        ours(recipe, space, bits),
        pythae(recipe.family.model(space), recipe, space, bits, ready=False),
        pythae(recipe.family.model(space), recipe, space, bits, ready=True),
        pyro(recipe.family.model(space), recipe, bits),
    ]


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 7,
    seconds: Annotated[float, Option(min=0.1, help="Length of a turn.")] = 1.0,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Training steps per second of a VAE: jensen, pythae and Pyro."""
    rows: list[dict[str, Any]] = []
    for name in RECIPES:
        found = contenders(configure(name))
        take_turns(name, found, repeats=repeats, seconds=seconds)
        rows += summary(name, found)
    about = {**facts(), "pythae": version("pythae"), "pyro-ppl": version("pyro-ppl")}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"batch: {configure(RECIPES[0]).training.batch_size}; {repeats} turns of {seconds:g} s", end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    write_json(json_file, {"facts": about, "settings": {"repeats": repeats, "seconds": seconds}, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

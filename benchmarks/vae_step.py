"""Training steps per second of a VAE: jensen beside pythae and Pyro.

The same networks, batch and data for all: those of the recipes `digits-vae` (8 x 8, two hidden layers of 256, 16
latents) and `mnist-vae` (28 x 28, two of 512, 32 latents), on bits drawn at random, since what they show does not
matter to the clock. Every library takes its own step as its documentation does: jensen's is `train_step` of the recipe
as configured (batch, bound with analytic KL, backward, a check of every gradient, clipping, fused AdamW, average);
pythae's is its trainer, once with its data loader and once with batches laid ready; Pyro's is `SVI.step` on a batch
laid ready. The contenders take turns of `--seconds` each, `--repeats` times.

    python benchmarks/vae_step.py --json vae.json

What the columns mean: "jensen is" is jensen's speed over the row's, the median of the turns, with the least and the
greatest.
"""

from __future__ import annotations

import copy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from typer import Option

from jensen.data.pool import pool_stream
from jensen.objectives import Variational
from jensen.recipes.latent import DigitsVAE, LatentRecipe
from jensen.recipes.mnist import MnistVAE
from jensen.recipes.running import new_state
from jensen.training import train_step
from machine import facts, table, write_json
from turns import HEADER, Contender, show, summary, take_turns

try:
    from peers import pyro_vae, pythae_vae
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

RECIPES: tuple[type[LatentRecipe], ...] = (DigitsVAE, MnistVAE)
BATCHES = 12  # of the data: an epoch of the digits


def ours(recipe: LatentRecipe, x: Tensor) -> Contender:
    """The recipe's own training."""
    model = recipe.model()
    objective = Variational(model, recipe.bound.function(), analytic=recipe.bound.analytic)
    state = new_state(recipe, objective, recipe.training.budget())
    batches = pool_stream(recipe.training.batch_size, recipe.seed, x=x)(0)
    return Contender("jensen", lambda: bool(train_step(state, batches)))


def pythae(recipe: LatentRecipe, x: Tensor, *, ready: bool) -> Contender:
    """Its trainer, an epoch at a time."""
    batch = recipe.training.batch_size
    trainer = pythae_vae.trainer(pythae_model(recipe), x, batch, recipe.training.rate)
    if ready:
        trainer.train_loader = pythae_vae.Prepared(x, batch)

    def go() -> int:
        trainer.train_step(epoch=1)
        return len(trainer.train_loader)

    return Contender("pythae, batches ready" if ready else "pythae", go)


def pythae_model(recipe: LatentRecipe) -> Any:
    """Pythae's VAE of the recipe's networks."""
    model, shape = recipe.model(), recipe.shape()
    return pythae_vae.model(model.encoder.net, model.decoder.net, recipe.network.latents[0], shape, lambda raw: raw)


def pyro(recipe: LatentRecipe, x: Tensor) -> Contender:
    """Its inference, on one batch."""
    model = recipe.model()
    made = pyro_vae.VAE(copy.deepcopy(model.encoder.net), copy.deepcopy(model.decoder.net), recipe.network.latents[0])
    svi, batch = pyro_vae.inference(made, recipe.training.rate), x[: recipe.training.batch_size]
    return Contender("Pyro, batches ready", lambda: int(svi.step(batch) is not None))


def contenders(recipe: LatentRecipe) -> list[Contender]:
    """On as many pictures as an epoch of digits has."""
    torch.manual_seed(recipe.seed)
    x = (torch.rand(BATCHES * recipe.training.batch_size, *recipe.shape()) < 0.3).float()
    return [ours(recipe, x), pythae(recipe, x, ready=False), pythae(recipe, x, ready=True), pyro(recipe, x)]


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of every contender.")] = 7,
    seconds: Annotated[float, Option(min=0.1, help="Of a turn.")] = 1.0,
    json_file: Annotated[Path | None, Option("--json", help="Write the results here as well.")] = None,
) -> None:
    """Training steps per second of a VAE, jensen beside pythae and Pyro."""
    rows: list[dict[str, Any]] = []
    for kind in RECIPES:
        recipe = kind()
        found = contenders(recipe)
        take_turns(recipe.recipe, found, repeats=repeats, seconds=seconds)
        rows += summary(recipe.recipe, found)
    about = {**facts(), "pythae": version("pythae"), "pyro-ppl": version("pyro-ppl")}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"batch: {RECIPES[0]().training.batch_size}; {repeats} turns of {seconds:g} s", end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    write_json(json_file, {"facts": about, "settings": {"repeats": repeats, "seconds": seconds}, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

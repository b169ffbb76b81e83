"""Training steps per second of a GAN: jensen and a plain loop written by hand.

The same networks, batch, loss (non-saturating), optimizer (fused Adam) and data for both, on points and pictures drawn
at random. One step is an update of the critic and one of the generator, each with new noise. The loop is a careful
implementation in thirty lines that does nothing else; jensen's is `train_step`, which also checks that every loss and
gradient is finite, keeps an averaged generator and collects the terms for the journal.
The contenders take turns of `--seconds` each, `--repeats` times.

    python benchmarks/gan_step.py --json gan.json

Column "jensen is": jensen's speed divided by the loop's, the median over turns with minimum and maximum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from typer import Option

from jensen.data.pool import pool_stream
from jensen.models import GAN
from jensen.nn import mlp
from jensen.objectives import Adversarial
from jensen.training import Player, TrainState, train_step, warm_decay
from machine import facts, table, write_json
from turns import HEADER, Contender, show, summary, take_turns

ROWS, RATE, BETAS = 2048, 1e-3, (0.5, 0.999)


@dataclass(frozen=True)
class Networks:
    """A generator, a critic, and their data.

    Attributes:
        name: name of the row.
        latent: length of z.
        event: shape of x.
        batch: batch size.
        generator, critic: functions that make the untrained networks.
    """

    name: str
    latent: int
    event: tuple[int, ...]
    batch: int
    generator: Callable[[], nn.Module]
    critic: Callable[[], nn.Module]


def convolutional_generator() -> nn.Module:
    """Four levels up to 3 x 32 x 32, as in DCGAN, without normalisation."""
    return nn.Sequential(
        nn.Unflatten(1, (64, 1, 1)),
        nn.ConvTranspose2d(64, 128, 4),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
        nn.Tanh(),
    )


def convolutional_critic() -> nn.Module:
    """The mirror image of the generator."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 1, 4),
        nn.Flatten(),
    )


NETWORKS = (
    Networks("points, 2 x 128", 2, (2,), 256, lambda: mlp(2, 128, 128, 2), lambda: mlp(2, 128, 128, 1)),
    Networks("points, 3 x 512", 64, (2,), 512, lambda: mlp(64, 512, 512, 512, 2), lambda: mlp(2, 512, 512, 512, 1)),
    Networks("pictures, DCGAN 32", 64, (3, 32, 32), 64, convolutional_generator, convolutional_critic),
)


def adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=RATE, betas=BETAS, fused=True)


def ours(made: Networks, generator: nn.Module, critic: nn.Module, x: Tensor) -> Contender:
    """Jensen's trainer."""
    game = Adversarial(GAN(generator, [made.latent]), critic, loss="non-saturating")
    players = {
        name: Player(list(p), torch.optim.Adam(p, lr=RATE, betas=BETAS, fused=True), lambda _: RATE)
        for name, p in game.players().items()
        if isinstance(p, list)
    }
    state = TrainState(game, players, decay=warm_decay(0.999))
    batches = pool_stream(made.batch, 0, x=x)(0)
    return Contender("jensen", lambda: bool(train_step(state, batches)))


def by_hand(made: Networks, generator: nn.Module, critic: nn.Module, x: Tensor) -> Contender:
    """The plain loop."""
    generator_moves, critic_moves = adam(generator), adam(critic)

    def go() -> int:
        real = x[torch.randint(len(x), (made.batch,))]
        with torch.no_grad():
            fake = generator(torch.randn(made.batch, made.latent))
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
        critic_moves.zero_grad()
        loss.backward()
        critic_moves.step()

        loss = F.softplus(-critic(generator(torch.randn(made.batch, made.latent)))).mean()
        generator_moves.zero_grad()
        loss.backward()
        generator_moves.step()
        return 1

    return Contender("plain loop", go)


def contenders(made: Networks) -> list[Contender]:
    """Both contenders, with the same initial weights."""
    torch.manual_seed(0)
    x, generator, critic = torch.randn(ROWS, *made.event).tanh(), made.generator(), made.critic()
    return [build(made, *copy.deepcopy((generator, critic)), x) for build in (ours, by_hand)]


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 9,
    seconds: Annotated[float, Option(min=0.1, help="Length of a turn.")] = 1.0,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Training steps per second of a GAN: jensen and a plain loop."""
    rows: list[dict[str, Any]] = []
    for made in NETWORKS:
        found = contenders(made)
        take_turns(made.name, found, repeats=repeats, seconds=seconds)
        rows += summary(made.name, found)
    about = facts()
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{repeats} turns of {seconds:g} s", end="\n\n")
    print(table(HEADER, [show(row) for row in rows]))
    write_json(json_file, {"facts": about, "settings": {"repeats": repeats, "seconds": seconds}, "rows": rows})


if __name__ == "__main__":
    typer.run(main)

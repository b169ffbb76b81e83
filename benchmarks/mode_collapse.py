"""Which modes a GAN loses, and which packing recovers: the ring of 8 and the grid of 25, over several seeds.

    python benchmarks/mode_collapse.py --json mode_collapse.json

Each row is trained `--seeds` times by the recipes `ring-gan` and `grid-gan`, with one setting changed: the
packing m, the balance of the modes (geometric weights, the smallest a tenth of the largest), or the activation. A
sample within 3 standard deviations of a mode is of high quality, and a mode with such a sample among 2,500 is
recovered. A mode is held if its share of high-quality samples is at least a fifth of its weight. Reverse KL is computed
from the fractions of samples nearest to each mode, in nats; its floor is the value for the same number of draws of the
data. The first row of each data set is uniform noise on the grid's square or the ring's circle, without training: it
recovers every mode too. A dead unit is a hidden unit that is positive for no input. "Steps to quality" is the first
step, checked every 250 steps, at which half of the samples are of high quality. ± is a standard error over seeds.

Results depend on the seed alone, so parts may run in parallel (`--only ring`, `--only grid`, `--first 3 --seeds 2`),
and `--join` shows the table of several JSON files.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from typer import Option

from jensen import configure
from jensen.core.seeding import generator
from jensen.data.dataset import Data, some
from jensen.data.mixtures import Modes
from jensen.metrics import ModeCoverage, mode_coverage
from jensen.metrics.modes import STANDARD_DEVIATIONS
from jensen.metrics.units import never_positive
from jensen.models import GAN
from jensen.objectives.adversarial import Adversarial
from jensen.training import TrainState
from jensen.training.strict_json import loads
from machine import spread, table, write_json
from ours import prepare

SAMPLES, LOOK = 2500, 250
RARE = 0.1
HELD = 0.2  # fraction of a mode's weight
PUBLISHED = {  # Lin et al. (2018), table 1: means over 10 trainings and their standard errors
    ("ring", 1): ("6.3 ± 0.5", "98.2% ± 0.2", "0.45 ± 0.09"),
    ("ring", 2): ("7.9 ± 0.1", "95.6% ± 2.0", "0.07 ± 0.03"),
    ("ring", 4): ("7.8 ± 0.1", "95.9% ± 1.4", "0.07 ± 0.02"),
    ("grid", 1): ("17.3 ± 0.8", "94.8% ± 0.7", "0.70 ± 0.07"),
    ("grid", 2): ("23.8 ± 0.7", "91.3% ± 0.8", "0.13 ± 0.04"),
    ("grid", 4): ("24.8 ± 0.2", "93.6% ± 0.6", "0.04 ± 0.01"),
}
SETTINGS = {
    "ring": (
        "data.std=0.05",
        "network.critic_width=64",
        "network.fourier_features=16",
        "game.penalty=r1",
        "game.penalty_weight=3e-4",
        "training.rate=2e-3",
        "training.betas=[0, 0.999]",
        "training.batch_size=128",
        "training.steps=2000",
    ),
    "grid": ("training.steps=5000",),  # the others keep the recipe's number
}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        data: "ring" or "grid".
        packing: number m of examples per pack.
        balance: weight of the rarest mode divided by that of the most frequent.
        activation: activation of generator and critic.
        noise: whether samples are uniform noise, without a model.
    """

    data: str
    packing: int = 1
    balance: float = 1.0
    activation: str = "relu"
    noise: bool = False

    @property
    def name(self) -> str:
        """The name of the row, which `--only` selects by its beginning."""
        if self.noise:
            return f"{self.data}-noise"
        return f"{self.data}-{self.packing}-{'balanced' if self.balance == 1 else 'unbalanced'}-{self.activation}"

    @property
    def words(self) -> tuple[str, ...]:
        return (
            *SETTINGS[self.data],
            "training.average=0",  # the generator of the last step is evaluated
            f"game.packing={self.packing}",
            f"data.balance={self.balance}",
            f"network.activation={self.activation}",
        )


CASES = (
    *(case for data in ("ring", "grid") for case in (Case(data, noise=True), *(Case(data, m) for m in (1, 2, 4)))),
    *(Case(data, m, RARE) for data in ("ring", "grid") for m in (1, 2)),
    *(Case("ring", m, activation="leaky-relu") for m in (1, 2)),
)


@dataclass(frozen=True)
class Found:
    """The result of one training.

    Attributes:
        case: the row it belongs to.
        seed: random seed.
        recovered, held: numbers of recovered and of held modes.
        of: number of modes.
        high_quality: fraction of high-quality samples.
        reverse_kl, floor: reverse KL and its floor in nats.
        dead: fractions of dead hidden units of the generator and of the critic; empty for noise.
        steps: number of steps until half of the samples are of high quality, or None.
        seconds: seconds of training.
    """

    case: Case
    seed: int
    recovered: int
    held: int
    of: int
    high_quality: float
    reverse_kl: float
    floor: float
    dead: tuple[float, ...]
    steps: int | None
    seconds: float


def trained(case: Case, seed: int) -> Found:
    """One training, evaluated with the weights of its last step."""
    training = prepare(configure(f"{case.data}-gan", case.words, seed=seed))
    law, state = training.data.truths.modes, training.state
    assert law is not None
    first: list[int] = []

    def draw() -> Tensor:
        assert isinstance(state.average, GAN)
        return state.average.sample(SAMPLES, generator=generator(seed))

    def look(state: TrainState, _: dict[str, Tensor]) -> None:
        if not first and state.step % LOOK == 0 and covered(law, draw()).high_quality >= 0.5:
            first.append(state.step)

    seconds = training.run(look)
    assert isinstance(state.objective, Adversarial)
    units = dead(state.objective, training.data)
    return judged(case, seed, law, draw(), units, first[0] if first else None, seconds)


def uniform(case: Case, seed: int) -> Found:
    """Uniform noise without training: on the square around the grid, or on the circle through the ring."""
    source, u = configure(f"{case.data}-gan", case.words).data, torch.rand(SAMPLES, 2, generator=generator(seed))
    if case.data == "grid":
        made = source.side * source.spacing * (u - 0.5)
    else:
        angle = 2 * math.pi * u[:, 0]
        made = source.radius * torch.stack([angle.cos(), angle.sin()], 1)
    return judged(case, seed, source.law(), made, (), None, 0.0)


def judged(
    case: Case, seed: int, law: Modes, made: Tensor, units: tuple[float, ...], steps: int | None, seconds: float
) -> Found:
    """Modes and quality of samples."""
    found, held = covered(law, made), modes_held(law, made)
    quality, kl = found.high_quality, found.reverse_kl
    print(
        f"{case.name}, seed {seed}: {found.recovered} and {held} of {found.of}, {quality:.1%}, "
        f"reverse KL {kl:.3f}, {seconds:.0f} s",
        file=sys.stderr,
    )
    return Found(case, seed, found.recovered, held, found.of, quality, kl, found.floor, units, steps, seconds)


def covered(law: Modes, made: Tensor) -> ModeCoverage:
    """Number of modes that samples reach."""
    return mode_coverage(made, law.centres, law.std, law.weights)


def modes_held(law: Modes, made: Tensor) -> int:
    """Number of modes whose share of high-quality samples is at least a fifth of their weight."""
    distance, mode = torch.cdist(made.double(), law.centres.double()).min(1)
    share = mode[distance <= STANDARD_DEVIATIONS * law.std].bincount(minlength=len(law.centres)) / len(made)
    return int((share >= HELD * law.weights).sum())


def dead(game: Adversarial, data: Data) -> tuple[float, float]:
    """Fractions of hidden units that are positive for no input, of the generator and of the critic."""
    game.eval()
    assert isinstance(game.model, GAN)
    z, m = game.model.latent(SAMPLES // 4 * 4, generator(0)), game.packing
    n = len(z) // m * m
    x = torch.cat([some(data.test)["x"][:n], game.model.decode(z)[:n]])
    layers = (
        never_positive(game.model, lambda: game.model(z)),
        never_positive(game.critic, lambda: game.critic(x.reshape(-1, 2 * m))),
    )
    generator_share, critic_share = (sum(v.never for v in of) / sum(v.of for v in of) for of in layers)
    return generator_share, critic_share


def rows(found: Sequence[Found]) -> list[list[str]]:
    """One row per case."""
    shown = []
    for case in CASES:
        runs = [one for one in found if one.case == case]
        if not runs:
            continue
        if case.noise:
            shown.append([case.data, "noise", "", "", *shares(runs), "", "", "", "", "", ""])
            continue
        reached = [one.steps for one in runs if one.steps is not None]
        plain = case.balance == 1 and case.activation == "relu"
        shown.append(
            [
                case.data,
                str(case.packing),
                "balanced" if case.balance == 1 else "unbalanced",
                case.activation,
                *shares(runs),
                spread([one.dead[0] for one in runs], percent=True),
                spread([one.dead[1] for one in runs], percent=True),
                f"{spread(reached, 0)} ({len(reached)} of {len(runs)})" if reached else f"none of {len(runs)}",
                *(PUBLISHED[case.data, case.packing] if plain else ("", "", "")),
            ]
        )
    return shown


def shares(runs: Sequence[Found]) -> list[str]:
    """Modes, quality and reverse KL as text."""
    return [
        f"{spread([one.recovered for one in runs])} of {runs[0].of}",
        spread([one.held for one in runs]),
        spread([one.high_quality for one in runs], percent=True),
        f"{spread([one.reverse_kl for one in runs], 3)} ({runs[0].floor:.3f})",
    ]


HEADER = (
    *("data", "m", "modes", "activation", "recovered", "held", "high quality", "reverse KL (floor)"),
    *("dead, generator", "dead, critic", "steps to quality"),
    *("published recovered", "published quality", "published reverse KL"),
)


def main(
    seeds: Annotated[int, Option(min=1, help="Number of seeds per row.")] = 5,
    first: Annotated[int, Option(min=0, help="First seed.")] = 0,
    only: Annotated[
        list[str] | None, Option(help="Only rows whose names begin with this, such as grid-2-balanced-relu.")
    ] = None,
    join: Annotated[list[Path] | None, Option(help="Show the table of these JSON files, without training.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Modes lost and recovered."""
    torch.set_num_threads(1)
    if join:
        found = [read(one) for path in join for one in loads(path.read_text(encoding="utf-8"))["found"]]
    else:
        wanted = [case for case in CASES if case.name.startswith(tuple(only or [""]))]
        found = []
        for seed in range(first, first + seeds):
            for case in wanted:
                found.append(uniform(case, seed) if case.noise else trained(case, seed))
                keep(json_file, found)
    print(f"torch {torch.__version__}, {sum(one.seconds for one in found):.0f} s of training in all\n")
    print(table(HEADER, rows(found)))
    keep(json_file, found)


def keep(path: Path | None, found: Sequence[Found]) -> None:
    """Write the results so far, so that an interrupted run can be joined with others."""
    write_json(path, {"torch": torch.__version__, "settings": SETTINGS, "found": [asdict(one) for one in found]})


def read(one: dict[str, Any]) -> Found:
    """One training from JSON."""
    return Found(**{**one, "case": Case(**one["case"]), "dead": tuple(one["dead"])})


if __name__ == "__main__":
    typer.run(main)

"""Which of the thousand modes of stacked digits a GAN loses, with packing and without, over several seeds.

    python benchmarks/stacked_modes.py --json stacked_modes.json

Each row is trained `--seeds` times by the recipe `stacked-digits-gan`, with packing m, without a penalty or with R1,
and balanced or unbalanced modes (the weights of digits fall geometrically to a tenth, those of modes to a thousandth).
A reader of digits with an accuracy of 98 percent on stacked test digits reads 26,000 samples. The columns are the
number of modes reached; the number reached by samples whose channels are all as clear as 95 percent of real digits; the
fraction of such channels; and the reverse KL from the modes of the data, in nats. The rows `data` are 26,000 stacks of
held-out digits. ± is a standard error over seeds.

Published, on 28 x 28 digits of MNIST by a convolutional GAN with batch norm, 26,000 samples (Lin et al. 2018, table 2,
with the setting of Srivastava et al. 2017): 99 modes and a reverse KL of 3.40 without packing, 1000 and 0.06 with m =
2. Here digits are 8 x 8 from 1,437 pictures, the critic is fully connected, and no player has batch norm.

Results depend on the seed alone, so parts may run in parallel (`--only 2-plain`, `--first 1`), and `--join` shows the
table of several JSON files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from typer import Option

from jensen import configure
from jensen.core.seeding import generator
from jensen.data.dataset import Data, some
from jensen.metrics import joint_coverage
from jensen.models import GAN
from jensen.runs.opening import open_data
from jensen.training.strict_json import loads
from machine import spread, table, write_json
from ours import prepare

RARE = 0.1
SAMPLES, NOISE = 26_000, 7  # samples that are read, and the seed of their noise
GAMES = {"plain": ("game.penalty=none", "game.penalty_weight=1"), "r1": ()}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        packing: number m of examples per pack.
        game: "plain" or "r1".
        balance: weight of the rarest digit divided by that of the most frequent.
    """

    packing: int
    game: str = "plain"
    balance: float = 1.0

    @property
    def name(self) -> str:
        """The name of the row, which `--only` selects by its beginning."""
        return f"{self.packing}-{self.game}-{'balanced' if self.balance == 1 else 'unbalanced'}"

    @property
    def words(self) -> tuple[str, ...]:
        return (f"game.packing={self.packing}", f"data.balance={self.balance}", *GAMES[self.game])


CASES = (
    *(Case(m, "plain", balance) for balance in (1.0, RARE) for m in (1, 2)),
    *(Case(m, "r1") for m in (1, 2)),
)


@dataclass(frozen=True)
class Found:
    """The result of one training, or of the data.

    Attributes:
        case: the row it belongs to.
        seed: random seed; None for the data.
        reached, clearly: modes reached by all samples, and by clear ones.
        clear: fraction of clear channels.
        reverse_kl, floor: reverse KL and its floor in nats.
        seconds: seconds of training.
    """

    case: Case
    seed: int | None
    reached: int
    clearly: int
    clear: float
    reverse_kl: float
    floor: float
    seconds: float = 0.0


def trained(case: Case, seed: int, steps: int) -> Found:
    """One training, evaluated with its averaged weights."""
    training = prepare(configure("stacked-digits-gan", [*case.words, f"training.steps={steps}"], seed=seed))
    seconds = training.run()
    model = training.state.average
    assert isinstance(model, GAN)
    one = judged(training.data, case, seed, model.sample(SAMPLES, generator=generator(NOISE)), seconds)
    print(
        f"{case.name}, seed {seed}: {one.reached} modes, {one.clearly} clearly, {one.clear:.1%} clear, "
        f"reverse KL {one.reverse_kl:.4f}, {seconds:.0f} s",
        file=sys.stderr,
    )
    return one


def of_data(case: Case) -> Found:
    """The same numbers of stacked held-out digits."""
    data = open_data(configure("stacked-digits-gan", [*case.words, f"data.test={SAMPLES}"]))
    return judged(data, case, None, some(data.test)["x"], 0.0)


def judged(data: Data, case: Case, seed: int | None, x: Tensor, seconds: float) -> Found:
    """Read stacks (N, 3, H, W)."""
    reader, shares = data.truths.reader, data.truths.shares
    assert reader is not None
    assert shares is not None
    found = joint_coverage(reader.read(x), shares, reader.clear(x))
    clear = found.clear.value
    return Found(case, seed, found.recovered, found.clearly, clear, found.reverse_kl, found.floor, seconds)


def rows(found: Sequence[Found]) -> list[list[str]]:
    """One row per case, and one of the data for each balance."""
    shown = []
    for case in CASES:
        for kind in (True, False):
            runs = [one for one in found if one.case == case and (one.seed is not None) is kind]
            if runs:
                shown.append(
                    [
                        f"m = {case.packing}, {case.game}" if kind else "data",
                        "balanced" if case.balance == 1 else "unbalanced",
                        str(len(runs)) if kind else "",
                        spread([one.reached for one in runs], 1),
                        spread([one.clearly for one in runs], 1),
                        spread([one.clear for one in runs], 1, percent=True),
                        f"{spread([one.reverse_kl for one in runs], 4)} ({runs[0].floor:.4f})",
                    ]
                )
    return shown


HEADER = ("game", "modes", "seeds", "reached", "by clear samples", "clear channels", "reverse KL (floor)")


def main(
    seeds: Annotated[int, Option(min=1, help="Number of seeds per row.")] = 3,
    first: Annotated[int, Option(min=0, help="First seed.")] = 0,
    steps: Annotated[int, Option(min=1, help="Steps of each training.")] = 2000,
    only: Annotated[
        list[str] | None, Option(help="Only rows whose names begin with this, such as 2-plain-balanced.")
    ] = None,
    join: Annotated[list[Path] | None, Option(help="Show the table of these JSON files, without training.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Modes of stacked digits."""
    torch.set_num_threads(1)
    found: list[Found] = []
    if join:
        for path in join:
            told = loads(path.read_text(encoding="utf-8"))
            found += [Found(**{**one, "case": Case(**one["case"])}) for one in told["found"]]
    else:
        for seed in range(first, first + seeds):
            for case in (case for case in CASES if case.name.startswith(tuple(only or [""]))):
                found.append(trained(case, seed, steps))
                write_json(json_file, {"steps": steps, "found": [asdict(one) for one in found]})
    data = [of_data(case) for case in (Case(2), Case(2, "plain", RARE))]
    print(f"torch {torch.__version__}, {sum(one.seconds for one in found):.0f} s of training in all\n")
    print(table(HEADER, rows([*found, *data])))


if __name__ == "__main__":
    typer.run(main)

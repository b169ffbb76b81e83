"""Minutes of training until generated CAPTCHAs can be read: jensen's captcha recipe and diffusers' recipe.

Both train on the same pictures and draw the same held-out texts; the reader that comes with jensen, trained only on
classically rendered pictures, reads the samples. They take turns of `--seconds-per-eval` seconds of training, so that
a change in the machine's speed affects both; the clocks count training alone. Legibility is the fraction of samples
whose whole text is read as requested. If it is below 10 percent on the first 64 texts, the others are not drawn.

    python benchmarks/captcha_quality.py --minutes 10 --json quality.json

The table shows the training time at the first evaluation at which legibility is at least 50, 80 and 90 percent, in one
run of `--minutes` per recipe. Jensen's learning rate decays over the last two fifths of the run and the peer's along a
cosine, so both may get there earlier in a shorter run. The peer is sampled with each scale of `--guidance` and its best
result counts; jensen is sampled as configured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import torch
import typer
from torch import Tensor
from typer import Option

from jensen import configure
from jensen.core.types import Batch
from jensen.data.dataset import Data
from jensen.judging.case import drawer
from jensen.metrics import legibility
from jensen.metrics.proportion import Proportion
from jensen.recipes.recipe import Recipe
from jensen.runs.opening import open_data
from machine import facts, table, write_json
from ours import prepare

try:
    from peers.diffusers_captcha import Network, Peer, PeerSettings
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

MARKS = (0.5, 0.8, 0.9)
FIRST, ENOUGH = 64, 0.1  # all texts are drawn if at least this share of the first ones is legible
TRIAL = 12  # steps over which the peer's speed is measured


class Contender(Protocol):
    """A recipe that trains for a given time and can draw texts."""

    name: str

    def train(self, until: float) -> int:
        """Train up to this total number of seconds; returns the total number of steps."""

    def draw(self, cond: Tensor) -> list[Tensor]:
        """Pictures of encoded texts, (N, C, H, W), once for each way of sampling."""


class Ours:
    """The recipe as configured, trained for its `training.minutes`."""

    name = "jensen"

    def __init__(self, recipe: Recipe, data: Data):
        self.training = prepare(recipe, data)

    def train(self, until: float) -> int:
        budget, state = self.training.budget, self.training.state
        budget.start()
        budget.look()
        while budget.seconds() < until and not budget.done(state.step):
            self.training.step()
            budget.look()
        budget.pause()
        return state.step

    def draw(self, cond: Tensor) -> list[Tensor]:
        draw = drawer(self.training.state.average, self.training.data.space, self.training.recipe.seed)
        return [draw(len(cond), cond=cond)]


class Theirs:
    """The recipe of diffusers; its cosine spans the steps that fit into `training.minutes`.

    Args:
        recipe: recipe that gives minutes and seed.
        data: data to train on.
        settings: settings of the peer.
        scales: guidance scales.
    """

    name = "diffusers"

    def __init__(self, recipe: Recipe, data: Data, settings: PeerSettings, scales: Sequence[float]):
        assert recipe.training.minutes is not None
        stream, space = data.stream(settings.batch_size, recipe.seed), data.space
        self.seed, self.scales, self.batches, self.seconds = recipe.seed, tuple(scales), stream(0), 0.0
        total = 60 * recipe.training.minutes / _seconds_a_step(Peer(space, settings, TRIAL, recipe.seed), stream(0))
        self.peer = Peer(space, settings, max(1, round(total)), recipe.seed)

    def train(self, until: float) -> int:
        start = time.perf_counter() - self.seconds
        while self.seconds < until:
            self.peer.train_step(self.batches)
            self.seconds = time.perf_counter() - start
        return self.peer.step

    def draw(self, cond: Tensor) -> list[Tensor]:
        return [self.peer.sample(cond, scale, self.seed) for scale in self.scales]


def _seconds_a_step(peer: Peer, batches: Iterator[Batch]) -> float:
    """Seconds of a training step, the median of a few."""
    times = [time.perf_counter()]
    for _ in range(TRIAL):
        peer.train_step(batches)
        times.append(time.perf_counter())
    return float(torch.tensor(times, dtype=torch.float64).diff().median())


@dataclass
class Curve:
    """One contender's legibility over seconds of training."""

    name: str
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    exact: list[Proportion] = field(default_factory=list)

    def passed(self, mark: float) -> float | None:
        """Seconds of training at the first evaluation with at least this legibility."""
        return next((s for s, e in zip(self.seconds, self.exact, strict=True) if e.value >= mark), None)


def judge(contender: Contender, asked: Tensor, data: Data) -> Proportion:
    """The best fraction of texts that are read as requested."""
    reader, space = data.truths.reader, data.space
    assert reader is not None
    found = [legibility(reader.read(space.settled(made)), asked).exact for made in contender.draw(asked)]
    return max(found, key=lambda exact: exact.value)


def look(contender: Contender, curve: Curve, until: float, asked: Tensor, data: Data) -> None:
    """Train up to a time, draw samples and read them."""
    steps = contender.train(until)
    exact = judge(contender, asked[:FIRST], data)
    if exact.value >= ENOUGH and len(asked) > FIRST:
        exact = judge(contender, asked, data)
    curve.seconds.append(until)
    curve.steps.append(steps)
    curve.exact.append(exact)
    shown = f"{until / 60:6.2f} min  {curve.name:9}  step {steps:6d}  legible {curve.exact[-1]}"
    print(shown, file=sys.stderr, flush=True)


def looks(minutes: float, every: float) -> list[float]:
    """Seconds of training at which to evaluate; the last is the end."""
    end = 60 * minutes
    inside = [every * i for i in range(1, int(end / every) + 1) if every * i < end - 1e-6]
    return [*inside, end]


def marks(ours: Curve, theirs: Curve, minutes: float) -> list[tuple[str, str, str, str]]:
    """Rows of legibility, both times, and their ratio or a bound on it."""
    never = f"not within {minutes:g} min"
    rows = []
    for mark in MARKS:
        a, b = ours.passed(mark), theirs.passed(mark)
        if a is None:
            ratio = "-" if b is None else f"< {b / (60 * minutes):.2f}"
        else:
            ratio = f"> {60 * minutes / a:.1f}" if b is None else f"{b / a:.1f}"
        shown = [never if s is None else f"{s / 60:.1f}" for s in (a, b)]
        rows.append((f"{100 * mark:.0f}%", shown[0], shown[1], ratio))
    return rows


def show(ours: Curve, theirs: Curve, minutes: float) -> None:
    """Legibility at every evaluation, then the times."""
    rows = [
        (f"{s / 60:.1f}", f"{a}", n, f"{b}", m)
        for s, a, n, b, m in zip(ours.seconds, ours.exact, ours.steps, theirs.exact, theirs.steps, strict=True)
    ]
    print(table(("minutes", "jensen", "steps", "diffusers", "steps"), rows), end="\n\n")
    header = ("texts read", "jensen, minutes", "diffusers, minutes", "ratio")
    print(table(header, marks(ours, theirs, minutes)))


def main(
    minutes: Annotated[float, Option(help="Minutes of training of each recipe.")] = 10.0,
    seconds_per_eval: Annotated[float, Option(help="Seconds of training between evaluations.")] = 30.0,
    texts: Annotated[int, Option(min=1, help="Texts drawn at each evaluation.")] = 256,
    pictures: Annotated[int, Option(min=64, help="Number of training pictures.")] = 40_000,
    network: Annotated[Network, Option(help="How the peer is conditioned on the text.")] = "class-embedding",
    batch: Annotated[int, Option(min=1, help="The peer's batch size; 16 in diffusers' example.")] = 16,
    rate: Annotated[float, Option(help="The peer's learning rate; 1e-4 in diffusers' example.")] = 1e-4,
    warmup: Annotated[int, Option(min=0, help="The peer's warm-up steps; 500 in diffusers' example.")] = 500,
    guidance: Annotated[list[float] | None, Option(help="The peer's guidance scales; by default 2 and 4.")] = None,
    steps: Annotated[int, Option(min=1, help="The peer's sampling steps.")] = 25,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Minutes of training until 50, 80 and 90 percent of texts are read: jensen and diffusers."""
    recipe = configure("captcha", [f"training.minutes={minutes}", f"data.pictures={pictures}"])
    settings, scales = PeerSettings(network, batch, rate, warmup, steps=steps), guidance or [2.0, 4.0]
    data = open_data(recipe)
    contenders = Ours(recipe, data), Theirs(recipe, data, settings, scales)
    curves, asked = [Curve(c.name) for c in contenders], data.asked(texts)
    assert asked is not None
    result = {"facts": facts(), "minutes": minutes, "texts": texts, "peer": {**asdict(settings), "scales": scales}}
    for until in looks(minutes, seconds_per_eval):
        for contender, curve in zip(contenders, curves, strict=True):
            look(contender, curve, until, asked, data)
        seen = {"curves": [asdict(c) for c in curves], "marks": marks(*curves, minutes)}
        write_json(json_file, {**result, **seen})
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    print(f"texts: {texts}; pictures: {pictures}; peer: {settings}, guidance {scales}", end="\n\n")
    show(*curves, minutes)


if __name__ == "__main__":
    typer.run(main)

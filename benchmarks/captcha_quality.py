"""Minutes of training until CAPTCHAs can be read: jensen's captcha recipe beside diffusers' recipe.

Both train on the same drawn pictures and are asked for the same texts, which neither was trained on; the
reader that comes with jensen, trained on classical pictures only, reads what they draw. They take turns,
`--seconds-per-eval` seconds of training each, so that a change in the machine's pace meets both; the clocks
count training alone. Legibility is the share of pictures whose whole text is read as asked; a look at a model
that draws fewer than one in ten of the first 64 texts stops there, far below every mark.

    python benchmarks/captcha_quality.py --minutes 10 --json quality.json

A mark's time is that of the first look at which the mark was passed. It is one run of M minutes a recipe:
jensen's learning rate decays over the last two fifths of them and the peer's along a cosine, so a shorter run
may well pass the marks sooner than this table says, for both. The peer is sampled at each of `--guidance` and the
best counts; jensen is sampled as configured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
import typer
from torch import Tensor
from typer import Option

from jensen.data.pool import pool_stream
from jensen.metrics import legibility
from jensen.metrics.proportion import Proportion
from jensen.models import Diffusion
from jensen.recipes.base import Setting
from jensen.recipes.captcha import Captcha
from jensen.recipes.captcha_drawing import draw_texts
from jensen.recipes.captcha_reader import read_texts, shipped_reader
from jensen.recipes.running import new_state
from jensen.training import train_step
from machine import facts, table, write_json
from ours import changed

try:
    from peers.diffusers_captcha import Network, Peer, PeerSettings
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

MARKS = (0.5, 0.8, 0.9)
FIRST, ENOUGH = 64, 0.1  # a look at this many texts goes on to all of them from this share on
TRIAL = 12  # steps of a twin that tell the peer's pace


class Contender(Protocol):
    """Something that is trained by the clock and can draw texts."""

    name: str

    def train(self, until: float) -> int:
        """Train until so many seconds of training; returns the steps taken since the start."""

    def draw(self, texts: Sequence[str]) -> list[Tensor]:
        """Pictures of texts, uint8, once for each way of sampling."""


class Ours:
    """The recipe as configured, trained for its `training.minutes`."""

    name = "jensen"

    def __init__(self, recipe: Captcha, setting: Setting):
        self.recipe, self.budget, self.batches = recipe, recipe.training.budget(), setting.stream(0)
        self.state = new_state(recipe, setting.objective, self.budget)

    def train(self, until: float) -> int:
        self.budget.start()
        self.budget.look()
        while self.budget.seconds() < until and not self.budget.done(self.state.step):
            train_step(self.state, self.batches)
            self.budget.look()
        self.budget.pause()
        return self.state.step

    def draw(self, texts: Sequence[str]) -> list[Tensor]:
        assert isinstance(self.state.average, Diffusion)
        return [draw_texts(self.recipe, self.state.average, texts, seed=self.recipe.seed)]


class Theirs:
    """The recipe of diffusers; its cosine spans the steps that fit into `training.minutes`.

    Args:
        recipe: gives minutes, seed and what the pictures are.
        setting: gives the pictures.
        settings: of the peer.
        scales: of guidance.
    """

    name = "diffusers"

    def __init__(self, recipe: Captcha, setting: Setting, settings: PeerSettings, scales: Sequence[float]):
        assert recipe.training.minutes is not None
        pool = setting.references
        stream = pool_stream(settings.batch_size, recipe.seed, x=pool["pictures"], cond=pool["texts"])
        self.recipe, self.scales, self.batches, self.seconds = recipe, tuple(scales), stream(0), 0.0
        total = 60 * recipe.training.minutes / _pace(Peer(recipe, settings, TRIAL), stream(0))
        self.peer = Peer(recipe, settings, max(1, round(total)))

    def train(self, until: float) -> int:
        start = time.perf_counter() - self.seconds
        while self.seconds < until:
            self.peer.train_step(self.batches)
            self.seconds = time.perf_counter() - start
        return self.peer.step

    def draw(self, texts: Sequence[str]) -> list[Tensor]:
        cond = self.recipe.encode(texts)
        return [self.peer.sample(cond, scale, self.recipe.seed) for scale in self.scales]


def _pace(twin: Peer, batches: Any) -> float:
    """Seconds a step of a peer that is then thrown away: the median of a few."""
    times = [time.perf_counter()]
    for _ in range(TRIAL):
        twin.train_step(batches)
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
        """Seconds at the first look with at least this legibility."""
        return next((s for s, e in zip(self.seconds, self.exact, strict=True) if e.value >= mark), None)


def judge(pictures: list[Tensor], asked: Tensor) -> Proportion:
    """The best share of texts that are read as asked."""
    found = [legibility(read_texts(shipped_reader(), made)[0], asked).exact for made in pictures]
    return max(found, key=lambda exact: exact.value)


def look(contender: Contender, curve: Curve, until: float, texts: Sequence[str], asked: Tensor) -> None:
    """Train up to a time, draw, read back."""
    steps = contender.train(until)
    exact = judge(contender.draw(texts[:FIRST]), asked[:FIRST])
    if exact.value >= ENOUGH and len(texts) > FIRST:
        exact = judge(contender.draw(texts), asked)
    curve.seconds.append(until)
    curve.steps.append(steps)
    curve.exact.append(exact)
    shown = f"{until / 60:6.2f} min  {curve.name:9}  step {steps:6d}  legible {curve.exact[-1]}"
    print(shown, file=sys.stderr, flush=True)


def looks(minutes: float, every: float) -> list[float]:
    """Seconds at which to look; the last is the end."""
    end = 60 * minutes
    inside = [every * i for i in range(1, int(end / every) + 1) if every * i < end - 1e-6]
    return [*inside, end]


def marks(ours: Curve, theirs: Curve, minutes: float) -> list[tuple[str, str, str, str]]:
    """Rows of mark, both times, and the ratio or the bound that is known of it."""
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


def build(recipe: Captcha, settings: PeerSettings, scales: Sequence[float]) -> tuple[Ours, Theirs]:
    """Draw the pictures once and set both up on them."""
    torch.manual_seed(recipe.seed)
    setting = recipe.setting(recipe.model())
    return Ours(recipe, setting), Theirs(recipe, setting, settings, scales)


def show(ours: Curve, theirs: Curve, minutes: float) -> None:
    """Legibility at every look, then the marks."""
    rows = [
        (f"{s / 60:.1f}", f"{a}", n, f"{b}", m)
        for s, a, n, b, m in zip(ours.seconds, ours.exact, ours.steps, theirs.exact, theirs.steps, strict=True)
    ]
    print(table(("minutes", "jensen", "steps", "diffusers", "steps"), rows), end="\n\n")
    header = ("read as asked", "jensen, minutes", "diffusers, minutes", "ratio")
    print(table(header, marks(ours, theirs, minutes)))


def main(
    minutes: Annotated[float, Option(help="Training of each.")] = 10.0,
    seconds_per_eval: Annotated[float, Option(help="Seconds of training between looks.")] = 30.0,
    texts: Annotated[int, Option(min=1, help="Texts to draw at each look.")] = 256,
    pictures: Annotated[int, Option(min=64, help="Pictures drawn to train on.")] = 40_000,
    network: Annotated[Network, Option(help="How the peer is given the text.")] = "class-embedding",
    batch: Annotated[int, Option(min=1, help="The peer's batch; 16 is its example's.")] = 16,
    rate: Annotated[float, Option(help="The peer's learning rate; 1e-4 is its example's.")] = 1e-4,
    warmup: Annotated[int, Option(min=0, help="The peer's steps of warm-up; 500 is its example's.")] = 500,
    guidance: Annotated[list[float] | None, Option(help="The peer's guidance scales; by default 2 and 4.")] = None,
    steps: Annotated[int, Option(min=1, help="The peer's sampling steps.")] = 25,
    json_file: Annotated[Path | None, Option("--json", help="Write the results here as well.")] = None,
) -> None:
    """Minutes of training until 50, 80 and 90 percent of texts are read, jensen beside diffusers."""
    recipe = changed(Captcha(), minutes=minutes)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pictures": pictures})})
    settings = PeerSettings(network, batch, rate, warmup, steps=steps)
    scales = guidance or [2.0, 4.0]
    ours, theirs = build(recipe, settings, scales)
    curves = Curve(ours.name), Curve(theirs.name)
    names = recipe.judged_texts(texts)
    result = {"facts": facts(), "minutes": minutes, "texts": texts, "peer": {**asdict(settings), "scales": scales}}
    for until in looks(minutes, seconds_per_eval):
        look(ours, curves[0], until, names, recipe.encode(names))
        look(theirs, curves[1], until, names, recipe.encode(names))
        seen = {"curves": [asdict(c) for c in curves], "marks": marks(*curves, minutes)}
        write_json(json_file, {**result, **seen})
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    print(f"texts: {texts}; pictures: {pictures}; peer: {settings}, guidance {scales}", end="\n\n")
    show(*curves, minutes)


if __name__ == "__main__":
    typer.run(main)

"""Runs of any family side by side: metrics with errors and floors, likelihoods, costs, a judge, a line of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jensen.core.seeding import generator
from jensen.metrics import (
    Proportion,
    bits_per_dim,
    c2st,
    class_coverage,
    extrapolated_frechet_distance,
    frechet_distance,
    kernel_distance,
    memorisation,
    prdc,
    sharpness,
    wilson,
)
from jensen.recipes.base import Likely, Real, Recipe, Request, Track, silent
from jensen.recipes.features import Features, features_of
from jensen.recipes.folder import RunError
from jensen.recipes.fresh_judge import Judgement, judge
from jensen.recipes.running import EVALUATION, open_run
from jensen.training.journal import read_journal

NORMAL = 1.959963984540054  # a 95 percent interval reaches so many standard errors
MOST, LEAST = 1000, 40  # samples of each contestant
SHOWN, BETWEEN, ROWS = 32, 9, 4  # samples of a sheet; pictures of a row from one to another, and rows


@dataclass(frozen=True)
class Value:
    """A number and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.stderr:.1g}"


@dataclass(frozen=True)
class Metric:
    """A number of samples.

    Attributes:
        name: as it is read.
        best: "low", "high", or the number that real data have in the long run.
    """

    name: str
    best: Literal["low", "high"] | float

    def loss(self, value: float) -> float:
        """The less, the better."""
        return value if self.best == "low" else -value if self.best == "high" else abs(value - self.best)


METRICS = {
    "frechet": Metric("Frechet distance", "low"),
    "frechet_extrapolated": Metric("Frechet, without bias", "low"),
    "kernel": Metric("kernel distance", "low"),
    "precision": Metric("precision", "high"),
    "recall": Metric("recall", "high"),
    "density": Metric("density", 1.0),
    "coverage": Metric("coverage", "high"),
    "c2st": Metric("two-sample accuracy", 0.5),
    "classes": Metric("KL of classes, nats", "low"),
    "copies": Metric("copies", 0.5),
    "sharpness": Metric("sharpness", 1.0),
}


@dataclass(frozen=True)
class Cost:
    """What training took and what drawing takes.

    Attributes:
        seconds, steps: of training, None where there is no journal.
        parameters: of what is sampled.
        milliseconds: of drawing one sample, among `drawn`.
        evaluations: calls of the network for one sample.
    """

    seconds: float | None
    steps: int | None
    parameters: int
    milliseconds: float
    evaluations: int
    drawn: int


@dataclass(frozen=True)
class Contestant:
    """A run, and all that was found of it."""

    name: str
    recipe: Recipe
    samples: Tensor
    between: Tensor | None
    metrics: Mapping[str, Value]
    likelihoods: Sequence[Likely]
    cost: Cost
    judgement: Judgement
    fooled_critics: Mapping[str, Proportion]


@dataclass(frozen=True)
class Comparison:
    """Contestants beside each other.

    Attributes:
        real: what they are compared with.
        features: by which.
        n: samples of each.
        seed: of them.
        floor: the same numbers for training data in the samples' place.
        judged_floor: the judge between training data and training data.
        contestants: in the order they were given.
    """

    real: Real
    features: str
    n: int
    seed: int
    floor: Mapping[str, Value]
    judged_floor: Judgement
    contestants: Sequence[Contestant]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "data": self.real.name,
            "features": self.features,
            "n": self.n,
            "seed": self.seed,
            "floor": {key: asdict(v) for key, v in self.floor.items()},
            "judge_floor": asdict(self.judged_floor),
            "runs": [
                {
                    "name": c.name,
                    "recipe": c.recipe.recipe,
                    "metrics": {key: asdict(v) for key, v in c.metrics.items()},
                    "likelihoods": [asdict(v) | {"bits_per_dim": bits(v)} for v in c.likelihoods],
                    "cost": asdict(c.cost),
                    "judge": asdict(c.judgement),
                    "critics": {name: asdict(v) for name, v in c.fooled_critics.items()},
                    "line": line(self, c),
                }
                for c in self.contestants
            ],
        }


def bits(found: Likely) -> float:
    """Bits a dimension."""
    return float(bits_per_dim(torch.tensor(found.mean, dtype=torch.float64), found.dims))


def compare(
    folders: Sequence[Path],
    *,
    features: str | Callable[[Tensor], Tensor] | None = None,
    n: int | None = None,
    seed: int = 0,
    judge_steps: int = 500,
    track: Track = silent,
) -> Comparison:
    """Runs judged side by side, by samples, and by likelihood where their evaluations tell it.

    Args:
        folders: of two runs or more, of one kind of data.
        features: "classifier", "random", "raw", or a callable from data to (N, d); None: the first of them that suits.
        n: samples of each, at least 40; None: as many as there are training data, at most 1,000.
        seed: of the samples.
        judge_steps: of training of each fresh discriminator.
        track: told how far it has come.

    Raises:
        ValueError: for fewer than two runs, one given twice, data that cannot be compared, or n out of range.
    """
    names = _names(folders)
    opened = [open_run(folder) for folder in folders]
    reals = [recipe.real() for recipe, _ in opened]
    real = reals[0]
    for name, other in zip(names[1:], reals[1:], strict=True):
        if other.test.shape[1:] != real.test.shape[1:] or other.name != real.name:
            raise ValueError(f"{names[0]} and {name} cannot be compared: {_of(real)}, and {_of(other)}")
    n = min(MOST, len(real.train)) if n is None else n
    if not LEAST <= n <= len(real.train):
        raise ValueError(
            f"n must be from {LEAST} to the {len(real.train)} training data, with which the floor is drawn, got {n}"
        )
    found = Features("features of the user's own", features) if callable(features) else features_of(features, real)
    likelihoods = [_likelihoods(recipe, folder) for folder, (recipe, _) in zip(folders, opened, strict=True)]
    drawn = []
    for name, (recipe, model) in zip(names, opened, strict=True):
        advance = track(f"drawing from {name}", n)
        start = time.perf_counter()
        made = recipe.drawing(model, Request(n=n, seed=seed)).draw(advance).cpu()
        drawn.append((real.settled(made), 1000 * (time.perf_counter() - start) / n))
    critics = {
        name: critic
        for name, folder, (recipe, _) in zip(names, folders, opened, strict=True)
        if (folder / "state").is_dir() and (critic := recipe.trained_critic(folder)) is not None
    }
    kept = min(len(real.test), len(real.train) // 5, n // 3)
    seen = min((len(real.train) - kept) // 2, n - kept)
    shuffled = real.train[torch.randperm(len(real.train), generator=generator(seed))]
    fresh = partial(judge, (shuffled[:seen], real.test[:kept]), steps=judge_steps, seed=seed)  # the same for everybody
    advance = track("judging", len(names) + 1)
    floor = measured(real, shuffled[:n], found, seed) | {"copies": _no_copies(real)}
    judged_floor = fresh((shuffled[seen : 2 * seen], shuffled[2 * seen : 2 * seen + kept]))
    advance(1)
    contestants = []
    everything = zip(names, folders, opened, drawn, likelihoods, strict=True)
    for name, folder, (recipe, model), (made, milliseconds), likely in everything:
        contestants.append(
            Contestant(
                name=name,
                recipe=recipe,
                samples=made[:SHOWN],
                between=_between(recipe, model, seed),
                metrics=measured(real, made, found, seed),
                likelihoods=likely,
                cost=_cost(folder, recipe, model, milliseconds, n),
                judgement=fresh((made[:seen], made[seen : seen + kept])),
                fooled_critics={owner: fools(critic, real.test, made) for owner, critic in critics.items()},
            )
        )
        advance(1)
    return Comparison(real, found.name, n, seed, floor, judged_floor, contestants)


def measured(real: Real, samples: Tensor, features: Features, seed: int) -> dict[str, Value]:
    """Every metric that suits the data, of samples against data never trained on."""
    x, y = features(real.test), features(samples)
    near, told = prdc(x, y), c2st(x, y, generator(seed))
    distance, kernel = frechet_distance(x, y), kernel_distance(x, y)
    extrapolated = extrapolated_frechet_distance(x, y, generator=generator(seed))
    found = {
        "frechet": Value(distance.value, distance.stderr),
        "frechet_extrapolated": Value(extrapolated.value, extrapolated.stderr),
        "kernel": Value(kernel.value, kernel.stderr),
        "precision": _share(near.precision_interval),
        "recall": _share(near.recall_interval),
        "density": Value(near.density, near.density_stderr),
        "coverage": _share(near.coverage_interval),
        "c2st": _share(told.interval),
    }
    if features.read is not None and real.labels is not None:
        weights, read = real.labels[0].bincount().double(), features.read(samples)
        share = read.bincount(minlength=len(weights)).double() / len(read)
        gain = (share / weights * weights.sum())[read].log()
        reverse = class_coverage(read, len(weights), weights).reverse_kl
        found["classes"] = Value(reverse, float(gain.std()) / len(read) ** 0.5)
    copies = memorisation(samples, real.train, real.test)
    found["copies"] = Value(copies.nearer, copies.stderr)
    if samples.ndim == 4:
        sharp = sharpness(real.test, samples)
        found["sharpness"] = Value(sharp.value, sharp.stderr)
    return found


def _no_copies(real: Real) -> Value:
    """Training data would be copies of themselves: one half of the test data against the other."""
    half = len(real.test) // 2
    found = memorisation(real.test[:half], real.train, real.test[half:])
    return Value(found.nearer, found.stderr)


def fools(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Proportion:
    """Share of fake rows that a critic finds more real than the median of real ones: 1/2 of real rows themselves."""
    scores = critic(fake)
    return wilson(int((scores > critic(real).median()).sum()), len(scores))


def line(comparison: Comparison, contestant: Contestant) -> str:
    """What a contestant is best and worst at, beyond the errors of the numbers."""
    best, worst = [], []
    for name, losses, said in _axes(comparison):
        mine, error = losses[contestant.name]
        others = [v for key, v in losses.items() if key != contestant.name]
        if all(mine + 2 * (error**2 + e**2) ** 0.5 < v for v, e in others):
            best.append(f"{name} ({said[contestant.name]})")
        if all(mine - 2 * (error**2 + e**2) ** 0.5 > v for v, e in others):
            worst.append(f"{name} ({said[contestant.name]})")
    parts = [f"{word}: {', '.join(names)}" for word, names in (("Best at", best), ("Worst at", worst)) if names]
    return ". ".join(parts) + "." if parts else "Apart from the others in nothing beyond the errors."


def _axes(comparison: Comparison) -> list[tuple[str, dict[str, tuple[float, float]], dict[str, str]]]:
    """Name, how much is lost with its error, and the number in words, of each contestant."""
    runs = comparison.contestants
    axes = []
    for key in ("frechet", "precision", "coverage", "copies", "sharpness"):
        if key in comparison.floor:
            metric, values = METRICS[key], {c.name: c.metrics[key] for c in runs}
            losses = {name: (metric.loss(v.value), v.stderr) for name, v in values.items()}
            axes.append((metric.name, losses, {name: f"{v.value:.3g}" for name, v in values.items()}))
    fooled = {c.name: c.judgement.fooled for c in runs}
    losses = {name: (-p.value, _share(p).stderr) for name, p in fooled.items()}
    axes.append(("fooling a fresh judge", losses, {name: f"{100 * p.value:.0f}%" for name, p in fooled.items()}))
    speeds = {c.name: c.cost.milliseconds for c in runs}
    # clocks vary: twice as fast counts
    speed = {name: (2 * torch.tensor(v).log().item(), torch.tensor(2.0).log().item()) for name, v in speeds.items()}
    axes.append(("time to draw", speed, {name: f"{v:.2g} ms a sample" for name, v in speeds.items()}))
    return axes


def _share(found: Proportion) -> Value:
    """A share whose error is that of its interval, so that 0 and 1 have one too."""
    return Value(found.value, (found.high - found.low) / (2 * NORMAL))


def _names(folders: Sequence[Path]) -> list[str]:
    if len(folders) < 2:
        raise ValueError(f"there must be at least two runs to compare, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run cannot be compared with itself: each must be given once")
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _of(real: Real) -> str:
    return f"one draws {real.name} of shape {tuple(real.test.shape[1:])}"


def _likelihoods(recipe: Recipe, folder: Path) -> list[Likely]:
    """From the run's evaluation, if there is one."""
    path = folder / EVALUATION
    if not path.is_file():
        return []
    try:
        return recipe.likelihoods(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is broken or of another version: jensen evaluate {folder} writes it anew") from error


def _cost(folder: Path, recipe: Recipe, model: nn.Module, milliseconds: float, n: int) -> Cost:
    lines = [line for line in read_journal(folder / "journal.jsonl") if "seconds" in line and "step" in line]
    return Cost(
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else None,
        parameters=sum(p.numel() for p in model.parameters()),
        milliseconds=milliseconds,
        evaluations=_evaluations(recipe, model),
        drawn=n,
    )


def _evaluations(recipe: Recipe, model: nn.Module) -> int:
    """Calls of the layer that is called most often, as one sample is drawn."""
    calls: dict[int, int] = {}

    def count(module: nn.Module, *_: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1

    leaves = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        recipe.drawing(model, Request(n=1)).draw(lambda _: None)
    finally:
        for hook in hooks:
            hook.remove()
    return max(calls.values(), default=0)


def _between(recipe: Recipe, model: nn.Module, seed: int) -> Tensor | None:
    """Rows of samples from one noise to another, where the model has them."""
    if recipe.what == "points":
        return None
    try:
        drawing = recipe.drawing(model, Request(n=ROWS, seed=seed, between=BETWEEN))
    except ValueError:
        return None
    return drawing.draw(lambda _: None).cpu()

"""Runs of any family side by side: metrics with errors and floors, likelihoods, costs, a judge, a line of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jensen.core.seeding import checked_seed, generator
from jensen.metrics import AUC, auc, bits_per_dim
from jensen.recipes.base import Critic, Likely, Real, Recipe, Request, Track, silent
from jensen.recipes.features import Features, features_of
from jensen.recipes.folder import RunError, command
from jensen.recipes.fresh_judge import Judgement, judge
from jensen.recipes.running import EVALUATION, open_run
from jensen.recipes.sample_metrics import METRICS, Value, area_of, measured, no_copies
from jensen.training.journal import read_journal
from jensen.training.strict_json import loads

MOST, LEAST = 1000, 40  # samples of each contestant
SHOWN, BETWEEN, ROWS = 32, 9, 4  # samples of a sheet; pictures of a row from one to another, and rows


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
    critics: Mapping[str, AUC]


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
                    "critics": {name: asdict(v) for name, v in c.critics.items()},
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
        ValueError: for fewer than two runs, one given twice, data that cannot be compared, or n or a seed out of range.
    """
    checked_seed(seed)
    entries = _entered(folders)
    real = _shared(entries)
    n = min(MOST, len(real.train)) if n is None else n
    if not LEAST <= n <= len(real.train):
        raise ValueError(
            f"n must be from {LEAST} to the {len(real.train)} training data, with which the floor is drawn, got {n}"
        )
    found = Features("features of the user's own", features) if callable(features) else features_of(features, real)
    critics = {e.name: critic for e in entries if (critic := e.critic()) is not None}
    costs, drawn = [], []
    for e in entries:
        evaluations = _evaluations(e)  # which also warms it up
        made, seconds = _drawn(e, n, seed, track)
        costs.append(_cost(e, 1000 * seconds / n, evaluations, n))
        drawn.append(real.settled(made))
    kept = min(len(real.test), len(real.train) // 5, n // 3)
    seen = min((len(real.train) - kept) // 2, n - kept)
    shuffled = real.train[torch.randperm(len(real.train), generator=generator(seed))]
    fresh = partial(judge, (shuffled[:seen], real.test[:kept]), steps=judge_steps, seed=seed)  # the same for everybody
    advance = track("judging", len(entries) + 1)
    floor = measured(real, shuffled[:n], found, seed) | {"copies": no_copies(real)}
    judged_floor = fresh((shuffled[seen : 2 * seen], shuffled[2 * seen : 2 * seen + kept]))
    advance(1)
    contestants = []
    for e, made, cost in zip(entries, drawn, costs, strict=True):
        contestants.append(
            Contestant(
                name=e.name,
                recipe=e.recipe,
                samples=made[:SHOWN],
                between=_between(e, seed),
                metrics=measured(real, made, found, seed),
                likelihoods=e.likelihoods,
                cost=cost,
                judgement=fresh((made[:seen], made[seen : seen + kept])),
                critics={owner: auc(critic(made), critic(real.test)) for owner, critic in critics.items()},
            )
        )
        advance(1)
    return Comparison(real, found.name, n, seed, floor, judged_floor, contestants)


@dataclass(frozen=True)
class _Entry:
    """A run that takes part."""

    name: str
    folder: Path
    recipe: Recipe
    model: nn.Module
    likelihoods: Sequence[Likely]

    def critic(self) -> Critic | None:
        """The one it trained against, if that was kept."""
        return self.recipe.trained_critic(self.folder) if (self.folder / "state").is_dir() else None


def _entered(folders: Sequence[Path]) -> list[_Entry]:
    if len(folders) < 2:
        raise ValueError(f"there must be at least two runs to compare, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run cannot be compared with itself: each must be given once")
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    entries = []
    for name, folder in zip(names, folders, strict=True):
        recipe, model = open_run(folder)
        entries.append(_Entry(name, folder, recipe, model, _likelihoods(recipe, folder)))
    return entries


def _shared(entries: Sequence[_Entry]) -> Real:
    """The first run's data, if all others draw the same."""
    real = entries[0].recipe.real()
    for e in entries[1:]:
        other = e.recipe.real()
        if other.test.shape[1:] != real.test.shape[1:] or other.name != real.name:
            said = f"{_of(entries[0], real)}, and {_of(e, other)}"
            raise ValueError(f"{entries[0].name} and {e.name} cannot be compared: {said}")
    return real


def _drawn(e: _Entry, n: int, seed: int, track: Track) -> tuple[Tensor, float]:
    """Samples, and the seconds they took."""
    advance, start = track(f"drawing from {e.name}", n), time.perf_counter()
    made = e.recipe.drawing(e.model, Request(n=n, seed=seed)).draw(advance).cpu()
    seconds = time.perf_counter() - start
    if not bool(made.isfinite().all()):
        raise ValueError(f"{e.name} draws numbers that are not finite: it cannot be compared")
    return made, seconds


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
            said = "neither copying nor straying" if key == "copies" else metric.name
            axes.append((said, losses, {name: f"{v.value:.3g}" for name, v in values.items()}))
    told = {c.name: area_of(c.judgement.auc) for c in runs}
    losses = {name: (v.value, v.stderr) for name, v in told.items()}
    axes.append(("fooling a fresh judge", losses, {name: f"AUC {v.value:.2f}" for name, v in told.items()}))
    speeds = {c.name: c.cost.milliseconds for c in runs}
    # clocks vary: twice as fast counts
    speed = {name: (2 * torch.tensor(v).log().item(), torch.tensor(2.0).log().item()) for name, v in speeds.items()}
    axes.append(("time to draw", speed, {name: f"{v:.2g} ms a sample" for name, v in speeds.items()}))
    return axes


def _of(entry: _Entry, real: Real) -> str:
    return f"{entry.name} draws {real.name} of shape {tuple(real.test.shape[1:])}"


def _likelihoods(recipe: Recipe, folder: Path) -> list[Likely]:
    """From the run's evaluation, if there is one."""
    path = folder / EVALUATION
    if not path.is_file():
        return []
    try:
        return recipe.likelihoods(loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is broken or of another version: {command('evaluate', folder)} writes it anew"
        ) from error


def _cost(e: _Entry, milliseconds: float, evaluations: int, drawn: int) -> Cost:
    lines = [line for line in read_journal(e.folder / "journal.jsonl") if "seconds" in line and "step" in line]
    return Cost(
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else None,
        parameters=sum(p.numel() for p in e.model.parameters()),
        milliseconds=milliseconds,
        evaluations=evaluations,
        drawn=drawn,
    )


def _evaluations(e: _Entry) -> int:
    """Calls of the layer that is called most often, as one sample is drawn."""
    calls: Counter[int] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        calls[id(module)] += 1

    leaves = [m for m in e.model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        e.recipe.drawing(e.model, Request(n=1)).draw(lambda _: None)
    finally:
        for hook in hooks:
            hook.remove()
    return max(calls.values(), default=0)


def _between(e: _Entry, seed: int) -> Tensor | None:
    """Rows of samples from one noise to another, where the model has them."""
    if e.recipe.what == "points":
        return None
    try:
        drawing = e.recipe.drawing(e.model, Request(n=ROWS, seed=seed, between=BETWEEN))
    except ValueError:
        return None
    return drawing.draw(lambda _: None).cpu()

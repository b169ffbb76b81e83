"""Comparison of runs of any family: metrics with errors and floors, likelihoods, costs, discriminators."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from jensen.adversarial import critic_logits
from jensen.core.naming import path_of
from jensen.core.progress import Track, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import checked_seed, derived, generator
from jensen.core.shapes import check_count
from jensen.data.dataset import Data, in_memory, some
from jensen.data.pool import Examples
from jensen.data.space import Classes
from jensen.judging.samples import LEAST as MEASURED
from jensen.judging.samples import class_shares, measured, nearness
from jensen.metrics import (
    AUC,
    Discrimination,
    Proportion,
    auc,
    bits_per_dim,
    discriminate,
    evaluations,
    nearest_distance,
)
from jensen.report.findings import Finding, proportion
from jensen.runs.draw import drawing
from jensen.runs.evaluate import case_of, read_evaluation
from jensen.runs.measure import rows
from jensen.runs.opening import Run, features_by, open_run
from jensen.training.journal import read_journal

MOST, LEAST = 1000, 40  # samples of each run: default, and smallest number
TRAINING, HELD_OUT = 50_000, 10_000  # largest numbers of examples that are used
SHOWN, BETWEEN, ROWS = 32, 9, 4  # samples of a sheet; length and number of interpolations
SUMMED_UP = ("frechet", "precision", "coverage", "copies", "sharpness")


@runtime_checkable
class Critical(Protocol):
    """A game with one critic, whose inputs are made from examples by `packs`."""

    critic: nn.Module

    def packs(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Cost:
    """The costs of training and sampling.

    Attributes:
        seconds, steps: length of training, None without a journal.
        parameters: number of parameters of the model that is sampled.
        milliseconds: time per sample if `drawn` samples are drawn together.
        evaluations: number of network evaluations per sample.
    """

    seconds: float | None
    steps: int | None
    parameters: int
    milliseconds: float
    evaluations: int
    drawn: int


@dataclass(frozen=True)
class Contestant:
    """A run, or samples of another model, with all results; `cost` is None for samples."""

    name: str
    recipe: str
    samples: Tensor
    between: Tensor | None
    metrics: Mapping[str, Finding]
    likelihoods: Sequence[Finding]
    cost: Cost | None
    judgement: Discrimination
    critics: Mapping[str, AUC]


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        data: the data that all of them were trained on.
        features: features for comparing samples with data.
        n: number of samples of each run.
        seed: random seed of the samples.
        floor: the same metrics for training data instead of the samples.
        judged_floor: the discriminator with training data instead of samples.
        contestants: the runs, then the samples, in the order given.
    """

    data: Data
    features: str
    n: int
    seed: int
    floor: Mapping[str, Finding]
    judged_floor: Discrimination
    contestants: Sequence[Contestant]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""

        def numbers(found: Mapping[str, Finding]) -> dict[str, Any]:
            return {key: {"value": f.value, "stderr": f.spread} for key, f in found.items()}

        return {
            "data": self.data.name,
            "fingerprint": self.data.fingerprint,
            "features": self.features,
            "n": self.n,
            "seed": self.seed,
            "floor": numbers(self.floor),
            "judge_floor": asdict(self.judged_floor),
            "runs": [
                {
                    "name": c.name,
                    "recipe": c.recipe,
                    "metrics": numbers(c.metrics),
                    "likelihoods": [
                        {"name": f.name, "mean": f.value, "stderr": f.stderr, **f.facts, "bits_per_dim": bits(f)}
                        for f in c.likelihoods
                    ],
                    "cost": None if c.cost is None else asdict(c.cost),
                    "judge": asdict(c.judgement),
                    "critics": {name: asdict(v) for name, v in c.critics.items()},
                    "line": line(self, c),
                }
                for c in self.contestants
            ],
        }


def compare(
    contestants: Sequence[Run | Path | str | Mapping[str, Tensor | np.ndarray]],
    *,
    data: Data | None = None,
    features: str | Callable[[Tensor], Tensor] = "auto",
    n: int | None = None,
    seed: int = 0,
    judge_steps: int = 500,
    track: Track = silent,
) -> Comparison:
    """Compare runs on the same data, by samples, and by likelihood if their evaluations have one.

    Args:
        contestants: runs, their folders, and samples by name; at least two in all.
        data: the data, if there is no run among the contestants.
        features: "auto", "classifier", "convolutional", "raw", the folder of a reader run, or a callable from data to
            (N, d).
        n: number of samples of each run, at least 40; None: the number of training data, at most 1,000.
        seed: random seed of the samples.
        judge_steps: training steps of each discriminator.
        track: shows progress.

    Raises:
        ValueError: for fewer than two contestants, a run given twice, runs on different data, runs that cannot be
        sampled, samples of another shape, or n or a seed out of range.
    """
    checked_seed(seed)
    check_count(judge_steps=judge_steps)
    if not (n is None or isinstance(n, Integral)):
        raise ValueError(f"n must be a whole number, got {n!r}")
    runs, given = _opened(contestants)
    likelihoods = {name: _likelihoods(run.folder) for name, run in runs.items()}
    own = _shared(runs, data, track)
    data = next(iter(own.values())) if data is None else data
    train, test = in_memory(data.train, TRAINING), some(data.test, HELD_OUT)["x"]
    own = {**own, **dict.fromkeys(given, data)}
    samples = {name: data.space.settled(rows(data.space, x)) for name, x in given.items()}
    most = min([len(train), *map(len, samples.values())])
    n = min(MOST, most) if n is None else n
    if not LEAST <= n <= most:
        of = "samples or of training examples" if samples else "training examples"
        raise ValueError(f"n must be from {LEAST} to {most}, the number of {of}, got {n}")
    found = features_by(features, data)
    if len(test) < MEASURED:
        raise ValueError(f"runs must have at least {MEASURED} held-out examples, got {len(test)}: set data.test higher")
    critics = {name: critic for name, run in runs.items() if (critic := _critic(run, data)) is not None}
    drawn: dict[str, tuple[Tensor, Cost | None]] = {name: (x[:n], None) for name, x in samples.items()}
    drawn |= {name: _drawn(name, run, data, n, seed, track) for name, run in runs.items()}
    kept = min(len(test), len(train) // 5, n // 3)
    seen = min((len(train) - kept) // 2, n - kept)
    order = torch.randperm(len(train), generator=generator(derived(seed, "order of training data")))
    x = train[order[: 2 * n]]["x"]
    space = data.space

    def fresh(made: Tensor, others: Tensor) -> Discrimination:
        """A discriminator trained on data and `made`, tested on held-out data and `others`."""
        real, fake = (tuple(map(space.comparable, pair)) for pair in ((x[:seen], test[:kept]), (made, others)))
        return discriminate(real, fake, steps=judge_steps, seed=derived(seed, "judge"))  # type: ignore[arg-type]

    shares = class_shares(train.tensors["cond"], data.space.cond.size) if isinstance(data.space.cond, Classes) else None

    def metrics(made: Tensor, copies: Finding) -> dict[str, Finding]:
        return {f.key: f for f in (*measured(test, made, found, space, seed, shares), copies)}

    advance = track("judging", len(drawn) + 1)
    floor = metrics(x[:n], Finding("copies", "", 0.5, 0.0, best=0.5))
    judged_floor = fresh(x[seen : 2 * seen], x[2 * seen : 2 * seen + kept])
    advance(1)
    found_of = []
    for name in own:
        (made, cost), run = drawn[name], runs.get(name)
        theirs = in_memory(own[name].train, TRAINING)  # a run of another seed may have other training data
        known = Examples(theirs, space.comparable)
        near = (nearest_distance(space.comparable(v[:MOST]), known)[0] for v in (made, test))
        found_of.append(
            Contestant(
                name=name,
                recipe="samples" if run is None else run.recipe.name,
                samples=made[:SHOWN],
                between=None if run is None else _between(run, seed),
                metrics=metrics(made, nearness(*near)),
                likelihoods=likelihoods.get(name, []),
                cost=cost,
                judgement=fresh(made[:seen], made[seen : seen + kept]),
                critics={owner: auc(critic(made), critic(test)) for owner, critic in critics.items()},
            )
        )
        advance(1)
    return Comparison(data, found.name, n, seed, floor, judged_floor, found_of)


def _opened(
    contestants: Sequence[Run | Path | str | Mapping[str, Tensor | np.ndarray]],
) -> tuple[dict[str, Run], dict[str, Tensor | np.ndarray]]:
    """Runs by name, which is that of the folder, or its whole path if two folders have the same name; and samples."""
    for c in contestants:
        if not isinstance(c, Run | Path | str | Mapping):
            raise ValueError(
                f'contestants must be runs, folders, or samples by name, as in {{"mine": x}}, got {type(c).__name__}'
            )
    given = [
        c if isinstance(c, Run) else path_of(c, "a run's folder") for c in contestants if not isinstance(c, Mapping)
    ]
    samples = {name: x for c in contestants if isinstance(c, Mapping) for name, x in c.items()}
    if len(given) + len(samples) < 2:
        raise ValueError(f"a comparison must be of at least two runs, got {len(given) + len(samples)}")
    folders = [c.folder if isinstance(c, Run) else c for c in given]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run cannot be compared with itself: each must be given once")
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    if twice := sorted(set(names) & set(samples)):
        raise ValueError(f"samples must not have the name of a run, got {twice[0]!r}")
    runs = {name: c if isinstance(c, Run) else open_run(c) for name, c in zip(names, given, strict=True)}
    for name, run in runs.items():
        if not isinstance(run.model, Sampleable) or run.space.b is not None:
            raise ValueError(f"{name} cannot be compared: a run of {run.recipe.name} cannot draw samples of its data")
    return runs, samples


def _likelihoods(folder: Path) -> list[Finding]:
    """Likelihoods from a run's evaluation, if it has been evaluated."""
    found = read_evaluation(folder)
    return [] if found is None else [f for f in found.values() if "measure" in f.facts]


def _shared(runs: Mapping[str, Run], given: Data | None, track: Track) -> dict[str, Data]:
    """The data of each run, if all runs have the same data; opened once if settings and seeds are equal."""
    if not runs:
        if given is None:
            raise ValueError("samples must be compared with data, as in compare({...}, data=x)")
        return {}
    (first, run), *others = runs.items()
    found = {first: run.open_data(track)}
    if given is not None and given.fingerprint != found[first].fingerprint:
        raise ValueError(f"data must be those of {first}, got others: leave data out")
    for name, other in others:
        if (other.recipe.data, other.recipe.seed) == (run.recipe.data, run.recipe.seed):
            found[name] = found[first]
            continue
        found[name] = other.open_data(track)
        data, theirs = found[first], found[name]
        if theirs.fingerprint != data.fingerprint:
            said = (f"{k} was trained on {d.name}, shape {d.space.shape}" for k, d in ((first, data), (name, theirs)))
            differing = " of other settings" * (data.name == theirs.name and data.space.shape == theirs.space.shape)
            raise ValueError(f"{first} and {name} cannot be compared: {', and '.join(said)}{differing}")
    return found


def _critic(run: Run, data: Data) -> Callable[[Tensor], Tensor] | None:
    """The critic that a run's generator was trained against, or None if there is none or it was not saved."""
    game = case_of(run, data).game
    if game is None or not isinstance(game.objective, Critical):
        return None
    objective = game.objective.requires_grad_(False).cpu()
    return lambda x: critic_logits(objective.critic, objective.packs(x))


def _drawn(name: str, run: Run, data: Data, n: int, seed: int, track: Track) -> tuple[Tensor, Cost]:
    """Samples as `jensen sample` draws them, given held-out conditions if the model is conditional; and their cost."""
    cond = data.asked(n) if run.recipe.family.conditional(run.space) else None
    one = None if cond is None else cond[:1]
    calls = evaluations(run.model, lambda: run.draw(1, cond=one))  # which also warms it up
    advance, start = track(f"drawing from {name}", n), time.perf_counter()
    made = run.draw(n, cond=cond, seed=seed, advance=advance)
    seconds = time.perf_counter() - start
    if not bool(made.isfinite().all()):
        raise ValueError(f"{name} cannot be compared: its samples are not finite")
    lines = read_journal(run.folder / "journal.jsonl")
    last = lines[-1] if lines else {"seconds": None, "step": None}
    parameters = sum(p.numel() for p in run.model.parameters())
    cost = Cost(last["seconds"], last["step"], parameters, 1000 * seconds / n, calls, drawn=n)
    return data.space.settled(made), cost


def _between(run: Run, seed: int) -> Tensor | None:
    """Interpolations between two draws of noise, if the run is a model of pictures that can interpolate."""
    if not run.space.pictures:
        return None
    try:
        return drawing(run, ROWS, seed=seed, interpolate=BETWEEN).samples().x
    except ValueError:
        return None


def bits(found: Finding) -> float:
    """Bits per dimension from a likelihood in nats."""
    return float(bits_per_dim(torch.tensor(found.value, dtype=torch.float64), found.facts["dims"]))


def judged(found: AUC | Proportion) -> Finding:
    """The result of a discriminator as a finding: 1/2 if it cannot distinguish samples from data."""
    return proportion("judged", "AUC", found, best=0.5, form="number")


def line(comparison: Comparison, contestant: Contestant) -> str:
    """A sentence on the measures in which a run is best and worst, by more than two standard errors of the
    difference.
    """
    best, worst = [], []
    for name, runs in _axes(comparison):
        mine, error, said = runs[contestant.name]
        others = [(v - mine, 2 * math.hypot(error, e)) for run, (v, e, _) in runs.items() if run != contestant.name]
        if all(gap > reach for gap, reach in others):
            best.append(f"{name} ({said})")
        if all(-gap > reach for gap, reach in others):
            worst.append(f"{name} ({said})")
    parts = [f"{word}: {', '.join(names)}" for word, names in (("Best at", best), ("Worst at", worst)) if names]
    return ". ".join(parts) + "." if parts else "No significant difference from the other runs."


def _axes(comparison: Comparison) -> Iterator[tuple[str, dict[str, tuple[float, float, str]]]]:
    """Names of measures, and for each run a loss, its error, and the number as text."""
    runs = comparison.contestants
    for key in (key for key in SUMMED_UP if key in comparison.floor):
        name = "nearness to training data" if key == "copies" else comparison.floor[key].name
        found = {c.name: c.metrics[key] for c in runs}
        yield name, {run: (f.loss(), f.spread, f.said(f.value)) for run, f in found.items()}
    aucs = {c.name: judged(c.judgement.auc) for c in runs}
    yield "fooling the discriminator", {run: (f.value, f.spread, f"AUC {f.value:.2f}") for run, f in aucs.items()}
    speeds = {c.name: c.cost.milliseconds for c in runs if c.cost is not None}  # only a factor of 4 counts
    if len(speeds) == len(runs):
        yield "sampling time", {r: (2 * math.log(v), math.log(2), f"{v:.2g} ms per sample") for r, v in speeds.items()}

"""Comparison of runs of any family: metrics with errors and floors, likelihoods, costs, discriminators."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from jensen.core.progress import Track, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import checked_seed, derived, generator
from jensen.data.dataset import Data, some
from jensen.data.space import Classes
from jensen.judging.critics import logits
from jensen.judging.features import features_of
from jensen.judging.fresh import Judgement, discriminate
from jensen.judging.samples import class_shares, measured, nearness
from jensen.metrics import AUC, auc, bits_per_dim, nearest_distance
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, Table, proportion
from jensen.report.gallery import fitting_scale, gallery
from jensen.report.page import write_page
from jensen.runs.evaluate import case_of, read_evaluation
from jensen.runs.opening import Run, open_run
from jensen.training.journal import read_journal

MOST, LEAST, HELD_OUT = 1000, 40, 10_000  # default number of samples of each run; largest number of held-out examples
SHOWN, COLUMNS, BETWEEN, ROWS = 32, 8, 9, 4  # samples and columns of a sheet; length and number of interpolations
DRAWN = ("frechet", "kernel", "precision", "coverage", "density", "c2st", "sharpness", "copies")
SUMMED_UP = ("frechet", "precision", "coverage", "copies", "sharpness")

Critic = Callable[[Tensor], Tensor]


@runtime_checkable
class Critical(Protocol):
    """A game with one critic whose inputs are packs of examples."""

    critic: nn.Module
    packing: int


@dataclass(frozen=True)
class Cost:
    """The costs of training and sampling.

    Attributes:
        seconds, steps: length of training, None without a journal.
        parameters: number of parameters of the model that is sampled.
        milliseconds: time per sample when `drawn` are drawn together.
        evaluations: network evaluations per sample.
    """

    seconds: float | None
    steps: int | None
    parameters: int
    milliseconds: float
    evaluations: int
    drawn: int


@dataclass(frozen=True)
class Contestant:
    """A run and all its results."""

    name: str
    recipe: str
    samples: Tensor
    between: Tensor | None
    metrics: Mapping[str, Finding]
    likelihoods: Sequence[Finding]
    cost: Cost
    judgement: Judgement
    critics: Mapping[str, AUC]


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        data: the data that all of them were trained on.
        features: features by which samples and data are compared.
        n: number of samples of each run.
        seed: random seed of the samples.
        floor: the same metrics for training data in place of the samples.
        judged_floor: the discriminator trained on training data in place of samples.
        contestants: the runs in the order given.
    """

    data: Data
    features: str
    n: int
    seed: int
    floor: Mapping[str, Finding]
    judged_floor: Judgement
    contestants: Sequence[Contestant]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "data": self.data.name,
            "fingerprint": self.data.fingerprint,
            "features": self.features,
            "n": self.n,
            "seed": self.seed,
            "floor": {key: _number(f) for key, f in self.floor.items()},
            "judge_floor": asdict(self.judged_floor),
            "runs": [
                {
                    "name": c.name,
                    "recipe": c.recipe,
                    "metrics": {key: _number(f) for key, f in c.metrics.items()},
                    "likelihoods": [
                        {"name": f.name, "mean": f.value, "stderr": f.stderr, **f.facts, "bits_per_dim": bits(f)}
                        for f in c.likelihoods
                    ],
                    "cost": asdict(c.cost),
                    "judge": asdict(c.judgement),
                    "critics": {name: asdict(v) for name, v in c.critics.items()},
                    "line": line(self, c),
                }
                for c in self.contestants
            ],
        }


def compare(
    folders: Sequence[Path],
    *,
    features: str | Callable[[Tensor], Tensor] = "auto",
    n: int | None = None,
    seed: int = 0,
    judge_steps: int = 500,
    track: Track = silent,
) -> Comparison:
    """Compare runs on the same data, by samples, and by likelihood if their evaluations have one.

    Args:
        folders: folders of two runs or more.
        features: "auto", "classifier", "convolutional", "raw", or a callable from data to (N, d).
        n: number of samples of each run, at least 40; None: as many as there are training data, at most 1,000.
        seed: random seed of the samples.
        judge_steps: training steps of each discriminator.
        track: shows progress.

    Raises:
        ValueError: for fewer than two runs, a run given twice, runs on different data, runs that cannot be sampled, or
        n or a seed out of range.
    """
    checked_seed(seed)
    runs = _opened(folders)
    likelihoods = {name: _evaluated(run.folder) for name, run in runs.items()}
    own = _shared(runs, track)
    data = next(iter(own.values()))
    train, test = some(data.train, 50_000), some(data.test, HELD_OUT)["x"]
    n = min(MOST, len(train["x"])) if n is None else n
    if not LEAST <= n <= len(train["x"]):
        raise ValueError(f"n must be from {LEAST} to {len(train['x'])}, the number of training examples, got {n}")
    found = features_of(features, data)
    critics = {name: critic for name, run in runs.items() if (critic := _critic(run, data)) is not None}
    costs, drawn = {}, {}
    for name, run in runs.items():
        drawn[name], costs[name] = _drawn(name, run, data, n, seed, track)
    kept = min(len(test), len(train["x"]) // 5, n // 3)
    seen = min((len(train["x"]) - kept) // 2, n - kept)
    order = torch.randperm(len(train["x"]), generator=generator(derived(seed, "order of training data")))
    x = train["x"][order]
    fresh = partial(discriminate, (x[:seen], test[:kept]), steps=judge_steps, seed=derived(seed, "judge"))
    shares = class_shares(train["cond"], data.space.cond.size) if isinstance(data.space.cond, Classes) else None

    def copies(made: Tensor, data: Data) -> Finding:  # from the run's own training data, which may be of another seed
        seen = some(data.train, 50_000)["x"]
        return nearness(*(nearest_distance(v[:MOST], seen)[0] for v in (made, test)))

    def metrics(samples: Tensor) -> dict[str, Finding]:
        return {f.key: f for f in measured(test, samples, found, seed, shares)}

    advance = track("judging", len(runs) + 1)
    floor = metrics(x[:n]) | {"copies": Finding("copies", "", 0.5, 0.0, best=0.5)}
    judged_floor = fresh((x[seen : 2 * seen], x[2 * seen : 2 * seen + kept]))
    advance(1)
    contestants = []
    for name, run in runs.items():
        made = drawn[name]
        contestants.append(
            Contestant(
                name=name,
                recipe=run.recipe.name,
                samples=made[:SHOWN],
                between=_between(run, seed),
                metrics=metrics(made) | {"copies": copies(made, own[name])},
                likelihoods=likelihoods[name],
                cost=costs[name],
                judgement=fresh((made[:seen], made[seen : seen + kept])),
                critics={owner: auc(critic(made), critic(test)) for owner, critic in critics.items()},
            )
        )
        advance(1)
    return Comparison(data, found.name, n, seed, floor, judged_floor, contestants)


def _opened(folders: Sequence[Path]) -> dict[str, Run]:
    """Runs by name: the name of the folder, or its whole path if two folders have the same name."""
    if len(folders) < 2:
        raise ValueError(f"folders must be at least two runs, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run cannot be compared with itself: each must be given once")
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    runs = {name: open_run(folder) for name, folder in zip(names, folders, strict=True)}
    for name, run in runs.items():
        if not isinstance(run.model, Sampleable) or run.space.b is not None:
            raise ValueError(f"{name} cannot be compared: a run of {run.recipe.name} cannot draw samples of its data")
    return runs


def _evaluated(folder: Path) -> list[Finding]:
    """Likelihoods from a run's evaluation, if it has been evaluated."""
    found = read_evaluation(folder)
    return [] if found is None else [f for f in found.values() if "measure" in f.facts]


def _shared(runs: Mapping[str, Run], track: Track) -> dict[str, Data]:
    """The data of each run, if all runs have the same data; opened once if settings and seeds are equal."""
    (first, run), *others = runs.items()
    found = {first: run.open_data(track)}
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


def _critic(run: Run, data: Data) -> Critic | None:
    """The critic that a run's generator was trained against, or None if there is none or it was not saved."""
    game = case_of(run, data).game
    if game is None or not isinstance(game.objective, Critical):
        return None
    critic, packing = game.objective.critic.requires_grad_(False).cpu(), game.objective.packing
    return lambda x: logits(critic, x, packing)


def _drawn(name: str, run: Run, data: Data, n: int, seed: int, track: Track) -> tuple[Tensor, Cost]:
    """Samples as `jensen sample` draws them, given held-out conditions if the model is conditional; and their cost."""
    cond = data.asked(n) if run.recipe.family.conditional(run.space) else None
    evaluations = _evaluations(run, None if cond is None else cond[:1])  # which also warms it up
    advance, start = track(f"drawing from {name}", n), time.perf_counter()
    made = run.draw(n, cond=cond, seed=seed, advance=advance)
    seconds = time.perf_counter() - start
    if not bool(made.isfinite().all()):
        raise ValueError(f"{name} cannot be compared: its samples are not finite")
    lines = [line for line in read_journal(run.folder / "journal.jsonl") if "seconds" in line and "step" in line]
    return data.space.settled(made), Cost(
        seconds=lines[-1]["seconds"] if lines else None,
        steps=lines[-1]["step"] if lines else None,
        parameters=sum(p.numel() for p in run.model.parameters()),
        milliseconds=1000 * seconds / n,
        evaluations=evaluations,
        drawn=n,
    )


def _evaluations(run: Run, cond: Tensor | None) -> int:
    """Network evaluations for one sample: calls of the layer that is called most often."""
    calls: Counter[int] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        calls[id(module)] += 1

    leaves = [m for m in run.model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        run.draw(1, cond=cond)
    finally:
        for hook in hooks:
            hook.remove()
    return max(calls.values(), default=0)


def _between(run: Run, seed: int) -> Tensor | None:
    """Interpolations between two draws of noise, if a model of pictures has them."""
    if not run.space.pictures:
        return None
    try:
        return run.sample(ROWS, seed=seed, interpolate=BETWEEN).x
    except ValueError:
        return None


# in words -------------------------------------------------------------------------------------------------------------


def bits(found: Finding) -> float:
    """Bits per dimension from a likelihood in nats."""
    return float(bits_per_dim(torch.tensor(found.value, dtype=torch.float64), found.facts["dims"]))


def line(comparison: Comparison, contestant: Contestant) -> str:
    """The measures in which a run is best and worst, by more than two standard errors of the difference."""
    best, worst = [], []
    for name, losses, said in _axes(comparison):
        mine, error = losses[contestant.name]
        others = [v for key, v in losses.items() if key != contestant.name]
        if all(mine + 2 * math.hypot(error, e) < v for v, e in others):
            best.append(f"{name} ({said[contestant.name]})")
        if all(mine - 2 * math.hypot(error, e) > v for v, e in others):
            worst.append(f"{name} ({said[contestant.name]})")
    parts = [f"{word}: {', '.join(names)}" for word, names in (("Best at", best), ("Worst at", worst)) if names]
    return ". ".join(parts) + "." if parts else "No difference from the others beyond the errors."


def _axes(comparison: Comparison) -> list[tuple[str, dict[str, tuple[float, float]], dict[str, str]]]:
    """For each run, of each measure: its name, a loss with its error, and the number as text."""
    runs, axes = comparison.contestants, []
    for key in SUMMED_UP:
        if key in comparison.floor:
            found = {c.name: c.metrics[key] for c in runs}
            name = "nearness to training data" if key == "copies" else found[runs[0].name].name
            losses = {run: (f.loss(), f.spread) for run, f in found.items()}
            axes.append((name, losses, {run: f.said(f.value) for run, f in found.items()}))
    told = {c.name: _area(c.judgement.auc) for c in runs}
    losses = {name: (f.value, f.spread) for name, f in told.items()}
    axes.append(("fooling the discriminator", losses, {name: f"AUC {f.value:.2f}" for name, f in told.items()}))
    speeds = {c.name: c.cost.milliseconds for c in runs}
    speed = {name: (2 * math.log(v), math.log(2)) for name, v in speeds.items()}  # only a factor of 4 counts
    axes.append(("sampling time", speed, {name: f"{v:.2g} ms per sample" for name, v in speeds.items()}))
    return axes


def _area(found: AUC) -> Finding:
    return Finding("auc", "AUC", found.value, best=0.5, interval=(found.low, found.high))


def _number(found: Finding) -> dict[str, float]:
    return {"value": found.value, "stderr": found.spread}


def _best(found: Finding) -> str:
    return f"{found.best:g}" if isinstance(found.best, float) else found.best or ""


def _said(found: Finding) -> str:
    return f"{found.value:.3g} ± {found.spread:.1g}" if found.spread else f"{found.value:.3g}"


# the page -------------------------------------------------------------------------------------------------------------


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the comparison as one self-contained HTML file."""
    runs, held = found.contestants, len(found.data.test)
    lines = [f"{c.name}: {c.recipe}" for c in runs]
    write_page(
        path,
        ", ".join(c.name for c in runs),
        f"{len(runs)} models of {found.data.name}; {found.n} samples of each are compared with {held} examples that "
        "none of them was trained on. Every number has its standard error and its floor: the same quantity for "
        "training data in place of the samples.",
        parts(found),
        "\n".join([f"features: {found.features}", f"samples: {found.n}, seed {found.seed}", *lines]),
        shown=[
            Finding(c.name, f"{c.name}: Frechet distance", f.value, f.stderr, found.floor["frechet"].value)
            for c in runs
            for f in [c.metrics["frechet"]]
        ],
    )


def parts(found: Comparison) -> list[Part]:
    """The parts of the comparison; the page shows all of them, the terminal their tables."""
    runs = found.contestants
    lines = Table(("run", "in a line"), [(c.name, line(found, c)) for c in runs])
    return [
        *_samples(found),
        Part("Summary", tables=[lines]),
        _metrics(found),
        *_likelihoods(runs),
        _judged(found),
        _costs(runs),
    ]


def _samples(found: Comparison) -> list[Part]:
    """Samples of the runs side by side, and interpolations."""
    space, test = found.data.space, some(found.data.test, HELD_OUT)["x"]
    scale, shown = fitting_scale(space), len(found.contestants[0].samples)
    rows = [("held-out data", test[:shown]), *((c.name, c.samples) for c in found.contestants)]
    behind = None if space.pictures else test
    sheets = [
        Picture(f"samples-{k}", gallery(x, columns=COLUMNS, scale=scale, behind=behind), f"samples of {name}", name)
        for k, (name, x) in enumerate(rows)
    ]
    ways = [
        Picture(f"between-{k}", gallery(c.between, columns=BETWEEN, scale=scale), f"interpolations of {c.name}", c.name)
        for k, c in enumerate(found.contestants)
        if c.between is not None
    ]
    return [
        Part("Samples", f"The first {shown} samples of seed {found.seed}, not selected.", pictures=sheets),
        *(
            [Part("Interpolations", "Along the great circle between two draws of noise.", pictures=ways)]
            if ways
            else []
        ),
    ]


def _metrics(found: Comparison) -> Part:
    runs, first = found.contestants, found.contestants[0].metrics
    names = [c.name for c in runs]
    drawn = [
        plots.rivals(
            names,
            [(c.metrics[key].value, c.metrics[key].spread) for c in runs],
            title=first[key].name,
            floor=(found.floor[key].value, found.floor[key].spread),
        )
        for key in DRAWN
        if key in first
    ]
    rows = [
        (first[key].name, _best(first[key]), *(_said(f[key]) for f in (found.floor, *(c.metrics for c in runs))))
        for key in first
    ]
    text = (
        f"Samples are compared by {found.features}; energy distance, sharpness and nearness use the data themselves. "
        "Bars show two standard errors on either side; the floor is green. A Frechet distance is biased "
        "upwards, and so is its floor; the extrapolated one, the kernel distance and the energy distance can be "
        "below 0. Two-sample accuracy and AUC are those of a classifier on held-out rows. Nearness to the training "
        "data is 1/2 for draws of the data, goes towards 1 for copies or for samples concentrated where data are "
        "dense, and is below 1/2 for samples away from the data."
    )
    return Part("Metrics", text, plots=drawn, tables=[Table(("", "best", "floor", *names), rows)])


def _likelihoods(runs: Sequence[Contestant]) -> list[Part]:
    """A part for each base measure: a probability mass is never ranked against a density."""
    made = []
    without = [c.name for c in runs if not c.likelihoods]
    left = f" No likelihood, because the model has none or was not evaluated: {', '.join(without)}." * bool(without)
    for measure, words in (("mass", "probabilities of discrete data"), ("density", "densities")):
        table = likelihood_table(runs, measure)
        if table.rows:
            text = (
                f"Mean log p(x) of held-out data, {words}: higher is better. A model may be better than its lower "
                f"bound, and a model that is given the class has an advantage of up to log C nats for C classes.{left}"
            )
            made.append(Part(f"Likelihood, {measure}", text, tables=[table]))
    return made


def likelihood_table(runs: Sequence[Contestant], measure: str) -> Table:
    """Likelihoods with respect to one base measure, the highest first."""
    found = [(c.name, f) for c in runs for f in c.likelihoods if f.facts["measure"] == measure]
    found.sort(key=lambda row: -row[1].value)
    rows = [
        (run, f.name, f.facts["kind"], f"{f.value:.2f} ± {f.stderr or 0:.2f}", f"{bits(f):.4f}") for run, f in found
    ]
    return Table(("run", "by", "kind", "nats", "bits per dimension"), rows)


def _judged(found: Comparison) -> Part:
    """How well a discriminator trained from scratch, and the critics from training, tell the samples from data."""
    runs, floor = found.contestants, found.judged_floor
    curves: dict[str, Sequence[float]] = {c.name: c.judgement.curve for c in runs}
    chart = plots.curves(
        floor.steps,
        curves | {"floor": floor.curve},
        title="accuracy of the discriminator",
        xlabel="training steps of the discriminator",
    )
    judged = [floor, *(c.judgement for c in runs)]
    rows = [
        ("fresh discriminator, AUC", *(_said(_area(j.auc)) for j in judged)),
        ("fresh discriminator, accuracy", *(_said(proportion("", "", j.accuracy)) for j in judged)),
        *(
            (f"critic of {owner}, AUC", "", *(_said(_area(c.critics[owner])) for c in runs))
            for owner in runs[0].critics
        ),
    ]
    text = (
        f"For each run a discriminator is trained from scratch, in the same way: two hidden layers, {floor.steps[-1]} "
        f"steps, {floor.seen} training examples and as many samples. It is tested on {floor.accuracy.n // 2} held-out "
        "examples and as many samples. AUC is the probability that it ranks a real example above a sample: 1/2 if it "
        "cannot tell them apart, below 1/2 if samples look more real. A critic from the training of a run is tested "
        "on all runs too, although it has seen samples of that run only."
    )
    table = Table(("1/2: cannot tell samples from data", "floor", *(c.name for c in runs)), rows)
    return Part("Discriminators", text, plots=[chart], tables=[table])


def _costs(runs: Sequence[Contestant]) -> Part:
    rows = []
    for c in runs:
        seconds = "" if c.cost.seconds is None else f"{c.cost.seconds:.0f} s"
        steps = "" if c.cost.steps is None else f"{c.cost.steps:,}"
        drawing = (f"{c.cost.milliseconds:.3g} ms", f"{c.cost.evaluations}")
        rows.append((c.name, c.recipe, seconds, steps, f"{c.cost.parameters:,}", *drawing))
    text = "Training time is that of the machine of training; sampling time is measured here, in batches, run by run."
    head = ("run", "recipe", "training", "steps", "parameters", "a sample", "network calls")
    return Part("Costs", text, tables=[Table(head, rows)])

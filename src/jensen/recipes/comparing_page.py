"""The page of a comparison: samples side by side, numbers with errors and floors, likelihoods, costs, the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from jensen.recipes.base import Likely
from jensen.recipes.comparing import Comparison, Contestant, bits, line
from jensen.recipes.folder import save_image
from jensen.recipes.judging import NEARER
from jensen.recipes.sample_metrics import METRICS, area_of, share_of
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, render
from jensen.training.checkpoint import write_text

DRAWN = ("frechet", "kernel", "precision", "coverage", "density", "c2st", "sharpness", "copies")
COLUMNS = 8  # of a sheet


def write_comparison(found: Comparison, path: Path) -> None:
    """Write one self-contained HTML file."""
    with TemporaryDirectory() as folder:
        page = render(
            "page.html",
            name=", ".join(c.name for c in found.contestants),
            lead=f"{len(found.contestants)} models of {found.real.name}, judged by {found.n} samples of each beside "
            f"{len(found.real.test)} data that none of them was trained on. Every number has its standard error, and "
            "beside it stands the floor: the same number for training data in the samples' place; of copies, which "
            "training data are, for one half of the test data beside the other.",
            cards=_cards(found),
            sections=[
                *_samples(found, Path(folder)),
                Section(
                    "In one line each", table=Table(("", ""), [(c.name, line(found, c)) for c in found.contestants])
                ),
                _metrics(found),
                *_likelihoods(found.contestants),
                _judged(found),
                _costs(found.contestants),
            ],
            config=_settings(found),
        )
    write_text(path, page)


def table_of(found: Comparison) -> Table:
    """Every metric: the real data's, then each contestant's."""
    rows = []
    for key, metric in METRICS.items():
        if key in found.floor:
            best = metric.best if isinstance(metric.best, str) else f"{metric.best:g}"
            numbers = [str(found.floor[key]), *(str(c.metrics[key]) for c in found.contestants)]
            rows.append((metric.name, best, *numbers))
    return Table(("", "best", "real data", *(c.name for c in found.contestants)), rows)


def judge_table(found: Comparison) -> Table:
    """How well a fresh judge tells each from data, and whatever critics the contestants trained against."""
    judged = [found.judged_floor, *(c.judgement for c in found.contestants)]
    rows = [
        ("a fresh judge: AUC", *(str(area_of(j.auc)) for j in judged)),
        ("a fresh judge: accuracy", *(str(share_of(j.accuracy)) for j in judged)),
    ]
    for owner in found.contestants[0].critics:
        told = (str(area_of(c.critics[owner])) for c in found.contestants)
        rows.append((f"the critic of {owner}: AUC", "", *told))
    return Table(("1/2: it cannot tell them from data", "real data", *(c.name for c in found.contestants)), rows)


def likelihood_table(contestants: Sequence[Contestant], measure: str) -> Table:
    """Estimates of one measure, the highest first."""
    found: list[tuple[str, Likely]] = [
        (c.name, likely) for c in contestants for likely in c.likelihoods if likely.measure == measure
    ]
    found.sort(key=lambda row: -row[1].mean)
    rows = [(run, v.name, v.kind, f"{v.mean:.2f} ± {v.stderr:.2f}", f"{bits(v):.4f}") for run, v in found]
    return Table(("run", "by", "kind", "nats", "bits a dimension"), rows)


def cost_table(contestants: Sequence[Contestant]) -> Table:
    """What training took, and what drawing takes."""
    rows = []
    for c in contestants:
        seconds = "" if c.cost.seconds is None else f"{c.cost.seconds:.0f} s"
        steps = "" if c.cost.steps is None else f"{c.cost.steps:,}"
        drawing = (f"{c.cost.milliseconds:.3g} ms", f"{c.cost.evaluations}")
        rows.append((c.name, c.recipe.recipe, seconds, steps, f"{c.cost.parameters:,}", *drawing))
    return Table(("run", "recipe", "training", "steps", "parameters", "a sample", "network calls"), rows)


def _cards(found: Comparison) -> list[Card]:
    """The Frechet distance of each, and the floor."""
    cards = [
        Card(f"{c.name}: Frechet distance", f"{v.value:.3g}", f"± {v.stderr:.1g}; {c.recipe.recipe}")
        for c in found.contestants
        for v in [c.metrics["frechet"]]
    ]
    floor = found.floor["frechet"]
    return [*cards, Card("real data: the floor", f"{floor.value:.3g}", f"± {floor.stderr:.1g}, n = {found.n}")]


def _samples(found: Comparison, folder: Path) -> list[Section]:
    """Sheets side by side, and ways from one sample to another."""
    first, shown = found.contestants[0].recipe, len(found.contestants[0].samples)
    sheets, ways = [], []
    for k, (name, recipe, made) in enumerate(
        [("real data, never trained on", first, found.real.test[:shown])]
        + [(c.name, c.recipe, c.samples) for c in found.contestants]
    ):
        path = folder / f"samples-{k}.png"
        save_image(recipe.image(made, columns=None if recipe.what == "points" else COLUMNS), path)
        sheets.append(Picture(path, f"samples of {name}", name))
    for k, c in enumerate(found.contestants):
        if c.between is not None:
            path = folder / f"between-{k}.png"
            save_image(c.recipe.image(c.between, columns=len(c.between) // 4), path)
            ways.append(Picture(path, f"interpolations of {c.name}", c.name))
    return [
        Section("Samples", f"The first {shown} of seed {found.seed}, none of them chosen.", sheets),
        *([Section("From one sample to another", "Along the great circle between two noises.", ways)] if ways else []),
    ]


def _metrics(found: Comparison) -> Section:
    names = [c.name for c in found.contestants]
    drawn = [
        plots.rivals(
            names,
            [(c.metrics[key].value, c.metrics[key].stderr) for c in found.contestants],
            title=METRICS[key].name,
            floor=(found.floor[key].value, found.floor[key].stderr),
        )
        for key in DRAWN
        if key in found.floor
    ]
    return Section(
        "Metrics",
        f"By {found.features}. By the numbers themselves: sharpness, power at high frequencies over that of real "
        "pictures; and copies, the chance that a sample is nearer to its nearest training datum than a fresh datum is "
        f"to its own: {NEARER}, below 1/2 for what lies off the data. Two-sample accuracy is a classifier's, on "
        "rows that it was not trained on. Bars are two standard errors either way; green is the floor, which a perfect "
        "model would reach. A Frechet distance is too large by its bias, the floor's as well; the one without bias and "
        "the kernel distance may come out below 0.",
        plots=drawn,
        table=table_of(found),
    )


def _likelihoods(contestants: Sequence[Contestant]) -> list[Section]:
    """A table a measure: a mass is never ranked against a density."""
    sections = []
    silent = [c.name for c in contestants if not c.likelihoods]
    left = f" {', '.join(silent)}: none, by the kind of model or for want of an evaluation." if silent else ""
    for measure, words in (("mass", "probabilities of discrete data"), ("density", "densities")):
        table = likelihood_table(contestants, measure)
        if table.rows:
            text = (
                f"Mean log p of test data, {words}: higher is better; a bound's model may do better than it "
                f"says, and a model that is told the class knows up to log C nats more of C classes.{left}"
            )
            sections.append(Section(f"Likelihood, {measure}", text, table=table))
    return sections


def _judged(found: Comparison) -> Section:
    runs = found.contestants
    floor = found.judged_floor
    curves: dict[str, Sequence[float]] = {c.name: c.judgement.curve for c in runs}
    curves["real data"] = floor.curve
    return Section(
        "The judge",
        f"A fresh discriminator for each, all of one recipe: two hidden layers, {floor.steps[-1]} steps, {floor.seen} "
        f"real rows and as many samples to learn from, {floor.accuracy.n // 2} of each to be tried on that it had not "
        "seen. AUC is the chance that a datum is found more real than a sample, whatever the threshold: 1/2 if they "
        "cannot be told apart, 1 if always, below 1/2 if samples look the more real. So it is of a critic that a "
        "contestant trained against, which knows that one contestant alone.",
        plots=[plots.curves(floor.steps, curves, title="accuracy of the fresh judge", xlabel="steps of its training")],
        table=judge_table(found),
    )


def _costs(contestants: Sequence[Contestant]) -> Section:
    text = "Seconds of training alone, on the machine that trained; drawing on this one, in batches, one run at a time."
    return Section("Costs", text, table=cost_table(contestants))


def _settings(found: Comparison) -> str:
    lines = [f"{c.name}: {c.recipe.recipe}, seed {c.recipe.seed}" for c in found.contestants]
    return "\n".join([f"features: {found.features}", f"samples: {found.n}, seed {found.seed}", *lines])

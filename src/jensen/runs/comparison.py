"""A comparison of runs in parts: their samples, tables and plots, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jensen.data.dataset import some
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, Table
from jensen.report.gallery import fitting_scale, gallery
from jensen.report.page import write_page
from jensen.runs.compare import BETWEEN, HELD_OUT, Comparison, Contestant, bits, judged, line

COLUMNS = 8  # of a sheet
DRAWN = ("frechet", "kernel", "precision", "coverage", "density", "c2st", "sharpness", "copies")


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the comparison as one self-contained HTML file."""
    runs, floor = found.contestants, found.floor["frechet"].value
    config = [f"features: {found.features}", f"samples: {found.n}, seed {found.seed}"]
    write_page(
        path,
        ", ".join(c.name for c in runs),
        f"{len(runs)} models of {found.data.name}; {found.n} samples of each are compared with {len(found.data.test)} "
        "examples that none of them was trained on. Every number has its standard error and its floor: the same "
        "quantity for training data in place of the samples.",
        parts(found),
        "\n".join([*config, *(f"{c.name}: {c.recipe}" for c in runs)]),
        [replace(c.metrics["frechet"], name=f"{c.name}: Frechet distance", floor=floor, note="") for c in runs],
    )


def parts(found: Comparison) -> list[Part]:
    """The parts of the comparison; the page shows all of them, the terminal their tables."""
    runs = found.contestants
    lines = Table(("run", "in a line"), [(c.name, line(found, c)) for c in runs])
    summary = Part("Summary", tables=[lines])
    return [*_samples(found), summary, _metrics(found), *_likelihoods(runs), _judged(found), *_costs(runs)]


def _samples(found: Comparison) -> list[Part]:
    """Samples of the runs side by side, and interpolations."""
    space, test = found.data.space, some(found.data.test, HELD_OUT)["x"]
    scale, shown = fitting_scale(space), len(found.contestants[0].samples)
    rows = [("held-out data", test[:shown]), *((c.name, c.samples) for c in found.contestants)]
    behind = None if space.pictures else test
    sheets = [
        Picture(
            f"samples-{k}",
            gallery(x, columns=COLUMNS, scale=scale, behind=behind, names=space.columns),
            f"samples of {name}",
            name,
        )
        for k, (name, x) in enumerate(rows)
    ]
    ways = [
        Picture(f"between-{k}", gallery(c.between, columns=BETWEEN, scale=scale), f"interpolations of {c.name}", c.name)
        for k, c in enumerate(found.contestants)
        if c.between is not None
    ]
    made = [Part("Samples", f"The first {shown} samples of seed {found.seed}, not selected.", pictures=sheets)]
    between = Part("Interpolations", "Along the great circle between two draws of noise.", pictures=ways)
    return [*made, between] if ways else made


def _metrics(found: Comparison) -> Part:
    runs, first = found.contestants, found.contestants[0].metrics
    names, every = [c.name for c in runs], [found.floor, *(c.metrics for c in runs)]
    drawn = []
    for key in (key for key in DRAWN if key in first):
        floor, *values = ((f[key].value, f[key].spread) for f in every)
        drawn.append(plots.rivals(names, values, title=first[key].name, floor=floor))
    rows = [(f.name, _best(f), *(_said(metrics[key]) for metrics in every)) for key, f in first.items()]
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
    rows = [
        (run, f.name, f.facts["kind"], f"{f.value:.2f} ± {f.stderr or 0:.2f}", f"{bits(f):.4f}")
        for run, f in sorted(found, key=lambda row: -row[1].value)
    ]
    return Table(("run", "by", "kind", "nats", "bits per dimension"), rows)


def _judged(found: Comparison) -> Part:
    """How well a discriminator trained from scratch, and the critics from training, distinguish samples from data."""
    runs, floor = found.contestants, found.judged_floor
    curves = {c.name: c.judgement.curve for c in runs} | {"floor": floor.curve}
    title, xlabel = "accuracy of the discriminator", "training steps of the discriminator"
    chart = plots.curves(floor.steps, curves, title=title, xlabel=xlabel)
    every = [floor, *(c.judgement for c in runs)]
    rows = [
        ("fresh discriminator, AUC", *(_said(judged(j.auc)) for j in every)),
        ("fresh discriminator, accuracy", *(_said(judged(j.accuracy)) for j in every)),
        *((f"critic of {k}, AUC", "", *(_said(judged(c.critics[k])) for c in runs)) for k in runs[0].critics),
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


def _costs(runs: Sequence[Contestant]) -> list[Part]:
    rows = []
    for c in runs:
        if c.cost is None:
            continue
        seconds = "" if c.cost.seconds is None else f"{c.cost.seconds:.0f} s"
        steps = "" if c.cost.steps is None else f"{c.cost.steps:,}"
        drawing = (f"{c.cost.milliseconds:.3g} ms", f"{c.cost.evaluations}")
        rows.append((c.name, c.recipe, seconds, steps, f"{c.cost.parameters:,}", *drawing))
    text = "Training time was measured during training; sampling time on this machine, in batches, run by run."
    head = ("run", "recipe", "training", "steps", "parameters", "a sample", "network calls")
    return [Part("Costs", text, tables=[Table(head, rows)])] if rows else []


def _best(found: Finding) -> str:
    return f"{found.best:g}" if isinstance(found.best, float) else found.best or ""


def _said(found: Finding) -> str:
    return f"{found.value:.3g} ± {found.spread:.1g}" if found.spread else f"{found.value:.3g}"

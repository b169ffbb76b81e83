"""Samples compared with held-out data: by features, as raw data, and by their nearest training examples."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from jensen.core.protocols import Sampleable
from jensen.core.seeding import derived, generator
from jensen.data.pool import Examples
from jensen.data.space import Classes, Space, Text
from jensen.judging.case import Case, judge
from jensen.judging.features import Features
from jensen.metrics import (
    auc,
    c2st,
    class_coverage,
    energy_distance,
    extrapolated_frechet_distance,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    prdc,
    sharpness,
    wilson,
)
from jensen.models import Autoencoder, LatentChain
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, estimated, proportion, sentence
from jensen.report.gallery import fitting_scale, gallery
from jensen.report.scatter import COLUMNS as COLUMNS_SHOWN
from jensen.report.scatter import Classes as Coloured

LEAST = 20  # fewest rows of each for which metrics are computed
NEAREST = 1000  # largest number of samples, and of held-out examples, whose nearest training examples are searched
COLUMNS = 8  # of a sheet
ENERGY = 4e9  # largest number of differences of numbers in an energy distance
BARS = 40  # largest number of classes that are shown as bars

TEXT = (
    "{n:,} samples are compared with {held:,} held-out examples by {features}. Energy distance and sharpness use the "
    "data themselves. The floor is the same quantity for the same number of training examples instead of the samples: "
    "a perfect model reaches it."
)
NOTES = {
    "frechet": "biased upwards, as its floor is",
    "frechet_extrapolated": "without the bias",
    "kernel": "can be below 0",
    "energy": "can be below 0",
    "precision": "share of samples within the support of the data",
    "recall": "share of data within the support of the samples",
    "density": "number of data balls around a sample, relative to k",
    "coverage": "share of data with a sample nearby",
    "c2st": "50%: samples cannot be distinguished from data",
    "c2st_auc": "0.5: samples cannot be distinguished from data",
    "classes": "as read by the classifier",
    "sharpness": "below 1: blurred; above 1: noisy",
}


def measured(
    test: Tensor, samples: Tensor, features: Features, space: Space, seed: int, shares: Tensor | None
) -> list[Finding]:
    """All metrics of samples against held-out data that apply, with their errors.

    Args:
        test: held-out examples, at least 20 of them.
        samples: samples, at least 20 of them.
        features: the features with which they are compared.
        space: space of the data.
        seed: random seed.
        shares: shares of the data's classes, for features of a classifier.
    """
    x, y = features(test), features(samples)
    whole = extrapolated_frechet_distance(x, y, generator=generator(derived(seed, "extrapolation")))
    near, apart = prdc(x, y), c2st(x, y, generator(derived(seed, "two-sample test")))
    few = max(LEAST, int((ENERGY / test[0].numel()) ** 0.5))
    found = [
        estimated("frechet", "Frechet distance", frechet_distance(x, y), card=True),
        estimated("frechet_extrapolated", "Frechet distance, extrapolated", whole),
        estimated("kernel", "kernel distance", kernel_distance(x, y)),
        estimated("energy", "energy distance", energy_distance(*(space.comparable(v[:few]) for v in (test, samples)))),
        proportion("precision", "precision", near.precision_interval),
        proportion("recall", "recall", near.recall_interval),
        Finding("density", "density", near.density, near.density_stderr, best=1.0),
        proportion("coverage", "coverage", near.coverage_interval),
        proportion("c2st", "two-sample accuracy", apart.interval, best=0.5),
        proportion("c2st_auc", "two-sample AUC", apart.auc, best=0.5, form="number"),
    ]
    read = features.read(samples)
    if read is not None and shares is not None:
        cover = class_coverage(read, len(shares), shares)
        error = float((cover.shares / shares)[read].log().std()) / len(read) ** 0.5
        name = "KL(generated || data), classes"
        found.append(Finding("classes", name, cover.reverse_kl, error, form="nats"))
    if samples.ndim == 4:
        with suppress(ValueError):  # data without high frequencies, such as plain colours, have none to compare with
            found.append(estimated("sharpness", "sharpness", sharpness(test, samples), best=1.0))
    return [replace(f, note=NOTES[f.key]) for f in found]


def nearness(drawn: Tensor, fresh: Tensor) -> Finding:
    """Whether samples are nearer to the training data than held-out data are, from distances to nearest neighbours."""
    note = "50%: as near as held-out data; 100%: copies"
    return proportion("copies", "nearer to training data", auc(drawn, fresh), floor=0.5, best=0.5, note=note)


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """Shares (classes,) of labels (N, 1), all above zero."""
    counts = labels[:, 0].bincount(minlength=classes).double().clamp_min(1)
    return counts / counts.sum()


@judge
def samples(case: Case) -> Part | None:
    """Samples and data as pictures, and all metrics between them."""
    if not isinstance(case.model, Sampleable) or case.data.b is not None:
        return None
    space, test, made = case.data.space, case.test["x"], case.samples
    pictures = _sheets(case)
    n = min(len(made), len(case.train))
    if min(n, len(test)) < LEAST:
        return Part("Samples", pictures=pictures)
    classes = space.cond if isinstance(space.cond, Classes) else None
    shares = None if classes is None else class_shares(case.train.tensors["cond"], classes.size)
    features, real = case.features, case.train
    order = torch.randperm(len(real), generator=generator(derived(case.seed, "floor")))[:n]
    advance, both = case.track("comparing samples and data", 2), []
    for x in (made[:n], real[order]["x"]):
        both.append({f.key: f for f in measured(test, x, features, space, case.seed, shares)})
        advance(1)
    found, floor = both
    names = ("precision", "recall", "coverage")
    heights = [[group[key].value for key in names] for group in both]
    bars = [plots.shares(*heights, names=names, title="precision, recall and coverage", labels=("samples", "floor"))]
    read = features.read(made)
    if classes is not None and shares is not None and read is not None and classes.size <= BARS:
        share = class_coverage(read, classes.size).shares.tolist()
        title = "classes, as read by the classifier"
        bars.append(plots.shares(share, shares.tolist(), names=classes.names, title=title))
    findings = [replace(f, floor=floor[key].value) if key in floor else f for key, f in found.items()]
    return Part("Samples", TEXT.format(n=n, held=len(test), features=features.name), findings, pictures, bars)


def _sheets(case: Case) -> list[Picture]:
    """The first samples, not selected, beside held-out data."""
    space, test = case.data.space, case.test["x"]
    if not space.pictures:
        left = f"; the first {COLUMNS_SHOWN} of {space.dims} columns" * (space.dims > COLUMNS_SHOWN)
        drawn, known = coloured(space.cond, case.asked), coloured(space.cond, case.test.get("cond"))
        sheet = gallery(case.samples, behind=test, names=space.columns, classes=drawn)
        words = f"Samples {'by class' if drawn else 'in blue'}, and held-out data in grey{left}."
        sheets = [Picture("samples", sheet, "samples and held-out data", words)]
        if known is not None:
            sheet = gallery(test, names=space.columns, classes=known)
            sheets.append(Picture("held-out", sheet, "held-out data", f"Held-out data by class{left}."))
        return sheets
    shown, scale = 64 if space.dims <= 1024 else 32, fitting_scale(space)
    sets = [("samples", case.samples, "the first samples")]
    if has_means(case.model, space):
        sets.append(("means", case.draw(shown, mean=True), "means of p(x | z) for the z of these samples"))
    sets.append(("held-out", test, "held-out data"))
    return [
        Picture(name, gallery(x[:shown], columns=COLUMNS, scale=scale), words, sentence(words))
        for name, x, words in sets
    ]


def coloured(known: Classes | Text | None, cond: Tensor | None) -> Coloured | None:
    """The classes of points for a plot, given their conditions (N, 1), or None without classes."""
    return Coloured(cond[:, 0], known.names) if isinstance(known, Classes) and cond is not None else None


def has_means(model: nn.Module, space: Space) -> bool:
    """Whether draws of x are noisier than the means of p(x | z), which are shown beside them."""
    return isinstance(model, Autoencoder | LatentChain) and space.levels is not None


@judge
def nearest(case: Case) -> Part | None:
    """Samples beside their nearest training examples, and their distances compared with those of held-out data."""
    if not isinstance(case.model, Sampleable) or case.data.b is not None:
        return None
    train, made, test = case.train, case.samples[:NEAREST], case.test["x"][:NEAREST]
    if min(len(made), len(test)) < LEAST:
        return None
    advance = case.track("nearest training examples", len(made) + len(test))
    space = case.data.space
    known = Examples(train, space.comparable)
    drawn, index = nearest_distance(space.comparable(made), known)
    advance(len(made))
    fresh, _ = nearest_distance(space.comparable(test), known)
    advance(len(test))
    middle = [float(distances.quantile(0.5)) for distances in (drawn, fresh)]
    what = "image" if space.pictures else "point"
    copied = wilson(int((drawn.double() < fresh.double().quantile(0.05)).sum()), len(drawn))
    name, note = f"median distance to the nearest training {what}", f"floor: the median for held-out {what}s"
    findings = [
        replace(nearness(drawn, fresh), card=True),
        proportion("copied", f"nearer than 95% of held-out {what}s", copied, best=0.05, floor=0.05),
        Finding("nearest", name, middle[0], floor=middle[1], best=None, note=note),
    ]
    text = (
        f"Each sample's distance to its nearest training {what} (root mean square difference{space.unit}) is compared "
        f"with those of held-out {what}s, which the model never saw. A model that memorised its training set has "
        "samples that are nearer to it than held-out data are. The probability that a sample is nearer is 100% for "
        f"copies and 50% for a perfect model. It also exceeds 50% if samples concentrate where {what}s are dense, and "
        "is below 50% if samples lie away from the data."
    )
    pictures = []
    if space.pictures:
        order = drawn.argsort()[:COLUMNS]
        pair = torch.cat([made[order], train[index[order]]["x"]])
        sheet = gallery(pair, columns=COLUMNS, scale=fitting_scale(space))
        words = "the samples nearest to a training image, each above that image"
        pictures.append(Picture("nearest", sheet, words, sentence(words)))
    distances = {"samples": drawn.tolist(), f"held-out {what}s": fresh.tolist()}
    title = f"distance to the nearest training {what}"
    histogram = plots.histograms(distances, title=title, xlabel="root mean square", ylabel=f"{what}s")
    return Part(f"Nearest training {what}s", text, findings, pictures, [histogram])

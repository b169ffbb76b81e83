"""Samples read by a reader: whether they show the requested condition, and what unconditional samples show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from jensen.core.seeding import derived, generator
from jensen.data.space import Classes, Text
from jensen.judging.case import Case, judge
from jensen.metrics import Proportion, calibration, confusion, legibility, variety, wilson
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, Table, proportion
from jensen.report.gallery import fitting_scale, gallery

SHOWN, COLUMNS = 48, 8  # samples on a sheet
CAPTION = 72  # pixels below a picture, into which the caption of one class fits
FREE = 400  # samples without a condition, at most
BARS, LOWEST = 40, 12  # largest number of classes that are shown as bars; rows of a table for more
CELLS = 20  # largest number of classes of a confusion matrix on the page

Pair = tuple[Tensor, Tensor]


@judge
def read_as_asked(case: Case) -> Part | None:
    """Samples of given conditions, read by a reader that was not trained on samples."""
    cond = case.data.space.cond
    if cond is None or case.asked is None or (reader := case.reader) is None:
        return None
    made, x = case.samples, case.test["x"]
    asked, held = (cond.legible(v) for v in (case.asked, case.test["cond"]))
    read, real = reader.read(made), reader.read(x)
    found, shuffled, ceiling = (legibility(*v) for v in ((read, asked), (read, asked.roll(1, 0)), (real, held)))
    names = cond.decode(asked), cond.decode(read)
    n = f"n = {len(made):,}"
    note, floor = f"{n}; floor: shuffled conditions", shuffled.exact.value
    findings = [proportion("legibility", "read as asked", found.exact, floor=floor, note=note, card=True)]
    if isinstance(cond, Text):
        findings.append(proportion("characters", "single characters read as asked", found.character, note=n, card=True))
    what, note = "pictures" if case.data.space.pictures else "points", f"n = {len(x):,}"
    findings.append(proportion("ceiling", f"real held-out {what} read correctly", ceiling.exact, note=note, card=True))
    if (second := case.data.truths.second) is not None:
        for key, name, pictures, labels in (
            ("second", "read as asked by a second reader", made, asked),
            ("second_ceiling", f"real held-out {what} read correctly by it", x, held),
        ):
            right = legibility(second.read(pictures), labels)
            findings.append(proportion(key, name, right.exact, note=f"n = {len(pictures):,}", card=True))
    text = (
        f"Samples of held-out conditions, read by a reader that was trained only on real {what}. A perfect model "
        f"reaches the share of real held-out {what} that are read correctly. The reader always gives an answer"
    )
    if case.data.space.pictures:
        text += (
            ", so a picture with an extra stroke can still count as read correctly: look at the pictures. Misread "
            "samples are marked in red"
        )
    more = _by_class(cond, (asked, read), (held, real)) if isinstance(cond, Classes) else {}
    details = {"reading": {"asked": names[0][:200], "read": names[1][:200]}}
    return Part("Samples read as asked", f"{text}.", findings, _asked(case, *names), details=details, **more)


def _asked(case: Case, asked: Sequence[str], read: Sequence[str]) -> list[Picture]:
    """The first samples of pictures, with their conditions and what was read."""
    space, made = case.data.space, case.samples[:SHOWN]
    if not space.pictures:
        return []
    captions = [a if a == b else f"{a} read {b}" for a, b in zip(asked, read, strict=True)][:SHOWN]
    wrong = [a != b for a, b in zip(asked, read, strict=True)][:SHOWN]
    scale = max(fitting_scale(space), -(-CAPTION // made.shape[-1]))
    page = gallery(made, columns=COLUMNS, scale=scale, captions=captions, wrong=wrong)
    return [Picture("asked", page, "samples, with the requested condition and the condition that was read")]


def _by_class(cond: Classes, samples: Pair, held_out: Pair) -> dict[str, Any]:
    """The share of each class that is read correctly: as bars, or, for many classes, a table of the lowest shares."""
    made, real = _shares(cond, *samples), _shares(cond, *held_out)
    if len(made) == len(real) == cond.size <= BARS:
        bars = ([found[k].value for k in range(cond.size)] for found in (made, real))
        labels, title = ("samples", "held-out data"), "read correctly, by class"
        return {"plots": [plots.shares(*bars, names=cond.names, title=title, labels=labels)]}
    order = sorted(made, key=lambda k: made[k].value)[:LOWEST]
    rows = [(cond.names[k], str(made[k]), str(real.get(k, ""))) for k in order]
    return {"tables": [Table(("class", "samples", "held-out data"), rows, f"The {len(rows)} lowest shares")]}


def _shares(cond: Classes, labels: Tensor, read: Tensor) -> dict[int, Proportion]:
    """The share of each class that occurs in labels (N, 1) that is read correctly."""
    right = {k: (read == labels)[labels == k] for k in range(cond.size)}
    return {k: wilson(int(found.sum()), len(found)) for k, found in right.items() if len(found)}


@judge
def unconditional(case: Case) -> Part | None:
    """Unconditional samples of a model of texts: the share that is read with confidence, and their variety."""
    cond, reader = case.data.space.cond, case.data.truths.reader
    if not isinstance(cond, Text) or case.asked is None:
        return None
    n = min(FREE, case.settings.samples)
    made = case.draw(n, seed=derived(case.seed, "unconditional"), advance=case.track("drawing without a text", n))
    real, findings, charts = case.test["x"][:n], [], []
    if reader is not None:
        clear, clear_real = (reader.clear(x).all(1) for x in (made, real))
        texts, note = reader.read(made)[clear], f"n = {n}; floor: real pictures"
        sure, floor = wilson(len(texts), n), float(clear_real.double().mean())
        distinct = len(texts.unique(dim=0)) / max(len(texts), 1)
        findings = [
            proportion("free_clear", "read with confidence", sure, floor=floor, note=note),
            Finding("free_distinct", "share of distinct texts among these", distinct, best="high", form="share"),
        ]
        found = (texts.flatten().bincount(minlength=len(cond.alphabet)) / max(texts.numel(), 1)).tolist()
        title, equal = "share of each character, read with confidence", [1 / len(found)] * len(found)
        charts = [plots.shares(found, equal, title=title, names=list(cond.alphabet))]
    name, note = "variety of all pictures", "relative to real pictures"
    findings.append(Finding("free_variety", name, variety(made) / variety(real), best=1.0, note=note))
    page = gallery(made[:32], columns=COLUMNS, scale=fitting_scale(case.data.space))
    text = (
        "Pictures drawn without a text. A picture is read with confidence if every character is read with a "
        "probability of at least 0.9. Variety is the root mean square distance between two pictures, each standardised "
        "to mean 0 and variance 1."
    )
    picture = Picture("unconditional", page, "pictures without a text")
    return Part("Samples without a text", text, findings, [picture], charts)


@judge
def reading(case: Case) -> Part | None:
    """The accuracy of a reader on held-out data; for classes also its calibration and confusions."""
    read, cond = getattr(case.model, "read", None), case.data.space.cond
    if read is None or cond is None:
        return None
    x, asked = case.test["x"].to(case.device), cond.legible(case.test["cond"])
    answers, sureness = (v.cpu() for v in read(x))
    found = legibility(answers, asked)
    kind = "pictures" if case.data.space.pictures else "points"
    n = f"held-out {kind}, n = {len(x):,}"
    what = "whole texts read correctly" if isinstance(cond, Text) else "classes read correctly"
    findings = [proportion("exact", what, found.exact, note=n, card=True)]
    if not isinstance(cond, Classes):
        findings.append(proportion("characters", "characters read correctly", found.character, note=n, card=True))
    name = f"mean probability of the {'characters' if isinstance(cond, Text) else 'classes'} that it read"
    findings.append(Finding("sureness", name, float(sureness.mean()), best=None))
    if isinstance(cond, Text):
        return Part(f"Reading held-out {kind}", "", findings)
    answers, labels = answers[:, 0], asked[:, 0]
    sure = calibration(sureness[:, 0], answers == labels, generator=generator(derived(case.seed, "calibration")))
    note = "floor: mean error of a calibrated classifier with these probabilities"
    findings.append(Finding("calibration", "expected calibration error", sure.error, floor=sure.floor, note=note))
    counts = confusion(labels, answers, cond.size)
    text = (
        "The expected calibration error is the mean difference between the probability of the class that was read "
        "and the share that is right, over 15 bins of this probability."
    )
    points = {"this reader": sure.accuracy.tolist(), "calibrated": sure.confidence.tolist()}
    chart = plots.curves(sure.confidence.tolist(), points, title="share read correctly", xlabel="probability")
    details = {"confusion": counts.tolist()} if cond.size <= BARS else {}
    tables = [confusion_table(counts, cond.names)]
    return Part(f"Reading held-out {kind}", text, findings, plots=[chart], tables=tables, details=details)


def confusion_table(counts: Tensor, names: Sequence[str]) -> Table:
    """The confusion matrix, or, for many classes, the most frequent confusions."""
    if len(names) <= CELLS:
        rows = [[name, *(str(n) if n else "" for n in row)] for name, row in zip(names, counts.tolist(), strict=True)]
        return Table(("", *names), rows, "Confusion matrix: rows by class, columns by the class read")
    wrong = counts - counts.diag().diag()
    order = wrong.flatten().argsort(descending=True, stable=True)[:LOWEST].tolist()
    pairs = [divmod(k, len(names)) for k in order]
    cells = [(names[a], names[b], str(int(wrong[a, b]))) for a, b in pairs if wrong[a, b]]
    return Table(("class", "read as", "number"), cells, "The most frequent confusions")

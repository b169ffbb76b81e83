"""Samples read by a reader: whether they show the condition asked for, and what unconditional samples show."""

from __future__ import annotations

from jensen.core.seeding import derived
from jensen.data.space import Classes, Text
from jensen.judging.case import Case, judge
from jensen.metrics import legibility, variety, wilson
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, proportion
from jensen.report.gallery import fitting_scale, gallery

SHOWN, COLUMNS = 48, 8  # samples on a sheet
CAPTION = 72  # pixels below a picture, into which the caption of one class fits
FREE = 400  # samples without a condition, at most


@judge
def read_as_asked(case: Case) -> Part | None:
    """Samples of given conditions, read by a reader that was not trained on samples."""
    reader, cond = case.data.truths.reader, case.data.space.cond
    if reader is None or cond is None or case.asked is None:
        return None
    asked, made, test = case.asked, case.samples, case.test
    read, ceiling = reader.read(made), legibility(reader.read(test["x"]), test["cond"])
    found, shuffled = legibility(read, asked), legibility(read, asked.roll(1, 0))
    wrong, names = (read != asked).any(1).tolist(), (cond.decode(asked), cond.decode(read))
    captions = [a if a == b else f"{a} read {b}" for a, b in zip(*names, strict=True)]
    scale = max(fitting_scale(case.data.space), -(-CAPTION // made.shape[-1]))
    page = gallery(made[:SHOWN], columns=COLUMNS, scale=scale, captions=captions[:SHOWN], wrong=wrong[:SHOWN])
    n = f"n = {len(made):,}"
    note, floor = f"{n}; floor: conditions shuffled", shuffled.exact.value
    findings = [proportion("legibility", "read as asked", found.exact, floor=floor, note=note, card=True)]
    if cond.width > 1:
        findings.append(proportion("characters", "single characters read as asked", found.character, note=n, card=True))
    real = f"n = {len(test['x']):,}"
    findings.append(proportion("ceiling", "real held-out pictures read correctly", ceiling.exact, note=real, card=True))
    text = (
        "Samples of held-out conditions, read by a reader that was trained only on real pictures. Misread samples "
        "are marked in red. The reader always gives an answer, so a picture with an extra stroke can still count as "
        "read correctly: look at the pictures."
    )
    details = {"reading": {"asked": names[0][:200], "read": names[1][:200]}}
    picture = Picture("asked", page, "samples, with the condition asked for and the condition read")
    return Part("Samples read as asked", text, findings, [picture], details=details)


@judge
def unconditional(case: Case) -> Part | None:
    """Unconditional samples of a model of texts: how many are read with confidence, and their variety."""
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
            Finding("free_distinct", "distinct texts among these", distinct, best="high", form="share"),
        ]
        found = (texts.flatten().bincount(minlength=cond.size) / max(texts.numel(), 1)).tolist()
        title, equal = "share of each character, read with confidence", [1 / cond.size] * cond.size
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
    """The accuracy of a reader on held-out pictures."""
    read, cond = getattr(case.model, "read", None), case.data.space.cond
    if read is None or cond is None:
        return None
    x, asked = case.test["x"].to(case.device), case.test["cond"]
    answers, sureness = (v.cpu() for v in read(x))
    found = legibility(answers, asked)
    n = f"held-out pictures, n = {len(x):,}"
    what = "whole texts read correctly" if isinstance(cond, Text) else "classes read correctly"
    findings = [proportion("exact", what, found.exact, note=n, card=True)]
    if not isinstance(cond, Classes):
        findings.append(proportion("characters", "characters read correctly", found.character, note=n, card=True))
    name = f"mean probability of the {'characters' if isinstance(cond, Text) else 'classes'} that it read"
    findings.append(Finding("sureness", name, float(sureness.mean()), best=None))
    return Part("Reading held-out pictures", "", findings)

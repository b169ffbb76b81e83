"""Modes: which known modes the samples of points reach, and which classes a reader finds in samples of pictures."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F

from jensen.adversarial import divergence
from jensen.core.distances import squared_distances
from jensen.core.protocols import Sampleable
from jensen.data.mixtures import Modes
from jensen.data.space import Classes
from jensen.data.stacked import expected_modes
from jensen.judging.case import Case, judge
from jensen.metrics import class_coverage, joint_coverage, legibility, mode_coverage
from jensen.models.gan import GAN
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, proportion
from jensen.report.gallery import fitting_scale, gallery

EDGES = torch.arange(0, 3.5, 0.5)  # width of rings around a mode, in its standard deviations
PLANE = 8000  # points of the noise on its picture
COLUMNS, ROWS = 16, 20  # samples of a class on a sheet; classes
LINE = -0.2  # grey of the line between two channels


# known modes of points -----------------------------------------------------------------------


@judge
def modes(case: Case) -> Part | None:
    """The known modes that samples reach, how often, and how near samples are to them."""
    law = case.data.truths.modes
    if law is None or not isinstance(case.model, Sampleable):
        return None
    made, data = case.samples, case.test["x"]
    found, real = (mode_coverage(x, law.centres, law.std, law.weights) for x in (made, data))
    rings, floor = ring_divergences(made, law), ring_divergences(data[: len(made)], law)
    text = (
        "A sample within 3 standard deviations of its nearest mode is a high-quality sample, and a mode with at "
        "least one of them is recovered. KL(q || w) compares q, the shares of samples nearest to each mode, with w, "
        "the weights of the modes; its floor is the mean for draws of the data. The last two numbers compare "
        "the shares of samples in rings around each mode, half a standard deviation wide, with their exact "
        "probabilities; their floors are the values for held-out points."
    )
    by, kl = f"of {found.of}, by {found.n:,} samples", "KL(generated || data), modes"
    findings = [
        reached("modes_recovered", "modes recovered", found.recovered, floor=real.recovered, note=by, card=True),
        proportion("high_quality", "high quality", found.high_quality_interval, floor=real.high_quality, card=True),
        Finding("mode_kl", kl, found.reverse_kl, floor=found.floor, form="nats", card=True),
        Finding("ring_js", "Jensen-Shannon divergence of rings", rings[0], floor=floor[0], form="nats"),
        Finding("ring_tv", "total variation of rings", rings[1], floor=floor[1]),
    ]
    chart = plots.shares(found.shares.tolist(), law.weights.tolist(), title="share of each mode", xlabel="mode")
    details = {
        name: {"n": c.n, "recovered": c.recovered, "reverse_kl": c.reverse_kl, "shares": c.shares.tolist()}
        for name, c in (("samples", found), ("held-out", real))
    }
    return Part("Modes", text, findings, _noise(case, law), [chart], details={"modes": details})


def reached(key: str, name: str, count: int, **more: Any) -> Finding:
    """The number of modes or classes that samples reach."""
    return Finding(key, name, count, best="high", form="count", **more)


def ring_divergences(x: Tensor, law: Modes) -> tuple[float, float]:
    """Jensen-Shannon divergence (nats) and total variation between the shares of points (N, 2) in rings around the
    modes and the exact probabilities of these rings.

    Binning lowers the divergence and a finite number of points raises it: compare with the same number of draws of the
    distribution.
    """
    exact = law.rings(EDGES).flatten()
    share = law.which_ring(x, EDGES).bincount(minlength=len(exact)).double() / len(x)
    found, known = Categorical(share), Categorical(exact)
    return divergence("jensen-shannon", found, known).value, divergence("total-variation", found, known).value


def _noise(case: Case, law: Modes) -> list[Picture]:
    """For two-dimensional noise: which noise is mapped to which mode."""
    model = case.model
    if not isinstance(model, GAN) or model.shape != (2,):
        return []
    z = model.latent(PLANE, case.rng("noise to modes"))
    x = model.decode(z).cpu()
    mode = next(squared_distances(x, law.centres, len(x))).argmin(1)
    colours = colormaps["hsv"]((mode / len(law.centres)).numpy())
    figure = plots.blank(8, 4, 100)
    for axes, points, title in zip(figure.subplots(1, 2), (z.cpu(), x), ("noise", "samples"), strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=2.5, c=colours, linewidths=0)
        axes.set_aspect("equal", adjustable="datalim")
        plots.framed(axes, title)
    alt, caption = "noise and samples, coloured by mode", "Noise, coloured by its sample's mode."
    return [Picture("noise", plots.png(figure), alt, caption)]


# classes that a reader finds -----------------------------------------------------------------


@judge
def classes(case: Case) -> Part | None:
    """The classes that a reader finds in samples, their shares, and how clear they are."""
    shares, data = reader_shares(case), case.test
    if shares is None or not isinstance(case.model, Sampleable) or (reader := case.reader) is None:
        return None
    made, n = case.samples, case.settings.mode_samples * len(shares)
    if n > len(made) and case.data.truths.reader is not None:
        made = case.drawn("drawing for the reader", n, cond=case.data.asked(n) if case.conditional else None)
    read, real = (reader.read(x) for x in (made, data["x"]))
    found, floor = (joint_coverage(v, shares, reader.clear(x)) for v, x in ((read, made), (real, data["x"])))
    stacked = read.shape[1] > 1
    what = "modes" if stacked else "classes"
    expected = expected_modes(len(made), shares / shares.sum())
    by, name = f"of {len(shares):,}, by {len(made):,} samples", f"clear {'channels' if stacked else 'samples'}"
    kl = f"KL(generated || data), {what} read"
    findings = [
        reached("classes_reached", f"{what} reached", found.recovered, floor=expected, note=by, card=stacked),
        Finding("class_kl", kl, found.reverse_kl, floor=found.floor, form="nats", card=True),
        proportion("clear", name, found.clear, floor=floor.clear.value, note=reader.clear_means, card=True),
        reached("clearly_reached", f"{what} reached by clear samples", found.clearly),
    ]
    labels = data.get("read", data.get("cond"))
    if labels is not None and labels.shape == real.shape:
        right = legibility(real, labels).exact
        findings.append(proportion("reader", "held-out data read correctly", right, note="by the same reader"))
    text = (
        f"A reader that was trained independently of the generator reads {len(made):,} samples. KL(q || w) compares q, "
        f"the shares of samples read as each of {len(shares):,} {what}, with w, the shares of the data. Floors: for "
        f"{what} reached and KL, the mean for as many draws of the data (a finite sample never reaches 0); for "
        f"clearness, held-out data. Every sample is read as one of them, so {what} are also counted for clear samples "
        f"only: {reader.clear_means}."
    )
    kind, (width, size) = case.data.space.cond, found.places.shape
    names = list(kind.names) if isinstance(kind, Classes) else [str(k) for k in range(size)]
    whole, charts = (shares / shares.sum()).view([size] * width), []
    for k, share in enumerate(found.places.tolist()):
        margin = whole.sum([j for j in range(width) if j != k]) if stacked else whole
        title = "share of each class" + f", channel {k + 1}" * stacked
        charts.append(plots.shares(share, margin.tolist(), title=title, names=names))
    details = {
        name: {
            "n": c.n,
            "reached": c.recovered,
            "reached_clearly": c.clearly,
            "reverse_kl": c.reverse_kl,
            "floor": c.floor,
            "shares": c.places.tolist(),
        }
        for name, c in (("samples", found), ("held-out", floor))
    }
    pictures = [_sheet(case, made, read, names)]
    return Part(what.capitalize(), text, findings, pictures, charts, details={"classes": details})


def reader_shares(case: Case) -> Tensor | None:
    """Shares of the reader's classes: exact if known, otherwise those of the training labels; None without either."""
    exact, cond = case.data.truths.shares, case.data.space.cond
    if exact is not None or not isinstance(cond, Classes):
        return exact
    found = class_coverage(case.train.tensors["cond"][:, 0], cond.size)
    return found.shares if found.recovered == cond.size else None


def _sheet(case: Case, made: Tensor, read: Tensor, names: list[str]) -> Picture:
    """Samples sorted by the class that the reader reads; channels side by side, with the classes that are read."""
    scale = fitting_scale(case.data.space)
    if read.shape[1] > 1:
        captions = [" ".join(map(str, row)) for row in read[:48].tolist()]
        sheet = gallery(side_by_side(made[:48]), columns=6, scale=scale, captions=captions)
        return Picture(
            "read", sheet, "samples, channels side by side", "Channels side by side, with the classes that were read."
        )
    rows = [made[read[:, 0] == k][:COLUMNS] for k in range(len(names[:ROWS]))]
    full = [torch.cat([row, row.new_ones(COLUMNS - len(row), *row.shape[1:])]) for row in rows]
    sheet = gallery(torch.cat(full), columns=COLUMNS, scale=scale)
    caption = f"The first samples that are read as each class, one row per class: {', '.join(names[:ROWS])}."
    return Picture("classes", sheet, "samples by class", caption)


def side_by_side(x: Tensor) -> Tensor:
    """The channels of pictures (N, C, H, W) side by side, with grey lines between them: (N, 1, H, C W + C - 1)."""
    return F.pad(x, (0, 1), value=LINE).movedim(1, 2).flatten(2)[:, None, :, :-1]

"""The use of latents: reconstructions, traversals, interpolations, posterior collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import one_hot

from jensen.core.protocols import Coding
from jensen.core.seeding import drawing
from jensen.core.shapes import mean_per_example
from jensen.data.space import Classes
from jensen.judging.case import Case, judge
from jensen.models import GAN, LatentChain, traversal
from jensen.report.findings import Finding, Part, Picture, estimated, mean
from jensen.report.gallery import fitting_scale, gallery
from jensen.variational.collapse import CollapseReport, Measured, collapse_report

CHUNK = 256
PAIRS = 12  # pictures in a row, above their reconstructions
STEPS = 11  # samples in a row of a traversal or interpolation


@runtime_checkable
class Interpolating(Coding, Protocol):
    """A model with a prior over its codes that can interpolate between two draws of it."""

    prior: nn.Module

    def interpolate(self, first: torch.Generator, second: torch.Generator, n: int) -> Tensor: ...


def sheet(case: Case, x: Tensor, columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Pictures as a grid, or points drawn over held-out points."""
    if not case.data.space.pictures:
        return gallery(x.cpu(), behind=case.test["x"][:2000], names=case.data.space.columns)
    return gallery(x, columns=columns, scale=fitting_scale(case.data.space), captions=captions)


@judge
@torch.no_grad()
def reconstructions(case: Case) -> Part | None:
    """Held-out examples and their reconstructions."""
    model, x, comparable = case.model, case.test["x"], case.data.space.comparable
    if not isinstance(model, Coding):
        return None

    def rebuild(part: Tensor, _: Tensor | None, rng: torch.Generator) -> Tensor:
        with drawing(rng):
            return model.reconstruct(part).cpu()

    rebuilt = torch.cat(case.each("reconstructions", rebuild, x, CHUNK))
    errors = mean_per_example((comparable(x) - comparable(rebuilt)).square())
    name = "mean squared error of reconstructions"
    note = f"per dimension{case.data.space.unit}; held-out, n = {len(x):,}"
    finding = mean("reconstruction", name, errors, note=note)
    columns = min(PAIRS, len(x))
    shown = min(2, len(x) // columns) * columns
    pairs = zip(x[:shown].split(columns), rebuilt[:shown].split(columns), strict=True)
    made = torch.cat([part for pair in pairs for part in pair]) if case.data.space.pictures else rebuilt
    what = "mean of p(x | z) for one draw of q(z | x)" if isinstance(model, LatentChain) else "decoded code"
    pictures, points = "Held-out examples and, below each, its reconstruction", "Reconstructions over held-out points"
    text = f"{pictures if case.data.space.pictures else points}: the {what}."
    picture = Picture("reconstructions", sheet(case, made, columns), "examples and their reconstructions")
    return Part("Reconstructions", text, [finding], [picture])


@judge
@torch.no_grad()
def traversals(case: Case) -> Part | None:
    """Samples as one coordinate of the code varies and all others are fixed."""
    model = case.model
    if not isinstance(model, Coding):
        return None
    with drawing(case.rng("traversals")):
        made, names = traversal(model, case.test["x"][: 2 * CHUNK].to(case.device), steps=STEPS)
    captions = [name if k % STEPS == STEPS // 2 else "" for name in names for k in range(STEPS)]
    text = (
        "Along each row one coordinate of the top layer varies by 2.5 standard deviations of its values over "
        "held-out data in both directions. All other coordinates keep their values for the first held-out example."
    )
    picture = Picture("traversal", sheet(case, made.flatten(0, 1), STEPS, captions), "latent traversal")
    return Part("Latent traversals", text, pictures=[picture])


@judge
@torch.no_grad()
def interpolations(case: Case) -> Part | None:
    """Interpolations between two draws of the prior, for models with latents and generators of pictures."""
    model = case.model
    if not isinstance(model, GAN | Interpolating):
        return None
    if not (case.data.space.pictures if isinstance(model, GAN) else model.prior().has_rsample):
        return None
    ends = [[case.rng("interpolations", row, end) for end in ("from", "to")] for row in range(6)]
    made = torch.cat([model.interpolate(first, second, STEPS) for first, second in ends])
    text = "G(z), or the mean of p(x | z), along the great circle between two draws of the prior of z."
    picture = Picture("interpolations", sheet(case, made, STEPS), "latent interpolations")
    return Part("Latent interpolations", text, pictures=[picture])


@judge
def collapse(case: Case) -> Part | None:
    """How much each layer of latents is used (posterior collapse)."""
    model, reader, cond = case.model, case.data.truths.reader, case.data.space.cond
    if not isinstance(model, LatentChain):
        return None
    x, classifier, labels = case.test["x"], None, None
    if reader is not None and isinstance(cond, Classes):
        classes = cond.size
        labels = case.test["cond"][:, 0].to(case.device)

        def classifier(made: Tensor) -> Tensor:
            return one_hot(reader.read(made.cpu())[:, 0], classes).to(made)

    advance, rng = case.track("posterior collapse", len(x)), case.rng("collapse")
    found = collapse_report(model, x.to(case.device), classifier=classifier, labels=labels, generator=rng)
    advance(len(x))
    layers = [{**asdict(layer), "verdict": layer.verdict} for layer in found.layers]
    findings = [finding for k in range(len(layers)) for finding in _layer(found, k)]
    text = (
        f"{found.sentence} Active units are units whose posterior mean has a variance above 0.01 over the data. I(x; "
        f"z) is the mutual information of a layer with the index of the example, at most log {found.data} = "
        f"{found.log_data:.2f} nats for {found.data} examples. KL(q(z) || p(z)) compares the aggregate posterior with "
        "the prior of the top layer. When I(x; z) is near its maximum, this is the mean KL minus "
        f"{found.log_data:.2f}, and it falls with more examples."
    )
    details = {"collapse": {"sentence": found.sentence, "layers": layers}}
    return Part("Posterior collapse", text, findings, details=details)


def _layer(report: CollapseReport, number: int) -> list[Finding]:
    """Findings on one layer, numbered from 0 next to the data; keys contain the number if there are several layers."""
    layer, several = report.layers[number], len(report.layers) > 1
    end, where = (f"_{number + 1}", f", layer {number + 1}") if several else ("", "")

    def of(key: str, name: str, found: Measured, **more: Any) -> Finding:
        return estimated(key + end, name + where, found, **{"best": None, "form": "nats", **more})

    n, units = f"n = {report.data:,}", f"of {layer.units}; {layer.verdict}"
    more: dict[str, Any] = {"best": None, "form": "count", "note": units, "card": True}
    found = [
        Finding(f"active_units{end}", f"active units{where}", layer.active, **more),
        of("kl", "KL(q(z | x) || p(z))", layer.kl, note=n),
        of("information", "mutual information I(x; z)", layer.information, note=f"at most {report.log_data:.2f}"),
    ]
    if number == len(report.layers) - 1:
        found.append(of("aggregate_kl", "KL between aggregate posterior and prior", layer.divergence, best="low"))
    found.append(of("log_px_lost", "loss of log p(x | z) without the layer", layer.log_px_lost))
    if (lost := layer.accuracy_lost) is not None:
        found.append(of("accuracy_lost", "loss of the reader's accuracy without the layer", lost, form="share"))
    return found

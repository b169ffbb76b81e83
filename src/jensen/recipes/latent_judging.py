"""How a variational autoencoder is judged: log p(x), where its bound loses, what its layers hold; and pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jensen.core.seeding import drawing, generator
from jensen.data.pictures import sheet
from jensen.data.pool import to_bytes
from jensen.diffusion import slerp
from jensen.metrics import bits_per_dim
from jensen.models import LatentChain
from jensen.recipes.base import Track
from jensen.recipes.folder import command, save_image
from jensen.recipes.judging import mean_of, nats
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, previews, training_curves, write_page
from jensen.variational import Estimate, gap_split, log_likelihood, lower_bound, pareto_limit
from jensen.variational.collapse import CollapseReport, LayerUse, collapse_report
from jensen.variational.inference import NEAR

if TYPE_CHECKING:
    from jensen.recipes.latent import LatentRecipe

CHUNK = 40  # rows between two moves of the progress bar
SPAN = 2.5  # standard deviations either way, in a traversal
PAIRS = 12  # pictures a row, above their reconstructions
STEPS = 11  # pictures a row of a traversal


@dataclass(frozen=True)
class Judge:
    """A trained model under judgement."""

    recipe: LatentRecipe
    model: LatentChain
    samples: Path
    track: Track

    def everything(self) -> dict[str, Any]:
        """The evaluation: JSON values; pictures beside it."""
        seen, kept = self.recipe.pictures()
        settings, device = self.recipe.judging, next(self.model.parameters()).device
        x = kept[: settings.rows].to(device)
        rng = generator(self.recipe.seed, device)
        log_p = self._log_p(x, f"log p, K = {settings.samples}", rng)
        trained = self._log_p(seen[: len(x)].to(device), "log p of training data", rng)
        bound = lower_bound(self.model, x, samples=100, generator=rng)
        dims = x[0].numel()
        found: dict[str, Any] = {
            "rows": len(x),
            "dims": dims,
            "samples": settings.samples,
            "measure": log_p.measure,
            "log_p": mean_of(log_p),
            "log_p_training": mean_of(trained),
            "bits_per_dim": float(bits_per_dim(log_p.value.mean(), dims)),
            "effective_samples": {"median": float(log_p.ess.median()), "least": float(log_p.ess.min())},
            "pareto_k": _tails(log_p, settings.samples),
            "elbo": mean_of(bound),
        }
        if self.recipe.network.kind == "gaussian" and len(self.recipe.network.latents) == 1:
            found["gap"] = self._gap(x[: settings.refine_rows], rng)
        report = self._collapse(x, rng)
        found["collapse"] = {"words": report.sentence, "layers": [_layer(layer) for layer in report.layers]}
        self._draw(x, rng)
        return found

    def _log_p(self, x: Tensor, name: str, rng: torch.Generator) -> Estimate:
        advance = self.track(name, len(x))
        parts = []
        for rows in x.split(CHUNK):
            parts.append(log_likelihood(self.model, rows, samples=self.recipe.judging.samples, generator=rng))
            advance(len(rows))
        return Estimate.joined(parts, like=x)

    def _gap(self, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        advance = self.track("splitting the gap", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it may lack is a number of its own
            split = gap_split(self.model, x, steps=self.recipe.judging.refine_steps, generator=rng)
        advance(1)
        parts = {"whole": split.total, "approximation": split.approximation, "amortization": split.amortization}
        left = {"mean": float(split.left.mean()), "most": float(split.left.abs().max()), "near": NEAR}
        return {"rows": len(x), "left": left, **{name: mean_of(gap) for name, gap in parts.items()}}

    def _collapse(self, x: Tensor, rng: torch.Generator) -> CollapseReport:
        advance = self.track("looking at the latents", 1)
        classifier, labels = self.recipe.classes() or (None, None)
        labels = None if labels is None else labels[: len(x)].to(x.device)
        report = collapse_report(self.model, x, classifier=classifier, labels=labels, generator=rng)
        advance(1)
        return report

    # pictures ----------------------------------------------------------------------------

    def _draw(self, x: Tensor, rng: torch.Generator) -> None:
        model, recipe = self.model, self.recipe
        save_image(recipe.image(model.sample(64, generator=rng), columns=16), self.samples / "samples.png")
        columns = min(PAIRS, len(x))
        x_shown = x[: min(2, len(x) // columns) * columns]
        with torch.no_grad(), drawing(rng):
            rebuilt = model.decode(model.infer(x_shown, samples=1)[0].z[0])
        pairs = zip(x_shown.split(columns), rebuilt.split(columns), strict=True)
        rows = torch.cat([part for pair in pairs for part in pair])
        save_image(recipe.image(rows, columns=columns), self.samples / "reconstructions.png")
        grid, names = traversal(model, x, rng)
        labels = [name if k % STEPS == STEPS // 2 else "" for name in names for k in range(STEPS)]
        rows = to_bytes(recipe.shown(grid)).cpu()
        save_image(sheet(rows, grid.shape[0] // len(names), captions=labels), self.samples / "traversal.png")
        if recipe.network.kind == "gaussian":
            made = interpolations(model, 6, STEPS, rng)
            save_image(recipe.image(made, columns=STEPS), self.samples / "interpolations.png")

    @staticmethod
    def headline(found: dict[str, Any]) -> list[tuple[str, str]]:
        log_p, ess = found["log_p"], found["effective_samples"]
        rows = [
            (
                f"log p of {found['rows']} pictures never trained on, K = {found['samples']}",
                f"{nats(log_p)}, {found['bits_per_dim']:.4f} bits a dimension",
            ),
            ("  its own noise; effective samples", f"{_noise(log_p)}; {ess['median']:.0f} of the median picture"),
            ("  tails of its weights, Pareto k", _tail_words(found)),
            ("log p of as many that it was trained on", nats(found["log_p_training"])),
            ("evidence lower bound", nats(found["elbo"])),
        ]
        if "gap" in found:
            gap = found["gap"]
            rows += [
                (f"log p less the bound, of {gap['rows']}", nats(gap["whole"])),
                ("  of which the family of q loses", nats(gap["approximation"])),
                ("  and the encoder within it", nats(gap["amortization"])),
                ("  what the best q found may lack", _left_words(gap)),
            ]
        for number, layer in enumerate(found["collapse"]["layers"], start=1):
            top = number == len(found["collapse"]["layers"])
            rows.append((f"layer {number}: {layer['verdict']}", _layer_words(layer, top, found["rows"])))
        rows.append(("collapse", found["collapse"]["words"]))
        return rows


def _tails(found: Estimate, samples: int) -> dict[str, Any]:
    """Pareto k of the weights: the median picture's, the largest, its limit; and how many log p have no error."""
    told = found.pareto_k[~found.pareto_k.isnan()]
    median, largest = (float(told.median()), float(told.max())) if len(told) else (None, None)
    assert found.stderr is not None
    beyond = int(found.stderr.isinf().sum())
    return {"median": median, "largest": largest, "limit": pareto_limit(samples), "beyond": beyond}


def _tail_words(found: dict[str, Any]) -> str:
    k = found["pareto_k"]
    words = f"not to be told of {found['samples']} weights"
    if k["largest"] is not None:
        words = f"median {k['median']:.2f}, largest {k['largest']:.2f}"
    words += f"; {k['beyond']} of {found['rows']} above {k['limit']:.2f} or of few effective samples"
    return f"{words}, where log p is unreliable"


def _noise(log_p: dict[str, float]) -> str:
    return f"{log_p['noise']:.4f} nats" if math.isfinite(log_p["noise"]) else "not known"


def _left_words(gap: dict[str, Any]) -> str:
    left = gap["left"]
    words = f"{left['mean']:.4f} nats, {left['most']:.4f} for the worst picture"
    return words if left["most"] <= left["near"] else f"{words}: judging.refine_steps were too few"


def interpolations(model: LatentChain, rows: int, between: int, rng: torch.Generator) -> Tensor:
    """Rows of pictures, each from one draw of the top layer to another on the sphere's way: (rows * between, *event).

    Layers below are at their means given the one above, and pictures the means of p(x | z).
    """
    with torch.no_grad(), drawing(rng):
        prior = model.prior()
        ends = prior.sample((2, rows))
        share = torch.linspace(0, 1, between, device=ends.device)
        ways = [slerp(a - prior.mean, b - prior.mean, share) + prior.mean for a, b in zip(*ends, strict=True)]
        return _mean_picture(model, torch.cat(ways))


def traversal(model: LatentChain, x: Tensor, rng: torch.Generator, most: int = 8) -> tuple[Tensor, list[str]]:
    """Pictures as one coordinate of the top layer moves and all others stay: (rows * steps, *event), and rows' names.

    Gaussian: the coordinates whose posterior means vary most over `x`, from the first picture's, 2.5 standard
    deviations of those means either way. Categorical: the first groups, through their classes.
    """
    with torch.no_grad(), drawing(rng):
        top = model.infer(x, samples=1)[-1]
        means = top.q.mean[0] if top.q.mean.ndim == top.z.ndim else top.q.mean
        start = means[0]
        if start.ndim == 2:
            groups, classes = start.shape
            hard = torch.nn.functional.one_hot(start.argmax(1), classes).to(start)
            moved = hard.repeat(min(groups, most), STEPS, 1, 1)
            names = [f"group {g + 1}" for g in range(len(moved))]
            for g in range(len(moved)):
                for k in range(STEPS):
                    moved[g, k, g] = torch.nn.functional.one_hot(torch.tensor(k % classes), classes).to(start)
        else:
            spread = means.std(0)
            order = spread.argsort(descending=True)[:most]
            moved = start.repeat(len(order), STEPS, 1)
            names = [f"coordinate {int(d) + 1}" for d in order]
            centre = means.mean(0)
            for row, d in enumerate(order):
                moved[row, :, d] = centre[d] + spread[d] * torch.linspace(-SPAN, SPAN, STEPS, device=start.device)
        return _mean_picture(model, moved.flatten(0, 1)), names


def _mean_picture(model: LatentChain, z: Tensor) -> Tensor:
    """The mean picture of draws of the top layer, every layer below at its mean."""
    for layer in range(len(model.decoders) - 1, 0, -1):
        z = model.law(layer, z).mean
    return model.decode(z)


def _layer(layer: LayerUse) -> dict[str, Any]:
    return {**asdict(layer), "verdict": layer.verdict}


def _layer_words(layer: dict[str, Any], top: bool, rows: int) -> str:
    """What a layer is used for; the aggregated posterior of the top layer alone, whose prior has a closed form."""
    words = f"{layer['active']} of {layer['units']} units active, KL {_measured(layer['kl'])}"
    words += f", I(x; z) {_measured(layer['information'])} of at most log {rows} = {math.log(rows):.2f}"
    if top:
        words += f", KL(q(z) || p(z)) {_measured(layer['divergence'])}"
    words += f", log p(x | z) lost without it {_measured(layer['log_px_lost'])} nats"
    if layer["accuracy_lost"] is not None:
        words += f", digits read {100 * layer['accuracy_lost']['value']:.0f} points worse"
    return words


def _measured(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ± {found['stderr']:.2f}"


def write_report(recipe: LatentRecipe, folder: Path, found: dict[str, Any], extra: Sequence[Section] = ()) -> None:
    """Write report.html below a run's folder; `extra` follows what the layers hold."""
    samples = folder / "samples"
    log_p, layers = found["log_p"], found["collapse"]["layers"]
    names = ["kl"] if len(layers) == 1 else [f"kl_{k}" for k in range(1, len(layers) + 1)]
    prefixes = ("", "model/")  # with other players beside it, the model's terms carry its name
    curves = [(f"{p}{name}", words) for p in prefixes for name, words in _curves(names)]
    sections = [
        Section(
            "Drawn and rebuilt",
            "Draws of p(x | z) with z from the prior; then, in pairs of rows, pictures that were never trained on and "
            "below them the mean picture of one draw of q(z | x).",
            [
                Picture(samples / "samples.png", "draws of the model"),
                Picture(samples / "reconstructions.png", "pictures and their reconstructions"),
            ],
        ),
        Section(
            "What the latents say",
            "One coordinate of the top layer moves along a row, all others stay at the first test picture's.",
            [Picture(samples / "traversal.png", "latent traversal")],
        ),
        Section(
            "From one draw to another",
            "Mean pictures on the sphere's way between two draws of the prior.",
            [Picture(samples / "interpolations.png", "latent interpolations")],
        ),
        *_gap_sections(found.get("gap")),
        Section("What its layers hold", f"{found['collapse']['words']} {_aggregated(found)}", table=_layers(layers)),
        *extra,
        Section("Training", _sentences(recipe.notes()), plots=training_curves(folder, *curves)),
        Section("Draws over training", "The same random numbers, drawn as training went on.", previews(folder)),
        Section("Next", code=_next(recipe, folder)),
    ]
    cards = [
        Card(
            "nats, log p of a picture never trained on",
            f"{log_p['mean']:.2f}",
            f"± {log_p['stderr']:.2f}, n = {found['rows']}, K = {found['samples']}; Pareto k: {_tail_words(found)}",
        ),
        Card("bits a dimension", f"{found['bits_per_dim']:.4f}", f"{found['dims']} dimensions"),
        Card("nats, the evidence lower bound", f"{found['elbo']['mean']:.2f}", f"± {found['elbo']['stderr']:.2f}"),
        Card(
            "active units",
            "+".join(str(layer["active"]) for layer in layers),
            "of " + "+".join(str(layer["units"]) for layer in layers),
        ),
    ]
    lead = f"A {recipe.summary}, judged on {found['rows']} pictures that it was not trained on."
    write_page(folder, lead, cards, sections, recipe.model_dump(mode="json"))


def _curves(names: list[str]) -> list[tuple[str, str]]:
    kl = [(name, "KL" if name == "kl" else f"term of layer {name[3:]}") for name in names]
    return [
        ("elbo", "evidence lower bound, nats"),
        ("relaxed_elbo", "evidence lower bound of the relaxed model, nats"),
        ("no_bound", "log p(x | z) less the categorical KL at relaxed draws, nats"),
        *((name, f"{words}, nats") for name, words in kl),
        ("temperature", "temperature"),
    ]


def _sentences(notes: Sequence[str]) -> str:
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in notes)


def _next(recipe: LatentRecipe, folder: Path) -> str:
    lines = [recipe.example(folder), command("sample", folder, "--interpolate", 11), command("evaluate", folder)]
    return "\n".join(lines if recipe.network.kind == "gaussian" else [lines[0], lines[2]])


def _gap_sections(gap: dict[str, Any] | None) -> list[Section]:
    if gap is None:
        return []
    return [
        Section(
            "Where the bound loses",
            f"log p(x) - ELBO, on {gap['rows']} of the pictures, is what inference loses: a part because no "
            "independent Gaussian is the posterior, a part because the encoder is not the best one for each picture. "
            "Errors are standard errors over pictures. A further step from the best Gaussian found would win "
            f"{_left_words(gap)}: so much of the family's part may be the search's.",
            plots=[
                plots.bars(
                    ["the family", "the encoder"],
                    [gap[name]["mean"] for name in ("approximation", "amortization")],
                    title="nats lost",
                    xlabel="nats",
                )
            ],
            table=Table(
                ("", "nats", "standard error"),
                [(name, f"{gap[name]['mean']:.3f}", f"{gap[name]['stderr']:.3f}") for name in _GAPS],
            ),
        ),
    ]


def _aggregated(found: dict[str, Any]) -> str:
    rows = found["rows"]
    return (
        "Active units are those whose posterior mean varies by more than 0.01 over the data. KL(q(z) || p(z)) compares "
        "all posteriors together with the prior: of the top layer, whose prior has a closed form. I(x; z) is what a "
        f"layer knows of which picture it sees, of {rows} at most log {rows} = {math.log(rows):.2f} nats: where it is "
        f"near, KL(q(z) || p(z)) is the KL less {math.log(rows):.2f}, and falls with more pictures."
    )


_GAPS = ("whole", "approximation", "amortization")


def _layers(layers: list[dict[str, Any]]) -> Table:
    """What each layer of latents is used for."""
    head = ["layer", "active units", "KL, nats", "I(x; z), nats", "KL(q(z) || p(z)), nats"]
    head.append("log p(x | z) lost without it, nats")
    rows = [
        [
            str(number),
            f"{layer['active']} of {layer['units']}",
            _measured(layer["kl"]),
            _measured(layer["information"]),
            _measured(layer["divergence"]) if number == len(layers) else "",
            _measured(layer["log_px_lost"]),
        ]
        for number, layer in enumerate(layers, start=1)
    ]
    if layers[0]["accuracy_lost"] is not None:
        head.append("share of digits read lost")
        for cells, layer in zip(rows, layers, strict=True):
            cells.append(_measured(layer["accuracy_lost"]))
    for cells, layer in zip(rows, layers, strict=True):
        cells.append(layer["verdict"])
    return Table([*head, ""], rows)

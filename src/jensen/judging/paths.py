"""Sampling of diffusion and score models: numbers of steps, paths, round-trip error, guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jensen.core.seeding import derived, generator, generators
from jensen.judging.bounds import diffusion_of
from jensen.judging.case import Case, judge
from jensen.metrics import Proportion, energy_distance, legibility, variety
from jensen.models import Diffusion, ScoreModel
from jensen.models.diffusion import round_trip
from jensen.models.score import LANGEVIN
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, estimated, mean
from jensen.report.gallery import fitting_scale, gallery, side_by_side, spread

STRIP, FILM = 7, 60  # largest numbers of states in the picture and of frames in the animation
TRIPS, TRIP = (4, 8, 16, 32, 64, 128), 64  # numbers of steps in each direction; the one that is reported as a finding
NUMBERS = 6400  # approximate number of dimensions in all rows of a round trip
OWN = " (the run's own)"  # of a setting that is compared
BETWEEN = 11  # pictures per interpolation
COMPARED = 256  # samples at each guidance scale
GROUPS = 32  # largest number of conditions of these samples
LEAST = 8  # fewest pairs of held-out rows of one condition from which variety is computed


def read_as_asked(case: Case, made: Tensor, asked: Tensor | None) -> Proportion | None:
    """The share of samples that are read as their condition, or None without a reader."""
    reader, cond = case.reader, case.data.space.cond
    if reader is None or cond is None or asked is None:
        return None
    return legibility(reader.read(made), cond.legible(asked)).exact


@judge
def by_steps(case: Case) -> Part | None:
    """Energy distance of samples for each number of steps, and the share that is read as the requested condition."""
    model = case.model
    if not isinstance(model, Diffusion | ScoreModel) or not case.settings.steps:
        return None
    comparable, log_p = case.data.space.comparable, case.data.truths.log_p
    x, train = comparable(case.test["x"]), comparable(case.train[: case.settings.samples]["x"])
    sampling = model.sampling
    unit = "moves per level" if sampling.sampler == LANGEVIN else "steps"
    floor = energy_distance(train, x)
    findings, rows = [], []
    for steps, made in case.by_steps.items():
        distance, read, notes = energy_distance(comparable(made), x), read_as_asked(case, made, case.asked), []
        row: dict[str, Any] = {"steps": steps, "energy": distance.value, "stderr": distance.stderr}
        if read is not None:
            row["read"] = vars(read)
            notes.append(f"{read} read as asked")
        if log_p is not None:
            row["log_p"] = float(log_p(made.double(), 0.0).mean())
            notes.append(f"mean log p under the density of the data {row['log_p']:.3f}")
        name = f"energy distance, {steps} {unit}{OWN * (steps == sampling.steps)}"
        findings.append(estimated(f"energy_{steps}", name, distance, floor=floor.value, note="; ".join(notes)))
        rows.append(row)
    counts = [row["steps"] for row in rows]
    lines = {"samples": [row["energy"] for row in rows], "training data": [floor.value] * len(rows)}
    log = all(v > 0 for line in lines.values() for v in line)  # an unbiased estimate may be below 0
    drawn = [plots.curves(counts, lines, title="energy distance to held-out data", xlabel=unit, log=log)]
    drawn += _read_plot(counts, rows, unit)
    text = (
        f"{len(case.samples):,} samples by {sampling.sampler}, drawn from the same noise with each number of {unit}, "
        f"are compared with held-out data{case.data.space.unit}; floor: {len(train):,} training examples in place of "
        "the samples."
    )
    details = {"by_steps": {"floor": vars(floor), "own": sampling.steps, "rows": rows}}
    return Part("Samples against sampling steps", text, findings, plots=drawn, details=details)


def _read_plot(x: Sequence[float], rows: Sequence[dict[str, Any]], xlabel: str) -> list[str]:
    """A plot of the shares that are read as the requested condition, if samples were read."""
    shares = [row["read"] for row in rows if "read" in row]
    return [plots.intervals(x, shares, title="read as asked", xlabel=xlabel)] if shares else []


@judge
def sampling_path(case: Case) -> Part | None:
    """The states of the sampler from noise to samples, as a picture and as an animation."""
    model, space = case.model, case.data.space
    if not isinstance(model, Diffusion | ScoreModel):
        return None
    n = (60 if space.dims <= 1024 else 20) if space.pictures else 1000
    states: list[Tensor] = []
    rng = case.rng("path")
    cond = case.data.asked(n) if case.conditional else None
    model.sample(n, cond=cond, generator=rng, on_step=lambda _, z: states.append(z.cpu()), chunk=n)
    shown, behind = spread(states, STRIP), None

    if space.pictures:
        rows = torch.stack([state[:10] for state in shown], 1).flatten(0, 1)
        strip = gallery(rows, columns=len(shown), scale=fitting_scale(space))
    else:
        states, behind = [state[:, :2] for state in states], case.test["x"][:, :2]
        strip = side_by_side([gallery(state, behind=behind, scale=2) for state in spread(states, STRIP)])
    scale = min(3, fitting_scale(space))
    film = [gallery(state, columns=10, scale=scale, behind=behind) for state in spread(states, FILM)]
    words = f"{len(shown)} of {len(states)} states, from noise to data"
    if not space.pictures and space.dims > 2:
        words += f"; columns {' and '.join(space.columns[:2] or ('1', '2'))}"
    pictures = [
        Picture("strip", strip, "states of the sampler", f"{words}."),
        Picture("film", film, "states of the sampler, animated"),
    ]
    return Part("From noise to data", pictures=pictures)


@judge
def round_trip_error(case: Case) -> Part | None:
    """Round-trip error of held-out data, mapped to noise by DDIM and back."""
    model, space = diffusion_of(case.model), case.data.space
    if model is None:
        return None
    x = case.test["x"][: min(100, max(16, NUMBERS // space.dims))].to(case.device)
    cond = case.test["cond"][: len(x)].to(case.device) if case.conditional else None
    end = 0.0 if model.denoiser.defined(torch.zeros(())) else case.settings.first
    plain = {
        "guidance": 1.0,
        "style_guidance": None,
        "clip": False,
        "shift": 1.0,
        "denoise": False,
        "precision": "float32",
        "end": end,
    }
    scale = space.moments()[1].to(x) if space.by_column else 1.0
    advance, errors = case.track("round trip", sum(TRIPS)), []
    for steps in TRIPS:
        found = round_trip(model, x, [steps], cond=cond, sampler="ddim", eta=0.0, chunk=len(x), scale=scale, **plain)
        errors.append(found[0])
        advance(steps)
    means = [float(error.mean()) for error in errors]
    own = errors[TRIPS.index(TRIP)]
    note = f"root mean square error per dimension{space.unit}; n = {len(x)}"
    finding = mean("round_trip", f"round-trip error, {TRIP} steps each way", own, note=note)
    text = (
        f"{len(x)} held-out examples{' with their conditions' if case.conditional else ''} are mapped to noise by "
        f"DDIM and back to data{f', from t = {end:g}' if end else ''}: root mean square error per dimension"
        f"{space.unit}."
    )
    curve = plots.curves(list(TRIPS), {"error": means}, title="round-trip error", xlabel="steps each way", log=True)
    details = {"round_trip": {"steps": list(TRIPS), "error": means, "end": end}}
    return Part("Round-trip error", text, [finding], plots=[curve], details=details)


@judge
def noise_interpolations(case: Case) -> Part | None:
    """Rows of samples that interpolate between two draws of noise."""
    model, space = case.model, case.data.space
    if not isinstance(model, Diffusion) or not space.pictures:
        return None
    count = 6 if space.dims <= 1024 else 3
    asked = case.data.asked(count) if case.conditional else None
    rows = []
    for k in range(count):
        first, second = generators(derived(case.seed, "interpolations"), [(k, "from"), (k, "to")])
        cond = None if asked is None else asked[k : k + 1]
        rows.append(model.interpolate(first, second, BETWEEN, cond=cond, sampler="ddim", eta=0.0, chunk=BETWEEN).cpu())
    page = gallery(torch.cat(rows), columns=BETWEEN, scale=fitting_scale(space))
    words = "DDIM samples along the great circle between two draws of noise, one row per pair"
    given = "; all samples of a row have the same condition" if case.conditional else ""
    return Part("Interpolations", pictures=[Picture("interpolations", page, words, f"{words}{given}.")])


@judge
def guidance(case: Case) -> Part | None:
    """The effect of guidance on the share that is read as the requested condition, and on variety."""
    model = case.model
    if not isinstance(model, Diffusion) or not case.conditional or model.denoiser.null is None:
        return None
    asked = case.data.asked(COMPARED)
    assert asked is not None
    distinct = asked.unique(dim=0)
    distinct = distinct[torch.randperm(len(distinct), generator=generator(derived(case.seed, "guidance")))[:GROUPS]]
    asked = distinct.repeat_interleave(COMPARED // len(distinct), 0)
    scales = sorted({*case.settings.scales, model.sampling.guidance})
    advance, real = case.track("comparing guidance", len(asked) * len(scales)), _real_variety(case)
    findings, rows = [], []
    for scale in scales:
        made = case.draw(len(asked), cond=asked, seed=derived(case.seed, "guidance"), guidance=scale, advance=advance)
        own, read = scale == model.sampling.guidance, read_as_asked(case, case.data.space.settled(made), asked)
        row: dict[str, Any] = {"scale": scale, "variety": _variety(case, made, asked) / real}
        if read is not None:
            row["read"] = vars(read)
        rows.append(row)
        name = f"variety within a condition, guidance {scale:g}{OWN * own}"
        note = "" if read is None else f"{read} read as asked"
        key = "variety" if own else f"variety_{scale:g}"
        findings.append(Finding(key, name, row["variety"], best=1.0, note=note))
    drawn = []
    if len(rows) > 1:
        drawn.append(plots.curves(scales, {"": [row["variety"] for row in rows]}, title="variety", xlabel="guidance"))
        drawn += _read_plot(scales, rows, "guidance")
    text = (
        f"{len(asked)} samples of {len(distinct)} conditions. Variety is the root mean square distance between two "
        f"samples of the same condition{case.data.space.unit}, divided by that between two held-out examples of the "
        "same condition."
    )
    if (interval := model.sampling.guidance_interval) != (0, 1):
        text += " Guidance is active at times from {:g} to {:g}.".format(*interval)
    if model.sampling.style_guidance is not None:
        text += f" These are scales of the text; that of its styles is {model.sampling.style_guidance:g}."
    if case.data.space.pictures:
        text += " Each picture is first standardised to mean 0 and variance 1, so that contrast does not count."
    return Part("Guidance", text, findings, plots=drawn, details={"guidance": rows})


def _variety(case: Case, x: Tensor, cond: Tensor | None) -> float:
    """Variety within a condition; contrast does not count for pictures, and scales of columns do not count."""
    space = case.data.space
    return variety(space.comparable(x), cond, standardize=space.pictures)


def _real_variety(case: Case) -> float:
    """Variety of held-out data within a condition, or over all data if too few share a condition."""
    x, cond = case.test["x"], case.test["cond"]
    return _variety(case, x, cond if len(cond) - len(cond.unique(dim=0)) >= LEAST else None)

"""The page: numbers into words, tables, charts and sheets; the text is in page.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from jensen.metrics import Proportion
from jensen.report.gallery import gallery, save_image
from jensen.report.plots import BLUE, GREY, ORANGE, blank, framed, png
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps
from machine import table
from study.copies import Copies
from study.diversity import Diversity, one
from study.legibility import Legibility, Legible
from study.pictures import Study, in_data, reduced, right
from study.resistance import Resistance

SHOWN, COLUMNS = 12, 4  # pictures of a sheet
NOT = "not measured"


@dataclass(frozen=True)
class Found:
    """Everything that was measured."""

    legibility: Legibility
    diversity: Diversity
    copies: Copies
    resistance: Resistance


def write(out: Path, study: Study, found: Found, facts: dict[str, Any]) -> Path:
    """Write captcha.md, its pictures and its numbers to a folder; returns the page.

    Args:
        out: the folder.
        study: what was studied.
        found: what was measured.
        facts: the command, its run, the machine, and whether it was a trial.
    """
    folder = out / "captcha"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = sheets(study, found)
    for name, image in pictures.items():
        save_image(image, folder / f"{name}.png")
    write_text(folder / "numbers.json", dumps({**facts, **numbers(found)}, indent=1) + "\n")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": words, "ratio": ratio}
    known = {
        **facts,
        **vars(found),
        "tables": tables(found),
        "pictures": pictures,
        "than": than,
        "study": study,
        "height": reduced(study.asked_pictures[0][:1]).shape[2],
    }
    path = out / "captcha.md"
    write_text(path, environment.get_template("page.md").render(known).rstrip() + "\n")
    return path


def numbers(found: Found) -> dict[str, Any]:
    """All numbers as JSON values; pictures are left out."""
    values = asdict(found)
    del values["copies"]["closest"]
    return values


def words(found: Proportion | None) -> str:
    """A share with its interval."""
    return NOT if found is None else str(found)


def ratio(found: Proportion, digits: int = 2) -> str:
    """A number with its interval."""
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def than(a: Proportion, b: Proportion) -> str:
    """How a compares with b, by the 95 percent interval of their difference (Newcombe, 1998, method 10).

    >>> than(Proportion(0.5, 0.4, 0.6, 9), Proportion(0.65, 0.55, 0.75, 9))
    'less than'
    """
    low = a.value - b.value - math.hypot(a.value - a.low, b.high - b.value)
    high = a.value - b.value + math.hypot(a.high - a.value, b.value - b.low)
    return "less than" if high < 0 else "more than" if low > 0 else "not distinguishable from"


def tables(found: Found) -> dict[str, str]:
    """All tables, as Markdown, by name."""
    made = {"legibility": _legibility(found.legibility), "parts": _parts(found.legibility)}
    made["confused"] = _confused(found.legibility.readers)
    made["spread"] = table(
        ("pictures of one string", "n", "distance, levels of 255", "distance between features"),
        [(s.name, s.n, ratio(s.pixels, 1), ratio(s.features)) for s in found.diversity.spreads],
    )
    made["reached"] = table(
        ("drawn by", "n", "combinations found", "two pictures have the same", "never in data"),
        [(r.name, r.n, r.combinations, words(r.same), words(r.unknown)) for r in found.diversity.reached],
    )
    made["styles"] = table(
        ("style", "model", "classical drawer", "model, new combinations", "classical drawer, new combinations"),
        [(f.kind, *map(words, (f.samples, f.real, f.new_samples, f.new_real))) for f in found.diversity.found],
    )
    head = ("pictures", "n", "mean distance, as a share of fresh pictures'", "nearer", "p", "very near")
    made["copies"] = table(
        head,
        [
            (row.name, row.n, ratio(row.ratio), words(t.interval), f"{t.p_value:.2g}", words(t.copied))
            for row in found.copies.rows
            for t in (row.test,)
        ],
    )
    made["attacks"] = table(
        (
            "labelled pictures",
            "minutes of training on them",
            "served pictures read",
            "classical drawer's pictures read",
        ),
        [(f"{a.labelled:,}", f"{a.minutes:.1f}", words(a.read), words(a.real)) for a in found.resistance.attacks],
    )
    return made


def _legibility(found: Legibility) -> str:
    rows: list[tuple[str, ...]] = []
    shown: Sequence[tuple[str, str]] = (
        ("samples, whole texts", "samples"),
        ("ceiling: classical drawer, same labels", "real"),
        ("samples as a share of the ceiling", "relative"),
        ("floor: samples, shuffled texts", "shuffled"),
        ("samples, single characters", "characters"),
        ("classical drawer, single characters", "real_characters"),
    )
    for name, key in shown:
        rows.append((name, *(words(getattr(reader, key)) for reader in found.readers)))
    rows.append(("n", *(f"{reader.samples.n:,}" for reader in found.readers)))
    return table(("", *(reader.name for reader in found.readers)), rows)


def _parts(found: Legibility) -> str:
    """Whole texts by length and by style, by the networks: samples, and the classical drawer's pictures."""
    readers = [reader for reader in found.readers if reader.characters is not None]
    head = ["whole texts", "n", *(f"{reader.name}: {what}" for reader in readers for what in ("samples", "ceiling"))]
    rows = []
    for key, (shown, _) in readers[0].parts.items():
        rows.append((key, shown.n if shown else 0, *(words(p) for reader in readers for p in reader.parts[key])))
    return table(head, rows)


def _confused(readers: Sequence[Legible]) -> str:
    networks = [reader for reader in readers if reader.characters is not None]
    most = max(len(reader.confused) for reader in networks)

    def cell(reader: Legible, k: int) -> str:
        if k >= len(reader.confused):
            return ""
        asked, read, n = reader.confused[k]
        return f"{_named(asked)} read as {_named(read)}: {n}"

    return table(
        [r.name for r in networks], [[cell(r, k) for r in networks] for k in range(most)] or [[""] * len(networks)]
    )


def _named(character: str) -> str:
    return "no character" if character == " " else character


def sheets(study: Study, found: Found) -> dict[str, Image.Image]:
    """All charts and sheets, by the names of their files."""
    made, _ = study.asked_pictures
    asked = study.characters(study.asked)
    reader = study.second or study.reader
    wrong = ~right(reader, made, asked)

    def sheet(rows: torch.Tensor) -> Image.Image:
        rows = rows[:SHOWN]
        captions = [study.asked[k] for k in rows.tolist()]
        return gallery(made[rows], columns=COLUMNS, scale=2, captions=captions, wrong=wrong[rows].tolist())

    pictures = {
        "samples": sheet(torch.arange(len(made))),
        "confusion": heat_map(found.legibility),
        "resistance": curve(found.resistance),
        "closest": closest(found.copies),
    }
    if study.texts.styles:
        new = (~in_data(study.style, study.asked)).nonzero()[:, 0]
        pictures |= {"new": sheet(new), "styles": in_styles(study)} if len(new) else {"styles": in_styles(study)}
    return pictures


def in_styles(study: Study) -> Image.Image:
    """One string in all papers (rows) and fonts (columns), with all inks in turn."""
    style, k = study.style, study.sizes.shown
    text = one(style).split()[0]
    wanted = [
        f"{text} {font} {paper} {style.inks[(i + j) % len(style.inks)]}"
        for i, paper in enumerate(style.papers[:k])
        for j, font in enumerate(style.fonts[:k])
    ]
    return gallery(study.drawn("one string in many styles", wanted), columns=len(style.fonts[:k]), scale=1)


def closest(found: Copies) -> Image.Image:
    """The closest pairs: samples above training pictures."""
    pairs = torch.cat(found.closest)
    return gallery(pairs, columns=len(found.closest[0]), scale=1, captions=found.captions)


def heat_map(found: Legibility) -> Image.Image:
    """Shares of the characters asked (rows) that are read as others (columns)."""
    counts = torch.tensor(found.table, dtype=torch.float64)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    shares.fill_diagonal_(0)
    size = 0.8 + 0.16 * len(shares)
    figure = blank(size + 0.8, size, 110)
    axes = figure.subplots()
    names = ["-" if c == " " else c for c in found.alphabet]
    image = axes.imshow(shares, cmap="Oranges", vmin=0, vmax=max(0.01, float(shares.max())))
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(range(len(names)), labels=names)
    axes.set_xlabel("read", fontsize=9, color=GREY)
    axes.set_ylabel("asked", fontsize=9, color=GREY)
    framed(axes)
    axes.tick_params(labelsize=7, length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda v, _: f"{100 * v:.1f}%")
    bar.ax.tick_params(labelsize=8, colors=GREY)
    bar.outline.set_visible(False)
    return png(figure)


def curve(found: Resistance) -> Image.Image:
    """Share of pictures that the attacker reads, by the number of labelled pictures."""
    figure = blank(5.4, 3.2, 120)
    axes = figure.subplots()
    places = range(len(found.attacks))
    for name, colour, shares in (
        ("served pictures", BLUE, [a.read for a in found.attacks]),
        ("classical drawer's, same labels", ORANGE, [a.real for a in found.attacks]),
    ):
        reach = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
        values = [s.value for s in shares]
        axes.errorbar(places, values, yerr=reach, color=colour, marker="o", markersize=4, capsize=3, label=name)
    if found.insider is not None:
        axes.axhline(found.insider.value, color=GREY, linewidth=1, linestyle="--", label="second reader, no labels")
    axes.set_xticks(places, labels=[f"{a.labelled:,}" for a in found.attacks])
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}%")
    axes.set_xlabel("labelled pictures", fontsize=9, color=GREY)
    axes.grid(alpha=0.25)
    framed(axes, "whole texts that the attacker's reader reads")
    axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return png(figure)

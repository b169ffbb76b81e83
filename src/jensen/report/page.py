"""A run's page: one self-contained file of cards, pictures, plots and tables, the same for every recipe."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jensen.report import plots
from jensen.training.checkpoint import write_text
from jensen.training.journal import read_journal

TYPES = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Card:
    """A number to see first.

    Attributes:
        name: what it is.
        value: as it is read, with its unit.
        note: its error, its size of sample, what it is compared with.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG or GIF file, which goes into the page; one that is not there is left out.

    Attributes:
        path: of the file.
        alt: what is on it.
        caption: below it.
    """

    path: Path
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        return f"data:{TYPES[self.path.suffix]};base64,{base64.b64encode(self.path.read_bytes()).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """Rows below a head, of text as it is read."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page, shown in this order; what is empty is left out.

    Attributes:
        title: of the section.
        text: what is to be seen and what it means.
        pictures: one below the other.
        plots: SVG of `plots`, side by side where there is room.
        table: numbers.
        code: commands to type next.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    plots: Sequence[str] = ()
    table: Table | None = None
    code: str = ""


def write_page(
    folder: Path, lead: str, cards: Sequence[Card], sections: Sequence[Section], config: dict[str, Any]
) -> None:
    """Write report.html below a run's folder.

    Args:
        folder: of the run, whose name is the page's title.
        lead: what this run is, in a sentence.
        cards: the first is the headline.
        sections: in order.
        config: of the run, folded away at the end.
    """
    text = json.dumps(config, indent=2)
    page = render("page.html", name=folder.resolve().name, lead=lead, cards=cards, sections=sections, config=text)
    write_text(folder / "report.html", page)


def render(template: str, *, package: str = "jensen.report", **values: Any) -> str:
    """A template of a package, filled; it may extend `base.html`, whose block is `main`."""
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "jensen.report"))]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
    environment.filters["trusted"] = Markup  # of our own drawing
    environment.filters["there"] = lambda pictures: [p for p in pictures if p.path.exists()]
    return environment.get_template(template).render(**values)


def training_curves(folder: Path, *extra: tuple[str, str]) -> list[str]:
    """The journal as plots: the loss, then each of `extra` (its key, its title) that was written, then the speed."""
    journal = read_journal(folder / "journal.jsonl")
    drawn = []
    for key, title in (("loss", "loss"), *extra, ("pictures_per_second", "examples a second")):
        lines = [line for line in journal if key in line]
        if not lines:
            continue
        values = [line[key] for line in lines]
        limits = (0.0, 1.1 * max(values)) if key == "pictures_per_second" else None
        seconds = [line["seconds"] for line in lines]
        few = len(values) <= 12
        drawn.append(
            plots.curve(seconds, values, title=title, xlabel="seconds of training", limits=limits, markers=few)
        )
    return drawn


def previews(folder: Path, *, most: int = 6) -> list[Picture]:
    """Pictures over training, at most `most`, the first and the last among them."""
    paths = sorted((folder / "samples").glob("step-*.png"))
    if len(paths) > most:
        paths = [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]
    steps = [int(path.stem.removeprefix("step-")) for path in paths]
    return [Picture(p, f"samples at step {n}", f"step {n}") for p, n in zip(paths, steps, strict=True)]

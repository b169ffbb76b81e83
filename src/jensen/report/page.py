"""The renderer of all reports: parts of a report as a self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture
from jensen.report.gallery import data_uri, made_previews, spread
from jensen.training.checkpoint import write_text
from jensen.training.journal import read_journal


def write_page(
    path: Path,
    name: str,
    lead: str,
    parts: Sequence[Part],
    config: Mapping[str, Any] | str,
    shown: Sequence[Finding] | None = None,
) -> None:
    """Write a report.

    Args:
        path: path of the .html file.
        name: the page's title.
        lead: a sentence on the model and the data.
        parts: sections of the page, in order.
        config: settings, collapsed at the end of the page.
        shown: findings that are shown first as cards; None: those that `cards` returns.
    """
    text = config if isinstance(config, str) else json.dumps(config, indent=2)
    first = cards(parts) if shown is None else shown
    write_text(path, render("page.html", name=name, lead=lead, cards=first, parts=parts, config=text))


def cards(parts: Sequence[Part]) -> list[Finding]:
    """The findings that are shown first, in order; the first is the headline."""
    return [finding for part in parts for finding in part.findings if finding.card]


def render(template: str, *, package: str = "jensen.report", **values: Any) -> str:
    """Render a template of a package, which may extend `base.html` with a block `main`."""
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "jensen.report"))]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
    environment.filters["trusted"] = Markup  # SVG that jensen drew itself
    environment.filters["uri"] = data_uri
    return environment.get_template(template).render(**values)


def training_curves(folder: Path, extra: Mapping[str, str]) -> list[str]:
    """Plots of the journal: the loss, the entries of `extra` (key and title) that it contains, and the speed.

    A key of `extra` may name several entries, separated by spaces, which share a plot.
    """
    journal = read_journal(folder / "journal.jsonl")
    drawn = []
    usual = {"loss": "loss", "held_out/loss": "loss of held-out data"}
    for keys, title in {**usual, **extra, "examples_per_second": "examples per second"}.items():
        having = {key: [line for line in journal if isinstance(line.get(key), int | float)] for key in keys.split()}
        rows = {key: lines for key, lines in having.items() if lines}
        if not rows:
            continue
        seconds = [line["seconds"] for line in next(iter(rows.values()))]
        values = {key: [line[key] for line in lines] for key, lines in rows.items() if len(lines) == len(seconds)}
        limits = (0.0, 1.1 * max(values[keys])) if keys == "examples_per_second" else None
        few = len(seconds) <= 12
        drawn.append(
            plots.curves(seconds, values, title=title, xlabel="seconds of training", limits=limits, markers=few)
        )
    return drawn


def previews(folder: Path) -> list[Picture]:
    """At most six previews from training, including the first and the last."""
    found = []
    for step, path in spread(made_previews(folder), 6):
        found.append(Picture(path.stem, Image.open(path), f"samples at step {step}", f"step {step}"))
    return found

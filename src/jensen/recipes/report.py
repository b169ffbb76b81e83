"""report.html of a captcha run: one file that holds its curves, pictures and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from jensen.data.pictures import data_uri
from jensen.recipes import plots
from jensen.training.checkpoint import write_text
from jensen.training.journal import read_journal

SHEETS = ("texts", "strip", "nearest", "unconditional")
SHOWN_STEPS = 6


def write_report(
    config: dict[str, Any], folder: Path, evaluation: dict[str, Any], headline: list[tuple[str, str]]
) -> None:
    """Write report.html below `folder` from what is there."""
    journal = read_journal(folder / "journal.jsonl")
    samples = folder / "samples"
    sheets = {name: samples / f"{name}.png" for name in SHEETS}
    environment = Environment(loader=PackageLoader("jensen.recipes"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("captcha.html").render(
        name=folder.name,
        folder=folder,
        example=evaluation["asked"][0] if "asked" in evaluation else "TEXT",
        cards=_cards(evaluation),
        headline=headline,
        sampling=evaluation["sampling"],
        sheets={name: _embed(path) for name, path in sheets.items()},
        steps=_steps(samples, journal),
        plots=_plots(journal, evaluation),
        guidance=evaluation["guidance"],
        memorisation=evaluation["memorisation"],
        unconditional=evaluation["unconditional"],
        training_pictures=f"{config['data']['pictures']:,}",
        config=json.dumps(config, indent=2),
    )
    write_text(folder / "report.html", page)


def _embed(path: Path) -> str | None:
    return data_uri(Image.open(path)) if path.exists() else None


def _cards(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    def card(name: str, value: float, note: str) -> dict[str, str]:
        return {"name": name, "value": f"{100 * value:.1f}%", "note": note}

    def share(name: str, p: dict[str, float]) -> dict[str, str]:
        return card(name, p["value"], f"{100 * p['low']:.1f} to {100 * p['high']:.1f}, n = {p['n']:.0f}")

    cards = []
    if "legibility" in evaluation:
        found = evaluation["legibility"]
        cards += [
            share("whole strings read as asked", found["generated"]["exact"]),
            share("single characters", found["generated"]["character"]),
            share("ceiling: classical pictures", found["ceiling"]["exact"]),
            share("floor: shuffled texts", found["shuffled"]["exact"]),
        ]
    speed = evaluation["sampling"]["pictures_per_second"]
    cards.append({"name": "pictures drawn a second", "value": f"{speed:.0f}", "note": "on the machine of this run"})
    return cards


def _steps(samples: Path, journal: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most six previews, the first and the last among them."""
    paths = sorted(samples.glob("step-*.png"))
    if len(paths) > SHOWN_STEPS:
        paths = [paths[round(i * (len(paths) - 1) / (SHOWN_STEPS - 1))] for i in range(SHOWN_STEPS)]
    read = {line["step"]: line["legibility"] for line in journal if "legibility" in line}
    steps = []
    for path in paths:
        number = int(path.stem.split("-")[1])
        note = f", {100 * read[number]:.0f}% of 64 read" if number in read else ""
        steps.append({"number": number, "uri": data_uri(Image.open(path)), "note": note})
    return steps


def _plots(journal: list[dict[str, Any]], evaluation: dict[str, Any]) -> dict[str, Any]:
    losses = [line for line in journal if "loss" in line]
    read = [line for line in journal if "legibility" in line]
    training, guidance = [], []
    if losses:
        seconds = [line["seconds"] for line in losses]
        training.append(
            plots.curve(seconds, [line["loss"] for line in losses], title="loss", xlabel="seconds of training")
        )
        rates = [line["pictures_per_second"] for line in losses]
        training.append(
            plots.curve(
                seconds, rates, title="pictures a second", xlabel="seconds of training", limits=(0, 1.1 * max(rates))
            )
        )
    if read:
        training.insert(
            1,
            plots.curve(
                [line["seconds"] for line in read],
                [line["legibility"] for line in read],
                title="whole strings read (64 pictures)",
                xlabel="seconds of training",
                limits=(0, 1.02),
                markers=True,
            ),
        )
    rows = evaluation["guidance"]
    scales = [row["scale"] for row in rows]
    if all("exact" in row for row in rows):
        guidance.append(
            plots.intervals(
                scales, [row["exact"] for row in rows], title="whole strings read", xlabel="guidance", ylabel=""
            )
        )
    guidance.append(
        plots.curve(scales, [row["variety"] for row in rows], title="variety", xlabel="guidance", markers=True)
    )
    near = evaluation["memorisation"]
    memorisation = plots.histograms(
        {"drawn": near["generated"], "fresh classical": near["fresh"]},
        title="distance to the nearest training picture",
        xlabel="root mean square, pictures in [-1, 1]",
    )
    return {
        "training": [Markup(p) for p in training],  # noqa: S704 (our own SVG)
        "guidance": [Markup(p) for p in guidance],  # noqa: S704
        "memorisation": Markup(memorisation),  # noqa: S704
    }

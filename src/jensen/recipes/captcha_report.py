"""The captcha run's page: what was asked, drawn and read, what guidance buys, and whether it copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jensen.recipes.folder import command
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, previews, training_curves, write_page

LEAD = (
    "A text-conditional diffusion model that draws CAPTCHA pictures, read back by a network that was trained on "
    "classical pictures only and on other strings than the {pictures} judged here."
)
ASKED = (
    "Pictures of strings that no training ever drew, at {steps} evaluations of the denoiser with guidance {guidance}. "
    "What the reader misread is in red. It always answers with the asked number of characters, so a picture with a "
    "stroke too many can still count as read: look for yourself."
)
GUIDANCE = (
    "Variety is the distance between two pictures of one string, each brought to mean 0 and variance 1 so that "
    "contrast does not count, as a share of that between two classical pictures of it."
)
COPYING = (
    "Distance from each drawn picture to the nearest of the {training} training pictures, beside that of fresh "
    "classical pictures. {closer:.1f}% of the drawn ones lie closer than the closest 1% of fresh ones: far more than "
    "1% would be copies, or pictures concentrated on what is common."
)


def write_report(config: dict[str, Any], folder: Path, evaluation: dict[str, Any]) -> None:
    """Write report.html below `folder` from what is there."""
    samples, sampling = folder / "samples", evaluation["sampling"]
    trip = evaluation["round_trip"]
    near, example = evaluation["memorisation"], evaluation["asked"][0] if "asked" in evaluation else "TEXT"
    sections = [
        Section(
            "Asked and read",
            ASKED.format(**sampling),
            [Picture(samples / "texts.png", "pictures of requested texts with what was read")],
        ),
        Section(
            "From noise to picture",
            "The sampler's state, from its first steps to the finished picture.",
            [Picture(samples / "strip.png", "denoising strip")],
        ),
        Section("Training", plots=training_curves(folder, ("legibility", "whole strings read (64 pictures)"))),
        Section(
            "Pictures over training",
            "The same strings and the same noise, drawn by the averaged weights as training went on.",
            previews(folder),
        ),
        Section(
            "What guidance buys and what it costs",
            GUIDANCE,
            plots=_guidance(evaluation["guidance"]),
            table=Table(
                ("guidance", "whole strings read", "95% interval", "variety"),
                [_guidance_row(row) for row in evaluation["guidance"]],
            ),
        ),
        Section(
            "Is it copying?",
            COPYING.format(
                training=f"{config['data']['pictures']:,}", closer=100 * near["closer_than_fresh_percentile"]["value"]
            ),
            [
                Picture(
                    samples / "nearest.png",
                    "drawn pictures beside their nearest training pictures",
                    "The six drawn pictures that lie closest, each beside its nearest training picture.",
                )
            ],
            [
                plots.histograms(
                    {"drawn": near["generated"], "fresh classical": near["fresh"]},
                    title="distance to the nearest training picture",
                    xlabel="root mean square, pictures in [-1, 1]",
                )
            ],
        ),
        Section(
            "There and back",
            f"Root mean square error a pixel, in [-1, 1], of {trip['pictures']} classical pictures that DDIM carried "
            "to noise and back, given their texts and without guidance.",
            plots=[
                plots.curves(
                    trip["steps"], {"error a pixel": trip["error"]}, title="error", xlabel="steps each way", log=True
                )
            ],
        ),
        Section(
            "Without a text",
            _free(evaluation["unconditional"]),
            [Picture(samples / "unconditional.png", "pictures drawn without a text")],
        ),
        Section(
            "Next",
            code="\n".join(
                [
                    command("sample", folder, "--text", example, "--seed", 5, "--out", "x.png"),
                    command("sample", folder, "-n", 16),
                    command("evaluate", folder),
                ]
            ),
        ),
    ]
    write_page(folder, LEAD.format(**sampling), _cards(evaluation), sections, config)


def _cards(evaluation: dict[str, Any]) -> list[Card]:
    def share(name: str, p: dict[str, float]) -> Card:
        note = f"{100 * p['low']:.1f} to {100 * p['high']:.1f}, n = {p['n']:.0f}"
        return Card(name, f"{100 * p['value']:.1f}%", note)

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
    cards.append(Card("pictures drawn a second", f"{speed:.0f}", "on the machine of this run"))
    return cards


def _guidance(rows: list[dict[str, Any]]) -> list[str]:
    scales = [row["scale"] for row in rows]
    drawn = []
    if all("exact" in row for row in rows):
        read = [row["exact"] for row in rows]
        drawn.append(plots.intervals(scales, read, title="whole strings read", xlabel="guidance", ylabel=""))
    variety = [row["variety"] for row in rows]
    return [*drawn, plots.curve(scales, variety, title="variety", xlabel="guidance", markers=True)]


def _guidance_row(row: dict[str, Any]) -> tuple[str, ...]:
    read, interval = "-", "-"
    if "exact" in row:
        p = row["exact"]
        read, interval = f"{100 * p['value']:.1f}%", f"{100 * p['low']:.1f} to {100 * p['high']:.1f}"
    return str(row["scale"]), read, interval, f"{row['variety']:.2f}"


def _free(found: dict[str, Any]) -> str:
    variety = f"Their variety is {found['variety']:.2f} of classical pictures'."
    if "valid" not in found:
        return variety
    return (
        f"{100 * found['valid']['value']:.1f}% of {found['pictures']} pictures are read with every character at 0.9 "
        f"or surer (classical pictures: {100 * found['valid_classical']['value']:.1f}%), "
        f"{100 * found['distinct']:.0f}% of those strings are distinct. {variety}"
    )

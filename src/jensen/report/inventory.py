"""An inventory of pictures as parts of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from PIL import Image
from torch import Tensor

from jensen.data.inventory import Inventory
from jensen.data.split import MOST_TEST
from jensen.data.survey import natural
from jensen.report import plots
from jensen.report.findings import Finding, Part, Picture, Table
from jensen.report.gallery import gallery

SHEET, COLUMNS, PAIRS = 48, 8, 8  # pictures on the sheet, and in a row; pairs of near duplicates shown
MOST_ROWS, MOST_BARS, MOST_SIZES = 200, 24, 8  # rows of a table, bars of a plot, sizes that are listed
LINE = 80  # characters of a caption in a table


def parts(found: Inventory, code: str) -> list[Part]:
    """The parts: sample pictures, counts, classes, captions, copies, files left out, and the settings.

    Args:
        found: the inventory.
        code: commands that train on the pictures.
    """
    counted = [_sheet(found), _counts(found), classes(found.pack.labels), _captions(found)]
    made = [*counted, _copies(found), _left_out(found), _settings(found, code)]
    return [part for part in made if part is not None]


def _counts(found: Inventory) -> Part:
    pack, seen = found.pack, found.survey
    held = int(found.test.sum())
    findings = [
        count("pictures", "pictures", len(pack), note=f"{held} of them held out", card=True),
        count("broken", "broken files", len(pack.broken), note="left out" * bool(pack.broken), card=True),
        count("skipped", "other files, skipped", len(pack.skipped) - len(pack.broken)),
    ]
    tables = []
    if seen is not None:
        features = {"with alpha": seen.alpha, "animated": seen.animated, "rotated or flipped by EXIF data": seen.turned}
        tables = [
            Table(("height x width", "pictures"), _shares(_sizes(seen.sizes), seen.seen), "Sizes"),
            Table(("format and mode", "pictures"), _shares({**seen.formats, **seen.modes}, seen.seen), "Files"),
            Table(("", "pictures"), _shares({k: n for k, n in features.items() if n}, seen.seen), "Features"),
        ]
    return Part(
        "Pictures",
        findings=findings,
        tables=[table for table in tables if table.rows],
        details={"sizes": _sizes(seen.sizes, None), "formats": dict(seen.formats), "modes": dict(seen.modes)}
        if seen is not None
        else {},
    )


def _sheet(found: Inventory) -> Part:
    rows = torch.linspace(0, len(found.pack) - 1, min(SHEET, len(found.pack))).long()
    form = found.pack.form
    text = f"As a model sees them: {form.height} x {form.width} pixels, {_colours(form.channels)}."
    return Part("A sample", text, pictures=[Picture("pictures", _shown(found, rows), "pictures of the data")])


def classes(given: Sequence[str | None]) -> Part | None:
    """The numbers of rows of each class, given the classes of all rows, or None without any."""
    labels = [label for label in given if label is not None]
    if not labels:
        return None
    counts = dict(sorted(Counter(labels).items(), key=lambda pair: natural(pair[0])))
    few = min(counts, key=lambda label: counts[label])
    without, smallest = len(given) - len(labels), f"the smallest is {few}, {counts[few]} row{'s' * (counts[few] > 1)}"
    findings = [
        count("classes", "classes", len(counts), note=smallest, card=True),
        *([count("unlabelled", "rows without a class", without)] if without else []),
    ]
    drawn = 1 < len(counts) <= MOST_BARS
    bars = [plots.bars(list(counts), list(counts.values()), title="rows of each class", xlabel="")] if drawn else []
    table = Table(("class", "rows"), _shares(dict(Counter(counts).most_common()), len(labels)))
    return Part("Classes", findings=findings, plots=bars, tables=[] if drawn else [table], details={"classes": counts})


def _captions(found: Inventory) -> Part | None:
    texts = {name: text for name, text in zip(found.pack.names, found.pack.texts, strict=True) if text is not None}
    if not texts:
        return None
    alphabet = "".join(sorted(set().union(*texts.values())))
    longest = max(texts.values(), key=len)
    findings = [
        count("captions", "captions", len(texts), note=f"{len(set(texts.values()))} different", card=True),
        count("longest", "characters in the longest caption", len(longest), note=_cut(longest)),
        count("alphabet", "different characters", len(alphabet), note=alphabet),
    ]
    rows = [(name, _cut(text)) for name, text in list(texts.items())[:: -(-len(texts) // COLUMNS)]]
    return Part("Captions", findings=findings, tables=[Table(("picture", "caption"), rows)])


def _copies(found: Inventory) -> Part:
    copies, near = sum(len(group) - 1 for group in found.copies), found.near_names
    compared = min(int(found.test.sum()), MOST_TEST)
    same = "files with the same bytes as another file" if found.survey else "pictures equal to another picture"
    findings = [
        count("copies", "copies", copies, note=same),
        count(
            "near",
            "near duplicates",
            len(near),
            note=f"held-out pictures, of {compared}, that nearly equal a training picture",
            card=True,
        ),
    ]
    tables = [
        limited(("copies",), [(", ".join(group),) for group in found.copies], "Groups of copies"),
        limited(("training picture", "held-out picture"), near, "Pairs of near duplicates"),
    ]
    sheets = []
    if near:
        rows = torch.tensor(found.near[:PAIRS]).flatten()
        sheets = [
            Picture(
                "near", _shown(found, rows), "near duplicates", "pairs of a training picture and a held-out picture"
            )
        ]
    return Part(
        "Duplicates",
        "A held-out picture that nearly equals a training picture measures memorisation, not generalisation.",
        findings,
        sheets,
        tables=[table for table in tables if table.rows],
        details={"copies": found.copies, "near": near},
    )


def _left_out(found: Inventory) -> Part | None:
    pack = found.pack
    others = {name: why for name, why in pack.skipped.items() if name not in pack.broken}
    tables = [
        limited(("broken file", "why"), list(pack.broken.items()), "Broken"),
        limited(("skipped file", "why"), list(others.items()), "Skipped"),
    ]
    details = {"broken": dict(pack.broken), "skipped": others}
    return Part("Files left out", tables=[table for table in tables if table.rows], details=details)


def _settings(found: Inventory, code: str) -> Part:
    form = found.pack.form
    words = {
        "crop": "cropped to this aspect ratio",
        "pad": "padded to this aspect ratio",
        "stretch": "stretched to this size",
    }
    laid = "alpha kept" if form.alpha == "keep" else f"transparent pixels on {form.alpha}"
    text = f"{form.height} x {form.width} pixels, {_colours(form.channels)}, {words[form.fit]}, {laid}."
    return Part("Settings", text, code=code, details={"form": asdict(form)})


def count(key: str, name: str, value: int, note: str = "", card: bool = False) -> Finding:
    """A finding that is a number of things."""
    return Finding(key, name, value, best=None, form="count", note=note, card=card)


def _sizes(sizes: Mapping[tuple[int, int], int], most: int | None = MOST_SIZES) -> dict[str, int]:
    """Counts by size as text; the less frequent sizes are added up."""
    counts = {f"{height} x {width}": n for (height, width), n in list(sizes.items())[:most]}
    rest = sum(sizes.values()) - sum(counts.values())
    return {**counts, **({f"{len(sizes) - len(counts)} other sizes": rest} if rest else {})}


def _shares(counts: Mapping[str, int], total: int) -> list[tuple[str, str]]:
    return [(name, f"{n:,} ({100 * n / total:.3g}%)") for name, n in list(counts.items())[:MOST_ROWS]]


def limited(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str) -> Table:
    """A table of the first rows; the title states the total number."""
    shown = f"the first {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else str(len(rows))
    return Table(head, list(rows[:MOST_ROWS]), f"{title}: {shown}")


def _colours(channels: int) -> str:
    return {1: "grey", 3: "colour", 4: "colour and alpha"}[channels]


def _shown(found: Inventory, rows: Tensor) -> Image.Image:
    """A sheet of pictures, on white where they are transparent."""
    x = torch.from_numpy(found.pack.x[rows.numpy()])
    if x.shape[1] == 4:
        colours, alpha = x[:, :3].float(), x[:, 3:].float() / 255
        x = (colours * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    return gallery(x, columns=COLUMNS, scale=max(1, 96 // max(x.shape[2:])))


def _cut(text: str) -> str:
    return text if len(text) <= LINE else text[: LINE - 1] + "\N{HORIZONTAL ELLIPSIS}"

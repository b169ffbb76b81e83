"""`jensen data`: inspecting and packing a folder of pictures."""

from __future__ import annotations

import re
from pathlib import Path

from rich.text import Text

from jensen.cli import show
from jensen.cli.files import writable
from jensen.data.decode import Alpha, Fit, Form
from jensen.data.inventory import inventory
from jensen.data.listing import list_pictures
from jensen.data.pack import write_pack
from jensen.data.survey import survey
from jensen.recipes.sources.pair import FOLDERS
from jensen.report.findings import Evaluation, rows
from jensen.report.inventory import parts
from jensen.report.page import write_page
from jensen.runs.folder import command
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps

NAMED = 20  # broken files that are named in the terminal


def check(path: Path, size: str | None, html: Path | None, json_file: Path | None, strict: bool) -> None:
    """`jensen data check`.

    Raises:
        ValueError: if there are no pictures, an option is malformed, or, if strict, a file is broken.
    """
    for file, suffix in ((json_file, ".json"), (html, ".html")):
        if file is not None:
            writable(file, suffix)
    with show.tracking() as track:
        found = inventory(path, None if size is None else parsed(size), strict=strict, track=track)
    form = found.pack.form
    family = "translation" if set(found.pack.labels) >= set(FOLDERS) else "diffusion"
    code = command("train", family, "--data", path)
    if size is not None:
        pack = Path(f"{path.absolute().name}-{form.height}x{form.width}")
        packing = command("data", "pack", path, "--size", f"{form.height}x{form.width}", "--out", pack)
        code = f"{packing}\n{command('train', 'diffusion', '--data', pack)}"
    made = Evaluation(parts(found, code))
    show.line()
    show.rows(rows(made))
    for name, why in list(found.pack.broken.items())[:NAMED]:
        show.console.print(Text.assemble(("broken", "red"), f"  {name}: {why}"))
    show.line()
    show.line(made.parts[-1].text)
    if (held := int(found.test.sum())) < 2 or len(found.test) - held < 2:
        show.note(f"training needs 2 pictures, and 2 that are held out, got {len(found.test) - held} and {held}")
    show.line(code)
    if json_file is not None:
        write_text(json_file, dumps(made.as_dict(), indent=2) + "\n")
        show.line(f"numbers: {json_file}")
    if html is not None:
        lead = "The contents, what was left out and why, and suggested settings for these pictures."
        write_page(html, path.absolute().name, lead, made.parts, {"path": str(path), **made.details["form"]})
        show.line(f"page: {html}")


def pack(
    path: Path,
    size: str | None,
    out: Path,
    fit: Fit | None,
    channels: int | None,
    alpha: Alpha | None,
    processes: int | None,
    strict: bool,
) -> None:
    """`jensen data pack`; options that are not given take the suggested values.

    Raises:
        ValueError: if there are no pictures, an option is malformed, `out` exists, or, if strict, a file is broken.
    """
    listing = list_pictures(path)
    form = survey(listing).form(None if size is None else parsed(size))
    channels = channels or (4 if alpha == "keep" else form.channels)
    alpha = alpha or ("keep" if channels == 4 else form.alpha)
    form = Form(channels, form.height, form.width, fit or form.fit, alpha)
    with show.tracking() as track:
        made = write_pack(listing, form, out, processes=processes, strict=strict, track=track)
    for name, why in list(made.broken.items())[:NAMED]:
        show.note(f"left out {name}: {why}")
    channels, height, width = form.shape
    show.line(f"packed {len(made)} pictures, {channels} x {height} x {width}, {form.fit}: {out}")
    show.line(command("train", "diffusion", "--data", out))


def parsed(size: str) -> tuple[int, int]:
    """Height and width from "64" or "48x64".

    Raises:
        ValueError: for anything else.

    >>> parsed("64"), parsed("48x64")
    ((64, 64), (48, 64))
    """
    if (found := re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", size)) is None:
        raise ValueError(f"--size must be a number of pixels or HEIGHTxWIDTH, such as 64 or 48x64, got {size!r}")
    height, width = found.group(1), found.group(2) or found.group(1)
    return int(height), int(width)

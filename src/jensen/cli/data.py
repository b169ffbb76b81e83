"""`jensen data`: inspecting data, and packing a folder of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.text import Text

from jensen.cli import show
from jensen.cli.files import writable
from jensen.core.failure import Told
from jensen.data.contents import of_data, of_table
from jensen.data.decode import Alpha, Fit, Form
from jensen.data.inventory import inventory
from jensen.data.listing import list_pictures
from jensen.data.pack import write_pack
from jensen.data.split import held_out_rows
from jensen.data.survey import survey
from jensen.data.tables import read_cells
from jensen.recipes.sources.arrays import Arrays
from jensen.recipes.sources.base import Source, source
from jensen.recipes.sources.pair import Pair
from jensen.recipes.sources.pictures import Pictures
from jensen.recipes.sources.table import Table
from jensen.report.contents import parts as described
from jensen.report.findings import Evaluation, rows, sentence
from jensen.report.inventory import parts
from jensen.report.page import write_page
from jensen.runs.folder import command
from jensen.runs.use import use
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps

NAMED = 20  # broken files that are named in the terminal


def check(
    path: Path, size: str | None, html: Path | None, json_file: Path | None, strict: bool, files: Sequence[Path]
) -> None:
    """`jensen data check`.

    Raises:
        Told: with exit code 2, after the report, if training refuses the data and no setting that is named helps.
        ValueError: if nothing can be read, an option is malformed, or, if strict, a file is broken or a number missing.
    """
    use(files)
    for file, suffix in ((json_file, ".json"), (html, ".html")):
        if file is not None:
            writable(file, suffix)
    found = source(path)
    made, config, code = (
        _pictures(found, path, None if size is None else parsed(size), strict)
        if isinstance(found, Pictures | Pair)
        else _rows(found, path, size, strict, command("train", "diffusion", "--data", path))
    )
    show.line()
    show.line(made.parts[-1].text)
    if code:
        show.line(code)
    if json_file is not None:
        write_text(json_file, dumps(made.as_dict(), indent=2) + "\n")
        show.line(f"numbers: {json_file}")
    if html is not None:
        lead = "The contents, what was left out and why, and what a run would use."
        write_page(html, path.absolute().name, lead, made.parts, {"path": str(path), **config})
        show.line(f"page: {html}")
    if not code:
        raise Told(2)


def _pictures(
    found: Pictures | Pair, path: Path, size: tuple[int, int] | None, strict: bool
) -> tuple[Evaluation, dict[str, Any], str]:
    """A folder of pictures, a tar file or a pack: its report, the form of the pictures, and commands that train."""
    sides = [found] if isinstance(found, Pictures) else [s for s in (found.a, found.b) if isinstance(s, Pictures)]
    held = [Path(side.held_out).name for side in sides if side.held_out is not None]
    with show.tracking() as track:
        seen = inventory(path, size, held=held, strict=strict, track=track)
    form = seen.pack.form
    family = "diffusion" if isinstance(found, Pictures) else "translation"
    code = command("train", family, "--data", path)
    if size is not None and isinstance(found, Pair):
        code = command("train", family, "--data", path, "--set", f"data.a.size={form.height}x{form.width}")
    elif size is not None:
        pack = Path(f"{path.absolute().name}-{form.height}x{form.width}")
        packing = command("data", "pack", path, "--size", f"{form.height}x{form.width}", "--out", pack)
        code = f"{packing}\n{command('train', 'diffusion', '--data', pack)}"
    few = (test := int(seen.test.sum())) < 2 or len(seen.test) - test < 2
    code = "" if few else code
    made = Evaluation(parts(seen, code))
    show.line()
    show.rows(rows(made))
    for name, why in list(seen.pack.broken.items())[:NAMED]:
        show.console.print(Text.assemble(("broken", "red"), f"  {name}: {why}"))
    if few:
        show.note(f"training needs 2 pictures, and 2 that are held out, got {len(seen.test) - test} and {test}")
    return made, made.details["form"], code


def _rows(
    found: Source, path: Path, size: str | None, strict: bool, code: str
) -> tuple[Evaluation, dict[str, Any], str]:
    """Other data: their report, their settings, and the command that trains on them."""
    if size is not None:
        raise ValueError(f"--size must be given for a folder of pictures or a .tar file only, got {path}")
    table = read_cells(found.path) if isinstance(found, Table) else None
    try:
        with show.tracking() as track:
            data = found.open(0, track)
    except ValueError as refused:
        if strict or table is None:
            raise
        contents, said, repaired, code = of_table(table, None), f"Training refuses these data: {refused}.", code, ""
        with suppress(ValueError):
            found.model_copy(update={"missing": "drop"}).open(0)
            code = f"{repaired} --set data.missing=drop"
    else:
        said = " ".join(map(sentence, data.notes or [data.name]))
        n = len(data.train) + len(data.test)
        file = held_out_rows(n, found.test) if isinstance(found, Table | Arrays) else None
        contents = of_data(data, file) if table is None else of_table(table, file)
    made = Evaluation(described(contents, code, said))
    show.line()
    show.rows(rows(made))
    if counts := made.details.get("classes"):
        more = ", ..." * (len(counts) > NAMED)
        show.line("; ".join(f"{name}: {count:,}" for name, count in list(counts.items())[:NAMED]) + more)
    for columns in (table for part in made.parts if part.title == "Columns" for table in part.tables):
        show.line()
        show.console.print(show.grid(columns))
    for row, column, content in contents.wrong[:NAMED]:
        show.console.print(Text.assemble(("not a finite number", "red"), f"  row {row}, column {column}: {content}"))
    return made, found.model_dump(mode="json"), code


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

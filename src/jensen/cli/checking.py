"""`jensen check`: run laws and show their evidence."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from rich.table import Table
from rich.text import Text

from jensen.check.certificate import Outcome, run_all, select
from jensen.check.law import Law
from jensen.check.laws import FAMILIES
from jensen.check.own import laws_of_file
from jensen.check.page import write_certificate
from jensen.check.portrait import dirac_panels, phase_portrait
from jensen.cli import show
from jensen.cli.files import writable
from jensen.core.failure import Failure
from jensen.report.gallery import save_image
from jensen.training.checkpoint import write_text
from jensen.training.strict_json import dumps


def check(
    names: list[str],
    json_file: Path | None,
    html: Path | None,
    precision: float,
    processes: int | None,
    names_only: bool,
    portrait: Path | None = None,
) -> None:
    """`jensen check`.

    Raises:
        ValueError: for an unknown name, a Python file that is missing, raises or defines nothing to check, a precision
            or number of processes out of range, or a file that cannot be written.
        Failure: if a law fails.
    """
    files = [name for name in names if name.endswith(".py")]
    families: dict[str, list[Law]] = {name: laws_of_file(Path(name)) for name in files}
    own = [law for laws in families.values() for law in laws]
    if not names or len(files) < len(names):
        families |= select(FAMILIES, [name for name in names if name not in files])
    if names_only:
        _list(families)
        return
    for file, suffix in ((json_file, ".json"), (html, ".html"), (portrait, ".png")):
        if file is not None:
            writable(file, suffix)
    laws = [law for found in families.values() for law in found]
    if processes is None:
        processes = min(os.cpu_count() or 1, len(laws))
    with show.tracking() as track:
        advance = track("laws", len(laws))
        run = partial(run_all, precision=precision, on_outcome=lambda _: advance(1))
        outcomes = [*run(own), *run(laws[len(own) :], processes=processes)]  # a file's laws are known here alone
    by_name = {outcome.law: outcome for outcome in outcomes}
    show.line()
    if names:
        for law in laws:
            _claims(law, by_name[law.name])
    else:
        show.console.print(_by_family(families, by_name))
    for outcome in outcomes:
        if not outcome.holds:
            _say_why(outcome)
    if json_file is not None:
        write_text(json_file, dumps([outcome.as_dict() for outcome in outcomes], indent=2) + "\n")
    if html is not None:
        write_certificate(html, families, by_name)
        show.line(f"page: {html}")
    if portrait is not None:
        save_image(phase_portrait(dirac_panels()), portrait)
        show.line(f"portraits: {portrait}")
    claims, failed = sum(len(o.report.evidence) for o in outcomes), [o.law for o in outcomes if not o.holds]
    if failed:
        raise Failure(f"{len(failed)} of {len(outcomes)} laws fail: {', '.join(failed)}")
    seconds = sum(outcome.seconds for outcome in outcomes)
    show.line(f"all {len(outcomes)} laws hold: {claims} claims, {seconds:.0f} s of work")


def _list(families: dict[str, list[Law]]) -> None:
    for family, laws in families.items():
        show.console.print(Text(family, "bold"))
        for law in laws:
            show.console.print(Text.assemble(f"  {law.name:<44}", (law.claim, "dim")))


def _verdict(holds: bool) -> Text:
    return Text("holds", "green") if holds else Text("FAILS", "bold red")


def _by_family(families: dict[str, list[Law]], found: dict[str, Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, right in (("family", False), ("laws", True), ("claims", True), ("hold", True), ("seconds", True)):
        table.add_column(name, justify="right" if right else "left")
    for family, laws in families.items():
        outcomes = [found[law.name] for law in laws]
        holding = sum(o.holds for o in outcomes)
        table.add_row(
            family,
            str(len(outcomes)),
            str(sum(len(o.report.evidence) for o in outcomes)),
            Text(str(holding), "green" if holding == len(outcomes) else "bold red"),
            f"{sum(o.seconds for o in outcomes):.1f}",
        )
    return table


def _claims(law: Law, outcome: Outcome) -> None:
    """Print a law and each of its claims."""
    show.console.print(Text.assemble((law.name, "bold"), f"  {law.claim}"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("  claim", "theory", "measured", "within", "sees from", ""):
        table.add_column(name, justify="left" if name in ("  claim", "") else "right", overflow="fold")
    for e in outcome.report.evidence:
        sign = {"equal": "", "at most": "≤ ", "at least": "≥ "}[e.relation]
        found = (f"{sign}{e.expected:.6g}", f"{e.measured + 0.0:.6g}")
        numbers = (*found, f"{e.tolerance:.2g}", f"{e.detectable:.2g}")
        table.add_row(Text(f"  {e.claim}"), *numbers, _verdict(e.holds))
    show.console.print(table)
    show.line()


def _say_why(outcome: Outcome) -> None:
    show.console.print(Text(f"{outcome.law} fails", "bold red"))
    if outcome.error:
        show.line(f"  {outcome.error}")
    for evidence in outcome.report.failed:
        show.line(f"  {evidence}")

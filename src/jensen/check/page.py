"""The certificate as a page: the formula, derivation, plot and evidence of each law."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from latex2mathml.converter import convert
from markupsafe import escape

from jensen.check.certificate import Outcome
from jensen.check.evidence import SIGNS, Evidence
from jensen.check.law import Law
from jensen.report.page import render
from jensen.training.checkpoint import write_text


def write_certificate(path: Path, families: Mapping[str, Sequence[Law]], found: Mapping[str, Outcome]) -> None:
    """Write the outcomes of laws as one self-contained HTML file.

    Args:
        path: where to write the page.
        families: the laws that were run.
        found: the outcome of each law, by name.
    """
    outcomes = [found[law.name] for laws in families.values() for law in laws]
    claims = sum(len(o.report.evidence) for o in outcomes)
    failed = [o for o in outcomes if not o.holds]
    cards = [
        {
            "name": "laws hold",
            "value": f"{len(outcomes) - len(failed)} of {len(outcomes)}",
            "note": "each on jensen's own code",
        },
        {"name": "claims", "value": str(claims), "note": "numbers compared with exact ones"},
        {
            "name": "seconds of computation",
            "value": f"{sum(o.seconds for o in outcomes):.0f}",
            "note": f"torch {torch.__version__}",
        },
    ]
    page = render(
        "certificate.html",
        package="jensen.check",
        name="certificate",
        lead="Propositions tested on jensen's own code: the exact and the measured value of each claim. "
        f"jensen {version('jensen')}, Python {platform.python_version()}.",
        cards=cards,
        families=families,
        found=found,
        failed=[o.law for o in failed],
        mathematics=mathematics,
        prose=prose,
        plot=lambda law: law.plot() if law.plot is not None else "",
        sign=lambda e: SIGNS[e.relation],
        within=within,
        sees=lambda e: f"{e.detectable:.2g}" if e.detectable else "any",
        number=number,
    )
    write_text(path, page)


def mathematics(formula: str) -> str:
    """LaTeX as MathML, which browsers render; "" for no formula."""
    return _mathml(formula, "block") if formula else ""


def prose(text: str) -> str:
    """Text for the page, with mathematics between dollars."""
    parts = text.split("$")
    return "".join(_mathml(part, "inline") if k % 2 else str(escape(part)) for k, part in enumerate(parts))


def _mathml(formula: str, display: str) -> str:
    known = formula.replace(r"\arg", r"\operatorname{arg}")  # which the converter does not know
    made: str = convert(known, display=display)
    return made


def number(value: float) -> str:
    """Six digits, with a typographic minus."""
    return "not finite" if not math.isfinite(value) else f"{value + 0.0:.6g}".replace("-", "\N{MINUS SIGN}")


def within(evidence: Evidence) -> str:
    """The allowed difference of a claim, in words."""
    if evidence.stderr:
        return f"{evidence.tolerance / evidence.stderr:.2g} standard errors of {evidence.stderr:.2g}"
    return f"{evidence.tolerance:.2g}" if evidence.tolerance else "exactly"

"""Evidence on one implementation of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jensen.check.evidence import Evidence, Report


def named(name: str, report: Report) -> Iterator[Evidence]:
    """Each claim of a report with a name before it."""
    return (replace(e, claim=f"{name}: {e.claim}") for e in report.evidence)

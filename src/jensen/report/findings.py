"""Findings: what a judgement says, from which the terminal, the page and evaluation.json are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from PIL import Image

Form = Literal["number", "share", "nats", "count"]
NORMAL = 1.959963984540054  # a 95 percent interval reaches this many standard errors


@dataclass(frozen=True)
class Finding:
    """One number.

    Attributes:
        key: unique in an evaluation; its name in evaluation.json.
        name: as people read it.
        value: the number.
        stderr: its standard error.
        floor: the same number for real data in the samples' place, or another reference that says what is attainable.
        best: "low", "high", the number that is best, or None where there is no best.
        form: how the number is written.
        interval: 95 percent interval.
        note: what it was measured on, what it is compared with.
        card: shown first, as a card on the page.
        facts: whatever else a comparison needs, as JSON values: "kind", "measure" and "dims" of a likelihood.

    >>> print(Finding("frechet", "Frechet distance", 3.14159, stderr=0.2, floor=0.5))
    3.142 ± 0.2 (floor 0.5)
    """

    key: str
    name: str
    value: float
    stderr: float | None = None
    floor: float | None = None
    best: Literal["low", "high"] | float | None = "low"
    form: Form = "number"
    interval: tuple[float, float] | None = None
    note: str = ""
    card: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def said(self, value: float) -> str:
        """A number in this finding's form."""
        if self.form == "share":
            return f"{100 * value:.1f}%"
        if self.form == "count":
            return f"{value:,.0f}"
        return f"{value:.2f}" if self.form == "nats" and abs(value) >= 10 else f"{value:.4g}"

    @property
    def error(self) -> str:
        """Its uncertainty in words, or ""."""
        if self.interval is not None:
            low, high = (f"{v:.3g}" if self.form == "number" else self.said(v) for v in self.interval)
            return f"[{low.removesuffix('%')}, {high.removesuffix('%')}]"
        if self.stderr is None:
            return ""
        return f"± {100 * self.stderr:.2g}%" if self.form == "share" else f"± {self.stderr:.2g}"

    def __str__(self) -> str:
        unit = " nats" if self.form == "nats" else ""
        floor = "" if self.floor is None else f" (floor {self.said(self.floor)})"
        return " ".join(filter(None, (self.said(self.value), self.error))) + unit + floor

    def loss(self) -> float:
        """Lower is better."""
        if self.best is None:
            return 0.0
        if isinstance(self.best, str):
            return self.value if self.best == "low" else -self.value
        return abs(self.value - self.best)

    @property
    def spread(self) -> float:
        """A standard error: its own, or that of its interval."""
        if self.stderr is not None:
            return self.stderr
        return math.nan if self.interval is None else (self.interval[1] - self.interval[0]) / (2 * NORMAL)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without what is not there."""
        left_out = (None, False, "")
        kept = {k: v for k, v in asdict(self).items() if not any(v is x for x in left_out) and v != {}}
        return {**kept, "best": self.best}

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Finding:
        """The inverse of `as_dict`."""
        interval = tree.get("interval")
        return cls(**{**tree, "interval": None if interval is None else (interval[0], interval[1])})


@dataclass(frozen=True)
class Picture:
    """What goes into the page and below samples/.

    Attributes:
        name: of its file, without ending.
        image: one, or the frames of a film.
        alt: what is on it.
        caption: below it.
    """

    name: str
    image: Image.Image | Sequence[Image.Image]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Part:
    """What one judge has to say: a section of the page. What is empty is left out.

    Attributes:
        title: of the section, in the field's terms.
        text: what is shown and how to read it.
        findings: the numbers.
        pictures: one below the other.
        plots: SVG of `report.plots`, side by side where there is room.
        tables: what findings do not hold.
        details: JSON values for evaluation.json, by name.
        code: commands.
    """

    title: str
    text: str = ""
    findings: Sequence[Finding] = ()
    pictures: Sequence[Picture] = ()
    plots: Sequence[str] = ()
    tables: Sequence[Table] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""


def proportion(key: str, name: str, found: Any, **more: Any) -> Finding:
    """A share with its interval, from a `metrics.Proportion`."""
    return Finding(
        key, name, found.value, interval=(found.low, found.high), **{"form": "share", "best": "high", **more}
    )


class Evaluation(Mapping[str, Finding]):
    """Findings by key, in order, and what else there is to say of each part.

    >>> found = Evaluation([Part("Samples", findings=[Finding("frechet", "Frechet distance", 2.0)])])
    >>> found["frechet"].value
    2.0
    """

    def __init__(self, parts: Sequence[Part], facts: Mapping[str, Any] | None = None):
        self.parts, self.facts = list(parts), dict(facts or {})
        self.findings: dict[str, Finding] = {}
        for finding in (f for part in parts for f in part.findings):
            if finding.key in self.findings:
                raise ValueError(f"each finding must have a key of its own, got {finding.key!r} twice")
            self.findings[finding.key] = finding
        self.details = {name: value for part in parts for name, value in part.details.items()}

    def __getitem__(self, key: str) -> Finding:
        return self.findings[key]

    def __iter__(self) -> Any:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """What evaluation.json holds."""
        return {
            **self.facts,
            "findings": {key: f.as_dict() for key, f in self.findings.items()},
            "details": self.details,
        }

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Evaluation:
        """Findings and facts from evaluation.json; titles, texts and pictures are the page's alone."""
        facts = {k: v for k, v in tree.items() if k not in ("findings", "details")}
        findings = [Finding.parse(f) for f in tree["findings"].values()]
        return cls([Part("", findings=findings, details=tree.get("details", {}))], facts)


def rows(found: Evaluation) -> list[tuple[str, str]]:
    """Names and values for the terminal."""
    return [(f.name, f"{f}, {f.note}" if f.note else str(f)) for f in found.values()]

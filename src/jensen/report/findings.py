"""Findings: the results of judging, from which the terminal output, the page and evaluation.json are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from PIL import Image

Form = Literal["number", "share", "nats", "count"]
NORMAL = 1.959963984540054  # half the width of a 95 percent interval, in standard errors


@dataclass(frozen=True)
class Finding:
    """One number.

    Attributes:
        key: name in evaluation.json, unique in an evaluation.
        name: displayed name.
        value: the measured number.
        stderr: its standard error.
        floor: the same quantity for real data instead of the samples, or another reference value.
        best: "low", "high", the best value, or None if no value is best.
        form: how the number is formatted.
        interval: 95 percent confidence interval.
        note: the data it was measured on, and the reference.
        card: whether it is shown first, as a card on the page.
        facts: JSON values that a comparison needs, such as "kind", "measure" and "dims" of a likelihood.

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
        """A number as text, in the format of this finding."""
        if self.form == "share":
            return f"{100 * value:.1f}%"
        if self.form == "count":
            return f"{value:,.0f}"
        return f"{value:.2f}" if self.form == "nats" and abs(value) >= 10 else f"{value:.4g}"

    @property
    def error(self) -> str:
        """The uncertainty as text, or ""."""
        if self.interval is not None:
            low, high = (f"{v:.3g}" if self.form == "number" else self.said(v) for v in self.interval)
            return f"[{low.removesuffix('%')}, {high.removesuffix('%')}]"
        if self.stderr is None:
            return ""
        return f"± {100 * self.stderr:.2g}%" if self.form == "share" else f"± {self.stderr:.2g}"

    @property
    def brief(self) -> str:
        """The first clause of the note, for a card."""
        return self.note.partition(";")[0]

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
        """The standard error: given, or derived from the interval."""
        if self.stderr is not None:
            return self.stderr
        return math.nan if self.interval is None else (self.interval[1] - self.interval[0]) / (2 * NORMAL)

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON values, without empty fields."""
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
    """A picture for the page and for the folder samples/.

    Attributes:
        name: file name without ending.
        image: one image, or the frames of an animation.
        alt: description of the image.
        caption: text below the image.
    """

    name: str
    image: Image.Image | Sequence[Image.Image]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table: rows of text below a header."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Part:
    """The result of one judge: a section of the page. Empty fields are left out.

    Attributes:
        title: title of the section.
        text: explanation of the contents.
        findings: the numbers that were measured.
        pictures: pictures, shown one below the other.
        plots: SVG from `report.plots`, shown side by side if there is room.
        tables: numbers that are not findings.
        details: further JSON values for evaluation.json, by name.
        code: commands to type.
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
    """A share with its confidence interval, from a `metrics.Proportion` or `metrics.AUC`."""
    more = {"form": "share", "best": "high", **more}
    return Finding(key, name, found.value, interval=(found.low, found.high), **more)


def estimated(key: str, name: str, found: Any, **more: Any) -> Finding:
    """An estimate, whose `value` has a `stderr`."""
    return Finding(key, name, found.value, found.stderr, **more)


def mean(key: str, name: str, values: Any, **more: Any) -> Finding:
    """The mean of a tensor (N,), with its standard error."""
    return Finding(key, name, float(values.mean()), float(values.std()) / len(values) ** 0.5, **more)


def sentence(words: str) -> str:
    """The same words, with a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


class Evaluation(Mapping[str, Finding]):
    """The findings of an evaluation by key, in order, and its parts.

    >>> found = Evaluation([Part("Samples", findings=[Finding("frechet", "Frechet distance", 2.0)])])
    >>> found["frechet"].value
    2.0
    """

    def __init__(self, parts: Sequence[Part], facts: Mapping[str, Any] | None = None):
        self.parts, self.facts = list(parts), dict(facts or {})
        self.findings: dict[str, Finding] = {}
        for finding in (f for part in parts for f in part.findings):
            if finding.key in self.findings:
                raise ValueError(f"each finding must have a unique key, got {finding.key!r} twice")
            self.findings[finding.key] = finding
        self.details = {name: value for part in parts for name, value in part.details.items()}

    def __getitem__(self, key: str) -> Finding:
        return self.findings[key]

    def __iter__(self) -> Any:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The contents of evaluation.json."""
        return {
            **self.facts,
            "findings": {key: f.as_dict() for key, f in self.findings.items()},
            "details": self.details,
        }

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Evaluation:
        """Findings and details from evaluation.json, which has no titles, texts or pictures."""
        facts = {k: v for k, v in tree.items() if k not in ("findings", "details")}
        findings = [Finding.parse(f) for f in tree["findings"].values()]
        return cls([Part("", findings=findings, details=tree.get("details", {}))], facts)


def rows(found: Evaluation) -> list[tuple[str, str]]:
    """Rows of names and values for the terminal."""
    return [(f.name, f"{f}, {f.note}" if f.note else str(f)) for f in found.values()]

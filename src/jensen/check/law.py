"""A law: a proposition with its source and its derivation, and the function that puts it to the test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jensen.check.evidence import Evidence, Report

Trial = Callable[[float], Iterable[Evidence] | Report]
"""Takes a precision: numbers of draws are multiplied by it, and standard errors shrink with its root."""


@dataclass(frozen=True)
class Law:
    """A proposition that runs.

    Attributes:
        name: "topic/what", as in "ddim/marginals": `jensen check` selects by either.
        formula: LaTeX, one line.
        source: paper and equation.
        assumptions: under which it holds, or "".
        claim: a sentence.
        derivation: a few lines: why it holds.
        trial: gives the evidence.
        plot: draws it as SVG for the page, or None.
    """

    name: str
    formula: str
    source: str
    assumptions: str
    claim: str
    derivation: str
    trial: Trial
    plot: Callable[[], str] | None = None

    @property
    def topic(self) -> str:
        return self.name.partition("/")[0]

    @property
    def paragraphs(self) -> list[str]:
        """Of the derivation, without the line breaks of its source."""
        return [" ".join(part.split()) for part in self.derivation.split("\n\n") if part.strip()]

    def __call__(self, precision: float = 1.0) -> Report:
        """Put it to the test.

        Raises:
            ValueError: unless the precision is positive.
        """
        if not precision > 0:
            raise ValueError(f"precision must be positive, got {precision}")
        found = self.trial(precision)
        return found if isinstance(found, Report) else Report.of(found)

    def drawn(self, plot: Callable[[], str]) -> Callable[[], str]:
        """Decorator: `plot` draws this law."""
        object.__setattr__(self, "plot", plot)
        return plot


def law(name: str, *, formula: str, source: str, assumptions: str = "") -> Callable[[Trial], Law]:
    """Make a law of a function: the first line of its docstring is the claim, the rest the derivation.

    Raises:
        ValueError: for a name without a topic, or a function without a claim.

    >>> @law("numbers/one", formula="1 = 1", source="Peano (1889), axiom 1")
    ... def one_is_one(precision):
    ...     '''One is one.'''
    ...     yield Evidence("one", 1.0, 1.0, 0.0)
    >>> one_is_one().holds, one_is_one.claim
    (True, 'One is one.')
    """
    topic, slash, what = name.partition("/")
    if not (topic and slash and what):
        raise ValueError(f"a law's name is topic/what, got {name!r}")

    def made(trial: Trial) -> Law:
        text: Any = inspect.getdoc(trial)
        if not text:
            raise ValueError(f"law {name} must state its claim as a docstring")
        claim, _, derivation = text.partition("\n")
        return Law(name, formula, source, assumptions, claim.strip(), derivation.strip(), trial)

    return made


def draws(count: int, precision: float, least: int = 2) -> int:
    """So many draws at this precision."""
    return max(least, round(count * precision))

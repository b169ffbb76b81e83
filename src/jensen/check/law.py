"""A law: a proposition with its formula, its source and its derivation, and the function that tests it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jensen.check.evidence import Evidence, Report

Trial = Callable[[float], Iterable[Evidence] | Report]
"""Takes a precision, which multiplies the number of draws: standard errors shrink with its square root."""

TEXT = re.compile(
    r"(?P<claim>[^\n]+)\n\s*\$\$(?P<formula>.+?)\$\$\s*(?P<derivation>.*?)\s*"
    r"^Source: (?P<source>.+?)(?:\s*^Assumes: (?P<assumptions>.+?))?\s*\Z",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Law:
    """A proposition and the function that tests it.

    Attributes:
        name: "topic/what", such as "ddim/marginals"; `jensen check` selects by the name or by the topic.
        formula: LaTeX.
        source: paper and equation.
        assumptions: what the proposition requires, or "".
        claim: the proposition in one sentence.
        derivation: why it holds, in a few lines.
        trial: returns the evidence.
        plot: draws the law as SVG for the page, or None.
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
        """The paragraphs of the derivation, each on one line."""
        return [" ".join(part.split()) for part in self.derivation.split("\n\n") if part.strip()]

    def __call__(self, precision: float = 1.0) -> Report:
        """Test the law.

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


def law(name: str, text: str | None = None) -> Callable[[Trial], Law]:
    r"""Make a function a law. Its docstring is the proposition: claim, formula, derivation, source, assumptions.

    The claim is the first line, the formula stands between double dollars, the derivation follows it; then come
    a paragraph or line "Source: ..." and, where there are any, "Assumes: ...".

    Args:
        name: "topic/what".
        text: the proposition, by default the function's docstring.

    Raises:
        ValueError: for a name without a topic, or a text without a claim, a formula or a source.

    >>> @law("numbers/one")
    ... def one_is_one(precision):
    ...     '''One is one.
    ...
    ...     $$1 = 1$$
    ...     Equality is reflexive.
    ...     Source: Peano (1889), axiom 2.
    ...     '''
    ...     yield Evidence("one", 1.0, 1.0, 0.0)
    >>> one_is_one().holds, one_is_one.claim, one_is_one.source
    (True, 'One is one.', 'Peano (1889), axiom 2')
    """
    topic, slash, what = name.partition("/")
    if not (topic and slash and what):
        raise ValueError(f"a law's name must be topic/what, got {name!r}")

    def made(trial: Trial) -> Law:
        found = TEXT.match(inspect.cleandoc(text) if text is not None else inspect.getdoc(trial) or "")
        if found is None:
            raise ValueError(f"law {name} must state its claim, its formula in $$ and its source")
        parts: dict[str, Any] = {key: (value or "").strip() for key, value in found.groupdict().items()}
        for key in ("formula", "source", "assumptions"):
            parts[key] = " ".join(parts[key].split()).removesuffix(".")
        return Law(name=name, trial=trial, **parts)

    return made


def laws_of(module: ModuleType) -> Iterator[Law]:
    """The laws that a module defines, in order; a table of laws is a list or a tuple of them."""
    for value in list(vars(module).values()):
        yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, Law))


def draws(count: int, precision: float, least: int = 2) -> int:
    """The number of draws at this precision."""
    return max(least, round(count * precision))

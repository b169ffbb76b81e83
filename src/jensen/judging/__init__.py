"""Judges: what is found of a run, as functions of a case. One file a topic; none knows a recipe.

Importing this package registers jensen's own judges, in the order of the page.
"""

# isort: off
from jensen.judging import reading, samples  # noqa: F401
from jensen.judging import modes, factors  # noqa: F401
from jensen.judging import likelihood, bounds, latents  # noqa: F401
from jensen.judging import paths, scores, translation  # noqa: F401
from jensen.judging import critics, stability  # noqa: F401

# isort: on
from jensen.judging.case import JUDGES, Case, Draw, Judge, Played, judge

__all__ = ["JUDGES", "Case", "Draw", "Judge", "Played", "judge"]

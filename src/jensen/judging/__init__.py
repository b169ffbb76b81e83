"""Judges: what is found of a run, as functions of a case. One file a topic; none knows a recipe.

Importing this package registers jensen's own judges, in the order of the page.
"""

from jensen.judging import (  # noqa: F401
    bounds,
    critics,
    factors,
    latents,
    likelihood,
    modes,
    paths,
    reading,
    samples,
    scores,
    stability,
    translation,
)
from jensen.judging.case import JUDGES, Case, Draw, Judge, Played, judge

__all__ = ["JUDGES", "Case", "Draw", "Judge", "Played", "judge"]

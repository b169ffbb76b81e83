"""Judges: functions that evaluate one aspect of a run, each called with a case. There is one file per topic, and none
of them imports recipes.

Importing this package registers jensen's own judges, in the order of the report.
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

"""Gradients of $E_q[f]$: pathwise, score function, relaxed; stochastic graphs."""

from jensen.estimators.baselines import Baseline, MovingAverage, baseline_loss, leave_one_out
from jensen.estimators.compare import Comparison, Row, compare_estimators
from jensen.estimators.expectation import (
    Estimator,
    Pathwise,
    Relaxed,
    ScoreFunction,
    expectation,
    pathwise,
    relaxed,
    score_function,
    score_surrogate,
)
from jensen.estimators.graph import Graph
from jensen.estimators.sums import subsampled_sum

__all__ = [
    "Baseline",
    "Comparison",
    "Estimator",
    "Graph",
    "MovingAverage",
    "Pathwise",
    "Relaxed",
    "Row",
    "ScoreFunction",
    "baseline_loss",
    "compare_estimators",
    "expectation",
    "leave_one_out",
    "pathwise",
    "relaxed",
    "score_function",
    "score_surrogate",
    "subsampled_sum",
]

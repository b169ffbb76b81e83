"""Bounds on log p(x), marginal likelihoods, inference and mean fields."""

from jensen.variational.trace import LatentModel, Trace

__all__ = [
    "LatentModel",
    "Trace",
]

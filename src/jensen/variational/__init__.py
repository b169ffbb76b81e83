"""Bounds on log p(x), marginal likelihoods, inference and mean fields."""

from jensen.variational.annealing import Constraint, Scheduled, annealed, cyclical, linear
from jensen.variational.bounds import (
    Bound,
    beta,
    dreg,
    elbo,
    free_bits,
    iwae,
    log_weights,
    scored,
    sticking_the_landing,
)
from jensen.variational.importance import Estimate, log_likelihood
from jensen.variational.oracle import LinearGaussian
from jensen.variational.posterior import Posterior, posterior_trace
from jensen.variational.trace import LatentModel, Layer, Trace

__all__ = [
    "Bound",
    "Constraint",
    "Estimate",
    "LatentModel",
    "Layer",
    "LinearGaussian",
    "Posterior",
    "Scheduled",
    "Trace",
    "annealed",
    "beta",
    "cyclical",
    "dreg",
    "elbo",
    "free_bits",
    "iwae",
    "linear",
    "log_likelihood",
    "log_weights",
    "posterior_trace",
    "scored",
    "sticking_the_landing",
]

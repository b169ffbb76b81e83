"""Bounds on log p(x), marginal likelihoods, posterior inference and mean fields."""

from jensen.variational.ais import ais_log_likelihood
from jensen.variational.annealing import Constraint, Scheduled, annealed, cooling, cyclical, linear
from jensen.variational.bounds import (
    Bound,
    Penalized,
    beta,
    dreg,
    elbo,
    free_bits,
    iwae,
    log_weights,
    scored,
    sticking_the_landing,
)
from jensen.variational.collapse import CollapseReport, LayerUse, Measured, collapse_report
from jensen.variational.gaps import Gap, GapSplit, ThetaPath, amortization_gap, ascend_theta, gap_split, lower_bound
from jensen.variational.importance import Estimate, log_likelihood
from jensen.variational.inference import Fitted, Inferring, fit_posterior, posterior_table, refine, stochastic_vi
from jensen.variational.mean_field import (
    GaussianMixtureVI,
    MixturePrior,
    coordinate_ascent,
    gaussian_mean_field,
    mixture_log_evidence,
    table_mean_field,
)
from jensen.variational.oracle import LinearGaussian
from jensen.variational.pareto import pareto_k, pareto_limit
from jensen.variational.posterior import Posterior, posterior_trace
from jensen.variational.relaxed import Relaxation
from jensen.variational.trace import LatentModel, Layer, Trace

__all__ = [
    "Bound",
    "CollapseReport",
    "Constraint",
    "Estimate",
    "Fitted",
    "Gap",
    "GapSplit",
    "GaussianMixtureVI",
    "Inferring",
    "LatentModel",
    "Layer",
    "LayerUse",
    "LinearGaussian",
    "Measured",
    "MixturePrior",
    "Penalized",
    "Posterior",
    "Relaxation",
    "Scheduled",
    "ThetaPath",
    "Trace",
    "ais_log_likelihood",
    "amortization_gap",
    "annealed",
    "ascend_theta",
    "beta",
    "collapse_report",
    "cooling",
    "coordinate_ascent",
    "cyclical",
    "dreg",
    "elbo",
    "fit_posterior",
    "free_bits",
    "gap_split",
    "gaussian_mean_field",
    "iwae",
    "linear",
    "log_likelihood",
    "log_weights",
    "lower_bound",
    "mixture_log_evidence",
    "pareto_k",
    "pareto_limit",
    "posterior_table",
    "posterior_trace",
    "refine",
    "scored",
    "sticking_the_landing",
    "stochastic_vi",
    "table_mean_field",
]

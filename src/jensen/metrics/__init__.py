"""How good samples are, with an error on every number."""

from jensen.metrics.disentangle import (
    DCI,
    MIG,
    BoostedTrees,
    Lasso,
    completeness,
    dci,
    disentanglement,
    entropy,
    factor_vae_score,
    mig,
    mutual_information,
)
from jensen.metrics.energy import Distance, energy_distance
from jensen.metrics.legibility import Legibility, legibility
from jensen.metrics.likelihood import bits_per_dim
from jensen.metrics.modes import ClassCoverage, ModeCoverage, class_coverage, mode_coverage
from jensen.metrics.neighbours import mean_pairwise_distance, nearest_distance
from jensen.metrics.proportion import Proportion, wilson

__all__ = [
    "DCI",
    "MIG",
    "BoostedTrees",
    "ClassCoverage",
    "Distance",
    "Lasso",
    "Legibility",
    "ModeCoverage",
    "Proportion",
    "bits_per_dim",
    "class_coverage",
    "completeness",
    "dci",
    "disentanglement",
    "energy_distance",
    "entropy",
    "factor_vae_score",
    "legibility",
    "mean_pairwise_distance",
    "mig",
    "mode_coverage",
    "mutual_information",
    "nearest_distance",
    "wilson",
]

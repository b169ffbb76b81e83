"""Metrics of samples, each with a standard error or an interval."""

from jensen.metrics.calibration import Calibration, calibration
from jensen.metrics.confusion import best_renaming, confusion
from jensen.metrics.discrepancy import Distance
from jensen.metrics.discriminator import Discrimination, discriminate
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
from jensen.metrics.embeddings import class_network, random_convolutions
from jensen.metrics.energy import energy_distance
from jensen.metrics.evaluations import evaluations
from jensen.metrics.features import floor, gathered
from jensen.metrics.frechet import FeatureStatistics, FrechetDistance, extrapolated_frechet_distance, frechet_distance
from jensen.metrics.kernel import kernel_distance
from jensen.metrics.legibility import Legibility, legibility
from jensen.metrics.likelihood import bits_per_dim
from jensen.metrics.modes import (
    ClassCoverage,
    JointCoverage,
    ModeCoverage,
    class_coverage,
    joint_coverage,
    mode_coverage,
)
from jensen.metrics.neighbours import (
    Memorisation,
    mean_over_pairs,
    mean_pairwise_distance,
    memorisation,
    nearest_distance,
    nearness,
    variety,
)
from jensen.metrics.prdc import PRDC, expected_coverage, prdc
from jensen.metrics.proportion import Proportion, relative, wilson
from jensen.metrics.ranks import AUC, auc
from jensen.metrics.sharpness import Sharpness, high_frequency_power, sharpness
from jensen.metrics.two_sample import C2ST, Learner, c2st
from jensen.metrics.variance import VarianceRatio, variance_ratio

__all__ = [
    "AUC",
    "C2ST",
    "DCI",
    "MIG",
    "PRDC",
    "BoostedTrees",
    "Calibration",
    "ClassCoverage",
    "Discrimination",
    "Distance",
    "FeatureStatistics",
    "FrechetDistance",
    "JointCoverage",
    "Lasso",
    "Learner",
    "Legibility",
    "Memorisation",
    "ModeCoverage",
    "Proportion",
    "Sharpness",
    "VarianceRatio",
    "auc",
    "best_renaming",
    "bits_per_dim",
    "c2st",
    "calibration",
    "class_coverage",
    "class_network",
    "completeness",
    "confusion",
    "dci",
    "discriminate",
    "disentanglement",
    "energy_distance",
    "entropy",
    "evaluations",
    "expected_coverage",
    "extrapolated_frechet_distance",
    "factor_vae_score",
    "floor",
    "frechet_distance",
    "gathered",
    "high_frequency_power",
    "joint_coverage",
    "kernel_distance",
    "legibility",
    "mean_over_pairs",
    "mean_pairwise_distance",
    "memorisation",
    "mig",
    "mode_coverage",
    "mutual_information",
    "nearest_distance",
    "nearness",
    "prdc",
    "random_convolutions",
    "relative",
    "sharpness",
    "variance_ratio",
    "variety",
    "wilson",
]

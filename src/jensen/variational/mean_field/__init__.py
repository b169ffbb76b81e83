"""Mean-field inference by coordinate ascent and by natural gradients."""

from jensen.variational.mean_field.cavi import Ascent, coordinate_ascent
from jensen.variational.mean_field.discrete import table_mean_field
from jensen.variational.mean_field.evidence import mixture_log_evidence
from jensen.variational.mean_field.gaussian import FactorisedGaussian, gaussian_mean_field
from jensen.variational.mean_field.mixture import (
    GaussianMixtureVI,
    MixtureFactors,
    MixturePrior,
    MixtureState,
    RobbinsMonro,
)
from jensen.variational.mean_field.normal_wishart import NormalWishart

__all__ = [
    "Ascent",
    "FactorisedGaussian",
    "GaussianMixtureVI",
    "MixtureFactors",
    "MixturePrior",
    "MixtureState",
    "NormalWishart",
    "RobbinsMonro",
    "coordinate_ascent",
    "gaussian_mean_field",
    "mixture_log_evidence",
    "table_mean_field",
]

"""What `torch.distributions` lacks, and modules that return distributions."""

from jensen.distributions.bernoulli import Bernoulli
from jensen.distributions.conditional import (
    BernoulliLogits,
    CategoricalLogits,
    Conditional,
    DiagonalGaussian,
    IsotropicGaussian,
    OneHotLogits,
    soft_clamp,
)
from jensen.distributions.priors import CategoricalPrior, Flat, FlatPrior, GaussianPrior

__all__ = [
    "Bernoulli",
    "BernoulliLogits",
    "CategoricalLogits",
    "CategoricalPrior",
    "Conditional",
    "DiagonalGaussian",
    "Flat",
    "FlatPrior",
    "GaussianPrior",
    "IsotropicGaussian",
    "OneHotLogits",
    "soft_clamp",
]

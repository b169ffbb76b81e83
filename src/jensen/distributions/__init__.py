"""Distributions missing from `torch.distributions`, and modules that return distributions."""

from jensen.distributions.autoregressive import AutoregressiveBernoulli, AutoregressiveBits
from jensen.distributions.bernoulli import Bernoulli
from jensen.distributions.categorical import Categorical, OneHot
from jensen.distributions.conditional import (
    BernoulliLogits,
    BinaryLogits,
    CategoricalLogits,
    Conditional,
    DiagonalGaussian,
    IsotropicGaussian,
    Levels,
    OneHotLogits,
    soft_clamp,
)
from jensen.distributions.discretized import Binary, Discretized, DiscretizedGaussian, DiscretizedLogistic
from jensen.distributions.erlang import Erlang
from jensen.distributions.gompertz import Gompertz
from jensen.distributions.measure import measure
from jensen.distributions.noise import DiagonalNoise
from jensen.distributions.one_hot import StraightThroughOneHot, gumbel_softmax
from jensen.distributions.priors import CategoricalPrior, Flat, FlatPrior, GaussianPrior

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveBits",
    "Bernoulli",
    "BernoulliLogits",
    "Binary",
    "BinaryLogits",
    "Categorical",
    "CategoricalLogits",
    "CategoricalPrior",
    "Conditional",
    "DiagonalGaussian",
    "DiagonalNoise",
    "Discretized",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "Erlang",
    "Flat",
    "FlatPrior",
    "GaussianPrior",
    "Gompertz",
    "IsotropicGaussian",
    "Levels",
    "OneHot",
    "OneHotLogits",
    "StraightThroughOneHot",
    "gumbel_softmax",
    "measure",
    "soft_clamp",
]

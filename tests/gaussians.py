"""A hierarchy of linear Gaussians, whose evidence is known in closed form, and seeded draws."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import MultivariateNormal

from jensen.core.seeding import generator
from jensen.distributions import Conditional, DiagonalGaussian, GaussianPrior, IsotropicGaussian
from jensen.models import HVAE
from jensen.variational import LinearGaussian

F64 = torch.float64


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def linear(weight, bias, family):
    layer = nn.Linear(*weight.T.shape).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return Conditional(layer, family)


def hierarchy():
    """z2 ~ N(0, I), z1 ~ N(A z2 + a, 0.5^2), x ~ N(W z1 + b, 0.4^2), and the model of x with z2 integrated out."""
    a, w, shift, bias = draws(3, 2, seed=1), draws(5, 3, seed=2), draws(3, seed=3), draws(5, seed=4)
    encoders = [linear(torch.zeros(6, 5), torch.zeros(6), DiagonalGaussian())]
    encoders.append(linear(torch.zeros(4, 3), torch.zeros(4), DiagonalGaussian()))
    decoders = [linear(w, bias, IsotropicGaussian(0.4)), linear(a, shift, IsotropicGaussian(0.5))]
    model = HVAE(encoders, decoders, GaussianPrior(2).double())
    prior = MultivariateNormal(shift, a @ a.T + 0.25 * torch.eye(3, dtype=F64))
    return model, LinearGaussian(w, bias, 0.16, prior)

"""The variational autoencoder: an encoder, a decoder and a prior."""

from __future__ import annotations

from torch import nn

from jensen.models.hvae import HVAE


class VAE(HVAE):
    r"""$p(x, z) = p(x | z)\, p(z)$ with an amortized $q(z | x)$; `objectives.Variational` trains it by any bound.

    The encoder's family determines the latents: Gaussian, or one-hot, whose draws carry no gradient (they are trained
    by the score function) unless the family is relaxed.

    Args:
        encoder: module that returns q(z | x), batch (B,).
        decoder: module that returns p(x | z), for z (K, B, *event).
        prior: module whose `forward()` returns p(z).

    Raises:
        ValueError: if the parts do not fit together, which is tested on one row.

    Source: Kingma & Welling (2014).

    >>> import torch
    >>> from jensen.distributions import BernoulliLogits, Conditional, DiagonalGaussian, GaussianPrior
    >>> encoder = Conditional(nn.Linear(5, 4), DiagonalGaussian())
    >>> decoder = Conditional(nn.Linear(2, 5), BernoulliLogits())
    >>> model = VAE(encoder, decoder, GaussianPrior(2))
    >>> trace = model.trace(torch.ones(7, 5), samples=3)
    >>> trace.log_px.shape, model.sample(4).shape, model.measure
    (torch.Size([3, 7]), torch.Size([4, 5]), 'mass')
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module):
        super().__init__([encoder], [decoder], prior)

    @property
    def encoder(self) -> nn.Module:
        return self.encoders[0]

    @property
    def decoder(self) -> nn.Module:
        return self.decoders[0]

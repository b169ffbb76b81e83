"""A Pyro VAE, written and trained as in its tutorial, with the networks of a jensen VAE.

`SVI` with `Trace_ELBO` and Pyro's Adam, a plate over the batch, Bernoulli pixels without validation.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn


class VAE(nn.Module):
    """Pyro's model and guide."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latents: int):
        super().__init__()
        self.encoder, self.decoder, self.latents = encoder, decoder, latents

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            zeros = torch.zeros(len(x), self.latents)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pixels = dist.Bernoulli(logits=self.decoder(z).flatten(1), validate_args=False)
            pyro.sample("obs", pixels.to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_std = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(mean, log_std.exp()).to_event(1))


def inference(vae: VAE, rate: float) -> SVI:
    """Pyro's inference; `step(x)` makes one training step."""
    pyro.clear_param_store()
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": rate}), loss=Trace_ELBO())

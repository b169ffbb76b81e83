"""Pythae's bounds and the exact log p(x), for p(z) = N(0, 1), p(x | z) = N(2z, 1), so that p(x) = N(0, 5).

Its loss omits log(2 pi) / 2, which is added here. q = N(x / 2, 1) is not the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from jensen import check

X, CALLS = 1.5, 4000


class Encoder(BaseEncoder):
    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=x / 2, log_covariance=torch.zeros_like(x))


class Decoder(BaseDecoder):
    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=2 * z)


def reports() -> Iterator[tuple[str, check.Report]]:
    """Whether minus the loss is on average at most log p(x)."""
    settings = {"input_dim": (1,), "latent_dim": 1, "reconstruction_loss": "mse"}
    made = {"VAE": VAE(VAEConfig(**settings), Encoder(), Decoder())}
    for k in (5, 50):
        config = IWAEConfig(**settings, number_samples=k)
        made[f"IWAE, {k} samples"] = IWAE(config, Encoder(), Decoder())
    exact = float(torch.distributions.Normal(0.0, 5**0.5).log_prob(torch.tensor(X)))
    constant = float(torch.tensor(2 * torch.pi).log()) / 2
    for name, model in made.items():
        torch.manual_seed(0)
        losses = torch.stack([model({"data": torch.tensor([[X]])}).loss.detach() for _ in range(CALLS)])
        claim = "minus the loss, as a bound, is at most log p(x)"
        yield name, check.Report.of([check.mean_is(claim, exact, -losses - constant, relation="at most")])

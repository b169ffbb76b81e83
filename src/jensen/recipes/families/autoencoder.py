"""The deterministic autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from jensen import models
from jensen.core.objective import Objective
from jensen.core.settings import Width
from jensen.data.space import Space
from jensen.distributions import GaussianPrior
from jensen.objectives import AddedNoise, Masked, Reconstruction
from jensen.recipes.decoders import Decoder, refuse_means
from jensen.recipes.families.base import Family
from jensen.recipes.settings import Training


class Narrow(Decoder):
    """The code and the networks of encoder and decoder."""

    latents: Width = 16
    """dimensions of the code"""


class Autoencoder(Family):
    """The deterministic autoencoder. A Gaussian is fitted to its codes, from which samples are drawn."""

    changes = ("mean",)

    network: Narrow = Narrow()
    corruption: Literal["none", "noise", "mask"] = "none"
    """corruption of the encoder's input in training; noise: add Gaussian noise; mask: set random dimensions to 0, or
    columns of points from a table to their mean"""
    amount: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """standard deviation of the noise, relative to that of the column for points from a table; or share of masked
    dimensions"""

    @model_validator(mode="after")
    def _used(self) -> Autoencoder:
        if self.corruption == "none":
            self.refuse_idle("without a corruption", "amount")
        return self

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        self.network.refuse(space)

    def model(self, space: Space) -> nn.Module:
        network = self.network
        encoder = network.encoder(space, *network.inside, network.latents)
        prior = GaussianPrior(network.latents, learned=True)
        return models.Autoencoder(encoder, network.of_x(space, network.latents), prior)

    def objective(self, model: nn.Module, space: Space) -> Objective:
        corrupt = {"none": None, "noise": AddedNoise(self.amount), "mask": Masked(self.amount)}
        changed = corrupt[self.corruption]
        if changed is None or not space.by_column:
            return Reconstruction(model, changed)

        def of_columns(x: Tensor) -> Tensor:
            u = space.comparable(x)
            return x + (changed(u) - u) * space.moments()[1].to(x)

        return Reconstruction(model, of_columns)

    def notes(self, space: Space) -> list[str]:
        return self.network.notes(space, self.model)

    def curves(self) -> Mapping[str, str]:
        return {"log_px": "log p(x | z), nats", "log_prior": "log density of the codes, nats"}

    def refuse_request(self, model: Any, space: Space, changes: Any, *, interpolating: bool = False, **_: Any) -> None:
        refuse_means(changes, interpolating)

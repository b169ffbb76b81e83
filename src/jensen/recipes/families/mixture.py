"""Mixtures of Gaussians, fitted by mean-field coordinate ascent."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from jensen.core.objective import Objective
from jensen.core.progress import Track, silent
from jensen.core.seeding import derived, generator
from jensen.data.dataset import Data, some
from jensen.data.space import Space
from jensen.objectives import Fitted
from jensen.recipes.families.base import Family
from jensen.recipes.settings import Rate, Training, UpToMillion
from jensen.variational import GaussianMixtureVI, MixturePrior
from jensen.variational.mean_field import NormalWishart


class Mixture(Family):
    """A Bayesian mixture of Gaussians for points, fitted to all training data before the first training step."""

    components: UpToMillion = 20
    """maximum number of Gaussians; the weights of those that are not needed go to 0"""
    concentration: Rate | None = None
    """concentration of the weights' Dirichlet prior; below 1, it favours few components; null: 1 / components"""
    sweeps: UpToMillion = 500
    """maximum number of sweeps of coordinate ascent"""
    tolerance: Annotated[float, Field(gt=0)] = 1e-6
    """stop after a sweep that raises the bound by less than this many nats per training example"""

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        if len(space.shape) != 1 or space.levels is not None:
            what = "pictures" if space.pictures else "whole numbers"
            raise ValueError(f"family mixture needs points, real numbers in columns, got {what}: use another family")

    @property
    def fitted(self) -> bool:
        return True

    def model(self, space: Space) -> GaussianMixtureVI:
        dims = space.dims
        component = NormalWishart(torch.zeros(dims), torch.ones(()), torch.tensor(float(dims)), torch.eye(dims))
        return GaussianMixtureVI(self.components, MixturePrior(self.concentration or 1 / self.components, component))

    def begin(self, model: GaussianMixtureVI, data: Data, seed: int, track: Track = silent) -> None:
        x = some(data.train)["x"].double()
        scale = data.space.moments()[1].double() if data.space.by_column else x.new_ones(x.shape[1])
        u = x / scale
        prior = MixturePrior.around(u, self.components)
        fitted = GaussianMixtureVI(
            self.components, replace(prior, concentration=self.concentration or prior.concentration)
        )
        advance = track("coordinate ascent", self.sweeps)
        rng = generator(derived(seed, "mixture"))
        fitted.fit(u, sweeps=self.sweeps, tolerance=self.tolerance, generator=rng, on_sweep=lambda *_: advance(1))
        model.load_state_dict(fitted.rescaled(scale).state_dict())

    def objective(self, model: GaussianMixtureVI, space: Space) -> Objective:
        return Fitted(model)

"""Kernel density estimation: a Gaussian kernel at every training example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from jensen.core.objective import Objective
from jensen.core.progress import Track, silent
from jensen.core.settings import Settings
from jensen.data.dataset import Data, some
from jensen.data.space import Space
from jensen.models import KernelDensityModel, KernelSampling
from jensen.objectives import Fitted, LeaveOneOut
from jensen.recipes.families.base import Family
from jensen.recipes.settings import Positive, Rate, Training, UpToMillion


class KernelSettings(Settings):
    """The density."""

    bandwidth: Rate | Literal["silverman", "scott", "leave-one-out"] = "silverman"
    """standard deviation of each Gaussian kernel (for tables, in units of that of each column), or the rule that sets
    it before training"""
    learned: bool = False
    """whether training then maximises the leave-one-out likelihood over the bandwidth"""
    points: Positive = 50_000
    """maximum number of training examples that the density uses"""


class KernelDraws(Settings):
    """How samples are drawn; `jensen sample` can change sampler and steps."""

    sampler: Literal["exact", "langevin", "mala", "ascent"] = "exact"
    """exact; langevin: unadjusted; mala: Metropolis-adjusted; ascent: noise-free, which ends in modes of the density"""
    steps: UpToMillion = 1000
    """steps of a chain"""
    step_size: Annotated[float, Field(gt=0, lt=2)] = 0.2
    """step size of a chain, in units of the squared bandwidth"""

    @model_validator(mode="after")
    def _used(self) -> KernelDraws:
        if self.sampler == "exact":
            self.refuse_idle("by sampler exact", "steps", "step_size", prefix="sampling.")
        return self


class Kernel(Family):
    """A kernel density estimate from the training examples."""

    kind = "kernel"
    neural = False
    changes = ("sampler", "steps")

    density: KernelSettings = KernelSettings()
    sampling: KernelDraws = KernelDraws()

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        if space.rows == 1:
            raise ValueError("family kernel needs at least two training examples, got 1")

    def refuse_request(self, model: KernelDensityModel, space: Space, changes: Mapping[str, Any], **_: Any) -> None:
        found = model.sampling.changed(**changes)  # refuses what is out of range
        if found.sampler == "exact" and "steps" in changes:
            raise ValueError("--steps cannot be used with sampler exact: give --sampler langevin, mala or ascent")

    def model(self, space: Space) -> KernelDensityModel:
        count = min(space.rows, self.density.points)
        sampling = KernelSampling(**self.sampling.model_dump())
        scale = space.moments()[1] if space.by_column else 1.0
        model = KernelDensityModel(torch.zeros(count, *space.shape), 1.0, sampling, scale)
        return model.requires_grad_(self.density.learned)

    def begin(self, model: KernelDensityModel, data: Data, seed: int, track: Track = silent) -> None:
        model.fit(some(data.train, self.density.points)["x"], self.density.bandwidth)

    @property
    def fitted(self) -> bool:
        return not self.density.learned

    @property
    def held_out_loss(self) -> bool:
        return False  # the loss is of the training points

    def objective(self, model: KernelDensityModel, space: Space) -> Objective:
        return LeaveOneOut(model) if self.density.learned else Fitted(model)

"""Score models: score matching over a ladder of noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jensen.core.objective import Objective
from jensen.core.settings import Settings
from jensen.core.types import Stream, mapped
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.models import Annealing, NoiseConditional, ScoreModel
from jensen.models.score import LANGEVIN
from jensen.objectives import ScoreMatching
from jensen.recipes.families.base import Family
from jensen.recipes.networks import DenoiserNetwork
from jensen.recipes.settings import Rate, Share, Training, UpToMillion
from jensen.score import geometric


class ScoreNetwork(DenoiserNetwork):
    """The network, its ladder of noise levels in units of the data's standard deviation, and the loss."""

    largest: Rate = 8.0
    """largest noise level"""
    smallest: Rate = 0.05
    """smallest noise level"""
    levels: Annotated[int, Field(ge=2, le=10_000)] = 12
    """number of noise levels, evenly spaced in their logarithm"""
    loss: Literal["denoising", "implicit", "sliced", "sliced-vr"] = "denoising"
    """score matching: denoising; implicit: exact trace; sliced: random projections; sliced-vr: lower variance"""

    @model_validator(mode="after")
    def _in_order(self) -> ScoreNetwork:
        if not self.smallest < self.largest:
            raise ValueError(
                f"network.smallest must be below network.largest, got {self.smallest:g} and {self.largest:g}"
            )
        return self


class ScoreSampling(Settings):
    """How samples are drawn; `jensen sample` can change sampler, steps and eta."""

    sampler: str = LANGEVIN
    """langevin, or a sampler of diffusion models, such as ancestral, ddim, dpm++, unipc, heun"""
    steps: UpToMillion = 30
    """Langevin steps at each noise level; for other samplers, the number of evaluations"""
    step_size: Annotated[float, Field(gt=0, lt=2)] = 0.5
    """step size of a Langevin step, in units of the squared noise level"""
    denoise: bool = True
    """denoise the last state of the chain with one more evaluation"""
    eta: Share | None = None
    """noise of sampler ddim; 0: deterministic, 1: as much noise as ancestral sampling"""

    @model_validator(mode="after")
    def _in_range(self) -> ScoreSampling:
        if self.sampler != LANGEVIN:
            self.refuse_idle(f"by sampler {self.sampler}", "step_size", prefix="sampling.")
        Annealing(**self.model_dump())
        return self


class Score(Family):
    """A score model: the gradient of the log density of noised data, at a ladder of noise levels."""

    kind = "score"
    judged = frozenset({"steps", "bound_steps", "ode_rows"})
    changes = ("sampler", "steps", "eta")

    network: ScoreNetwork = ScoreNetwork()
    sampling: ScoreSampling = ScoreSampling()

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        self.network.refuse(space, None)

    def summary(self, space: Space) -> list[str]:
        return self.network.summary(space)

    def refuse_request(self, model: ScoreModel, space: Space, changes: Mapping[str, Any], **_: Any) -> None:
        model.sampling.changed(**changes)  # refuses what is out of range

    def model(self, space: Space) -> ScoreModel:
        network = self.network
        model = ScoreModel(
            NoiseConditional(network.network(space, None), network.largest, network.smallest),
            space.shape,
            geometric(network.largest, network.smallest, network.levels).float(),
            Annealing(**self.sampling.model_dump(), chunk=network.chunk(space)),
        )
        model.centre, model.scale = space.moments()
        return model

    @property
    def second_derivatives(self) -> str:
        return "" if self.network.loss == "denoising" else f"network.loss {self.network.loss}"

    def objective(self, model: ScoreModel, space: Space) -> Objective:
        return ScoreMatching(model, loss=self.network.loss)

    def stream(self, data: Data, batch_size: int, seed: int) -> Stream:
        """Training batches without conditions."""
        batches = data.stream(batch_size, seed)
        return mapped(batches, lambda batch: {name: value for name, value in batch.items() if name != "cond"})

"""Diffusion models: weighted denoising, or the variational bound itself (VDM)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from jensen.core.objective import Objective
from jensen.core.settings import Settings
from jensen.data.space import Classes, Space, Text
from jensen.diffusion import (
    SCHEDULES,
    Bins,
    LearnedSchedule,
    NetworkDenoiser,
    Reconstruction,
    Schedule,
    edm,
    level_times,
    logit_normal_times,
    min_snr,
    sigmoid,
    simple,
    uniform_times,
    whole_span,
)
from jensen.models import Diffusion as DiffusionModel
from jensen.models import Sampling
from jensen.objectives import Denoising, Hybrid, VariationalDiffusion
from jensen.objectives.denoising import DenoisingLoss
from jensen.recipes.families.base import Family
from jensen.recipes.networks import DenoiserNetwork
from jensen.recipes.settings import NonNegative, Positive, Rate, Share, Training

LOSSES: dict[str, DenoisingLoss] = {
    **{view: partial(simple, view=view) for view in ("eps", "v", "x", "flow")},
    "min-snr": min_snr,
    "sigmoid": sigmoid,
    "edm": edm,
}


class DiffusionNetwork(DenoiserNetwork):
    """A denoiser: its network, its noise schedule, and the view of the prediction that the network learns."""

    schedule: Literal["rectified", "cosine", "improved-cosine", "linear", "variance-preserving", "learned"] = "cosine"
    """noise schedule; a learned one is trained by the bound"""
    highest: float = 9.0
    """log-SNR at t = 0 of a learned schedule"""
    lowest: float = -6.0
    """log-SNR at t = 1 of a learned schedule"""
    learn_ends: bool = True
    """whether a learned schedule learns these two as well"""
    output: Literal["flow", "v", "eps", "x", "edm"] = "v"
    """what the network predicts"""

    @model_validator(mode="after")
    def _in_order(self) -> DiffusionNetwork:
        if not self.lowest < self.highest:
            raise ValueError("network.lowest must be below network.highest: log-SNR falls")
        if self.schedule != "learned":
            self.refuse_idle(f"by schedule {self.schedule}", "highest", "lowest", "learn_ends", prefix="network.")
        return self

    def make_schedule(self) -> Schedule:
        if self.schedule == "learned":
            return LearnedSchedule(self.highest, self.lowest, learn_ends=self.learn_ends)
        return SCHEDULES[self.schedule]()


class DiffusionLoss(Settings):
    """What is minimised: a weighted denoising loss, or the variational bound itself."""

    name: Literal["eps", "v", "x", "flow", "min-snr", "sigmoid", "edm", "bound"] = "v"
    """squared error of a view of the prediction, another weighting of it, or the variational bound"""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """distribution of the training times"""
    time_mean: float = 0.0
    """mean of the logit of logit-normal times: above 0 they lean towards noise"""
    time_std: Rate = 1.0
    """standard deviation of the logit of logit-normal times"""
    drop: Share = 0.1
    """share of examples trained without their condition, for guidance; 1: an unconditional model"""
    variance: Literal["fixed", "learned"] = "fixed"
    """of the reverse steps; a learned one is trained by the bound's terms beside the weighted loss"""
    levels: Annotated[int, Field(ge=2)] = 200
    """T, noise levels at which learned variances are trained"""
    variance_weight: Rate = 1e-3
    """weight of the bound's terms that train variances"""

    @model_validator(mode="after")
    def _used(self) -> DiffusionLoss:
        if self.name == "bound" and self.times != "uniform":
            raise ValueError("loss.times is of weighted losses: the bound has its own distribution of times")
        if self.variance == "learned" and (self.name == "bound" or self.times != "uniform"):
            raise ValueError("loss.variance learned is trained beside a weighted loss, at uniform times")
        if self.times == "uniform":
            self.refuse_idle("by uniform times", "time_mean", "time_std", prefix="loss.")
        if self.variance == "fixed":
            self.refuse_idle("with fixed variances", "levels", "variance_weight", prefix="loss.")
        return self


class DiffusionSampling(Settings):
    """How samples are drawn; `jensen sample` can change sampler, steps, guidance and eta."""

    sampler: str = "dpm++"
    """name of the sampler, such as ancestral, ddim, dpm++, unipc, heun"""
    steps: Positive = 32
    """evaluations of the denoiser; of heun: half of them"""
    guidance: NonNegative = 1.0
    """scale of classifier-free guidance; 1: none"""
    shift: Rate = 1.0
    """above 1, more steps are spent where there is much noise"""
    start: Annotated[float, Field(gt=0, le=1)] = 0.999
    """first time"""
    clip: bool = False
    """keep predicted pictures in [-1, 1]"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the network; bfloat16 is mixed precision"""
    eta: Share | None = None
    """of sampler ddim: 0 is deterministic, 1 draws as much noise as ancestral sampling"""
    variance: Literal["posterior", "forward", "learned"] | None = None
    """of the steps of sampler ancestral"""

    @model_validator(mode="after")
    def _in_range(self) -> DiffusionSampling:
        self.settings()
        return self

    def settings(self, **more: Any) -> Sampling:
        return Sampling(**self.model_dump(), **more)


class Diffusion(Family):
    """A diffusion model: data from noise, step by step."""

    kind = "diffusion"
    judged = frozenset({"steps", "scales", "bound_steps", "ode_rows", "first"})
    changes = ("sampler", "steps", "guidance", "eta")
    walk: ClassVar[Mapping[str, Any]] = {"sampler": "ddim"}

    network: DiffusionNetwork = DiffusionNetwork()
    loss: DiffusionLoss = DiffusionLoss()
    sampling: DiffusionSampling = DiffusionSampling()

    @model_validator(mode="after")
    def _trainable(self) -> Diffusion:
        if self.network.schedule == "learned" and self.loss.name != "bound":
            raise ValueError(f"network.schedule learned is trained by loss.name bound, not by {self.loss.name}")
        if self.sampling.variance == "learned" and self.loss.variance != "learned":
            raise ValueError("sampling.variance learned goes with loss.variance=learned")
        return self

    # what does not suit -------------------------------------------------------------------

    def refuse(self, space: Space, training: Training) -> None:
        self.network.refuse(space, self.condition(space))
        if space.cond is None:
            self.loss.refuse_idle("for data without conditions", "drop", prefix="loss.")
        if self.sampling.clip and not space.pictures:
            raise ValueError("sampling.clip is for pictures, which are in [-1, 1]")
        if self.sampling.guidance != 1 and (why := self._unguided(space)):
            raise ValueError(f"sampling.guidance must be 1, got {self.sampling.guidance:g}: {why}")
        denoiser, start = self._denoiser(nn.Identity()), self.sampling.start
        wanted = {start: "set sampling.start lower, to 0.999 for example"}
        if self.loss.variance == "learned":
            wanted[1.0] = "set another output, since learned variances are trained there"
        for t, remedy in wanted.items():
            if not denoiser.defined(torch.tensor(t)):
                output, schedule = self.network.output, self.network.schedule
                raise ValueError(
                    f"network.output {output} has no finite x at t = {t:g} of the {schedule} schedule: {remedy}"
                )
        if self.loss.name == "bound":
            denoiser.check_times(level_times(denoiser.schedule, whole_span(denoiser), 1).float())

    def _unguided(self, space: Space) -> str:
        """Why guidance is not possible, or "" where it is."""
        if space.cond is None:
            return "there are no conditions to guide by"
        if self.loss.drop == 1:
            return "with loss.drop 1 nothing is trained with a condition to guide by"
        return (
            "" if self.loss.drop > 0 else "with loss.drop 0 nothing is trained without a condition to guide away from"
        )

    def refuse_request(
        self, model: nn.Module, space: Space, changes: Mapping[str, Any], *, walking: bool, told: bool
    ) -> None:
        assert isinstance(model, DiffusionModel)
        changes = {**(self.walk if walking else {}), **changes}
        model.sampling.changed(**changes)  # refuses what is out of range
        if changes.get("guidance", 1) != 1 and (why := self._unguided(space)):
            raise ValueError(f"--guidance is not for this run: {why}")
        cond = self.condition(space)
        in_turn = isinstance(cond, Classes) and not walking  # classes are drawn in turn where none is given
        if cond is not None and self.loss.drop == 0 and not told and not in_turn:
            raise ValueError("--text is needed here: with loss.drop 0 nothing is trained without a condition")
        if walking:
            model.deterministic(**changes)  # refuses a sampler that draws noise

    # model and game -----------------------------------------------------------------------

    def condition(self, space: Space) -> Classes | Text | None:
        """What the model is conditioned on."""
        return space.cond if self.loss.drop < 1 else None

    def conditional(self, space: Space) -> bool:
        return self.condition(space) is not None

    def _denoiser(self, net: nn.Module, cond: Classes | Text | None = None) -> NetworkDenoiser:
        null = None if cond is None else torch.full((cond.width,), cond.size)
        return NetworkDenoiser(
            net,
            self.network.make_schedule(),
            output=self.network.output,
            null=null,
            learned_variance=self.loss.variance == "learned",
        )

    def model(self, space: Space) -> DiffusionModel:
        cond, outputs = self.condition(space), 2 if self.loss.variance == "learned" else 1
        denoiser = self._denoiser(self.network.network(space, cond, outputs=outputs), cond)
        model = DiffusionModel(denoiser, space.shape, self.sampling.settings(chunk=self.network.chunk))
        model.centre.fill_(space.mean)
        model.scale.fill_(space.std)
        return model

    def objective(self, model: nn.Module, space: Space) -> Objective:
        assert isinstance(model, DiffusionModel)
        loss, drop = self.loss, self.loss.drop if self.conditional(space) else 1.0
        if loss.name == "bound":
            reconstruction = Reconstruction("observed", None if space.levels is None else Bins(space.levels))
            span = whole_span(model.denoiser)
            return VariationalDiffusion(model, span=span, reconstruction=reconstruction, drop=drop)
        weighted = LOSSES[loss.name]
        if loss.variance == "learned":
            return Hybrid(model, steps=loss.levels, weight=loss.variance_weight, loss=weighted, drop=drop)
        times = uniform_times if loss.times == "uniform" else logit_normal_times(loss.time_mean, loss.time_std)
        return Denoising(model, loss=weighted, times=times, drop=drop)

    def curves(self) -> Mapping[str, str]:
        return {"model/diffusion": "diffusion term, nats"} if self.network.schedule == "learned" else {}

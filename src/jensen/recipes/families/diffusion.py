"""Diffusion models: trained by a weighted denoising loss or by the variational bound (VDM)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from jensen.core.objective import Objective
from jensen.core.precision import Precision
from jensen.core.settings import Settings
from jensen.data.space import Classes, Space, Text
from jensen.diffusion import (
    SCHEDULES,
    LearnedSchedule,
    NetworkDenoiser,
    Schedule,
    log_normal_times,
    logit_normal_times,
    uniform_times,
)
from jensen.diffusion.likelihood import Bins, Reconstruction, level_times, whole_span
from jensen.diffusion.losses import edm, min_snr, sigmoid, simple
from jensen.diffusion.times import Times
from jensen.models import Diffusion as DiffusionModel
from jensen.models import Sampling
from jensen.objectives import Denoising, Hybrid, VariationalDiffusion
from jensen.objectives.denoising import DenoisingLoss
from jensen.recipes.families.base import Family
from jensen.recipes.networks import DenoiserNetwork
from jensen.recipes.settings import NonNegative, Rate, Share, Training, UpToMillion

GUIDANCE = 1.25  # of pictures with conditions, see benchmarks/README.md, own_digits.py
LOSSES: dict[str, DenoisingLoss] = {
    **{view: partial(simple, view=view) for view in ("eps", "v", "x", "flow")},
    "min-snr": min_snr,
    "sigmoid": sigmoid,
    "edm": edm,
}


class DiffusionNetwork(DenoiserNetwork):
    """A denoiser: its network, its noise schedule, and its parameterization (what the network predicts)."""

    schedule: Literal["rectified", "cosine", "improved-cosine", "linear", "variance-preserving", "edm", "learned"] = (
        "cosine"
    )
    """noise schedule; learned needs loss.name bound"""
    highest: float = 9.0
    """log-SNR at t = 0 of a learned schedule"""
    lowest: float = -6.0
    """log-SNR at t = 1 of a learned schedule"""
    learn_ends: bool = True
    """whether a learned schedule also learns network.highest and network.lowest"""
    output: Literal["flow", "v", "eps", "x", "edm"] = "v"
    """parameterization: what the network predicts"""

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
    """The loss: a weighted denoising loss, or the variational bound."""

    name: Literal["eps", "v", "x", "flow", "min-snr", "sigmoid", "edm", "bound"] = "v"
    """squared error of eps, v, x or flow; a weighted one (min-snr, sigmoid, edm); or the variational bound"""
    times: Literal["uniform", "logit-normal", "log-normal"] = "uniform"
    """distribution of the training times; log-normal: of the standard deviation of the noise"""
    time_mean: float = 0.0
    """mean of the logit of logit-normal times; above 0, more training times are noisy; of log-normal times, the mean of
    the logarithm of the noise's standard deviation, for data of standard deviation 1/2"""
    time_std: Rate = 1.0
    """standard deviation of that logit or logarithm"""
    drop: Share = 0.1
    """share of examples trained without their condition, for classifier-free guidance; 1: an unconditional model"""
    variance: Literal["fixed", "learned"] = "fixed"
    """variance of the reverse steps; learned: by the terms of the variational bound, added to the weighted loss"""
    levels: Annotated[int, Field(ge=2, le=1_000_000)] = 200
    """number of noise levels T at which learned variances are trained"""
    variance_weight: Rate = 1e-3
    """weight of the terms of the bound that train the variances"""

    @model_validator(mode="after")
    def _used(self) -> DiffusionLoss:
        if self.name == "bound" and self.times != "uniform":
            raise ValueError("loss.times must be uniform for loss.name bound, which has its own distribution of times")
        if self.variance == "learned" and (self.name == "bound" or self.times != "uniform"):
            raise ValueError(
                "loss.variance learned needs a weighted loss (loss.name other than bound) and loss.times uniform"
            )
        if self.times == "uniform":
            self.refuse_idle("by uniform times", "time_mean", "time_std", prefix="loss.")
        if self.variance == "fixed":
            self.refuse_idle("with fixed variances", "levels", "variance_weight", prefix="loss.")
        return self

    def drawn(self, schedule: Schedule) -> Times:
        """The distribution of the training times."""
        if self.times == "logit-normal":
            return logit_normal_times(self.time_mean, self.time_std)
        return (
            log_normal_times(schedule, self.time_mean, self.time_std) if self.times == "log-normal" else uniform_times
        )


class DiffusionSampling(Settings):
    """How samples are drawn; `jensen sample` can change most of it."""

    sampler: str = "dpm++"
    """name of the sampler, such as ancestral, ddim, dpm++, unipc, heun"""
    steps: UpToMillion = 32
    """sampling steps; each evaluates the denoiser once, or twice for heun"""
    guidance: NonNegative | None = 1.0
    """scale of classifier-free guidance; 1: none; null: 1.25 for pictures with conditions, otherwise 1"""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """times between which guidance is active, [low, high]; t = 1 is noise, t = 0 data"""
    style_guidance: NonNegative | None = None
    """scale of guidance of the named styles of a text, while sampling.guidance is that of its characters; null: the
    same for both"""
    shift: Rate = 1.0
    """time shift; above 1, more of the steps are taken at high noise"""
    grid: Literal["uniform", "karras"] = "uniform"
    """times of the steps; karras: those of EDM, for a schedule that starts and ends at finite noise"""
    start: Annotated[float, Field(gt=0, le=1)] = 0.999
    """time at which sampling starts"""
    clip: bool = False
    """clip predicted pictures to [-1, 1]"""
    denoise: bool = False
    """replace a sample by its denoised mean after the last step, for a schedule that ends above zero noise"""
    precision: Precision = "float32"
    """precision of the network; bfloat16: mixed precision; auto: bfloat16 on a device that has arithmetic in it"""
    eta: Share | None = None
    """noise of sampler ddim; 0: deterministic, 1: as much noise as ancestral sampling"""
    variance: Literal["posterior", "forward", "learned"] | None = None
    """variance of the steps of sampler ancestral"""

    @field_validator("guidance_interval")
    @classmethod
    def _in_order(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError(f"must be [low, high] with low <= high, got {list(interval)}")
        return interval

    @model_validator(mode="after")
    def _in_range(self) -> DiffusionSampling:
        self.drawn(1.0)
        return self

    def drawn(self, guidance: float, chunk: int = 1) -> Sampling:
        """The settings of a model; `guidance` is the scale that null stands for."""
        own = self.model_dump(exclude={"guidance"})
        return Sampling(**own, guidance=guidance if self.guidance is None else self.guidance, chunk=chunk)


def _unstyled(space: Space) -> str:
    """The reason why styles cannot be guided apart, or "" if they can."""
    return "" if isinstance(space.cond, Text) and space.cond.styles else "there are no texts with named styles"


class Diffusion(Family):
    """A diffusion model: samples are denoised from noise step by step."""

    kind = "diffusion"
    judged = frozenset({"steps", "scales", "bound_steps", "ode_rows", "first"})
    changes = ("sampler", "steps", "guidance", "guidance_interval", "style_guidance", "eta")
    interpolation: ClassVar[Mapping[str, Any]] = {"sampler": "ddim"}

    network: DiffusionNetwork = DiffusionNetwork()
    loss: DiffusionLoss = DiffusionLoss()
    sampling: DiffusionSampling = DiffusionSampling()

    @model_validator(mode="after")
    def _trainable(self) -> Diffusion:
        if self.network.schedule == "learned" and self.loss.name != "bound":
            raise ValueError(f"network.schedule learned needs loss.name bound, got {self.loss.name}")
        if self.sampling.variance == "learned" and self.loss.variance != "learned":
            raise ValueError("sampling.variance learned needs loss.variance=learned")
        return self

    def refuse(self, space: Space, training: Training) -> None:
        super().refuse(space, training)
        self.network.refuse(space, self.condition(space))
        if space.cond is None:
            self.loss.refuse_idle("for data without conditions", "drop", prefix="loss.")
        if self.sampling.clip and not space.pictures:
            raise ValueError("sampling.clip needs pictures, got points")
        if self.sampling.guidance not in (None, 1) and (why := self._unguided(space)):
            raise ValueError(f"sampling.guidance must be 1, got {self.sampling.guidance:g}: {why}")
        if self.sampling.style_guidance is not None and (why := self._unguided(space) or _unstyled(space)):
            raise ValueError(f"sampling.style_guidance must be null, got {self.sampling.style_guidance:g}: {why}")
        if not self._drawn(space).guided:
            self.sampling.refuse_idle("without guidance", "guidance_interval", prefix="sampling.")
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
        """The reason why guidance is not possible, or "" if it is."""
        if space.cond is None:
            return "the model has no conditions"
        if self.loss.drop == 1:
            return "loss.drop 1 trains no example with its condition"
        return "" if self.loss.drop > 0 else "loss.drop 0 trains no example without its condition"

    def refuse_request(
        self,
        model: DiffusionModel,
        space: Space,
        changes: Mapping[str, Any],
        *,
        conditions: bool = False,
        interpolating: bool = False,
    ) -> None:
        changes = {**(self.interpolation if interpolating else {}), **changes}
        changed = model.sampling.changed(**changes)  # refuses what is out of range
        if changes.get("guidance", 1) != 1 and (why := self._unguided(space)):
            raise ValueError(f"--guidance cannot be used with this run: {why}")
        if "style_guidance" in changes and (why := self._unguided(space) or _unstyled(space)):
            raise ValueError(f"--style-guidance cannot be used with this run: {why}")
        if "guidance_interval" in changes and not changed.guided:
            raise ValueError("--guidance-interval has no effect without guidance: give --guidance too")
        cond = self.condition(space)
        in_turn = isinstance(cond, Classes) and not interpolating  # classes are drawn in turn where none is given
        if cond is not None and self.loss.drop == 0 and not conditions and not in_turn:
            raise ValueError("--text is required for this run: loss.drop 0 trains no example without its condition")
        if interpolating:
            model.deterministic(**changes)  # refuses a sampler that draws noise

    def summary(self, space: Space) -> list[str]:
        return self.network.summary(space)

    def condition(self, space: Space) -> Classes | Text | None:
        """What the model is conditioned on."""
        return space.cond if self.loss.drop < 1 else None

    def conditional(self, space: Space) -> bool:
        return self.condition(space) is not None

    def _denoiser(self, net: nn.Module, cond: Classes | Text | None = None) -> NetworkDenoiser:
        null, schedule = None if cond is None else torch.full((cond.width,), cond.size), self.network.make_schedule()
        learned = self.loss.variance == "learned"
        return NetworkDenoiser(net, schedule, output=self.network.output, null=null, learned_variance=learned)

    def _drawn(self, space: Space) -> Sampling:
        guided = space.pictures and not self._unguided(space)
        return self.sampling.drawn(GUIDANCE if guided else 1.0, self.network.chunk(space))

    def model(self, space: Space) -> DiffusionModel:
        cond, outputs = self.condition(space), 2 if self.loss.variance == "learned" else 1
        denoiser = self._denoiser(self.network.network(space, cond, outputs=outputs), cond)
        sampling = self._drawn(space)
        unstyled = cond.unstyled if isinstance(cond, Text) and cond.styles else None
        model = DiffusionModel(denoiser, space.shape, sampling, unstyled)
        model.centre, model.scale = space.moments()
        return model

    def objective(self, model: DiffusionModel, space: Space) -> Objective:
        loss, drop = self.loss, self.loss.drop if self.conditional(space) else 1.0
        if loss.name == "bound":
            observed = Reconstruction("observed", None if space.levels is None else Bins(space.levels))
            return VariationalDiffusion(model, span=whole_span(model.denoiser), reconstruction=observed, drop=drop)
        weighted = LOSSES[loss.name]
        if loss.variance == "learned":
            return Hybrid(model, steps=loss.levels, weight=loss.variance_weight, loss=weighted, drop=drop)
        return Denoising(model, loss=weighted, times=loss.drawn(model.denoiser.schedule), drop=drop)

    def curves(self) -> Mapping[str, str]:
        return {"model/diffusion": "diffusion term, nats"} if self.network.schedule == "learned" else {}

"""Settings of training."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from jensen.core.objective import Objective, partition
from jensen.core.precision import Precision, emulated, mixed
from jensen.core.settings import Settings
from jensen.training import WIDEST, Budget, Player, power_decay, warm_decay, warm_then_decay
from jensen.training.distributed import processes
from jensen.training.power import NARROWEST

Positive = Annotated[int, Field(ge=1)]
UpToMillion = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=NARROWEST, le=WIDEST)]
Average = Annotated[
    Annotated[Momentum, Tag("a decay")] | Annotated[tuple[Width, Width], Tag("two widths")],
    Discriminator(lambda value: "two widths" if isinstance(value, list | tuple) else "a decay"),
]

SNAPSHOTS = 32


def _device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise ValueError(f"must be auto, cpu, cuda or cuda:N, got {name!r}")
    return name


class Training(Settings):
    """Training by AdamW; its learning rate warms up, stays constant, then decays to zero at the end of the budget."""

    minutes: Rate | None = None
    """minutes of training, if not given in steps"""
    steps: Positive | None = None
    """steps of training, if not given in minutes"""
    start: str | None = None
    """run, by folder or name, whose averaged weights the model starts from; layers that it lacks start as usual"""
    batch_size: UpToMillion = 64
    """batch size per step, over all processes together"""
    accumulate: Positive = 1
    """number of parts of a process's batch whose gradients are computed one after the other, to save memory"""
    sharding: Literal["replicated", "fully"] = "replicated"
    """fully: weights, optimizer states and averages are divided among the processes"""
    rate: Rate = 2e-3
    """learning rate"""
    rates: dict[str, Rate] = Field(default_factory=dict)
    """learning rates by player, for players that do not use training.rate"""
    betas: tuple[Momentum, Momentum] = (0.9, 0.99)
    """betas of AdamW: decay of the means of the gradient and of its square"""
    weight_decay: NonNegative = 0.01
    """weight decay of AdamW"""
    warmup: Annotated[int, Field(ge=0)] = 100
    """warm-up: steps over which the learning rate rises linearly"""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.4
    """decay: last share of the budget, over which the learning rate falls to zero"""
    clip: Rate | None = 1.0
    """norm to which each player's gradient is clipped; null: no clipping"""
    average: Average = 0.998
    """average of the weights, from which samples are drawn: decay of an exponential one, or the relative widths of two
    power-function ones, as in [0.05, 0.1]; samples are then drawn from the first, or from any width
    (`jensen sample --width`)"""
    snapshots: Positive = SNAPSHOTS
    """snapshots of power-function averages, evenly spread over training, from which other widths are reconstructed"""
    precision: Precision = "float32"
    """precision of the forward pass; bfloat16: mixed precision; auto: bfloat16 on a device that has arithmetic in it"""
    skip_nonfinite: Annotated[int, Field(ge=0, le=1000)] = 0
    """steps in a row that may be skipped because a loss, a gradient or a weight is not finite; 0 with several
    processes"""
    compile: bool = False
    """compile the objective with torch.compile, unless its loss contains a gradient"""
    recompute: bool = False
    """activation checkpointing: compute activations within blocks again in the backward pass, to save memory"""
    save_every: Positive = 500
    """steps between checkpoints"""
    log_every: Positive = 25
    """steps between lines of the training journal"""
    previews: Annotated[int, Field(ge=0)] = 10
    """number of previews of samples, and of losses of held-out data, during training"""
    tensorboard: bool = False
    """whether to write training curves for TensorBoard too, to RUN/tensorboard; needs the extra tensorboard"""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """device to train on; auto: CUDA if available"""

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("training must have exactly one of minutes and steps")
        return self

    @model_validator(mode="after")
    def _two_widths(self) -> Training:
        if not self.widths:
            self.refuse_idle("with an exponential average", "snapshots", prefix="training.")
        elif self.widths[0] == self.widths[1]:
            raise ValueError(f"training.average must be two different widths, got {list(self.widths)}")
        return self

    @property
    def widths(self) -> tuple[float, ...]:
        """Relative widths of the power-function averages; none for an exponential average."""
        return self.average if isinstance(self.average, tuple) else ()

    def average_decays(self) -> list[Callable[[int], float]]:
        """Decays of the averages of the weights, as functions of the step."""
        if isinstance(self.average, tuple):
            return [power_decay(width) for width in self.average]
        return [warm_decay(self.average)]

    def budget(self) -> Budget:
        return Budget(steps=self.steps, minutes=self.minutes)

    def length(self) -> str:
        """In words."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.minutes:g} minutes"

    def lasting(self, other: Training) -> Training:
        """The same settings with the steps or minutes of `other`."""
        return self.model_copy(update={"steps": other.steps, "minutes": other.minutes})

    def rows(self) -> int:
        """Number of rows of one forward pass: those of a part of a process's batch.

        Raises:
            ValueError: if the batch cannot be divided equally.
        """
        parts = processes() * self.accumulate
        if self.batch_size % parts:
            of = f"{processes()} (processes)" + f" x {self.accumulate} (training.accumulate)" * (self.accumulate > 1)
            raise ValueError(f"training.batch_size must be a multiple of {of}, got {self.batch_size}")
        return self.batch_size // parts

    def torch_device(self) -> torch.device:
        """The device to train on.

        Raises:
            ValueError: for a CUDA device that does not exist.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"training.device must be a CUDA device of this machine, got {self.device!r}")
        return device

    def device_or_cpu(self) -> torch.device:
        """The device of training, or the CPU if that does not exist here."""
        try:
            return self.torch_device()
        except ValueError:
            return torch.device("cpu")

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of mixed precision on the device of training, or None for float32."""
        return mixed(self.precision, self.device_or_cpu())

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the device of training emulates the precision."""
        return emulated("training.precision", self.precision, self.device_or_cpu())

    def players(self, objective: Objective, budget: Budget) -> dict[str, Player]:
        """AdamW for every player of the objective, at its own learning rate where `rates` has one.

        Raises:
            ValueError: for a rate of an unknown player.
        """
        owned = partition(objective)
        if unknown := set(self.rates) - set(owned):
            raise ValueError(f"training.rates must name players, {', '.join(sorted(owned))}, got {min(unknown)!r}")
        return {
            name: self.player(parameters, self.rates.get(name, self.rate), budget) for name, parameters in owned.items()
        }

    def player(self, parameters: list[torch.nn.Parameter], rate: float, budget: Budget) -> Player:
        """AdamW of one player."""
        groups = [parameters]
        if self.sharding == "fully":  # numbers are not divided
            groups = [[p for p in parameters if p.ndim], [p for p in parameters if not p.ndim]]
        parts = [{"params": group} for group in groups if group]
        adam = torch.optim.AdamW(parts, lr=rate, betas=self.betas, weight_decay=self.weight_decay, fused=True)
        return Player(parameters, adam, warm_then_decay(rate, budget, warmup=self.warmup, decay=self.decay), self.clip)

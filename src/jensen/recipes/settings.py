"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from jensen.core.objective import Objective, partition
from jensen.core.settings import Settings
from jensen.training import Budget, Player, warm_then_decay
from jensen.training.distributed import processes

Positive = Annotated[int, Field(ge=1)]
UpToMillion = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Training(Settings):
    """Training by AdamW; its learning rate warms up, stays constant, then decays to zero at the end of the budget."""

    minutes: Rate | None = None
    """minutes of training, if not given in steps"""
    steps: Positive | None = None
    """steps of training, if not given in minutes"""
    batch_size: UpToMillion = 64
    """batch size per step, over all processes together"""
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
    average: Momentum = 0.998
    """decay of the exponential moving average of the weights, from which samples are drawn"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """precision of the forward pass; bfloat16: mixed precision"""
    compile: bool = False
    """compile the objective with torch.compile"""
    save_every: Positive = 500
    """steps between checkpoints"""
    log_every: Positive = 25
    """steps between lines of the training journal"""
    previews: Annotated[int, Field(ge=0)] = 10
    """number of previews of samples, and of losses of held-out data, during training"""
    tensorboard: bool = False
    """whether to write training curves for TensorBoard too, to RUN/tensorboard; needs jensen[tensorboard]"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """device to train on; auto: CUDA if available"""

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("training must have exactly one of minutes and steps")
        return self

    def budget(self) -> Budget:
        return Budget(steps=self.steps, minutes=self.minutes)

    def length(self) -> str:
        """In words."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.minutes:g} minutes"

    def lasting(self, other: Training) -> Training:
        """The same settings with the steps or minutes of `other`."""
        return self.model_copy(update={"steps": other.steps, "minutes": other.minutes})

    def rows(self) -> int:
        """Batch size of each process.

        Raises:
            ValueError: if the batch cannot be divided equally.
        """
        if self.batch_size % processes():
            raise ValueError(
                f"training.batch_size must be a multiple of {processes()} (processes), got {self.batch_size}"
            )
        return self.batch_size // processes()

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
        return torch.bfloat16 if self.precision == "bfloat16" else None

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
        adam = torch.optim.AdamW(parameters, lr=rate, betas=self.betas, weight_decay=self.weight_decay, fused=True)
        return Player(parameters, adam, warm_then_decay(rate, budget, warmup=self.warmup, decay=self.decay), self.clip)

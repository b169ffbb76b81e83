"""What a recipe is: a complete, typed configuration that builds, trains and judges a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from jensen.core.objective import Objective, partition
from jensen.core.types import Stream
from jensen.training import Budget, Player, warm_then_decay

Positive = Annotated[int, Field(ge=1)]
Advance = Callable[[int], None]
"""Told how much of a long piece of work has just been done."""
Track = Callable[[str, int], Advance]
"""Opens a progress bar of a name and a total."""


Watch = Callable[[int, float, float | None, Mapping[str, float]], None]
"""Told the step, the share of the budget used, the seconds left if known, and numbers to show."""


def silent(name: str, total: int) -> Advance:  # noqa: ARG001
    """A `Track` that shows nothing."""
    return lambda _: None


class Settings(BaseModel):
    """A node of a configuration tree: frozen, complete, and no key it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(Settings):
    """How long and how a recipe trains."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    batch_size: Positive = 64
    rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Annotated[int, Field(ge=0)] = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.998
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    save_every: Positive = 500
    log_every: Positive = 25
    previews: Annotated[int, Field(ge=0)] = 10
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("training takes either minutes or steps")
        return self

    def budget(self) -> Budget:
        return Budget(steps=self.steps, minutes=self.minutes)

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"training.device is {self.device!r}, and there is no such CUDA device here")
        return device

    def device_or_cpu(self) -> torch.device:
        """Where it trained, or the CPU where that is not there."""
        try:
            return self.torch_device()
        except ValueError:
            return torch.device("cpu")

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bfloat16" else None


@dataclass(frozen=True)
class Setting:
    """A recipe made real: the game, its data, and what is needed to look at it."""

    objective: Objective
    stream: Stream
    references: Mapping[str, Tensor]


class Recipe(Settings, ABC):
    """One tree of settings a recipe; `recipe` names it in config.json.

    A subclass says what its model is, how it is trained, and how it is judged. Whatever it writes goes
    below the run's folder.
    """

    summary: ClassVar[str]
    recipe: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    training: Training

    def check(self) -> None:
        """Raise a ValueError, before anything is made, for what the settings point to and is not there."""

    @abstractmethod
    def model(self) -> nn.Module:
        """The product, untrained."""

    @abstractmethod
    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        """The game on `model` and its data, drawn or read here."""

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        """Look at the averaged model in the middle of training; numbers for the journal, pictures in `folder`."""
        return {}

    @abstractmethod
    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Judge a trained model: JSON values, pictures below `folder`."""

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        """Write report.html below `folder`."""

    @abstractmethod
    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows of (name, value) to print after an evaluation."""

    def players(self, objective: Objective, budget: Budget) -> dict[str, Player]:
        """AdamW for every player, warmed up and decayed to zero over the budget."""
        t = self.training
        rate = warm_then_decay(t.rate, budget, warmup=t.warmup, decay=t.decay)
        return {
            name: Player(
                parameters,
                torch.optim.AdamW(parameters, lr=t.rate, betas=(0.9, 0.99), weight_decay=t.weight_decay, fused=True),
                rate,
                t.clip,
            )
            for name, parameters in partition(objective).items()
        }

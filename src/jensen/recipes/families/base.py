"""What a model family is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from jensen.core.objective import Objective
from jensen.core.progress import Track, silent
from jensen.core.settings import Kind
from jensen.core.types import Stream
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.recipes.settings import Training
from jensen.training import Budget, Player, Update, descend


class Family(Kind, ABC):
    """The settings of a kind of model and of its training. A concrete subclass is registered under its `kind`.

    Samples of the model are drawn by `model.sample(n, cond=, generator=, **changes)`. A model that can interpolate
    between two noise vectors has `model.interpolate(first, second, n, ...)`. Methods that take a model are called with
    one that `model` returned.
    """

    what = "family"
    judged: ClassVar[frozenset[str]] = frozenset()
    """Settings of `Judging`, in addition to the common ones, that judges use for runs of this family."""
    changes: ClassVar[tuple[str, ...]] = ()
    """Keyword arguments of `model.sample` that `jensen sample` may change, such as "steps"."""
    interpolation: ClassVar[Mapping[str, Any]] = {}
    """Default changes to the sampling settings for `model.interpolate`."""

    neural: ClassVar[bool] = True
    """Whether training evaluates a network, which may do so in bfloat16."""

    def refuse(self, space: Space, training: Training) -> None:
        """Raise a ValueError of one sentence if the family cannot be used with this data or training."""
        if not self.neural and training.precision != "float32":
            raise ValueError(f"training.precision must be float32 with family {self.kind}, which has no network")
        if space.b is not None:
            raise ValueError(f"family {self.kind} needs data with one side, got two sides: use family translation")
        if self.fitted and training.steps != 1:
            raise ValueError(f"family {self.kind} is fitted before its first step: set training.steps to 1")
        self.refuse_twice(training)

    def refuse_twice(self, training: Training) -> None:
        """Raise a ValueError if training takes second derivatives, but is compiled or recomputes activations."""
        if (why := self.second_derivatives) and training.compile:
            raise ValueError(f"training.compile must be false with {why}, whose second derivatives torch.compile lacks")
        if why and training.recompute:
            raise ValueError(f"training.recompute must be false with {why}, which takes second derivatives")

    @abstractmethod
    def model(self, space: Space) -> nn.Module:
        """The untrained model."""

    @abstractmethod
    def objective(self, model: Any, space: Space) -> Objective:
        """The training objective of the model."""

    def begin(self, model: Any, data: Data, seed: int, track: Track = silent) -> None:
        """Set what the model needs from the data before the first training step."""

    def stream(self, data: Data, batch_size: int, seed: int) -> Stream:
        """Training batches."""
        return data.stream(batch_size, seed)

    def players(self, objective: Objective, training: Training, budget: Budget) -> dict[str, Player]:
        """The players of the objective, each with its optimizer and learning rate."""
        return training.players(objective, budget)

    def update(self) -> Update:
        """The rule that updates the players."""
        return descend

    def notes(self, space: Space) -> list[str]:
        """Warnings, one sentence each, about settings that are valid but need care."""
        return []

    def summary(self, space: Space) -> list[str]:
        """The networks for this data and their cost, one line each."""
        return []

    @property
    def fitted(self) -> bool:
        """Whether `begin` fits the model, so that training steps change nothing."""
        return False

    @property
    def second_derivatives(self) -> str:
        """What differentiates a gradient in training, or ""."""
        return ""

    @property
    def held_out_loss(self) -> bool:
        """Whether the training loss can be computed on held-out data."""
        return True

    def curves(self) -> Mapping[str, str]:
        """Journal entries to plot in the report, with their titles."""
        return {}

    def conditional(self, space: Space) -> bool:
        """Whether the model is conditioned on the data's conditions."""
        return False

    def refuse_request(
        self,
        model: Any,
        space: Space,
        changes: Mapping[str, Any],
        *,
        conditions: bool = False,
        interpolating: bool = False,
    ) -> None:
        """Raise a ValueError if the model cannot carry out this request for samples.

        Args:
            model: the model that is sampled.
            space: space of the model's data.
            changes: changed sampling settings, whose names are in `self.changes`.
            conditions: whether the request gives conditions.
            interpolating: whether interpolations are requested.
        """

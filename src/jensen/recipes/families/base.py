"""What a model family is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from jensen.core.objective import Objective
from jensen.core.progress import Track, silent
from jensen.core.settings import Kind
from jensen.core.types import Batch, Loss, Phase, Stream
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.recipes.settings import Training
from jensen.training import Budget, Player, Update, descend


class Family(Kind, ABC):
    """A kind of model and how it is trained, as settings. A concrete subclass is known by its `kind`.

    The model that it builds is drawn from by `model.sample(n, cond=, generator=, **changes)`, and walked through by
    `model.interpolate(first, second, n, ...)` where it has such a method.
    """

    what = "family"
    judged: ClassVar[frozenset[str]] = frozenset()
    """Settings of `Judging`, beside the common ones, that judges of this family's runs use."""
    changes: ClassVar[tuple[str, ...]] = ()
    """What `jensen sample` may change: keyword arguments of `model.sample`, such as "steps"."""
    walk: ClassVar[Mapping[str, Any]] = {}
    """Changes to the sampling by which `model.interpolate` goes from one noise to another, unless asked otherwise."""

    def refuse(self, space: Space, training: Training) -> None:
        """Raise a ValueError, one sentence, for data or training that do not suit."""

    @abstractmethod
    def model(self, space: Space) -> nn.Module:
        """The product, untrained."""

    @abstractmethod
    def objective(self, model: nn.Module, space: Space) -> Objective:
        """The game on it."""

    def begin(self, model: nn.Module, data: Data, seed: int, track: Track = silent) -> None:
        """Set what the model takes from its data before the first step."""

    def stream(self, data: Data, batch_size: int, seed: int) -> Stream:
        """Training batches."""
        return data.stream(batch_size, seed)

    def players(self, objective: Objective, training: Training, budget: Budget) -> dict[str, Player]:
        """How each player of the game moves."""
        return training.players(objective, budget)

    def update(self) -> Update:
        """The rule by which players move together."""
        return descend

    def notes(self, space: Space) -> list[str]:
        """Sentences about settings that work and need care."""
        return []

    def curves(self) -> Mapping[str, str]:
        """Journal entries that are worth a plot, with their titles."""
        return {}

    def conditional(self, space: Space) -> bool:
        """Whether the model takes the conditions of the data."""
        return False

    def refuse_request(
        self, model: nn.Module, space: Space, changes: Mapping[str, Any], *, walking: bool, told: bool
    ) -> None:
        """Raise a ValueError for a request to sample that does not suit.

        Args:
            model: to be drawn from.
            space: of its data.
            changes: to the sampling, all of them among `self.changes`.
            walking: whether rows from one noise to another are wanted.
            told: whether conditions are given.
        """


class Fitted(Objective):
    """A game without players: the model is what it is."""

    phases: tuple[Phase, ...] = ()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def players(self) -> Mapping[str, list[nn.Parameter]]:
        return {}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        return {}

"""A case: a run under judgement, and what judges have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.progress import Advance, Track, silent
from jensen.core.settings import Settings
from jensen.core.types import Stream
from jensen.data.dataset import Data, some
from jensen.judging.features import Features, features_of
from jensen.judging.settings import Judging
from jensen.models import Diffusion, ScoreModel
from jensen.report.findings import Part
from jensen.training import Player, Update


class Draw(Protocol):
    """Draws samples: number i is a function of the model, the seed and i, or its condition, alone; on the CPU."""

    def __call__(
        self,
        n: int,
        *,
        cond: Tensor | None = None,
        seed: int | None = None,
        advance: Advance = lambda _: None,
        **changes: Any,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Played:
    """The game as training left it, which only a checkpoint has: critics, and the model before averaging.

    Attributes:
        objective: the game, on its device.
        update: the rule by which its players move.
        players: with their optimizers and learning rates.
        step: of training.
        stream: of training batches.
    """

    objective: Objective
    update: Update
    players: dict[str, Player]
    step: int
    stream: Stream


@dataclass(frozen=True)
class Case:
    """A run under judgement.

    Attributes:
        model: averaged, in evaluation mode.
        data: that it was trained on and that it is judged by.
        draw: draws from it.
        conditional: whether it takes the conditions of the data.
        settings: how it is judged.
        family: the settings of its family, for judges that say what they found of them.
        played: called: the game as training left it, or None where there is no checkpoint.
        journal: lines of the training journal.
        folder: of the run, or None for a model that has none.
        seed: of all that is drawn in judging.
        track: shows progress.
        stability: whether eigenvalues were asked for.
        beside: name and model of another run to be judged alike.
        own_features: a callable of the user's, (N, ...) -> (N, d).
    """

    model: nn.Module
    data: Data
    draw: Draw
    conditional: bool = False
    settings: Judging = field(default_factory=Judging)
    family: Settings | None = None
    played: Callable[[], Played | None] = lambda: None
    journal: Sequence[dict[str, Any]] = ()
    folder: Path | None = None
    seed: int = 0
    track: Track = silent
    stability: bool = False
    beside: tuple[str, nn.Module] | None = None
    own_features: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def device(self) -> torch.device:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @cached_property
    def game(self) -> Played | None:
        """The game as training left it, loaded once."""
        return self.played()

    @cached_property
    def asked(self) -> Tensor | None:
        """Conditions of `samples`, or None for a model that takes none."""
        return self.data.asked(self.settings.samples) if self.conditional else None

    @cached_property
    def samples(self) -> Tensor:
        """Samples to be judged, drawn once, of `asked` where data have conditions, on the levels of the data."""
        n = self.settings.samples
        made = self.draw(n, cond=self.asked, advance=self.track("drawing samples", n))
        return self.data.space.settled(made)

    @cached_property
    def by_steps(self) -> dict[int, Tensor]:
        """Samples drawn in each of `settings.steps` and in the model's own number of steps, from the same noise."""
        model, n, found = self.model, self.settings.samples, {}
        assert isinstance(model, Diffusion | ScoreModel)
        own = model.sampling.steps
        for steps in sorted({*self.settings.steps, own}):
            if steps == own:
                found[steps] = self.samples
            else:
                made = self.draw(n, cond=self.asked, steps=steps, advance=self.track(f"drawing in {steps} steps", n))
                found[steps] = self.data.space.settled(made)
        return found

    @cached_property
    def test(self) -> dict[str, Tensor]:
        """Held-out rows, at most `settings.rows`, on the CPU."""
        return some(self.data.test, self.settings.rows)

    @cached_property
    def train(self) -> dict[str, Tensor]:
        """Training rows in memory, at most 50,000, on the CPU."""
        return some(self.data.train, 50_000)

    @cached_property
    def features(self) -> Features:
        """What samples and data are compared by."""
        return features_of(self.own_features or self.settings.features, self.data)


Judge = Callable[[Case], Part | None]
"""Says what it finds, or None where what it needs is not there: no encoder, no labels, no known density."""

JUDGES: dict[str, Judge] = {}
"""By name, in the order of the page."""


def judge(found: Judge) -> Judge:
    """Decorator: `jensen evaluate` asks this judge too, of every run.

    >>> from jensen.report.findings import Finding
    >>> @judge
    ... def brightness(case):
    ...     return Part("Brightness", findings=[Finding("brightness", "mean of samples", float(case.samples.mean()))])
    >>> _ = JUDGES.pop("brightness")
    """
    JUDGES[getattr(found, "__name__", repr(found))] = found
    return found


def chunks(x: Tensor, cond: Tensor | None, size: int, advance: Advance) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows `size` at a time with their conditions; each is counted when the next is asked for."""
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        yield rows, None if cond is None else cond[start : start + size]
        advance(len(rows))

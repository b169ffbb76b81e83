"""A case: everything that judges need to know about the run that is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.progress import Advance, Track, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import derived, generator, generators
from jensen.core.types import Stream
from jensen.data.dataset import Data, Reader, in_memory, some
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.judging.features import FeatureReader, Features, features_of
from jensen.judging.settings import Judging
from jensen.models import Diffusion, ScoreModel
from jensen.report.findings import Part
from jensen.training import Player, Update
from jensen.training.distributed import divided

T = TypeVar("T")
CHUNK = 256  # number of samples that are drawn together, if the model does not set it


class Draw(Protocol):
    """Draws samples, returned on the CPU; sample i depends only on the model, the seed, and i or its condition."""

    def __call__(
        self,
        n: int,
        *,
        cond: Tensor | None = None,
        seed: int | None = None,
        advance: Advance = lambda _: None,
        **changes: Any,
    ) -> Tensor: ...


def together(model: object) -> int:
    """Number of samples of a model that are drawn together."""
    return getattr(getattr(model, "sampling", None), "chunk", None) or CHUNK


def drawer(model: nn.Module, space: Space, own_seed: int) -> Draw:
    """A function that draws samples; sample i depends on (model, seed, i) alone, or on its condition and repeats."""

    def draw(
        n: int,
        *,
        cond: Tensor | None = None,
        seed: int | None = None,
        advance: Advance = lambda _: None,
        **changes: Any,
    ) -> Tensor:
        if not isinstance(model, Sampleable):
            raise ValueError(f"{type(model).__name__} draws nothing")
        keys = range(n) if cond is None or space.cond is None else space.cond.decode(cond)
        rng = generators(own_seed if seed is None else seed, keys)

        def drawn(rows: slice) -> Tensor:
            given = None if cond is None else cond[rows]
            return model.sample(len(rng[rows]), cond=given, generator=rng[rows], **changes).float().cpu()

        return torch.cat(divided(drawn, n, together(model), advance))

    return draw


def device_of(model: object) -> torch.device:
    """The device of a model's tensors; the CPU if it has none."""
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    return tensors[0].device if tensors else torch.device("cpu")


@dataclass(frozen=True)
class Played:
    """The game at the end of training, from a checkpoint: it has the critics, and weights without averaging.

    Attributes:
        objective: the game's objective, on its device.
        update: the rule that updates its players.
        players: players with their optimizers and learning rates.
        step: number of the training step.
        stream: training batches.
    """

    objective: Objective
    update: Update
    players: dict[str, Player]
    step: int
    stream: Stream


@dataclass(frozen=True)
class Case:
    """A run that is evaluated.

    Attributes:
        model: model with averaged weights, in evaluation mode.
        data: its training and held-out data.
        draw: draws samples of the model.
        conditional: whether the model takes the conditions of the data.
        settings: settings of judging.
        played: a function that returns the game at the end of training, or None without a checkpoint.
        seed: random seed of judging.
        track: shows progress.
        stability: whether eigenvalues are computed.
        beside: name and model of another run for comparison.
        own_features: features in place of those of the settings: a callable (N, ...) -> (N, d).
    """

    model: nn.Module
    data: Data
    draw: Draw
    conditional: bool = False
    settings: Judging = field(default_factory=Judging)
    played: Callable[[], Played | None] = lambda: None
    seed: int = 0
    track: Track = silent
    stability: bool = False
    beside: tuple[str, nn.Module] | None = None
    own_features: Features | Callable[[Tensor], Tensor] | None = None

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.model)

    def rng(self, *names: str | int) -> torch.Generator:
        """A random generator on the device, a different one for each purpose."""
        return generator(derived(self.seed, *names), self.device)

    @cached_property
    def game(self) -> Played | None:
        """The game at the end of training, loaded once."""
        return self.played()

    @cached_property
    def asked(self) -> Tensor | None:
        """Conditions of `samples`, or None for an unconditional model."""
        return self.data.asked(self.settings.samples) if self.conditional else None

    def drawn(self, name: str, n: int, **more: Any) -> Tensor:
        """Samples drawn with a progress bar of this name, rounded to the data's levels."""
        return self.data.space.settled(self.draw(n, advance=self.track(name, n), **more))

    @cached_property
    def samples(self) -> Tensor:
        """The samples that are judged, drawn once, given `asked` if the model is conditional."""
        return self.drawn("drawing samples", self.settings.samples, cond=self.asked)

    @cached_property
    def by_steps(self) -> dict[int, Tensor]:
        """Samples from the same noise with each number of steps in `settings.steps` and the model's own number."""
        assert isinstance(self.model, Diffusion | ScoreModel)
        own, n = self.model.sampling.steps, self.settings.samples
        return {
            k: self.samples if k == own else self.drawn(f"drawing in {k} steps", n, cond=self.asked, steps=k)
            for k in sorted({*self.settings.steps, own})
        }

    def each(
        self,
        name: str,
        f: Callable[[Tensor, Tensor | None, torch.Generator], T],
        x: Tensor,
        size: int,
        cond: Tensor | None = None,
    ) -> list[T]:
        """f(rows, conditions, generator) of each chunk of rows, on the device, with a progress bar of this name.

        The generator is a function of the seed, the name and the chunk: processes may share the chunks out.
        """

        def of(rows: slice) -> T:
            given = None if cond is None else cond[rows].to(self.device)
            return f(x[rows].to(self.device), given, self.rng(name, rows.start))

        return divided(of, len(x), size, self.track(name, len(x)))

    @cached_property
    def test(self) -> dict[str, Tensor]:
        """Held-out rows, at most `settings.rows`, on the CPU."""
        return some(self.data.test, self.settings.rows)

    @cached_property
    def train(self) -> Tensors:
        """Training rows in memory, at most 50,000, on the CPU; pictures of 256 levels as bytes, read as floats."""
        return in_memory(self.data.train, 50_000)

    @cached_property
    def features(self) -> Features:
        """The features by which samples and data are compared."""
        return features_of(self.own_features or self.settings.features, self.data)

    @cached_property
    def reader(self) -> Reader | None:
        """Reads samples: the data's own reader, or a classifier of their classes that was trained on real data only."""
        if self.data.truths.reader is not None or not isinstance(self.data.space.cond, Classes):
            return self.data.truths.reader
        known = self.features.classify is not None
        return FeatureReader.of(self.features if known else features_of("classifier", self.data), self.test["x"])


Judge = Callable[[Case], Part | None]
"""Returns a part of the report, or None if it does not apply: no encoder, no labels, no known density."""

JUDGES: dict[str, Judge] = {}
"""Judges by name, in the order of the report."""


def judge(found: Judge) -> Judge:
    """Decorator: register a judge, which `jensen evaluate` then calls for every run.

    >>> from jensen.report.findings import Finding
    >>> @judge
    ... def brightness(case):
    ...     return Part("Brightness", findings=[Finding("brightness", "mean of samples", float(case.samples.mean()))])
    >>> _ = JUDGES.pop("brightness")
    """
    JUDGES[getattr(found, "__name__", repr(found))] = found
    return found

"""What a recipe is: a complete, typed configuration that builds, trains and judges a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from jensen.core.objective import Objective, partition
from jensen.core.protocols import Sampleable
from jensen.core.seeding import checked_seed, generator
from jensen.core.types import Stream
from jensen.data.pictures import sheet, to_image
from jensen.data.pool import to_bytes
from jensen.recipes.folder import command
from jensen.report import plots
from jensen.training import Budget, Player, Update, descend, warm_then_decay
from jensen.training.distributed import processes

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

    RATES: ClassVar = ("rate", "weight_decay")  # of recipes whose players have no rates of their own

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

    def without_rate(self, instead: str) -> None:
        """Raise a ValueError if a rate was set that moves nobody, in games whose players have rates of their own."""
        for name in self.RATES:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"training.{name} moves nobody here: set {instead}")

    def budget(self) -> Budget:
        return Budget(steps=self.steps, minutes=self.minutes)

    def length(self) -> str:
        """In words."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.minutes:g} minutes"

    def rows(self) -> int:
        """Of a batch, for each process.

        Raises:
            ValueError: if they cannot be shared out.
        """
        if self.batch_size % processes():
            raise ValueError(f"training.batch_size {self.batch_size} does not divide by {processes()} processes")
        return self.batch_size // processes()

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


@dataclass(frozen=True)
class Request:
    """What is asked of `jensen sample`.

    Attributes:
        n: how many, or None for the recipe's own number.
        texts: what to draw, for a recipe that draws texts.
        seed: samples are a function of the model and it; from 0 to 2^64 - 1.
        changes: to the sampling: "sampler", "steps", "guidance".
        between: so many samples a row from one noise to another, or None.
    """

    n: int | None = None
    texts: tuple[str, ...] = ()
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    between: int | None = None

    def __post_init__(self) -> None:
        checked_seed(self.seed)

    def only(self, recipe: str, *known: str) -> None:
        """Raise a ValueError for what is asked of a recipe that knows only `known` of texts, changes, between."""
        for name, option, asked in (
            ("texts", "--text", self.texts),
            ("between", "--interpolate", self.between),
            *(("changes", f"--{key}", True) for key in self.changes),
        ):
            if asked and name not in known:
                raise ValueError(f"{option} is not for a run of {recipe}")


@dataclass(frozen=True)
class Drawing:
    """A request that was found good, ready to be carried out.

    Attributes:
        count: samples to be drawn.
        draw: tells `Advance` as it goes on; (N, C, H, W) in [-1, 1] or uint8, or (N, 2) points.
        columns: of a sheet, or None.
        names: of single files, by number.
        comment: rows to print about what was drawn.
        notes: sentences, each of something asked for that does nothing.
    """

    count: int
    draw: Callable[[Advance], Tensor]
    columns: int | None = None
    names: Callable[[int], str] = "{:05d}".format
    comment: Callable[[Tensor], list[tuple[str, str]]] = lambda _: []
    notes: tuple[str, ...] = ()


def without_text(request: Request) -> tuple[str, ...]:
    """A note if guidance is asked for and no text to be guided by."""
    idle = request.changes.get("guidance", 1) != 1 and not request.texts
    return ("--guidance does nothing without --text: there is nothing to be guided by",) if idle else ()


@dataclass(frozen=True)
class Real:
    """Real data of the scale that a model draws, which its samples can be compared with.

    Attributes:
        name: runs on data of one name can be compared.
        train: (N, ...), which may have been learned from.
        test: (M, ...), never trained on.
        labels: of the two, where there are classes.
        levels: of a number in [-1, 1], where it takes so many values.
    """

    name: str
    train: Tensor
    test: Tensor
    labels: tuple[Tensor, Tensor] | None = None
    levels: int | None = None

    def settled(self, x: Tensor) -> Tensor:
        """Samples on the levels of the data, as they would be stored: between the levels none could be real."""
        if self.levels is None:
            return x
        steps = (self.levels - 1) / 2
        return ((x.clamp(-1, 1) + 1) * steps).round() / steps - 1


Kind = Literal["exact", "lower bound", "estimate"]


@dataclass(frozen=True)
class Likely:
    """What an evaluation says of log p of the test data: a mean in nats, with what it may be ranked against.

    Attributes:
        name: of the estimate.
        mean, stderr: nats, over the test data.
        kind: exact, lower bound or estimate.
        measure: mass or density: the two are never ranked against each other.
        dims: numbers in a datum.
    """

    name: str
    mean: float
    stderr: float
    kind: Kind
    measure: Literal["mass", "density"]
    dims: int


Critic = Callable[[Tensor], Tensor]
"""What a run was trained against: the higher, the more real, (N, ...) -> (N,)."""


class Recipe(Settings, ABC):
    """One tree of settings a recipe; `recipe` names it in config.json.

    A subclass says what its model is, how it is trained, and how it is judged. Whatever it writes goes
    below the run's folder.
    """

    summary: ClassVar[str]
    what: ClassVar[Literal["pictures", "points"]] = "pictures"
    recipe: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    training: Training

    def check(self) -> None:
        """Raise a ValueError, before anything is made, for what cannot be: of what is pointed to, of the processes."""
        self.training.rows()

    def lasting(self, training: Training) -> Self:
        """The same recipe, trained for another's steps or minutes."""
        length = {"steps": training.steps, "minutes": training.minutes}
        return self.model_copy(update={"training": self.training.model_copy(update=length)})

    def notes(self) -> list[str]:
        """Sentences about settings that work and need care, said before training and beside the evaluation."""
        return []

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

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        """What `jensen sample` is to do; a ValueError for a request that does not suit."""
        if not isinstance(model, Sampleable):
            raise ValueError(f"a run of {self.recipe} draws nothing")
        request.only(self.recipe)
        count = request.n or 16

        def draw(advance: Advance) -> Tensor:
            made = model.sample(count, generator=generator(request.seed))
            advance(count)
            return made

        return Drawing(count, draw)

    def real(self) -> Real:
        """What samples are compared with; a ValueError where there is nothing to compare them with."""
        raise ValueError(f"a run of {self.recipe} draws nothing that could be compared with data")

    def likelihoods(self, evaluation: dict[str, Any]) -> list[Likely]:
        """What its evaluation says of log p of the test data."""
        return []

    def trained_critic(self, folder: Path) -> Critic | None:
        """The critic that the run in `folder` trained against, where there was one."""
        return None

    def image(self, samples: Tensor, *, columns: int | None = None, scale: int = 4) -> Image.Image:
        """Samples as people look at them: pictures on a sheet, points in the plane."""
        if self.what == "points":
            return plots.points(samples, scale=scale)
        pictures = samples if samples.dtype == torch.uint8 else to_bytes(samples)
        return sheet(pictures.cpu(), columns or _columns(len(samples)), scale=scale)

    def picture(self, sample: Tensor, *, scale: int = 4) -> Image.Image:
        """One picture, enlarged by whole pixels."""
        image = to_image(sample if sample.dtype == torch.uint8 else to_bytes(sample))
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)

    def example(self, folder: Path) -> str:
        """A command that draws from the run in `folder`, or "" where there is nothing to draw."""
        return command("sample", folder, "-n", 16, "--seed", 5, "--out", "x.png")

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        """Write report.html below `folder`."""

    @abstractmethod
    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows of (name, value) to print after an evaluation."""

    def update(self) -> Update:
        """The rule by which players move."""
        return descend

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


def players_with(
    rates: Mapping[str, float], betas: tuple[float, float], training: Training, objective: Objective, budget: Budget
) -> dict[str, Player]:
    """Adam for every player, each with its own rate, warmed up and decayed to zero over the budget."""
    return {
        name: Player(
            parameters,
            torch.optim.Adam(parameters, lr=rates[name], betas=betas, fused=True),
            warm_then_decay(rates[name], budget, warmup=training.warmup, decay=training.decay),
            training.clip,
        )
        for name, parameters in partition(objective).items()
    }


def _columns(count: int) -> int:
    """Columns of a sheet: one row of up to four pictures, then about half as many columns as rows, at most eight."""
    return count if count <= 4 else min(8, max(4, round((count / 2) ** 0.5)))

"""Score models of points and of handwritten digits: score matching over a ladder of noise levels, Langevin to draw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from jensen.core.seeding import generators
from jensen.data.moons import moons_log_prob
from jensen.data.pool import pool_stream
from jensen.models.score import Annealing, NoiseConditional, ScoreModel
from jensen.nn import TimeMLP
from jensen.objectives import ScoreMatching
from jensen.recipes.base import (
    Advance,
    Drawing,
    Kind,
    Likely,
    Positive,
    Real,
    Recipe,
    Request,
    Setting,
    Settings,
    Track,
    Training,
    silent,
)
from jensen.recipes.data import DigitsData, MoonsData
from jensen.recipes.folder import save_image
from jensen.recipes.judging import since
from jensen.recipes.score_judging import Judge, write_report
from jensen.score import geometric


class ScoreNetwork(Settings):
    """A residual network of fully connected layers, and the ladder of noise levels, in units of the data's spread."""

    width: Positive = 256
    blocks: Positive = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    largest: Annotated[float, Field(gt=0)] = 8.0
    smallest: Annotated[float, Field(gt=0)] = 0.05
    levels: Annotated[int, Field(ge=2)] = 12
    loss: Literal["denoising", "implicit", "sliced", "sliced-vr"] = "denoising"

    @model_validator(mode="after")
    def _in_order(self) -> ScoreNetwork:
        if not self.smallest < self.largest:
            raise ValueError(f"smallest must be below largest, got {self.smallest} and {self.largest}")
        return self


class LangevinSampling(Settings):
    """How samples are drawn: by Langevin, `steps` moves of step_size sigma^2 at each level, or by a diffusion sampler
    in `steps` steps. `jensen sample` can override sampler and steps.
    """

    sampler: str = "langevin"
    step_size: Annotated[float, Field(gt=0, lt=2)] = 0.5
    steps: Positive = 20
    denoise: bool = True
    eta: float | None = None  # of sampler ddim

    @model_validator(mode="after")
    def _in_range(self) -> LangevinSampling:
        self.settings()
        return self

    def settings(self) -> Annealing:
        return Annealing(**self.model_dump())


class ScoreJudging(Settings):
    """How a model is judged."""

    samples: Annotated[int, Field(ge=16)] = 2000
    steps: tuple[Positive, ...] = (1, 2, 5, 10, 20)  # moves a level at which samples are compared
    ode_rows: Annotated[int, Field(ge=2)] = 400


class ScoreRecipe(Recipe):
    """A noise-conditional score network, how it is trained, drawn from and judged."""

    network: ScoreNetwork = ScoreNetwork()
    sampling: LangevinSampling = LangevinSampling()
    judging: ScoreJudging = ScoreJudging()

    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one x."""

    @abstractmethod
    def training_data(self) -> Tensor:
        """Of the scale that the model draws."""

    @abstractmethod
    def test_data(self) -> Tensor:
        """The same, never trained on."""

    @abstractmethod
    def real(self) -> Real: ...

    def likelihoods(self, evaluation: dict[str, Any]) -> list[Likely]:
        dims, ode, bound = evaluation["dims"], evaluation["ode"], evaluation["bound"]
        # of discrete data, which are spread over their bins, the ODE gives a bound
        bounded: Kind = "lower bound" if ode["measure"] == "mass" else "estimate"
        kinds: tuple[tuple[str, dict[str, Any], Kind], ...] = (
            ("bound in continuous time", bound, "lower bound"),
            ("its ODE", ode, bounded),
        )
        return [
            Likely(f"{name}, {since(row)}", row["mean"], row["stderr"], kind, row["measure"], dims)
            for name, row, kind in kinds
        ]

    def noised_log_p(self, x: Tensor, sigma: float) -> Tensor | None:
        """Log density of the data's own law, noised by sigma, where it is known."""
        return None

    # building and training ---------------------------------------------------------------

    def model(self) -> ScoreModel:
        network = self.network
        net = TimeMLP(self.shape(), width=network.width, blocks=network.blocks, dropout=network.dropout)
        return ScoreModel(
            NoiseConditional(net, network.largest, network.smallest),
            self.shape(),
            geometric(network.largest, network.smallest, network.levels).float(),
            self.sampling.settings(),
        )

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, ScoreModel)
        x = self.training_data()
        model.centre.copy_(x.mean())
        model.scale.copy_(x.std())
        stream = pool_stream(self.training.batch_size, self.seed, x=x)
        return Setting(ScoreMatching(model, loss=self.network.loss), stream, {})

    # looking and judging -----------------------------------------------------------------

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, ScoreModel)
        made = self.draw(model, 500 if self.what == "points" else 32, self.seed)
        save_image(self.image(made, columns=16), folder / f"step-{step:06d}.png")
        return {}

    def draw(self, model: ScoreModel, n: int, seed: int, advance: Advance | None = None, **changes: Any) -> Tensor:
        """N samples; number i is a function of (model, seed, i) alone."""
        return model.sample(n, generator=generators(seed, range(n)), on_chunk=advance, **changes)

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        assert isinstance(model, ScoreModel)
        request.only(self.recipe, "changes")
        if unknown := set(request.changes) - {"sampler", "steps"}:
            raise ValueError(f"--{min(unknown)} is not for a run of {self.recipe}, which is trained without conditions")
        count = request.n or (1000 if self.what == "points" else 16)
        changes = dict(request.changes)
        model.sampling.changed(**changes)  # refuses what is out of range
        return Drawing(count, lambda advance: self.draw(model, count, request.seed, advance, **changes))

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, ScoreModel)
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)
        return Judge(self, model, samples, track).everything()

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return Judge.headline(evaluation)

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation)


_TRAINING = partial(Training, batch_size=256, rate=2e-3, average=0.998, save_every=2000, log_every=100, previews=6)


class MoonsScore(ScoreRecipe):
    """Points, whose score is known at every level of noise."""

    summary: ClassVar[str] = "score model of two moons, whose score is known"
    what: ClassVar[Literal["pictures", "points"]] = "points"
    recipe: Literal["moons-score"] = "moons-score"
    data: MoonsData = MoonsData()
    network: ScoreNetwork = ScoreNetwork(width=128)
    sampling: LangevinSampling = LangevinSampling(steps=30)
    training: Training = _TRAINING(steps=5000)

    def shape(self) -> tuple[int, ...]:
        return (2,)

    def training_data(self) -> Tensor:
        return self.data.train_points(self.seed)

    def test_data(self) -> Tensor:
        return self.data.test_points(self.seed)

    def real(self) -> Real:
        return self.data.real(self.seed)

    def noised_log_p(self, x: Tensor, sigma: float) -> Tensor:
        return moons_log_prob(x, noise=(self.data.noise**2 + sigma**2) ** 0.5)


class DigitsScore(ScoreRecipe):
    """Handwritten digits."""

    summary: ClassVar[str] = "score model of scikit-learn's handwritten digits"
    recipe: Literal["digits-score"] = "digits-score"
    data: DigitsData = DigitsData(scale="grey")
    network: ScoreNetwork = ScoreNetwork(dropout=0.2, largest=20.0, smallest=0.1, levels=16)
    judging: ScoreJudging = ScoreJudging(samples=1000, ode_rows=360)
    training: Training = _TRAINING(steps=3000)

    @field_validator("data")
    @classmethod
    def _in_grey(cls, value: DigitsData) -> DigitsData:
        if value.scale != "grey":
            raise ValueError(f"data.scale must be grey for this model, got {value.scale}")
        return value

    def shape(self) -> tuple[int, ...]:
        return 1, 8, 8

    def training_data(self) -> Tensor:
        return self.data.train()[0]

    def test_data(self) -> Tensor:
        return self.data.test()[0]

    def real(self) -> Real:
        return self.data.real()

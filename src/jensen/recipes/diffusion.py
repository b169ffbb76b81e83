"""Diffusion models of points and of handwritten digits: one recipe, whose settings are the family.

`moons-diffusion`, `digits-ddpm` and `digits-vdm` differ in their data and in their defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.seeding import generators
from jensen.data.digits import LEVELS
from jensen.data.pool import pool_stream
from jensen.diffusion import (
    SCHEDULES,
    Bins,
    LearnedSchedule,
    NetworkDenoiser,
    Reconstruction,
    Schedule,
    Span,
    default_span,
    edm,
    level_times,
    logit_normal_times,
    min_snr,
    sigmoid,
    simple,
    uniform_times,
)
from jensen.models import Diffusion, Sampling
from jensen.nn import TimeMLP
from jensen.objectives import Denoising, VariationalDiffusion
from jensen.objectives.denoising import DenoisingLoss
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
    without_text,
)
from jensen.recipes.data import DigitsData, MoonsData
from jensen.recipes.diffusion_judging import Judge, write_report
from jensen.recipes.ends import check_start, ends_of
from jensen.recipes.folder import save_image
from jensen.recipes.judging import since

LOSSES: dict[str, DenoisingLoss] = {
    "eps": partial(simple, view="eps"),
    "v": partial(simple, view="v"),
    "x": partial(simple, view="x"),
    "flow": partial(simple, view="flow"),
    "min-snr": min_snr,
    "sigmoid": sigmoid,
    "edm": edm,
}


class DiffusionNetwork(Settings):
    """A residual network of fully connected layers, and the view of the prediction that it learns."""

    width: Positive = 256
    blocks: Positive = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["rectified", "cosine", "linear", "variance-preserving", "learned"] = "cosine"
    highest: float = 9.0  # log-SNR at t = 0 of a learned schedule
    lowest: float = -6.0  # and at t = 1
    learn_ends: bool = True
    output: Literal["flow", "v", "eps", "x", "edm"] = "v"


class DiffusionLoss(Settings):
    """What is descended: a weighted denoising loss, or the variational bound itself."""

    name: Literal["eps", "v", "x", "flow", "min-snr", "sigmoid", "edm", "bound"] = "v"
    times: Literal["uniform", "logit-normal"] = "uniform"
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of rows trained without their class


class DiffusionSampling(Settings):
    """How samples are drawn; `jensen sample` can override sampler, steps and guidance."""

    sampler: str = "dpm++"
    steps: Positive = 32
    guidance: Annotated[float, Field(ge=0)] = 1.0
    start: Annotated[float, Field(gt=0, le=1)] = 0.999
    clip: bool = False
    eta: float | None = None  # of sampler ddim

    @model_validator(mode="after")
    def _in_range(self) -> DiffusionSampling:
        self.settings()
        return self

    def settings(self) -> Sampling:
        return Sampling(**self.model_dump(), chunk=256)


class DiffusionJudging(Settings):
    """How a model is judged."""

    samples: Annotated[int, Field(ge=16)] = 2000
    steps: tuple[Positive, ...] = (4, 8, 16, 32, 64)  # at which samples are compared
    bound_steps: Positive = 200  # T of the discrete bound
    ode_rows: Annotated[int, Field(ge=2)] = 400
    first: Annotated[float, Field(gt=0, lt=1)] = 0.03  # time of the first level, whose noise is the decoder's


class DiffusionRecipe(Recipe):
    """A denoiser, how it is trained, drawn from and judged."""

    network: DiffusionNetwork = DiffusionNetwork()
    loss: DiffusionLoss = DiffusionLoss()
    sampling: DiffusionSampling = DiffusionSampling()
    judging: DiffusionJudging = DiffusionJudging()

    @model_validator(mode="after")
    def _trainable(self) -> DiffusionRecipe:
        if self.network.schedule == "learned" and self.loss.name != "bound":
            raise ValueError(f"network.schedule learned is trained by loss.name bound, not by {self.loss.name}")
        if not self.network.lowest < self.network.highest:
            raise ValueError("network.lowest must be below network.highest: log-SNR falls")
        for key in ("highest", "lowest", "learn_ends") if self.network.schedule != "learned" else ():
            if getattr(self.network, key) != DiffusionNetwork.model_fields[key].default:
                raise ValueError(f"network.{key} is of network.schedule learned, not of {self.network.schedule}")
        if self.classes() is None and self.loss.drop != DiffusionLoss.model_fields["drop"].default:
            raise ValueError("loss.drop is of models that are told a class, and this one is told none")
        if self.loss.name == "bound" and self.loss.times != "uniform":
            raise ValueError("loss.times is of weighted losses: the bound says itself at which times it is taken")
        if self.what == "points" and self.sampling.clip:
            raise ValueError("sampling.clip is for pictures, which are in [-1, 1]")
        if self.sampling.guidance != 1 and (why := self.unguided()):
            raise ValueError(f"sampling.guidance must be 1, got {self.sampling.guidance:g}: {why}")
        schedule = self.schedule()
        check_start(self.network.output, self.network.schedule, schedule, self.sampling.start)
        first, last = self.judged_span()
        if not first < last:
            raise ValueError(f"judging.first must be below the last level, t = {last:g}, got {first:g}")
        level_times(schedule, self.trained_span(), 1)
        self.ends().check_times(torch.tensor([first, last, *self.trained_span()]))
        return self

    # what a subclass says ----------------------------------------------------------------

    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one x."""

    def classes(self) -> int | None:
        """How many conditions there are, or None."""
        return None

    def unguided(self) -> str:
        """Why guidance is not to be had, or "" where it is."""
        if self.classes() is None:
            return "there are no classes to guide by"
        return "" if self.loss.drop > 0 else "with loss.drop 0 nothing is trained without a class to guide away from"

    def bins(self) -> Bins | None:
        """The values of discrete data, or None for data with a density."""
        return None

    @abstractmethod
    def training_data(self) -> dict[str, Tensor]:
        """X, and cond where there are classes."""

    @abstractmethod
    def test_data(self) -> dict[str, Tensor]:
        """The same, never trained on."""

    @abstractmethod
    def real(self) -> Real: ...

    def likelihoods(self, evaluation: dict[str, Any]) -> list[Likely]:
        found, dims = evaluation["likelihood"], evaluation["dims"]
        measure = found["measure"]
        # of discrete data, which are spread over their bins, the ODE gives a bound
        through: Kind = "lower bound" if measure == "mass" else "estimate"
        kinds: tuple[tuple[str, str, Kind], ...] = (
            (f"bound in {found['discrete']['steps']} steps", "discrete", "lower bound"),
            ("bound in continuous time", "continuous", "lower bound"),
            ("the bound trained on", "trained", "lower bound"),
            ("its ODE", "ode", through),
        )
        given = "" if self.classes() is None else ", given the class"
        return [
            Likely(f"{name}, {since(row)}{given}", row["mean"], row["stderr"], kind, measure, dims)
            for name, row, kind in ((name, found[key], kind) for name, key, kind in kinds if key in found)
        ]

    def known_log_p(self, x: Tensor) -> Tensor | None:
        """Log p(x) of the data's own law, where it is known."""
        return None

    # building and training ---------------------------------------------------------------

    def schedule(self) -> Schedule:
        network = self.network
        if network.schedule == "learned":
            return LearnedSchedule(network.highest, network.lowest, learn_ends=network.learn_ends)
        return SCHEDULES[network.schedule]()

    def ends(self) -> NetworkDenoiser:
        """To be asked at which times the model is defined."""
        return ends_of(self.network.output, self.schedule())

    def judged_span(self) -> Span:
        """The levels of the bounds and of the ODE that judge."""
        return self.judging.first, self._last()

    def trained_span(self) -> Span:
        """The levels of the bound that `loss.name=bound` trains on."""
        return default_span(self.schedule())[0], self._last()

    def _last(self) -> float:
        """The last level: pure noise, or where sampling starts for an output that is not defined there."""
        return 1.0 if self.ends().defined(torch.ones(())) else self.sampling.start

    def round_trip_end(self) -> float:
        """Where encoding starts: at the data, or at the first level for an output that is not defined there."""
        return 0.0 if self.ends().defined(torch.zeros(())) else self.judging.first

    def model(self) -> Diffusion:
        network, classes = self.network, self.classes()
        net = TimeMLP(
            self.shape(), width=network.width, blocks=network.blocks, classes=classes, dropout=network.dropout
        )
        denoiser = NetworkDenoiser(
            net,
            self.schedule(),
            output=network.output,
            null=None if classes is None else torch.full((1,), classes),
        )
        return Diffusion(denoiser, self.shape(), self.sampling.settings())

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, Diffusion)
        data = self.training_data()
        model.centre.copy_(data["x"].mean())
        model.scale.copy_(data["x"].std())
        stream = pool_stream(self.training.batch_size, self.seed, **data)
        return Setting(self._objective(model), stream, {})

    def trained_reconstruction(self) -> Reconstruction:
        """What `loss.name=bound` reads x off the first level by."""
        return Reconstruction("observed", self.bins())

    def _objective(self, model: Diffusion) -> Objective:
        drop = 0.0 if self.classes() is None else self.loss.drop
        if self.loss.name == "bound":
            return VariationalDiffusion(
                model, span=self.trained_span(), reconstruction=self.trained_reconstruction(), drop=drop
            )
        times = uniform_times if self.loss.times == "uniform" else logit_normal_times()
        return Denoising(model, loss=LOSSES[self.loss.name], times=times, drop=drop)

    # looking and judging -----------------------------------------------------------------

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, Diffusion)
        made = self.draw(model, 500 if self.what == "points" else 32, self.seed)
        save_image(self.image(made, columns=16), folder / f"step-{step:06d}.png")
        return {}

    def draw(self, model: Diffusion, n: int, seed: int, advance: Advance | None = None, **changes: Any) -> Tensor:
        """N samples, the classes in turn where there are classes; number i is a function of (model, seed, i) alone."""
        cond = self.asked(n)
        return model.sample(n, cond=cond, generator=generators(seed, range(n)), on_chunk=advance, **changes)

    def asked(self, n: int) -> Tensor | None:
        """The classes of n samples in turn, (n, 1), or None."""
        classes = self.classes()
        return None if classes is None else (torch.arange(n) % classes)[:, None]

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        assert isinstance(model, Diffusion)
        request.only(self.recipe, "changes", "between", *(["texts"] if self.classes() else []))
        model.sampling.changed(**request.changes)  # refuses what is out of range
        guided = request.changes.get("guidance", 1) != 1
        if guided and (why := self.unguided()):
            raise ValueError(f"--guidance is not for this run: {why}")
        labels = self._labels(request.texts)
        if request.between is not None:
            return self._between(model, request, request.between, labels)
        count = len(request.texts) or request.n or (1000 if self.what == "points" else 16)

        def draw(advance: Advance) -> Tensor:
            if labels is None:
                return self.draw(model, count, request.seed, advance, **request.changes)
            rng = generators(request.seed, request.texts)
            return model.sample(count, cond=labels, generator=rng, on_chunk=advance, **request.changes)

        return Drawing(count, draw)

    def _labels(self, texts: tuple[str, ...]) -> Tensor | None:
        """Classes by name, (N, 1)."""
        known = [str(k) for k in range(self.classes() or 0)]
        for text in texts:
            if text not in known:
                raise ValueError(f"--text takes classes, {known[0]} to {known[-1]}, got {text!r}")
        return torch.tensor([[known.index(text)] for text in texts]) if texts else None

    def _between(self, model: Diffusion, request: Request, between: int, labels: Tensor | None) -> Drawing:
        changes = {"sampler": "ddim", **request.changes}
        if labels is None and self.classes() and self.loss.drop == 0:
            raise ValueError("--interpolate wants --text here: with loss.drop 0 nothing is trained without a class")
        rows = len(request.texts) or request.n or 8
        model.deterministic(**changes)  # refuses a sampler that cannot

        def draw(advance: Advance) -> Tensor:
            made = []
            for row in range(rows):
                first, second = generators(request.seed, [(row, "from"), (row, "to")])
                cond = None if labels is None else labels[row : row + 1]
                made.append(model.interpolate(first, second, between, cond=cond, **changes))
                advance(between)
            return torch.cat(made)

        return Drawing(rows * between, draw, columns=between, notes=without_text(request) if self.classes() else ())

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, Diffusion)
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)
        return Judge(self, model, samples, track).everything()

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return Judge.headline(evaluation)

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation)


_TRAINING = partial(Training, batch_size=256, rate=2e-3, average=0.998, save_every=2000, log_every=100, previews=6)


class MoonsDiffusion(DiffusionRecipe):
    """Points, whose density is known."""

    summary: ClassVar[str] = "diffusion model of two moons, whose density is known"
    what: ClassVar[Literal["pictures", "points"]] = "points"
    recipe: Literal["moons-diffusion"] = "moons-diffusion"
    data: MoonsData = MoonsData()
    network: DiffusionNetwork = DiffusionNetwork(width=128)
    training: Training = _TRAINING(steps=6000)

    def shape(self) -> tuple[int, ...]:
        return (2,)

    def training_data(self) -> dict[str, Tensor]:
        return {"x": self.data.train_points(self.seed)}

    def test_data(self) -> dict[str, Tensor]:
        return {"x": self.data.test_points(self.seed)}

    def real(self) -> Real:
        return self.data.real(self.seed)

    def known_log_p(self, x: Tensor) -> Tensor:
        return self.data.log_p(x)


class _Digits(DiffusionRecipe):
    data: DigitsData = DigitsData(scale="grey")

    @field_validator("data")
    @classmethod
    def _in_grey(cls, value: DigitsData) -> DigitsData:
        if value.scale != "grey":
            raise ValueError(f"data.scale must be grey for this model, got {value.scale}")
        return value

    def shape(self) -> tuple[int, ...]:
        return 1, 8, 8

    def classes(self) -> int:
        return 10

    def bins(self) -> Bins:
        return Bins(LEVELS)

    def training_data(self) -> dict[str, Tensor]:
        x, labels = self.data.train()
        return {"x": x, "cond": labels[:, None]}

    def test_data(self) -> dict[str, Tensor]:
        x, labels = self.data.test()
        return {"x": x, "cond": labels[:, None]}

    def real(self) -> Real:
        return self.data.real()


class DigitsDDPM(_Digits):
    """Weighted denoising."""

    summary: ClassVar[str] = "class-conditional diffusion model of scikit-learn's handwritten digits"
    recipe: Literal["digits-ddpm"] = "digits-ddpm"
    network: DiffusionNetwork = DiffusionNetwork(dropout=0.2)
    sampling: DiffusionSampling = DiffusionSampling(sampler="ancestral", guidance=2.0, clip=True)
    judging: DiffusionJudging = DiffusionJudging(samples=1000, ode_rows=360)
    training: Training = _TRAINING(steps=4000)


class DigitsVDM(_Digits):
    """The bound itself, on a schedule of its own."""

    summary: ClassVar[str] = "variational diffusion model of digits: trained on its bound, its schedule learned"
    recipe: Literal["digits-vdm"] = "digits-vdm"
    network: DiffusionNetwork = DiffusionNetwork(schedule="learned", output="v", dropout=0.2)
    loss: DiffusionLoss = DiffusionLoss(name="bound")
    sampling: DiffusionSampling = DiffusionSampling(sampler="ancestral", start=1.0, clip=True)
    judging: DiffusionJudging = DiffusionJudging(samples=1000, ode_rows=360)
    training: Training = _TRAINING(steps=1500)

"""Handwritten digits as printed ones, and back: from unpaired pictures, and from pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from jensen.adversarial import (
    Brightness,
    Contrast,
    Crop,
    Cutout,
    Flip,
    ImagePool,
    Jitter,
    Mosaic,
    Saturation,
    Translation,
    annealed,
    augment,
    r1,
)
from jensen.core.objective import Objective
from jensen.core.seeding import generator
from jensen.core.types import Stream
from jensen.data.pool import pool_stream
from jensen.data.unpaired import unpaired_stream
from jensen.models import CycleGAN
from jensen.nn import PatchCritic, Translator
from jensen.objectives import CycleConsistent, Paired
from jensen.recipes.base import (
    Advance,
    Drawing,
    Positive,
    Recipe,
    Request,
    Setting,
    Settings,
    Track,
    Training,
    players_with,
    silent,
)
from jensen.recipes.cyclegan_data import PairedKinds, TwoKinds, UnpairedKinds
from jensen.recipes.cyclegan_judging import Judge, strip, there_and_back, write_report
from jensen.recipes.folder import save_image
from jensen.training import Budget, Player

NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
LossName = Literal[
    "saturating", "non-saturating", "least-squares", "hinge", "exponential", "relativistic", "wasserstein"
]
Transforms = Literal["crop", "mosaic", "flip", "colour", "translation", "cutout"]
TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "crop": (Crop(),),
    "mosaic": (Mosaic(),),
    "flip": (Flip(),),
    "colour": (Brightness(), Saturation(), Contrast()),
    "translation": (Translation(),),
    "cutout": (Cutout(),),
}


class TranslationNetwork(Settings):
    """Two translators, and the layers of the two critics."""

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 48
    blocks: Positive = 3
    patch: Positive = 4
    critic: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 64, 128)  # a logit sees 38 pixels: shapes count


class Shown(Settings):
    """What players descend against one another, and what critics are shown."""

    loss: LossName = "least-squares"
    augmentation: tuple[Transforms, ...] = ()  # flips and crops change what a digit is
    augmentation_share: Share = 0.5  # of pictures, for each transform
    noise: NonNegative = 2.0  # on whatever critics see, at the first step, in the unit of pictures in [-1, 1]
    noise_end: NonNegative = 0.05  # after noise_steps
    noise_steps: Positive = 1500
    penalty: NonNegative = 0.0  # gamma of R1

    @field_validator("augmentation", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f'a list of {", ".join(TRANSFORMS)} is wanted, written as in ["crop"], got {value}')
        return value

    def settings(self) -> dict[str, Any]:
        """Of either objective."""
        transforms = [t for name in self.augmentation for t in TRANSFORMS[name]]
        noisy = self.noise > 0 or self.noise_end > 0
        return {
            "loss": self.loss,
            "augmentation": partial(augment, transforms=transforms, probability=self.augmentation_share)
            if transforms
            else None,
            "noise": annealed(self.noise, self.noise_steps, self.noise_end) if noisy else None,
            "penalty": (lambda critic, real, _: r1(critic, real, self.penalty)) if self.penalty else None,
        }


class Weights(Settings):
    """Of what binds the unpaired translators, beside the game."""

    cycle: NonNegative = 2.0
    identity: NonNegative = 0.5
    pool: Annotated[int, Field(ge=0)] = 500  # earlier translations that critics go on seeing


class TranslationRates(Settings):
    """Adam's learning rates and momenta, a rate for each player."""

    translators: Annotated[float, Field(gt=0)] = 2e-3
    critics: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.99)


class TranslationJudging(Settings):
    """How translators are judged."""

    beside: str | None = None  # run folder of other translators of the same pictures, judged alike for comparison


class TranslationRecipe(Recipe):
    """Two translators between handwritten and printed digits, and how they are judged."""

    data: TwoKinds = TwoKinds()
    network: TranslationNetwork = TranslationNetwork()
    shown: Shown = Shown()
    rates: TranslationRates = TranslationRates()
    judging: TranslationJudging = TranslationJudging()

    @model_validator(mode="after")
    def _playable(self) -> TranslationRecipe:
        if self.data.side % self.network.patch:
            raise ValueError(f"data.side must be a multiple of network.patch, got {self.data.side}")
        self.training.without_rate("rates.translators and rates.critics")
        return self

    # data --------------------------------------------------------------------------------

    def check(self) -> None:
        super().check()
        self.data.check()
        if self.judging.beside is not None:
            self.beside()

    def training_data(self) -> dict[str, Tensor]:
        """Pictures "a" and "b" in [-1, 1], as many of each as there are, and their labels, which readers learn from.

        A side that `data` makes small in training is whole here: all runs are judged by the same readers.
        """
        return self.data.known()

    def test_data(self) -> dict[str, Tensor]:
        """The same, never trained on, and "b_unseen": which of b are in fonts never trained on."""
        return self.data.held_out()

    # building and training ---------------------------------------------------------------

    def model(self) -> CycleGAN:
        return CycleGAN(self._translator(), self._translator())

    def _translator(self) -> Translator:
        n = self.network
        return Translator(1, width=n.width, blocks=n.blocks, patch=n.patch)

    @abstractmethod
    def objective(self, model: CycleGAN) -> Objective:
        """The game on it."""

    @abstractmethod
    def stream(self) -> Stream:
        """What it is trained on."""

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, CycleGAN)
        return Setting(self.objective(model), self.stream(), {})

    def players(self, objective: Objective, budget: Budget) -> dict[str, Player]:
        rates = {"translators": self.rates.translators, "critics": self.rates.critics}
        return players_with(rates, self.rates.betas, self.training, objective, budget)

    # looking and judging -----------------------------------------------------------------

    def preview(self, model: nn.Module, setting: Setting, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, CycleGAN)
        save_image(strip(model, self.test_data()), folder / f"step-{step:06d}.png")
        return {}

    def drawing(self, model: nn.Module, request: Request) -> Drawing:
        """N held-out pictures of each kind, chosen by the seed: four by four a, its translation, b, its translation."""
        assert isinstance(model, CycleGAN)
        request.only(self.recipe)
        test, n = self.test_data(), request.n or 16
        most = min(len(test["a"]), len(test["b"]))
        if n > most:
            raise ValueError(f"-n must be at most {most}, the held-out pictures of a kind, got {n}")

        def draw(advance: Advance) -> Tensor:
            rng = generator(request.seed)
            a, b = (test[side][torch.randperm(len(test[side]), generator=rng)[:n]] for side in "ab")
            made = torch.stack([*there_and_back(model, a, "a")[:2], *there_and_back(model, b, "b")[:2]], 1)
            advance(4 * n)
            return made.flatten(0, 1)

        what = [("in fours", "handwritten, as printed; printed, as handwritten")]
        return Drawing(4 * n, draw, 4 * min(n, 4), lambda k: f"{k // 4:05d}-{PARTS[k % 4]}", lambda _: what)

    def beside(self) -> CycleGAN:
        """The translators of the other run.

        Raises:
            ValueError: if it is none, or of another size of pictures.
        """
        from jensen.recipes.running import open_run  # which reads recipes by name, this one among them

        assert self.judging.beside is not None
        recipe, model = open_run(Path(self.judging.beside), "cpu")
        if not isinstance(recipe, TranslationRecipe) or recipe.data.side != self.data.side:
            raise ValueError(
                f"judging.beside wants a run that translates digits of {self.data.side} x {self.data.side}, "
                f"got {self.judging.beside}, a run of {recipe.recipe}"
            )
        assert isinstance(model, CycleGAN)
        return model

    def evaluate(
        self, model: nn.Module, folder: Path, track: Track = silent, references: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        assert isinstance(model, CycleGAN)
        samples = folder / "samples"
        samples.mkdir(exist_ok=True)
        seen = self.data.training()
        return Judge(self, model, samples, track).everything() | {"training": {side: len(seen[side]) for side in "ab"}}

    def headline(self, evaluation: dict[str, Any]) -> list[tuple[str, str]]:
        return Judge.headline(evaluation)

    def report(self, folder: Path, evaluation: dict[str, Any]) -> None:
        write_report(self, folder, evaluation)


PARTS = ("handwritten", "as-printed", "printed", "as-handwritten")


_TRAINING = partial(
    Training, batch_size=32, warmup=50, decay=0.5, clip=None, average=0.99, save_every=500, log_every=25, previews=6
)


class DigitsCycleGAN(TranslationRecipe):
    """From two heaps of pictures that nobody has paired.

    Nothing says which digit is which: any exchange of classes that comes back plays the game as well. What helps a 4
    to stay a 4 are a translator with few layers and jitter of what is trained on; `benchmarks/README.md` takes each
    away.
    """

    summary: ClassVar[str] = "handwritten digits as printed ones and back, from unpaired pictures"
    recipe: Literal["digits-cyclegan"] = "digits-cyclegan"
    data: UnpairedKinds = UnpairedKinds()
    network: TranslationNetwork = TranslationNetwork(width=32, blocks=2, patch=2, critic=(64, 128, 128))
    weights: Weights = Weights()
    training: Training = _TRAINING(steps=3000)

    def objective(self, model: CycleGAN) -> CycleConsistent:
        a, b = (PatchCritic(1, widths=self.network.critic) for _ in "ab")
        shape, w = (1, self.data.side, self.data.side), self.weights
        pools = (ImagePool(w.pool, shape), ImagePool(w.pool, shape)) if w.pool else None
        return CycleConsistent(model, a, b, cycle=w.cycle, identity=w.identity, pools=pools, **self.shown.settings())

    def stream(self) -> Stream:
        a, b = self.data.heaps()
        jitter = Jitter(self.data.jitter) if self.data.jitter else None
        return unpaired_stream(self.training.batch_size, self.seed, transform=jitter, a=a, b=b)


class PairedWeights(Settings):
    """Of the distance to the known target, beside the game."""

    distance: NonNegative = 10.0


class DigitsPix2Pix(TranslationRecipe):
    """From pairs: every handwritten digit with printed ones of its label."""

    summary: ClassVar[str] = "handwritten digits as printed ones and back, from pairs of one label"
    recipe: Literal["digits-pix2pix"] = "digits-pix2pix"
    data: PairedKinds = PairedKinds()
    shown: Shown = Shown(noise=0.0, noise_end=0.0)  # the known target holds the translators, and noise would show
    weights: PairedWeights = PairedWeights()
    training: Training = _TRAINING(steps=600)

    def objective(self, model: CycleGAN) -> Paired:
        a, b = (PatchCritic(2, widths=self.network.critic) for _ in "ab")
        return Paired(model, a, b, distance=self.weights.distance, **self.shown.settings())

    def stream(self) -> Stream:
        a, b = self.data.pairs()
        return pool_stream(self.training.batch_size, self.seed, a=a, b=b)

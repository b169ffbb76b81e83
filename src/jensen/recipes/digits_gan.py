"""GANs of handwritten digits, one a picture or three stacked as its channels: a thousand modes to lose."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.seeding import generator
from jensen.data.digits import LEVELS
from jensen.data.stacked import CHANNELS, mode_shares, stacked, stacked_stream
from jensen.metrics import Proportion, memorisation
from jensen.models.gan import GAN
from jensen.nn import PictureCritic, PictureGenerator
from jensen.recipes.adversarial import Game, GANJudging, GANRecipe, Rates
from jensen.recipes.base import Positive, Real, Setting, Settings, Track, Training, silent
from jensen.recipes.cyclegan_data import HANDWRITTEN, Kind, TwoKinds, handwritten, print_to_test, print_to_train
from jensen.recipes.data import KEPT, SEEN, DigitsData
from jensen.recipes.digits_gan_judging import Single, Stacked, Wasserstein
from jensen.recipes.judging import NEARER
from jensen.report.page import Card, Section

SIDE, COLUMNS = 8, 16
WIDEST = 10  # columns of three digits each on a page
BETWEEN = -0.2  # grey of the line between two channels


class DigitsNetwork(Settings):
    """A convolutional generator and a fully connected critic."""

    latents: Positive = 32
    width: Positive = 32  # channels of the generator at full size
    critic_width: Positive = 256
    critic_layers: Positive = 2  # hidden ones


class DigitsGANRecipe(GANRecipe):
    """Pictures of 8 by 8 pixels or 16 by 16, of one channel or more."""

    channels: ClassVar[int] = 1
    network: DigitsNetwork = DigitsNetwork()

    @property
    def side(self) -> int:
        """Pixels of a picture: 8, or 16."""
        return SIDE

    def model(self) -> GAN:
        network, side = self.network, self.side
        shape = (self.channels, side, side)
        net = PictureGenerator(network.latents, shape, width=network.width, doublings=side // SIDE)
        return GAN(net, [network.latents])

    def critic(self) -> nn.Module:
        network = self.network
        shape = (self.channels * self.game.packing, self.side, self.side)
        return PictureCritic(shape, width=network.critic_width, layers=network.critic_layers)

    def look(self, samples: Tensor, *, columns: int | None = None, scale: int = 4) -> Image.Image:
        return super().look(samples, columns=columns or COLUMNS, scale=scale)


class SingleDigits(DigitsGANRecipe):
    """One handwritten digit a picture."""

    data: DigitsData = DigitsData(scale="grey")
    judging: GANJudging = GANJudging(critic_steps=500)  # 1,293 digits are soon learnt by heart

    @field_validator("data")
    @classmethod
    def _in_grey(cls, value: DigitsData) -> DigitsData:
        if value.scale != "grey":
            raise ValueError(f"data.scale must be grey for this model, got {value.scale}")
        return value

    def training_data(self) -> Tensor:
        return self.data.train()[0]

    def test_data(self) -> Tensor:
        return self.data.test()[0]

    def real(self) -> Real:
        return self.data.real()

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        return Single(self).judged(made, samples)

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        return Single.rows(own)

    def own_cards(self, own: dict[str, Any]) -> list[Card]:
        return Single.cards(own)

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        return Single.sections(own, samples)


_TRAINING = partial(Training, batch_size=64, average=0.999, save_every=2000, log_every=100, previews=6, clip=None)
_RATES = Rates(generator=2e-3, critic=2e-3, betas=(0.0, 0.99))


class KindsData(DigitsData):
    """Handwritten digits, or the printed ones of `digits-cyclegan`, or few of them: a side of it that is small."""

    kind: Kind = "handwritten"  # 8 x 8; printed ones are 16 x 16
    pictures: Annotated[int, Field(ge=10)] | None = None  # to train on, those of a translation's data; all there are

    @model_validator(mode="after")
    def _there(self) -> KindsData:
        if self.kind == "handwritten" and (self.pictures or 0) > HANDWRITTEN:
            raise ValueError(f"pictures must be at most {HANDWRITTEN} of handwritten digits, got {self.pictures}")
        return self

    @property
    def side(self) -> int:
        """Pixels of a picture."""
        return SIDE if self.kind == "handwritten" else TwoKinds().side

    def train(self) -> tuple[Tensor, Tensor]:
        """Pictures (N, 1, side, side) and their labels to train on."""
        if self.kind == "printed":
            return print_to_train(self.pictures or TwoKinds().printed, self.side)
        return super().train() if self.pictures is None else handwritten(self.pictures)

    def test(self) -> tuple[Tensor, Tensor]:
        """Others, to judge with."""
        return print_to_test(TwoKinds().test, self.side) if self.kind == "printed" else super().test()

    def real(self) -> Real:
        if self == KindsData(scale=self.scale):
            return super().real()
        (train, train_labels), (test, test_labels) = self.train(), self.test()
        what = "scikit-learn's digits" if self.kind == "handwritten" else "digits printed in several fonts"
        name = f"{what}, grey levels in [-1, 1], {len(train)} to train on"
        return Real(name, train, test, (train_labels, test_labels), LEVELS)


class DigitsGAN(SingleDigits):
    """The logistic game, non-saturating, with R1."""

    summary: ClassVar[str] = "GAN of scikit-learn's handwritten digits"
    recipe: Literal["digits-gan"] = "digits-gan"
    data: KindsData = KindsData(scale="grey")
    game: Game = Game(penalty="r1", penalty_weight=0.3)
    rates: Rates = _RATES
    training: Training = _TRAINING(steps=6000)

    @property
    def side(self) -> int:
        return self.data.side

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        if self.data.kind == "handwritten":
            return super().judged(made, model, samples, track)
        return {"copies": asdict(memorisation(made, self.training_data(), self.test_data()))}  # no reader knows print

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        if self.data.kind == "handwritten":
            return super().own_rows(own)
        copies = own["copies"]
        nearer = f"{Proportion(**copies['interval'])} ({NEARER})"
        return [("nearer to a training digit than a test digit", nearer)]

    def own_cards(self, own: dict[str, Any]) -> list[Card]:
        return super().own_cards(own) if self.data.kind == "handwritten" else []

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        return super().own_sections(own, samples) if self.data.kind == "handwritten" else []


class DigitsExponentialGAN(SingleDigits):
    """The exponential game, whose divergence is Hellinger's."""

    summary: ClassVar[str] = "GAN of handwritten digits by the exponential loss: Hellinger's distance"
    recipe: Literal["digits-exponential-gan"] = "digits-exponential-gan"
    game: Game = Game(loss="exponential", penalty="r1", penalty_weight=1.0)
    rates: Rates = _RATES
    training: Training = _TRAINING(steps=6000)


class DigitsWGAN(SingleDigits):
    """The Wasserstein game with a gradient penalty, five moves of the critic for each of the generator's."""

    summary: ClassVar[str] = "Wasserstein GAN of handwritten digits"
    recipe: Literal["digits-wgan"] = "digits-wgan"
    game: Game = Game(loss="wasserstein", critic_steps=5, penalty="wgan-gp", penalty_weight=10.0)
    rates: Rates = Rates(generator=1e-3, critic=1e-3, betas=(0.0, 0.9))
    training: Training = _TRAINING(steps=2500)

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        found = super().judged(made, model, samples, track)
        return found | {"wasserstein": Wasserstein(self).judged(made, samples.parent)}

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        return super().own_rows(own) + Wasserstein.rows(own["wasserstein"])

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        return [*super().own_sections(own, samples), Wasserstein.section(own["wasserstein"])]


class StackedData(Settings):
    """Three random digits as the channels of a picture, (N, 3, 8, 8)."""

    balance: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the rarest digit over that of the commonest
    points: Annotated[int, Field(ge=16)] = 20_000  # draws of the training digits, to judge with; training draws its own
    test: Annotated[int, Field(ge=16)] = 2_500  # of the test digits

    def shares(self) -> Tensor:
        """Of the thousand modes."""
        return mode_shares(self.balance)

    def draw(self, part: Literal["train", "test"], n: int, seed: int) -> tuple[Tensor, Tensor]:
        """N of them with their modes, from the digits of one part."""
        digits = DigitsData(scale="grey")
        pictures, labels = digits.train() if part == "train" else digits.test()
        return stacked(pictures, labels, n, balance=self.balance, generator=generator(seed))


class StackedJudging(GANJudging):
    """How a generator of stacked digits is judged."""

    read: Annotated[int, Field(ge=16)] = 26_000  # samples whose modes are counted


class StackedDigitsGAN(DigitsGANRecipe):
    """A thousand modes, counted by a reader of digits."""

    channels: ClassVar[int] = CHANNELS
    summary: ClassVar[str] = "GAN of stacked handwritten digits, three to a picture, with a thousand modes"
    recipe: Literal["stacked-digits-gan"] = "stacked-digits-gan"
    data: StackedData = StackedData()
    network: DigitsNetwork = DigitsNetwork(latents=64, width=16, critic_width=512)
    game: Game = Game(penalty="r1", penalty_weight=0.3)
    rates: Rates = _RATES
    judging: StackedJudging = StackedJudging(critic_steps=1000, critic_batch=128)
    training: Training = _TRAINING(steps=5000, batch_size=128)

    def setting(self, model: nn.Module, track: Track = silent) -> Setting:
        assert isinstance(model, GAN)
        pictures, labels = DigitsData(scale="grey").train()
        stream = stacked_stream(pictures, labels, self.training.batch_size, self.seed, balance=self.data.balance)
        return Setting(self.game.on(model, self.critic()), stream, {})

    def training_data(self) -> Tensor:
        return self.data.draw("train", self.data.points, self.seed * 1009 + SEEN)[0]

    def test_data(self) -> Tensor:
        return self.data.draw("test", self.data.test, self.seed * 1009 + KEPT)[0]

    def look(self, samples: Tensor, *, columns: int | None = None, scale: int = 4) -> Image.Image:
        """The three channels side by side, a grey line between two, so that each can be read."""
        side_by_side = F.pad(samples, (0, 1), value=BETWEEN).movedim(1, 2).flatten(2)[:, None, :, :-1]
        columns = COLUMNS // 2 if columns is None or columns > WIDEST else columns
        return super().look(side_by_side, columns=columns, scale=scale)

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        return Stacked(self).judged(made, model, samples, track)

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        return Stacked.rows(own)

    def own_cards(self, own: dict[str, Any]) -> list[Card]:
        return Stacked.cards(own)

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        return Stacked.sections(own, samples)

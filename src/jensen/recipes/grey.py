"""A variational autoencoder of grey digits, which can be compared with what diffuses and what plays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

from pydantic import field_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.data.digits import LEVELS
from jensen.distributions import DiagonalNoise, DiscretizedLogistic, Levels
from jensen.recipes.base import Real, Training
from jensen.recipes.data import DigitsData
from jensen.recipes.digit_reader import read_digits
from jensen.recipes.latent import LatentNetwork, LatentRecipe
from jensen.variational.collapse import Classifier

MIN_SCALE = 0.02  # of a pixel's noise, whose levels are 0.125 apart


class GreyNetwork(LatentNetwork):
    """With the noise of a pixel: its scale from the decoder, picture by picture, or one learned for all of them."""

    noise: Literal["predicted", "learned"] = "predicted"


class DigitsGreyVAE(LatentRecipe):
    """A logistic law in the 17 cells of each pixel."""

    summary: ClassVar[str] = "variational autoencoder of scikit-learn's handwritten digits, 17 levels of grey"
    recipe: Literal["digits-grey-vae"] = "digits-grey-vae"
    data: DigitsData = DigitsData(scale="grey")
    network: GreyNetwork = GreyNetwork()
    training: Training = Training(
        steps=3000, batch_size=128, rate=2e-3, average=0.99, save_every=1000, log_every=50, previews=6
    )

    @field_validator("data")
    @classmethod
    def _in_grey(cls, value: DigitsData) -> DigitsData:
        if value.scale != "grey":
            raise ValueError(f"data.scale must be grey for this decoder, got {value.scale}")
        return value

    def shape(self) -> tuple[int, int, int]:
        return 1, 8, 8

    def pictures(self) -> tuple[Tensor, Tensor]:
        return self.data.train()[0], self.data.test()[0]

    def real(self) -> Real:
        return self.data.real()

    def law(self) -> tuple[int, Callable[[Tensor], Distribution]]:
        if self.network.noise == "learned":
            logistic = partial(DiscretizedLogistic, levels=LEVELS, validate_args=False)
            return 1, DiagonalNoise(self.shape(), std=0.5, min_std=MIN_SCALE, law=logistic)
        return 2, Levels(event_dims=3, levels=LEVELS, min_scale=MIN_SCALE)

    def shown(self, pictures: Tensor) -> Tensor:
        return pictures

    def classes(self) -> tuple[Classifier, Tensor]:
        return lambda x: nn.functional.one_hot(read_digits(x, "grey"), 10).to(x), self.data.test()[1]

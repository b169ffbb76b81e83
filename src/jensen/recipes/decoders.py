"""The decoder of models with latents, and the distribution of data that it gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from pydantic import model_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.core.settings import Settings
from jensen.data.space import Space
from jensen.distributions import (
    BinaryLogits,
    Conditional,
    DiagonalGaussian,
    DiagonalNoise,
    DiscretizedLogistic,
    IsotropicGaussian,
    Levels,
)
from jensen.nn import Standardized, Unstandardized, mlp
from jensen.recipes.settings import Positive, Rate

FINEST = 0.16  # smallest scale of a pixel's noise, in steps between levels

Law = Callable[[Tensor], Distribution]


class Decoder(Settings):
    """A fully connected network and the distribution p(x | z) that it parameterizes.

    The distribution is Bernoulli for data of two levels, discretized logistic for more levels, and Gaussian for data
    without levels.
    """

    hidden: Positive = 256
    """units of each hidden layer"""
    depth: Positive = 2
    """hidden layers of each network"""
    decoder_hidden: Positive | None = None
    """units of each hidden layer of p(x | z), if it should be weaker than the encoder; null: same as network.hidden"""
    noise: Literal["predicted", "learned", "fixed"] = "predicted"
    """scale of p(x | z) in each dimension of x; predicted: from z; learned: the same for all z; fixed: network.std"""
    std: Rate = 0.1
    """standard deviation of p(x | z) for network.noise fixed"""

    @model_validator(mode="after")
    def _used(self) -> Decoder:
        if self.noise != "fixed":
            self.refuse_idle(f"by network.noise {self.noise}", "std", prefix="network.")
        return self

    def refuse(self, space: Space) -> None:
        """Raise a ValueError for a setting of noise that does not apply to such data."""
        if space.levels == 2 and self.noise != "predicted":
            raise ValueError(
                f"network.noise must be predicted for data of two levels, which are Bernoulli, got {self.noise}"
            )
        if space.levels is not None and self.noise == "fixed":
            raise ValueError(f"network.noise fixed needs data without levels, got {space.levels} levels")

    @property
    def inside(self) -> list[int]:
        """Widths of the hidden layers."""
        return [self.hidden] * self.depth

    def law(self, space: Space) -> tuple[int, Law]:
        """Number of outputs for each dimension of x, and the distribution that they parameterize."""
        axes, levels = len(space.shape), space.levels
        if levels == 2:
            return 1, BinaryLogits(axes)
        if levels is not None:
            least = FINEST * 2 / (levels - 1)
            if self.noise == "predicted":
                return 2, Levels(event_dims=axes, levels=levels, min_scale=least)
            logistic = partial(DiscretizedLogistic, levels=levels, validate_args=False)
            return 1, DiagonalNoise(space.shape, std=0.5, min_std=least, law=logistic)
        std = space.moments()[1]
        low, high = 1e-3 * float(std.min()), 1e2 * float(std.max())
        if self.noise == "predicted":
            return 2, DiagonalGaussian(axes, min_std=low, max_std=high)
        if self.noise == "learned":
            return 1, DiagonalNoise(space.shape, std=0.5 * std, min_std=low)
        return 1, IsotropicGaussian(self.std, event_dims=axes)

    def of_x(self, space: Space, latents: int, one_hot: bool = False) -> Conditional:
        """P(x | z)."""
        hidden = [self.decoder_hidden or self.hidden] * self.depth
        numbers, law = self.law(space)
        channels, *axes = space.shape
        net = nn.Sequential(mlp(latents, *hidden, numbers * space.dims), nn.Unflatten(-1, (numbers * channels, *axes)))
        if space.levels is None:
            net.append(Unstandardized(*space.moments(), numbers, axes=len(space.shape)))
        return Conditional(nn.Sequential(nn.Flatten(), net) if one_hot else net, law, 2 if one_hot else None)

    @staticmethod
    def flat(space: Space) -> nn.Module:
        """The input of the encoder: data as vectors, standardised if they have no levels."""
        flat = nn.Flatten()
        return flat if space.levels is not None else nn.Sequential(flat, Standardized(*space.moments()))

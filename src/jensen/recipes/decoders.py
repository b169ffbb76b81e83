"""Encoders and decoders of models with latents, and the distribution of data that a decoder gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.core.settings import Depth, Settings, Width
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
from jensen.nn import PictureDecoder, PictureEncoder, Size, Standardized, mlp, parameters, sized
from jensen.recipes.networks import TINY, channels_last, large
from jensen.recipes.settings import Rate

FINEST = 0.16  # smallest scale of a pixel's noise, in steps between levels

Law = Callable[[Tensor], Distribution]


class Rescaled(nn.Module):
    """A Gaussian of standardised data u, as the distribution of the data x = mean + std u.

    Args:
        law: maps the network's output to independent Gaussians.
        mean, std: mean and standard deviation of the data: numbers, or one for each column of points.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, law: Law, mean: Tensor, std: Tensor):
        super().__init__()
        self.law = law
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, out: Tensor) -> Distribution:
        law = cast(Independent, self.law(out))
        u = cast(Normal, law.base_dist)
        x = Normal(self.mean + self.std * u.loc, self.std * u.scale, validate_args=False)
        return Independent(x, law.reinterpreted_batch_ndims, validate_args=False)


class Decoder(Settings):
    """The networks of encoder and decoder, and the distribution p(x | z) that the decoder parameterizes.

    The distribution is Bernoulli for data of two levels, discretized logistic for more levels, and Gaussian for data
    without levels. Sizes that are null are those of `size`.
    """

    kind: Literal["auto", "mlp", "conv"] = "auto"
    """mlp: fully connected; conv: residual convolutions; auto: conv for pictures of more than 12 x 12 pixels"""
    size: Size = "tiny"
    """size of the networks; each takes about 4 times the operations of the one before"""
    hidden: Width | None = None
    """units of each hidden layer (mlp, and between layers of latents)"""
    depth: Depth | None = None
    """hidden layers of each network (mlp, and between layers of latents)"""
    width: Annotated[int, Field(ge=8, le=65_536, multiple_of=8)] | None = None
    """channels of the finest grid (conv)"""
    blocks: Depth | None = None
    """residual blocks of each grid (conv)"""
    patch: Literal[1, 2, 4] | None = None
    """side of the patches that are folded into channels (conv)"""
    decoder_hidden: Width | None = None
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
        """Raise a ValueError for a network or noise unsuitable for the data, or a setting that the network does not
        use.
        """
        if self.convolutional(space):
            if not space.pictures:
                raise ValueError("network.kind must be mlp for points, got conv")
            self.refuse_idle("by convolutional networks", "decoder_hidden", *self.between(), prefix="network.")
        else:
            self.refuse_idle("by fully connected networks", "width", "blocks", "patch", prefix="network.")
        if space.levels == 2 and self.noise != "predicted":
            raise ValueError(
                f"network.noise must be predicted for data of two levels, which are Bernoulli, got {self.noise}"
            )
        if space.levels is not None and self.noise == "fixed":
            raise ValueError(f"network.noise fixed needs data without levels, got {space.levels} levels")
        if space.by_column and self.noise == "fixed":
            raise ValueError(
                "network.noise fixed has one network.std for all columns, which have different scales: set it to "
                "predicted or learned"
            )

    def between(self) -> tuple[str, ...]:
        """Names of the settings of fully connected layers, which convolutional networks do not have."""
        return ("hidden", "depth")

    def convolutional(self, space: Space) -> bool:
        if self.kind == "auto":
            return large(space)
        return self.kind == "conv"

    @property
    def inside(self) -> list[int]:
        """Widths of the hidden layers of fully connected networks."""
        usual = sized("points", self.size, ())
        return [self.hidden or usual["width"]] * (self.depth or usual["layers"])

    def _sizes(self, role: Literal["encoder", "decoder"], space: Space) -> dict[str, Any]:
        """Size settings of a convolutional network, as keyword arguments."""
        given = {"width": self.width, "blocks": self.blocks, "patch": self.patch}
        return sized(role, self.size, space.shape) | {key: v for key, v in given.items() if v is not None}

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
        if self.noise == "predicted":
            return 2, Rescaled(DiagonalGaussian(axes), *space.moments())
        if self.noise == "learned":
            return 1, Rescaled(DiagonalNoise(space.shape, std=0.5), *space.moments())
        return 1, Rescaled(IsotropicGaussian(self.std / float(space.moments()[1]), event_dims=axes), *space.moments())

    def notes(self, space: Space, model: Callable[[Space], nn.Module]) -> list[str]:
        """A sentence on the networks that `auto` chose, with the number of parameters of the model."""
        if self.kind != "auto":
            return []
        with torch.random.fork_rng(), torch.device("cpu"):
            count = parameters(model(space))
        which, why = "fully connected", "tiny pictures" if space.pictures else "points"
        if self.convolutional(space):
            which, why = "convolutional", f"pictures of more than {TINY} x {TINY} pixels"
        return [f"networks are {which} and {self.size}, for {why}: {count:,} parameters"]

    def encoder(self, space: Space, *widths: int) -> nn.Sequential:
        """A network from x (B, *shape) to vectors of the last width; the others are its hidden layers (mlp)."""
        scaled = [] if space.levels is not None else [Standardized(*space.moments())]
        if self.convolutional(space):
            net = PictureEncoder(space.shape, widths[-1], **self._sizes("encoder", space))
            return nn.Sequential(*scaled, channels_last(net))
        flat = nn.Flatten()
        return nn.Sequential(nn.Sequential(flat, *scaled) if scaled else flat, mlp(space.dims, *widths))

    def of_x(self, space: Space, latents: int, one_hot: bool = False) -> Conditional:
        """P(x | z)."""
        numbers, law = self.law(space)
        channels, *axes = space.shape
        if conv := self.convolutional(space):
            sizes = self._sizes("decoder", space)
            body = PictureDecoder(latents, space.shape, channels_out=numbers * channels, **sizes)
            net: nn.Module = channels_last(body)
        else:
            hidden = [self.decoder_hidden or width for width in self.inside]
            unflat = nn.Unflatten(-1, (numbers * channels, *axes))
            net = nn.Sequential(mlp(latents, *hidden, numbers * space.dims), unflat)
        if one_hot:
            return Conditional(nn.Sequential(nn.Flatten(), net), law, input_dims=2)
        return Conditional(net, law, input_dims=1 if conv else None)


def refuse_means(changes: Mapping[str, Any], interpolating: bool) -> None:
    """Raise a ValueError if means of p(x | z) are requested for interpolations, which are always means."""
    if interpolating and "mean" in changes:
        raise ValueError("--mean has no effect with --interpolate, whose samples are means of p(x | z): leave it out")

r"""Differentiable augmentation of the critic's input, with the same distribution for real and generated pictures.

A transform takes pictures (B, C, H, W), changes each by its own random draw, and is differentiable, so gradients reach
the generator. Applied to real pictures only, it would make the generator produce augmented pictures. Applied to both,
the generator still has to match the data, as long as the distribution of T(x) determines that of x. A probability below
1 for each transform ensures this, as some pictures stay unchanged: Karras et al. find it safe up to 0.8. At 1, the
default of `augment` as in Zhao et al., it depends on the transform: after a flip with probability 1/2, for example,
left and right can no longer be distinguished.

Draws come from torch's global generator, or from that of an enclosing `drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.seeding import drawing
from jensen.core.shapes import check_rows, checked

Transform = Callable[[Tensor], Tensor]


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")


def _check_finite(name: str, value: float, least: float = -math.inf) -> None:
    if not (math.isfinite(value) and value >= least):
        wanted = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


@dataclass(frozen=True)
class Brightness:
    """x + b, b uniform on [-amount, amount], one number per picture. For pictures in [-1, 1].

    Raises:
        ValueError: for an amount below 0 or not finite.

    Source: Zhao et al. (2020), section 4.

    >>> import torch
    >>> lighter = Brightness()(torch.zeros(2, 1, 3, 3))
    >>> bool((lighter == lighter[:, :, :1, :1]).all())
    True
    """

    amount: float = 0.5

    def __post_init__(self) -> None:
        _check_finite("amount", self.amount, least=0.0)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.amount * (2 * _uniform(x) - 1)


@dataclass(frozen=True)
class Saturation:
    """Scale each pixel's deviation from its grey value (the mean of its channels) by a number uniform on [0, 2].

    Source: Zhao et al. (2020), section 4.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> torch.allclose(Saturation()(x).mean(1), x.mean(1))
    True
    """

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return _about(x.mean(1, keepdim=True), x, 2 * _uniform(x))


@dataclass(frozen=True)
class Contrast:
    """Scale the deviation from the picture's mean by a number uniform on [0.5, 1.5].

    Source: Zhao et al. (2020), section 4.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> torch.allclose(Contrast()(x).mean((1, 2, 3)), x.mean((1, 2, 3)))
    True
    """

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return _about(x.mean((1, 2, 3), keepdim=True), x, 0.5 + _uniform(x))


@dataclass(frozen=True)
class Translation:
    """A shift by whole pixels, up to `ratio` of each side in either direction, padded with 0.

    The maximum is rounded to whole pixels, halves rounded up: at 1/8, pictures with sides of 4 to 11 pixels move by at
    most one.

    Raises:
        ValueError: for a ratio outside [0, 1].

    Source: Zhao et al. (2020), section 4.

    >>> import torch
    >>> dot = torch.zeros(2, 1, 3, 3)
    >>> dot[:, :, 1, 1] = 1.0  # a step leaves it inside
    >>> Translation(0.25)(dot).sum((1, 2, 3))
    tensor([1., 1.])
    """

    ratio: float = 0.125

    def __post_init__(self) -> None:
        _check_share("ratio", self.ratio)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows, seen_rows = self._sources(len(x), x.shape[2], x)
        columns, seen_columns = self._sources(len(x), x.shape[3], x)
        picture = torch.arange(len(x), device=x.device)[:, None, None]
        moved = x.movedim(1, -1)[picture, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
        return moved * (seen_rows[:, None, :, None] & seen_columns[:, None, None, :])

    def _sources(self, batch: int, size: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where each row or column comes from, (B, size), and whether that is inside."""
        reach = _pixels(self.ratio, size)
        source = torch.arange(size, device=x.device) + torch.randint(-reach, reach + 1, (batch, 1), device=x.device)
        return source.clamp(0, size - 1), (source >= 0) & (source < size)


@dataclass(frozen=True)
class Cutout:
    """A rectangle of `ratio` of each side (in whole pixels, halves rounded up) set to 0; part of it may lie outside.

    If its length is odd, its centre is any pixel; if even, any line between pixels or either border of the picture. So
    each row is hidden as often as its mirror image.

    Raises:
        ValueError: for a ratio outside [0, 1].

    Source: Zhao et al. (2020), section 4, and their code for the positions.

    >>> import torch
    >>> Cutout()(torch.ones(3, 1, 2, 2)).sum((1, 2, 3))  # one pixel of four
    tensor([3., 3., 3.])
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        _check_share("ratio", self.ratio)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows, columns = self._hidden(len(x), x.shape[2], x), self._hidden(len(x), x.shape[3], x)
        return x * ~(rows[:, None, :, None] & columns[:, None, None, :])

    def _hidden(self, batch: int, size: int, x: Tensor) -> Tensor:
        """Which rows or columns are hidden, (B, size)."""
        length = _pixels(self.ratio, size)
        start = torch.randint(0, size + 1 - length % 2, (batch, 1), device=x.device) - length // 2
        place = torch.arange(size, device=x.device)
        return (place >= start) & (place < start + length)


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged in this fraction of the pictures. Unsuitable for digits or letters.

    Raises:
        ValueError: for a share outside [0, 1].

    >>> import torch
    >>> Flip(1.0)(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[2., 1.]]]])
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.where(_uniform(x) < self.share, x.flip(3), x)


@dataclass(frozen=True)
class Crop:
    """A window of the picture, enlarged to full size: its sides are a fraction of the picture's, uniform on [least, 1].

    Its position is uniform; interpolation is bilinear.

    Raises:
        ValueError: for a least share outside [0, 1].

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> torch.allclose(Crop(1.0)(x), x, atol=1e-6)
    True
    """

    least: float = 0.75

    def __post_init__(self) -> None:
        _check_share("least", self.least)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        share = self.least + (1 - self.least) * _uniform(x)[:, 0]
        place = (1 - share) * (2 * torch.rand(len(x), 2, 1, device=x.device, dtype=x.dtype) - 1)
        window = torch.cat([share * torch.eye(2, device=x.device, dtype=x.dtype), place], 2)
        return _seen(x, window, padding="border")


@dataclass(frozen=True)
class Jitter:
    r"""The picture sampled at $(I + aE)p + ae$, with p in [-1, 1] along each side and E, e standard normal.

    So it is rotated, stretched, sheared and shifted a little: `amount` is a. Interpolation is bilinear; pixels from
    outside are `fill`, by default -1, the background of pictures in [-1, 1].

    Raises:
        ValueError: for an amount below 0 or not finite, or a fill not finite.

    >>> import torch
    >>> Jitter()(torch.full((1, 1, 2, 2), -1.0))  # what is empty stays so
    tensor([[[[-1., -1.],
              [-1., -1.]]]])
    """

    amount: float = 0.05
    fill: float = -1.0

    def __post_init__(self) -> None:
        _check_finite("amount", self.amount, least=0.0)
        _check_finite("fill", self.fill)

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.by(x, torch.randn(len(x), 2, 3, device=x.device, dtype=x.dtype))

    def by(self, x: Float[Tensor, "b c h w"], eps: Float[Tensor, "b 2 3"]) -> Float[Tensor, "b c h w"]:
        """The pictures, transformed with the given E and e."""
        seen = torch.eye(2, 3, device=x.device, dtype=x.dtype) + self.amount * eps
        return _seen(x - self.fill, seen, padding="zeros") + self.fill


@dataclass(frozen=True)
class Mosaic:
    """Four pictures in one: each picture is cut at its own random point and keeps its upper left part.

    Each other part comes from a random picture of the batch, at the same place, so that every pixel keeps its position.
    The pictures of a batch are coupled, so this does not suit penalties on the gradient of each picture.

    Source: Bochkovskiy et al. (2020), section 3.3, without their rescaling.

    >>> import torch
    >>> row = torch.arange(4.0)
    >>> x = row + 10 * torch.arange(3.0).reshape(3, 1, 1, 1)  # three pictures, of numbers of their own
    >>> bool((Mosaic()(x) % 10 == row).all())
    True
    """

    @checked
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        batch, _, height, width = x.shape
        lower, right = self._beyond(batch, height, x)[:, None, :, None], self._beyond(batch, width, x)[:, None, None]
        made = x
        for part in (lower & ~right, ~lower & right, lower & right):
            made = torch.where(part, x[torch.randint(max(batch, 1), (batch,), device=x.device)], made)
        return made

    def _beyond(self, batch: int, size: int, x: Tensor) -> Tensor:
        """Which rows or columns lie beyond the cut, (B, size)."""
        cut = torch.randint(0, size + 1, (batch, 1), device=x.device)
        return torch.arange(size, device=x.device) >= cut


TRANSFORMS: tuple[Transform, ...] = (Brightness(), Saturation(), Contrast(), Translation(), Cutout())
"""Colour, translation and cutout, with the ranges of Zhao et al. (2020), section 4."""


def augment(
    x: Float[Tensor, "..."],
    transforms: Sequence[Transform] = TRANSFORMS,
    probability: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "..."]:
    """Apply each transform in turn, to each picture with this probability; use it for both real and generated.

    Equal generators give equal draws, so two batches can share the same draws.

    Args:
        x: (B, C, H, W).
        transforms: each maps (B, C, H, W) to (B, C, H, W).
        probability: probability of each transform for each picture.
        generator: random generator for all draws.

    Raises:
        ValueError: for x that is not (B, C, H, W), or a probability outside [0, 1].

    Source: Zhao et al. (2020), equations 6 and 7 (DiffAugment).

    >>> import torch
    >>> from jensen.adversarial import Translation
    >>> augment(torch.ones(2, 1, 4, 4), [Translation(0.0)]).mean()
    tensor(1.)
    """
    if x.ndim != 4:
        raise ValueError(f"pictures to augment must be (B, C, H, W), got {tuple(x.shape)}")
    check_rows(x=x)
    _check_share("probability", probability)
    with drawing(generator):
        for transform in transforms:
            chosen = torch.rand(len(x), device=x.device) < probability
            x = torch.where(chosen[:, None, None, None], transform(x), x)
    return x


class AdaptiveAugment(nn.Module):
    r"""Augmentation whose probability follows the critic's overfitting.

    With $r_t = E\,\mathrm{sign}\,D(x)$ on real pictures, the probability rises by (pictures seen) / ramp while $r_t$ is
    above the target, and falls while it is below. Forward only reads it; `update`, called in `Objective.after` of the
    critic, changes it. All state is in integer buffers, so a resumed run continues exactly, in any precision.

    Args:
        transforms: each maps (B, C, H, W) to (B, C, H, W).
        target: target value of r_t, in (-1, 1).
        ramp: number of pictures over which the probability can go from 0 to 1.
        interval: number of pictures between two adjustments.

    Raises:
        ValueError: for a target outside (-1, 1), or a ramp or interval below 1.

    Source: Karras et al. (2020), section 3.1 (ADA); their ramp is 500,000 and their interval four minibatches of 64.

    >>> import torch
    >>> ada = AdaptiveAugment(ramp=100, interval=10)
    >>> ada.update(torch.ones(10))
    >>> ada.probability
    0.1
    """

    level: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(
        self,
        transforms: Sequence[Transform] = TRANSFORMS,
        *,
        target: float = 0.6,
        ramp: int = 500_000,
        interval: int = 256,
    ):
        super().__init__()
        if not -1 < target < 1:
            raise ValueError(f"target must be between -1 and 1, got {target}")
        if not (ramp >= 1 and interval >= 1):
            raise ValueError(f"ramp and interval must be at least 1 picture, got {ramp} and {interval}")
        self.transforms, self.target, self.ramp, self.interval = tuple(transforms), target, ramp, interval
        for name in ("level", "signs", "seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))

    @property
    def probability(self) -> float:
        """The probability of each transform for each picture."""
        return int(self.level) / self.ramp

    def forward(self, x: Float[Tensor, "..."], generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        return augment(x, self.transforms, self.probability, generator=generator)

    @torch.no_grad()
    @checked
    def update(self, real: Float[Tensor, "b ..."]) -> None:
        """Count the signs of the critic's logits on real pictures (of their mean, for a patch critic), and adjust."""
        logit = real[:, None].flatten(1).mean(1)
        self.signs += (logit > 0).sum() - (logit < 0).sum()  # integers: half precision counts only to 256
        self.seen += len(real)
        if self.seen >= self.interval:
            step = self.seen * torch.sign(self.signs / self.seen - self.target).long()
            self.level.copy_((self.level + step).clamp(0, self.ramp))
            self.signs.zero_()
            self.seen.zero_()


def _pixels(ratio: float, size: int) -> int:
    """Round to nearest, halves rounded up: Python's `round` gives 0 for 0.5 and 2 for 1.5."""
    return int(ratio * size + 0.5)


def _seen(x: Tensor, window: Tensor, padding: str) -> Tensor:
    """Pictures sampled at affine maps (B, 2, 3) of the square [-1, 1]^2, with bilinear interpolation."""
    if not len(x):
        return x  # affine_grid needs at least one picture
    grid = F.affine_grid(window, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)


def _uniform(x: Tensor) -> Tensor:
    """Uniform on [0, 1], one number per picture, (B, 1, 1, 1)."""
    return torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)


def _about(centre: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return centre + factor * (x - centre)

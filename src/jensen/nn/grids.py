"""Pictures of any size on grids that halve evenly: padding before a network, cropping after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

COARSEST = 4  # a grid is halved as long as its smaller side stays at least this


@dataclass(frozen=True)
class Pyramid:
    """Grids over the patches of a picture, each with half the rows and columns of the previous one.

    Args:
        size: (H, W) of the picture.
        patch: side of a patch.

    Raises:
        ValueError: for a side or a patch below 1.

    >>> pyramid = Pyramid((28, 28), patch=2)
    >>> pyramid.halvings, pyramid.factor, pyramid.coarsest
    (1, 4, (7, 7))
    >>> Pyramid((33, 17), patch=2).coarsest  # of 36 x 20 padded pixels
    (9, 5)
    """

    size: tuple[int, int]
    patch: int = 1

    def __post_init__(self) -> None:
        if min(*self.size, self.patch) < 1:
            raise ValueError(f"height, width and patch must be at least 1, got {self.size} and {self.patch}")

    @property
    def halvings(self) -> int:
        """Number of halvings, down to a smaller side of 4 to 7, unless it is below 8 already."""
        return max(0, (-(-min(self.size) // self.patch) // COARSEST).bit_length() - 1)

    @property
    def factor(self) -> int:
        """The padded sides are the next multiples of this number."""
        return self.patch * 2**self.halvings

    @property
    def coarsest(self) -> tuple[int, int]:
        """Rows and columns of the last grid."""
        height, width = self.size
        return -(-height // self.factor), -(-width // self.factor)

    def widths(self, width: int) -> list[int]:
        """Channels of each grid: twice as many after a halving, at most four times `width`."""
        return [width * min(2**level, 4) for level in range(self.halvings + 1)]


def pad(x: Shaped[Tensor, "b c h w"], factor: int) -> Shaped[Tensor, "b c h_padded w_padded"]:
    """Repeat the border pixels, on both sides equally, until height and width are multiples of `factor`."""
    rows, columns = (-side % factor for side in x.shape[2:])
    if not rows and not columns:
        return x
    top, left = rows // 2, columns // 2
    return F.pad(x, (left, columns - left, top, rows - top), mode="replicate")


def crop(x: Shaped[Tensor, "b c h_padded w_padded"], size: Sequence[int]) -> Shaped[Tensor, "b c h w"]:
    """The central H x W pixels: undoes `pad`.

    >>> import torch
    >>> x = torch.rand(2, 3, 5, 6)
    >>> bool((crop(pad(x, 4), (5, 6)) == x).all())
    True
    """
    height, width = size
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]

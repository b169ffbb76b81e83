"""Digits printed in several fonts, in 17 grey levels, like scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from jensen.data.fonts import font_path

BLOCK = 4  # dots of the bitmap along a pixel's side: 0 .. 16 of them inked
BUILT_IN = "pillow"
"""The font that comes with pillow."""

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneralBol", "STIXGeneralItalic", "cmb10", "cmss10", "cmtt10"),
)
"""Fonts for training; they are part of matplotlib."""

UNSEEN_FONTS = ("DroidSansMono", "STIXGeneral", "cmr10", BUILT_IN)
"""Held-out fonts; they are part of captcha, matplotlib and pillow."""


@dataclass(frozen=True)
class Printed:
    """Renderings of digits.

    Attributes:
        levels: (N, 1, side, side) int64 in 0 .. 16.
        labels: (N,) int64, all digits equally often up to one.
        fonts: (N,) int64, indices into the given list of fonts.
    """

    levels: Tensor
    labels: Tensor
    fonts: Tensor


def printed(
    n: int,
    *,
    side: int = 16,
    fonts: Sequence[str] = FONTS,
    generator: torch.Generator | None = None,
) -> Printed:
    """Draw n digits of random size, width, weight and position; all fonts and digits are equally frequent.

    A digit is drawn as a bitmap of (4 side) x (4 side) dots; a pixel's level is the number of inked dots in its 4 x 4
    block, as scikit-learn's 8 x 8 digits were made from 32 x 32 bitmaps. Its parameters are uniformly random: its
    height (from 7/8 to all of the picture), its width (from 3/4 to 1 times that of the font), the thickening of its
    strokes (up to half a pixel), and its offset from the middle (up to 1/16 of the side, if it stays inside).

    Args:
        n: at least 1.
        side: side of a picture in pixels, at least 8.
        fonts: names among `FONTS` and `UNSEEN_FONTS`.
        generator: random generator of all draws; None is torch's global one.

    Raises:
        ValueError: for n < 1, a side below 8, no font, or an unknown one.

    >>> some = printed(20, generator=torch.Generator().manual_seed(0))
    >>> some.levels.shape, int(some.levels.max()), some.labels.bincount().tolist()
    (torch.Size([20, 1, 16, 16]), 16, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    if n < 1 or side < 8:
        raise ValueError(f"n must be at least 1 and side at least 8, got {n} and {side}")
    if not fonts:
        raise ValueError("fonts must be at least one")
    dots = BLOCK * side
    order = torch.randperm(n, generator=generator)
    labels, which = order % 10, order // 10 % len(fonts)
    draws = torch.rand(n, 5, generator=generator)
    heights = (dots * (0.875 + 0.125 * draws[:, 0])).round().int().tolist()
    widths = (0.75 + 0.25 * draws[:, 1]).tolist()
    strokes = (draws[:, 2] * (dots // 32 + 1)).int().tolist()
    places = (2 * draws[:, 3:] - 1).tolist()
    drawn = zip(labels.tolist(), which.tolist(), heights, widths, strokes, places, strict=True)
    bitmaps = np.stack(
        [_bitmap(str(k), fonts[f], height, width, stroke, place, dots) for k, f, height, width, stroke, place in drawn]
    )
    blocks = torch.from_numpy(bitmaps).view(n, 1, side, BLOCK, side, BLOCK)
    return Printed(blocks.long().sum((3, 5)), labels, which)


def _bitmap(
    text: str, name: str, height: int, width: float, stroke: int, place: Sequence[float], dots: int
) -> np.ndarray:
    """A digit as an array (dots, dots) of zeros and ones."""
    font = _fitting(name, height - 2 * stroke)
    glyph = Image.new("L", (2 * dots, 2 * dots))
    ImageDraw.Draw(glyph).text((dots // 2, dots // 4), text, font=font, fill=255, stroke_width=stroke)
    glyph = glyph.crop(glyph.getbbox())  # to the ink: a font's own box has its margins
    glyph = glyph.resize((min(dots, round(width * glyph.width)), min(dots, glyph.height)))
    page = Image.new("L", (dots, dots))
    x, y = (_place(dots - size, p, dots / 16) for size, p in zip(glyph.size, place, strict=True))
    page.paste(glyph, (x, y))
    return (np.asarray(page) >= 128).astype(np.uint8)


def _place(room: int, share: float, most: float) -> int:
    """Position in the free space: centred, then shifted by a share in [-1, 1] of the largest offset."""
    return round(room / 2 + share * min(room / 2, most))


@cache
def _fitting(name: str, height: int) -> ImageFont.FreeTypeFont:
    """The font at the size at which its 0 has this height in dots."""
    trial = 256
    _, top, _, bottom = _font(name, trial).getbbox("0")
    return _font(name, max(1, round(trial * height / (bottom - top))))


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == BUILT_IN:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # since a size is asked for
        return font
    return ImageFont.truetype(font_path(name), size)


def enlarge(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, C, H, W) resized to (N, C, side, side) by bilinear interpolation; unchanged if they have this size.

    >>> enlarge(torch.ones(2, 1, 8, 8), 16).shape
    torch.Size([2, 1, 16, 16])
    """
    if pictures.shape[-2:] == (side, side):
        return pictures
    return F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False)

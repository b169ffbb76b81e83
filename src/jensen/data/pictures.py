"""Grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, LINE, LINES = 6, 18, 2  # pixels between pictures and of a line of a caption; lines of a caption


def to_image(picture: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One picture of one or three channels."""
    array = picture.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def sheet(
    pictures: UInt8[Tensor, "n c h w"],
    columns: int,
    *,
    scale: int = 4,
    captions: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
) -> Image.Image:
    """A grid of pictures, enlarged by an integer factor, with optional captions below.

    Args:
        pictures: uint8.
        columns: pictures per row.
        scale: factor by which pictures are enlarged.
        captions: one per picture.
        wrong: which captions are red.
    """
    n, _, height, width = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    font = ImageFont.load_default(15)
    written = [_lines(caption, font, width * scale) for caption in captions or ()]
    below = 4 + LINE * max((len(lines) for lines in written), default=1) if captions else 0
    cell = (width * scale, height * scale + below)
    size = (columns * (cell[0] + GAP) + GAP, rows * (cell[1] + GAP) + GAP)
    page = Image.new("RGB", size, "#ffffff")
    pen = ImageDraw.Draw(page)
    for k in range(n):
        left, top = GAP + k % columns * (cell[0] + GAP), GAP + k // columns * (cell[1] + GAP)
        image = to_image(pictures[k]).convert("RGB")
        page.paste(image.resize((cell[0], height * scale), Image.Resampling.NEAREST), (left, top))
        if captions:
            red = wrong is not None and wrong[k]
            for i, line in enumerate(written[k]):
                place = (left + cell[0] / 2, top + height * scale + 2 + i * LINE)
                pen.text(place, line, font=font, fill="#c02020" if red else "#303030", anchor="ma")
    return page


def _lines(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A caption in at most `LINES` lines of this width in pixels; words that are too long are shortened."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width and len(lines) < LINES:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    return next((line[:k] + "..." for k in range(len(line), 0, -1) if font.getlength(line[:k] + "...") <= width), "")

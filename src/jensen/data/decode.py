"""Decoding: the bytes of a picture in any format as an array of one shape."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "JPEG2000")  # none that runs code
MOST_PIXELS = 2**27  # of a file: as many as a square of 11,585 pixels
MOST_SIDE = 4096  # of a decoded picture
GAP = 3.0  # large pictures are averaged over blocks first, down to this many times the size wanted
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Fit = Literal["crop", "pad", "stretch"]
Alpha = Literal["white", "black", "keep"]


@dataclass(frozen=True)
class Form:
    """The form to which pictures are converted.

    Attributes:
        channels: number of channels, 1 (grey), 3 (colour) or 4 (colour and alpha).
        height, width: size in pixels.
        fit: how a picture gets the right aspect ratio: "crop" to the middle, "pad" with the colour of `alpha`, or
            "stretch".
        alpha: background of transparent pixels, "white" or "black"; "keep" for four channels, and only then.

    Raises:
        ValueError: for a value outside these.
    """

    channels: int = 3
    height: int = 64
    width: int = 64
    fit: Fit = "crop"
    alpha: Alpha = "white"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels must be 1, 3 or 4, got {self.channels}")
        if not (1 <= self.height <= MOST_SIDE and 1 <= self.width <= MOST_SIDE):
            raise ValueError(f"height and width must be from 1 to {MOST_SIDE}, got {self.height} x {self.width}")
        if self.fit not in ("crop", "pad", "stretch"):
            raise ValueError(f"fit must be crop, pad or stretch, got {self.fit!r}")
        if self.alpha not in ("white", "black", "keep"):
            raise ValueError(f"alpha must be white, black or keep, got {self.alpha!r}")
        if (self.alpha == "keep") != (self.channels == 4):
            raise ValueError(f"alpha must be keep for 4 channels and only then, got {self.alpha} for {self.channels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def decode(data: bytes, form: Form) -> np.ndarray:
    """The picture in a file's bytes, the first frame if it has several: uint8 (C, H, W).

    It is rotated as its EXIF data say, and 16-bit grey is scaled to 8 bits. Resampling (Lanczos) weights colours by
    alpha; fully transparent pixels are black if alpha is kept.

    Raises:
        ValueError: if the bytes are not a picture, or the picture is broken or too large.

    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(file, "PNG")
    >>> decode(file.getvalue(), Form(1, 2, 2)).tolist()
    [[[255, 255], [255, 255]]]
    """
    with opened(data) as image:
        image.draft(None, (2 * max(form.height, form.width),) * 2)  # a JPEG is decoded smaller at once
        image.load()
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = _in_bytes(image if turn is None else image.transpose(turn))
        transparent = upright.has_transparency_data
        colours = upright.convert("RGBA" if transparent else "RGB")
        mode = ("L" if form.channels == 1 else "RGB") + "A" * (transparent or form.alpha == "keep")
        return _flat(_fitted(colours.convert(mode), form), form)


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Context manager: a picture whose header is read; errors of its data inside become one-sentence ValueErrors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each is of something odd that is read all the same
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"it must have at most {MOST_PIXELS:,} pixels, got {image.width} x {image.height}")
                yield image
        except Image.DecompressionBombError:
            raise ValueError(f"it must have at most {MOST_PIXELS:,} pixels") from None
        except Image.UnidentifiedImageError:
            raise ValueError("it is empty" if not data else "its content is no picture of a known format") from None
        except Exception as error:
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _in_bytes(image: Image.Image) -> Image.Image:
    """The picture with 8 bits per channel: 16-bit grey is divided by 257, grey in [0, 1] is multiplied by 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    levels, top = np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0
    low, high = float(levels.min()), float(levels.max())
    if not 0 <= low <= high <= top:
        raise ValueError(f"its grey levels must be from 0 to {top:g}, got {low:g} to {high:g}")
    return Image.fromarray((levels * (255 / top)).round().astype(np.uint8))


def _fitted(image: Image.Image, form: Form) -> Image.Image:
    """The picture in its final size, colours multiplied by alpha."""
    image = image.convert({"LA": "La", "RGBA": "RGBa"}.get(image.mode, image.mode))
    (w, h), (width, height) = image.size, (form.width, form.height)
    if form.fit == "pad":
        inner = min(width, max(1, round(w * height / h))), min(height, max(1, round(h * width / w)))
        fill: int | str = 0 if image.mode in ("La", "RGBa") else form.alpha
        page = Image.new(image.mode, (width, height), fill)
        page.paste(_resampled(image, inner, (0, 0, w, h)), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return page
    box = w, h
    if form.fit == "crop":
        box = min(w, max(1, round(h * width / height))), min(h, max(1, round(w * height / width)))
    left, top = (w - box[0]) // 2, (h - box[1]) // 2
    return _resampled(image, (width, height), (left, top, left + box[0], top + box[1]))


def _resampled(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=GAP)


def _flat(image: Image.Image, form: Form) -> np.ndarray:
    """The array (C, H, W) of a picture whose colours are multiplied by alpha, if it has alpha."""
    if form.alpha == "keep":
        x = np.array(image.convert("RGBA"))
        x[..., :3] *= x[..., 3:] > 0
    else:
        x = np.asarray(image).reshape(form.height, form.width, -1)
        if x.shape[2] > form.channels:  # multiplied colours and alpha: what alpha leaves is white or black
            colours, alpha = x[..., :-1].astype(np.int16), x[..., -1:].astype(np.int16)
            x = (colours + (255 - alpha if form.alpha == "white" else 0)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(x.transpose(2, 0, 1))

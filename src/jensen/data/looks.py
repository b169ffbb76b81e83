"""Papers and inks of CAPTCHA pictures in named styles, each a pure function of its random generator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float64]
Rng = random.Random
Colour = tuple[int, int, int]

HUES = {"red": 0.0, "orange": 0.08, "green": 0.33, "teal": 0.48, "blue": 0.62, "violet": 0.78}
"""Hue of the ink, from 0 to 1, by name."""

NEAR = 0.02  # largest difference of a hue from that of its name
LIGHT, DARK = (225, 250), (25, 55)  # lightness of the paper, and by how much its pattern is darker


def _turned(rng: Rng, height: int, width: int) -> tuple[Grey, Grey]:
    """Coordinates of the pixels, in heights of the picture, turned by a random angle and moved."""
    angle = rng.uniform(0, math.pi)
    y, x = np.mgrid[0:height, 0:width] / height
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return along + rng.random(), across + rng.random()


def _plain(_: Rng, height: int, width: int) -> Grey:
    return np.zeros((height, width))


def _wave(x: Grey) -> Grey:
    return 0.5 - 0.5 * np.cos(2 * math.pi * x)


def _stripes(rng: Rng, height: int, width: int) -> Grey:
    return _wave(_turned(rng, height, width)[0] * rng.uniform(3.5, 6))


def _dots(rng: Rng, height: int, width: int) -> Grey:
    along, across = _turned(rng, height, width)
    number = rng.uniform(4, 6)
    return np.clip(2 * _wave(along * number) * _wave(across * number) - 0.4, 0, 1)


def _grid(rng: Rng, height: int, width: int) -> Grey:
    along, across = _turned(rng, height, width)
    number = rng.uniform(3, 4.5)
    return np.maximum(_wave(along * number) ** 6, _wave(across * number) ** 6)


def _rings(rng: Rng, height: int, width: int) -> Grey:
    y, x = np.mgrid[0:height, 0:width] / height
    away = np.hypot(x - rng.uniform(0, width / height), y - rng.random())
    return _wave(away * rng.uniform(3, 5) + rng.random())


def _clouds(rng: Rng, height: int, width: int) -> Grey:
    rows, columns = 4, max(4, round(4 * width / height))
    coarse = np.array([[rng.random() for _ in range(columns)] for _ in range(rows)])
    smooth = Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth, dtype=np.float64), 0, 1)


PAPERS: dict[str, Callable[[Rng, int, int], Grey]] = {
    "plain": _plain,
    "stripes": _stripes,
    "dots": _dots,
    "grid": _grid,
    "rings": _rings,
    "clouds": _clouds,
}
"""Patterns of the paper, (height, width) from 0 to 1, by name."""


def paper(name: str, rng: Rng, height: int, width: int) -> Grey:
    """Light paper with a darker pattern, (height, width), from 0 to 255.

    >>> sheet = paper("stripes", Rng(0), 48, 144)
    >>> sheet.shape, bool(sheet.min() > 150)
    ((48, 144), True)
    """
    light, dark = rng.uniform(*LIGHT), rng.uniform(*DARK)
    return light - dark * PAPERS[name](rng, height, width)


def towards(name: str, rng: Rng) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1 of a hue close to the named one."""
    h = 6 * ((HUES[name] + rng.uniform(-NEAR, NEAR)) % 1)
    red, green, blue = (min(max(v, 0.0), 1.0) for v in (abs(h - 3) - 1, 2 - abs(h - 2), 2 - abs(h - 4)))
    return red, green, blue


def inked(luminance: int, hue: tuple[float, float, float]) -> Colour:
    """The most saturated colour of a luminance and a hue whose channels are at most 220.

    >>> inked(100, (1.0, 0.0, 0.0))
    (220, 49, 49)
    """
    scale = luminance / max(0.299 * hue[0] + 0.587 * hue[1] + 0.114 * hue[2], 1e-3)
    away = [v * scale - luminance for v in hue]  # from grey; a blend towards it keeps the luminance
    share = min(1.0, (220 - luminance) / max(*away, 1e-3))
    red, green, blue = (round(luminance + share * a) for a in away)
    return red, green, blue

"""What the two CAPTCHA recipes share: the style of their pictures and the drawing of them."""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch import Tensor

from jensen.data.captcha import Split, Style, draw
from jensen.recipes.base import Positive, Settings, Track

# streams of pictures that never meet: one for each use
GENERATOR, READER, CEILING, VARIETY = 1, 2, 3, 4


class CaptchaData(Settings):
    """Which pictures: alphabet, length, size, ink, colour, and how many are drawn for training."""

    alphabet: str = "0123456789"
    length: int = 4
    height: int = 24
    width: int = 64
    ink: tuple[int, int] = (70, 140)
    colour: bool = False
    pictures: Positive = 40_000

    @model_validator(mode="after")
    def _drawable(self) -> CaptchaData:
        self.style()
        return self

    def style(self) -> Style:
        return Style(self.alphabet, self.length, self.height, self.width, self.ink, self.colour)


def draw_tensors(
    style: Style,
    count: int,
    seed: int,
    stream: int,
    track: Track,
    *,
    split: Split = "train",
    texts: list[str] | None = None,
    name: str = "drawing pictures",
) -> tuple[Tensor, Tensor]:
    """Pictures (N, C, H, W) uint8 and texts (N, length) of one of the streams above."""
    names, pictures = draw(style, count, seed * 1000 + stream, split=split, texts=texts, on_progress=track(name, count))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(style.encode(names))

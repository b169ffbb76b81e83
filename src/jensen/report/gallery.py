"""Samples as images: grids of pictures or plots of points."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jensen.data.pictures import sheet, to_image
from jensen.data.pool import to_bytes
from jensen.data.space import Space
from jensen.report.scatter import Classes, scatter
from jensen.training.checkpoint import numbered, replacing

MILLISECONDS = 80  # duration of a frame of an animation
PREVIEW = re.compile(r"step-([0-9]{6,})\.png")


def gallery(
    x: Tensor,
    *,
    columns: int | None = None,
    scale: int = 4,
    behind: Tensor | None = None,
    captions: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    names: Sequence[str] = (),
    classes: Classes | None = None,
) -> Image.Image:
    """A grid of pictures (N, C, H, W), in [-1, 1] or uint8, or a plot of points (N, D), see `scatter`.

    Args:
        x: samples.
        columns: number of pictures per row; by default chosen from the number of pictures, at most 8.
        scale: factor by which pictures are enlarged.
        behind: data points to draw in grey among the points.
        captions, wrong: texts below the pictures, and whether each is red.
        names: names of the columns of points.
        classes: classes of the points, each in a colour.
    """
    if x.ndim == 2:
        return scatter(x, behind=behind, scale=scale, names=names, classes=classes)
    return sheet(as_bytes(x), columns or _columns(len(x)), scale=scale, captions=captions, wrong=wrong)


def as_bytes(x: Tensor) -> Tensor:
    """Convert pictures to uint8 on the CPU."""
    return (x if x.dtype == torch.uint8 else to_bytes(x)).cpu()


def single(x: Tensor, *, scale: int = 4) -> Image.Image:
    """One picture (C, H, W), enlarged by an integer factor."""
    image = to_image(as_bytes(x))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def fitting_scale(space: Space) -> int:
    """The enlargement at which small pictures are visible and large ones fit a page."""
    return max(1, min(4, 128 // space.shape[-1])) if space.pictures else 4


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Join pictures of the same height in a row."""
    page = Image.new("RGB", (sum(i.width for i in images), images[0].height), "white")
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width
    return page


def made_previews(folder: Path) -> list[tuple[int, Path]]:
    """The previews in a run's folder, and their steps, in their order."""
    return numbered(folder / "samples", PREVIEW)


def spread(states: Sequence[Any], most: int) -> list[Any]:
    """At most `most` elements of a sequence, evenly spaced, including the first and the last."""
    if len(states) <= most:
        return list(states)
    return [states[round(k * (len(states) - 1) / (most - 1))] for k in range(most)]


def _columns(count: int) -> int:
    return count if count <= 4 else min(8, max(4, round((count / 2) ** 0.5)))


def encoded(image: Image.Image | Sequence[Image.Image]) -> tuple[str, bytes]:
    """A picture as a PNG, or frames as a GIF that repeats and pauses on the last frame: its suffix and its bytes."""
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, format="PNG")
        return ".png", buffer.getvalue()
    first, *others = [frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for frame in image]
    durations = [MILLISECONDS] * len(others) + [1500]
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return ".gif", buffer.getvalue()


def save_image(image: Image.Image | Sequence[Image.Image], path: Path) -> None:
    """Write a picture as a PNG, or frames as a GIF, atomically; the path has the matching suffix or none."""
    suffix, data = encoded(image)
    with replacing(path.with_suffix(suffix)) as file:
        file.write(data)


def data_uri(image: Image.Image | Sequence[Image.Image]) -> str:
    """The image as a data URI for a page."""
    suffix, data = encoded(image)
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(data).decode('ascii')}"

"""Samples as people look at them: pictures on a sheet, points in the plane."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from jensen.data.pictures import sheet, to_image
from jensen.data.pool import to_bytes
from jensen.data.space import Space
from jensen.report import plots

MILLISECONDS = 80  # a frame of a film


def gallery(
    x: Tensor,
    *,
    columns: int | None = None,
    scale: int = 4,
    behind: Tensor | None = None,
    captions: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
) -> Image.Image:
    """Pictures (N, C, H, W) in [-1, 1] or uint8 on a sheet, or points (N, D), of which the first two axes are shown.

    Args:
        x: samples.
        columns: pictures a row; by default about half as many as rows, at most 8.
        scale: pixels of the sheet a pixel of a picture.
        behind: data points to show in grey below points.
        captions, wrong: below pictures, and which are set in red.
    """
    if x.ndim == 2:
        return plots.points(_plane(x), behind=None if behind is None else _plane(behind), scale=scale)
    return sheet(as_bytes(x), columns or _columns(len(x)), scale=scale, captions=captions, wrong=wrong)


def as_bytes(x: Tensor) -> Tensor:
    """Pictures as uint8 on the CPU."""
    return (x if x.dtype == torch.uint8 else to_bytes(x)).cpu()


def single(x: Tensor, *, scale: int = 4) -> Image.Image:
    """One picture (C, H, W), enlarged by whole pixels."""
    image = to_image(as_bytes(x))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def fitting_scale(space: Space) -> int:
    """Pixels a pixel at which small pictures can be seen and large ones fit a page."""
    return max(1, min(4, 128 // space.shape[-1])) if space.pictures else 4


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    page = Image.new("RGB", (sum(i.width for i in images), images[0].height), "white")
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width
    return page


def _plane(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x)], 1) if x.shape[1] == 1 else x[:, :2]


def _columns(count: int) -> int:
    return count if count <= 4 else min(8, max(4, round((count / 2) ** 0.5)))


def encoded(image: Image.Image | Sequence[Image.Image]) -> tuple[str, bytes]:
    """A picture as a PNG, or frames as a GIF that runs for ever and rests on its last: its suffix and its bytes."""
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, format="PNG")
        return ".png", buffer.getvalue()
    first, *others = [frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for frame in image]
    durations = [MILLISECONDS] * len(others) + [1500]
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return ".gif", buffer.getvalue()


def data_uri(image: Image.Image | Sequence[Image.Image]) -> str:
    """The same, to be put into a page."""
    suffix, data = encoded(image)
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(data).decode('ascii')}"

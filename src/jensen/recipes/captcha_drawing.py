"""Drawing with a trained captcha model: a picture is a function of the model, a seed and its text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from jensen.core.seeding import generators
from jensen.data.pool import to_bytes
from jensen.models import Diffusion
from jensen.training.checkpoint import replacing

if TYPE_CHECKING:
    from jensen.recipes.captcha import Captcha


def draw_texts(
    recipe: Captcha,
    model: Diffusion,
    texts: Sequence[str],
    *,
    seed: int,
    advance: Any = None,
    **changes: Any,
) -> Tensor:
    """Pictures of texts, uint8 (N, C, H, W); each a function of (model, seed, its text) alone."""
    cond = recipe.encode(texts)
    rng = generators(seed, texts)
    return to_bytes(model.sample(len(texts), cond=cond, generator=rng, on_chunk=advance, **changes)).cpu()


def draw_free(model: Diffusion, n: int, *, seed: int, advance: Any = None, **changes: Any) -> Tensor:
    """Pictures without a text, uint8 (N, C, H, W); number i is a function of (model, seed, i) alone."""
    rng = generators(seed, range(n))
    return to_bytes(model.sample(n, generator=rng, on_chunk=advance, **changes)).cpu()


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")

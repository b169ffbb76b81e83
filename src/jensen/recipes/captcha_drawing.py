"""Drawing with a trained captcha model: a picture is a function of the model, a seed and its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jensen.core.seeding import generators
from jensen.data.pool import to_bytes
from jensen.models import Diffusion
from jensen.recipes.base import Advance, Drawing, Request, without_text
from jensen.recipes.captcha_reader import read_texts

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


def draw_request(recipe: Captcha, model: Diffusion, request: Request) -> Drawing:
    """A request of texts, or of so many pictures without one; what was drawn is read back where there is a reader."""
    texts, count = list(request.texts), len(request.texts) or request.n or 16
    reader = recipe.reader()
    if request.between is not None:
        return _between(recipe, model, request, request.between)

    def draw(advance: Advance) -> Tensor:
        if texts:
            return draw_texts(recipe, model, texts, seed=request.seed, advance=advance, **request.changes)
        return draw_free(model, count, seed=request.seed, advance=advance, **request.changes)

    def name(k: int) -> str:
        return f"{k:05d}-{texts[k]}" if texts and texts[k].isalnum() else f"{k:05d}"

    def comment(made: Tensor) -> list[tuple[str, str]]:
        if reader is None:
            return []
        read = recipe.data.style().decode(read_texts(reader, made[:16])[0].numpy())
        names = texts or [f"no text, {k}" for k in range(len(read))]
        return [(text, f"reads {found}") for text, found in zip(names, read, strict=False)]

    return Drawing(count, draw, names=name, comment=comment, notes=without_text(request))


def _between(recipe: Captcha, model: Diffusion, request: Request, between: int) -> Drawing:
    """A row a text, or without one, from one noise to another on the sphere's way, by a deterministic sampler."""
    texts: list[str | None] = [*request.texts] or [None] * (request.n or 4)
    changes = {"sampler": "ddim", **request.changes}
    model.deterministic(**changes)  # refuses a sampler that cannot

    def draw(advance: Advance) -> Tensor:
        rows = []
        for k, text in enumerate(texts):
            first, second = generators(request.seed, [(k, text, "from"), (k, text, "to")])
            cond = None if text is None else recipe.encode([text])
            rows.append(model.interpolate(first, second, between, cond=cond, **changes))
            advance(between)
        return to_bytes(torch.cat(rows)).cpu()

    return Drawing(len(texts) * between, draw, columns=between, notes=without_text(request))

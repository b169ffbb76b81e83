"""Previews: samples of the averaged model during training; for decoders of levels, above their means."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from jensen.core.protocols import Sampleable
from jensen.data.dataset import Data, some
from jensen.judging.case import drawer
from jensen.judging.samples import coloured, has_means
from jensen.judging.translation import strip
from jensen.recipes.recipe import Recipe
from jensen.report.gallery import fitting_scale, gallery, save_image

READ, PICTURES, POINTS = 64, 32, 500  # samples of a preview: that are read, that are shown


def preview(recipe: Recipe, model: nn.Module, data: Data, path: Path) -> dict[str, float]:
    """Write a picture of samples to `path`; returns numbers for the journal: the share that is read as the requested
    condition.
    """
    if data.b is not None:
        save_image(strip(model, data), path)
        return {}
    reader, space = data.truths.reader, data.space
    if not isinstance(model, Sampleable) or len(space.shape) not in (1, 3):
        return {}
    draw = drawer(model, space, recipe.seed)
    if reader is not None and space.cond is not None and recipe.family.conditional(space):
        asked = data.asked(READ)
        assert asked is not None
        made = draw(READ, cond=asked)
        wrong = (reader.read(made) != space.cond.legible(asked)).any(1)
        captions = space.cond.decode(asked[:12])
        page = gallery(made[:12], columns=6, scale=fitting_scale(space), captions=captions, wrong=wrong.tolist())
        save_image(page, path)
        return {"legibility": float((~wrong).double().mean())}
    if space.pictures:
        made = draw(PICTURES)
        if has_means(model, space):
            made = torch.cat([made, draw(PICTURES, mean=True)])
        save_image(gallery(made, columns=16, scale=fitting_scale(space)), path)
    else:
        asked = data.asked(POINTS) if recipe.family.conditional(space) else None
        behind, classes = some(data.test, 2000)["x"], coloured(space.cond, asked)
        save_image(gallery(draw(POINTS, cond=asked), behind=behind, names=space.columns, classes=classes), path)
    return {}

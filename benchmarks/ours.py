"""jensen's captcha recipe in training, set up as `jensen train captcha` does."""

from __future__ import annotations

from typing import Any

from jensen.recipes.captcha import Captcha


def changed(recipe: Captcha, **training: Any) -> Captcha:
    """The recipe with other training settings."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})

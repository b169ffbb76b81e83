"""Recipes by name."""

from __future__ import annotations

from jensen.recipes.recipe import Recipe

PRESETS: dict[str, Recipe] = {}

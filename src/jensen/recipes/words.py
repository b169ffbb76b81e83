"""Recipes from names, KEY=VALUE words and files, with error messages of one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jensen.core.naming import nearest
from jensen.core.settings import IdleSetting, explain
from jensen.data.space import Space
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import Source, source
from jensen.recipes.sources.pair import Pair
from jensen.recipes.usual import usual
from jensen.training.strict_json import parsed


def preset(name: str) -> Recipe:
    """The preset with this name.

    Raises:
        ValueError: for an unknown name; the message contains the most similar known name.
    """
    if name not in PRESETS:
        known = [*PRESETS, *Family.kinds]
        raise ValueError(f"there is no recipe {name!r}{nearest(name, known) or ':'} `jensen recipes` lists all")
    return PRESETS[name]


Start = str | Recipe | Family
"""The starting point of a recipe: the name of a preset or a family, a recipe, or a family with settings."""


def name_of(start: Start) -> str:
    """The name of the recipe that is made from a starting point."""
    return start if isinstance(start, str) else start.name if isinstance(start, Recipe) else start.kind


def on_data(start: Start, data: Source | Path | str | None, data_b: Source | Path | str | None = None) -> Recipe:
    """A preset, a family or a recipe, on the given data, if any.

    Args:
        start: name of a preset or a family, or a recipe or a family.
        data: a source, a path that a source can read, or the kind of a built-in source; None: the preset's data.
        data_b: side b of a translation, whose side a is `data`.

    Raises:
        ValueError: for an unknown name, a family without data, or data that no source can read.
    """
    if data is None and data_b is not None:
        raise ValueError("--data-b needs --data, the pictures of side a")
    kind = name_of(start)
    family = isinstance(start, Family) or (isinstance(start, str) and kind in Family.kinds and kind not in PRESETS)
    recipe = start if isinstance(start, Recipe) else None if family else preset(kind)
    if data is None:
        if recipe is None:
            raise ValueError(
                f"family {kind} needs data: give --data PATH, a folder of pictures or a file of pictures or points"
            )
        return recipe
    found = data if isinstance(data, Source) else source(data)
    if data_b is not None:
        found = Pair(a=found, b=data_b if isinstance(data_b, Source) else source(data_b))
    if recipe is None:
        made = usual(kind, found)
        return made.model_copy(update={"family": start}) if isinstance(start, Family) else made
    if type(found) is type(recipe.data):
        found = recipe.data.model_copy(update={key: getattr(found, key) for key in found.model_fields_set})
    return recipe.model_copy(update={"data": found})


def parse(tree: Any) -> Recipe:
    """A recipe from a tree of plain values.

    Raises:
        ValueError: one sentence with the key, what it must be and what was given.
    """
    if not isinstance(tree, dict):
        raise ValueError("a configuration must be a mapping of keys to values")
    if isinstance(tree.get("recipe"), str) and "family" not in tree:
        raise ValueError(
            f"it was written by an older version of jensen: train it again with jensen train {tree['recipe']}"
        )
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def configure(
    start: Start,
    words: Sequence[str] = (),
    *,
    data: Source | Path | str | None = None,
    data_b: Source | Path | str | None = None,
    seed: int | None = None,
) -> Recipe:
    """A preset, a family or a recipe, on the given data, if any, changed by KEY=VALUE words.

    Args:
        start: name of a preset, or of a family, which needs data; or a recipe or a family.
        words: see `changed`.
        data, data_b: see `on_data`.
        seed: the recipe's random seed, or None for its default.

    Raises:
        ValueError: one sentence with the key, what it must be and what was given.

    >>> configure("digits-vae", ["training.batch_size=32", "bound.beta=2"]).family.bound.beta
    2.0
    >>> configure("vae", data="digits").data.kind
    'digits'
    """
    return changed(on_data(start, data, data_b), words, seed=seed)


def changed(recipe: Recipe, words: Sequence[str], *, seed: int | None = None) -> Recipe:
    """A recipe changed by KEY=VALUE words.

    Keys are dotted, and those of the family have no prefix: "network.width" is "family.network.width". A setting of the
    recipe that has no effect once the words are applied goes back to its default.

    Args:
        recipe: the recipe.
        words: "training.batch_size=32", ...; values are JSON, or else text.
        seed: another random seed, or None.

    Raises:
        ValueError: one sentence with the key, what it must be and what was given.
    """
    tree = recipe.tree()
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise ValueError(f"--set takes KEY=VALUE, got {word!r}")
        value = _assign(recipe, tree, key, text)
        if key in ("training.minutes", "training.steps") and value is not None:
            tree["training"]["steps" if key == "training.minutes" else "minutes"] = None
    if seed is not None:
        tree["seed"] = seed
    asked = {word.partition("=")[0].removeprefix("family.") for word in words}
    while True:
        try:
            return Recipe.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            idle = first.get("ctx", {}).get("error")
            if not isinstance(idle, IdleSetting):
                raise ValueError(explain(error) + made_for(recipe) * (not first["loc"])) from error
            key = f"data.{idle.key}" if first["loc"][:1] == ("data",) else idle.key
            if key in asked:
                raise ValueError(explain(error)) from error
            node, last = _place(tree, key)
            node[last] = idle.default


def suited(recipe: Recipe, space: Space) -> Recipe:
    """`Recipe.on`, where a preset that does not suit other data than its own names the family that does.

    Raises:
        ValueError: if the family or its settings cannot be used with the data.
    """
    try:
        return recipe.on(space)
    except ValueError as error:
        raise ValueError(f"{error}{made_for(recipe)}") from error


def made_for(recipe: Recipe) -> str:
    """The end of a sentence about a preset on other data than its own, or ""."""
    if recipe.name not in PRESETS or at_home(recipe):
        return ""
    kind, family = PRESETS[recipe.name].data.kind, recipe.family.kind
    return f"; recipe {recipe.name} has settings for {kind}: train {family}, which has some for your data"


def at_home(recipe: Recipe) -> bool:
    """Whether it is a preset on data of its own kind."""
    return recipe.name in PRESETS and PRESETS[recipe.name].data.kind == recipe.data.kind


FIXED = ("name", "about", "space")


def settings(recipe: Recipe) -> dict[str, tuple[Any, str]]:
    """Value and description of every setting by dotted key, with no prefix for keys of the family."""
    found: dict[str, tuple[Any, str]] = {}

    def walk(node: BaseModel, prefix: str) -> None:
        if isinstance(node, Source | Family):
            found[f"{prefix or 'family.'}kind"] = (node.kind, f"the {node.what}")
        for name, field in type(node).model_fields.items():
            value = getattr(node, name)
            inside = "" if isinstance(value, Family) else f"{prefix}{name}."
            if isinstance(value, BaseModel):
                walk(value, inside)
            elif prefix or name not in FIXED:
                found[f"{prefix}{name}"] = (value, field.description or "")

    walk(recipe, "")
    unused = {f"judging.{key}" for key in recipe.unjudged}
    return {key: v for key, v in found.items() if key not in unused}


def _assign(recipe: Recipe, tree: dict[str, Any], key: str, text: str) -> Any:
    """Set a dotted key, which must be in the tree and not be a group; returns the value."""
    node, last = _place(tree, key)
    if node is not None and key.startswith("training.rates."):
        node.setdefault(last, 0.0)  # by the name of a player
    if not isinstance(node, dict) or last not in node or key in FIXED:
        raise ValueError(f"there is no setting {key!r} of {recipe.name}{nearest(key, settings(recipe))}")
    if last == "kind" and node[last] in (*Source.kinds, *Family.kinds):
        raise ValueError(f"{key} belongs to the recipe and cannot be set: choose another recipe")
    default = node[last]
    if isinstance(default, dict) and default:
        raise ValueError(f"setting {key!r} is a group: set a key below it, as in {key}.{next(iter(default))}=...")
    # a setting whose default is text takes the word as it is, so that an alphabet of digits is not read as a number
    value = text if isinstance(default, str) else _value(text)
    if isinstance(value, bool) and not isinstance(default, bool):
        raise ValueError(f"setting {key!r} must not be true or false, got {text!r}")
    node[last] = value
    return value


def _place(tree: dict[str, Any], key: str) -> tuple[Any, str]:
    """The node that contains a dotted key, or None, and the last part of the key."""
    *path, last = key.split(".")
    first = (path or [last])[0]
    node: Any = tree["family"] if first in tree["family"] and first != "kind" else tree
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    return node, last


def _value(text: str) -> Any:
    try:
        return parsed(text)
    except json.JSONDecodeError:
        return text

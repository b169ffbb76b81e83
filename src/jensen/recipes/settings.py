"""Reading configurations: from a name, from key=value words, from a file; and saying what is wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from jensen.recipes.base import Recipe
from jensen.recipes.captcha import Captcha
from jensen.recipes.captcha_reader import CaptchaReader
from jensen.recipes.cyclegan import DigitsCycleGAN, DigitsPix2Pix
from jensen.recipes.diffusion import DigitsDDPM, DigitsVDM, MoonsDiffusion
from jensen.recipes.digits_gan import DigitsExponentialGAN, DigitsGAN, DigitsWGAN, StackedDigitsGAN
from jensen.recipes.grey import DigitsGreyVAE
from jensen.recipes.latent import DigitsBetaVAE, DigitsCategorical, DigitsHVAE, DigitsIWAE, DigitsVAE
from jensen.recipes.mnist import MnistVAE
from jensen.recipes.points_gan import GridGAN, GridPacGAN, RingGAN
from jensen.recipes.score import DigitsScore, MoonsScore
from jensen.recipes.sprites import SpritesBetaVAE, SpritesVAE

RECIPES: dict[str, type[Recipe]] = {
    "captcha": Captcha,
    "captcha-reader": CaptchaReader,
    "digits-vae": DigitsVAE,
    "digits-iwae": DigitsIWAE,
    "digits-hvae": DigitsHVAE,
    "digits-beta-vae": DigitsBetaVAE,
    "digits-categorical": DigitsCategorical,
    "digits-grey-vae": DigitsGreyVAE,
    "mnist-vae": MnistVAE,
    "sprites-vae": SpritesVAE,
    "sprites-beta-vae": SpritesBetaVAE,
    "moons-diffusion": MoonsDiffusion,
    "digits-ddpm": DigitsDDPM,
    "digits-vdm": DigitsVDM,
    "moons-score": MoonsScore,
    "digits-score": DigitsScore,
    "ring-gan": RingGAN,
    "grid-gan": GridGAN,
    "grid-pacgan": GridPacGAN,
    "digits-gan": DigitsGAN,
    "digits-wgan": DigitsWGAN,
    "digits-exponential-gan": DigitsExponentialGAN,
    "stacked-digits-gan": StackedDigitsGAN,
    "digits-cyclegan": DigitsCycleGAN,
    "digits-pix2pix": DigitsPix2Pix,
}


def recipe_class(name: Any) -> type[Recipe]:
    """The recipe of a name.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}{_nearest(str(name), RECIPES)}")
    return RECIPES[name]


def parse(tree: Any) -> Recipe:
    """A recipe from a tree of plain values.

    Raises:
        ValueError: if it is no mapping or names no recipe. ValidationError: if a value is wrong.
    """
    if not isinstance(tree, dict):
        raise ValueError("a configuration is a mapping of keys to values")
    return recipe_class(tree.get("recipe")).model_validate(tree)


def configure(name: str, words: Sequence[str] = (), *, seed: int | None = None) -> Recipe:
    """A recipe by name, with KEY=VALUE words laid over its defaults.

    Args:
        name: of the recipe.
        words: "training.batch_size=32", ...; values are JSON, or else text.
        seed: the recipe's seed, or None for its default.

    Raises:
        ValueError: one sentence that names the key, what it got and what it takes.

    >>> configure("captcha", ["training.batch_size=32"]).training.batch_size
    32
    """
    cls = recipe_class(name)
    tree = _defaults(cls)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise ValueError(f"--set takes KEY=VALUE, got {word!r}")
        value = _assign(cls, tree, key, text)
        if key in ("training.minutes", "training.steps") and value is not None:
            tree["training"]["steps" if key == "training.minutes" else "minutes"] = None
    if seed is not None:
        tree["seed"] = seed
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _defaults(cls: type[Recipe]) -> dict[str, Any]:
    tree: dict[str, Any] = cls().model_dump(mode="json")  # type: ignore[call-arg]
    return tree


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(cls: type[BaseModel], tree: dict[str, Any], key: str, text: str) -> Any:
    """Set a dotted key that must exist in the tree, and is no group; returns the value."""
    *path, last = key.split(".")
    node: Any = tree
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise ValueError(f"there is no setting {key!r}{_nearest(key, keys(cls))}")
    if key == "recipe":
        raise ValueError("the recipe is given by its name, not by --set recipe=...")
    default = node[last]
    if isinstance(default, dict):
        raise ValueError(f"setting {key!r} is a group: set a key below it, as in {key}.{next(iter(default))}=...")
    # what is text by default takes the word as it is: an alphabet of digits is no number
    value = text if isinstance(default, str) else _value(text)
    if isinstance(value, bool) and not isinstance(default, bool):
        raise ValueError(f"setting {key!r} got {text!r}: it takes no true or false")
    node[last] = value
    return value


def keys(cls: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a configuration tree."""
    found = []
    for name, field in cls.model_fields.items():
        nested = [a for a in (field.annotation, *get_args(field.annotation)) if _is_model(a)]
        found += keys(nested[0], f"{prefix}{name}.") if nested else [prefix + name]
    return found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest(name: str, known: Any) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:  # perhaps the last part is right and the way there is not
        close = [k for k in names if k.split(".")[-1] == name.split(".")[-1]][:1]
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError) -> str:
    """The first thing that is wrong with a configuration, in one sentence."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"there is no setting {key!r}"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    message = message[0].lower() + message[1:]
    return f"setting {key!r} got {first['input']!r}: {message}"

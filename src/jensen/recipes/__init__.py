"""Complete, typed configurations, and runs made from them."""

from jensen.recipes.base import Recipe
from jensen.recipes.captcha import Captcha
from jensen.recipes.captcha_drawing import draw_free, draw_texts
from jensen.recipes.captcha_reader import CaptchaReader
from jensen.recipes.folder import RunError
from jensen.recipes.running import evaluate, open_run, read_config, train
from jensen.recipes.settings import RECIPES, configure

__all__ = [
    "RECIPES",
    "Captcha",
    "CaptchaReader",
    "Recipe",
    "RunError",
    "configure",
    "draw_free",
    "draw_texts",
    "evaluate",
    "open_run",
    "read_config",
    "train",
]

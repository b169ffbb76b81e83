"""Train, sample and judge deep generative models, with exact results to test them against.

>>> import jensen
>>> recipe = jensen.configure("moons-kernel", ["data.points=200"])
>>> recipe.family.kind
'kernel'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jensen.recipes.words import configure
    from jensen.runs.api import compare, load_data, open, train  # noqa: A004

__version__ = "0.1.0"
__all__ = ["compare", "configure", "load_data", "open", "train"]

_HOMES = dict.fromkeys(__all__, "jensen.runs.api") | {"configure": "jensen.recipes.words"}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    """Import on first use, so that processes that draw pictures can import jensen without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jensen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

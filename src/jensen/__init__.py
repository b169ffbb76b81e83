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
    from jensen.runs.api import open, train  # noqa: A004

__version__ = "0.1.0"
__all__ = ["configure", "open", "train"]

_HOMES = {"configure": "jensen.recipes.words", "open": "jensen.runs.api", "train": "jensen.runs.api"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that processes that draw pictures can import jensen without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jensen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

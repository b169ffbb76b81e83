"""Fonts of the packages that jensen needs: matplotlib and captcha, which are not imported for them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

FOLDERS = (("matplotlib", "mpl-data/fonts/ttf"), ("captcha", "data"))


@cache
def font_path(name: str) -> Path:
    """The path of a font's file.

    Raises:
        ValueError: for an unknown font.

    >>> font_path("DejaVuSans").name
    'DejaVuSans.ttf'
    """
    for folder in _folders():
        path = folder / f"{name}.ttf"
        if path.is_file():
            return path
    known = sorted(path.stem for folder in _folders() for path in folder.glob("*.ttf"))
    raise ValueError(f"fonts must be among {', '.join(known)}, got {name!r}")


@cache
def _folders() -> tuple[Path, ...]:
    specs = ((find_spec(package), folder) for package, folder in FOLDERS)
    return tuple(Path(spec.origin).parent / folder for spec, folder in specs if spec is not None and spec.origin)

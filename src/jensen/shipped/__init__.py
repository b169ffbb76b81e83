"""Trained runs that are part of jensen, opened by the names of their recipes."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped(name: str) -> Path | None:
    """The folder of the run with this name, or None.

    >>> shipped("captcha-reader").name, shipped("my-run")
    ('captcha-reader', None)
    """
    return FOLDER / name if name in names() else None


def said(folder: Path) -> str:
    """A run in a message: the name of one that is part of jensen, or the folder.

    >>> said(FOLDER / "captcha-reader"), said(Path("runs/mine"))
    ('captcha-reader', 'runs/mine')
    """
    return folder.name if folder.parent == FOLDER else str(folder)


def names() -> list[str]:
    """Names of all runs that are part of jensen."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))

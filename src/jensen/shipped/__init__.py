"""Trained runs that are part of jensen, opened by the names of their recipes; where a run is, without torch."""

from __future__ import annotations

from pathlib import Path

from jensen.core.naming import nearest

FOLDER = Path(__file__).parent
CONFIG = "config.json"


def shipped(name: str) -> Path | None:
    """The folder of the run with this name, or None.

    >>> shipped("captcha-reader").name, shipped("my-run")
    ('captcha-reader', None)
    """
    return FOLDER / name if name in names() else None


def located(folder: Path) -> Path:
    """A folder, or, if there is none, that of the run with this name that is part of jensen."""
    return folder if folder.exists() else shipped(str(folder)) or folder


def no_run(folder: Path) -> str:
    """Why a folder is no run, as a sentence, or "".

    >>> no_run(Path("captcha-raeder"))
    "there is no run folder captcha-raeder; did you mean 'captcha-reader'?"
    """
    if not folder.is_dir():
        return f"there is no run folder {folder}{nearest(str(folder), names())}"
    return "" if (folder / CONFIG).is_file() else f"{folder} is not a run: it has no {CONFIG}"


def said(folder: Path) -> str:
    """A run in a message: the name of one that is part of jensen, or the folder.

    >>> said(FOLDER / "captcha-reader"), said(Path("runs/mine"))
    ('captcha-reader', 'runs/mine')
    """
    return folder.name if folder.parent == FOLDER else str(folder)


def names() -> list[str]:
    """Names of all runs that are part of jensen."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))

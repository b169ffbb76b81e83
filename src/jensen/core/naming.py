"""Names and paths that a user gives."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from os import PathLike
from pathlib import Path


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence, or "" if none is similar.

    >>> nearest("digit-vae", ["digits-vae", "captcha"])
    "; did you mean 'digits-vae'?"
    """
    names = list(known)
    lower = {k.lower(): k for k in reversed(names)}
    close = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.62)]
    if not close:  # perhaps only the last part of a dotted key is right
        close = [k for k in names if k.split(".")[-1] == name.split(".")[-1]][:1]
    return f"; did you mean {close[0]!r}?" if close else ""


def path_of(word: Path | str, name: str = "") -> Path:
    """The path that a user gives; `Path` alone takes an empty word for the current folder.

    Args:
        word: the path.
        name: name of the option or argument, for the message.

    Raises:
        ValueError: for an empty word, or what is no path: that has a name too long for the file system, a zero byte or
            a character without a code.

    >>> path_of("", "--out")
    Traceback (most recent call last):
    ValueError: --out must be a path, got an empty one
    """
    if not isinstance(word, str | PathLike):
        raise ValueError(f"{name} must be a path, got {word!r}".strip())
    if word == "":
        raise ValueError(f"{name} must be a path, got an empty one".strip())
    try:
        Path(word).lstat()
    except ValueError as error:
        raise ValueError(f"{name} must be a path, got {word!r}".strip()) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{name} must be a path, got one that is too long: {str(word)[:40]}...".strip()) from error
    return Path(word)

"""Errors of the operating system and of the command line in a sentence.

It does not import torch, which help and versions need not wait for.
"""

from __future__ import annotations

import errno

from pydantic import ValidationError
from typer import TyperException

from jensen.core.settings import explain


def full(error: OSError) -> bool:
    """Whether the machine is at fault and not the arguments: its disk is full or broken, or a limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def sentence(error: OSError) -> str:
    """What failed, with the name of the file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def option(error: TyperException) -> str:
    """What an option or argument must be, and what was given."""
    wrong, param = error.__cause__, getattr(error, "param", None)
    if not isinstance(wrong, ValidationError) or param is None:
        return error.format_message().rstrip(".")
    while isinstance(inner := wrong.errors()[0].get("ctx", {}).get("error"), ValidationError):  # of one of several
        wrong = inner
    name = max(param.opts, key=len) if param.opts[0].startswith("-") else param.display_name_raw
    said = explain(wrong).strip().rstrip(".")
    value, separator, choices = said.partition(" is not one of ")
    return f"{name} must be one of {choices}, got {value}" if separator else f"{name} {said}"

"""Errors of the operating system in a sentence. It does not import torch, which help and versions need not wait for."""

from __future__ import annotations

import errno


def full(error: OSError) -> bool:
    """Whether the machine is at fault and not the arguments: its disk is full or broken, or a limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def sentence(error: OSError) -> str:
    """What failed, with the name of the file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)

"""The cache of packs: at most `MOST` bytes, of which the least recently used are deleted, but none that is in use."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

MOST = 20 * 10**9  # bytes
STALE = 24 * 3600.0  # seconds after which an incomplete pack is deleted
USED: dict[Path, int] = {}
"""Locks of the packs that this process uses, until it ends."""


def cache() -> Path:
    """The folder of the cache: `$JENSEN_CACHE`, else `$XDG_CACHE_HOME/jensen`, else `~/.cache/jensen`."""
    if own := os.environ.get("JENSEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jensen"


def keep(file: Path) -> bool:
    """Lock a file of the cache for as long as this process runs; False if it was deleted meanwhile."""
    with suppress(PermissionError):  # a cache of another user
        os.utime(file.parent.parent)
    with suppress(FileNotFoundError):
        lock = os.open(file, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if file in USED:
            os.close(USED[file])
        USED[file] = lock
    return file.exists()


def trim(packs: Path, most: int | None = None) -> list[Path]:
    """Delete the least recently used folders of `packs` until the others have at most `most` bytes; returns the deleted
    ones.

    Folders in which a process writes, or whose pictures one uses, stay.
    """
    found = sorted((f for f in packs.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime_ns)
    sizes = {folder: _size(folder) for folder in found}
    total, deleted = sum(sizes.values()), []
    for folder, size in sizes.items():
        if total <= (MOST if most is None else most):
            break
        if size and _deleted(folder):
            total -= size
            deleted.append(folder)
    return deleted


def remove_stale(packs: Path, but: Path) -> None:
    """Delete the incomplete packs to which nothing has been written for a day, except in the folder `but`."""
    for part in packs.glob("*/.pack.part"):
        with suppress(FileNotFoundError):  # another process finished it
            newest = max(path.stat().st_mtime for path in (part, *part.iterdir()))
            if part.parent != but and time.time() - newest > STALE:
                _deleted(part.parent)


def _size(folder: Path) -> int:
    sizes = []
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process finished it
            sizes.append(file.stat().st_size * file.is_file())
    return sum(sizes)


def _deleted(folder: Path) -> bool:
    """Empty a folder, unless a process has locked it or a file in it."""
    locks = []
    try:
        for place in (folder, *(file for file in folder.rglob("*") if file.is_file())):
            locks.append(os.open(place, os.O_RDONLY))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for inside in folder.iterdir():
            shutil.rmtree(inside)
        return True
    except OSError:
        return False
    finally:
        for lock in locks:
            os.close(lock)

"""Checks of the files that a command will write."""

from __future__ import annotations

from pathlib import Path

from jensen.training.checkpoint import refuse_filled, sweep, unwritable


def writable(path: Path, *endings: str) -> None:
    """Refuse a path that cannot be written before any work is done; make its parent folders.

    Args:
        path: path of the file or folder.
        endings: allowed endings; "" for a folder of single pictures, which must be new or empty.
    """
    if path.suffix not in endings:
        files = " or ".join(ending for ending in endings if ending)
        raise ValueError(f"{path} must end in {files}" + ", or have no ending and be a folder" * ("" in endings))
    if path.suffix and path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    folder = path.parent if path.suffix else path
    if why := unwritable(folder):
        raise ValueError(f"cannot write {path}: {why}")
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    if not path.suffix:
        refuse_filled(folder)

"""Checkpoints and other files, written atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor

from jensen.training.finite import non_finite

KEPT = 2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block succeeds, it replaces `path` atomically.

    The data is on disk before the file is renamed, so a killed process or a power failure leaves either the old file or
    the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def unwritable(folder: Path) -> str:
    """The reason why no file can be written in a folder, which need not exist, or ""; no file is left behind."""
    above = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not above.is_dir():
        return f"{above} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=above):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("[0-9]*.pt")) if folder.is_dir() else []


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `folder`/STEP.pt atomically and keep the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:09d}.pt"
    with replacing(path) as temporary:
        torch.save(state, temporary)
    for old in [*checkpoints(folder)[:-KEPT], *folder.glob(".*.part")]:  # .part files: left by killed processes
        old.unlink(missing_ok=True)
    return path


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and is finite, or None if there is none.

    Raises:
        ValueError: if there are checkpoints but none can be read.
    """
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001, S112 (torch raises many kinds on a damaged file: try the older)
            continue
        if not non_finite(state):
            return state
    if paths:
        raise ValueError(f"no checkpoint in {folder} can be read: train again, with another --out")
    return None


def save_weights(weights: Mapping[str, Tensor], path: Path, step: int | None = None) -> None:
    """Write weights and their training step atomically, as safetensors.

    Tied weights are stored under each of their names, as `load_state_dict` needs.
    """
    whole = {
        name: v.detach().cpu().contiguous().clone() for name, v in weights.items()
    }  # safetensors rejects shared memory
    with replacing(path) as temporary:
        temporary.write_bytes(as_safetensors(whole, None if step is None else {"step": str(step)}))


def weights_step(path: Path) -> int | None:
    """The training step of the weights in a file, or None if the file does not contain it."""
    try:
        with safe_open(path, "pt") as file:
            step: str | None = (file.metadata() or {}).get("step")
    except (SafetensorError, OSError):
        return None
    return None if step is None else int(step)

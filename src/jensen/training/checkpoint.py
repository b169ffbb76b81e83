"""Checkpoints and other files, written atomically, with checksums."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as as_safetensors
from torch import Tensor

KEPT = 2
DIGEST = hashlib.sha256().digest_size
PART = re.compile(r"\.[0-9a-f]{16}\.part")
NAME = re.compile(r"([0-9]+)(?:\.pt|-([0-9]+))?")
SEAL = re.compile(r"(?:step ([0-9]+), )?sha256 ([0-9a-f]{64})")


class DamagedFile(ValueError):
    """A file does not have the content that was written to it."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write to; when the block succeeds, it replaces `path` atomically.

    The data are on disk before the file is renamed: a killed process, a full disk or a power failure leaves either the
    old file or the new one. The new file is created exclusively with an unpredictable name, so that no link is
    followed, and is locked while it is written, so that `sweep` can tell it from those that killed processes left.

    Raises:
        OSError: if the file cannot be written; it names `path`.
    """
    try:
        file = _created(path.parent)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
                sync_folder(path.parent)
        finally:
            Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _created(folder: Path) -> BinaryIO:
    """A new file in a folder, locked."""
    while True:
        path = part(folder)
        file = open(path, "xb")  # noqa: SIM115 (closed by `replacing`)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # swept before it was locked


def part(folder: Path) -> Path:
    """An unpredictable name for what is being written in a folder."""
    return folder / f".{secrets.token_hex(8)}.part"


def discard(path: Path) -> None:
    """Remove a file, or a folder at once: it is never seen half empty."""
    if path.is_dir() and not path.is_symlink():
        gone = part(path.parent)
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the partly written files and folders that killed processes left in a folder; those being written, which
    are locked, are kept.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if PART.fullmatch(path.name):
            with suppress(OSError):  # it is locked, or a link
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    discard(path)
                finally:
                    os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; bytes of a path that are no text, which Python keeps as surrogates, as \\udc80."""
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


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


def refuse_filled(folder: Path) -> None:
    """Raise a ValueError for a folder that has files, beside which those to come could not be told apart."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give another --out")


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first: files STEP.pt, and folders STEP or STEP-REVISION of shards."""
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (step_of(path), revision(path), path.name))


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(_name(path)[1])


def revision(path: Path) -> int:
    """How many checkpoints of the same step it replaced."""
    return int(_name(path)[2] or 0)


def _name(path: Path) -> re.Match[str]:
    found = NAME.fullmatch(path.name)
    assert found is not None
    return found


def tidy(folder: Path, newest: Path, rejected: Sequence[Path] = ()) -> None:
    """Keep the newest checkpoint and the last one of an earlier step that was not rejected as damaged: training went
    back behind later ones.
    """
    others = [path for path in checkpoints(folder) if path != newest]
    kept = [path for path in others if step_of(path) < step_of(newest) and path not in rejected][1 - KEPT :]
    for path in others:
        if path not in kept:
            discard(path)


def save(folder: Path, step: int, state: dict[str, Any], rejected: Sequence[Path] = ()) -> Path:
    """Write `folder`/STEP.pt atomically and keep the last two, see `tidy`.

    The file ends with the sha256 of all bytes before, as the comment of a zip archive, so `torch.load` reads it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:09d}.pt"
    buffer = io.BytesIO()  # torch reports a full disk in words of its own
    torch.save(state, buffer)
    buffer.seek(-2, io.SEEK_END)  # the length of the comment
    buffer.write(DIGEST.to_bytes(2, "little"))
    with replacing(path) as file:
        file.write(buffer.getbuffer())
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
    tidy(folder, path, rejected)
    return path


def numbered(folder: Path, name: re.Pattern[str]) -> list[tuple[int, Path]]:
    """The files of a folder with such a name, whose first group is a step, and these steps, in their order."""
    found = ((name.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return sorted((int(match[1]), path) for match, path in found if match and path.is_file())


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DamagedFile: if it is something else, such as a pipe, whose end would be waited for.
        OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is not a file")
    return path.read_bytes()


def unsealed(path: Path) -> Any:
    """The content of a checkpoint in one file.

    Raises:
        DamagedFile: if its checksum is wrong, or it is no checkpoint.
    """
    data = read(path)
    if hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        raise DamagedFile(f"{path} is damaged: its checksum is wrong")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise DamagedFile(f"{path} is not a checkpoint") from error


def save_weights(weights: Mapping[str, Tensor], path: Path, step: int | None = None) -> None:
    """Write weights and their training step atomically, as safetensors.

    The metadata hold the sha256 of the file with zeros in its place. Tied weights are stored under each of their names,
    as `load_state_dict` needs.
    """
    whole = {
        name: v.detach().cpu().contiguous().clone() for name, v in weights.items()
    }  # safetensors rejects shared memory
    after = "" if step is None else f"step {step}, "
    data = bytearray(as_safetensors(whole, {"jensen": f"{after}sha256 {'0' * 2 * DIGEST}"}))  # keys: in no fixed order
    start, end = _seal(data)
    data[start:end] = hashlib.sha256(data).hexdigest().encode()
    with replacing(path) as file:
        file.write(data)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file; the checksum of one without metadata, which another program wrote, is not known.

    Raises:
        DamagedFile: if it cannot be read, or its checksum is wrong.
    """
    data = read(path)
    start, end = _seal(data)
    if end:
        digest = hashlib.sha256(memoryview(data)[:start])
        digest.update(b"0" * (end - start))
        digest.update(memoryview(data)[end:])
        if digest.hexdigest().encode() != data[start:end]:
            raise DamagedFile(f"{path} is damaged: its checksum is wrong")
    elif b'"__metadata__"' in _header(data):
        raise DamagedFile(f"{path} is damaged, or from another version of jensen: it has no checksum")
    try:
        return from_safetensors(data)
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged: {' '.join(str(error).split())}") from error


def weights_step(path: Path) -> int | None:
    """The training step of the weights in a file, or None if the file does not contain it."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = SEAL.fullmatch((file.metadata() or {}).get("jensen", ""))
    except (SafetensorError, OSError):
        return None
    return None if found is None or found[1] is None else int(found[1])


def _header(data: bytes | bytearray) -> bytes | bytearray:
    """The header of a file of weights, in JSON."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _seal(data: bytes | bytearray) -> tuple[int, int]:
    """Where the checksum of a file of weights starts and ends; (0, 0): it has none."""
    found = re.search(rb'"jensen":"' + SEAL.pattern.encode() + rb'"', _header(data))
    return (8 + found.start(2), 8 + found.end(2)) if found else (0, 0)

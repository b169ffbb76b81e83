"""IDX files, the format of MNIST and similar data sets."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Whether a file begins as an IDX file does."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            first = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(first) == 4 and first[:2] == b"\0\0" and first[2] in _TYPES


def read_idx(path: Path | str) -> Tensor:
    """The array of an IDX file, gzipped or not, in native byte order.

    Args:
        path: path of the file.

    Raises:
        ValueError: if the file does not exist, is not an IDX file, or is truncated.

    Source: the format as described beside the MNIST database (LeCun, Cortes & Burges).

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp()) / "two.idx"
    >>> _ = name.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    >>> read_idx(name)
    tensor([7, 9], dtype=torch.uint8)
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a broken gzip file: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise ValueError(f"{path} is not an IDX file: it must begin with two zero bytes and a known type")
    kind, axes = np.dtype(_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    shape = np.frombuffer(raw[4:start], ">u4").astype(int) if len(raw) >= start else None
    if shape is None or len(raw) - start != kind.itemsize * int(shape.prod()):
        raise ValueError(f"{path} is shorter than its header says: it may be truncated")
    array = np.frombuffer(raw[start:], kind).reshape(shape)
    return torch.from_numpy(array.astype(kind.newbyteorder("=")))

"""A user's pictures in one file: IDX, .npy or .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.core.seeding import derived, generator
from jensen.core.types import Stream
from jensen.data.dataset import Data, spaced
from jensen.data.idx import is_idx, read_idx
from jensen.data.pool import Tensors, drawn_rows, from_bytes, to_bytes
from jensen.data.space import Classes, Space
from jensen.data.split import held_out_rows
from jensen.data.tables import LABELS, read_arrays
from jensen.data.unpaired import transformed
from jensen.recipes.sources.base import (
    HeldOut,
    Opener,
    Place,
    PlaceOrNone,
    Source,
    fingerprint,
    hashed,
    no_runs,
    parted,
    untrained,
)

LEVELS = 255  # of bytes, less one
CLOSE = 0.01  # of a level: floats this near to levels are bytes that were divided by 255


class Arrays(Source):
    """Pictures in one file of bytes, or of floats in [0, 1] or [-1, 1]: IDX (MNIST's format, gzipped or not), .npy or
    .npz.
    """

    path: PlaceOrNone = ""
    """file of pictures (N, H, W), (N, H, W, C) or (N, C, H, W); a .npz may contain their classes, as "labels" or
    "cond" """
    labels: Place | None = None
    """file of the classes, .idx or .npy; null: none"""
    test: HeldOut = 0.1
    """share of the pictures that is held out"""
    levels: Literal[2, 256] = 256
    """levels of a pixel; 256: as in the file, where floats that are not levels of bytes have a density; 2: black or
    white"""
    binarize: Literal["threshold", "dynamic"] = "threshold"
    """threshold: white if a pixel is at least 128; dynamic: white with probability pixel / 255, drawn for each batch"""

    @model_validator(mode="after")
    def _used(self) -> Arrays:
        if self.levels == 256:
            self.refuse_idle("with 256 levels", "binarize")
        return self

    @classmethod
    def of(cls, path: Path) -> Self | None:
        if not path.is_file() or not (path.suffix.lower() in (".npy", ".npz") or is_idx(path)):
            return None
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        return cls(path=str(path), labels=str(beside) if beside != path and beside.is_file() else None)

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        x, levels, labels = self._pictures()
        if self.levels == 2:
            x, levels = to_bytes(x) if levels is None else x, 2
        tensors, cond = {"x": x}, None
        if labels is not None:
            names, index = labels.unique(return_inverse=True)
            tensors["cond"], cond = index[:, None], Classes(tuple(map(str, names.tolist())))
        train, test = parted(tensors, held_out_rows(len(x), self.test), self.test)
        space, grey = Space(tuple(x.shape[1:]), levels, cond=cond), train
        if self.levels == 2:
            train, test = (self._black_and_white(rows, part) for rows, part in ((train, "train"), (test, "test")))

        def dynamic(batch_size: int, seed: int) -> Stream:
            stream = drawn_rows(grey, batch_size, seed)
            return transformed(stream, ink, lambda n: torch.rand(n, *space.shape), derived(seed, "ink"))

        where = "" if labels is None else f" and {cond.size if cond else 0} classes"
        return Data(
            f"{Path(self.path).name}, {levels or 'real'} levels",
            fingerprint(self, hashed(self.path, self.labels), without=("path", "labels")),
            spaced(space, train),
            train,
            test,
            streams=dynamic if self.binarize == "dynamic" else None,
            notes=(
                f"{len(x):,} pictures of {' x '.join(map(str, x.shape[1:]))}{where}; {len(test):,} are held out",
                *untrained(cond, train.tensors.get("cond")),
            ),
        )

    def _black_and_white(self, rows: Tensors, part: str) -> Tensors:
        x = rows.tensors["x"]
        if self.binarize == "threshold":
            white = x >= 128
        else:
            white = ink(from_bytes(x), torch.rand(x.shape, generator=generator(derived(0, "ink", part)))) > 0
        return Tensors(**{**rows.tensors, "x": white * torch.tensor(255, dtype=torch.uint8)})

    def _pictures(self) -> tuple[Tensor, int | None, Tensor | None]:
        """Pictures (N, C, H, W), their levels, and classes (N,)."""
        path = Path(self._file("an IDX, .npy or .npz file of pictures"))
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        arrays = {} if path.suffix.lower() not in (".npy", ".npz") else read_arrays(path)
        found = [v for v in arrays.values() if v.ndim > 2] if arrays else [read_idx(path).numpy()]
        if len(found) != 1:
            raise ValueError(f"{path} must have one array of pictures, got {len(found)}")
        if unknown := [name for name, v in arrays.items() if v.ndim <= 2 and name not in (*LABELS, "")]:
            raise ValueError(f"{path} must have classes under {', '.join(LABELS)}, got {', '.join(unknown)}")
        labels = next((torch.from_numpy(v) for name, v in arrays.items() if name in LABELS), None)
        if self.labels is not None:
            suffix = Path(self.labels).suffix.lower()
            labels = torch.from_numpy(read_arrays(Path(self.labels))[""]) if suffix == ".npy" else read_idx(self.labels)
        x = found[0]
        if labels is not None and (labels.shape != (len(x),) or labels.is_floating_point()):
            raise ValueError(
                f"{self.labels or path} must hold a whole number for each of {len(x)} pictures, got "
                f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
            )
        if x.dtype.kind not in "iuf":
            raise ValueError(f"{path} must hold pictures as numbers, got {x.dtype}")
        known = x if x.dtype == np.uint8 else x.astype(np.float32 if x.dtype.kind == "f" else np.int64)
        return *pixels(path, torch.from_numpy(known)), labels


def ink(x: Tensor, u: Tensor) -> Tensor:
    """-1 or 1, with mean x in [-1, 1] for u uniform in [0, 1)."""
    return 2 * (u < (x + 1) / 2).float() - 1


def pixels(place: Path | str, x: Tensor, *, whole: bool = True) -> tuple[Tensor, int | None]:
    """Pictures (N, C, H, W), and their levels: bytes, or floats in [-1, 1] that are not levels of bytes.

    Args:
        place: where the pictures are, for the message.
        x: pictures (N, H, W), (N, H, W, C) or (N, C, H, W): bytes, or floats in [0, 1] or [-1, 1].
        whole: whether these are all pictures, and not the batches of a stream.

    Raises:
        ValueError: for another scale or shape.
    """
    low, high = (float(v) for v in (x.min(), x.max())) if x.numel() else (0.0, 0.0)
    scale = f"{place} must hold pictures as bytes (uint8) from 0 to 255, or floats in [0, 1] or [-1, 1], got"
    if x.dtype == torch.uint8:
        if high == 1:
            raise ValueError(f"{scale} bytes of at most 1: multiply them by 255")
        return channels_first(place, x.numpy()), LEVELS + 1
    if not x.is_floating_point() or not (low >= -1 and high <= 1):
        top = LEVELS if LEVELS / 2 < high <= LEVELS else high
        hint = f": divide them by {top:g}" if low >= 0 and high > 1 else ""
        raise ValueError(f"{scale} {str(x.dtype).removeprefix('torch.')} from {low:g} to {high:g}{hint}")
    if low >= 0 and not whole:
        raise ValueError(f"pictures of a stream must be bytes (uint8) or floats in [-1, 1], got {low:g} to {high:g}")
    x = 2 * x.float() - 1 if low >= 0 else x.float()
    steps = (x + 1) * (LEVELS / 2)
    if whole and bool(((steps - steps.round()).abs() < CLOSE).all()):
        x, levels = steps.round().to(torch.uint8), LEVELS + 1
    else:
        levels = None
    return channels_first(place, x.numpy()), levels


def channels_first(place: Path | str, x: np.ndarray) -> Tensor:
    """Pictures (N, C, H, W) from (N, H, W), (N, H, W, C) or (N, C, H, W); C is 1, 3 or 4."""
    if x.ndim == 3:
        x = x[:, None]
    channels = [axis for axis in (1, 3) if x.ndim == 4 and x.shape[axis] in (1, 3, 4)]
    if not channels or min(x.shape) < 1:
        raise ValueError(f"{place} must hold pictures (N, H, W), (N, H, W, C) or (N, C, H, W), got {x.shape}")
    axis = min(channels, key=lambda axis: x.shape[axis])  # of pictures with few rows or columns both would do
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, axis, 1)))

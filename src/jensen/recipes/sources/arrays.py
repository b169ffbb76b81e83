"""Arrays in files: pictures of IDX files, MNIST's format."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core.progress import Track, silent
from jensen.data.dataset import Data, spaced
from jensen.data.idx import read_idx
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.recipes.sources.base import Opener, Place, Source, fingerprint, no_runs


class IDX(Source):
    """Grey pictures of an IDX file; the last ones are held out."""

    images: Place = ""
    """IDX file of the pictures, gzipped or not"""
    labels: Place | None = None
    """IDX file of their labels, or null"""
    height: Annotated[int, Field(ge=1)] = 28
    """height of a picture in pixels"""
    width: Annotated[int, Field(ge=1)] = 28
    """width of a picture in pixels"""
    test: Annotated[int, Field(ge=2)] = 1000
    """held-out pictures"""
    levels: Literal[2, 256] = 256
    """levels of a pixel; 256: as in the file; 2: white if the pixel is at least 128, black otherwise"""

    def known(self) -> Space | None:
        """The classes are those in the file of labels."""
        return Space((1, self.height, self.width), self.levels) if self.labels is None else None

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        x, cond = self._pictures(), None
        tensors, space = {"x": x}, Space((1, self.height, self.width), self.levels)
        if self.labels is not None:
            names, cond = self._labels(len(x)).unique(return_inverse=True)
            tensors["cond"] = cond[:, None]
            space = Space(space.shape, space.levels, cond=Classes(tuple(map(str, names.tolist()))))
        train = Tensors(**{key: value[: -self.test] for key, value in tensors.items()})
        test = Tensors(**{key: value[-self.test :] for key, value in tensors.items()})
        content = [_hash(place) for place in (self.images, self.labels) if place is not None]
        return Data(
            f"{Path(self.images).name}, {self.levels} levels",
            fingerprint(self, content, without=("images", "labels")),
            spaced(space, train),
            train,
            test,
        )

    def _pictures(self) -> Tensor:
        """(N, 1, H, W) uint8."""
        if not self.images:
            raise ValueError(
                "data.images must be an IDX file of pictures, got none: give it with --set data.images=FILE"
            )
        found = read_idx(self.images)
        if found.ndim != 3 or found.dtype != torch.uint8:
            raise ValueError(
                f"{self.images} must hold pictures, bytes on three axes, got {found.dtype} {tuple(found.shape)}"
            )
        if found.shape[1:] != (self.height, self.width):
            raise ValueError(
                f"data.height and data.width must be those of {self.images}, {found.shape[1]} and {found.shape[2]}, "
                f"got {self.height} and {self.width}"
            )
        if len(found) <= self.test:
            raise ValueError(
                f"data.test must be below the number of pictures in {self.images}, {len(found)}, got {self.test}"
            )
        return (found if self.levels == 256 else (found >= 128) * torch.tensor(255, dtype=torch.uint8))[:, None]

    def _labels(self, n: int) -> Tensor:
        assert self.labels is not None
        found = read_idx(self.labels)
        if found.shape != (n,) or found.is_floating_point():
            raise ValueError(
                f"{self.labels} must hold a whole number for each of {n} pictures, got {tuple(found.shape)}"
            )
        return found


def _hash(place: str) -> str:
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()

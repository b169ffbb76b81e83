"""Samples, as pictures or numbers in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from jensen.core.naming import path_of
from jensen.data.pool import refuse_nonfinite
from jensen.report.gallery import as_bytes, gallery, save_image, single
from jensen.training.checkpoint import write_text


@dataclass(frozen=True)
class Samples:
    """Samples that can be shown and saved.

    Attributes:
        x: (N, *shape), pictures in [-1, 1].
        columns: number of columns of a sheet, or None.
        names: names of single files, by number.
    """

    x: Tensor
    columns: int | None = None
    names: Callable[[int], str] = "{:05d}".format

    @property
    def pixels(self) -> Tensor:
        """The pictures as uint8 (N, C, H, W)."""
        return as_bytes(self.x)

    def sheet(self, *, scale: int = 4) -> Image.Image:
        """All samples in one image; points as a plot in the plane."""
        return gallery(self.x, columns=self.columns, scale=scale)

    def save(self, path: Path | str, *, scale: int = 1) -> None:
        """Write one image to a .png, numbers to a .csv, or single pictures to a folder.

        Raises:
            ValueError: for samples that are not finite, for pictures as a .csv, or for points as anything else.
        """
        path = path_of(path, "path")
        refuse_nonfinite(self.x)
        if path.suffix == ".csv" and self.x.ndim > 2:
            raise ValueError(f"pictures must be saved as a .png or in a folder, got {path}")
        if path.suffix not in (".csv", ".png") and self.x.ndim < 3:
            raise ValueError(f"points must be saved as a .csv or a .png, got {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            save_image(self.sheet(scale=scale), path)
        elif path.suffix == ".csv":
            lines = [",".join(f"{value:.6g}" for value in row) for row in self.x.flatten(1).tolist()]
            write_text(path, "\n".join(lines) + "\n")
        else:
            path.mkdir(parents=True, exist_ok=True)
            for k, picture in enumerate(self.x):
                save_image(single(picture, scale=scale), path / f"{self.names(k)}.png")

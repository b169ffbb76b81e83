"""Samples, as pictures or numbers in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from jensen.core.naming import path_of
from jensen.data.pool import refuse_nonfinite
from jensen.data.tables import LABELS
from jensen.report.gallery import as_bytes, gallery, save_image, single
from jensen.report.scatter import Classes
from jensen.training.checkpoint import refuse_filled, write_text

CLASS = "class"  # name of the column of classes


@dataclass(frozen=True)
class Samples:
    """Samples that can be shown and saved.

    Attributes:
        x: (N, *shape), pictures in [-1, 1].
        columns: names of the columns of points; empty: they have none.
        classes: classes of the samples, and their names; None: they have none.
        across: number of pictures in a row of a sheet; None: chosen from their number.
        file_names: names of single files, by number.
    """

    x: Tensor
    columns: tuple[str, ...] = ()
    classes: Classes | None = None
    across: int | None = None
    file_names: Callable[[int], str] = field(default="{:05d}".format, repr=False)

    @property
    def pixels(self) -> Tensor:
        """The pictures as uint8 (N, C, H, W)."""
        return as_bytes(self.x)

    def sheet(self, *, scale: int = 4) -> Image.Image:
        """All samples in one image; points as a plot in the plane."""
        return gallery(self.x, columns=self.across, scale=scale, names=self.columns, classes=self.classes)

    def save(self, path: Path | str, *, scale: int = 1) -> None:
        """Write one image to a .png, numbers to a .csv, or single pictures to a new or empty folder.

        The first line of a .csv has the names of the columns, if they have any; the last column has the classes.

        Raises:
            ValueError: for samples that are not finite, for pictures as a .csv, for points as anything else, or for a
            folder that is not empty.
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
            write_text(path, self._table())
        else:
            refuse_filled(path)
            path.mkdir(parents=True, exist_ok=True)
            for k, picture in enumerate(self.x):
                save_image(single(picture, scale=scale), path / f"{self.file_names(k)}.png")

    def _table(self) -> str:
        """The text of a .csv."""
        rows = [[f"{value:.6g}" for value in row] for row in self.x.flatten(1).tolist()]
        names = list(self.columns)
        if self.classes is not None:
            names = names or [f"column {k + 1}" for k in range(self.x[0].numel())]
            names.append(next(label for label in (CLASS, *LABELS) if label not in names))
            for row, k in zip(rows, self.classes.index.tolist(), strict=True):
                row.append(self.classes.names[k])
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([*[names] * bool(names), *rows])
        return text.getvalue()

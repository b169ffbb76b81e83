"""The contents of points or pictures that are not a folder: what a user should know before training on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jensen.data.dataset import Data, some
from jensen.data.pool import Rows, to_bytes
from jensen.data.space import Classes, Space
from jensen.data.split import equal_rows
from jensen.data.tables import Table, wrong_cells

ROWS = 1024  # pictures that are read at a time


@dataclass(frozen=True)
class Contents:
    """Rows of data, and what is known about them.

    Attributes:
        x: points (N, D) float64, NaN where a number is missing; or pictures (N, C, H, W) uint8.
        columns: names of the columns of points.
        labels: classes of the rows, None where one is missing; empty: none.
        levels: number of levels of a pixel, or None.
        wrong: row (from 1), column and content of the cells of a table that are not finite numbers.
        words: columns of a table that are neither numbers nor the classes.
        test: which rows a run holds out, (N,) bool, or None if training refuses the data.
    """

    x: np.ndarray
    columns: tuple[str, ...] = ()
    labels: Sequence[str | None] = ()
    levels: int | None = None
    wrong: Sequence[tuple[int, str, str]] = ()
    words: tuple[str, ...] = ()
    test: Tensor | None = None

    @property
    def copies(self) -> list[tuple[int, ...]]:
        """Row numbers (from 1) of rows that are exactly equal, in groups."""
        return [tuple(k + 1 for k in group) for group in equal_rows(self.x)]


def of_table(table: Table, test: Tensor | None) -> Contents:
    """The contents of a table; `test` says which rows a run holds out."""
    names = tuple(name for name in table.numeric if name != table.label)
    labels: Sequence[str | None] = ()
    if table.label is not None:
        values = table.columns[table.label].tolist()
        labels = [(None if v != v else f"{v:.15g}") if isinstance(v, float) else v or None for v in values]
    x = np.stack([table.columns[name] for name in names], 1) if names else np.zeros((len(labels), 0))
    words = tuple(name for name in table.columns if name not in (*names, table.label))
    return Contents(x, names, labels, None, wrong_cells(table), words, test)


def of_data(data: Data, file: Tensor | None = None) -> Contents:
    """The contents of opened data, whose classes are the sides if they are for translation.

    Args:
        data: the data.
        file: which rows of the data's only file are held out, (N,) bool: rows are numbered as in the file. None:
            training rows come before held-out rows.
    """
    space, sides = data.space, [("side a", data), *([("side b", data.b)] if data.b is not None else [])]
    parts = [(name, rows, held) for name, side in sides for rows, held in ((side.train, False), (side.test, True))]
    x = np.concatenate([_read(rows, space) for _, rows, _ in parts])
    test = torch.cat([torch.full((len(rows),), held) for _, rows, held in parts])
    labels: list[str | None] = []
    if data.b is not None:
        labels = [name for name, rows, _ in parts for _ in range(len(rows))]
    elif isinstance(space.cond, Classes):
        labels = [label for _, rows, _ in parts for label in space.cond.decode(_all(rows, "cond"))]
    columns = () if space.pictures else space.columns or tuple(str(k + 1) for k in range(space.dims))
    if file is not None:
        order = torch.cat([(~file).nonzero()[:, 0], file.nonzero()[:, 0]]).argsort()
        x, test, labels = x[order.numpy()], file, [labels[k] for k in order.tolist()] if labels else labels
    return Contents(x, columns, labels, space.levels, test=test)


def _read(rows: Rows, space: Space) -> np.ndarray:
    return _all(rows, "x").numpy() if space.pictures else some(rows)["x"].double().numpy()


def _all(rows: Rows, name: str) -> Tensor:
    """All rows of one tensor, pictures as bytes."""
    parts = (rows[index][name] for index in torch.arange(len(rows)).split(ROWS))
    return torch.cat([to_bytes(part) if part.ndim == 4 else part for part in parts])

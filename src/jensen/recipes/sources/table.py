"""A user's points: rows of numbers in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch

from jensen.core.progress import Track, silent
from jensen.data import tables
from jensen.data.dataset import Data, spaced
from jensen.data.space import Classes, Space
from jensen.data.split import held_out_rows
from jensen.data.survey import natural
from jensen.recipes.sources.base import (
    HeldOut,
    Opener,
    PlaceOrNone,
    Source,
    fingerprint,
    hashed,
    no_runs,
    parted,
    untrained,
)

PRECISE = 1e5  # largest ratio of a column's mean to its standard deviation: float32 has 7 digits
LARGEST = 1e18  # its square is a number of single precision
FEW = 20  # distinct values of a column, below which it is called discrete


class Table(Source):
    """Points: rows of numbers in a .csv, .tsv, .npy, .npz or .parquet file; every column is standardised."""

    path: PlaceOrNone = ""
    """the file"""
    columns: tuple[str, ...] = ()
    """columns to learn; empty: all columns of numbers except the label"""
    label: str | None = None
    """column with the class of each row; null: none"""
    missing: Literal["refuse", "drop"] = "refuse"
    """what is done about rows in which a number or the class is missing"""
    test: HeldOut = 0.1
    """share of the rows that is held out"""

    tabular = True

    @classmethod
    def of(cls, path: Path) -> Self | None:
        if path.suffix.lower() not in tables.SUFFIXES or not path.is_file():
            return None
        if path.suffix.lower() in (".npy", ".npz") and any(v.ndim > 2 for v in tables.read_arrays(path).values()):
            return None  # pictures
        return cls(path=str(path), label=tables.read_cells(path).label)

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        table = tables.read_table(self._file("a table"), self.label, columns=self.columns, drop=self.missing == "drop")
        names = self.columns or tuple(name for name in table.numeric if name != self.label)
        self._refuse(table, names)
        x = torch.from_numpy(np.stack([table.columns[name] for name in names], 1))
        tensors, cond = {"x": x.float()}, None
        if self.label is not None:
            values = table.columns[self.label]
            words = [f"{v:.15g}" for v in values] if values.dtype == np.float64 else values.tolist()
            if "" in words:
                got = f"none in row {words.index('') + 1}"
                raise ValueError(f"column {self.label} of {self.path} must have a class in every row, got {got}")
            cond = Classes(tuple(sorted(set(words), key=natural)))
            tensors["cond"] = cond.encode(words)
        train, test = parted(tensors, held_out_rows(len(x), self.test), self.test)
        space = Space((len(names),), cond=cond, columns=names if table.named else ())
        return Data(
            f"{Path(self.path).name}, {len(names)} columns",
            fingerprint(self, hashed(self.path), without=("path",)),
            spaced(space, train, by_column=True),
            train,
            test,
            notes=(
                f"{len(x):,} points with {len(names)} columns"
                + ("" if cond is None else f" and {cond.size} classes from column {self.label}")
                + f"; {len(test):,} are held out",
                *[f"{table.dropped:,} rows with something missing are left out"] * (table.dropped > 0),
                *self._unused(table),
                *self._cautions(names, x),
                *untrained(cond, train.tensors.get("cond")),
            ),
        )

    def _refuse(self, table: tables.Table, names: tuple[str, ...]) -> None:
        """Raise a ValueError for columns that do not exist, or that vary too little for single precision."""
        if not names:
            column, values = next(iter(table.columns.items()))
            found = f"{str(values[-1])!r} in column {column!r}"
            raise ValueError(f"{self.path} must have a column of numbers, got only words, such as {found}")
        for key, name in [*(("columns", name) for name in names), *[("label", self.label)] * (self.label is not None)]:
            if name not in table.columns:
                known = ", ".join(table.columns)
                raise ValueError(f"data.{key} must name columns of {self.path}, which are {known}, got {name!r}")
        label = np.array([]) if self.label is None else table.columns[self.label]
        if label.dtype == np.float64 and (label != np.floor(label)).any() and tables.names_rows(label.tolist()):
            raise ValueError(
                f"data.label must be a column of classes, got {self.label!r}, a column of real numbers that are nearly "
                "all different"
            )
        for name in names:
            values = table.columns[name]
            if name not in table.numeric:
                raise ValueError(f"data.columns must be columns of numbers, got {name!r}, a column of words")
            refuse_imprecise(f"column {name}", values)

    def _unused(self, table: tables.Table) -> list[str]:
        words = [name for name in table.columns if name not in (*table.numeric, self.label)]
        if self.columns or not words:
            return []
        return [f"columns of words are not used: {', '.join(words)}; data.label chooses the one with the classes"]

    @staticmethod
    def _cautions(names: tuple[str, ...], x: torch.Tensor) -> list[str]:
        counts = {name: len(v.unique()) for name, v in zip(names, x.T, strict=True)}
        return [
            f"column {name} has only {n} distinct values, at which a density can be arbitrarily large: do not rely on "
            "likelihoods"
            for name, n in counts.items()
            if n < FEW
        ]


def refuse_imprecise(what: str, values: np.ndarray) -> None:
    """Raise a ValueError for numbers that differ by too small a part of their mean for single precision."""
    if (largest := np.abs(values).max()) > LARGEST:
        raise ValueError(f"{what} must have numbers from {-LARGEST:g} to {LARGEST:g}, got {largest:g}: rescale it")
    mean, std = values.mean(), values.std()
    if abs(mean) > PRECISE * std > 0:
        raise ValueError(
            f"{what} must vary by more than 1 / {PRECISE:,.0f} of its mean, which single precision resolves, got mean "
            f"{mean:g} and standard deviation {std:g}: subtract its mean"
        )

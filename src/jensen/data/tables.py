"""Tables of numbers in files: .csv, .tsv, .npy, .npz, .parquet."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jensen.core.naming import path_of

SUFFIXES = (".csv", ".tsv", ".npy", ".npz", ".parquet")
LABELS = ("label", "labels", "class", "target", "y", "cond")  # names of a column of classes
COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)  # a number with a decimal comma
MISSING = ("", "na", "n/a", "nan", "null", "none")  # words for a missing number, in any case


@dataclass(frozen=True)
class Table:
    """Columns of a table, all of the same length.

    Attributes:
        path: path of its file.
        columns: columns by name: numbers (N,) float64, or words (N,).
        named: whether the file names its columns; otherwise they are "1", "2", ...
        label: the column of classes, if there is one.
        dropped: number of rows that were left out because something was missing.
    """

    path: Path
    columns: dict[str, np.ndarray]
    named: bool
    label: str | None
    dropped: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def numeric(self) -> tuple[str, ...]:
        return tuple(name for name, v in self.columns.items() if v.dtype == np.float64)


def read_table(
    path: Path | str, label: str | None = None, *, columns: Collection[str] = (), drop: bool = False
) -> Table:
    """The table in a file, whose columns of numbers must be complete.

    Args:
        path: a .csv or .tsv, with or without a line of column names, with decimal commas if no comma separates columns
            and no number has a point; a .npy with an array (N, D); a .npz with one such
            array, and optionally classes (N,) under one of `LABELS`; or a .parquet, which needs pyarrow.
        label: the column of classes, whose words may be mostly numbers.
        columns: the columns that must be complete; empty: all columns of numbers.
        drop: leave out the rows in which a number or the class is missing.

    Raises:
        ValueError: if the file does not exist, is broken, is of another kind, or a cell of a column of numbers is
            missing or not finite; with drop, if no row is complete.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp()) / "two.csv"
    >>> _ = name.write_text("length,kind\\n1.5,a\\n2.5,a\\n")
    >>> table = read_table(name)
    >>> table.numeric, table.label, table.columns["length"].tolist()
    (('length',), 'kind', [1.5, 2.5])
    """
    table = read_cells(path)
    if drop:
        table = _complete(table, [label, *(columns or table.numeric)])
    cells = wrong_cells(table)
    for name in columns or table.columns:
        wrong = [(row, word) for row, column, word in cells if column == name]
        if wrong and (name != label or name in table.numeric):
            (row, word), more = wrong[0], f" and in {len(wrong) - 1} other rows" * (len(wrong) > 1)
            if word == "missing":
                got, hint = "none", "; data.missing=drop leaves them out" * (name in table.numeric)
            else:
                got, hint = repr(word), f"; classes need data.label={name}" * (name not in table.numeric)
            raise ValueError(f"column {name} of {path} must have finite numbers, got {got} in row {row}{more}{hint}")
    return table


def read_cells(path: Path | str) -> Table:
    """The table in a file; a missing number is NaN.

    Raises:
        ValueError: if the file does not exist, is broken, or is of another kind.
    """
    path = path_of(path, "path")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise ValueError(f"a table must be a file with ending {', '.join(SUFFIXES)}, got {path}")
    try:
        named, found = READERS[suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from error
    except (OSError, csv.Error, EOFError) as error:
        raise ValueError(f"{path} cannot be read as {suffix}: {error}") from error
    if not found or not len(next(iter(found.values()))):
        raise ValueError(f"{path} must have at least one row and one column of numbers, got none")
    columns = {name: _numbers(values) for name, values in found.items()}
    return Table(path, columns, named, _label(columns))


def wrong_cells(table: Table) -> list[tuple[int, str, str]]:
    """Row (from 1), column and content of the cells that are not finite numbers, in columns of mostly numbers.

    >>> wrong_cells(Table(Path("t.csv"), {"a": np.array([1.0, np.nan]), "b": np.array(["1", "?"])}, True, None))
    [(2, 'a', 'missing'), (2, 'b', '?')]
    """
    found = []
    for name, values in table.columns.items():
        if values.dtype == np.float64 or _mostly_numbers(values):
            rows = np.flatnonzero(~np.isfinite(_parsed(values))).tolist()
            found += [(k + 1, name, "missing" if str(values[k]) in ("nan", "") else str(values[k])) for k in rows]
    return sorted(found)


def _complete(table: Table, names: Collection[str | None]) -> Table:
    """The rows in which no number and no word of these columns is missing."""
    keep = np.ones(len(table), bool)
    for name in table.columns.keys() & names:
        values = table.columns[name]
        keep &= ~(np.isnan(values) if values.dtype == np.float64 else _missing(values))
    if not keep.any():
        raise ValueError(f"{table.path} must have a row without missing numbers, got none")
    columns = {name: values[keep] for name, values in table.columns.items()}
    return replace(table, columns=columns, dropped=int((~keep).sum()))


def _parsed(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float64 else np.array([_number(word) for word in values.tolist()])


def _missing(words: np.ndarray) -> np.ndarray:
    return np.isin(np.char.lower(words), MISSING)


def _mostly_numbers(values: np.ndarray) -> bool:
    return bool(2 * np.isfinite(_parsed(values)).sum() >= len(values))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def _label(columns: dict[str, np.ndarray]) -> str | None:
    """The only column of words, or the only one of words or whole numbers whose name is one of `LABELS`.

    Words that are mostly numbers are numbers with wrong cells, unless the column has such a name. A column that names
    its rows has no classes.
    """
    words = [name for name, v in columns.items() if v.dtype != np.float64]
    whole = [name for name, v in columns.items() if name not in words and (v == np.floor(v))[~np.isnan(v)].all()]
    words = [name for name in words if not _missing(columns[name]).all()]
    words, whole = ([n for n in names if not names_rows(columns[n].tolist())] for names in (words, whole))
    named = [name for name in (*words, *whole) if name.lower() in LABELS]
    words = [name for name in words if name in named or not _mostly_numbers(columns[name])]
    found = words if len(words) == 1 else named
    return found[0] if len(found) == 1 else None


def names_rows(labels: Sequence[object]) -> bool:
    """Whether most of the different labels occur once, as the numbers or names of rows do.

    >>> names_rows(["a", "b", "c"]), names_rows(["a", "b", "a", "c", "c"])
    (True, False)
    """
    counts = Counter(label for label in labels if label == label and label != "").values()  # not those that are missing
    return 2 * sum(n == 1 for n in counts) > len(counts)


def _numbers(values: Any) -> np.ndarray:
    """Floats if every value that is present is a number (missing ones are NaN), otherwise words."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    words = np.array(["" if value is None else str(value).strip() for value in array.tolist()])
    present = ~_missing(words)
    try:
        return np.where(present, words, "nan").astype(np.float64) if present.any() else words
    except ValueError:
        return words


def _separated(path: Path) -> tuple[bool, dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        dialect: Any = csv.Sniffer().sniff(text[:10_000], delimiters=",;\t|")
    except csv.Error:  # a single column
        dialect = csv.excel
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if row and not row[0].startswith("#")]
    if dialect.delimiter != ",":
        rows = _pointed(rows)
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"every row of {path} must have {len(rows[0])} columns, got {len(row)} in row {number}")
    if not rows:
        return False, {}
    if len(rows) == 1 and all(_numbers([cell]).dtype != np.float64 for cell in rows[0]):
        raise ValueError(f"{path} must have rows below its header, got none")
    first = [_numbers([cell]).dtype != np.float64 for cell in rows[0]]
    later = [_numbers([cell]).dtype != np.float64 for cell in rows[1]] if len(rows) > 1 else first
    named = all(first) and (first != later or len(set(map(str.lower, rows[0])) & set(LABELS)) > 0)
    names = [name.strip() for name in rows.pop(0)] if named else [str(k + 1) for k in range(len(rows[0]))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"columns of {path} must have different names, got {twice!r} twice")
    return named, dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _pointed(rows: list[list[str]]) -> list[list[str]]:
    """Cells with decimal points for decimal commas, unless a number has a point: commas then group thousands."""
    if any("." in cell and np.isfinite(_number(cell)) for row in rows for cell in row):
        return rows
    return [[cell.replace(",", ".") if COMMA.fullmatch(cell.strip()) else cell for cell in row] for row in rows]


def _npy(path: Path) -> tuple[bool, dict[str, Any]]:
    return False, _array(path, read_arrays(path)[""])


def _npz(path: Path) -> tuple[bool, dict[str, Any]]:
    arrays = read_arrays(path)
    labels = {name: v for name, v in arrays.items() if name in LABELS and v.ndim == 1}
    points = [v for name, v in arrays.items() if name not in labels]
    if len(points) != 1:
        raise ValueError(f"{path} must have one array of points, got {', '.join(arrays) or 'none'}")
    columns = _array(path, points[0])
    for name, v in labels.items():
        if len(v) != len(points[0]):
            raise ValueError(f"{name} in {path} must have a value for each of {len(points[0])} points, got {len(v)}")
        columns[name] = v
    return False, columns


def _array(path: Path, x: np.ndarray) -> dict[str, Any]:
    if x.ndim != 2 or x.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold numbers (N, D), got {x.dtype} {x.shape}")
    return {str(k + 1): x[:, k] for k in range(x.shape[1])}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name, or that of a .npy under ""; Python objects are refused.

    Raises:
        ValueError: if the file is broken or contains objects.
    """
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        why = "it is empty" if isinstance(error, EOFError) else str(error)
        why = "it has Python objects, or is of another format" if "pickle" in why else why
        raise ValueError(f"{path} must be a .npy or .npz file of numbers: {why}") from error


def _parquet(path: Path) -> tuple[bool, dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyarrow: install jensen with the extra parquet") from error
    try:
        read = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as .parquet: {error}") from error
    return True, {name: read[name].to_pylist() for name in read.column_names}


READERS = {".csv": _separated, ".tsv": _separated, ".npy": _npy, ".npz": _npz, ".parquet": _parquet}

"""Data given from Python: arrays, tensors, datasets and streams of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import IOBase
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from jensen.core.progress import Track, silent
from jensen.core.types import Batch, Stream, mapped, takes
from jensen.data.dataset import Data, spaced
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space
from jensen.data.split import held_out_rows
from jensen.recipes.sources.arrays import pixels
from jensen.recipes.sources.base import HeldOut, Opener, Source, fingerprint, no_runs, parted, untrained
from jensen.recipes.sources.table import refuse_imprecise

KEPT_ASIDE = 2000  # rows at the start of a stream, at least, from which it is judged
KEYS = ("x", "cond")


@dataclass(frozen=True, eq=False)
class Held:
    """Data in memory.

    Attributes:
        rows: all rows; for a stream, those of its first batches, which are not used for training.
        stream: the following batches, for training; None: rows are drawn with replacement.
        notes: what was chosen or left out.
    """

    rows: Tensors
    stream: Stream | None = None
    notes: tuple[str, ...] = ()


HELD: WeakValueDictionary[str, Held] = WeakValueDictionary()
"""Data of this process by the hash of their content, while a `Memory` made from them exists."""


class Memory(Source):
    """Data given from Python, as in `jensen.train("vae", data=x)`; the settings keep their shape and a hash of them."""

    shape: tuple[int, ...] = ()
    """shape of an example, (C, H, W) of pictures or (D,) of points"""
    levels: int | None = None
    """levels of a pixel, 256 for bytes; null: numbers with a density"""
    classes: tuple[str, ...] = ()
    """names of the classes; empty: no condition"""
    content: str = ""
    """hash of the data"""
    as_given: bool = False
    """whether a user's objective gets the tensors as they were given"""
    test: HeldOut = 0.1
    """share of the rows that is held out"""
    _held: Held | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory) and self.model_dump() == other.model_dump()

    @property
    def held(self) -> Held | None:
        """The data, or None in a copy that was made from the settings."""
        return HELD.get(self.content)

    def known(self) -> Space | None:
        return Space(self.shape, self.levels, cond=self._cond) if self.content else None

    @property
    def _cond(self) -> Classes | None:
        return Classes(self.classes) if self.classes else None

    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        held = self.held
        if held is None:
            raise ValueError(
                "data given from Python are not kept with the run: give them again, as in run.evaluate(data=x), or in "
                "jensen.train(..., data=x, resume=True)"
            )
        n = len(held.rows)
        test = held_out_rows(n, self.test)
        train, rest = parted(held.rows.tensors, test, self.test)
        space, points = Space(self.shape, self.levels, cond=self._cond, rows=len(train)), len(self.shape) == 1
        if points and not self.as_given:
            for k, column in enumerate(train.tensors["x"].double().T.numpy(), 1):
                refuse_imprecise(f"column {k} of the data", column)
        what = f"{n:,} " + ("examples" if self.as_given else "points" if points else "pictures")
        stream = held.stream
        return Data(
            f"{what} given from Python",
            fingerprint(self),
            space if self.as_given else spaced(space, train, by_column=points),
            train,
            rest,
            streams=None if stream is None else lambda _batch_size, _seed: stream,
            notes=(
                f"{what} of shape {self.shape}; {len(rest):,} are held out",
                *held.notes,
                *untrained(self._cond, train.tensors.get("cond")),
            ),
        )


def memory(data: Any, *, as_given: bool = False) -> Memory:
    """The source of data in memory, which holds them; copies that are made from its settings do not.

    Args:
        data: an array or tensor of points (N, D) or of pictures (N, H, W), (N, H, W, C) or (N, C, H, W); a mapping
            {"x": ..., "cond": classes (N,)} or a pair (x, classes);
            a torch Dataset of such examples or of pairs (x, class); a DataLoader,
            whose dataset is taken; a sequence of batches; or a stream: an endless iterator of batches, or a function
            that opens one at batch n.
        as_given: for a user's objective: any names of tensors, any shapes, and no change of scale, except that bytes
            become numbers in [-1, 1].

    Raises:
        ValueError: for data that are not numbers, not finite, or off the scale; labels out of range; unknown names.

    >>> source = memory({"x": np.full((50, 8, 8), 7, np.uint8), "cond": np.arange(50) % 2})
    >>> source.shape, source.levels, source.classes
    ((1, 8, 8), 256, ('0', '1'))
    """
    notes: tuple[str, ...] = ()
    names: Sequence[str] = ()
    stream: Stream | None = None
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        notes = ("only the dataset of the DataLoader is used: order and batch size are those of the recipe",)
        data = data.dataset
    if isinstance(data, tuple | list) and len(data) == 2 and np.ndim(data[0]) > np.ndim(data[1]) == 1:
        data = dict(zip(KEYS, data, strict=True))  # batches would have equally many axes
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        names = tuple(map(str, getattr(data, "classes", ())))
        tensors = _joined([_named(data[k]) for k in range(len(data))], torch.stack)
    elif isinstance(data, Tensor | np.ndarray | Mapping):
        tensors = {name: v if name == "cond" else numbers(name, v) for name, v in _named(data).items()}
    elif isinstance(data, list | tuple):
        tensors = _joined([_named(batch) for batch in data], torch.cat)
    elif callable(data) and not isinstance(data, type | nn.Module) and not takes(data):
        raise ValueError("a stream that is a function must take one argument, the number of its first batch")
    elif (callable(data) or isinstance(data, Iterable)) and not isinstance(
        data, type | nn.Module | str | bytes | IOBase
    ):
        first, stream = _begun(data)
        tensors = _joined(first, torch.cat)
        notes = (
            f"the first {len(first)} batches of the stream are kept for judging; the batch size is that of the stream",
        )
    else:
        raise ValueError(
            "data must be a path, an array, a tensor, a mapping of them, a Dataset, a DataLoader or a stream of "
            f"batches, got {type(data).__name__}"
        )
    source, tensors = _raw(tensors) if as_given else _made(tensors, names, whole=stream is None)
    if stream is not None:
        stream = mapped(stream, lambda batch: _like(source, batch, set(tensors)))
    source._held = HELD[source.content] = Held(Tensors(**tensors), stream, notes)
    return source


def numbers(name: str, value: Any) -> Tensor:
    """A tensor on the CPU of finite numbers.

    Raises:
        ValueError: for other values.
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{name} must hold numbers, got {array.dtype}")
        wide = array.dtype.kind == "u" and array.dtype.itemsize > 1  # torch has few functions of these
        value = torch.from_numpy(np.ascontiguousarray(array.astype(np.int64) if wide else array))
    x: Tensor = value.detach().cpu()
    if x.dtype == torch.bool or x.is_complex():
        raise ValueError(f"{name} must hold numbers, got {str(x.dtype).removeprefix('torch.')}")
    if not x.ndim or not x.numel():
        raise ValueError(f"{name} must have at least one row and no empty axis, got shape {tuple(x.shape)}")
    if wrong := (~x.isfinite()).nonzero()[:1, 0].tolist():
        raise ValueError(f"{name} must be finite, got a number that is not in row {wrong[0]}")
    return x


def _made(tensors: dict[str, Any], names: Sequence[str], *, whole: bool) -> tuple[Memory, dict[str, Tensor]]:
    """Data for a family: pictures as bytes or in [-1, 1], points as floats, classes by number."""
    if wrong := [name for name in tensors if name not in KEYS]:
        raise ValueError(f"data must be named x and cond, got {wrong[0]!r}")
    if "x" not in tensors:
        raise ValueError(f"data must hold 'x', got {sorted(tensors)}")
    x, levels = tensors["x"], None
    if x.ndim in (3, 4):
        x, levels = pixels("data", x, whole=whole)
    elif x.ndim != 2 or x.dtype == torch.uint8:
        raise ValueError(
            "data must be points (N, D), or pictures (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"got {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        )
    else:
        x = numbers("x, in 32 bits,", x.float())
    made, classes = {"x": x}, tuple(names)
    if "cond" in tensors:
        made["cond"], classes = _classes(tensors["cond"], len(x), classes)
    return Memory(shape=tuple(x.shape[1:]), levels=levels, classes=classes, content=_hash(made)), made


def _raw(tensors: dict[str, Any]) -> tuple[Memory, dict[str, Tensor]]:
    """Data for a user's objective."""
    made = {name: numbers(name, value) for name, value in tensors.items()}
    shape = made.get("x", next(iter(made.values()))).shape[1:]
    return Memory(shape=tuple(shape), content=_hash(made), as_given=True), made


def _classes(value: Any, rows: int, names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers of the classes, (N, 1), and names of the classes: the given ones, or the labels as text."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.shape != (rows,) or array.dtype.kind not in "biuU":
        raise ValueError(
            f"cond must be a class for each of {rows} examples, as a whole number or a word, got {array.dtype} "
            f"{array.shape}"
        )
    if array.dtype.kind != "U" and (array.min() < 0 or (names and array.max() >= len(names))):
        limit = f"0 to {len(names) - 1}" if names else "0"
        raise ValueError(f"labels must be from {limit}{' upwards' * (not names)}, got {array.min()} to {array.max()}")
    if names and array.dtype.kind != "U":
        return torch.from_numpy(array.astype(np.int64))[:, None], names
    found, index = np.unique(array, return_inverse=True)
    return torch.from_numpy(index.astype(np.int64))[:, None], tuple(map(str, found.tolist()))


def _named(example: Any) -> dict[str, Any]:
    """An example or a batch by name: a mapping, x alone, or (x,) or (x, cond)."""
    if isinstance(example, Mapping):
        return dict(example)
    if isinstance(example, tuple | list) and 1 <= len(example) <= len(KEYS):
        return dict(zip(KEYS, example, strict=False))
    if isinstance(example, tuple | list) and any(isinstance(part, Tensor) for part in example):
        raise ValueError(f"an example must be x, (x, class) or a mapping, got {len(example)} parts")
    return {"x": example}


def _joined(parts: Sequence[dict[str, Any]], join: Callable[[list[Tensor]], Tensor]) -> dict[str, Any]:
    """Joins examples or batches."""
    if not parts:
        raise ValueError("data must have at least one example, got none")
    for part in parts:
        if part.keys() != parts[0].keys():
            raise ValueError(f"every example must hold {sorted(parts[0])}, got {sorted(part)}")
    found: dict[str, Any] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], str):
            found[name] = values
            continue
        tensors = [v if isinstance(v, Tensor) else torch.as_tensor(np.array(v)) for v in values]
        if join is torch.cat and not all(t.ndim for t in tensors):
            raise ValueError(f"a batch must have rows, got a single number as {name}")
        if len({t.shape[join is torch.cat :] for t in tensors}) > 1:
            raise ValueError(f"{name} must have the same shape in every example")
        found[name] = join(tensors) if name == "cond" else numbers(name, join(tensors))
    return found


def _begun(data: Any) -> tuple[list[dict[str, Any]], Stream]:
    """The first batches of a stream, and the stream of those after them."""
    batches: Iterator[Any] = iter(data(0) if callable(data) else data)
    first, rows = [], 0
    for batch in batches:
        first.append(_named(batch))
        if not all(np.ndim(value) for value in first[-1].values()):
            raise ValueError(f"a stream must give batches of rows, got {type(batch).__name__}")
        rows += len(next(iter(first[-1].values())))
        if rows >= KEPT_ASIDE:
            break
    else:
        raise ValueError(
            f"a stream must be endless, got {len(first)} batches with {rows} examples: give them as a list of batches"
        )
    skipped = len(first)
    once = not callable(data) and iter(data) is data

    def passes() -> Iterator[Any]:
        """The batches of a stream that can be read again from its start, repeated without end."""
        while (batch := next(rest := islice(iter(data), skipped, None), None)) is not None:
            yield batch
            yield from rest

    def opened(start: int) -> Iterator[Batch]:
        if callable(data):
            return map(_named, data(skipped + start))
        return map(_named, islice(batches if once else passes(), start, None))

    return first, opened


def _like(source: Memory, batch: Mapping[str, Any], names: set[str]) -> Batch:
    """A batch of a stream, checked to have the form of the first batches."""
    if set(batch) != names:
        raise ValueError(f"every batch must hold {sorted(names)}, got {sorted(batch)}")
    made = {name: numbers(name, value) for name, value in batch.items()}
    if source.as_given:
        return Tensors(**made)[torch.arange(len(next(iter(made.values()))))]
    if len(source.shape) == 3:
        made["x"], _ = pixels("data", made["x"], whole=False)
    if made["x"].shape[1:] != source.shape:
        raise ValueError(f"every batch must hold x of shape {source.shape}, got {tuple(made['x'].shape[1:])}")
    if "cond" in made:
        made["cond"], _ = _classes(made["cond"], len(made["x"]), source.classes)
    return Tensors(**made)[torch.arange(len(made["x"]))]


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and content."""
    found = hashlib.sha256()
    for name, v in sorted(tensors.items()):
        found.update(f"{name} {v.dtype} {tuple(v.shape)}".encode())
        found.update(v.contiguous().numpy().view(np.uint8).data if v.numel() else b"")
    return found.hexdigest()[:16]

"""What a data source is."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from jensen.core.naming import nearest, path_of
from jensen.core.progress import Track, silent
from jensen.core.settings import Kind
from jensen.data.dataset import Data, Reader
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space, Text


def absolute(place: str) -> str:
    """The absolute path, so that a run can be opened from any working directory."""
    return str(path_of(place).absolute())


Place = Annotated[str, AfterValidator(absolute)]
"""A setting that is the path of a file or folder."""
PlaceOrNone = Annotated[str, AfterValidator(lambda place: absolute(place) if place else place)]
"""A `Place`, or "" as long as none is given."""
HeldOut = Annotated[float, Field(gt=0, lt=1)]
"""The share of the data that is held out; an example is held out by the hash of its name, so adding examples changes
nothing."""


@dataclass(frozen=True)
class OpenedRun:
    """A run that a source or judge uses.

    Attributes:
        folder: folder of the run.
        name: name of its recipe.
        family: kind of its family.
        model: averaged, on the CPU.
        space: space of its data.
        source: their source.
        open_data: opens its data.
    """

    folder: Path
    name: str
    family: str
    model: nn.Module
    space: Space
    source: Source
    open_data: Callable[[], Data]


Opener = Callable[[str], OpenedRun]
"""Opens the run in a folder, or raises a ValueError that says what is wrong with it."""


def no_runs(folder: str) -> OpenedRun:
    """An `Opener` that raises a ValueError, for callers that cannot open runs."""
    raise ValueError(f"the run {folder} cannot be opened here")


class Source(Kind, ABC):
    """The settings of a data set. A concrete subclass is registered under its `kind`.

    `open` reads or draws the data; `known` returns the space without opening them.
    """

    what = "data source"
    tabular: ClassVar[bool] = False
    """Whether the data are points; otherwise they are pictures."""

    @classmethod
    def of(cls, path: Path) -> Self | None:  # noqa: ARG003
        """The source of the data at this path, with settings chosen from the data; None if it cannot read them."""
        return None

    @abstractmethod
    def open(self, seed: int, track: Track = silent, runs: Opener = no_runs) -> Data:
        """Read or draw the data, split into training and held-out rows.

        Args:
            seed: random seed of data that are drawn.
            track: shows progress.
            runs: opens other runs that the settings name.

        Raises:
            ValueError: if a file or run is missing or has other data.
        """

    def known(self) -> Space | None:
        """The space as far as the settings determine it (shape, levels, conditions), or None; used for early checks."""
        return None

    def settled(self, space: Space) -> Self:
        """The same source with the settings that it chose when it opened data with this space."""
        return self

    def open_reader(self, runs: Opener = no_runs) -> Reader | None:
        """The reader of these pictures, without opening the data; None if there is none."""
        return None

    def _file(self, what: str) -> str:
        """The setting `path`, or a ValueError if it is not given."""
        path: str = getattr(self, "path", "")
        if not path:
            raise ValueError(f"data.path must be {what}, got none: give it with --data PATH")
        return path


def source(path: Path | str) -> Source:
    """The source of the data at a path, or a built-in one by its kind.

    Raises:
        ValueError: if nothing is there, or no source reads it.
    """
    path = path_of(path, "data")
    for kind in reversed(Source.kinds.values()):  # one's own first
        assert issubclass(kind, Source)
        if path.exists() and (found := kind.of(path)) is not None:
            return found
    built_in = Source.kinds.get(str(path))
    if built_in is not None:
        return Source.parse({"kind": str(path)})
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}{nearest(str(path), Source.kinds)}")
    raise ValueError(
        f"data must be a folder of pictures, a .csv, .tsv, .npy, .npz, .parquet, .tar or IDX file, got {path}"
    )


def hashed(*paths: str | None) -> list[str]:
    """Hashes of the contents of files; None is skipped."""
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths if path is not None]


def parted(tensors: dict[str, Tensor], test: Tensor, share: float) -> tuple[Tensors, Tensors]:
    """Training and held-out rows.

    Args:
        tensors: all rows by name.
        test: which rows are held out, (N,) bool.
        share: the share of held-out rows, for the error message.

    Raises:
        ValueError: if there are fewer than 2 training or held-out rows.
    """
    refuse_few(test, share)
    return tuple(Tensors(**{name: v[which] for name, v in tensors.items()}) for which in (~test, test))  # type: ignore[return-value]


def untrained(cond: Classes | Text | None, rows: Tensor | None) -> tuple[str, ...]:
    """A note that names the classes that no training row has; () if there are none.

    >>> import torch
    >>> untrained(Classes(("cat", "dog", "owl")), torch.tensor([[1], [1]]))
    ('no training example has the class cat, owl: samples of these classes are not learnt',)
    """
    if not isinstance(cond, Classes) or rows is None:
        return ()
    missing = sorted(set(range(cond.size)) - set(rows[:, 0].tolist()))
    named = ", ".join(cond.names[k] for k in missing[:12]) + ", ..." * (len(missing) > 12)
    return (f"no training example has the class {named}: samples of these classes are not learnt",) * bool(missing)


def refuse_few(test: Tensor, share: float) -> None:
    """Raise a ValueError if a split leaves fewer than 2 rows for training or held out."""
    held = int(test.sum())
    if min(held, len(test) - held) < 2:
        raise ValueError(
            f"data.test must leave at least 2 examples to train on and hold out at least 2, got {share:g}, "
            f"which holds out {held} of {len(test)}"
        )


def fingerprint(source: Kind, *content: Any, without: tuple[str, ...] = ()) -> str:
    """A hash of a source's settings and of everything else its data depend on; equal for data that can be compared.

    Args:
        source: its settings are hashed, except those named in `without`.
        content: further JSON values, such as a seed or a hash of files.
    """
    settings = {k: v for k, v in source.model_dump(mode="json").items() if k not in without}
    return hashlib.sha256(json.dumps([settings, *content], sort_keys=True).encode()).hexdigest()[:16]

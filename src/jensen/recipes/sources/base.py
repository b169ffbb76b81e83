"""What a data source is."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from torch import nn

from jensen.core.progress import Track, silent
from jensen.core.settings import Kind
from jensen.data.dataset import Data, Reader
from jensen.data.space import Space


def absolute(place: str) -> str:
    """An absolute path, so that a run can be opened from any working directory; "" is returned as it is."""
    return str(Path(place).absolute()) if place else place


Place = Annotated[str, AfterValidator(absolute)]
"""A setting that is the path of a file or folder."""


@dataclass(frozen=True)
class OpenedRun:
    """A run that a source or judge uses.

    Attributes:
        folder: of the run.
        name: of its recipe.
        family: kind of its family.
        model: averaged, on the CPU.
        space: of its data.
        open_data: opens its data.
    """

    folder: Path
    name: str
    family: str
    model: nn.Module
    space: Space
    open_data: Callable[[], Data]


Opener = Callable[[str], OpenedRun]
"""Opens the run in a folder, or raises a ValueError that says what is wrong with it."""


def no_runs(folder: str) -> OpenedRun:
    """An `Opener` that raises a ValueError, for callers that cannot open runs."""
    raise ValueError(f"the run {folder} cannot be opened here")


class Source(Kind, ABC):
    """The settings of a data set. A concrete subclass is registered under its `kind`.

    `open` reads or draws the data; `known` says what is known without opening them.
    """

    what = "data source"

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

    def open_reader(self, runs: Opener = no_runs) -> Reader | None:
        """The reader of these pictures, without opening the data; None if there is none."""
        return None


def fingerprint(source: Kind, *content: Any, without: tuple[str, ...] = ()) -> str:
    """A hash of a source's settings and of everything else its data depend on; equal for data that can be compared.

    Args:
        source: its settings are hashed, except those named in `without`.
        content: further JSON values, such as a seed or a hash of files.
    """
    settings = {k: v for k, v in source.model_dump(mode="json").items() if k not in without}
    return hashlib.sha256(json.dumps([settings, *content], sort_keys=True).encode()).hexdigest()[:16]

"""Checkpoints as they are read, whether in one file or in shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor

from jensen.training.checkpoint import DamagedFile, checkpoints, unsealed
from jensen.training.distributed import anywhere, processes, rank
from jensen.training.finite import non_finite

T = TypeVar("T")
CONTENT: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("objective", "optimizers", "memory"), dict),
    **dict.fromkeys(("step", "draws", "count"), int),
    **dict.fromkeys(("elapsed", "since"), (int, float)),
    "rng": Tensor,
    "averages": list,
    "processes": list,
}
"""What a checkpoint holds."""


class Saved(dict[str, Any]):
    """The content of a checkpoint, which has been checked. Tensors in shards are on the meta device until `read`.

    Attributes:
        path: the checkpoint.
        rejected: the newer ones, which are damaged.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]):
        super().__init__(content)
        self.path = path
        self.rejected: list[Path] = []

    def read(self, tree: Any, divide: Callable[[Any], Any] = lambda tree: tree) -> Any:
        """A part of the content with the values of its tensors, divided by `divide` among the processes, each of which
        reads its own rows only if the checkpoint is one of shards.

        Raises:
            OSError: if the files cannot be read, in any process.
        """
        if not self.path.is_dir():
            return divide(tree)
        from jensen.training.shards import fill

        return fill(self.path, tree, divide(tree))


def load(folder: Path, say: Callable[[str], None] = lambda _: None, *, together: bool = False) -> Saved | None:
    """The newest checkpoint with the right checksum and content, or None if there is none; `say` is called with a note
    if an older one is used because the newer is damaged.

    If all processes call it `together`, they use the same one, and each checks some of its shards.

    Raises:
        DamagedFile: if there are checkpoints but none can be read.
    """
    paths, damage = checkpoints(folder), ""
    for path in reversed(paths):
        try:
            state = _read(path, together)
        except DamagedFile as error:
            damage = damage or str(error)
            continue
        state.rejected = paths[paths.index(path) + 1 :]
        if damage:
            say(f"{damage}: training goes back to step {state['step']}")
        return state
    if paths:
        raise DamagedFile(f"no checkpoint in {folder} can be read: train again, with another --out ({damage})")
    return None


def _read(path: Path, together: bool) -> Saved:
    """A checkpoint.

    Raises:
        DamagedFile: if it cannot be read, its checksum or its content is wrong, or a number is not finite: in any
            process, if they read it together.
    """
    if path.is_dir():
        from jensen.training.shards import opened, verify

        part = slice(rank(), None, processes()) if together else slice(None)
        _agreed(lambda: verify(path, part), together)
        return _agreed(lambda: Saved(path, _checked(path, opened(path))), together)
    return _agreed(lambda: Saved(path, _checked(path, unsealed(path))), together)


def _agreed(work: Callable[[], T], together: bool) -> T:
    """The result of `work`, unless it fails in some process: then a DamagedFile in all of them."""
    said, result = "", None
    try:
        result = work()
    except (DamagedFile, OSError) as error:
        said = str(error)
    if said := anywhere(said) if together else said:
        raise DamagedFile(said)
    return cast(T, result)


def _checked(path: Path, state: Any) -> dict[str, Any]:
    """The content of a checkpoint, if it has the right form and is finite."""
    if not isinstance(state, dict):
        raise DamagedFile(f"{path} is not a checkpoint: it must hold a mapping, got {type(state).__name__}")
    if wrong := [name for name, kind in CONTENT.items() if not isinstance(state.get(name), kind)]:
        raise DamagedFile(f"{path} is not a checkpoint of this version: {wrong[0]} is missing or of another type")
    if path.is_file() and (place := non_finite(state)):  # shards have been read
        raise DamagedFile(f"{path} is not finite: {place}")
    return state

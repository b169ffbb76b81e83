"""Checkpoints of divided weights: each process writes its own rows, while training goes on.

A checkpoint is a folder: a file of tensors for each process, in safetensors by `torch.distributed.checkpoint`, the
numbers and words in state.json, and SHA256SUMS, which `sha256sum --check` reads. Nothing in it is pickled. Processes on
several machines share the file system.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, HuggingFaceStorageReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.futures import Future

from jensen.training.checkpoint import DamagedFile, checkpoints, discard, part, revision, step_of, sync_folder, tidy
from jensen.training.distributed import PATIENCE, collect, rank
from jensen.training.sharding import changed, is_share, share
from jensen.training.strict_json import dumps, loads

TREE, SUMS, TENSORS = "state.json", "SHA256SUMS", ".safetensors"
LINE = re.compile(r"([0-9a-f]{64})  ([\w-]+\.\w+)")


class Result(Protocol):
    """What is known once all processes have written."""

    def result(self) -> object: ...


class Shards:
    """Writes checkpoints of shards into a folder, one at a time, in the background; every process holds one.

    It has a group of its own, so that its messages do not mix with those of training.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.pending: tuple[_Writer, Result] | None = None

    def save(self, step: int, state: Mapping[str, Any], own: Mapping[str, Any], rejected: Sequence[Path] = ()) -> None:
        """Copy the state to the memory of the CPU, and begin to write it; the copy before must be on disk first.

        Args:
            step: the training step.
            state: what all processes share, some of it divided among them; of the rest the first process's is kept.
            own: what only this process has.
            rejected: damaged checkpoints, see `tidy`.

        Raises:
            OSError: as `wait`, for the last checkpoint.
            ValueError: if the state holds other values than tensors, numbers, words, mappings and lists.
        """
        self.wait()
        tensors: dict[str, Tensor] = {}
        tree = _parted(state, "state", tensors)
        every = collect(_parted(own, f"processes/{rank()}", tensors))
        writer = _Writer(self.folder, step, dumps({"state": tree, "processes": every}), rejected)
        future = dcp.async_save(
            dict(_apart(tensors)),
            storage_writer=writer,
            planner=DefaultSavePlanner(flatten_state_dict=False, dedup_save_to_lowest_rank=True),
            process_group=self.group,
        )
        self.pending = writer, cast(Result, future)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: if it could not be written, in any process; the older checkpoints are kept.
        """
        if self.pending is None:
            return
        (writer, future), self.pending = self.pending, None
        try:
            future.result()
        except CheckpointException as error:
            first = _first(error)
            if isinstance(first, OSError):
                first = OSError(first.errno, first.strerror, str(self.folder / f"{writer.step:09d}"))
            raise first from error
        finally:
            writer.clean()

    def close(self) -> None:
        """Wait for the last checkpoint, and leave the group; what fails here is not said, since training has ended."""
        with suppress(Exception):
            self.wait()
        dist.destroy_process_group(self.group)


class _Writer(HuggingFaceStorageWriter):
    """Writes a new folder under a temporary name; the first process renames it once all shards are on disk."""

    def __init__(self, folder: Path, step: int, tree: str, rejected: Sequence[Path]):
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.step, self.tree, self.rejected = folder, step, tree, rejected
        self.made: Path | None = None
        self.lock = -1

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the folder, in the first process, and tell the others its name."""
        made = part(self.folder)
        made.mkdir()
        self.made, self.lock = made, os.open(made, os.O_RDONLY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        planned = super().prepare_global_plan(plans)
        return [replace(plan, storage_data={**plan.storage_data, "folder": str(made)}) for plan in planned]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[Any]]:
        """Write this process's tensors; returns the checksum of each file, by its name."""
        self.path = Path(plan.storage_data["folder"])
        written = super().write_data(plan, planner).wait()
        names = sorted({result.storage_data.relative_path for result in written})
        sums: Future[list[Any]] = Future()
        sums.set_result([(name, _sum(self.path / name)) for name in names])
        return sums

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Write what is not a tensor and the checksums; then the folder gets its name, and old ones are removed."""
        assert self.made is not None
        _write(self.made / TREE, self.tree)
        sums = [pair for result in results for pair in result] + [(TREE, _sum(self.made / TREE))]
        _write(self.made / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums))
        sync_folder(self.made)
        before = [revision(path) for path in checkpoints(self.folder) if step_of(path) == self.step and path.is_dir()]
        path = self.folder / (f"{self.step:09d}" + f"-{max(before, default=0) + 1}" * bool(before))
        self.made.rename(path)
        sync_folder(self.folder)
        tidy(self.folder, path, self.rejected)

    def clean(self) -> None:
        """Remove what a failure left."""
        if self.made is not None:
            with suppress(OSError):
                discard(self.made)
            os.close(self.lock)
            self.made = None


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parted(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree without its tensors, which go to `tensors`; the keys of mappings need not be words."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach()
        return {"tensor": name, "shape": list(tree.shape)}
    if isinstance(tree, Mapping):
        return {"items": [[key, _parted(value, f"{name}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_parted(value, f"{name}/{k}", tensors) for k, value in enumerate(tree)]
    if tree is not None and not isinstance(tree, int | float | str):
        kind = type(tree).__name__
        raise ValueError(f"training.sharding must be replicated for a state with a {kind}: {name} must be a tensor")
    return tree


def _joined(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree with its tensors."""
    if isinstance(tree, dict):
        if "tensor" in tree:
            found = tensors[tree["tensor"]]
            if list(found.shape) != tree["shape"]:
                raise ValueError(f"rows of {tree['tensor']} are missing")
            return found
        return {key: _joined(value, tensors) for key, value in tree["items"]}
    return [_joined(value, tensors) for value in tree] if isinstance(tree, list) else tree


def _apart(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, contiguous, none in the memory of another, as safetensors needs it: tied weights are copied."""
    seen = set[int]()
    for name, x in tensors.items():
        place = share(x).data_ptr()
        yield name, (x.clone() if place in seen else x).contiguous()
        seen |= {place} if place else set()


def verify(path: Path, which: slice) -> None:
    """Check some of the files of a checkpoint: those at these places in the order of their names.

    Raises:
        DamagedFile: if one is missing, unknown, or has a wrong checksum, or a number that is not finite.
    """
    sums = _sums(path)
    for name in sorted(sums)[which]:
        if not (path / name).is_file() or _sum(path / name) != sums[name]:
            raise DamagedFile(f"{path / name} is damaged: its checksum is wrong")
        if name.endswith(TENSORS):
            with _tensors(path / name) as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    if not bool(file.get_tensor(key).isfinite().all()):
                        raise DamagedFile(f"{path} is not finite: {key}")


def _tensors(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except Exception as error:  # safetensors raises many kinds
        raise DamagedFile(f"{path.parent} is not a checkpoint") from error


def _sums(path: Path) -> dict[str, str]:
    """The checksum of each file, by name."""
    text = (path / SUMS).read_text(encoding="ascii", errors="replace") if (path / SUMS).is_file() else ""
    found = [LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    sums = {line[2]: line[1] for line in found if line is not None}
    there = {file.name for file in path.iterdir() if file.name.endswith(TENSORS)}
    if len(sums) < len(found) or not text.endswith("\n") or not there | {TREE} == set(sums):
        raise DamagedFile(f"{path / SUMS} is damaged: it must list the files of the checkpoint")
    return sums


def opened(path: Path) -> Any:
    """The content of a checkpoint, with tensors on the meta device.

    Raises:
        DamagedFile: if it is of another form, or rows of a tensor are missing.
    """
    try:
        stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
        tensors = {key: _stored(key, about) for key, about in stored.items()}
        content = loads((path / TREE).read_text(encoding="utf-8"))
        return {**_joined(content["state"], tensors), "processes": _joined(content["processes"], tensors)}
    except Exception as error:  # of torch, safetensors and json
        raise DamagedFile(f"{path} is not a checkpoint") from error


class Stored(Tensor):
    """A tensor on the meta device that stands for one in the files of a checkpoint.

    Attributes:
        key: its name there.
    """

    key: str


def _stored(key: str, about: Any) -> Stored:
    """A tensor of the files, if they hold each of its rows once."""
    end, size = 0, tuple(about.size)
    for shard in sorted(about.chunks, key=lambda shard: tuple(shard.offsets)) if size else ():
        if 0 in shard.sizes:
            continue
        if tuple(shard.offsets) != (end, *(0 for _ in size[1:])) or tuple(shard.sizes)[1:] != size[1:]:
            raise ValueError(f"rows of {key} are missing")
        end += shard.sizes[0]
    found = torch.empty(size, dtype=about.properties.dtype, device="meta").as_subclass(Stored)
    found.key = key
    return found


def fill(path: Path, stored: Any, targets: Any) -> Any:
    """The targets with the values of the stored tensors; each process reads the rows that its targets hold.

    Args:
        path: the checkpoint.
        stored: a part of what `opened` returned.
        targets: the same containers, with tensors that are divided, or stored ones: these become whole.

    Raises:
        OSError: if a file cannot be read, in any process.
    """
    targets = changed(targets, lambda x: torch.empty(x.shape, dtype=x.dtype) if isinstance(x, Stored) else x)
    wanted = list(_pairs(stored, targets))
    assert len(dict(wanted)) == len(wanted)  # of two targets for one name, one would stay empty
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)  # whole tensors need no group
        try:
            dcp.load(
                dict(wanted),
                storage_reader=HuggingFaceStorageReader(str(path)),
                planner=DefaultLoadPlanner(flatten_state_dict=False),
                no_dist=not any(is_share(target) for _, target in wanted),
            )
        except CheckpointException as error:
            raise _first(error) from error
    return targets


def _pairs(stored: Any, targets: Any) -> Iterator[tuple[str, Any]]:
    """Each tensor's name in the files, and its target."""
    if isinstance(stored, Stored):
        yield stored.key, targets
    elif isinstance(stored, Mapping):
        for key, value in stored.items():
            yield from _pairs(value, targets[key])
    elif isinstance(stored, list):
        for value, target in zip(stored, targets, strict=True):
            yield from _pairs(value, target)


def _first(error: CheckpointException) -> BaseException:
    """The error of the first process that failed."""
    return next(iter(error.failures.values()))[0]

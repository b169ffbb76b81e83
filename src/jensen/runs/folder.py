"""The files in a run's folder, and errors in them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jensen.shipped import CONFIG, said
from jensen.training import checkpoint as checkpoints
from jensen.training.checkpoint import PART, DamagedFile, replacing, sweep, unwritable, weights_step
from jensen.training.ema import misfit
from jensen.training.saved import load

WEIGHTS = "model.safetensors"
EVALUATION, REPORT = "evaluation.json", "report.html"
STATE, SAMPLES, AVERAGES, JOURNAL = "state", "samples", "averages", "journal.jsonl"
BOARD, LOCK = "tensorboard", ".lock"
LAUNCH = ".launch"  # the name of the launch by torchrun that began the run
# what a run may hold before its first checkpoint
UNTRAINED = {CONFIG, STATE, SAMPLES, AVERAGES, JOURNAL, BOARD, LAUNCH}


class RunError(ValueError):
    """A run folder is missing, broken or already in use."""


def command(*words: object) -> str:
    """A `jensen` command line, with words quoted for the shell if necessary.

    >>> command("sample", Path("runs/two moons"), "-n", 16)
    "jensen sample 'runs/two moons' -n 16"
    """
    return shlex.join(["jensen", *map(str, words)])


def refuse_unwritable(folder: Path) -> None:
    """Raise a RunError if a run cannot be written to a folder, which need not exist; the check leaves no files."""
    for place in (folder, folder / STATE, folder / SAMPLES):
        if why := unwritable(place):
            raise RunError(f"cannot write to {place}: {why}")


def refuse_taken(folder: Path) -> None:
    """Check whether a new run can be made in this folder; the check leaves no files.

    A run that ended before its first checkpoint is replaced.

    Raises:
        RunError: if the folder contains a trained run or other files, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder: give another --out")
    names = {p.name for p in folder.iterdir() if not _passing(p)} if folder.exists() else set()
    if CONFIG in names and (names - UNTRAINED or checkpoints.checkpoints(folder / STATE)):
        raise RunError(f"{folder} already contains a run: give --resume to continue it, or another --out")
    if CONFIG not in names and names:
        raise RunError(f"{folder} is not empty: give another --out")
    refuse_unwritable(folder)


def clear(folder: Path) -> None:
    """Remove all files of a run but the lock; config.json goes last, because it makes the folder a run."""
    for path in sorted(folder.iterdir(), key=lambda p: p.name == CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _passing(path: Path) -> bool:
    """Whether a file is there only while a process writes, or was left by one that was killed."""
    return path.name == LOCK or PART.fullmatch(path.name) is not None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that train in it, and remove what killed ones left partly written.

    The lock is released when the process ends, however it ends.

    Raises:
        RunError: if another process holds it.
    """
    path = folder / LOCK
    handle = _locked(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        for place in (folder, folder / STATE, folder / SAMPLES, folder / AVERAGES):
            sweep(place)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RunError(f"{path} is not a file")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = os.read(handle, 20).decode(errors="replace")
            os.close(handle)
            raise RunError(f"{path.parent} is in use by process {by}: wait for it, or give another --out") from None
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)  # the process that held it has removed it


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a run's averaged weights into `model`.

    Raises:
        RunError: if there are none yet, they are damaged, they do not match the model, or one is not finite.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunError(f"{folder} has no {WEIGHTS} yet: finish training with --resume")
    model.load_state_dict(read_weights(model, path))


def start_from(model: nn.Module, folder: Path) -> str:
    """Load the averaged weights of another run into `model`, whose other entries stay as they are, and say so.

    Raises:
        RunError: if there are none yet, they are damaged, one is not finite, or does not match an entry of the model.
    """
    path, state = folder / WEIGHTS, model.state_dict()
    if not path.is_file():
        raise RunError(f"training.start must be a trained run, and {said(folder)} has no {WEIGHTS}")
    weights = _read_finite(path)
    if place := misfit({name: value for name, value in state.items() if name in weights}, weights):
        raise RunError(f"training.start must be a run of a model with the same layers, and in {said(folder)} {place}")
    model.load_state_dict(weights, strict=False)
    digest, new = hashlib.sha256(path.read_bytes()).hexdigest(), [name for name in state if name not in weights]
    more = f"; new: {', '.join(new)}" if new else ""
    return f"starts from {folder.name}, weights with sha256 {digest}{more}"


def read_weights(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Weights from a file.

    Raises:
        RunError: if the file cannot be read, its weights do not match the model, or one is not finite.
    """
    weights = _read_finite(path)
    refuse_misfit(model, weights, path)
    return weights


def _read_finite(path: Path) -> dict[str, Tensor]:
    try:
        weights = checkpoints.load_weights(path)
    except (DamagedFile, OSError) as error:
        raise RunError(f"{error}{_remedy(path)}") from error
    if wrong := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise RunError(f"{path} has weights that are not finite: {wrong[0]}")
    return weights


def _remedy(path: Path) -> str:
    """How a run's damaged weights can be had again, if there is a checkpoint."""
    try:
        again = path.name == WEIGHTS and load(path.parent / STATE) is not None
    except DamagedFile:
        return ""
    return "; --resume writes it again" if again else ""


def refuse_misfit(module: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Raise a RunError that names the first entry in which weights and module differ, with both shapes."""
    if place := misfit(module.state_dict(), weights):
        raise RunError(f"{path} has weights of another model than that of {CONFIG}: {place}")


def export(folder: Path, path: Path, model: nn.Module | None = None) -> None:
    """Copy a run's settings and averaged weights, or those of a model, to a new folder.

    Raises:
        RunError: if the new folder is not empty, or cannot be written.
    """
    refuse_taken(path)
    path.mkdir(parents=True, exist_ok=True)
    with alone(path):
        clear(path)
        if model is not None:
            checkpoints.save_weights(model.state_dict(), path / WEIGHTS, weights_step(folder / WEIGHTS))
        for name in (WEIGHTS, CONFIG)[model is not None :]:  # last what makes it a run
            data = (folder / name).read_bytes()
            with replacing(path / name) as file:
                file.write(data)


def load_game(objective: nn.Module, folder: Path, say: Callable[[str], None]) -> int:
    """Load a run's newest checkpoint into `objective`, with the critics and all other state; returns its step.

    `say` is called with a note if the newest checkpoint is damaged and an older one is used.

    Raises:
        RunError: if there is no checkpoint, or it does not match.
    """
    saved = load(folder / STATE, say)
    if saved is None:
        raise RunError(f"{folder} has no checkpoint in state/, which is needed for the critic")
    refuse_misfit(objective, saved["objective"], folder / STATE)
    objective.load_state_dict(saved.read(saved["objective"]))
    step: int = saved["step"]
    return step


def behind(folder: Path) -> tuple[str, ...]:
    """A note if training continued after a run's weights were written and was interrupted."""
    path, newest = folder / WEIGHTS, checkpoints.checkpoints(folder / STATE)[-1:]
    written, until = weights_step(path), max(map(checkpoints.step_of, newest), default=0)
    if written is None or until <= written:
        return ()
    return (f"{path} is from step {written}, but training was stopped at step {until}: finish it with --resume",)

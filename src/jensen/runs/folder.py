"""The files in a run's folder, and errors in them."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from jensen.training import checkpoint as checkpoints
from jensen.training.checkpoint import unwritable, weights_step

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EVALUATION, REPORT = "evaluation.json", "report.html"


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
    for place in (folder, folder / "state", folder / "samples"):
        if why := unwritable(place):
            raise RunError(f"cannot write to {place}: {why}")


def refuse_taken(folder: Path) -> None:
    """Check whether a new run can be made in this folder; the check leaves no files.

    Raises:
        RunError: if the folder contains a run or other files, or cannot be written.
    """
    if (folder / CONFIG).exists():
        raise RunError(f"{folder} already contains a run: give --resume to continue it, or another --out")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder: give another --out")
    if folder.exists() and any(p.suffix != ".part" for p in folder.iterdir()):
        raise RunError(f"{folder} is not empty: give another --out")
    refuse_unwritable(folder)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a run's averaged weights into `model`.

    Raises:
        RunError: if there are none yet, they do not match the model, or one is not finite.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunError(f"{folder} has no {WEIGHTS} yet: finish training with --resume")
    model.load_state_dict(read_weights(model, path))


def read_weights(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Weights from a file.

    Raises:
        RunError: if the file cannot be read, its weights do not match the model, or one is not finite.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is broken: {' '.join(str(error).split())}") from error
    refuse_misfit(model, weights, path)
    if wrong := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise RunError(f"{path} has weights that are not finite: {wrong[0]}")
    return weights


def refuse_misfit(module: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Raise a RunError that names the first entry in which weights and module differ, with both shapes."""
    own = module.state_dict()
    for name in dict.fromkeys([*own, *weights]):
        there, here = (_shape(state[name]) if name in state else "missing" for state in (weights, own))
        if there != here:
            raise RunError(
                f"{path} has weights of another model than that of {CONFIG}: {name} must be {here}, got {there}"
            )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def export(folder: Path, path: Path, model: nn.Module | None = None) -> None:
    """Copy a run's settings and averaged weights, or those of a model, to a new folder.

    Raises:
        RunError: if the new folder is not empty, or cannot be written.
    """
    refuse_taken(path)
    path.mkdir(parents=True, exist_ok=True)
    if model is not None:
        checkpoints.save_weights(model.state_dict(), path / WEIGHTS, weights_step(folder / WEIGHTS))
    for name in (WEIGHTS, CONFIG)[model is not None :]:  # last what makes it a run
        with checkpoints.replacing(path / name) as temporary:
            shutil.copyfile(folder / name, temporary)


def load_game(objective: nn.Module, folder: Path) -> int:
    """Load a run's newest checkpoint into `objective`, with the critics and all other state; returns its step.

    Raises:
        RunError: if there is no checkpoint, or it does not match.
    """
    saved = checkpoints.load(folder / "state")
    if saved is None:
        raise RunError(f"{folder} has no checkpoint in state/, which is needed for the critic")
    refuse_misfit(objective, saved["objective"], folder / "state")
    objective.load_state_dict(saved["objective"])
    step: int = saved["step"]
    return step


def behind(folder: Path) -> tuple[str, ...]:
    """A note if training continued after a run's weights were written and was interrupted."""
    path, newest = folder / WEIGHTS, checkpoints.checkpoints(folder / "state")[-1:]
    written, until = weights_step(path), max((int(p.stem) for p in newest), default=0)
    if written is None or until <= written:
        return ()
    return (f"{path} is from step {written}, but training was stopped at step {until}: finish it with --resume",)

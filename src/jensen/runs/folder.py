"""The files in a run's folder, and reading them with clear error messages."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from jensen.report.gallery import encoded
from jensen.training import checkpoint as checkpoints
from jensen.training.checkpoint import replacing

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EVALUATION, REPORT = "evaluation.json", "report.html"


class RunError(ValueError):
    """An error of a run folder that is missing, broken, or already in use."""


def command(*words: object) -> str:
    """A `jensen` command line, with words quoted for the shell where necessary.

    >>> command("sample", Path("runs/two moons"), "-n", 16)
    "jensen sample 'runs/two moons' -n 16"
    """
    return shlex.join(["jensen", *map(str, words)])


def read_tree(folder: Path) -> dict[str, Any]:
    """The configuration of a run as plain values.

    Raises:
        RunError: if the folder is not a run, or its configuration is not a JSON object.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    if not path.is_file():
        raise RunError(f"{folder} is not a run: it has no {CONFIG}")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is broken: {error}") from error
    if not isinstance(tree, dict):
        raise RunError(f"{path} is broken: a configuration must be a mapping of keys to values")
    return tree


def refuse_unwritable(folder: Path) -> None:
    """Raise a RunError if a run cannot be written to a folder, which need not exist; the check leaves no files."""
    for place in (folder, folder / "state", folder / "samples"):
        above = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        if not above.is_dir():
            raise RunError(f"cannot write to {place}: {above} is not a folder")
        try:
            with tempfile.TemporaryFile(dir=above):
                pass
        except OSError as error:
            raise RunError(f"cannot write to {place}: {error.strerror}") from error


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
        RunError: if there are none yet, they do not fit, or one is not finite.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunError(f"{folder} has no {WEIGHTS} yet: finish training with --resume")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is broken: {' '.join(str(error).split())}") from error
    refuse_misfit(model, weights, path)
    if wrong := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise RunError(f"{path} has weights that are not finite: {wrong[0]}")
    model.load_state_dict(weights)


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


def load_game(objective: nn.Module, folder: Path) -> int:
    """Load the state of a run's newest checkpoint into `objective`: also what the averaged weights do not contain.

    Returns: the step at which it was written.

    Raises:
        RunError: if there is none, or it does not fit.
    """
    saved = checkpoints.load(folder / "state")
    if saved is None:
        raise RunError(f"{folder} has no checkpoint in state/, which is needed for the critic")
    refuse_misfit(objective, saved["objective"], folder / "state")
    objective.load_state_dict(saved["objective"])
    step: int = saved["step"]
    return step


def save_weights(weights: Mapping[str, Tensor], path: Path, step: int | None = None) -> None:
    """Write weights and their training step atomically.

    Tied weights are stored under each of their names, as `load_state_dict` needs.
    """
    whole = {name: v.detach().cpu().contiguous().clone() for name, v in weights.items()}  # safetensors shares none
    with replacing(path) as temporary:
        temporary.write_bytes(save(whole, None if step is None else {"step": str(step)}))


def weights_step(folder: Path) -> int | None:
    """The training step of a run's weights, or None if the file does not contain it."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            said: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return int(said["step"]) if "step" in said else None


def behind(folder: Path) -> tuple[str, ...]:
    """A note if training continued after a run's weights were written and was interrupted."""
    written, newest = weights_step(folder), checkpoints.checkpoints(folder / "state")[-1:]
    if written is None or not newest or int(newest[0].stem) <= written:
        return ()
    until = int(newest[0].stem)
    return (
        f"{folder / WEIGHTS} is of step {written}, but training was stopped at step {until}: finish it with --resume",
    )


def save_image(image: Image.Image | Sequence[Image.Image], path: Path) -> None:
    """Write a picture as a PNG, or frames as a GIF, atomically; the path has this suffix or none."""
    suffix, data = encoded(image)
    with replacing(path.with_suffix(suffix)) as temporary:
        temporary.write_bytes(data)

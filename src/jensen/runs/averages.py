"""Snapshots of power-function averages in a run's folder, and averages of other widths reconstructed from them."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from jensen.recipes.recipe import Recipe
from jensen.runs.folder import AVERAGES, WEIGHTS, RunError, read_weights
from jensen.training import Profile, TrainState, reconstruct, reconstruction
from jensen.training.checkpoint import numbered, save_weights, weights_step
from jensen.training.distributed import rank
from jensen.training.sharding import whole

SNAPSHOT = re.compile(r"([0-9]{9,})-[0-9.e-]+\.safetensors")
MOST = 0.1  # largest relative error of a reconstructed profile


def write_snapshot(folder: Path, state: TrainState, widths: tuple[float, ...]) -> None:
    """Write the power-function averages of this step; without widths there are none. All processes call it."""
    for width, average in zip(widths, state.averages, strict=False):
        path, weights = _path(folder, state.step, width), whole(average.state_dict())
        if rank() == 0:
            path.parent.mkdir(exist_ok=True)
            save_weights(weights, path, state.step)


def remove_snapshots(folder: Path, after: int) -> None:
    """Remove the snapshots after a step, which a resumed run makes again."""
    for step, path in numbered(folder / AVERAGES, SNAPSHOT):
        if step > after:
            path.unlink()


def load_width(model: nn.Module, folder: Path, recipe: Recipe, width: float) -> float:
    """Set a model to the run's average of any relative width; returns the relative error of its profile.

    Raises:
        RunError: if the run has no power-function averages, or its snapshots do not give this width.
    """
    widths = recipe.training.widths
    if not widths:
        raise RunError(f"{folder} has an exponential average, of one width: train with training.average=[0.05,0.1]")
    until = weights_step(folder / WEIGHTS)
    if until is None:
        raise RunError(f"{folder} has no {WEIGHTS} yet: finish training with --resume")
    steps = sorted({step for step, _ in numbered(folder / AVERAGES, SNAPSHOT)})
    stored = [(step, stored) for step in steps if step <= until for stored in widths]
    if not stored:
        raise RunError(f"{folder} has no averages/: only the run's own weights are left")
    wanted = Profile.of(width, until)
    coefficients, error = reconstruction([Profile.of(own, step) for step, own in stored], wanted)
    if error > MOST:
        kept = f"{len(stored) // 2} snapshots of {widths[0]:g} and {widths[1]:g}"
        raise RunError(f"width must be one that {kept} give within {MOST:.0%}, got {width:g} ({error:.0%})")
    reconstruct(model, (read_weights(model, _path(folder, *each)) for each in stored), coefficients)
    return error


def _path(folder: Path, step: int, width: float) -> Path:
    return folder / AVERAGES / f"{step:09d}-{width:g}.safetensors"

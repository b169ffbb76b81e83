"""Make a trained run part of jensen: `python -m jensen.runs.ship RUN`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from jensen.core.naming import path_of
from jensen.runs.folder import CONFIG, EVALUATION, JOURNAL, WEIGHTS
from jensen.runs.opening import open_run
from jensen.shipped import FOLDER
from jensen.training.checkpoint import save_weights, weights_step, write_text
from jensen.training.strict_json import dumps


def ship(folder: Path, place: Path = FOLDER) -> Path:
    """Write a run's averaged weights in half precision, its settings, its journal and its evaluation to `place`/NAME.

    Numbers that half precision does not hold are refused; the file of the weights holds its own sha256.

    Raises:
        ValueError: if a weight is too large. RunError: if the run cannot be opened.
    """
    run = open_run(folder, "cpu")
    weights = {name: v.half() if v.is_floating_point() else v for name, v in run.model.state_dict().items()}
    if large := [name for name, v in weights.items() if not bool(v.isfinite().all())]:
        raise ValueError(f"weights must be at most 65,504 in half precision, got larger ones in {large[0]}")
    shown = place / run.recipe.name
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(parents=True)
    save_weights(weights, shown / WEIGHTS, weights_step(folder / WEIGHTS))
    for name in (JOURNAL, EVALUATION):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, shown / name)
    write_text(shown / CONFIG, dumps(run.recipe.tree(), indent=2) + "\n")
    return shown


if __name__ == "__main__":
    sys.stdout.write(f"{ship(path_of(sys.argv[1]))}\n")

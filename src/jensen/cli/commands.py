"""What each command does, once its words are read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from typer import Abort

from jensen.cli import show
from jensen.cli.files import writable
from jensen.data.pool import refuse_nonfinite
from jensen.recipes import Recipe, RunError, configure, open_run, read_config, running, stability
from jensen.recipes.base import Drawing, Request
from jensen.recipes.folder import CONFIG, behind, command, save_image
from jensen.training import distributed
from jensen.training.checkpoint import write_text

MOST = 100_000  # pictures in one `jensen sample`
MOST_ON_A_SHEET = 512
SCALE = 4  # pixels of a picture's pixel


def train(
    name: str,
    out: Path | None,
    minutes: float | None,
    steps: int | None,
    seed: int | None,
    words: list[str],
    resume: bool,
    judge: bool,
) -> None:
    """`jensen train`."""
    if minutes is not None and steps is not None:
        raise ValueError("give --minutes or --steps, not both")
    budget = [f"training.minutes={minutes}"] * (minutes is not None)
    budget += [f"training.steps={steps}"] * (steps is not None)
    recipe = configure(name, [*words, *budget], seed=seed)
    folder = out if out is not None else Path("runs") / name
    if resume:
        recipe = _resumed(recipe, folder, [*words, *budget, *["seed"] * (seed is not None)])
    distributed.start()
    if distributed.rank() == 0:
        for note in recipe.notes():
            show.line(f"note: {note}")
    try:
        with show.tracking() as track, show.watching() as watch:
            references = running.train(recipe, folder, resume=resume, track=track, watch=watch)
    except KeyboardInterrupt:
        on = f"{command('train', name, '--out', folder, '--resume')} goes on with it"
        raise Abort(on if (folder / CONFIG).exists() else "nothing was trained, and no run is left") from None
    first = distributed.rank() == 0
    distributed.stop()
    if not first:
        return
    show.line(f"trained: {folder}/model.safetensors")
    if judge:
        evaluate(folder, None, references)


def _resumed(asked: Recipe, folder: Path, words: list[str]) -> Recipe:
    """The recipe of the run to go on with, which the words may repeat but not change, save how long it trains."""
    recipe = read_config(folder)
    if recipe.recipe != asked.recipe:
        raise RunError(f"{folder} is a run of {recipe.recipe}, not of {asked.recipe}")
    length = ("training.minutes=", "training.steps=")
    if any(word.startswith(length) for word in words):
        recipe = recipe.lasting(asked.training)
    if all(word.startswith(length) for word in words):
        return recipe
    return asked.lasting(recipe.training)


def evaluate(
    folder: Path, json_file: Path | None, references: Mapping[str, Tensor] | None = None, *, stable: bool = False
) -> None:
    """`jensen evaluate`."""
    read_config(folder)
    if json_file is not None:
        writable(json_file, ".json")
    for note in behind(folder):
        show.note(note)
    with show.tracking() as track:
        recipe, evaluation = running.evaluate(folder, track=track, references=references, stable=stable)
    show.line()
    show.rows(recipe.headline(evaluation) + stability.rows(evaluation.get("stability")))
    if json_file is not None:
        write_text(json_file, (folder / running.EVALUATION).read_text(encoding="utf-8"))
    show.line()
    files = {"look at": folder / "report.html", "numbers": folder / running.EVALUATION}
    hints = [(name, shlex.quote(str(path))) for name, path in files.items() if path.exists()]
    if recipe.example(folder):
        hints.append(("draw", recipe.example(folder)))
    show.rows(hints)


def sample(
    folder: Path,
    texts: list[str],
    n: int | None,
    between: int | None,
    sampler: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    out: Path | None,
    scale: int | None,
) -> None:
    """`jensen sample`."""
    if texts and n is not None:
        raise ValueError("give --text or -n, not both")
    if n is not None and not 1 <= n <= MOST:
        raise ValueError(f"-n must be from 1 to {MOST}, got {n}")
    if between is not None and not 2 <= between <= MOST_ON_A_SHEET:
        raise ValueError(f"--interpolate must be from 2 to {MOST_ON_A_SHEET}, got {between}")
    if scale is not None and not 1 <= scale <= 16:
        raise ValueError(f"--scale must be from 1 to 16, got {scale}")
    recipe, model = open_run(folder)
    asked = {"sampler": sampler, "steps": steps, "guidance": guidance}
    changes = {name: value for name, value in asked.items() if value is not None}
    drawing = recipe.drawing(model, Request(n, tuple(texts), seed, changes, between))
    out = out if out is not None else folder / "samples" / f"sample-{seed}.png"
    if out.suffix == ".png" and drawing.count > MOST_ON_A_SHEET and recipe.what == "pictures":
        raise ValueError(
            f"a sheet takes up to {MOST_ON_A_SHEET} pictures: give a folder, a name without ending, to --out"
        )
    writable(out, *((".png", "") if recipe.what == "pictures" else (".png", ".csv")))
    idle = ("--scale does nothing to the numbers of a .csv",) if scale is not None and out.suffix == ".csv" else ()
    for note in (*behind(folder), *drawing.notes, *idle):
        show.note(note)
    with show.tracking() as track:
        made = drawing.draw(track("drawing", drawing.count))
    refuse_nonfinite(made)
    _write(recipe, drawing, made, out, SCALE if scale is None else scale)
    show.line(f"wrote {out}")
    show.rows(drawing.comment(made))


def _write(recipe: Recipe, drawing: Drawing, made: Tensor, out: Path, scale: int) -> None:
    """Samples as a sheet, as single pictures in a folder, or as lines of numbers."""
    if out.suffix == ".png":
        save_image(recipe.image(made, columns=drawing.columns, scale=scale), out)
    elif out.suffix == ".csv":
        lines = [",".join(f"{value:.6g}" for value in row) for row in made.tolist()]
        write_text(out, "\n".join(lines) + "\n")
    else:
        for k in range(len(made)):
            save_image(recipe.picture(made[k], scale=scale), out / f"{drawing.names(k)}.png")

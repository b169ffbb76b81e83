"""The commands, called with parsed arguments."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer import Abort

from jensen.cli import show
from jensen.cli.faults import full, sentence
from jensen.cli.files import writable
from jensen.core.failure import Failure
from jensen.data.dataset import Data
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.sources.pictures import Pictures
from jensen.recipes.words import on_data
from jensen.report.findings import rows
from jensen.runs.curves import curves as journal_curves
from jensen.runs.curves import write_curves
from jensen.runs.draw import MOST_ON_A_SHEET, drawing
from jensen.runs.evaluate import evaluate as judged
from jensen.runs.evaluate import examples
from jensen.runs.folder import CONFIG, EVALUATION, REPORT, STATE, WEIGHTS, behind, command, refuse_taken
from jensen.runs.opening import Run, asked, open_run, read_config
from jensen.runs.train import train as trained
from jensen.runs.use import use
from jensen.training import distributed
from jensen.training.checkpoint import checkpoints, write_text

MOST = 100_000  # largest number of samples of one `jensen sample`
SCALE = 4  # default factor by which pictures are enlarged


def recipes(name: str | None, data: Path | None, files: list[Path]) -> None:
    """`jensen recipes`; the settings of a family are those for the data, or for a folder of pictures."""
    use(files)
    if name is None:
        show.presets()
    elif name in Family.kinds and name not in PRESETS:
        show.settings(on_data(name, Pictures() if data is None else data), f"--data {data or 'PATH'} ")
    else:
        show.settings(on_data(name, data))


def train(
    name: str,
    data: tuple[Path | None, Path | None],
    out: Path | None,
    options: dict[str, Any],
    words: list[str],
    seed: int | None,
    resume: bool,
    judge: bool,
    files: list[Path],
    apart: Callable[[Callable[[], None]], None],
) -> None:
    """`jensen train`; `data` are the paths of the two sides, `options` are settings by key, None if not given.

    `apart` is called with a check of the folder; if there are to be several processes, it does not return.
    """
    distributed.start()
    use(files)
    given = {key: value for key, value in options.items() if value is not None}
    if {"training.minutes", "training.steps"} <= set(given):
        raise ValueError("give --minutes or --steps, not both")
    words = [*words, *(f"{key}={value}" for key, value in given.items())]
    first, second = data
    recipe, folder = asked(name, out, words, data=first, data_b=second, seed=seed, resume=resume)
    apart(lambda: None if resume else refuse_taken(folder))
    on = f"{command('train', name, '--out', folder, '--resume')} continues it"
    try:
        with show.tracking() as track, show.watching(folder) as watch:
            opened = trained(
                recipe, folder, resume=resume, track=track, watch=watch, say=show.note, begin=show.expected
            )
    except (KeyboardInterrupt, BrokenPipeError) as stopped:
        why = ("standard output was closed",) if isinstance(stopped, BrokenPipeError) else stopped.args
        left = on if (folder / CONFIG).exists() else "nothing was trained; the run was removed"
        raise Abort("; ".join(["stopped", *why, left])) from None
    except OSError as error:
        if not (full(error) and checkpoints(folder / STATE)):
            raise
        raise Failure(f"{sentence(error)}; {on}") from error
    show.line(f"trained: {folder / WEIGHTS}")
    distributed.together()  # the weights have been written
    if judge:
        evaluate(folder, None, data=opened)


def evaluate(
    folder: Path,
    json_file: Path | None,
    *,
    data: Data | None = None,
    stability: bool = False,
    features: str | None = None,
    files: list[Path] | None = None,
) -> None:
    """`jensen evaluate`."""
    distributed.start()
    use(files or [])
    run = open_run(folder)
    if json_file is not None:
        writable(json_file, ".json")
    for note in (*behind(folder), *run.notes, *run.recipe.family.notes(run.space)):
        show.note(note)
    try:
        with show.tracking() as track, distributed.sharing():
            found = judged(run, data=data, track=track, stability=stability, features=features, say=show.note)
    except (KeyboardInterrupt, BrokenPipeError):
        raise Abort(f"stopped while evaluating; {command('evaluate', folder)} evaluates the run") from None
    show.line()
    show.rows(rows(found))
    if json_file is not None and distributed.rank() == 0:
        write_text(json_file, (folder / EVALUATION).read_text(encoding="utf-8"))
    show.line()
    made = {"report": folder / REPORT, "numbers": folder / EVALUATION}
    hints = [(name, shlex.quote(str(path))) for name, path in made.items()]
    show.rows([*hints, *(("samples", line) for line in examples(run)[:-1][:1])])
    distributed.together()


def curves(folder: Path, out: Path | None) -> None:
    """`jensen curves`."""
    read_config(folder)
    out = folder / "curves.csv" if out is None else out
    writable(out, ".csv")
    write_curves(journal_curves(folder), out)
    show.line(f"wrote {out}")


def sample(
    folder: Path,
    texts: list[str],
    n: int | None,
    between: int | None,
    changes: dict[str, Any],
    seed: int,
    tries: int,
    width: float | None,
    out: Path | None,
    scale: int | None,
    files: list[Path],
) -> None:
    """`jensen sample`; `changes` are None if not given."""
    distributed.start()
    use(files)
    if texts and n is not None:
        raise ValueError("give --text or -n, not both")
    if n is not None and not 1 <= n <= MOST:
        raise ValueError(f"-n must be from 1 to {MOST}, got {n}")
    if scale is not None and not 1 <= scale <= 16:
        raise ValueError(f"--scale must be from 1 to 16, got {scale}")
    run = open_run(folder, width=width)
    given = {name: value for name, value in changes.items() if value is not None}
    found = drawing(run, n, texts, seed=seed, interpolate=between, tries=tries, **given)
    if out is None:
        own = run.folder == folder  # otherwise it is part of jensen
        out = folder / "samples" / f"sample-{seed}.png" if own else Path(f"{run.recipe.name}-{seed}.png")
    pictures = run.space.pictures
    if out.suffix == ".png" and found.count > MOST_ON_A_SHEET and pictures:
        raise ValueError(f"a .png must hold at most {MOST_ON_A_SHEET} pictures, got {found.count}: give --out a folder")
    writable(out, *((".png", "") if pictures else (".png", ".csv")))
    idle = ("--scale has no effect on a .csv",) if scale is not None and out.suffix == ".csv" else ()
    for note in (*behind(run.folder), *run.notes, *_reconstructed(run), *found.notes, *idle):
        show.note(note)
    with show.tracking() as track, distributed.sharing():
        made = found.samples(track)
    if distributed.rank() == 0:
        made.save(out, scale=SCALE if scale is None else scale)
    show.line(f"wrote {out}")
    show.rows(found.comment(made.x))
    distributed.together()


def _reconstructed(run: Run) -> tuple[str, ...]:
    """A note on the accuracy of an average that was reconstructed from snapshots."""
    if run.width is None:
        return ()
    return (f"average of width {run.width:g}, reconstructed: its profile is exact within {run.error:.1%}",)

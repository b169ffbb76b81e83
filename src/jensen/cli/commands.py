"""What each command does, once its words are read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jensen.cli import show
from jensen.data.pictures import sheet, to_image
from jensen.models import Diffusion
from jensen.recipes import (
    Captcha,
    Recipe,
    RunError,
    configure,
    draw_free,
    draw_texts,
    open_run,
    read_config,
    running,
)
from jensen.recipes.captcha_drawing import save_image
from jensen.recipes.captcha_reader import read_texts
from jensen.training import distributed
from jensen.training.checkpoint import write_text

MOST = 100_000  # pictures in one `jensen sample`
MOST_ON_A_SHEET = 512


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
        recipe = _resumed(recipe, folder, changed=bool(words or budget or seed is not None))
    distributed.start()
    with show.tracking() as track, show.watching() as watch:
        references = running.train(recipe, folder, resume=resume, track=track, watch=watch)
    first = distributed.rank() == 0
    distributed.stop()
    if not first:
        return
    show.line(f"trained: {folder}/model.safetensors")
    if judge:
        evaluate(folder, None, references)


def _resumed(asked: Recipe, folder: Path, changed: bool) -> Recipe:
    """The recipe of the run to go on with, which the words may repeat but not change."""
    recipe = read_config(folder)
    if recipe.recipe != asked.recipe:
        raise RunError(f"{folder} is a run of {recipe.recipe}, not of {asked.recipe}")
    if changed and recipe != asked:
        raise RunError(f"--resume goes on with the settings of {folder}/config.json: leave the others out")
    return recipe


def evaluate(folder: Path, json_file: Path | None, references: Mapping[str, Tensor] | None = None) -> None:
    """`jensen evaluate`."""
    read_config(folder)
    if json_file is not None:
        _writable(json_file, ".json")
    with show.tracking() as track:
        recipe, evaluation = running.evaluate(folder, track=track, references=references)
    show.line()
    show.rows(recipe.headline(evaluation))
    if json_file is not None:
        write_text(json_file, (folder / running.EVALUATION).read_text(encoding="utf-8"))
    show.line()
    hints = [("look at", f"{folder}/report.html"), ("numbers", f"{folder}/{running.EVALUATION}")]
    if not (folder / "report.html").exists():
        hints = hints[1:]
    if isinstance(recipe, Captcha):
        texts = " ".join(recipe.judged_texts(2))
        hints.append(("draw", f"jensen sample {folder} --text {texts} --seed 5 --out x.png"))
    show.rows(hints)


def sample(
    folder: Path,
    texts: list[str],
    n: int | None,
    sampler: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    out: Path | None,
    scale: int,
) -> None:
    """`jensen sample`."""
    if texts and n is not None:
        raise ValueError("give --text or -n, not both")
    if n is not None and not 1 <= n <= MOST:
        raise ValueError(f"-n must be from 1 to {MOST}, got {n}")
    if not 1 <= scale <= 16:
        raise ValueError(f"--scale must be from 1 to 16, got {scale}")
    recipe, model = open_run(folder)
    if not isinstance(recipe, Captcha) or not isinstance(model, Diffusion):
        raise RunError(f"{folder} is a run of {recipe.recipe}, which draws nothing")
    for text in texts:
        recipe.data.style().check(text)
    asked = {"sampler": sampler, "steps": steps, "guidance": guidance}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    replace(model.sampling, **changes)  # refuses what is out of range
    reader, count = recipe.reader(), len(texts) or n or 16
    out = out if out is not None else folder / "samples" / f"sample-{seed}.png"
    if out.suffix and count > MOST_ON_A_SHEET:
        raise ValueError(
            f"a sheet takes up to {MOST_ON_A_SHEET} pictures: give a folder, a name without ending, to --out"
        )
    _writable(out)
    with show.tracking() as track:
        advance = track("drawing", count)
        if texts:
            made = draw_texts(recipe, model, texts, seed=seed, advance=advance, **changes)
        else:
            made = draw_free(model, count, seed=seed, advance=advance, **changes)
    if out.suffix:
        save_image(sheet(made, _columns(count), scale=scale), out)
    else:
        for k, picture in enumerate(made):
            image = to_image(picture)
            image = image.resize((image.width * scale, image.height * scale), 0)
            name = f"{k:05d}-{texts[k]}.png" if texts and texts[k].isalnum() else f"{k:05d}.png"
            save_image(image, out / name)
    show.line(f"wrote {out}")
    if reader is not None:
        read = recipe.data.style().decode(read_texts(reader, made[:16])[0].numpy())
        names = texts or [f"no text, {k}" for k in range(len(read))]
        show.rows([(name, f"reads {found}") for name, found in zip(names, read, strict=False)])


def _columns(count: int) -> int:
    """Columns of a sheet: one row of up to four pictures, then about half as many columns as rows, at most eight."""
    return count if count <= 4 else min(8, max(4, round((count / 2) ** 0.5)))


def _writable(path: Path, ending: str = ".png") -> None:
    """Refuse, before any work is done, a path that cannot be written; make the folders above it.

    Without an ending it is a folder, for single pictures.
    """
    if path.suffix != ending and (path.suffix or ending != ".png"):
        raise ValueError(f"{path} must end in {ending}" + ", or have no ending and be a folder" * (ending == ".png"))
    if path.suffix and path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    folder = path.parent if path.suffix else path
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir():
        raise ValueError(f"cannot write {path}: {above} is not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error

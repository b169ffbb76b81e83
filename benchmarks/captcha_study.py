"""The CAPTCHA pictures of a run under test: legibility, diversity, memorisation and resistance, as docs/captcha.md.

    .venv/bin/python benchmarks/captcha_study.py captcha-release
    .venv/bin/python benchmarks/captcha_study.py runs/demo --small --out /tmp/docs   # a minute, to try it

RUN is the folder of a run that draws CAPTCHAs from their texts, or the name of one that is part of jensen. What is
drawn and trained is kept in `--kept`: after an interruption the same command goes on. `study/page.md` is the page's
text; every number in it, and every table and picture, comes from the same command. Pictures are also read by tesseract
if it is installed (Debian: tesseract-ocr).
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from typer import Option

from jensen.cli.faults import sentence
from jensen.cli.show import console, tracking
from jensen.core.failure import Failure
from jensen.core.naming import path_of
from jensen.core.protocols import Sampleable
from jensen.data.pool import to_bytes
from jensen.data.workers import cores
from jensen.recipes.sources.captcha import Captcha, TextReader, read_by
from jensen.runs.opening import Run, open_other, open_run
from jensen.shipped import names
from machine import facts
from study import copies, diversity, legibility, resistance
from study.page import Found, write
from study.pictures import SMALL, Sizes, Store, Study, digest, labels, prepared, right, weights_of

T = TypeVar("T")
TRIAL = 32  # pictures that are drawn to learn the pace


def opened(folder: Path) -> Run:
    """The run.

    Raises:
        ValueError: if it does not draw CAPTCHAs from their texts.
    """
    run = open_run(folder, "cpu")
    drawn = isinstance(run.model, Sampleable) and run.recipe.family.conditional(run.space)
    if not isinstance(run.recipe.data, Captcha) or not drawn:
        raise ValueError(f"RUN must draw CAPTCHAs from their texts, got {folder}, a run of {run.recipe.name}")
    return run


def readers(run: Run, reader: str | None, second: str | None) -> tuple[TextReader, TextReader | None]:
    """The filter's reader and the second one.

    Raises:
        ValueError: if there is no first one, or a given one does not read the run's pictures.
    """
    assert isinstance(run.recipe.data, Captcha)
    data, space = run.recipe.data, run.space
    first = data.open_reader(open_other) if reader is None else read_by(open_other(reader), space, "--reader")
    if first is None:
        raise ValueError(f"there is no reader of the pictures of {run.folder}: give --reader, the folder of a run")
    other = data.open_second(open_other) if second is None else read_by(open_other(second), space, "--second")
    return first, other


def public(study: Study) -> bool:
    """Whether the filter's reader is part of jensen."""
    known = (open_run(name).model for name in names() if name.endswith("reader"))
    return weights_of(study.reader.network) in map(weights_of, known)


def say_expected(study: Study) -> None:
    """Print how long the study should take from here, from the pace of a few pictures and of a step."""
    sizes, style, texts = study.sizes, study.style, resistance.unstyled(study.texts)
    trial = labels(style, TRIAL, "test", "trial")
    x, drawing = timed(lambda: study.run.draw(TRIAL, cond=study.texts.encode(trial)))
    kept = right(study.reader, to_bytes(x), study.characters(trial)).double().mean()
    _, painting = timed(lambda: study.painted(range(TRIAL)))
    small = resistance.classical(style)
    x = torch.zeros(sizes.batch, small.channels, small.height, small.width, dtype=torch.uint8)
    characters = torch.zeros(sizes.batch, texts.length, dtype=torch.long)
    _, step = timed(prepared(x, characters, texts, steps=2, batch=sizes.batch, rate=1e-3).step)
    made = sizes.asked + sizes.known + 2 * sizes.same + sizes.shown**2 + resistance.requests(study, float(kept))
    real = sizes.asked + copies.searched(study) + sizes.styles + sizes.classical + 3 * sizes.same + 2 * sizes.known
    steps = sizes.style_steps + sizes.classical_steps + sum(resistance.steps(sizes, n) for n in sizes.attack)
    left = max(0, made - study.store.drawn)
    minutes = (left * drawing / TRIAL + real * painting / TRIAL / cores() + steps * step) / 60
    what = f"{left:,} pictures of the model, {real:,} of the classical drawer, {steps:,} training steps"
    console.print(f"{what}: about {minutes:.0f} minutes, and a few for what is read")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and the seconds that it takes."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def attacked(most: int, usual: tuple[int, ...] = Sizes.attack) -> tuple[int, ...]:
    """Numbers of pictures that the attacker labels, up to the most.

    >>> attacked(4000), attacked(1000)
    ((100, 1000, 4000), (100, 1000))
    """
    return (*(n for n in usual if n < most), most)


def studied(study: Study, command: str, *, trial: bool, out: Path) -> Path:
    """Measure everything and write the page."""
    found = Found(legibility.measure(study), diversity.measure(study), copies.measure(study), resistance.measure(study))
    recipe = study.run.recipe
    about = {
        "command": command,
        "trial": trial,
        "machine": facts(),
        "run": {
            "recipe": recipe.name,
            "length": recipe.training.length(),
            "started": recipe.training.start is not None,
            "weights": weights_of(study.run.model),
        },
        "public": public(study),
    }
    return write(out, study, found, about)


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder or name of a run that draws CAPTCHAs")],
    out: Annotated[Path, Option(help="folder for captcha.md and the folder captcha/")] = Path("docs"),
    reader: Annotated[str | None, Option(help="run of the filter's reader; by default the run's own")] = None,
    second: Annotated[str | None, Option(help="run of the second reader; by default the one of the run's data")] = None,
    small: Annotated[bool, Option("--small", help="tiny sizes, to try the command")] = False,
    labelled: Annotated[int | None, Option(min=1, help="most pictures that the attacker labels [10,000]")] = None,
    kept: Annotated[Path, Option(help="folder for what is drawn and trained")] = Path("runs/captcha-study"),
) -> None:
    """Study the CAPTCHA pictures of a run, and write docs/captcha.md."""
    command = shlex.join(["benchmarks/captcha_study.py", *sys.argv[1:]])
    try:
        with tracking() as track:
            made = opened(path_of(run))
            first, other = readers(made, reader, second)
            key = digest(weights_of(made.model), made.recipe.family, weights_of(first.network))
            sizes = SMALL if small else Sizes()
            sizes = replace(sizes, attack=attacked(labelled or sizes.attack[-1], sizes.attack))
            study = Study(made, first, other, sizes, Store(kept / key), track)
            out.mkdir(parents=True, exist_ok=True)
            kept.mkdir(parents=True, exist_ok=True)
            if other is None:
                console.print("no second reader: it is not measured (--second)")
            if legibility.scanner() is None:
                console.print(f"{legibility.PROGRAM} is not installed: it is not measured")
            say_expected(study)
            began = time.perf_counter()
            page = studied(study, command, trial=small, out=out)
            console.print(f"wrote {page} in {(time.perf_counter() - began) / 60:.0f} minutes")
    except KeyboardInterrupt:
        _end("interrupted: the same command goes on", 130)
    except OSError as error:
        _end(sentence(error), 2)
    except ValueError as error:
        _end(str(error), 2)
    except Failure as error:
        _end(str(error), 1)


def _end(message: str, code: int) -> None:
    typer.echo(f"captcha_study: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)

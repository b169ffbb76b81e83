"""jensen from Python: `jensen.train`, `jensen.open`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jensen.core.progress import Track, Watch, silent
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import Source
from jensen.report.findings import Evaluation
from jensen.report.samples import Samples
from jensen.runs import opening
from jensen.runs import train as training
from jensen.runs import use as using
from jensen.runs.draw import drawing
from jensen.runs.evaluate import evaluate
from jensen.runs.use import Own


class Run(opening.Run):
    """A trained run, opened: `run.sample(16)`, `run.evaluate()["frechet"].value`, `run.model`, `run.recipe`."""

    def sample(
        self,
        n: int | None = None,
        *,
        cond: str | Sequence[str] = (),
        seed: int = 0,
        interpolate: int | None = None,
        track: Track = silent,
        **changes: Any,
    ) -> Samples:
        """Draw samples.

        Args:
            n: number of samples; with a single `cond`, all have that condition.
            cond: names of classes, or texts, one per sample.
            seed: random seed; samples depend only on the model and the seed.
            interpolate: length of each interpolation between two draws of noise; n is then the number of
            interpolations.
            track: shows progress.
            changes: changed sampling settings, if the family has them: sampler=, steps=, guidance=, eta=, mean=.

        Raises:
            ValueError: for a request that the run cannot carry out.
        """
        texts = (cond,) * (1 if n is None else n) if isinstance(cond, str) else tuple(cond)
        if n is not None and texts and n != len(texts):
            raise ValueError(f"n must be the number of conditions, {len(texts)}, or left out, got {n}")
        return drawing(self, n, texts, seed=seed, interpolate=interpolate, **changes).samples(track)

    def evaluate(self, *, track: Track = silent, **options: Any) -> Evaluation:
        """Judge the run and return its findings by key; writes evaluation.json, samples/ and report.html in its folder.

        `options` are passed to `jensen.runs.evaluate.evaluate`.
        """
        return evaluate(self, track=track, **options)


def train(
    recipe: str | Recipe,
    out: Path | str | None = None,
    *,
    data: Source | Path | str | None = None,
    data_b: Source | Path | str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    track: Track = silent,
    watch: Watch | None = None,
    use: Iterable[Own] = (),
) -> Run:
    """Train a recipe, or a family on data of one's own, in a run's folder and open the run.

    Args:
        recipe: name of a recipe or of a family, or your own recipe.
        out: the run's folder; by default runs/NAME, or runs/NAME-DATA for data of one's own.
        data: a folder of pictures, a file of pictures or points, or a source; any recipe takes it.
        data_b: pictures of side b, for family translation.
        steps, minutes: length of training, at most one of the two; by default the recipe's.
        seed: random seed.
        settings: settings by dotted key, as in {"training.rate": 1e-3}; only if the recipe is given by name.
        resume: continue the run in `out`.
        track, watch: show progress.
        use: your own sources, families, judges or recipes, or files that define them.

    Raises:
        ValueError: one sentence, if settings or data cannot be used. RunError: if the folder exists already or cannot
        be written.
    """
    using.use(use)
    if isinstance(recipe, str):
        length = {"training.minutes": minutes, "training.steps": steps}
        given = {**(settings or {}), **{key: value for key, value in length.items() if value is not None}}
        words = [f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in given.items()]
        place = None if out is None else Path(out)
        found, folder = opening.asked(recipe, place, words, data=data, data_b=data_b, seed=seed, resume=resume)
    elif steps is not None or minutes is not None or seed is not None or settings or data is not None:
        raise ValueError(
            "data, steps, minutes, seed and settings can only be given for a recipe by name: set them in the recipe "
            "itself"
        )
    else:
        found, folder = recipe, Path(out) if out is not None else Path("runs") / recipe.name
    training.train(found, folder, resume=resume, track=track, watch=watch)
    return open(folder)


def open(path: Path | str, *, use: Iterable[Own] = (), device: str | None = None) -> Run:  # noqa: A001
    """Open a trained run.

    Args:
        path: the run's folder.
        use: your own sources, families or judges that it needs, or files that define them; opening a run never imports
        code named in its configuration.
        device: device of the model; by default the device of training, or the CPU.

    Raises:
        RunError: if the folder is no run, has no weights yet, or needs a class that is not given.
    """
    using.use(use)
    found = opening.open_run(path, device)
    return Run(found.folder, found.recipe, found.model)

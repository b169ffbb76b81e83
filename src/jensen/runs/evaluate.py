"""Judging a run: calls all judges and writes evaluation.json, pictures and report.html in its folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn

from jensen.core.progress import Track, silent
from jensen.data.dataset import Data
from jensen.judging import JUDGES
from jensen.judging.case import Case, Played, device_of
from jensen.judging.settings import FEATURES
from jensen.recipes.families.own import Own
from jensen.report.findings import Evaluation, Part, sentence
from jensen.report.gallery import save_image
from jensen.report.page import previews, training_curves, write_page
from jensen.runs.draw import drawing
from jensen.runs.folder import (
    EVALUATION,
    REPORT,
    SAMPLES,
    STATE,
    WEIGHTS,
    RunError,
    command,
    load_game,
    refuse_unwritable,
)
from jensen.runs.opening import Run, features_by, open_run
from jensen.runs.train import new_objective
from jensen.shipped import FOLDER
from jensen.training.checkpoint import sweep, weights_step, write_text
from jensen.training.distributed import first
from jensen.training.strict_json import dumps, loads


def case_of(
    run: Run,
    data: Data,
    *,
    track: Track = silent,
    stability: bool = False,
    features: str | Callable[[Tensor], Tensor] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Case:
    """The case of a run, for judges."""
    recipe = run.recipe

    def played() -> Played | None:
        if not (run.folder / STATE).is_dir() or isinstance(recipe.family, Own):  # whose objective is not kept
            return None
        objective = new_objective(recipe, data, track).to(device_of(run.model))
        step = load_game(objective, run.folder, say)
        players = recipe.family.players(objective, recipe.training, recipe.training.budget())
        stream = recipe.family.stream(data, recipe.training.batch_size, recipe.seed)
        return Played(objective, recipe.family.update(), players, step, stream)

    chosen = recipe.judging.features if features is None else features
    return Case(
        model=run.model,
        data=data,
        draw=run.draw,
        conditional=recipe.family.conditional(run.space),
        settings=recipe.judging,
        played=played,
        seed=recipe.seed,
        track=track,
        stability=stability,
        beside=_beside(recipe.judging.beside, run),
        own_features=None if features is None and chosen in FEATURES else features_by(chosen, data),
    )


def evaluate(
    run: Run | Path,
    *,
    data: Data | None = None,
    track: Track = silent,
    stability: bool = False,
    features: str | Callable[[Tensor], Tensor] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Judge a run; writes evaluation.json, samples/ and report.html in its folder.

    Inside `jensen.training.distributed.sharing` every process calls it, and the first one writes: each draws its share
    of the samples, and computes its share of the features, likelihoods, reconstructions and codes.

    Args:
        run: an opened run, or its folder.
        data: the run's data, if they have been opened already.
        track: shows progress.
        stability: whether to compute eigenvalues of the game at the end of training.
        features: what samples and data are compared by, instead of the run's setting: a name, the folder of a reader
            run, or a callable (N, ...) -> (N, d).
        say: called with a note if the newest checkpoint is damaged.

    Raises:
        RunError: if the folder cannot be written, or as in `open_run`.
    """
    run = open_run(run) if isinstance(run, Path) else run
    if run.folder.parent == FOLDER:
        raise RunError(f"{run.recipe.name} is part of jensen and stays as it is: train the recipe to judge a run of it")
    refuse_unwritable(run.folder)
    for place in (run.folder, run.folder / SAMPLES):
        sweep(place)
    data = run.open_data(track) if data is None else data
    case = case_of(run, data, track=track, stability=stability, features=features, say=say)
    _ = case.game  # a checkpoint that does not fit is refused before any work
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the best q of")  # for models without an encoder: a finding says it
        parts = [part for judge in JUDGES.values() if (part := judge(case)) is not None]
    facts = {
        "recipe": run.recipe.name,
        "family": run.recipe.family.kind,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "step": weights_step(run.folder / WEIGHTS),
    }
    found = Evaluation(parts, facts)
    if first():
        _write(run, data, found)
    return found


def _write(run: Run, data: Data, found: Evaluation) -> None:
    """Write evaluation.json, samples/ and report.html in the run's folder."""
    samples = run.folder / SAMPLES
    samples.mkdir(exist_ok=True)
    for picture in (p for part in found.parts for p in part.pictures):
        save_image(picture.image, samples / picture.name)
    write_text(run.folder / EVALUATION, dumps(found.as_dict(), indent=2) + "\n")
    about = run.recipe.about or f"{run.recipe.family.kind} of {data.name}"
    judged = min(len(data.test), run.recipe.judging.rows)
    lead = sentence(f"{about}, judged on {judged:,} held-out examples of {data.name}")
    write_page(run.folder / REPORT, run.folder.resolve().name, lead, [*found.parts, *_about(run)], run.recipe.tree())


def read_evaluation(folder: Path) -> Evaluation | None:
    """The evaluation of a run, or None if it has not been judged.

    Raises:
        RunError: if evaluation.json is broken or from another version.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return None
    try:
        return Evaluation.parse(loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is broken or from another version: write it again with {command('evaluate', folder)}"
        ) from error


def _about(run: Run) -> list[Part]:
    """Parts of the report: training, previews, and useful commands."""
    notes = " ".join(sentence(note) for note in run.recipe.family.notes(run.space))
    curves = training_curves(run.folder, run.recipe.family.curves())
    same = "Samples from the same noise, drawn with the averaged weights."
    return [
        Part("Training", notes, plots=curves),
        Part("Samples during training", same, pictures=previews(run.folder)),
        Part("Commands", code="\n".join(examples(run))),
    ]


def examples(run: Run) -> list[str]:
    """Commands that can be used with this run."""
    space, folder, lines = run.space, run.folder, []
    if hasattr(run.model, "sample") or space.b is not None:
        asked: tuple[object, ...] = ("-n", 16)
        if space.cond is not None and run.recipe.family.conditional(space):
            asked = ("--text", space.cond.example(0), space.cond.example(1))
        lines.append(command("sample", folder, *asked, "--seed", 5, "--out", "x.png"))
    with suppress(ValueError):  # for a model that does not interpolate
        drawing(run, interpolate=11)
        lines.append(command("sample", folder, "--interpolate", 11))
    return [*lines, command("evaluate", folder)]


def _beside(folder: str | None, run: Run) -> tuple[str, nn.Module] | None:
    """The run for comparison, from judging.beside; it has the same family and data of the same shape."""
    if folder is None:
        return None
    other = open_run(Path(folder), "cpu")
    if (other.recipe.family.kind, other.space.shape) != (run.recipe.family.kind, run.space.shape):
        raise ValueError(
            f"judging.beside must be a {run.recipe.family.kind} run of data of shape {run.space.shape}, "
            f"got {folder}, a {other.recipe.family.kind} run of shape {other.space.shape}"
        )
    return Path(folder).name, other.model

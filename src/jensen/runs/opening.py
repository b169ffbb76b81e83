"""Opening a run: its recipe, its averaged model, its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from jensen.core.naming import path_of
from jensen.core.precision import emulated
from jensen.core.progress import Track, silent
from jensen.data.dataset import Data
from jensen.data.space import Space
from jensen.judging.case import Draw, device_of, drawer, together
from jensen.judging.features import Features, features_of, reader_features
from jensen.judging.settings import FEATURES
from jensen.recipes.families.own import Own
from jensen.recipes.recipe import Recipe
from jensen.recipes.sources.base import OpenedRun, Source
from jensen.recipes.words import Start, changed, configure, name_of, on_data, parse
from jensen.runs.averages import load_width
from jensen.runs.folder import CONFIG, RunError, load_weights
from jensen.shipped import located, no_run
from jensen.training import begin_average
from jensen.training.strict_json import parsed


def read_config(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        RunError: if the folder is not a run, or its configuration cannot be read.
    """
    if why := no_run(folder):
        raise RunError(why)
    path = folder / CONFIG
    try:
        return parse(parsed(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is broken: {error}") from error


def asked(
    start: Start,
    folder: Path | None,
    words: Sequence[str] = (),
    *,
    data: Source | Path | str | None = None,
    data_b: Source | Path | str | None = None,
    seed: int | None = None,
    resume: bool = False,
) -> tuple[Recipe, Path]:
    """The recipe to train, and its folder: for a new run, or for the run in this folder with changed settings.

    Args:
        start: name of a preset or a family, or a recipe or a family.
        folder: the run's folder; None: runs/NAME, or runs/NAME-DATA if data are given.
        words: settings as KEY=VALUE.
        data, data_b: the user's data; they need not be given again to resume a run.
        seed: random seed.
        resume: whether the run in the folder is continued.

    Raises:
        RunError: if the run to resume has another recipe or other data. ValueError: for a wrong setting.
    """
    name = name_of(start)
    if folder is None:
        place = data if data is None or isinstance(data, Source) else path_of(data, "data")
        own = "" if place is None else f"-{place.kind if isinstance(place, Source) else place.absolute().stem}"
        folder = Path("runs") / f"{name}{own}"
    if not resume:
        return configure(start, words, data=data, data_b=data_b, seed=seed), folder
    kept = read_config(folder)
    if kept.name != name:
        raise RunError(f"{folder} must be a run of {name}, got a run of {kept.name}")
    if data is not None:
        given = on_data(start, data, data_b).data
        if not _within(given, kept.data):
            raise RunError(f"--resume uses the data of {folder / CONFIG}: leave --data out, or give another --out")
    if isinstance(start, str) or kept.space is None:
        return changed(kept, words, seed=seed), folder
    return configure(start, words, data=kept.data, seed=seed).on(kept.space), folder


def _within(given: Source, kept: Source) -> bool:
    """Whether a source has all settings that are given; the sides of a pair are sources too."""

    def same(key: str) -> bool:
        mine, its = getattr(given, key), getattr(kept, key)
        return _within(mine, its) if isinstance(mine, Source) and isinstance(its, Source) else bool(mine == its)

    return given.kind == kept.kind and all(map(same, given.model_fields_set))


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: the run's folder.
        recipe: its recipe.
        model: its model with averaged weights, in evaluation mode.
        data: its data, if they have been opened.
        width: the relative width of the average, if it was reconstructed.
        error: relative error of the reconstructed profile, see `jensen.training.reconstruction`.
    """

    folder: Path
    recipe: Recipe
    model: nn.Module
    data: Data | None = field(default=None, repr=False, compare=False)
    width: float | None = None
    error: float = 0.0

    @property
    def space(self) -> Space:
        """The space of its data."""
        assert self.recipe.space is not None
        return self.recipe.space

    @property
    def draw(self) -> Draw:
        """Draws samples; see `jensen.judging.case.Draw`."""
        return drawer(self.model, self.space, self.recipe.seed)

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the device of the model emulates the precision in which it draws."""
        precision = getattr(getattr(self.model, "sampling", None), "precision", "float32")
        return emulated(f"{self.folder / CONFIG}: sampling.precision", precision, device_of(self.model))

    @property
    def together(self) -> int:
        """Number of samples that are drawn together; fewer take as long."""
        return together(self.model)

    def open_data(self, track: Track = silent) -> Data:
        """The run's data; see `open_data`."""
        return open_data(self.recipe, track) if self.data is None else self.data


def open_run(
    folder: Path | str, device: str | None = None, model: nn.Module | None = None, width: float | None = None
) -> Run:
    """A run with its averaged model, in evaluation mode, in the precision of the average: float32 or above.

    Args:
        folder: folder of the run.
        device: device of the model; by default the device of training, or the CPU if that does not exist here.
        model: the model of a run with a user's objective; the averaged weights are loaded into it.
        width: relative width of the average, for runs with power-function averages; None: the run's own average.

    Raises:
        RunError: if the folder is not a run, has no weights yet, or they do not match the model; or as in `load_width`.
    """
    folder = located(path_of(folder, "the run's folder"))
    recipe = read_config(folder)
    if recipe.space is None:
        raise RunError(f"{folder / CONFIG} does not contain the space of its data: train again")
    own = isinstance(recipe.family, Own)
    if model is not None and not own:
        raise RunError(f"{folder} is a run of family {recipe.family.kind}, which builds its model: leave model out")
    try:
        built = recipe.family.model(recipe.space) if model is None else model
    except ValueError as error:
        raise RunError(f"{folder} cannot be opened: {error}") from error
    model = built if own else begin_average(built)
    load_weights(model, folder)
    off = 0.0 if width is None else load_width(model, folder, recipe, width)
    where = recipe.training.device_or_cpu() if device is None else _present(device)
    return Run(folder, recipe, model.to(where).eval().requires_grad_(False), width=width, error=off)


def _present(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device must be a device of this machine, got {name!r}") from error


def open_other(folder: str) -> OpenedRun:
    """An opened run, in the form that sources and judges use."""
    run = open_run(folder, "cpu")
    recipe = run.recipe
    return OpenedRun(run.folder, recipe.name, recipe.family.kind, run.model, run.space, recipe.data, run.open_data)


def features_by(choice: str | Callable[[Tensor], Tensor], data: Data) -> Features:
    """Features by name, by the folder of a reader run on the same classes, or from a user's callable.

    Raises:
        ValueError: as in `features_of` and `reader_features`.
    """
    if isinstance(choice, str) and choice not in FEATURES and path_of(choice, "features").is_dir():
        run = open_run(choice, "cpu")
        return reader_features(run.model, run.space, data, choice)
    return features_of(choice, data)


def open_data(recipe: Recipe, track: Track = silent) -> Data:
    """The data of a recipe, read or drawn again.

    Raises:
        RunError: if they differ from the data of training.
    """
    data = recipe.data.open(recipe.seed, track, open_other)
    if recipe.space is not None and data.space != recipe.space:
        raise RunError(f"{data.name} are no longer the data that this run was trained on: train again")
    return data

"""A run is a folder: train into it, go on with it, open it, judge it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.recipes import stability
from jensen.recipes.base import Recipe, Setting, Track, Watch, silent
from jensen.recipes.folder import CONFIG, WEIGHTS, RunError, load_weights, read_tree, save_weights
from jensen.recipes.settings import explain, parse
from jensen.training import Budget, TrainState, fit, warm_decay
from jensen.training import checkpoint as checkpoints
from jensen.training.distributed import gather, processes, rank, shard, start
from jensen.training.journal import Journal
from jensen.training.step import random_state, set_random_state
from jensen.training.strict_json import dumps

EVALUATION = "evaluation.json"


def read_config(folder: Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        RunError: if the folder is no run, or its configuration cannot be read.
    """
    tree = read_tree(folder)
    try:
        return parse(tree)
    except ValidationError as error:
        raise RunError(f"{folder / CONFIG} is broken: {explain(error)}") from error
    except ValueError as error:
        raise RunError(f"{folder / CONFIG} is broken: {error}") from error


def open_run(folder: Path, device: str | None = None) -> tuple[Recipe, nn.Module]:
    """A run's recipe and its averaged model, ready to be sampled.

    Args:
        folder: of the run.
        device: where the model goes; by default where the run trained, or the CPU where that is not there.

    Raises:
        RunError: if the folder is no run, or it has no weights yet, or they do not fit.
    """
    recipe = read_config(folder)
    model = recipe.model()
    load_weights(model, folder)
    where = torch.device(device) if device is not None else recipe.training.device_or_cpu()
    return recipe, model.to(where).eval().requires_grad_(False)


def begin(recipe: Recipe, folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        RunError: if it holds a run or other files, or cannot be written.
    """
    if (folder / CONFIG).exists():
        raise RunError(f"{folder} already holds a run: give --resume to go on with it, or another --out")
    if folder.exists() and (not folder.is_dir() or any(p.suffix != ".part" for p in folder.iterdir())):
        raise RunError(f"{folder} is not empty: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(folder / CONFIG, recipe.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, track: Track = silent, watch: Watch | None = None
) -> Mapping[str, Tensor]:
    """Train `recipe` into `folder`; a run that was stopped goes on bit for bit with `resume`.

    Every process of a `torchrun` calls this; the first one writes.

    Returns:
        the data that judging compares with, so that `evaluate` need not draw or read it again.

    Raises:
        RunError: see `begin` and `read_config`.
    """
    mine, _ = start()
    device, training = recipe.training.torch_device(), recipe.training
    recipe.check()
    if training.batch_size % processes():
        raise ValueError(f"training.batch_size {training.batch_size} does not divide by {processes()} processes")
    if not resume and mine == 0:
        begin(recipe, folder)
    saved = checkpoints.load(folder / "state") if resume else None
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    setting = recipe.setting(model, track)
    objective = setting.objective.to(device)
    budget = training.budget()
    state = new_state(recipe, objective, budget)
    if training.compile:
        objective.compile()
    torch.manual_seed(recipe.seed + rank())  # other noise in every process, the same weights
    if saved is not None:
        _restore(state, budget, saved)
    keeper = _Keeper(recipe, folder, state, budget, setting, watch, saved)
    stream = _to_device(shard(setting.stream, mine, processes()), device)
    with keeper.stopping_well():
        fit(state, stream, budget, update=recipe.update(), on_step=keeper)
    keeper.finish()
    return setting.references


def new_state(recipe: Recipe, objective: Objective, budget: Budget) -> TrainState:
    """What training starts from: the recipe's players, average and precision on its objective."""
    return TrainState(
        objective,
        recipe.players(objective, budget),
        decay=warm_decay(recipe.training.average),
        precision=recipe.training.autocast,
    )


def _restore(state: TrainState, budget: Budget, saved: dict[str, Any]) -> None:
    state.load_state_dict(saved)
    budget.elapsed = saved["elapsed"]
    budget.look()
    if len(saved["ranks"]) == processes():
        set_random_state(saved["ranks"][rank()])
    else:  # other processes than before: new noise, the same for the same number of them
        torch.manual_seed(state.step * 1009 + rank())


def _to_device(stream: Any, device: torch.device) -> Any:
    def opened(start: int) -> Any:
        for batch in stream(start):
            yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    return opened


class _Keeper:
    """Called after every step: journal, checkpoints, previews, and whoever watches."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        state: TrainState,
        budget: Budget,
        setting: Setting,
        watch: Watch | None,
        saved: dict[str, Any] | None,
    ):
        self.recipe, self.folder, self.state, self.budget = recipe, folder, state, budget
        self.setting, self.watch = setting, watch
        self.main = rank() == 0
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = budget.elapsed
        if saved is not None:
            self.sums, self.count, self.since = dict(saved["sums"]), saved["count"], saved["since"]
        self.shown: dict[str, float] = {}
        self.stopped = False
        self.previews_done = int(budget.progress(state.step) * recipe.training.previews)
        if self.main:
            self.journal = Journal(folder / "journal.jsonl", after=state.step)
            for path in (folder / "samples").glob("step-*.png"):
                if int(path.stem.removeprefix("step-")) > state.step:  # of a future that is lived anew
                    path.unlink()

    def __call__(self, state: TrainState, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        training, progress = self.recipe.training, self.budget.progress(state.step)
        if self.main and int(progress * training.previews) > self.previews_done:
            self.previews_done = int(progress * training.previews)
            self.preview()
        if state.step % training.log_every == 0:
            self.log(progress)
        if state.step % training.save_every == 0 or self.stopped:
            self.save()  # last, so that whatever a checkpoint remembers has been written
        if self.stopped:
            raise KeyboardInterrupt

    @contextmanager
    def stopping_well(self) -> Iterator[None]:
        """An interrupt or a polite kill ends the run after the step, with a checkpoint; a second one at once."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True

        signals = (signal.SIGINT, signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        before = [signal.signal(number, stop) for number in signals] if in_main and processes() == 1 else []
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=False):
                signal.signal(number, handler)

    def log(self, progress: float) -> None:
        """Write and show the means since the last line."""
        seconds = self.budget.seconds()
        line = {name: total / self.count for name, total in self.sums.items()}
        done = self.count * self.recipe.training.batch_size
        line["pictures_per_second"] = done / max(seconds - self.since, 1e-9)
        self.sums, self.count, self.since = {}, 0, seconds
        if not self.main:
            return
        self.journal.write(step=self.state.step, seconds=round(seconds, 3), progress=round(progress, 6), **line)
        self.shown.update(line)
        if self.watch is not None:
            self.watch(self.state.step, progress, self.budget.remaining(self.state.step), self.shown)

    def preview(self) -> None:
        """Look at the averaged model."""
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        found = self.recipe.preview(self.state.average, self.setting, samples, self.state.step)
        if found:
            self.shown.update(found)
            self.journal.write(step=self.state.step, seconds=round(self.budget.seconds(), 3), **found)

    def save(self) -> None:
        """Checkpoint: the state, the clock, the means so far, and every process's random numbers."""
        ranks = gather(random_state())
        if self.main:
            extra = {"elapsed": self.budget.seconds(), "ranks": ranks}
            means = {"sums": self.sums, "count": self.count, "since": self.since}
            checkpoints.save(self.folder / "state", self.state.step, self.state.state_dict() | extra | means)

    def finish(self) -> None:
        """The last look, line and checkpoint, and the averaged weights that are sampled."""
        if self.main and self.previews_done < self.recipe.training.previews:
            self.previews_done = self.recipe.training.previews
            self.preview()
        if self.count:
            self.log(1.0)
        self.save()
        if self.main:
            save_weights(self.state.average.state_dict(), self.folder / WEIGHTS)


def evaluate(
    folder: Path,
    *,
    track: Track = silent,
    device: str | None = None,
    references: Mapping[str, Tensor] | None = None,
    stable: bool = False,
) -> tuple[Recipe, dict[str, Any]]:
    """Judge a run: writes evaluation.json, samples and report.html below its folder.

    Args:
        folder: of the run.
        track: progress.
        device: of the model.
        references: data that training has read already.
        stable: also ask whether its game is stable where training left it, as "stability".
    """
    recipe, model = open_run(folder, device)
    found = {"stability": stability.of_run(recipe, folder, track)} if stable else {}
    evaluation = recipe.evaluate(model, folder, track, references) | found
    checkpoints.write_text(folder / EVALUATION, dumps(evaluation, indent=2) + "\n")
    recipe.report(folder, evaluation)
    return recipe, evaluation

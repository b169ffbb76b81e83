"""Training a run: in a new folder, or resumed from a checkpoint with bitwise equal results."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from jensen.core.objective import Objective
from jensen.core.progress import Track, Watch, silent
from jensen.core.seeding import begin_globally, derived
from jensen.data.dataset import Data
from jensen.recipes.recipe import Recipe
from jensen.runs.folder import (
    CONFIG,
    EVALUATION,
    REPORT,
    WEIGHTS,
    RunError,
    refuse_misfit,
    refuse_taken,
    refuse_unwritable,
    save_weights,
    weights_step,
)
from jensen.runs.opening import open_data, read_config
from jensen.runs.preview import preview
from jensen.training import Budget, TrainState, fit, warm_decay
from jensen.training import checkpoint as checkpoints
from jensen.training.distributed import collect, processes, rank, shard, start
from jensen.training.journal import Journal
from jensen.training.step import random_state, set_random_state
from jensen.training.strict_json import dumps


def begin(recipe: Recipe, folder: Path) -> list[Path]:
    """Make the folder of a new run.

    Returns: the folders that were created, innermost first.

    Raises:
        RunError: as in `refuse_taken`.
    """
    refuse_taken(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(folder / CONFIG, dumps(recipe.tree(), indent=2) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    return made


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, track: Track = silent, watch: Watch | None = None
) -> Data:
    """Train `recipe` in `folder`; with `resume`, continue a run that was stopped, with bitwise equal results.

    A finished run can be continued with more steps or minutes: from there on, learning rates are those of the longer
    run at each step. The journal notes this, and the run's settings are rewritten. Its weights and their evaluation are
    kept until the longer run ends.

    Every process of a `torchrun` calls this; the first one writes. If their number is the same as before, each gets its
    own buffers and random state back. Otherwise each takes the buffers of one of the former processes, in turn, and a
    new random state, which depends on the seed, the step and the number of processes. The journal notes this as well.

    Errors in the arguments are raised before the folder is made, and a run that fails before its first step leaves no
    folder.

    Returns: the data, so that judging need not read or draw them again.

    Raises:
        RunError: as in `begin` and `read_config`; with `resume`, if settings other than the length of training differ,
        if the run has already been trained for that long, or if there are weights but no checkpoint.
        ValueError: if the family cannot be used with the data, or a batch cannot be divided among the processes.
    """
    mine, world = start()
    device, training = recipe.training.torch_device(), recipe.training
    training.rows()
    saved = _saved(recipe, folder) if resume else None
    if mine == 0 and not resume:
        refuse_taken(folder)
    data = open_data(read_config(folder) if resume else recipe, track)
    recipe = recipe.on(data.space)
    begin_globally(recipe.seed)
    objective = new_objective(recipe, data, track).to(device)
    budget = training.budget()
    state = new_state(recipe, objective, budget)
    if training.compile:
        objective.compile()
    begin_globally(derived(recipe.seed, "process", mine) if mine else recipe.seed)  # the same weights, other noise
    notes = [] if saved is None else _restore(recipe, state, budget, saved, folder)
    made: list[Path] = []
    if mine == 0 and not resume:
        made = begin(recipe, folder)
    elif mine == 0 and (kept := read_config(folder)) != recipe:
        notes.append(f"continued to {training.length()} from {kept.training.length()}")
        checkpoints.write_text(folder / CONFIG, dumps(recipe.tree(), indent=2) + "\n")
    keeper = _Keeper(recipe, folder, state, budget, data, watch, saved)
    keeper.note(notes)
    batches = recipe.family.stream(data, training.batch_size, recipe.seed)
    stream = _to_device(shard(batches, mine, world), device)
    try:
        with keeper.stopping_well():
            fit(state, stream, budget, update=recipe.family.update(), on_step=keeper)
    except Exception:
        if state.step == 0 and mine == 0 and not resume:
            _unmake(folder, made)
        raise
    keeper.finish()
    return data


def _saved(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The checkpoint to resume from, or None if the run was stopped before the first."""
    kept = read_config(folder)
    if kept.lasting(recipe.training) != recipe.model_copy(update={"space": kept.space}):
        raise RunError(f"--resume uses the settings of {folder / CONFIG}: only steps or minutes can be changed")
    refuse_unwritable(folder)
    saved = checkpoints.load(folder / "state")
    if saved is None:
        if (folder / WEIGHTS).exists():
            raise RunError(f"{folder} has {WEIGHTS} but no checkpoint in state/ to resume from: give another --out")
        return None
    if "processes" not in saved:
        raise RunError(f"{folder / 'state'} is from another version of jensen: train again with another --out")
    budget = Budget(recipe.training.steps, recipe.training.minutes, saved["elapsed"])
    budget.look()
    if recipe.training != kept.training and budget.done(saved["step"]):
        had = f"{saved['step']} steps and {saved['elapsed'] / 60:.3g} minutes"
        raise RunError(
            f"{folder} must be trained for more than {had}, which it has already, got {recipe.training.length()}"
        )
    return saved


def _unmake(folder: Path, made: list[Path]) -> None:
    """Remove a run without steps, and the folders that were made for it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in made:
        path.rmdir()


def new_objective(recipe: Recipe, data: Data, track: Track = silent) -> Objective:
    """The recipe's objective with an untrained model."""
    model = recipe.family.model(data.space)
    recipe.family.begin(model, data, recipe.seed, track)
    return recipe.family.objective(model, data.space)


def new_state(recipe: Recipe, objective: Objective, budget: Budget) -> TrainState:
    """The initial state of training: players, weight average and precision of the recipe, on its objective."""
    return TrainState(
        objective,
        recipe.family.players(objective, recipe.training, budget),
        decay=warm_decay(recipe.training.average),
        precision=recipe.training.autocast,
    )


def _restore(recipe: Recipe, state: TrainState, budget: Budget, saved: dict[str, Any], folder: Path) -> list[str]:
    """Resume from a checkpoint; returns a note for the journal."""
    own = saved["processes"][rank() % len(saved["processes"])]
    saved["objective"].update(own["buffers"])
    refuse_misfit(state.objective, saved["objective"], folder / "state")
    state.load_state_dict(saved)
    budget.elapsed = saved["elapsed"]
    budget.look()
    before, now = len(saved["processes"]), processes()
    if before == now:
        set_random_state(own["rng"])
        return []
    begin_globally(derived(recipe.seed, "resumed", state.step, now, rank()))
    differing = [k for k, process in enumerate(saved["processes"]) if process["buffers"]]
    said = [f"{now} process{'es' * (now > 1)} instead of {before}: new random state"]
    if differing and now < before:
        said.append(f"buffers of {_named(now, before)} are left out")
    if differing and now > before:
        said.append(f"copies of the others' buffers in {_named(before, now)}")
    return ["; ".join(said)]


def _named(first: int, end: int) -> str:
    return f"process {first}" if end == first + 1 else f"processes {first} to {end - 1}"


def _buffers(objective: Objective) -> dict[str, Any]:
    """The state that can differ between processes, on the CPU: everything except the parameters, which are equal."""
    weights = {name for name, _ in objective.named_parameters(remove_duplicate=False)}
    kept = {name: value for name, value in objective.state_dict().items() if name not in weights}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in kept.items()}


def _apart(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each process's buffers that differ from those of the first process, which are in the state."""
    first = processes[0]["buffers"]

    def own(buffers: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in buffers.items() if not (isinstance(v, Tensor) and torch.equal(v, first[k]))}

    return [process | {"buffers": own(process["buffers"]) if k else {}} for k, process in enumerate(processes)]


def _to_device(stream: Any, device: torch.device) -> Any:
    def opened(start: int) -> Any:
        for batch in stream(start):
            yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    return opened


@dataclass
class _Keeper:
    """Called after every step: writes journal, checkpoints and previews, and calls `watch`."""

    recipe: Recipe
    folder: Path
    state: TrainState
    budget: Budget
    data: Data
    watch: Watch | None
    saved: InitVar[dict[str, Any] | None]

    def __post_init__(self, saved: dict[str, Any] | None) -> None:
        means = saved or {"sums": {}, "count": 0, "since": self.budget.elapsed}
        self.sums, self.count, self.since = dict[str, float](means["sums"]), means["count"], means["since"]
        self.main, self.stopped = rank() == 0, False
        self.shown: dict[str, float] = {}
        self.previews_done = int(self.budget.progress(self.state.step) * self.recipe.training.previews)
        if self.main:
            self.journal = Journal(self.folder / "journal.jsonl", after=self.state.step)
            for path in (self.folder / "samples").glob("step-*.png"):
                if int(path.stem.removeprefix("step-")) > self.state.step:  # from steps that are repeated
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
            self.save()  # last, so that everything the checkpoint refers to has been written
        if self.stopped:
            raise KeyboardInterrupt

    @contextmanager
    def stopping_well(self) -> Iterator[None]:
        """SIGINT or SIGTERM ends the run after the current step, with a checkpoint; a second signal ends it at once."""

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
        """Write and show the means since the last line of the journal."""
        seconds = self.budget.seconds()
        line = {name: total / self.count for name, total in self.sums.items()}
        done = self.count * self.recipe.training.batch_size
        line["examples_per_second"] = done / max(seconds - self.since, 1e-9)
        self.sums, self.count, self.since = {}, 0, seconds
        if not self.main:
            return
        self.journal.write(step=self.state.step, seconds=round(seconds, 3), progress=round(progress, 6), **line)
        self.shown.update(line)
        if self.watch is not None:
            self.watch(self.state.step, progress, self.budget.remaining(self.state.step), self.shown)

    def note(self, notes: list[str]) -> None:
        """Write a note to the journal at this step."""
        if self.main:
            for words in notes:
                seconds = round(self.budget.elapsed, 3)
                self.journal.write(step=self.state.step, seconds=seconds, note=words)

    def preview(self) -> None:
        """Write a preview of the averaged model."""
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        found = preview(self.recipe, self.state.average, self.data, samples / f"step-{self.state.step:06d}.png")
        if found:
            self.shown.update(found)
            self.journal.write(step=self.state.step, seconds=round(self.budget.seconds(), 3), **found)

    def save(self) -> None:
        """Write a checkpoint: state, elapsed time, current means, and random state and buffers of every process."""
        every = collect({"rng": random_state(), "buffers": _buffers(self.state.objective)})
        if self.main:
            extra = {"elapsed": self.budget.seconds(), "processes": _apart(every)}
            means = {"sums": self.sums, "count": self.count, "since": self.since}
            checkpoints.save(self.folder / "state", self.state.step, self.state.state_dict() | extra | means)

    def finish(self) -> None:
        """Write the last preview, journal line and checkpoint, and the averaged weights."""
        if self.main and self.previews_done < self.recipe.training.previews:
            self.previews_done = self.recipe.training.previews
            self.preview()
        if self.count:
            self.log(1.0)
        self.save()
        if self.main:
            if weights_step(self.folder) != self.state.step:  # the evaluation is of other weights
                for name in (EVALUATION, REPORT):
                    (self.folder / name).unlink(missing_ok=True)
            save_weights(self.state.average.state_dict(), self.folder / WEIGHTS, self.state.step)

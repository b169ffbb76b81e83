"""Training a run: into a new folder, or on from a checkpoint, bit for bit."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    Returns:
        the folders that were not there before, innermost first.

    Raises:
        RunError: see `refuse_taken`.
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
    """Train `recipe` into `folder`; a run that was stopped goes on bit for bit with `resume`.

    With more steps or minutes than it has had, a run goes on too: what was trained stays, and from there on learning
    rates are those that the longer run has at that step. The journal says so, and its settings are rewritten. Its
    weights, and what was judged of them, stay until the longer run ends.

    Every process of a `torchrun` calls this; the first one writes. Where there are as many of them as before, each has
    its own buffers and random numbers back; of another number, each takes the buffers of one of the former, in turn,
    and new random numbers, which depend on the seed, the step and the processes. The journal says that as well.

    Whatever can be refused is, before the folder is made; a run that fails before its first step leaves none.

    Returns:
        its data, so that judging need not read or draw them again.

    Raises:
        RunError: see `begin`, `read_config`; to resume, if settings differ in more than the length of training, if it
            has been trained for so long already, or if there are weights and no checkpoint.
        ValueError: if the family does not suit the data, or the processes do not share a batch.
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
        notes.append(f"goes on to {training.length()}, of {kept.training.length()}")
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
    """The checkpoint to go on from, or None if the run was stopped before the first."""
    kept = read_config(folder)
    if kept.lasting(recipe.training) != recipe.model_copy(update={"space": kept.space}):
        raise RunError(
            f"--resume goes on with the settings of {folder / CONFIG}, for more steps or minutes: leave the others out"
        )
    refuse_unwritable(folder)
    saved = checkpoints.load(folder / "state")
    if saved is None:
        if (folder / WEIGHTS).exists():
            raise RunError(f"{folder} has {WEIGHTS} and no checkpoint in state/ to go on from: give another --out")
        return None
    if "processes" not in saved:
        raise RunError(f"{folder / 'state'} is of another version of jensen: train again, with another --out")
    budget = Budget(recipe.training.steps, recipe.training.minutes, saved["elapsed"])
    budget.look()
    if recipe.training != kept.training and budget.done(saved["step"]):
        had = f"{saved['step']} steps and {saved['elapsed'] / 60:.3g} minutes"
        raise RunError(f"{folder} has been trained for {had} already, got {recipe.training.length()}: give more")
    return saved


def _unmake(folder: Path, made: list[Path]) -> None:
    """Take away a run of no steps, and the folders that were made for it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in made:
        path.rmdir()


def new_objective(recipe: Recipe, data: Data, track: Track = silent) -> Objective:
    """The recipe's game on an untrained model."""
    model = recipe.family.model(data.space)
    recipe.family.begin(model, data, recipe.seed, track)
    return recipe.family.objective(model, data.space)


def new_state(recipe: Recipe, objective: Objective, budget: Budget) -> TrainState:
    """What training starts from: the recipe's players, average and precision on its objective."""
    return TrainState(
        objective,
        recipe.family.players(objective, recipe.training, budget),
        decay=warm_decay(recipe.training.average),
        precision=recipe.training.autocast,
    )


def _restore(recipe: Recipe, state: TrainState, budget: Budget, saved: dict[str, Any], folder: Path) -> list[str]:
    """Go on from a checkpoint; returns what the journal should say of it."""
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
    said = [f"{now} process{'es' * (now > 1)} after {before}: new random numbers"]
    if differing and now < before:
        said.append(f"buffers of {_named(now, before)} are left out")
    if differing and now > before:
        said.append(f"copies of the others' buffers in {_named(before, now)}")
    return ["; ".join(said)]


def _named(first: int, end: int) -> str:
    return f"process {first}" if end == first + 1 else f"processes {first} to {end - 1}"


def _buffers(objective: Objective) -> dict[str, Any]:
    """What a process may have for itself, on the CPU: the state without the parameters, which all have alike."""
    weights = {name for name, _ in objective.named_parameters(remove_duplicate=False)}
    kept = {name: value for name, value in objective.state_dict().items() if name not in weights}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in kept.items()}


def _apart(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each process's buffers those that differ from the first one's, which the state has."""
    first = processes[0]["buffers"]

    def own(buffers: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in buffers.items() if not (isinstance(v, Tensor) and torch.equal(v, first[k]))}

    return [process | {"buffers": own(process["buffers"]) if k else {}} for k, process in enumerate(processes)]


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
        data: Data,
        watch: Watch | None,
        saved: dict[str, Any] | None,
    ):
        self.recipe, self.folder, self.state, self.budget = recipe, folder, state, budget
        self.data, self.watch = data, watch
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
        line["examples_per_second"] = done / max(seconds - self.since, 1e-9)
        self.sums, self.count, self.since = {}, 0, seconds
        if not self.main:
            return
        self.journal.write(step=self.state.step, seconds=round(seconds, 3), progress=round(progress, 6), **line)
        self.shown.update(line)
        if self.watch is not None:
            self.watch(self.state.step, progress, self.budget.remaining(self.state.step), self.shown)

    def note(self, notes: list[str]) -> None:
        """Write in words what a reader of the journal should know at this step."""
        if self.main:
            for words in notes:
                seconds = round(self.budget.elapsed, 3)
                self.journal.write(step=self.state.step, seconds=seconds, note=words)

    def preview(self) -> None:
        """Look at the averaged model."""
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        found = preview(self.recipe, self.state.average, self.data, samples / f"step-{self.state.step:06d}.png")
        if found:
            self.shown.update(found)
            self.journal.write(step=self.state.step, seconds=round(self.budget.seconds(), 3), **found)

    def save(self) -> None:
        """Checkpoint: the state, the clock, the means so far, every process's random numbers and buffers."""
        every = collect({"rng": random_state(), "buffers": _buffers(self.state.objective)})
        if self.main:
            extra = {"elapsed": self.budget.seconds(), "processes": _apart(every)}
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
            if weights_step(self.folder) != self.state.step:  # what was judged are other weights
                for name in (EVALUATION, REPORT):
                    (self.folder / name).unlink(missing_ok=True)
            save_weights(self.state.average.state_dict(), self.folder / WEIGHTS, self.state.step)

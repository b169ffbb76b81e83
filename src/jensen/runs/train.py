"""Training a run: in a new folder, or resumed from a checkpoint with bitwise equal results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import OutOfMemoryError, Tensor

from jensen.core.failure import Failure
from jensen.core.naming import path_of
from jensen.core.objective import Objective
from jensen.core.progress import Track, Watch, silent
from jensen.core.protocols import Sampleable
from jensen.core.seeding import begin_globally, derived
from jensen.core.types import NonFiniteLoss
from jensen.data.dataset import Data
from jensen.data.space import Classes, Space
from jensen.recipes.families.own import Own
from jensen.recipes.recipe import Recipe
from jensen.recipes.words import at_home, suited
from jensen.report.gallery import made_previews
from jensen.runs.averages import remove_snapshots, write_snapshot
from jensen.runs.board import Board, summary_writer
from jensen.runs.folder import (
    BOARD,
    CONFIG,
    EVALUATION,
    JOURNAL,
    LAUNCH,
    REPORT,
    SAMPLES,
    STATE,
    WEIGHTS,
    RunError,
    alone,
    clear,
    refuse_misfit,
    refuse_taken,
    refuse_unwritable,
    start_from,
)
from jensen.runs.held_out import held_out_loss
from jensen.runs.opening import open_data, read_config
from jensen.runs.preview import preview
from jensen.shipped import located
from jensen.training import Budget, Tolerance, TrainState, fit, interrupts, on_device, recompute
from jensen.training import checkpoint as checkpoints
from jensen.training.checkpoint import save_weights, weights_step
from jensen.training.distributed import (
    calling,
    collect,
    launch,
    launched,
    lost,
    mean,
    processes,
    rank,
    restarted,
    shard,
    start,
)
from jensen.training.journal import Journal, Means
from jensen.training.processes import process_state
from jensen.training.saved import Saved, load
from jensen.training.sharding import divide, gathered, is_divided, whole
from jensen.training.step import set_random_state
from jensen.training.strict_json import dumps
from jensen.training.tolerance import infinite, refuse_non_finite

if TYPE_CHECKING:  # it takes a second to import
    from jensen.training.shards import Shards


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    track: Track = silent,
    watch: Watch | None = None,
    say: Callable[[str], None] = lambda _: None,
    begin: Callable[[str], None] = lambda _: None,
    objective: Objective | None = None,
) -> Data:
    """Train `recipe` in `folder`; with `resume`, continue a run that was stopped, with bitwise equal results.

    A finished run can be continued with more steps or minutes: from there on, learning rates are those of the longer
    run. The journal records this, and the run's settings are rewritten. Its weights and their evaluation are kept until
    the longer run ends.

    Under `torchrun`, every process calls this; the first one writes. If the number of processes is the same as before,
    each gets its former buffers and random state. Otherwise each takes the buffers of one of the former processes, in
    turn, and a new random state, which depends on the seed, the step and the number of processes. The journal records
    this as well. Each process computes its part of a batch alone: batch norm in a user's network has the statistics of
    these rows, and draws for a whole batch (stratified times) are made for these rows.

    A run that fails before its first step leaves no folder, and one that ends before its first checkpoint can be
    replaced. The folder is locked against other processes that train in it. If `torchrun --max-restarts` starts the
    processes again after one was killed, the run goes on from its last checkpoint.

    `say` is called with notes before the first step: warnings, damaged checkpoints, and for a new run what the source
    and the family chose. `begin` is called with the length of training before its first step.
    `objective` replaces the family's.

    Returns: the data, so that judging need not read or draw them again.

    Raises:
        RunError: as in `refuse_taken`, `read_config` and `alone`; with `resume`, if settings other than the length of
        training differ, if the run has already been trained for that long, or if there are weights but no checkpoint.
        ValueError: if the family cannot be used with the data, or a batch cannot be divided among the processes.
    """
    mine, world = start()
    resume = resume or _restarted(folder)
    device, training = recipe.training.torch_device(), recipe.training
    if training.tensorboard:
        summary_writer()
    training.rows()
    if world > 1 and training.skip_nonfinite:
        raise ValueError(f"training.skip_nonfinite must be 0 with several processes, got {training.skip_nonfinite}")
    with calling(), ExitStack() as held:
        saved, damage = None, list[str]()
        if resume:
            _refuse_changed(recipe, folder)
            if mine == 0:
                held.enter_context(alone(folder))
            saved = _saved(recipe, folder, damage.append)
        elif mine == 0:
            refuse_taken(folder)
        origin = _origin(training.start) if saved is None else None
        data = open_data(read_config(folder) if resume else recipe, track)
        recipe = suited(recipe, data.space)
        begin_globally(recipe.seed)
        objective = new_objective(recipe, data, track) if objective is None else objective
        started = [] if origin is None else [start_from(objective.model, origin)]
        objective = objective.to(device)
        budget = training.budget()
        state = new_state(recipe, objective, budget)
        if place := infinite(state):
            raise ValueError(f"{place} must be finite before the first step (a buffer of a model: or not persistent)")
        if training.recompute and not recompute(objective):
            raise ValueError("training.recompute must be false for networks without blocks of layers, got true")
        if training.compile:
            objective.compile()
        begin_globally(derived(recipe.seed, "process", mine) if mine else recipe.seed)  # the same weights, other noise
        batches = recipe.family.stream(data, training.batch_size, recipe.seed)
        stream = on_device(shard(batches, mine, world), device)
        new = [*started, *_precision(recipe, state)]
        notes = new if saved is None else _restore(recipe, state, budget, saved, folder)
        if mine == 0 and not resume:
            _take(folder, held)
            _write_config(recipe, folder)
            if launched():
                checkpoints.write_text(folder / LAUNCH, launch())
        elif mine == 0 and (kept := read_config(folder)) != recipe:
            notes.append(f"continued to {training.length()} from {kept.training.length()}")
            _write_config(recipe, folder)
        try:
            with interrupts() as interrupted:
                keeper = _Keeper(recipe, folder, state, budget, data, watch, interrupted, saved)
                held.callback(keeper.close)
                keeper.note([*damage, *notes])
                update = recipe.family.update()
                if mine == 0:
                    unused = unconditioned(recipe, objective, data.space)
                    chosen = () if resume else (*data.notes, *unused, *recipe.family.summary(data.space))
                    for note in (*damage, *started, *chosen, *training.notes, *recipe.family.notes(data.space)):
                        say(note)
                    begin(training.length())
                tolerance = Tolerance(training.skip_nonfinite, keeper.skipped)
                fit(state, stream, budget, update=update, on_step=keeper, tolerance=tolerance)
                keeper.finish()
                keeper.stop()
        except BaseException:
            if state.step == 0 and mine == 0 and not resume:
                clear(folder)
            raise
    return data


def _origin(run: str | None) -> Path | None:
    """The folder of the run whose weights training starts from."""
    if run is None:
        return None
    folder = located(path_of(run, "training.start"))
    try:
        read_config(folder)
    except RunError as error:
        raise RunError(f"training.start: {error}") from error
    return folder


def _take(folder: Path, held: ExitStack) -> None:
    """Make the folder of a new run, lock it, and remove what a run without a checkpoint left there; folders that are
    empty at the end are removed.
    """
    refuse_taken(folder)
    held.callback(_remove_empty, [path for path in (folder, *folder.parents) if not path.exists()])
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone(folder))
    refuse_taken(folder)
    clear(folder)


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _write_config(recipe: Recipe, folder: Path) -> None:
    checkpoints.write_text(folder / CONFIG, dumps(recipe.tree(), indent=2) + "\n")


def _restarted(folder: Path) -> bool:
    """Whether `torchrun` has restarted the run that it began in this folder."""
    note = folder / LAUNCH
    return restarted() and note.is_file() and note.read_text(encoding="utf-8") == launch()


def _refuse_changed(recipe: Recipe, folder: Path) -> None:
    """Raise a RunError if a run has other settings than the length of training, or cannot be written."""
    kept = read_config(folder)
    if kept.lasting(recipe.training) != (recipe if kept.space is None else recipe.on(kept.space)):
        raise RunError(f"--resume uses the settings of {folder / CONFIG}: only steps or minutes can be changed")
    refuse_unwritable(folder)


def _saved(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Saved | None:
    """The checkpoint to resume from, or None if the run was stopped before the first."""
    kept = read_config(folder)
    saved = load(folder / STATE, say, together=True)
    if saved is None:
        if (folder / WEIGHTS).exists():
            raise RunError(f"{folder} has {WEIGHTS} but no checkpoint in state/ to resume from: give another --out")
        return None
    budget = Budget(recipe.training.steps, recipe.training.minutes, saved["elapsed"])
    budget.look()
    if recipe.training != kept.training and budget.done(saved["step"]):
        had = f"{saved['step']} steps and {saved['elapsed'] / 60:.3g} minutes"
        raise RunError(
            f"{folder} must be trained for more than the {had} that it already has, got {recipe.training.length()}"
        )
    return saved


def unconditioned(recipe: Recipe, objective: Objective, space: Space) -> tuple[str, ...]:
    """A note if samples will not be of the classes or captions of a user's data."""
    family = recipe.family
    if space.cond is None or family.conditional(space) or isinstance(family, Own) or at_home(recipe):
        return ()
    what = "classes" if isinstance(space.cond, Classes) else "captions"
    said = f"family {family.kind} does not use the {what}: samples cannot be asked for by them"
    return (said,) * isinstance(objective.model, Sampleable)


def new_objective(recipe: Recipe, data: Data, track: Track = silent) -> Objective:
    """The recipe's objective with an untrained model."""
    model = recipe.family.model(data.space)
    recipe.family.begin(model, data, recipe.seed, track)
    return recipe.family.objective(model, data.space)


def new_state(recipe: Recipe, objective: Objective, budget: Budget) -> TrainState:
    """The initial state of training: the objective with its players, weight average and precision."""
    if recipe.training.sharding == "fully" and processes() > 1:
        divide(objective)
    return TrainState(
        objective,
        recipe.family.players(objective, recipe.training, budget),
        decay=recipe.training.average_decays(),
        precision=recipe.training.autocast,
        accumulate=recipe.training.accumulate,
    )


def _precision(recipe: Recipe, state: TrainState) -> list[str]:
    """A note for the journal on the precision that "auto" is on this device."""
    found = "float32" if state.precision is None else "bfloat16"
    return [f"training.precision auto: {found}"] if recipe.training.precision == "auto" else []


def _restore(recipe: Recipe, state: TrainState, budget: Budget, saved: Saved, folder: Path) -> list[str]:
    """Resume from a checkpoint; returns a note for the journal."""
    try:
        own = saved["processes"][rank() % len(saved["processes"])]
        kept = {**saved, "objective": {**saved["objective"], **own["buffers"]}, "processes": [{"rng": own["rng"]}]}
        modules = (state.objective, *state.averages)
        for module, weights in zip(modules, (kept["objective"], *kept["averages"]), strict=True):
            refuse_misfit(module, weights, folder / STATE)
        kept = saved.read(kept, state.divided)
        state.load_state_dict(kept)
    except (RunError, Failure, OutOfMemoryError):  # of other causes than the checkpoint's content
        raise
    except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        if lost(error):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RunError(f"{folder / STATE} has a checkpoint that does not fit {CONFIG} ({why}): train again") from error
    budget.elapsed = saved["elapsed"]
    budget.look()
    before, now = len(saved["processes"]), processes()
    if before == now:
        set_random_state(kept["processes"][0]["rng"])
        return []
    begin_globally(derived(recipe.seed, "resumed", state.step, now, rank()))
    note = f"{now} process{'es' * (now > 1)} instead of {before}: new random state"
    if any(process["buffers"] for process in saved["processes"]):
        first, last = min(before, now), max(before, now) - 1
        which = f"process {first}" if first == last else f"processes {first} to {last}"
        note += f"; buffers of {which} are left out" if now < before else f"; copies of the others' buffers in {which}"
    return [note]


def _sums(saved: list[dict[str, Any]]) -> dict[str, float]:
    """The sums of losses of this process; their mean over the saved ones if the number of processes has changed."""
    if len(saved) == processes():
        return dict(saved[rank()]["sums"])
    return {name: sum(own["sums"][name] for own in saved) / len(saved) for name in saved[0]["sums"]}


def _shards(folder: Path, state: TrainState) -> Shards | None:
    """What writes checkpoints, if the weights are divided among processes."""
    if not is_divided(state.objective):
        return None
    from jensen.training.shards import Shards

    return Shards(folder / STATE)


@dataclass
class _Keeper:
    """Called after every step: writes journal, checkpoints and previews, and calls `watch`."""

    recipe: Recipe
    folder: Path
    state: TrainState
    budget: Budget
    data: Data
    watch: Watch | None
    interrupted: Callable[[bool], bool]
    saved: InitVar[Saved | None]

    def __post_init__(self, saved: Saved | None) -> None:
        self.means = Means(_sums(saved["processes"]), saved["count"]) if saved else Means()
        self.since, self.main = saved["since"] if saved else self.budget.elapsed, rank() == 0
        self.rejected = saved.rejected if saved else []
        self.shown: dict[str, float] = {}
        self.closed = False
        self.shards = _shards(self.folder, self.state)
        progress, training = self.budget.progress(self.state.step), self.recipe.training
        self.previews_done, self.snapshots_done = int(progress * training.previews), int(progress * training.snapshots)
        if self.main:
            remove_snapshots(self.folder, after=self.state.step)
            self.journal = Journal(self.folder / JOURNAL, after=self.state.step)
            tensorboard = self.recipe.training.tensorboard
            self.board = Board(self.folder / BOARD, self.state.step) if tensorboard else None
            for step, path in made_previews(self.folder):
                if step > self.state.step:  # from steps that are repeated
                    path.unlink()

    def __call__(self, state: TrainState, terms: dict[str, Tensor]) -> None:
        self.means.add(terms)
        training, progress = self.recipe.training, self.budget.progress(state.step)
        if int(progress * training.previews) > self.previews_done:
            self.previews_done = int(progress * training.previews)
            self.preview()
        if int(progress * training.snapshots) > self.snapshots_done:
            self.snapshots_done = int(progress * training.snapshots)
            write_snapshot(self.folder, state, training.widths)
        if state.step % training.log_every == 0:
            self.log(progress)
        stopping = self.interrupted(self.closed)
        last = self.budget.done(state.step)  # `finish` saves
        if (state.step % training.save_every == 0 and not last) or stopping:
            self.save()  # last, so that everything the checkpoint refers to has been written
        if stopping:
            self.stop()

    def stop(self) -> None:
        """Raise a KeyboardInterrupt if a signal has arrived or standard output was closed; the state is on disk."""
        if self.interrupted(self.closed):
            self.wait()
            raise KeyboardInterrupt(*["standard output was closed"] * self.closed)

    def log(self, progress: float) -> None:
        """Write and show the means over all processes since the last line of the journal."""
        seconds, examples = self.budget.seconds(), self.means.count * self.recipe.training.batch_size
        line = mean(self.means.take()) | {"examples_per_second": examples / max(seconds - self.since, 1e-9)}
        self.since = seconds
        if not self.main:
            return
        self.write(seconds=round(seconds, 3), progress=round(progress, 6), **line)
        self.shown.update(line)
        if self.watch is not None:
            try:
                self.watch(self.state.step, progress, self.budget.remaining(self.state.step), self.shown)
            except BrokenPipeError:
                self.closed = True

    def note(self, notes: list[str]) -> None:
        """Write a note to the journal at this step."""
        if self.main:
            for words in notes:
                seconds = round(self.budget.elapsed, 3)
                self.write(seconds=seconds, note=words)

    def write(self, **line: Any) -> None:
        """Write a line of the journal."""
        self.journal.write(step=self.state.step, **line)
        if self.board is not None:
            self.board.write(self.state.step, line)

    def skipped(self, error: NonFiniteLoss) -> None:
        """Write to the journal that a step was skipped."""
        self.budget.pause()
        self.note([f"skipped a step: {error}"])
        self.budget.start()

    def preview(self) -> None:
        """Write a preview of the averaged model, and its loss on held-out data."""
        refuse_non_finite(self.state)
        average, found = gathered(self.state.average), {}
        if self.main:
            samples = self.folder / SAMPLES
            samples.mkdir(exist_ok=True)
            found = preview(self.recipe, average, self.data, samples / f"step-{self.state.step:06d}.png")
        if self.main or is_divided(self.state.objective):
            found |= held_out_loss(self.state, self.recipe, self.data)
        if found and self.main:
            self.shown.update(found)
            self.write(seconds=round(self.budget.seconds(), 3), **found)

    def save(self) -> None:
        """Write a checkpoint: state, elapsed time, and random state, buffers and current means of every process.

        If weights are divided, it is written while training goes on; see `wait`.
        """
        refuse_non_finite(self.state)
        seconds = {"elapsed": self.budget.seconds(), "since": self.since}
        state = {**self.state.state_dict(), **seconds, "count": self.means.count}
        own = process_state(self.state.objective, sums=self.means.sums)
        rejected, self.rejected = self.rejected, []
        if self.main:
            self.journal.sync()
        if self.shards is not None:
            self.shards.save(self.state.step, state, own, rejected)
            return
        every = collect(own)
        if self.main:
            checkpoints.save(self.folder / STATE, self.state.step, {**state, "processes": every}, rejected)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk."""
        if self.shards is not None:
            self.shards.wait()

    def close(self) -> None:
        """End what goes on in the background."""
        if self.shards is not None:
            self.shards.close()

    def finish(self) -> None:
        """Write the last preview, journal line and checkpoint, and the averaged weights."""
        if self.previews_done < self.recipe.training.previews:
            self.previews_done = self.recipe.training.previews
            self.preview()
        if self.means.count:
            self.log(1.0)
        self.save()
        self.wait()
        write_snapshot(self.folder, self.state, self.recipe.training.widths)
        weights = whole(self.state.average.state_dict())
        if self.main:
            if weights_step(self.folder / WEIGHTS) != self.state.step:  # the evaluation is of other weights
                for name in (EVALUATION, REPORT):
                    (self.folder / name).unlink(missing_ok=True)
            save_weights(weights, self.folder / WEIGHTS, self.state.step)

"""Whether training resumes exactly after an interruption, and whether several processes train like one."""

from __future__ import annotations

import copy
import io
import itertools
import multiprocessing
import pickle
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jensen.adversarial.field import Frozen
from jensen.check.evidence import Evidence, Report, bounded, close
from jensen.core.objective import Objective, partition
from jensen.core.seeding import begin_globally, checked_seed, derived
from jensen.core.types import Batch, Stream
from jensen.training import Player, TrainState, Update, descend, train_step, warm_decay
from jensen.training.step import gradients

PATIENCE = 120  # seconds for all processes together


@runtime_checkable
class Run(Protocol):
    """A training run: makes one step at a time, and saves all that is needed to resume, as tensors and plain values."""

    def step(self) -> object: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> object: ...


def resume(
    make: Callable[[], Run | Objective],
    stream: Stream | None = None,
    *,
    update: Update = descend,
    before: int = 3,
    after: int = 4,
    seed: int = 0,
) -> Report:
    """Whether a run that is interrupted and resumed is bitwise equal to the uninterrupted one.

    The state is written by `torch.save` after some steps and loaded into a new run, with torch's global generator in
    another state. Two uninterrupted runs from one seed agree; steps change the state; the loaded state is the saved
    one. At the end the two runs agree in every entry of the state, and in every tensor and random generator that they
    hold outside it: in nested attributes, modules, optimizers, containers and closures of functions. So averaged
    weights that were not saved are detected, although nothing in the state depends on them.

    Args:
        make: returns a new run (`step`, `state_dict`, `load_state_dict`), or an objective, which `jensen.training` then
            trains by AdamW with averaged weights.
        stream: the batches of an objective; empty ones by default.
        update: the update rule of an objective's players.
        before: number of steps before the interruption, at least 1.
        after: number of steps after the interruption, at least 1.
        seed: random seed for torch's global generator, whose state is restored afterwards.

    Raises:
        ValueError: for `before` or `after` below 1.

    >>> class Noisy:  # its momentum is not in its state
    ...     def __init__(self):
    ...         self.w = torch.zeros(2, requires_grad=True)
    ...         self.optimizer = torch.optim.SGD([self.w], lr=0.1, momentum=0.9)
    ...     def step(self):
    ...         self.optimizer.zero_grad()
    ...         (self.w - 1).square().sum().backward()
    ...         self.optimizer.step()
    ...     def state_dict(self):
    ...         return {"w": self.w.detach()}
    ...     def load_state_dict(self, state):
    ...         self.w.data = state["w"]
    >>> [e.claim for e in resume(Noisy).failed]
    ['state entries that differ: resumed and uninterrupted run', 'tensors that differ: resumed and uninterrupted run']
    """
    if before < 1 or after < 1:
        raise ValueError(f"before and after must be at least 1 step, got {before} and {after}")

    def made() -> Run:
        found = make()
        return _Training(found, stream, update) if isinstance(found, Objective) else found

    checked_seed(seed)
    with torch.random.fork_rng():
        return Report.of(list(_resumed(made, before, after, seed)))


def _resumed(make: Callable[[], Run], before: int, after: int, seed: int) -> Iterator[Evidence]:
    def uninterrupted() -> tuple[dict[str, Any], dict[str, Any]]:
        begin_globally(seed)
        run = make()
        for _ in range(before + after):
            run.step()
        return _entries(run.state_dict()), _held(run)

    (whole, holds), (again, _) = uninterrupted(), uninterrupted()
    yield close("state entries that differ: two uninterrupted runs", 0.0, _differing(whole, again), 0.0)
    begin_globally(seed)
    first = make()
    for _ in range(before):
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    saved = _entries(first.state_dict())
    yield bounded("state entries that later steps change", _differing(saved, whole), 1.0, relation="at least")
    begin_globally(derived(seed, "in between"))
    torch.randn(7)  # whatever happens in between
    second = make()
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    loaded = _entries(second.state_dict())
    yield close("state entries that differ: saved and loaded", 0.0, _differing(saved, loaded), 0.0)
    for _ in range(after):
        second.step()
    resumed = _entries(second.state_dict())
    yield close("state entries that differ: resumed and uninterrupted run", 0.0, _differing(whole, resumed), 0.0)
    yield close(
        "tensors that differ: resumed and uninterrupted run",
        0.0,
        _differing(holds, _held(second)),
        0.0,
    )


class _Training:
    """An objective trained by `jensen.training`."""

    def __init__(self, objective: Objective, stream: Stream | None, update: Update):
        players = {
            name: Player(parameters, torch.optim.AdamW(parameters, lr=1e-2), lambda _: 1e-2, clip=1.0)
            for name, parameters in partition(objective).items()
        }
        self.state = TrainState(objective, players, decay=warm_decay(0.9))
        self.stream: Stream = stream or (lambda _: itertools.repeat({}))
        self.update = update
        self.batches: Iterator[Batch] | None = None

    def step(self) -> None:
        if self.batches is None:
            self.batches = self.stream(self.state.draws)
        train_step(self.state, self.batches, update=self.update)

    def state_dict(self) -> dict[str, Any]:
        return self.state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state)
        self.batches = None


def _entries(state: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a nested state by their paths; tensors are copied."""
    if isinstance(state, Mapping):
        return {k: v for name, part in state.items() for k, v in _entries(part, f"{path}/{name}").items()}
    if isinstance(state, list | tuple):
        return {k: v for j, part in enumerate(state) for k, v in _entries(part, f"{path}/{j}").items()}
    return {path: state.detach().clone() if isinstance(state, Tensor) else copy.copy(state)}


def _held(run: object) -> dict[str, Tensor]:
    """Copies of all tensors that can be reached from a run, and of the states of generators, by their paths."""
    found: dict[str, Tensor] = {}
    met: dict[int, object] = {}  # kept alive, so that no address is used twice

    def walk(value: Any, path: str) -> None:
        if id(value) in met or isinstance(value, str | bytes | int | float | type | ModuleType):
            return
        met[id(value)] = value
        for name, part in _parts(value):
            walk(part, f"{path}/{name}")
        if isinstance(value, Tensor):
            found[path] = value.detach().clone()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            found[path] = torch.from_numpy(value.copy())
        elif isinstance(value, torch.Generator):
            found[path] = value.get_state()
        elif isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
            found[path] = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)

    walk(run, "")
    return found


def _parts(value: Any) -> Iterable[tuple[object, Any]]:
    """The parts of a value."""
    if isinstance(value, Tensor | np.ndarray | torch.Generator | np.random.Generator | random.Random):
        return []
    if isinstance(value, torch.optim.Optimizer):
        return [("state", value.state_dict())]
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | set | deque):
        return list(enumerate(value))
    if isinstance(value, MethodType | BuiltinMethodType):
        return [("self", value.__self__)]
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(name, cell.cell_contents) for name, cell in cells if _filled(cell)]
    if isinstance(value, partial):
        return [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    slots = [name for cls in type(value).__mro__ for name in _slots(cls) if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).items(), *((name, getattr(value, name)) for name in slots)]


def _slots(cls: type) -> tuple[str, ...]:
    """Attributes that are not in `__dict__`, such as those of `dataclass(slots=True)`."""
    names = vars(cls).get("__slots__", ())
    return tuple(n for n in ((names,) if isinstance(names, str) else names) if n not in ("__dict__", "__weakref__"))


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (asked for its error)
    except ValueError:
        return False
    return True


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return float(sum(not (k in a and k in b and _same(a[k], b[k])) for k in {*a, *b}))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def data_parallel(
    gradient: Objective | Callable[[Batch], Tensor],
    batch: Batch,
    *,
    processes: int = 2,
    tolerance: float | None = None,
) -> Report:
    r"""Whether n processes, each with a share of the rows, compute the gradient of one process with all rows.

    $\frac1n \sum_r g(\text{rows } r, r + n, ...) = g(\text{all rows})$, which requires a loss that is a mean over
    independent rows; and in a gloo group of n processes, each process ends with this gradient.

    Args:
        gradient: maps rows to a gradient (N,): that of this process, or, if a process group is initialised, that of the
            group (which `DistributedDataParallel`, or an explicit mean, leaves in `.grad`); or an objective, whose
            gradients `jensen.training` takes. Without draws.
        batch: rows, whose number is a multiple of the number of processes; these are forked from this process and run
            on the CPU.
        processes: n, at least 2.
        tolerance: relative to the largest entry; 1e-12 for an objective, which is tested in double precision, and 1e-5
            otherwise.

    Raises:
        ValueError: for fewer than 2 processes, a number of rows that is not a multiple of it, or a process group that
            is already initialised.
        RuntimeError: if a process fails.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> def summed(rows):  # a sum over rows where a mean is wanted
    ...     loss = (rows["x"] @ w).square().sum()
    ...     (g,) = torch.autograd.grad(loss, w)
    ...     if dist.is_initialized():
    ...         dist.all_reduce(g)
    ...         g /= dist.get_world_size()
    ...     return g
    >>> data_parallel(summed, {"x": torch.eye(2).repeat(2, 1)}).holds
    False
    """
    if processes < 2:
        raise ValueError(f"processes must be at least 2, got {processes}")
    if dist.is_initialized():
        raise ValueError("this process must not be in a process group")
    for name, value in batch.items():
        if len(value) % processes:
            raise ValueError(f"batch {name!r} of {len(value)} rows does not divide by {processes} processes")
    if isinstance(gradient, Objective):
        return Report.of(_parallel(_gradient_of(gradient), batch, processes, tolerance or 1e-12))
    return Report.of(_parallel(gradient, batch, processes, tolerance or 1e-5))


def _gradient_of(objective: Objective) -> Callable[[Batch], Tensor]:
    """All players' gradients from one forward pass, computed as in a training step."""

    def gradient(batch: Batch) -> Tensor:
        game = Frozen(objective, batch)
        players = {name: Player(p, torch.optim.SGD(p, lr=1.0), lambda _: 1.0) for name, p in game.owned.items()}
        names = tuple(players)
        gradients(TrainState(game, players), names, lambda: iter([game(names, game.batch, 0)]))
        return torch.cat([p.grad.reshape(-1) for p in game.flat if p.grad is not None])

    return gradient


def _parallel(
    gradient: Callable[[Batch], Tensor], batch: Batch, processes: int, tolerance: float
) -> Iterator[Evidence]:
    shares = [{name: value[r::processes] for name, value in batch.items()} for r in range(processes)]
    whole = gradient(batch).detach().cpu()
    allowed = tolerance * float(whole.abs().max())
    apart = torch.stack([gradient(rows).detach().cpu() for rows in shares]).mean(0)
    yield close("the mean gradient of the shares is the gradient of all rows", whole, apart, allowed)
    for rank, found in enumerate(_together(gradient, shares)):
        yield close(f"process {rank} of {processes} ends with the gradient of all rows", whole, found, allowed)


def _together(gradient: Callable[[Batch], Tensor], shares: list[dict[str, Tensor]]) -> list[Tensor]:
    """The results of a group of processes, one for each share."""
    context = multiprocessing.get_context("fork")  # so that any function will do
    with tempfile.TemporaryDirectory() as folder:
        store, ends, started = Path(folder) / "store", [], []
        for rank, rows in enumerate(shares):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(gradient, rows, rank, len(shares), store, there), daemon=True)
            process.start()
            there.close()
            ends.append(here)
            started.append(process)
        try:
            return [_received(rank, end) for rank, end in enumerate(ends)]
        finally:
            for process in started:
                process.join(5)
                process.kill()
                process.join()


def _received(rank: int, end: Connection) -> Tensor:
    if not end.poll(PATIENCE):
        raise RuntimeError(f"process {rank} did not answer for {PATIENCE} seconds")
    try:
        found, error = end.recv()
    except EOFError:
        raise RuntimeError(f"process {rank} ended without a result") from None
    if error:
        raise RuntimeError(f"process {rank} failed: {error}")
    return torch.from_numpy(found)


def _work(
    gradient: Callable[[Batch], Tensor], rows: Batch, rank: int, world: int, store: Path, end: Connection
) -> None:
    torch.set_num_threads(1)  # a forked process has no other
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=PATIENCE / 2),
        )
        found, error = gradient(rows).detach().cpu().numpy(), ""
        dist.barrier()
    except Exception as broken:  # noqa: BLE001 (whatever it was, the other side wants to know)
        found, error = None, f"{type(broken).__name__}: {broken}"
    end.send((found, error))
    if dist.is_initialized():
        dist.destroy_process_group()

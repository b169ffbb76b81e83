"""Several processes: in training each draws its own rows, and gradients are averaged; rows to judge are shared out."""

from __future__ import annotations

import atexit
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from jensen.core.failure import Left
from jensen.core.types import Batch, Draws, Stream, mapped

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # the first process draws previews while the others wait; one that ends is noticed at once
ENDED = "another process of this run has ended or no longer answers: its own message, if there is one, says why"


def start() -> tuple[int, int]:
    """Join the group that `torchrun` set up, if it did; returns (rank, number of processes).

    The group is always left when the interpreter exits: otherwise gloo's threads release their last tensors without an
    interpreter, which occasionally aborts the process. After a restart by `torchrun` the addresses of the former
    processes are still in its store, under the same names, and so are those of a group that was left: each restart and
    each group has a prefix for its own.
    """
    if not dist.is_available() or not launched():
        return 0, 1
    if not dist.is_initialized():
        store, mine, world = next(rendezvous("env://"))
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        fresh = dist.PrefixStore(f"restart {restart}, group {len(_stores)}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=fresh, rank=mine, world_size=world, timeout=PATIENCE)
        _stores.append(fresh)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        atexit.register(leave)
        together()  # nobody leaves while another is still connecting
    return dist.get_rank(), dist.get_world_size()


_stores: list[dist.Store] = []  # of the group that this process has joined


def speaks() -> bool:
    """Whether this process is to say why it ends: the first of its group to ask, so that one sentence is said."""
    if not launched():
        return True
    try:
        return bool(_stores[-1].add("said", 1) == 1) if _stores else os.environ["RANK"] == "0"
    except RuntimeError:  # the process that held the store has ended before
        return False


@contextmanager
def _waiting() -> Iterator[None]:
    """Around every message: a process that the others have left ends, too."""
    try:
        yield
    except RuntimeError as error:
        raise Left(ENDED) from error


@contextmanager
def calling() -> Iterator[None]:
    """Around work that sends messages inside torch (FSDP2, checkpoints of shards): the same for `lost` errors."""
    try:
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        raise Left(ENDED) from error


def lost(error: Exception) -> bool:
    """Whether an error says that another process has ended; gloo's have no class, but begin with a place in it."""
    known = (Left, dist.DistError) if dist.is_available() else Left
    return isinstance(error, known) or "gloo/" in str(error)


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch() -> str:
    """The name of the launch by `torchrun`, which stays the same when it restarts its processes; "" without one."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def restarted() -> bool:
    """Whether `torchrun` has restarted its processes after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def stop() -> None:
    """Leave the group once every process has reached this point."""
    together()
    leave()


def together() -> None:
    """Wait until every process has reached this point."""
    if processes() > 1:
        with _waiting():
            dist.barrier()


def leave() -> None:
    """Leave the group immediately, if there is one: the other processes may be gone."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """The number of processes that train together; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one message; a single process does nothing.

    DistributedDataParallel expects gradients of every parameter in every backward pass, but alternating phases compute
    only some; an explicit mean works for both.
    """
    average_over_processes([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message."""
    if processes() == 1 or not tensors:
        return
    flat = torch.cat([v.to_dense().reshape(-1) for v in tensors])
    with _waiting():
        dist.all_reduce(flat)
    flat /= processes()
    for own, mean in zip(tensors, flat.split([v.numel() for v in tensors]), strict=True):
        own.copy_(mean.view(own.shape).to_sparse(1) if own.is_sparse else mean.view(own.shape))


def shard(stream: Stream, rank: int, world: int) -> Stream:
    """The rows rank, rank + world, ... of every batch; `Draws` draw no others.

    Raises:
        ValueError: if the number of rows of a batch is not a multiple of the number of processes.
    """
    rows = slice(rank, None, world)

    def own(batch: Batch) -> Batch:
        for name, value in batch.items():
            _refuse_undivided(repr(name), len(value), world)
        return {name: value[rows] for name, value in batch.items()}

    if world == 1:
        return stream
    if isinstance(stream, Draws):
        _refuse_undivided("batch_size", stream.batch_size, world)
        return replace(stream, rows=rows)
    return mapped(stream, own)


def _refuse_undivided(what: str, rows: int, world: int) -> None:
    if rows % world:
        raise ValueError(f"{what} must be a multiple of {world}, the number of processes, got {rows}")


def rank() -> int:
    """The rank of this process; 0 without a group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def collect(value: object) -> list[Any]:
    """The values of all processes, in order of rank, for the first process; nothing for the others."""
    if processes() == 1:
        return [value]
    found: list[Any] = [None] * processes() if rank() == 0 else []
    with _waiting():
        dist.gather_object(value, found or None)
    return found


def agree(value: float) -> float:
    """The first process's number, in every process."""
    if processes() == 1:
        return value
    message = torch.tensor([value], dtype=torch.float64)
    with _waiting():
        dist.broadcast(message, 0)
    return message.item()


def told(value: Any) -> Any:
    """The first process's value, in every process."""
    if processes() > 1:
        message = [value]
        with _waiting():
            dist.broadcast_object_list(message)
        value = message[0]
    return value


def anywhere(words: str) -> str:
    """The words of the first process that has any, in every process; "" if none has."""
    if processes() == 1:
        return words
    found: list[str] = [""] * processes()
    with _waiting():
        dist.all_gather_object(found, words)
    return next(filter(None, found), "")


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each number over the processes, which must all hold the same names in the same order."""
    if processes() == 1 or not values:
        return dict(values)
    message = torch.tensor([*values.values()], dtype=torch.float64)
    with _waiting():
        dist.all_reduce(message)
    return dict(zip(values, (message / processes()).tolist(), strict=True))


def anyone(happened: bool) -> bool:
    """Whether it happened in any process."""
    return mean({"happened": float(happened)})["happened"] > 0


def first() -> bool:
    """Whether this process prints and writes what all of them have made: outside `sharing` every process does."""
    return not _shared.get() or rank() == 0


_shared = ContextVar("_shared", default=False)


@contextmanager
def sharing(on: bool = True) -> Iterator[None]:
    """Context manager: every process of the group makes the same calls, and `divided` shares their rows out."""
    token = _shared.set(on)
    try:
        yield
    finally:
        _shared.reset(token)


def divided(f: Callable[[slice], T], n: int, size: int, advance: Callable[[int], None] = lambda _: None) -> list[T]:
    """The values of f for n rows in chunks of `size`, in the order of the rows.

    Inside `sharing` the processes take the chunks in turn and each gets all values: those of one process, if f(rows)
    depends on the rows alone, for example by a generator for each row or chunk.

    Args:
        f: called with the slice of a chunk; its tensors are moved to the device of the process that receives them.
        n: number of rows.
        size: rows of a chunk, at least 1.
        advance: called with the number of rows that all processes have just done.

    Raises:
        Left: if another process has ended.

    >>> divided(lambda rows: list(range(10))[rows], 10, 4)
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """
    mine, world = (rank(), processes()) if _shared.get() else (0, 1)
    chunks = [slice(k, min(k + size, n)) for k in range(0, max(n, 1), size)]
    found = []
    with sharing(False):  # f may be divided elsewhere
        for k in range(0, len(chunks), world):
            turn = chunks[k : k + world]
            found += [f(rows) for rows in turn[mine : mine + 1]]
            advance(turn[-1].stop - turn[0].start)
    every = _exchanged(found) if world > 1 else [found]
    return [every[k % world][k // world] for k in range(len(chunks))]


def _exchanged(value: T) -> list[T]:
    """The values of all processes, in order of rank, for every process, with tensors on its own device."""
    message, every = io.BytesIO(), [b""] * processes()
    torch.save(value, message)
    with _waiting():
        dist.all_gather_object(every, message.getvalue())
    here = {f"cuda:{k}": f"cuda:{torch.cuda.current_device()}" for k in range(torch.cuda.device_count())}
    return [torch.load(io.BytesIO(sent), map_location=here, weights_only=False) for sent in every]

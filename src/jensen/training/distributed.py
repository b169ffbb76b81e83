"""Data-parallel training: each process draws its own rows, and gradients are averaged."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from jensen.core.types import Batch, Draws, Stream, mapped


def start() -> tuple[int, int]:
    """Join the group that `torchrun` set up, if it did; returns (rank, number of processes).

    The group is always left when the interpreter exits: otherwise gloo's threads release their last tensors without an
    interpreter, which occasionally aborts the process. After a restart by `torchrun` the addresses of the former
    processes are still in its store, under the same names: each restart has a prefix for its own.
    """
    if not dist.is_available() or not launched():
        return 0, 1
    if not dist.is_initialized():
        store, mine, world = next(rendezvous("env://"))
        fresh = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=fresh, rank=mine, world_size=world)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        atexit.register(leave)
    return dist.get_rank(), dist.get_world_size()


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
    if processes() > 1:
        dist.barrier()
    leave()


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
    dist.gather_object(value, found or None)
    return found


def agree(value: float) -> float:
    """The first process's number, in every process."""
    if processes() == 1:
        return value
    message = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(message, 0)
    return message.item()


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each number over the processes, which must all hold the same names in the same order."""
    if processes() == 1 or not values:
        return dict(values)
    message = torch.tensor([*values.values()], dtype=torch.float64)
    dist.all_reduce(message)
    return dict(zip(values, (message / processes()).tolist(), strict=True))


def anyone(happened: bool) -> bool:
    """Whether it happened in any process."""
    return mean({"happened": float(happened)})["happened"] > 0

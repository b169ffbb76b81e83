"""Speed and memory of training with one and with two processes on one machine, replicated and divided.

    python benchmarks/scaling.py --json scaling.json

The same batch of random rows is trained on by one process with one thread, by one process with two threads, and by two
processes (gloo) with one thread each, whose weights are replicated or divided (`training.sharding=fully`). They take
turns in one run. Column "speed": steps per second divided by those of the first row, the median over turns with minimum
and maximum. The time of the message that asks all processes whether a signal has arrived is a share of a step of two
processes with replicated weights; in a run it is sent once a step.

Memory is counted in float32 for a network that is so wide that its activations do not matter: the bytes of all storages
of the process, at rest after a step, and at most during one. Formulas, in bytes a parameter and process, for N
processes: weights 4, gradients 4, Adam's moments 8, average 4:

- one process: 20 at rest and during a step;
- replicated: 20 at rest; the message of all gradients adds 4 during a step;
- divided: 20 / N at rest. At the end of the backward pass there are the shares without gradients (16 / N), whole
  weights (4), the message of all gradients (4), gloo's copy of it (4), the share that each process receives (4 / N),
  and the gradient of one layer, which torch still holds: 12 + 20 / N, and 4 / L for L layers of the same size.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.multiprocessing import get_context
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer import Option

from jensen import configure
from jensen.core.objective import Objective
from jensen.core.types import Loss
from jensen.data.dataset import Data
from jensen.data.pool import Tensors
from jensen.recipes.settings import Training as Settings
from jensen.training import Budget, TrainState, train_step
from jensen.training.distributed import anyone, shard, start
from jensen.training.sharding import divide
from machine import facts, table, write_json
from ours import Training, prepare
from turns import Contender, take_turns

RECIPES = ("digits-ddpm", "captcha")
PROCESSES, WAYS = 2, ("replicated", "fully")
BURST, ASKED = 4, 2000  # steps between two messages of the parent; signals that are asked for
WIDTH, LAYERS, ROWS = 1024, 6, 2  # of the network whose memory is counted
NAMES = {"replicated": "2 processes, replicated", "fully": "2 processes, divided"}


def training(name: str, sharding: str = "replicated", mine: int = 0, world: int = 1) -> Training:
    """A recipe before its first step, on random rows of its data's space; a process has its rows of each batch."""
    recipe = configure(name, [f"training.sharding={sharding}", "training.steps=1000000"])
    space, n = recipe.data.known(), 4 * recipe.training.batch_size
    torch.manual_seed(0)
    rows = {"x": 2 * torch.rand(n, *space.shape) - 1}
    if space.cond is not None:
        rows["cond"] = torch.randint(space.cond.size, (n, space.cond.width))
    made = prepare(recipe, Data("random rows", "", space, Tensors(**rows), Tensors(**rows)))
    made.batches = shard(made.stream, mine, world)(0)
    return made


# memory ----------------------------------------------------------------------------------------


class Storages(TorchDispatchMode):
    """The bytes of all storages that operations return while they are alive: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.most = 0

    def hold(self, x: torch.Tensor) -> None:
        """Count a tensor's storage."""
        storage = x.untyped_storage()
        key = storage._cdata
        self.alive[key] = weakref.ref(storage, lambda _: self.alive.pop(key, None))

    def bytes(self) -> int:
        """The bytes that are held now."""
        return sum(s.nbytes() for ref in list(self.alive.values()) if (s := ref()) is not None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, torch.Tensor) and hasattr(kind, "full_tensor") for kind in types):
            return NotImplemented  # the operations on its parts are seen
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if type(x) in (torch.Tensor, nn.Parameter):
                self.hold(x)
        self.most = max(self.most, self.bytes())
        return out


class Wide(Objective):
    """The mean square of a wide network's values."""

    def __init__(self) -> None:
        super().__init__()
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU())]
        self.model = nn.Sequential(*layers)

    def forward(self, players: tuple[str, ...], batch: Any, step: int) -> dict[str, Loss]:
        return {"model": Loss.of(self.model(batch["x"]).square().mean())}


def memory(sharding: str) -> dict[str, float]:
    """Bytes a parameter of this process, at rest after a step and at most during the next."""
    storages = Storages()
    with storages:
        objective = Wide()
        parameters = sum(p.numel() for p in objective.parameters())
        if sharding == "fully":
            divide(objective)
        settings = Settings(steps=10, sharding=sharding)
        state = TrainState(objective, settings.players(objective, Budget(steps=10)), decay=settings.average_decays())
        batches = iter([{"x": torch.randn(ROWS, WIDTH)}] * 3)
        for _ in range(2):
            storages.most = 0
            train_step(state, batches)
    return {"rest": storages.bytes() / parameters, "peak": storages.most / parameters}


def formula(sharding: str, world: int) -> dict[str, float]:
    """The same numbers by the formulas above."""
    if world == 1:
        return {"rest": 20.0, "peak": 20.0}
    if sharding == "replicated":
        return {"rest": 20.0, "peak": 24.0}
    return {"rest": 20 / world, "peak": 12 + 20 / world + 4 / LAYERS}


# two processes ---------------------------------------------------------------------------------


def work(mine: int, port: int, orders: Connection) -> None:
    """One of the processes: does what it is told, and answers."""
    torch.set_num_threads(1)
    said = {"RANK": mine, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in (said | {"TORCHELASTIC_RUN_ID": "scaling"}).items()})
    start()
    ready: dict[tuple[str, str], Training] = {}
    while (order := orders.recv()) is not None:
        what, *given = order
        if what == "prepare":
            ready = {(given[0], way): training(given[0], way, mine, PROCESSES) for way in WAYS}
            orders.send(None)
        elif what == "step":
            for _ in range(BURST):
                ready[given[0], given[1]].step()
            orders.send(None)
        elif what == "ask":
            begun = perf_counter()
            for _ in range(ASKED):
                anyone(False)
            orders.send((perf_counter() - begun) / ASKED)
        elif what == "memory":
            orders.send(memory(given[0]))


class Group:
    """The processes, told what to do together."""

    def __init__(self) -> None:
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        context = get_context("spawn")
        self.orders, self.members = [], []
        for mine in range(PROCESSES):
            here, there = context.Pipe()
            self.members.append(context.Process(target=work, args=(mine, port, there), daemon=True))
            self.orders.append(here)
            self.members[-1].start()
            there.close()

    def __call__(self, *order: str) -> list[Any]:
        """The answers of all processes to an order."""
        for connection in self.orders:
            connection.send(order)
        return [connection.recv() for connection in self.orders]

    def end(self) -> None:
        """End the processes and wait for them."""
        for connection, member in zip(self.orders, self.members, strict=True):
            connection.send(None)
            member.join()


def alone(name: str, threads: int) -> Callable[[], int]:
    """Steps of one process with so many threads."""
    made = training(name)

    def go() -> int:
        torch.set_num_threads(threads)
        for _ in range(BURST):
            made.step()
        return BURST

    return go


def together(group: Group, name: str, way: str) -> Callable[[], int]:
    """Steps of all processes."""

    def go() -> int:
        group("step", name, way)
        return BURST

    return go


def speeds(group: Group, name: str, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Steps per second of all contenders, and the time of the message about signals."""
    group("prepare", name)
    found = [Contender(f"1 process, {k} thread{'s' * (k > 1)}", alone(name, k)) for k in (1, 2)]
    found += [Contender(NAMES[way], together(group, name, way)) for way in WAYS]
    take_turns(name, found, repeats=repeats, seconds=seconds)
    rows = []
    for c in found:
        ratios = [b / a for a, b in zip(found[0].speeds, c.speeds, strict=True)]
        spread = {"speed": median(ratios), "speed_low": min(ratios), "speed_high": max(ratios)}
        rows.append({"recipe": name, "who": c.name, "steps_per_second": c.speed, **spread, "turns": c.speeds})
    message = median(max(group("ask")) for _ in range(repeats))
    rows[2] |= {"message": message, "share": message * rows[2]["steps_per_second"]}
    return rows


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table of speeds."""
    speed = f"{row['speed']:.2f}x [{row['speed_low']:.2f}, {row['speed_high']:.2f}]"
    message = f"{1e6 * row['message']:.0f} us, {row['share']:.1%}" if "message" in row else ""
    return row["recipe"], row["who"], f"{row['steps_per_second']:.1f}", speed, message


def main(
    repeats: Annotated[int, Option(min=1, help="Turns of each contender.")] = 7,
    seconds: Annotated[float, Option(min=0.1, help="Length of a turn.")] = 3.0,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Speed and memory of training with one and with two processes, replicated and divided."""
    busy = os.getloadavg()[0]
    group = Group()
    rows = [row for name in RECIPES for row in speeds(group, name, repeats, seconds)]
    counted = [("1 process", "replicated", 1, [memory("replicated")])]
    counted += [(NAMES[way], way, PROCESSES, group("memory", way)) for way in WAYS]
    group.end()
    about = {**facts(), "load at the start": f"{busy:.2f}"}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{repeats} turns of {seconds:g} s", end="\n\n")
    print(table(("recipe", "processes", "steps/s", "speed", "message, share of a step"), [show(row) for row in rows]))
    bytes_of = []
    for who, way, world, found in counted:
        seen = {key: max(one[key] for one in found) for key in ("rest", "peak")}
        bytes_of.append({"who": who, "measured": seen, "formula": formula(way, world)})
    print(f"\nbytes a parameter and process, of {LAYERS * WIDTH**2:,} parameters")
    cells = [
        (b["who"], *(f"{b[kind][key]:.2f}" for key in ("rest", "peak") for kind in ("measured", "formula")))
        for b in bytes_of
    ]
    print(table(("processes", "at rest", "formula", "in a step", "formula"), cells))
    write_json(json_file, {"facts": about, "rows": rows, "memory": bytes_of})


if __name__ == "__main__":
    typer.run(main)

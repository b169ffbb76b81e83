"""Two processes compute the gradient of one process and remain equal; resuming is exact."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import traceback

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import jensen.recipes.settings
from games import ring
from jensen.cli.main import main
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.data.pool import pool_stream
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.runs.opening import open_data, read_config
from jensen.training import Budget, fit
from jensen.training.distributed import collect, rank, shard, start, stop
from jensen.training.journal import read_journal
from test_cli import train_words
from test_training import new_state


class Square(Objective):
    """Without random draws, so that one and two processes must agree."""

    phases = (Phase(("a",)), Phase(("b",)))

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.b = nn.Linear(2, 3), nn.Linear(3, 1)

    def players(self):
        return {"a": self.model.parameters(), "b": self.b.parameters()}

    def forward(self, players, batch, step):
        total = self.b(self.model(batch["x"]).tanh()).square().mean()
        return {name: Loss.of(total) for name in players}


class Table(Objective):
    """Sparse gradients with different rows in each process."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Embedding(512, 2, sparse=True)

    def forward(self, players, batch, step):
        return {"model": Loss.of((self.model(batch["index"]) - batch["x"]).square().mean())}


def trained(mine, world):
    """The parameters of both games after five steps."""
    stream = pool_stream(32, seed=0, x=ring(), index=torch.arange(len(ring())))
    states = [new_state(game, optimizer=torch.optim.SGD) for game in (Square(), Table())]
    for state in states:
        fit(state, shard(stream, mine, world), Budget(steps=5))
    return torch.cat([p.detach().flatten() for state in states for p in state.objective.parameters()])


def together(work):
    """Run `work` in two forked processes, with torchrun's environment variables and all modules imported.

    `work` returns None or an exit code.
    """
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    said = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "here"}
    pids = []
    for mine in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                os.environ.update({name: str(value) for name, value in (said | {"RANK": mine}).items()})
                atexit._clear()
                code = work() or 0
                atexit._run_exitfuncs()
            except BaseException:  # noqa: BLE001 (a child that went on would run the other tests)
                traceback.print_exc()
            finally:
                os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0, 0]


def test_two_processes_give_the_one_process_training_and_leave_their_group_at_the_end(tmp_path):
    def work():
        # registered before the process group is joined, so it runs last, after the group is destroyed
        atexit.register(lambda: os._exit(3) if torch.distributed.is_initialized() else None)
        mine, world = start()
        flat = trained(mine, world)
        found = collect(flat)
        assert all(torch.equal(v, flat) for v in found)
        if mine == 0:
            assert len(found) == world == 2
            torch.save(flat, tmp_path / "two.pt")

    together(work)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.testing.assert_close(trained(0, 1), two, rtol=1e-6, atol=1e-7)


def test_shards_partition_a_batch():
    stream = pool_stream(8, seed=0, x=torch.arange(100))
    whole = next(stream(3))["x"]
    parts = [next(shard(stream, r, 2)(3))["x"] for r in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(), whole)
    with pytest.raises(ValueError, match="does not divide by 3 processes"):
        next(shard(stream, 0, 3)(0))


def torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_trains_on_two_processes_and_resumes_bit_for_bit(tmp_path):
    """torchrun with gloo on CPUs: the random states of both processes are saved; one process writes."""

    def words(name):
        return train_words(tmp_path / name, "--no-evaluate", "--set", "training.previews=0")

    said = torchrun("-m", "jensen", *words("whole"))
    assert said.count("trained:") == 1
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    (tmp_path / "part" / "state" / "000000006.pt").unlink()
    (tmp_path / "part" / "model.safetensors").unlink()
    goes_on = ["train", "captcha", "--out", str(tmp_path / "part"), "--resume", "--no-evaluate"]
    together(lambda: main(goes_on))
    assert main(words("alone")) == 0
    whole, part, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part", "alone"))
    assert same(whole, part)
    assert not same(whole, alone)  # the second process has other noise


_BRIEF = ["training.steps=8", "training.save_every=4", "training.previews=0", "training.batch_size=8"]
ALONE = [*_BRIEF, "training.log_every=4", "data.points=100"]
apart = {  # small recipes whose processes have different buffers
    "digits-cyclegan": [
        *_BRIEF,
        "training.log_every=4",
        *("weights.pool=6", "network.width=8", "network.blocks=1", "network.critic=[8]", "data.printed=60"),
    ],
    "digits-gan": [
        *_BRIEF,
        *("training.batch_size=48", "game.augmentation=adaptive", "training.rate=0.05"),
        *("network.width=4", "network.critic_width=16"),
    ],
}


def _resumes(out):
    """Train each recipe, and resume it from the middle; continue the run that one process began."""
    start()
    for name, words in apart.items():
        recipe = configure(name, words)
        running.train(recipe, out / name)
        if rank() == 0:
            shutil.copytree(out / name, out / f"{name}-resumed")
            (out / f"{name}-resumed" / "state" / "000000008.pt").unlink()
        torch.distributed.barrier()
        running.train(recipe, out / f"{name}-resumed", resume=True)
    running.train(configure("ring-gan", [*ALONE, "training.steps=12"]), out / "alone", resume=True)
    stop()


def test_pools_and_adaptive_augmentation_of_two_processes_resume_bit_for_bit(tmp_path, monkeypatch):
    """The buffers of both processes are saved. One process continues with those of the first; two continue with
    copies of those of one.
    """
    running.train(configure("ring-gan", ALONE), tmp_path / "alone")
    together(lambda: _resumes(tmp_path))
    for name in apart:
        whole, part = (tmp_path / name, tmp_path / f"{name}-resumed")
        ours, theirs = (load_file(run / "model.safetensors") for run in (whole, part))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        ours, theirs = (torch.load(run / "state" / "000000008.pt", weights_only=True) for run in (whole, part))
        assert same(ours["objective"], theirs["objective"])
        assert len(ours["processes"]) == 2
        for mine, other in zip(ours["processes"], theirs["processes"], strict=True):
            assert torch.equal(mine["rng"], other["rng"])
            assert same(mine["buffers"], other["buffers"])
        assert ours["processes"][1]["buffers"]  # there are such buffers
    notes = [line["note"] for line in read_journal(tmp_path / "alone" / "journal.jsonl") if "note" in line]
    assert notes == ["2 processes instead of 1: new random state", "continued to 12 steps from 8 steps"]
    for now, mine, takes, said in (
        (1, 0, 0, "1 process instead of 2: new random state; buffers of process 1 are left out"),
        (3, 1, 1, "3 processes instead of 2: new random state; copies of the others' buffers in process 2"),
        (4, 2, 0, "4 processes instead of 2: new random state; copies of the others' buffers in processes 2 to 3"),
    ):
        monkeypatch.setattr(running, "processes", lambda now=now: now)
        monkeypatch.setattr(running, "rank", lambda mine=mine: mine)
        _takes_over(tmp_path / "digits-cyclegan", takes, said)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def _takes_over(folder, takes, said):
    """Resumed with another number of processes, a process uses the pools of the former process `takes`."""
    saved = torch.load(folder / "state" / "000000008.pt", weights_only=True)
    kept = saved["objective"] | saved["processes"][takes]["buffers"]
    recipe = read_config(folder)
    objective, budget = running.new_objective(recipe, open_data(recipe)), recipe.training.budget()
    (note,) = running._restore(recipe, running.new_state(recipe, objective, budget), budget, saved, folder)
    assert note == said
    assert same(dict(kept), dict(objective.state_dict()))


def test_packs_that_do_not_divide_a_processes_rows_are_refused_at_the_start(tmp_path, monkeypatch):
    recipe = configure("grid-pacgan", ["training.batch_size=8", "game.packing=8", "data.points=100"])
    monkeypatch.setattr(jensen.recipes.settings, "processes", lambda: 2)
    with pytest.raises(ValueError, match=r"game\.packing must divide the 4 examples of a batch, got 8"):
        running.train(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of 2 .*, got 9"):
        running.train(configure("ring-gan", ["training.batch_size=9"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()

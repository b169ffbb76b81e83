"""Two processes give the one-process gradient, and stay equal; resume of both is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import jensen.recipes.base
from jensen.cli.main import main
from jensen.data.pool import pool_stream
from jensen.recipes import configure, running
from jensen.training.distributed import shard
from jensen.training.journal import read_journal
from test_cli import train_words

PROGRAM = """
import atexit
import os
import sys
sys.path.insert(0, {tests!r})
import torch
from torch import nn
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.training import Budget, TrainState, fit
from jensen.training.distributed import collect, rank, shard, start
from games import ring_stream
from test_training import new_state

class Square(Objective):
    # deterministic: (critic and model) so that one process and two must agree
    phases = (Phase(("a",)), Phase(("b",)))
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.b = nn.Linear(2, 3), nn.Linear(3, 1)
    def players(self):
        return {{"a": self.model.parameters(), "b": self.b.parameters()}}
    def forward(self, players, batch, step):
        total = self.b(self.model(batch["x"]).tanh()).square().mean()
        return {{name: Loss.of(total) for name in players}}

# registered before the group is joined, so that it runs last: no group is left by then
atexit.register(lambda: os._exit(3) if torch.distributed.is_initialized() else None)
torch.set_num_threads(1)
mine, world = start()
state = new_state(Square(), optimizer=torch.optim.SGD)
fit(state, shard(ring_stream(), mine, world), Budget(steps=5))
flat = torch.cat([p.detach().flatten() for p in state.objective.parameters()])
same = collect(flat)
assert all(torch.equal(v, flat) for v in same)
if mine == 0:
    assert len(same) == world
    torch.save(flat, sys.argv[1])
"""


def launch(program: Path, out: Path, processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = command if processes > 1 else [sys.executable]
    done = subprocess.run([*command, str(program), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_two_processes_give_the_one_process_training(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    for n in (1, 2):
        launch(program, tmp_path / f"{n}.pt", n)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_shards_partition_a_batch():
    stream = pool_stream(8, seed=0, x=torch.arange(100))
    whole = next(stream(3))["x"]
    parts = [next(shard(stream, r, 2)(3))["x"] for r in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(), whole)
    with pytest.raises(ValueError, match="does not divide by 3 processes"):
        next(shard(stream, 0, 3)(0))


def test_the_command_trains_on_two_processes_and_resumes_bit_for_bit(tmp_path):
    """torchrun, gloo, on CPUs: both processes' random numbers are kept; one process writes."""

    def torchrun(*words):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "jensen"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def words(out, steps):
        return [*train_words(out, "--no-evaluate", "--set", "training.previews=0", steps=steps)]

    said = torchrun(*words(tmp_path / "whole", 6))
    assert said.count("trained:") == 1
    torchrun(*words(tmp_path / "part", 6))
    (tmp_path / "part" / "state" / "000000006.pt").unlink()
    torchrun("train", "captcha", "--out", str(tmp_path / "part"), "--resume", "--no-evaluate")
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    alone = load_file(_one_process(tmp_path, words))
    assert not all(torch.equal(value, alone[name]) for name, value in whole.items())  # other noise in the second


RESUMES = """
import sys
from pathlib import Path
import shutil
import torch
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from jensen.recipes import configure, running
from jensen.training.distributed import rank, start, stop
from test_distributed import apart

torch.set_num_threads(1)
start()
out = Path(sys.argv[1])
for name, words in apart.items():
    recipe = configure(name, words)
    running.train(recipe, out / name)
    if rank() == 0:
        shutil.copytree(out / name, out / f"{{name}}-resumed")
        (out / f"{{name}}-resumed" / "state" / "000000008.pt").unlink()
    dist.barrier()
    running.train(recipe, out / f"{{name}}-resumed", resume=True)
longer = configure("ring-gan", [*apart["digits-cyclegan"][:5], "data.points=100", "training.steps=12"])
running.train(longer, out / "alone", resume=True)
stop()
"""
_BRIEF = ["training.steps=8", "training.save_every=4", "training.previews=0", "training.batch_size=8"]
apart = {  # recipes whose processes differ in more than their random numbers, tiny
    "digits-cyclegan": [
        *_BRIEF,
        "training.log_every=4",
        *("weights.pool=6", "network.width=8", "network.blocks=1", "network.critic=[8]", "data.printed=60"),
    ],
    "digits-gan": [
        *_BRIEF,
        *("training.batch_size=48", "game.augmentation=adaptive", "rates.critic=0.05", "rates.generator=0.05"),
        *("network.width=4", "network.critic_width=16"),
    ],
}


def test_pools_and_adaptive_augmentation_of_two_processes_resume_bit_for_bit(tmp_path, monkeypatch):
    """Each has buffers of its own: all are kept. One process takes over the first's, two begin with copies of one's."""
    program = tmp_path / "program.py"
    program.write_text(RESUMES.format(tests=str(Path(__file__).parent)))
    alone = configure("ring-gan", [*apart["digits-cyclegan"][:5], "data.points=100"])
    running.train(alone, tmp_path / "alone")
    launch(program, tmp_path, 2)
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
        assert ours["processes"][1]["buffers"]  # they did differ
    notes = [line["note"] for line in read_journal(tmp_path / "alone" / "journal.jsonl") if "note" in line]
    assert notes == ["2 processes after 1: new random numbers", "goes on to 12 steps, of 8 steps"]
    for now, mine, takes, said in (
        (1, 0, 0, "1 process after 2: new random numbers; buffers of process 1 are left out"),
        (3, 1, 1, "3 processes after 2: new random numbers; copies of the others' buffers in process 2"),
        (4, 2, 0, "4 processes after 2: new random numbers; copies of the others' buffers in processes 2 to 3"),
    ):
        monkeypatch.setattr(running, "processes", lambda now=now: now)
        monkeypatch.setattr(running, "rank", lambda mine=mine: mine)
        _takes_over(tmp_path / "digits-cyclegan", takes, said)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def _takes_over(folder, takes, said):
    """With another number of processes, one of them has the pools of number `takes` of the former."""
    saved = torch.load(folder / "state" / "000000008.pt", weights_only=True)
    kept = saved["objective"] | saved["processes"][takes]["buffers"]
    recipe = running.read_config(folder)
    objective, budget = recipe.setting(recipe.model()).objective, recipe.training.budget()
    (note,) = running._restore(recipe, running.new_state(recipe, objective, budget), budget, saved, folder)
    assert note == said
    assert same(dict(kept), dict(objective.state_dict()))


def test_packs_that_do_not_divide_a_processes_rows_are_refused_at_the_start(tmp_path, monkeypatch):
    recipe = configure("grid-pacgan", ["training.batch_size=8", "game.packing=8", "data.points=100"])
    recipe.check()
    monkeypatch.setattr(jensen.recipes.base, "processes", lambda: 2)
    with pytest.raises(
        ValueError, match=r"game\.packing must divide the rows of each process, got 8 and 4 rows in each"
    ):
        running.train(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="batch_size 9 does not divide by 2 processes"):
        running.train(configure("ring-gan", ["training.batch_size=9"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _one_process(tmp_path, words):
    assert main(words(tmp_path / "alone", 6)) == 0
    return tmp_path / "alone" / "model.safetensors"

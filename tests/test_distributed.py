"""Two processes give the one-process gradient, and stay equal; resume of both is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jensen.cli.main import main
from jensen.data.pool import pool_stream
from jensen.training.distributed import shard
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


def launch(program: Path, out: Path, processes: int) -> torch.Tensor:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = command if processes > 1 else [sys.executable]
    done = subprocess.run([*command, str(program), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def test_two_processes_give_the_one_process_training(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    one, two = (launch(program, tmp_path / f"{n}.pt", n) for n in (1, 2))
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


def _one_process(tmp_path, words):
    assert main(words(tmp_path / "alone", 6)) == 0
    return tmp_path / "alone" / "model.safetensors"

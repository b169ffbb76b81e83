"""Two processes give the one-process gradient, and stay equal; resume of both is exact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jensen.data.pool import pool_stream
from jensen.training.distributed import shard

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import torch
from torch import nn
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.training import Budget, TrainState, fit
from jensen.training.distributed import gather_bytes, rank, shard, start
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

torch.set_num_threads(1)
mine, world = start()
state = new_state(Square(), optimizer=torch.optim.SGD)
fit(state, shard(ring_stream(), mine, world), Budget(steps=5))
flat = torch.cat([p.detach().flatten() for p in state.objective.parameters()])
same = gather_bytes(flat)
assert all(torch.equal(v, flat) for v in same)
if mine == 0:
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

"""Several processes share the rows of one: they draw the same ids, compute the same gradient, and resume exactly."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from datetime import timedelta

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import jensen.recipes.settings
from games import ring
from jensen.cli.main import main
from jensen.core.objective import Objective
from jensen.core.seeding import numbered
from jensen.core.types import Loss, Phase, mapped
from jensen.data.decode import Form
from jensen.data.listing import list_pictures
from jensen.data.pack import write_pack
from jensen.data.pool import Tensors, drawn_rows, pool_stream
from jensen.data.unpaired import transformed, unpaired_stream
from jensen.recipes.sources.arrays import Arrays
from jensen.recipes.sources.pair import Pair, Pairs
from jensen.recipes.sources.pictures import Pictures
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.runs.opening import open_data, read_config
from jensen.training import Budget, fit
from jensen.training.distributed import collect, rank, shard, start, stop
from jensen.training.journal import read_journal
from jensen.training.saved import load
from test_cli import train_words
from test_sources import SOURCES
from test_training import new_state

GRACE = 10.0  # seconds for which a process may outlive one that was killed


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


def together(work, ends=(0, 0)):
    """Run `work` in forked processes that are expected to end with these codes."""
    assert codes_of(work, len(ends)) == ends


def codes_of(work, processes):
    """Run `work` in forked processes, with torchrun's environment variables and all modules imported.

    `work` returns None or an exit code.

    Returns: the codes of all processes, or minus their signal.
    """
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    said = {"WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "here"}
    pids = []
    for mine in range(processes):
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
    return _ended(pids)


def _ended(pids):
    """The exit codes of processes; as torchrun does, those that outlive a killed one for long are killed."""
    codes, late = {}, math.inf
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                codes[pid] = os.waitstatus_to_exitcode(status)
                late = min(late, time.monotonic() + GRACE) if codes[pid] == -signal.SIGKILL else late
            elif time.monotonic() > late:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return tuple(codes[pid] for pid in pids)


def test_two_processes_give_the_one_process_training_and_leave_their_group_at_the_end(tmp_path):
    def work():
        # registered before the process group is joined, so it runs last, after the group is destroyed
        atexit.register(lambda: os._exit(3) if torch.distributed.is_initialized() else None)
        mine, world = start()
        group = torch.distributed.distributed_c10d._get_default_group()
        assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(days=1)
        flat = trained(mine, world)
        found = collect(flat)
        assert all(torch.equal(v, flat) for v in found)
        if mine == 0:
            assert len(found) == world == 2
            torch.save(flat, tmp_path / "two.pt")

    one = trained(0, 1)
    together(work)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


# -- rows -------------------------------------------------------------------------------------------------------------


def pictures_in(folder, n=40):
    """A folder of n random grey pictures of 4 x 4 pixels."""
    folder.mkdir(parents=True)
    for k, x in enumerate(np.random.default_rng(n).integers(0, 256, (n, 4, 4), np.uint8)):
        Image.fromarray(x).save(folder / f"{k:02d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """Data of every kind of source, by name."""
    place = tmp_path_factory.mktemp("data")
    a, b = (Pictures(path=pictures_in(place / side, n)) for side, n in (("a", 40), ("b", 50)))
    np.save(place / "x.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8))
    mine = {
        "folder, flipped": a.model_copy(update={"flip": True}),
        "file, dynamic": Arrays(path=str(place / "x.npy"), levels=2, binarize="dynamic"),
        "pair": Pair(a=a, b=b),
        "pair by name": Pair(a=a, b=b, pairing="by-name"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JENSEN_CACHE", str(place / "cache"))
        yield {name: source.open(3) for name, source in (SOURCES | mine).items()}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_parts_of_a_batch_are_the_whole_bit_for_bit(every, world):
    for name, data in every.items():
        stream = data.stream(8, 5)
        for given in (stream, lambda start, stream=stream: stream(start)):
            batches = [whole for whole, _ in zip(given(2), range(3), strict=False)]
            parts = [[next(shard(given, r, world)(2 + n)) for r in range(world)] for n in range(3)]
            assert all(same(whole, interleaved(part)) for whole, part in zip(batches, parts, strict=True)), name
            goes_on = [part for part, _ in zip(shard(given, world - 1, world)(2), range(3), strict=False)]
            assert all(same(part[-1], last) for part, last in zip(parts, goes_on, strict=True)), name


def interleaved(parts):
    return {name: torch.stack([part[name] for part in parts], 1).flatten(0, 1) for name in parts[0]}


class Counted(Tensors):
    """Rows that note which of them are read."""

    def __init__(self, **tensors):
        super().__init__(**tensors)
        self.read = []

    def __getitem__(self, index):
        self.read += index.tolist()
        return super().__getitem__(index)


def test_each_process_reads_its_own_rows_alone():
    a, b = Counted(x=torch.arange(100.0)), Counted(x=torch.arange(70.0))
    pairs = Pairs(a, b, torch.stack([torch.arange(70), torch.arange(70)], 1))
    noisy = transformed(drawn_rows(a, 8, 0), torch.add, torch.rand, 1)
    sides = unpaired_stream(8, 0, a=a, b=b)
    without = mapped(noisy, lambda batch: {"x": batch["x"]})
    for stream, used in ((noisy, [a]), (without, [a]), (sides, [a, b]), (drawn_rows(pairs, 8, 0), [a, b])):
        read = []
        for r, world in ((0, 1), *((r, 4) for r in range(4))):
            for rows in used:
                rows.read = []
            next(shard(stream, r, world)(3))
            read.append([rows.read for rows in used])
        whole, *parts = read
        assert [[rows[r::4] for rows in whole] for r in range(4)] == parts
        assert [len(rows) for rows in whole] == [8] * len(used)
    for stream, name in ((noisy, "batch_size"), (lambda start: noisy(start), "'index'")):
        with pytest.raises(ValueError, match=f"{name} must be a multiple of 3, the number of processes, got 8"):
            next(shard(stream, 0, 3)(0))


def test_a_killed_run_on_a_pack_goes_on_with_one_or_four_processes_and_the_same_ids(tmp_path, monkeypatch):
    """The second of two processes is killed in its seventh step, after a checkpoint at the fourth. Ids are those that
    the seed gives.
    """
    words = ["training.steps=12", "training.batch_size=8", "training.save_every=4", "training.previews=0"]

    def train(name, dies=None):
        """Train or resume, and write the ids of all draws of this process to a file."""
        (mine, world), folder = start(), tmp_path / name
        ids = []

        def note(batch):
            ids.append(batch["index"].tolist())
            torch.save(ids, tmp_path / f"{name}-{world}-{mine}.pt")
            if (mine, len(ids)) == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return batch

        monkeypatch.setattr(running, "fit", lambda state, stream, *a, **k: fit(state, mapped(stream, note), *a, **k))
        resume = folder.exists()
        recipe = read_config(folder) if resume else configure("score", words, data=str(tmp_path / "pack"))
        running.train(recipe, folder, resume=resume)

    def found(name, world):
        """The ids of whole draws, from those of every process."""
        parts = [torch.tensor(torch.load(tmp_path / f"{name}-{world}-{r}.pt")) for r in range(world)]
        return torch.stack([part[: min(map(len, parts))] for part in parts], 2).flatten(1)

    listing = list_pictures(pictures_in(tmp_path / "in"))
    write_pack(listing, Form(1, 4, 4), tmp_path / "pack")
    rows = len(Pictures(path=str(tmp_path / "pack")).open(0).train)
    ids = torch.stack([torch.randint(rows, (8,), generator=numbered(0, n)) for n in range(12)])
    together(lambda: train("run", dies=(1, 7)), ends=(1, -signal.SIGKILL))
    assert torch.equal(found("run", 2), ids[:7])
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["000000004.pt"]
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    train("run")
    together(lambda: train("other"), ends=(0,) * 4)
    for name, world in (("run", 1), ("other", 4)):
        assert torch.equal(found(name, world), ids[4:])
        assert torch.load(tmp_path / name / "state" / "000000012.pt")["draws"] == 12


# -- runs -------------------------------------------------------------------------------------------------------------


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
    """The buffers of both processes are saved. A run resumed by one process instead of two uses those of the first
    process; a run resumed by two processes instead of one copies them to both.
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
    """A run that is resumed with another number of processes uses the pools of process `takes` of the earlier run."""
    saved = load(folder / "state")
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

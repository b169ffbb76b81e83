"""Checkpoints of divided weights: written by every process in the background, read by any number of processes."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import resource
import shutil
import signal
import threading
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from jensen.cli.main import main
from jensen.core.objective import Objective, partition
from jensen.core.types import Loss, NonFiniteLoss, Phase
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.training import Player, TrainState, optimistic, train_step
from jensen.training.checkpoint import checkpoints, save, sweep
from jensen.training.distributed import processes, rank, start
from jensen.training.journal import read_journal
from jensen.training.processes import process_state
from jensen.training.saved import load
from jensen.training.sharding import divide, share, whole
from jensen.training.tolerance import refuse_non_finite
from test_damage import STATE, flipped
from test_distributed import same, together
from test_kills import plain
from test_processes import BLIND, stopped

import_module("torch.distributed.fsdp")  # once, and not in every process
shards = import_module("jensen.training.shards")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.body = (
            nn.Parameter(torch.tensor(1.5)),
            nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)),
        )
        self.again = self.body[0]

    def forward(self, x):
        return self.scale * self.body(x)


class Game(Objective):
    """Rows that do not divide by the processes, a number, a tied weight, and buffers of each process's own."""

    phases = (Phase(("a", "b")),)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.b = Net(), nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("pool", torch.zeros(999))

    def players(self):
        return {"a": self.model.parameters(), "b": self.b.parameters()}

    def forward(self, players, batch, step):
        self.seen += rank() + 1
        self.pool += rank() + 1
        found = self.b(self.model(batch["x"] + torch.randn(4, 2))).square().mean()
        return {"a": Loss.of(found), "b": Loss.of(-found)}


def game():
    """A state of divided weights with moments, two averages and the memory of an update rule."""
    objective = Game()
    if processes() > 1:
        divide(objective)
    players = {}
    for name, parameters in partition(objective).items():
        players[name] = Player(parameters, torch.optim.AdamW(parameters), lambda step: 0.1)
    return TrainState(objective, players, decay=[lambda step: 0.9, lambda step: 0.5])


def steps(state, number):
    for _ in range(number):
        train_step(state, iter([{"x": torch.randn(4, 2)}]), update=optimistic)


def content(state):
    """Everything that is saved, as bytes; whole tensors."""
    kept = {**whole(state.state_dict()), "own": process_state(state.objective)}
    return plain({key: value for key, value in kept.items() if key != "rng"})


def begin(keeper, state):
    facts = dict.fromkeys(("count", "elapsed", "since"), 2)
    keeper.save(state.step, {**state.state_dict(), **facts}, process_state(state.objective, sums={"loss": 0.1}))


def written(keeper, state):
    begin(keeper, state)
    keeper.wait()


def resumed(folder):
    """A new state that goes on from the newest checkpoint, as a run does it."""
    saved, state = load(folder, together=True), game()
    own = saved["processes"][rank() % len(saved["processes"])]
    kept = {**saved, "objective": {**saved["objective"], **own["buffers"]}, "processes": [{"rng": own["rng"]}]}
    kept = saved.read(kept, state.divided)
    state.load_state_dict(kept)
    torch.set_rng_state(kept["processes"][0]["rng"])
    return state


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of checkpoints that two processes made at steps 2 and 4, and a file of all that was saved at 4."""
    folder = tmp_path_factory.mktemp("shards") / "state"

    def work():
        start()
        torch.manual_seed(rank())
        state, keeper = game(), shards.Shards(folder)
        for _ in range(2):
            steps(state, 2)
            written(keeper, state)
        every = whole(state.state_dict())
        if rank() == 0:
            torch.save(every, folder.parent / "whole.pt")
        keeper.close()

    together(work)
    return folder


@pytest.fixture
def copy_of(two, tmp_path):
    return shutil.copytree(two, tmp_path / "state")


def seal(path):
    """Make the checksums of a checkpoint right again."""
    names = sorted(file.name for file in path.iterdir() if file.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / "SHA256SUMS").write_text("".join(sums))


# -- what is saved is what is loaded ----------------------------------------------------------------------------------


def test_training_goes_on_while_the_state_at_the_save_is_written_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """Nothing is gathered by a save; three steps are made while the files wait to be written; the same number of
    processes has the same state, and makes the same steps.
    """

    def work():
        start()
        torch.manual_seed(rank())
        state, keeper, go, gathered = game(), shards.Shards(tmp_path), threading.Event(), []
        write, gather = shards._Writer.write_data, DTensor.full_tensor
        monkeypatch.setattr(shards._Writer, "write_data", lambda *given: (go.wait(), write(*given))[1])
        steps(state, 2)
        before = content(state)
        monkeypatch.setattr(DTensor, "full_tensor", lambda *given: gathered.append(1) or gather(*given))
        refuse_non_finite(state)
        begin(keeper, state)
        assert not gathered
        steps(state, 3)
        assert not checkpoints(tmp_path)
        go.set()
        keeper.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["000000002"]
        after = content(state)
        again = resumed(tmp_path)
        assert content(again) == before != after
        steps(again, 3)
        assert content(again) == after
        keeper.close()

    together(work)


@pytest.mark.parametrize("world", [1, 4])
def test_another_number_of_processes_reads_every_bit(two, world):
    expected = torch.load(two.parent / "whole.pt", weights_only=True)

    def work():
        start()
        state = resumed(two)
        found = whole(state.state_dict())
        for name in ("seen", "pool"):  # the buffers of one of the two processes
            expected["objective"][name] *= 1 + rank() % 2
        for key in ("objective", "optimizers", "averages", "memory", "step", "draws"):
            assert plain(found[key]) == plain(expected[key]), key
        steps(state, 1)

    together(work, ends=(0,) * world)


def test_one_process_reads_no_more_rows_than_its_own(two, monkeypatch):
    def work():
        start()
        read, copied = shards.HuggingFaceStorageReader._process_read_request, []

        def noted(self, file, request, planner):
            if request.storage_index.fqn == "state/objective/model.body.0.weight":
                copied.append(tuple(request.lengths))
            return read(self, file, request, planner)

        monkeypatch.setattr(shards.HuggingFaceStorageReader, "_process_read_request", noted)
        state = resumed(two)
        assert sum(rows for rows, _ in copied) == len(share(state.objective.model.body[0].weight)) < 5

    together(work)


def test_tied_turned_and_cut_tensors_are_saved_and_other_values_are_refused(tmp_path):
    x = torch.arange(6.0).view(2, 3)
    kept = {"x": x, "again": x, "turned": x.T, "part": x[1], "none": torch.zeros(0, 2), 3: (torch.tensor(2.5), None)}

    def work():
        start()
        keeper = shards.Shards(tmp_path)
        with pytest.raises(ValueError, match="state/odd must be a tensor"):
            keeper.save(1, {"odd": {1, 2}}, {})
        keeper.save(1, kept, {"nan": float("nan")})
        keeper.close()

    together(work)
    found = shards.opened(tmp_path / "000000001")
    assert [own["nan"] != own["nan"] for own in found["processes"]] == [True, True]
    read = shards.fill(tmp_path / "000000001", found, found)
    assert plain({key: read[key] for key in kept}) == plain(kept)


def test_a_number_that_is_not_finite_in_one_process_stops_all():
    def work():
        start()
        state = game()
        steps(state, 1)
        with torch.no_grad():
            if rank() == 1:
                share(state.objective.model.body[0].weight)[-1, 0] = torch.inf
        with pytest.raises(NonFiniteLoss, match=r"objective\.model\.(body\.0|again)\.weight"):
            refuse_non_finite(state)

    together(work)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_any_file_is_loaded(copy_of):
    for path in sorted((copy_of / "000000004").iterdir()):
        data = path.read_bytes()
        for wrong in flipped(data, 60):
            path.write_bytes(wrong)
            said = []
            assert load(copy_of, said.append)["step"] == 2, path
            assert len(said) == 1
            assert "is damaged" in said[0]
            assert said[0].endswith(": training goes back to step 2")
        path.write_bytes(data)
    assert load(copy_of)["step"] == 4


@pytest.mark.parametrize("number", [1, 2])
def test_all_processes_go_back_if_one_finds_a_wrong_bit(copy_of, number):
    path = copy_of / "000000004" / f"shard-0000{number}-model-00001-of-00001.safetensors"
    path.write_bytes(next(flipped(path.read_bytes(), 3)))

    def work():
        start()
        said = []
        assert load(copy_of, said.append, together=True)["step"] == 2
        assert said == [f"{path} is damaged: its checksum is wrong: training goes back to step 2"]
        assert resumed(copy_of).step == 2

    together(work)


def without_moments(path):
    """Drop the optimizers' part from the second process's file."""
    file = path / "shard-00002-model-00001-of-00001.safetensors"
    with shards.safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = {key: value for key, value in load_file(file).items() if not key.startswith("state/optimizers")}
    save_file(tensors, file, about)


def infinite(path):
    file = path / "shard-00001-model-00001-of-00001.safetensors"
    with shards.safe_open(file, "pt") as opened:
        about = opened.metadata()
    save_file(load_file(file) | {"state/objective/model.scale": torch.tensor(torch.nan)}, file, about)


class Bomb:
    def __reduce__(self):
        return os._exit, (7,)


FORGED = {
    "rows of the second process are missing": without_moments,
    "a file is missing": lambda path: (path / "shard-00002-model-00001-of-00001.safetensors").unlink(),
    "it is not finite": infinite,
    "the tree is no tree": lambda path: (path / "state.json").write_text("[" * 100_000),
    "the tree has other keys": lambda path: (path / "state.json").write_text('{"state": {"items": []}}'),
    "shards are pickles": lambda path: (path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(
        pickle.dumps(Bomb())
    ),
    "no tensors": lambda path: [file.unlink() for file in path.glob("*.safetensors")],
}


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_checkpoints_with_right_checksums_are_not_used(copy_of, forgery):
    path = copy_of / "000000004"
    FORGED[forgery](path)
    seal(path)
    said = []
    assert load(copy_of, said.append)["step"] == 2
    assert said[0].startswith(f"{path} is not")


def test_files_of_others_beside_a_checkpoint_are_not_read(copy_of, tmp_path):
    """A pickle of the name that `torch.distributed.checkpoint` reads by default, and a file outside of the folder."""
    path = copy_of / "000000004"
    (path / ".metadata").write_bytes(pickle.dumps(Bomb()))
    assert load(copy_of)["step"] == 4
    for name in ("../outside", "/etc/hostname", "other.safetensors"):
        sums = (path / "SHA256SUMS").read_text()
        (tmp_path / "outside").write_text("")
        (path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'').hexdigest()}  {name}\n{sums}")
        said = []
        assert load(copy_of, said.append)["step"] == 2
        assert said[0].startswith(f"{path / 'SHA256SUMS'} is damaged: it must list the files of the checkpoint")
        (path / "SHA256SUMS").write_text(sums)


# -- what fails while it is written -----------------------------------------------------------------------------------


def test_a_full_disk_of_one_process_is_a_sentence_in_all_and_leaves_the_older_state(copy_of):
    before = (copy_of / "000000004" / "SHA256SUMS").read_bytes()

    def work():
        start()
        state, keeper = resumed(copy_of), shards.Shards(copy_of)
        steps(state, 1)
        if rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        begin(keeper, state)
        with pytest.raises(OSError, match=f"{os.strerror(errno.EFBIG)}: '{copy_of / '000000005'}'"):
            keeper.wait()
        torch.distributed.barrier()
        assert sorted(path.name for path in copy_of.iterdir()) == ["000000002", "000000004"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        written(keeper, state)
        keeper.close()

    together(work)
    assert sorted(path.name for path in copy_of.iterdir()) == ["000000004", "000000005"]
    assert (copy_of / "000000004" / "SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize("place", ["write_data", "rename"])
def test_a_process_that_is_killed_while_it_writes_leaves_the_older_state(copy_of, place, monkeypatch):
    """The second in the middle of its shard, or the first between checksums and name; what is left is swept."""
    mine = {"write_data": 1, "rename": 0}[place]

    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        start()
        state, keeper = resumed(copy_of), shards.Shards(copy_of)
        steps(state, 1)
        if rank() == mine:
            monkeypatch.setattr(*((shards._Writer, place) if mine else (Path, place)), killed)
        begin(keeper, state)
        with pytest.raises(RuntimeError):
            keeper.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    together(work, ends=(-signal.SIGKILL,) * 2)
    sweep(copy_of)
    assert sorted(path.name for path in copy_of.iterdir()) == ["000000002", "000000004"]
    assert load(copy_of)["step"] == 4


def test_a_state_that_is_saved_again_replaces_the_one_of_its_step(copy_of):
    """At each moment one of them has a name: the new one gets its own before the old one is removed."""

    def work():
        start()
        state, keeper = resumed(copy_of), shards.Shards(copy_of)
        for _ in range(2):
            written(keeper, state)
        keeper.close()

    damaged = copy_of / "000000004" / "state.json"
    damaged.write_text("")
    shutil.copytree(copy_of / "000000002", copy_of / "000000009")
    damaged.parent.rename(copy_of / "000000002-1")
    (copy_of / "000000009").rename(copy_of / "000000002-2")
    together(work)
    assert [path.name for path in checkpoints(copy_of)] == ["000000002-4"]
    assert load(copy_of)["step"] == 2


def test_rejected_shards_are_not_kept(copy_of):
    def work():
        start()
        state, keeper = resumed(copy_of), shards.Shards(copy_of)
        keeper.save(6, state.state_dict(), process_state(state.objective), [damaged])
        keeper.wait()
        keeper.close()

    damaged = copy_of / "000000004"
    (damaged / "state.json").write_text("")
    together(work)
    assert [path.name for path in checkpoints(copy_of)] == ["000000002", "000000006"]


def test_both_forms_are_in_one_order_and_the_two_newest_are_kept(copy_of):
    save(copy_of, 3, STATE | {"step": 3})
    assert [path.name for path in checkpoints(copy_of)] == ["000000002", "000000003.pt"]
    save(copy_of, 12, STATE | {"step": 12})
    assert [path.name for path in checkpoints(copy_of)] == ["000000003.pt", "000000012.pt"]
    assert load(copy_of)["step"] == 12


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_behind_a_full_disk_and_a_wrong_bit_and_ends_as_the_whole_one(tmp_path, capfd, monkeypatch):
    """The second process cannot write its shard of step 6: a sentence, at the next save. Then a bit of step 4 is wrong:
    one line, and training goes back to step 2.
    """
    settings = [*BLIND, "training.sharding=fully", "training.save_every=2"]
    words = ["train", "digits-autoencoder", "--no-evaluate", *(word for word in settings for word in ("--set", word))]
    write, out = shards._Writer.write_data, tmp_path / "run"

    def full(writer, *given):
        if writer.step == 6 and rank() == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard")
        return write(writer, *given)

    def broken():
        monkeypatch.setattr(shards._Writer, "write_data", full)
        return main([*words, "--out", str(out)])

    together(lambda: main([*words, "--out", str(tmp_path / "whole")]))
    capfd.readouterr()
    together(broken, ends=(1, 1))
    on = f"jensen train digits-autoencoder --out {out} --resume continues it"
    said = f"jensen: {out / 'state' / '000000006'}: {os.strerror(errno.ENOSPC)}; {on}"
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("jensen:")] == [said]
    assert [path.name for path in checkpoints(out / "state")] == ["000000002", "000000004"]
    path = out / "state" / "000000004" / "shard-00002-model-00001-of-00001.safetensors"
    path.write_bytes(next(flipped(path.read_bytes(), 3)))
    together(lambda: main([*words[:3], "--resume", "--out", str(out)]))
    note = f"{path} is damaged: its checksum is wrong: training goes back to step 2"
    assert [line["note"] for line in read_journal(out / "journal.jsonl") if "note" in line] == [note]
    assert same(*(load_file(run / "model.safetensors") for run in (out, tmp_path / "whole")))
    assert states(out) == states(tmp_path / "whole")


def states(run):
    """What the checkpoints of a run hold, as bytes, by step; without times."""
    found = {}
    for path in checkpoints(run / "state"):
        saved = shards.opened(path)
        kept = {key: value for key, value in saved.items() if key not in ("elapsed", "since")}
        found[int(path.name[:9])] = plain(shards.fill(path, kept, kept))
    return found


def test_a_signal_waits_for_the_state_which_any_form_of_training_takes_up(tmp_path):
    """Two processes are stopped with divided weights; one goes on, with whole weights, and then two again."""
    recipe, out = configure("digits-autoencoder", [*BLIND, "training.sharding=fully"]), tmp_path / "run"
    together(lambda: start() and stopped(2, recipe, out))
    assert [path.name for path in checkpoints(out / "state")] == ["000000002"]
    stopped(4, recipe, out, resume=True)
    assert [path.name for path in checkpoints(out / "state")] == ["000000002", "000000004.pt"]
    together(lambda: start() and stopped(5, recipe, out, resume=True))
    assert [path.name for path in checkpoints(out / "state")] == ["000000004.pt", "000000005"]
    running.train(recipe, out, resume=True)
    assert load(out / "state")["step"] == 8

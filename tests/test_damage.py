"""Damaged, half-written and contended files: what is wrong is noticed, and the last good state is kept."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jensen.cli.main import main
from jensen.core.failure import Failure
from jensen.data.decode import Form
from jensen.data.listing import list_pictures
from jensen.data.pack import cached_pack, write_pack
from jensen.recipes.families import gan
from jensen.recipes.sources.points import Ring
from jensen.runs.curves import curves
from jensen.runs.folder import RunError, alone, load_weights
from jensen.training.checkpoint import DamagedFile, replacing, save, save_weights, sweep, weights_step, write_text
from jensen.training.journal import read_journal
from jensen.training.saved import load
from test_cli import refused
from test_distributed import pictures_in
from test_resume import files, going_on, same, weights, words

STATE = {
    **{key: {} for key in ("optimizers", "memory")},
    **dict.fromkeys(("step", "draws", "count", "elapsed", "since"), 2),
    "objective": {"weight": torch.arange(6.0)},
    "rng": torch.zeros(4, dtype=torch.uint8),
    "averages": [],
    "processes": [],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 4 steps with checkpoints at 2 and 4."""
    out = tmp_path_factory.mktemp("runs") / "ring"
    assert main(words(out, "--no-evaluate")) == 0
    return out


@pytest.fixture
def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def flipped(data, bits=240):
    """The data with one bit flipped, at `bits` places that are spread over all of it."""
    for k in range(bits):
        place = (8 * len(data) - 1) * k // (bits - 1)
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        yield bytes(wrong)


# -- bits -------------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_checkpoint_is_loaded_and_the_older_one_is_used_with_a_note(tmp_path):
    save(tmp_path, 2, STATE)
    path = save(tmp_path, 4, STATE | {"step": 4})
    assert load(tmp_path)["step"] == 4
    for wrong in flipped(path.read_bytes()):
        path.write_bytes(wrong)
        said = []
        assert load(tmp_path, said.append)["step"] == 2
        assert said == [f"{path} is damaged: its checksum is wrong: training goes back to step 2"]
    (tmp_path / "000000002.pt").write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"no checkpoint in .* can be read"):
        load(tmp_path)


def test_no_flipped_bit_of_the_weights_is_loaded(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    save_weights(model.state_dict(), tmp_path / "model.safetensors", 12)
    data = (tmp_path / "model.safetensors").read_bytes()
    load_weights(model, tmp_path)
    for wrong in flipped(data):
        (tmp_path / "model.safetensors").write_bytes(wrong)
        with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
            load_weights(model, tmp_path)
    save_weights(model.state_dict(), tmp_path / "again", 12)
    assert (tmp_path / "again").read_bytes() == data


def test_both_files_are_read_by_the_libraries_that_define_them(copy_of):
    assert torch.load(copy_of / "state" / "000000004.pt", weights_only=True)["step"] == 4
    own = weights(copy_of)
    save_file(own, copy_of / "model.safetensors")  # by another program: without a checksum
    assert main(["sample", str(copy_of), "-n", "2"]) == 0


def test_a_damaged_checkpoint_is_named_and_the_run_ends_as_it_would_have(capsys, run, copy_of):
    newest = copy_of / "state" / "000000004.pt"
    newest.write_bytes(next(flipped(newest.read_bytes(), 3)))
    capsys.readouterr()
    assert main(going_on(copy_of)) == 0
    note = f"{newest} is damaged: its checksum is wrong: training goes back to step 2"
    assert capsys.readouterr().err == f"jensen: {note}\n"
    assert [line["note"] for line in read_journal(copy_of / "journal.jsonl") if "note" in line] == [note]
    assert same(weights(copy_of), weights(run))
    assert (copy_of / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_training_that_went_back_behind_a_damaged_checkpoint_keeps_two_good_ones(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step, STATE | {"step": step})
    (tmp_path / "000000006.pt").write_bytes(b"damaged")
    save(tmp_path, 5, STATE | {"step": 5})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000004.pt", "000000005.pt"]


def test_a_damaged_checkpoint_is_not_kept_in_place_of_the_good_one_before_it(tmp_path):
    """A signal leaves step 29, which is damaged; training goes back to 28, and saves next at 31."""
    for step in (28, 29):
        save(tmp_path, step, STATE | {"step": step})
    (tmp_path / "000000029.pt").write_bytes(b"damaged")
    state = load(tmp_path)
    save(tmp_path, 31, STATE | {"step": 31}, state.rejected)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000028.pt", "000000031.pt"]


def test_a_run_that_went_back_removes_what_it_rejected(copy_of):
    newest = copy_of / "state" / "000000003.pt"
    (copy_of / "state" / "000000004.pt").unlink()
    newest.write_bytes(b"damaged")
    assert main(going_on(copy_of)) == 0
    assert [path.name for path in sorted((copy_of / "state").iterdir())] == ["000000002.pt", "000000004.pt"]


def test_pipes_in_a_run_are_not_waited_for(capsys, copy_of):
    pipe = copy_of / "state" / "000000040.pt"
    os.mkfifo(pipe)
    capsys.readouterr()
    assert main([*going_on(copy_of), "--steps", "6"]) == 0
    assert f"jensen: {pipe} is not a file: training goes back to step 4\n" in capsys.readouterr().err
    assert not pipe.exists()
    for name in ("journal.jsonl", "model.safetensors"):
        (copy_of / name).unlink()
        os.mkfifo(copy_of / name)
    refused(capsys, [*going_on(copy_of), "--steps", "8"], f"{copy_of / 'journal.jsonl'} is not a file")
    refused(capsys, ["curves", str(copy_of), "--out", str(copy_of / "curves.csv")], "journal.jsonl is not a file")
    assert weights_step(copy_of / "model.safetensors") is None
    os.mkfifo(copy_of / ".lock")
    refused(capsys, [*going_on(copy_of), "--steps", "8"], f"{copy_of / '.lock'} is not a file")


def test_files_of_other_names_are_left_alone(copy_of):
    strange = [copy_of / "samples" / name for name in ("step-x.png", "step-9.png", "step-000009.png.png")]
    strange += [copy_of / "averages" / name for name in ("foo.safetensors", "000000009-x.safetensors")]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert main([*going_on(copy_of), "--steps", "6"]) == 0
    assert all(path.exists() for path in strange)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1, 2], "it must hold a mapping, got list"),
        (5, "it must hold a mapping, got int"),
        ({"step": 4}, "objective is missing or of another type"),
        (STATE | {"step": "four"}, "step is missing or of another type"),
        (STATE | {"objective": None}, "objective is missing or of another type"),
        (STATE | {"averages": [{"weight": torch.tensor([1.0, torch.inf])}]}, "is not finite: averages.0.weight"),
    ],
)
def test_a_checkpoint_of_wrong_content_is_not_used(tmp_path, content, why):
    save(tmp_path, 2, STATE)
    save(tmp_path, 4, content)
    said = []
    assert load(tmp_path, said.append)["step"] == 2
    assert why in said[0]


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(capsys, copy_of):
    state = load(copy_of / "state")
    save(copy_of / "state", 4, {**state, "optimizers": {"critic": state["optimizers"]["critic"]}})
    refused(
        capsys,
        [*going_on(copy_of), "--steps", "6"],
        "/state has a checkpoint that does not fit config.json (KeyError: 'generator'): train again",
    )


def test_damaged_weights_are_written_again_from_the_checkpoint(capsys, run, copy_of):
    path = copy_of / "model.safetensors"
    path.write_bytes(next(flipped(path.read_bytes(), 3)))
    again = f"{path} is damaged: its checksum is wrong; --resume writes it again"
    refused(capsys, ["sample", str(copy_of), "-n", "1"], again)
    assert main(going_on(copy_of)) == 0
    assert path.read_bytes() == (run / "model.safetensors").read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(copy_of / "state")
    capsys.readouterr()
    assert main(["sample", str(copy_of), "-n", "1"]) == 2
    assert capsys.readouterr().err == f"jensen: {path} is damaged: its checksum is wrong\n"


def test_weights_that_are_no_finite_numbers_are_refused(capsys, copy_of):
    path, own = copy_of / "model.safetensors", weights(copy_of)
    name = next(iter(own))
    for value, said in (
        (torch.full_like(own[name], torch.nan), f"not finite: {name}"),
        (own[name].long(), f"{name} must be {tuple(own[name].shape)}, got int64 {tuple(own[name].shape)}"),
        (own[name] > 0, f"got bool {tuple(own[name].shape)}"),
    ):
        save_weights(own | {name: value}, path, 4)
        refused(capsys, ["sample", str(copy_of), "-n", "1"], said)


# -- the journal ------------------------------------------------------------------------------------------------------

WRONG = ["5", "[1]", "null", '"step"', "{", '{"step": 3}', '{"step": "3", "seconds": 1}', '{"seconds": 1}', "[" * 10**5]
WRONG += ["[" * 500 + "]" * 500, '{"step": 4, "seconds": ' + "1" * 5000 + "}"]


def test_lines_that_are_not_of_a_journal_are_skipped(copy_of):
    journal = copy_of / "journal.jsonl"
    expected, lines = read_journal(journal), journal.read_text().splitlines()
    found = curves(copy_of)
    assert [line["step"] for line in expected] == [2, 4]
    journal.write_bytes("\n".join([*WRONG, *lines, '{"step": 4, "seconds": 1, "lo']).encode() + b"\xff\n")
    assert read_journal(journal) == expected
    assert curves(copy_of) == found
    assert main(["evaluate", str(copy_of)]) == 0
    assert main(going_on(copy_of)) == 0
    assert read_journal(journal) == expected
    assert len(journal.read_text().splitlines()) == 2


def test_the_journal_is_on_disk_before_each_checkpoint_and_the_last_is_written_once(tmp_path, monkeypatch):
    events, sync = [], os.fsync

    def synced(handle):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))
        events.extend(["journal"] if name == "journal.jsonl" else [])
        sync(handle)

    def saved(folder, step, *given):
        events.append(step)
        return save(folder, step, *given)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr("jensen.training.checkpoint.save", saved)
    assert main(words(tmp_path / "run", "--no-evaluate")) == 0
    assert events == ["journal", 2, "journal", 4]


# -- two at once ------------------------------------------------------------------------------------------------------


def forked(work):
    """Run `work` in a forked process; its exit code is the result, or 99 if it raises."""

    def run():
        try:
            code = work()
        except BaseException:  # noqa: BLE001 (the child must not run the other tests)
            code = 99
        os._exit(code or 0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def test_a_second_process_on_one_folder_is_refused_until_the_first_is_killed(capsys, copy_of, tmp_path):
    def hold():
        with alone(copy_of):
            (tmp_path / "held").touch()
            time.sleep(60)

    process = forked(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    before = files(copy_of)
    in_use = f"{copy_of} is in use by process {process.pid}: wait for it, or give another --out"
    refused(capsys, going_on(copy_of, "--steps", "8"), in_use)
    assert files(copy_of) == before
    process.kill()
    process.join()
    assert main(going_on(copy_of, "--steps", "8")) == 0
    assert not (copy_of / ".lock").exists()


def test_of_processes_that_begin_one_run_at_once_one_trains(tmp_path, monkeypatch):
    """All have opened their data before any makes the folder."""
    ready, out = multiprocessing.get_context("fork").Barrier(3), tmp_path / "run"
    begin = gan.GAN.players
    monkeypatch.setattr(gan.GAN, "players", lambda *words: (ready.wait(), begin(*words))[1])
    every = [forked(lambda: main(words(out, "--no-evaluate", steps=30))) for _ in range(3)]
    for process in every:
        process.join()
    assert sorted(process.exitcode for process in every) == [0, 2, 2]
    steps = [line["step"] for line in read_journal(out / "journal.jsonl")]
    assert steps == list(range(2, 31, 2))
    assert not list(out.rglob(".*"))


# -- a full disk ------------------------------------------------------------------------------------------------------


def full_after(size, command, log):
    """The exit code of a command that can write no file above `size` bytes; its standard error goes to `log`."""

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with log.open("w") as sys.stderr:
            return main(command)

    process = forked(work)
    process.join()
    return process.exitcode


def test_a_full_disk_leaves_the_last_good_state_and_a_sentence(run, copy_of, tmp_path):
    """The checkpoint does not fit; then the limit is lifted, and the run ends as it would have."""
    (copy_of / "state" / "000000004.pt").unlink()
    before, log = files(copy_of), tmp_path / "log"
    size = (copy_of / "state" / "000000002.pt").stat().st_size
    assert full_after(size // 2, going_on(copy_of), log) == 1
    path = copy_of / "state" / "000000004.pt"
    on = f"jensen train ring-gan --out {copy_of} --resume continues it"
    assert log.read_text() == f"jensen: {path}: {os.strerror(errno.EFBIG)}; {on}\n"
    after = files(copy_of)
    assert {p for p in after if p.suffix != ".jsonl"} == {p for p in before if p.suffix != ".jsonl"}
    assert [after[p] == before[p] for p in before if p.suffix != ".jsonl"].count(False) == 0
    assert main(going_on(copy_of)) == 0
    assert same(weights(copy_of), weights(run))


def test_a_disk_that_is_full_at_the_start_leaves_nothing(tmp_path):
    out = tmp_path / "runs" / "new"
    assert full_after(500, words(out), tmp_path / "log") == 1
    assert (tmp_path / "log").read_text() == f"jensen: {out / 'config.json'}: {os.strerror(errno.EFBIG)}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


# -- temporary files --------------------------------------------------------------------------------------------------


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Neither with the name of the file itself nor, if it could be foreseen, with that of the temporary one."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "out").symlink_to(secret)
    write_text(tmp_path / "out", "new")
    assert (secret.read_text(), (tmp_path / "out").read_text()) == ("mine", "new")
    assert not (tmp_path / "out").is_symlink()
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / f".{'0' * 16}.part").symlink_to(secret)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "out", "newer")
    assert (secret.read_text(), (tmp_path / "out").read_text()) == ("mine", "new")


def test_what_a_failing_write_leaves_is_the_old_file_with_the_usual_permissions(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"new", None])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_killed_processes_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    def die():
        with replacing(tmp_path / "dead") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    (tmp_path / ".notes.part").write_text("not ours")
    forked(die).join()
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "alive") as file:
        file.write(b"whole")
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {".notes.part", "alive"}
    assert (tmp_path / "alive").read_bytes() == b"whole"


def test_resuming_and_evaluating_sweep_the_whole_run(copy_of):
    def planted():
        (copy_of / "samples").mkdir(exist_ok=True)
        for place in (copy_of, copy_of / "state", copy_of / "samples"):
            (place / f".{'a' * 16}.part").write_text("half")

    planted()
    assert main(going_on(copy_of)) == 0
    assert not list(copy_of.rglob("*.part"))
    planted()
    (copy_of / "state" / f".{'a' * 16}.part").unlink()
    assert main(["evaluate", str(copy_of)]) == 0
    assert not list(copy_of.rglob("*.part"))


def test_a_link_planted_where_a_pack_is_written_is_not_followed(tmp_path):
    listing, mine = list_pictures(pictures_in(tmp_path / "in")), tmp_path / "mine"
    mine.mkdir()
    (tmp_path / ".pack.part").symlink_to(mine)
    expected = write_pack(listing, Form(1, 4, 4), tmp_path / "other").fingerprint
    assert write_pack(listing, Form(1, 4, 4), tmp_path / "pack").fingerprint == expected
    (tmp_path / ".again.part").mkdir()
    (mine / "x.npy").write_text("mine")
    for name in ("x.npy", "journal.jsonl", "pack.json"):
        (tmp_path / ".again.part" / name).symlink_to(mine / "x.npy")
    (tmp_path / ".again.part" / f".{'a' * 16}.part").write_text("half")
    assert write_pack(listing, Form(1, 4, 4), tmp_path / "again").fingerprint == expected
    assert {path.name: path.read_text() for path in mine.iterdir()} == {"x.npy": "mine"}
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"x.npy", "pack.json"}


def test_incomplete_packs_are_removed_from_the_cache_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))
    now = time.time()
    for name, age in (("old", 2 * 86_400), ("new", 3_600)):
        part = tmp_path / "cache" / "packs" / name / ".pack.part"
        part.mkdir(parents=True)
        (part / "x.npy").write_bytes(bytes(10))
        for path in (part / "x.npy", part):
            os.utime(path, (now - age, now - age))
    cached_pack(list_pictures(pictures_in(tmp_path / "in")), Form(1, 4, 4))
    assert [path.parent.name for path in (tmp_path / "cache" / "packs").glob("*/.pack.part")] == ["new"]


# -- half a run -------------------------------------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_is_replaced(run, tmp_path, monkeypatch):
    """It failed, or was killed, after config.json and before its first checkpoint."""
    out, calls, update = tmp_path / "run", [], gan.GAN.update

    def failing(recipe):
        def rule(*more):
            calls.append(more)
            if len(calls) > 2:  # in the second step
                raise Failure("the machine is on fire")
            return update(recipe)(*more)

        return rule

    with monkeypatch.context() as patch:
        patch.setattr(gan.GAN, "update", failing)
        assert main(words(out, "--no-evaluate", "--seed", "9")) == 1
    assert (out / "config.json").exists()
    assert main(words(out, "--no-evaluate")) == 0
    assert same(weights(out), weights(run))
    assert json.loads((out / "config.json").read_text())["seed"] == 0


def test_a_run_with_a_checkpoint_weights_or_other_files_is_not_replaced(capsys, copy_of):
    (copy_of / "model.safetensors").unlink()
    refused(capsys, words(copy_of), "already contains a run")
    shutil.rmtree(copy_of / "state")
    (copy_of / "notes.txt").write_text("mine")
    before = files(copy_of)
    refused(capsys, words(copy_of), "already contains a run")
    assert files(copy_of) == before
    (copy_of / "notes.txt").rename(copy_of / "model.safetensors")
    refused(capsys, words(copy_of), "already contains a run")


def test_a_new_run_that_cannot_begin_leaves_the_old_one(capsys, copy_of, monkeypatch):
    shutil.rmtree(copy_of / "state")
    (copy_of / "model.safetensors").unlink()
    before = files(copy_of)

    def broken(*_):
        raise ValueError("no data")

    monkeypatch.setattr(Ring, "open", broken)
    refused(capsys, words(copy_of), "no data")
    assert files(copy_of) == before

"""Runs of several processes: their journal, interruptions, divided weights, the command, restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pkgutil import resolve_name

import pytest
import torch
from safetensors.torch import load_file

from jensen.cli.main import main
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.training.distributed import ENDED, rank, start
from jensen.training.journal import read_journal
from test_distributed import ALONE, same, together, torchrun


def stopped(step, *given, mine=0, **how):
    """Train, and send one process a SIGTERM after this step: all save and stop."""
    once = running._Keeper.__call__

    def call(keeper, state, terms):
        if state.step == step and rank() == mine:
            os.kill(os.getpid(), signal.SIGTERM)
        once(keeper, state, terms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running._Keeper, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            running.train(*given, **how)


BLIND = ["training.steps=8", "training.batch_size=8", "training.log_every=4", "training.previews=1"]
BLIND += ["network.hidden=16", "training.warmup=0"]


def losses(lines, key="loss"):
    return [line[key] for line in lines if key in line]


def test_the_journal_has_the_losses_of_all_processes_and_a_stopped_run_goes_on_with_them(tmp_path):
    """An autoencoder draws no noise: two processes have the losses of one. The second is stopped in its fifth step; the
    lines of the journal are of steps 4 and 8, so that the checkpoint holds sums of each process.
    """
    recipe = configure("digits-autoencoder", BLIND)

    def stopped_then_resumed():
        mine, _ = start()
        stopped(5, recipe, tmp_path / "two", mine=1)
        torch.distributed.barrier()
        if mine == 0:
            assert [path.name for path in (tmp_path / "two" / "state").iterdir()] == ["000000005.pt"]
        running.train(recipe, tmp_path / "two", resume=True)

    running.train(recipe, tmp_path / "one")
    together(stopped_then_resumed)
    one, two = (read_journal(tmp_path / name / "journal.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in two if "loss" in line] == [4, 8]
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)


def test_divided_weights_train_as_whole_ones_and_resume_with_any_number_of_processes(tmp_path):
    """Two processes stop at the second step, one at the fifth, four go on: as one process, to rounding. Resumed by the
    same number of processes: bit for bit.
    """
    recipe = configure("digits-autoencoder", [*BLIND, "training.sharding=fully"])

    def whole_then_parts():
        start()
        running.train(recipe, tmp_path / "whole")
        stopped(4, recipe, tmp_path / "part")
        torch.distributed.barrier()
        running.train(recipe, tmp_path / "part", resume=True)

    import_module("torch.distributed.fsdp")  # once, and not in every process
    running.train(recipe, tmp_path / "one")
    together(whole_then_parts)
    together(lambda: start() and stopped(2, recipe, tmp_path / "changing"))
    stopped(5, recipe, tmp_path / "changing", resume=True)
    together(lambda: start() and running.train(recipe, tmp_path / "changing", resume=True) and None, ends=(0,) * 4)
    names = ("one", "whole", "part", "changing")
    one, whole, part, changing = (load_file(tmp_path / name / "model.safetensors") for name in names)
    assert same(whole, part)
    for other in (whole, changing):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    one, whole = (read_journal(tmp_path / name / "journal.jsonl") for name in ("one", "whole"))
    for key in ("loss", "held_out/loss"):
        assert losses(whole, key) == pytest.approx(losses(one, key), rel=1e-5)


def test_processes_of_the_command_are_those_of_torchrun_and_share_its_exit_code(tmp_path, capfd):
    words = ["train", "ring-gan", "--out", str(tmp_path / "apart"), "--no-evaluate", "--processes", "2"]
    words += [word for setting in ALONE for word in ("--set", setting)]
    assert main(words) == 0
    saved = torch.load(tmp_path / "apart" / "state" / "000000008.pt", weights_only=True)
    assert len(saved["processes"]) == 2
    assert capfd.readouterr().out.count("trained:") == 1
    assert main(words) == 2
    assert capfd.readouterr().err.count("already contains a run") == 1
    assert main(["train", "ring-gan", "--processes", "0"]) == 2


def test_an_interrupt_of_the_command_reaches_its_processes_which_save_and_say_so_once(tmp_path):
    """Ctrl-C sends SIGINT to all processes of the terminal, and the command passes on its own."""
    out = tmp_path / "run"
    words = ["train", "ring-gan", "--out", str(out), "--steps", "1000000", "--processes", "2"]
    settings = [*ALONE[1:], "training.log_every=1", "training.save_every=1000000"]
    command = [sys.executable, "-m", "jensen", *words, *[word for s in settings for word in ("--set", s)]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (out / "journal.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    assert said[-1] == f"jensen: stopped; jensen train ring-gan --out {out} --resume continues it"
    assert [line for line in said if "generator:" not in line and "critic:" not in line] == said[-1:]
    (saved,) = (out / "state").iterdir()
    assert len(torch.load(saved, weights_only=True)["processes"]) == 2


@pytest.mark.parametrize("place", ["training.step.Player.move", "runs.train.whole", "training.saved.Saved.read"])
def test_a_process_killed_while_weights_are_divided_ends_the_other_in_one_sentence(tmp_path, capfd, monkeypatch, place):
    """In a step, when the weights are gathered at the end, and while a checkpoint is read."""
    work, words = resolve_name(f"jensen.{place}"), ["train", "ring-gan", "--out", str(tmp_path / "run")]
    words += [
        word for setting in [*ALONE, "training.steps=3", "training.sharding=fully"] for word in ("--set", setting)
    ]

    def dying(*given):
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*given)

    import_module("torch.distributed.fsdp")  # once, and not in every process
    if place.endswith("read"):
        together(lambda: main([*words, "--no-evaluate", "--steps", "2"]))
        words += ["--resume"]
    monkeypatch.setattr("jensen.cli.main.GRACE", 0.0)
    monkeypatch.setattr(f"jensen.{place}", dying)
    together(lambda: main(words), ends=(1, -signal.SIGKILL))
    said = [line for line in capfd.readouterr().err.splitlines() if "jensen:" in line]
    assert [line for line in said if "parameters" not in line] == [f"jensen: {ENDED}"]


@pytest.mark.parametrize("sharding", ["replicated", "fully"])
def test_torchrun_restarts_a_run_whose_worker_was_killed(tmp_path, sharding):
    """The second process kills itself in its seventh step, once; the run goes on from the fourth, bit for bit."""
    settings = [*ALONE, "training.log_every=1", f"training.sharding={sharding}"]
    script = tmp_path / "work.py"
    script.write_text(f"""
import os, signal, sys
from pathlib import Path
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.training import distributed

out, killed = Path({str(tmp_path / "run")!r}), Path({str(tmp_path / "killed")!r})
once = running._Keeper.__call__

def die(keeper, state, terms):
    if state.step == 7 and os.environ["RANK"] == "1" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    once(keeper, state, terms)

running._Keeper.__call__ = die
recipe = configure("ring-gan", {settings!r})
running.train(recipe, out)
distributed.stop()
""")
    torchrun("--max-restarts=1", "--monitor-interval=0.1", str(script))
    assert (tmp_path / "killed").exists()
    recipe = configure("ring-gan", settings)
    together(lambda: start() and running.train(recipe, tmp_path / "whole") and None)
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert same(whole, again)
    steps = [line["step"] for line in read_journal(tmp_path / "run" / "journal.jsonl")]
    assert steps == list(range(1, 9))

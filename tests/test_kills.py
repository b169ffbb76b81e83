"""Runs that are killed at any moment and resumed: bit for bit the run that was not killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys

import pytest
import torch

from jensen.cli.main import main
from jensen.training.checkpoint import checkpoints
from jensen.training.saved import load
from test_cli import journal_of
from test_damage import forked
from test_distributed import codes_of
from test_own_families import BOUND, BOUNDED, CONV, CRITIC, MLP, QUICK, data, words
from test_resume import TINY as RING
from tiny import DIGITS_GAN, LATENT

__all__ = ["data"]
OFTEN = {"training.previews": 2, "training.log_every": 3, "training.save_every": 2}
DENOISED = MLP | BOUNDED
CASES = {
    "vae": ("vae", "8.csv", {"network.hidden": 16}),
    "vae of a pack, accumulated": ("vae", "square.pack", {"network.width": 8, "training.accumulate": 2}),
    "GAN of packs": ("gan", "2.csv", CONV | CRITIC | {"game.packing": 2}),
    "GAN with adaptive augmentation": ("digits-gan", None, DIGITS_GAN | {"game.augmentation": "adaptive"}),
    "diffusion with a learned schedule": ("diffusion", "8.csv", DENOISED | BOUND),
    "score": ("score", "8.csv", MLP | {"network.levels": 3}),
    "translation with a pool": (
        "translation",
        "two",
        {"network.width": 8, "network.critic": [8, 8], "weights.pool": 4},
    ),
    "reader": ("reader", "8.csv", {"network.width": 8}),
    "VAE of digits with two averages": ("digits-vae", None, LATENT | {"training.average": [0.05, 0.1]}),
}


def profiled(command, at):
    """Run a command that is killed at its event number `at`: every call and return, of Python or C, is an event.

    Returns: the command's exit code and the number of events, if it is not killed.
    """
    seen = 0

    def event(*_):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(event)
    try:
        code = main(command)
    finally:
        sys.setprofile(None)
    return code, seen


def killed_again_and_again(whole, out, kills, seed, processes=1):
    """Kill a run and go on with it, as often as `kills` says, at moments that are uniform over the whole run's events;
    whenever it ends, it is the whole run, and begins again. Of several processes one is killed, and the others end.
    """

    def run(out, begun, moment=0, killed=0):
        command = [*whole[:2], "--resume"] if begun else whole

        def work():
            at = moment if os.environ.get("RANK", "0") == str(killed) else 0
            code, events = profiled([*command, "--out", str(out), "--no-evaluate"], at)
            counted.write_text(str(events))
            return code

        return ends(work, processes)

    counted, rng, done, runs = out / "events", random.Random(seed), 0, 0
    assert run(out / "whole", False) == (0,) * processes
    events, expected = int(counted.read_text()), content(out / "whole")
    while done < kills or (out / str(runs)).exists():
        begun = bool(checkpoints(out / str(runs) / "state"))
        moment = rng.randrange(1, events) if done < kills else 0
        codes = run(out / str(runs), begun, moment, rng.randrange(processes))
        done += -signal.SIGKILL in codes
        if -signal.SIGKILL in codes:
            assert set(codes) <= {-signal.SIGKILL, 1, 0}
        else:
            assert codes == (0,) * processes
            assert content(out / str(runs)) == expected
            runs += 1
    return done


def ends(work, processes):
    """The exit codes of `work` in one forked process, or in several that are a group of torchrun."""
    if processes > 1:
        return codes_of(work, processes)
    process = forked(work)
    process.join()
    return (process.exitcode,)


def content(run):
    """The newest checkpoint and everything else in a run's folder, without times; files that hold no numbers of time as
    their bytes.
    """
    saved = load(run / "state")
    found = {"state": plain({key: saved.read(v) for key, v in saved.items() if key not in ("elapsed", "since")})}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name.startswith("state/"):
            continue
        if name == "journal.jsonl":
            found[name] = journal_of(run)
        elif name == "config.json":
            found[name] = json.loads(path.read_text())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def plain(tree):
    """A tree of tensors as one of bytes, which `==` compares bit for bit."""
    if isinstance(tree, torch.Tensor):
        return str(tree.dtype), tuple(tree.shape), tree.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


def test_three_kills(tmp_path):
    whole = ["train", "ring-gan", "--steps", "6", *RING]
    assert killed_again_and_again(whole, tmp_path, kills=3, seed=0) == 3


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_twenty_kills(data, tmp_path, monkeypatch, case):
    monkeypatch.setenv("JENSEN_CACHE", str(data / "cache"))
    family, name, settings = CASES[case]
    own = [] if name is None else ["--data", str(data / name)]
    if name == "square.pack":
        assert main(["data", "pack", str(data / "square"), "--size", "16", "--out", str(data / name)]) == 0
    held = {"data.test": 0.5} if name == "8.csv" or name == "2.csv" else {}
    whole = ["train", family, *own, "--steps", "7", *words(QUICK | OFTEN | held | settings)]
    assert killed_again_and_again(whole, tmp_path, kills=20, seed=1) == 20


@pytest.mark.long
@pytest.mark.parametrize("how", ["training.accumulate=1", "training.accumulate=2", "training.sharding=fully"])
def test_twenty_kills_of_two_processes(tmp_path, how):
    whole = ["train", "ring-gan", "--steps", "6", *RING, "--set", how]
    assert killed_again_and_again(whole, tmp_path, kills=20, seed=2, processes=2) == 20

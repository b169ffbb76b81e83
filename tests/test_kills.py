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
from test_cli import journal_of
from test_damage import forked
from test_own_families import BOUND, BOUNDED, CONV, CRITIC, MLP, QUICK, data, words
from test_resume import TINY as RING
from tiny import DIGITS_GAN, LATENT

__all__ = ["data"]
OFTEN = {"training.previews": 2, "training.log_every": 3, "training.save_every": 2}
DENOISED = MLP | BOUNDED
CASES = {
    "vae": ("vae", "8.csv", {"network.hidden": 16}),
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

    Returns: the number of events, if it is not killed.
    """
    seen = 0

    def event(*_):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(event)
    try:
        assert main(command) == 0
    finally:
        sys.setprofile(None)
    return seen


def killed_again_and_again(whole, out, kills, seed):
    """Kill a run and go on with it, as often as `kills` says, at moments that are uniform over the whole run's events;
    whenever it ends, it is the whole run, and begins again.
    """
    begin = [*whole, "--out", str(out / "whole"), "--no-evaluate"]
    events, rng, done, runs = profiled(begin, 0), random.Random(seed), 0, 0
    expected = content(out / "whole")
    while done < kills or (out / str(runs)).exists():
        run = out / str(runs)
        begun = any((run / "state").glob("*.pt"))
        command = [*whole[:2], "--out", str(run), "--resume"] if begun else [*whole, "--out", str(run)]
        moment = rng.randrange(1, events) if done < kills else 0
        process = forked(lambda command=command, moment=moment: profiled([*command, "--no-evaluate"], moment) and 0)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        done += process.exitcode != 0
        if process.exitcode == 0:
            assert content(run) == expected
            runs += 1
    return done


def content(run):
    """Everything in a run's folder, without times; files that hold no numbers of time as their bytes."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.suffix == ".pt":
            state = torch.load(path, weights_only=True)
            found[name] = plain({key: v for key, v in state.items() if key not in ("elapsed", "since")})
        elif name == "journal.jsonl":
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
    held = {"data.test": 0.5} if name == "8.csv" or name == "2.csv" else {}
    whole = ["train", family, *own, "--steps", "7", *words(QUICK | OFTEN | held | settings)]
    assert killed_again_and_again(whole, tmp_path, kills=20, seed=1) == 20

"""Resuming a run: errors before anything is written, longer runs, messages for damaged folders."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from jensen.cli.main import main
from jensen.core.seeding import derived, generator
from jensen.models import GAN
from jensen.recipes.families import gan
from jensen.recipes.sources.points import Ring
from jensen.recipes.words import configure
from jensen.runs import train as running
from jensen.runs.folder import RunError, load_weights
from jensen.runs.opening import open_data, open_run, read_config
from jensen.training import Budget, descend, warm_then_decay
from jensen.training.checkpoint import save_weights
from jensen.training.saved import load
from test_cli import journal_of, refused
from tiny import POINTS_GAN, words_of

QUICK = {"training.batch_size": 8, "training.log_every": 2, "training.save_every": 2, "training.previews": 0}
TINY = words_of(POINTS_GAN | QUICK)
ON = ["--resume", "--no-evaluate"]


def words(out, *more, steps=4):
    return ["train", "ring-gan", "--out", str(out), "--steps", str(steps), *TINY, *more]


def going_on(out, *more):
    return ["train", "ring-gan", "--out", str(out), *ON, *more]


def weights(run):
    return load_file(run / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def stop(*_):
    raise KeyboardInterrupt


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 4 steps, judged."""
    out = tmp_path_factory.mktemp("runs") / "ring"
    assert main(words(out)) == 0
    return out


@pytest.fixture
def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


# -- longer -----------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_the_longer_run_where_their_rates_agree(tmp_path):
    """With a learning rate that is warmed up and constant until the very end, 4 steps continued to 10 equal 10 steps
    bit for bit.
    """
    flat = ("--no-evaluate", "--set", "training.decay=1e-9")
    assert main(words(tmp_path / "long", *flat, steps=10)) == 0
    assert main(words(tmp_path / "short", *flat)) == 0
    before = journal_of(tmp_path / "short")
    assert main(going_on(tmp_path / "short", "--steps", "10")) == 0
    assert same(weights(tmp_path / "long"), weights(tmp_path / "short"))
    assert json.loads((tmp_path / "short" / "config.json").read_text())["training"]["steps"] == 10
    lines = journal_of(tmp_path / "short")
    assert lines[: len(before)] == before
    assert lines[len(before)] == {"step": 4, "note": "continued to 10 steps from 4 steps"}
    assert [line["step"] for line in lines[len(before) + 1 :]] == [6, 8, 10]
    assert main(going_on(tmp_path / "short", "--steps", "10")) == 0  # the same arguments again: nothing is left to do
    assert journal_of(tmp_path / "short") == lines


def test_rates_from_there_on_are_those_of_the_longer_run(copy_of):
    """At the end of the short run the learning rate was almost 0; continued to more steps, it is that of the longer
    run, at its peak.
    """

    def rate_at(step):
        saved = torch.load(copy_of / "state" / f"{step:09d}.pt", weights_only=True)
        return saved["optimizers"]["critic"]["param_groups"][0]["lr"]

    recipe = configure("ring-gan")
    settings = {"warmup": recipe.training.warmup, "decay": recipe.training.decay}
    peak = recipe.training.rate
    assert rate_at(4) == warm_then_decay(peak, Budget(4), **settings)(3)
    assert main(going_on(copy_of, "--steps", "8")) == 0
    assert rate_at(6) == warm_then_decay(peak, Budget(8), **settings)(5) == peak * 6 / settings["warmup"]
    assert rate_at(8) == warm_then_decay(peak, Budget(8), **settings)(7)


def test_what_was_judged_goes_with_the_weights_that_were(copy_of):
    assert (copy_of / "evaluation.json").exists()
    assert main(going_on(copy_of)) == 0  # finished: nothing changes
    assert (copy_of / "evaluation.json").exists()
    assert main(going_on(copy_of, "--steps", "6")) == 0
    assert not (copy_of / "evaluation.json").exists()
    assert not (copy_of / "report.html").exists()


@pytest.mark.parametrize("reached", [6, 8])
def test_a_longer_run_that_is_stopped_keeps_the_weights_and_what_was_judged(capsys, copy_of, monkeypatch, reached):
    """If it is stopped in the middle, or between its last checkpoint and its weights; finishing replaces them and
    the evaluation.
    """

    def until_six(state, *more):
        return descend(state, *more) if state.step < 6 else stop()

    if reached == 6:
        monkeypatch.setattr(gan.GAN, "update", lambda _: until_six)
    else:
        monkeypatch.setattr(running, "weights_step", stop)
    kept = ("model.safetensors", "evaluation.json", "report.html")
    before = [(copy_of / name).read_bytes() for name in kept]
    capsys.readouterr()
    assert main(going_on(copy_of, "--steps", "8")) == 130
    on = f"jensen train ring-gan --out {copy_of} --resume continues it"
    assert capsys.readouterr().err == f"jensen: stopped; {on}\n"
    monkeypatch.undo()
    assert [(copy_of / name).read_bytes() for name in kept] == before
    assert main(["sample", str(copy_of), "-n", "1"]) == 0
    said = f"is from step 4, but training was stopped at step {reached}: finish it with --resume"
    assert said in capsys.readouterr().err
    assert main(going_on(copy_of)) == 0
    assert not (copy_of / "evaluation.json").exists()
    assert main(["sample", str(copy_of), "-n", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupt_before_the_first_step_leaves_nothing_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Ring, "open", stop)
    assert main(words(tmp_path / "runs" / "ring")) == 130
    assert capsys.readouterr().err == "jensen: stopped; nothing was trained; the run was removed\n"
    assert list(tmp_path.iterdir()) == []


def test_minutes_and_steps_change_places(copy_of):
    assert main(going_on(copy_of, "--minutes", "0.005")) == 0
    training = json.loads((copy_of / "config.json").read_text())["training"]
    assert (training["minutes"], training["steps"]) == (0.005, None)
    lines = journal_of(copy_of)
    assert {"step": 4, "note": "continued to 0.005 minutes from 4 steps"} in lines
    last = lines[-1]["step"]
    assert last > 4
    assert main(going_on(copy_of, "--set", f"training.steps={last + 2}")) == 0
    assert journal_of(copy_of)[-1]["step"] == last + 2


def test_a_run_goes_on_with_nothing_but_its_length_changed(capsys, copy_of):
    before = files(copy_of)
    for more, parts in (
        (["--steps", "3"], ["must be trained for more than the 4 steps", "got 3 steps"]),
        (["--minutes", "1e-9"], ["must be trained for more than the 4 steps", "got 1e-09 minutes"]),
        (["--steps", "8", "--seed", "1"], ["only steps or minutes can be changed"]),
        (["--steps", "8", "--set", "training.rates.critic=1"], ["only steps or minutes can be changed"]),
    ):
        refused(capsys, going_on(copy_of, *more), *parts)
        assert files(copy_of) == before
    with pytest.raises(RunError, match="only steps or minutes can be changed"):
        running.train(configure("ring-gan", ["data.points=70"]), copy_of, resume=True)
    assert main([*words(copy_of, *ON, steps=6)]) == 0  # all its arguments, and more steps


# -- what is not there, or differs ------------------------------------------------------------------------------------


def test_weights_without_a_checkpoint_are_not_trained_over(capsys, copy_of):
    shutil.rmtree(copy_of / "state")
    before = files(copy_of)
    for more in ([], ["--steps", "8"]):
        refused(capsys, going_on(copy_of, *more), "has model.safetensors but no checkpoint in state/")
    assert files(copy_of) == before


def test_a_run_killed_before_its_first_checkpoint_begins_again(run, copy_of):
    shutil.rmtree(copy_of / "state")
    (copy_of / "model.safetensors").unlink()
    assert main(going_on(copy_of)) == 0
    assert same(weights(copy_of), weights(run))


def test_an_edited_network_is_named_by_its_first_weight_with_both_shapes(capsys, copy_of):
    config = copy_of / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"width": 16', '"width": 24'))
    said = "network.0.weight must be (24, 2), got (16, 2)"
    refused(capsys, ["sample", str(copy_of), "-n", "1"], "model.safetensors has weights of another model", said)
    refused(capsys, going_on(copy_of, "--steps", "8"), "state has weights of another model", "model." + said)
    config.write_text(text.replace('"critic_width": 16', '"critic_width": 24'))
    refused(capsys, ["evaluate", str(copy_of)], "critic.1.weight must be (24, 2), got (16, 2)")
    config.write_text(text.replace('"layers": 3,\n      "critic_w', '"layers": 4,\n      "critic_w'))
    refused(capsys, ["sample", str(copy_of), "-n", "1"], "network.6.weight must be (16, 16), got (2, 16)")
    config.write_text(text.replace('"layers": 3,\n      "critic_w', '"layers": 2,\n      "critic_w'))
    refused(capsys, ["sample", str(copy_of), "-n", "1"], "network.4.weight must be (2, 16), got (16, 16)")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[:3])


def test_tied_and_overlapping_weights_are_saved_and_come_back_tied(tmp_path):
    torch.manual_seed(0)
    first, second = Tied(), Tied()
    save_weights(first.state_dict(), tmp_path / "model.safetensors")
    load_weights(second, tmp_path)
    assert same(first.state_dict(), second.state_dict())
    assert second.a.weight is second.b.weight
    assert same(load_file(tmp_path / "model.safetensors"), dict(first.state_dict()))


def test_a_run_with_tied_weights_ends_well(tmp_path, monkeypatch):
    def tied(family, space):
        layer = nn.Linear(2, 2)
        return GAN(nn.Sequential(layer, nn.Tanh(), layer), [2])

    monkeypatch.setattr(gan.GAN, "model", tied)
    assert main(words(tmp_path / "run", "--no-evaluate")) == 0
    model = open_run(tmp_path / "run").model
    assert model.network[0].weight is model.network[2].weight
    assert main(["sample", str(tmp_path / "run"), "-n", "4"]) == 0


def test_a_model_of_low_precision_is_opened_as_it_was_averaged(tmp_path, monkeypatch):
    make = gan.GAN.model
    assert main(words(tmp_path / "run", "--no-evaluate")) == 0
    monkeypatch.setattr(gan.GAN, "model", lambda family, space: make(family, space).bfloat16())
    model = open_run(tmp_path / "run").model
    assert same(dict(model.state_dict()), weights(tmp_path / "run"))


# -- nothing is left --------------------------------------------------------------------------------------------------


@contextmanager
def anybody():
    """Runs without root's permission to write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(capsys, copy_of, tmp_path, monkeypatch):
    """For training, resuming and evaluating; before anything is drawn or computed."""

    def drawn(*_):
        raise AssertionError("work has begun")

    monkeypatch.setattr(Ring, "open", drawn)
    before = files(copy_of)
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    for folder in (tmp_path, copy_of):
        folder.chmod(0o555)
    try:
        with anybody():
            for wanted in (words(tmp_path / "new" / "run"), going_on(copy_of), ["evaluate", str(copy_of)]):
                refused(capsys, wanted, "cannot write to", "Permission denied")
    finally:
        for folder in (tmp_path, copy_of):
            folder.chmod(0o755)
    assert files(copy_of) == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    for locked, open_ in (("state", "samples"), ("samples", "state")):
        for folder, mode in ((copy_of, 0o777), (copy_of / open_, 0o777), (copy_of / locked, 0o555)):
            folder.chmod(mode)
        with anybody():
            for wanted in (going_on(copy_of, "--steps", "8"), ["evaluate", str(copy_of)]):
                refused(capsys, wanted, f"cannot write to {copy_of / locked}: Permission denied")
    assert files(copy_of) == before
    (tmp_path / "notes.txt").write_text("mine")
    refused(capsys, words(tmp_path / "notes.txt" / "run"), "cannot write to", "notes.txt is not a folder")


@pytest.mark.parametrize(
    ("recipe", "word", "part"),
    [
        ("moons-diffusion", "data.test=1", "data.test must be at least 16, got 1"),
        ("moons-score", "data.points=1", "data.points must be at least 16, got 1"),
        ("ring-gan", "data.test=1", "data.test must be at least 16, got 1"),
        ("grid-gan", "data.points=2", "data.points must be at least 16, got 2"),
        ("stacked-digits-gan", "data.points=1", "data.points must be at least 16, got 1"),
        ("mnist-vae", "data.test=1", "data.test must be below 1, got 1"),
        ("sprites-vae", "data.test=1", "data.test must be at least 2, got 1"),
        ("digits-cyclegan", "data.test=1", "data.test must be at least 20, got 1"),
        (
            "grid-pacgan",
            "data.test=16,game.packing=16",
            "packing 16 leaves fewer than 2 packs of the 16 held-out examples",
        ),
    ],
)
def test_data_too_few_to_judge_by_are_refused_at_the_start(capsys, tmp_path, recipe, word, part):
    out = tmp_path / "runs" / "new"
    sets = [w for one in [*word.split(","), "training.batch_size=32"] for w in ("--set", one)]
    refused(capsys, ["train", recipe, "--out", str(out), *sets], part)
    assert list(tmp_path.iterdir()) == []


def test_the_fewest_data_that_are_taken_are_enough_to_judge_by(tmp_path):
    few = POINTS_GAN | {"data.points": 16, "data.test": 16, "training.batch_size": 8, "training.previews": 0}
    assert main(["train", "ring-gan", "--out", str(tmp_path / "run"), "--steps", "2", *words_of(few)]) == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.parametrize("where", ["model", "objective", "players", "update"])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(capsys, tmp_path, monkeypatch, where, there):
    def broken(*_, **__):
        raise ValueError("the data are not what was promised")

    monkeypatch.setattr(gan.GAN, where, (lambda recipe: broken) if where == "update" else broken)
    out = tmp_path / "runs" / "ring"
    if there:
        out.mkdir(parents=True)
    assert main(words(out)) == 2
    assert capsys.readouterr().err.endswith("jensen: the data are not what was promised\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"] * there
    monkeypatch.undo()
    assert main(words(out, "--no-evaluate")) == 0


def test_a_run_that_fails_later_keeps_its_folder(tmp_path, monkeypatch):
    update, calls = gan.GAN.update, []

    def sometimes(recipe):
        def rule(*words):
            calls.append(words)
            if len(calls) > 5:
                raise ValueError("enough")
            return update(recipe)(*words)

        return rule

    monkeypatch.setattr(gan.GAN, "update", sometimes)
    assert main(words(tmp_path / "run", "--no-evaluate")) == 2
    assert (tmp_path / "run" / "config.json").exists()


# -- other processes than before --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_new_noise_after_a_change_of_processes_depends_on_the_seed(tmp_path, seed):
    """After a run with two processes, the buffers of the first are kept; the noise is a function of (seed, step,
    number of processes).
    """
    assert main(words(tmp_path / "run", "--no-evaluate", "--seed", str(seed))) == 0
    saved = load(tmp_path / "run" / "state")
    saved["processes"].append({"rng": saved["rng"], "buffers": {"elsewhere": torch.ones(1)}})
    recipe = read_config(tmp_path / "run")
    budget = recipe.training.budget()
    state = running.new_state(recipe, running.new_objective(recipe, open_data(recipe)), budget)
    (note,) = running._restore(recipe, state, budget, saved, tmp_path / "run")
    assert note == "1 process instead of 2: new random state; buffers of process 1 are left out"
    expected = torch.randn(5, generator=generator(derived(seed, "resumed", 4, 1, 0)))
    assert torch.equal(torch.randn(5), expected)
    assert derived(0, "resumed", 4, 1, 0) != derived(1, "resumed", 4, 1, 0)

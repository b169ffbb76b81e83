"""Signals and closed pipes: training saves and says how to go on; everything else ends with a sentence."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from jensen.cli import commands, show
from jensen.cli.main import main
from jensen.recipes.families import gan
from jensen.recipes.sources.points import Ring
from test_damage import forked
from test_resume import going_on, same, weights, words


@pytest.fixture(autouse=True)
def _usual_signals():
    """A shell that starts the tests in the background or under nohup makes Python ignore SIGINT or SIGHUP."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An uninterrupted run of 6 steps."""
    out = tmp_path_factory.mktemp("runs") / "ring"
    assert main(words(out, "--no-evaluate", steps=6)) == 0
    return out


def at_step(monkeypatch, step, act):
    """Call `act` in the first phase of this step, counted from 0."""
    update = gan.GAN.update

    def changed(recipe):
        def rule(state, players, evaluate):
            if state.step == step and "critic" in players:
                act()
            return update(recipe)(state, players, evaluate)

        return rule

    monkeypatch.setattr(gan.GAN, "update", changed)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def ends_with(capsys, said):
    return capsys.readouterr().err.splitlines()[-1] == said


def continues(out):
    return f"jensen train ring-gan --out {out} --resume continues it"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_saves_it_and_the_run_goes_on_bit_for_bit(capsys, run, tmp_path, monkeypatch, number):
    out, before = tmp_path / "run", signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: send(number))
        assert main(words(out, "--no-evaluate", steps=6)) == 130
    assert ends_with(capsys, f"jensen: stopped; {continues(out)}")
    assert [path.name for path in sorted((out / "state").iterdir())] == ["000000002.pt", "000000003.pt"]
    assert not (out / ".lock").exists()
    assert main(going_on(out)) == 0
    assert same(weights(out), weights(run))
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(capsys, run, tmp_path, monkeypatch, first):
    """In the middle of the third step, of which nothing is kept."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: send(first, signal.SIGINT))
        assert main(words(out, "--no-evaluate", steps=6)) == 130
    assert ends_with(capsys, f"jensen: stopped; {continues(out)}")
    assert [path.name for path in (out / "state").iterdir()] == ["000000002.pt"]
    assert main(going_on(out)) == 0
    assert same(weights(out), weights(run))


def test_other_signals_that_are_repeated_end_the_step_first(tmp_path, monkeypatch):
    at_step(monkeypatch, 2, lambda: send(signal.SIGTERM, signal.SIGHUP, signal.SIGTERM))
    assert main(words(tmp_path / "run", "--no-evaluate", steps=6)) == 130
    assert (tmp_path / "run" / "state" / "000000003.pt").exists()


def test_nohup_is_respected(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, 2, lambda: send(signal.SIGHUP))
        assert main(words(tmp_path / "run", "--no-evaluate")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_training_leaves_nothing(capsys, tmp_path, monkeypatch, number):
    monkeypatch.setattr(Ring, "open", lambda *_: send(number))
    assert main(words(tmp_path / "runs" / "new")) == 130
    assert capsys.readouterr().err == "jensen: stopped; nothing was trained; the run was removed\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_between_config_and_the_first_step_leaves_nothing(capsys, tmp_path, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gan.GAN, "update", stopped)
    assert main(words(tmp_path / "runs" / "new")) == 130
    assert ends_with(capsys, "jensen: stopped; nothing was trained; the run was removed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_evaluating_speaks_of_evaluating(capsys, run, monkeypatch, number):
    monkeypatch.setattr(commands, "judged", lambda *_, **__: send(number))
    said = f"jensen: stopped while evaluating; jensen evaluate {run} evaluates the run"
    for command in (["evaluate", str(run)], ["train", "ring-gan", "--out", str(run), "--resume"]):
        assert main(command) == 130
        assert ends_with(capsys, said)
    assert not (run / "evaluation.json").exists()


def unread(out, log):
    """The last line on standard error of training whose standard output nobody reads."""

    def command():
        here, there = os.pipe()
        os.close(here)
        os.dup2(there, 1)
        with log.open("w") as sys.stderr, open(1, "w", closefd=False) as sys.stdout:
            return main(words(out, "--no-evaluate", steps=6))

    process = forked(command)
    process.join()
    assert process.exitcode == 130
    return log.read_text().splitlines()[-1]


def test_standard_output_closed_before_training_leaves_nothing(tmp_path):
    """`jensen train ... | true`: the first line of output says how long training takes."""
    said = "jensen: stopped; standard output was closed; nothing was trained; the run was removed"
    assert unread(tmp_path / "run", tmp_path / "log") == said
    assert not (tmp_path / "run").exists()


def test_standard_output_closed_while_training_saves_and_says_so(run, tmp_path, monkeypatch):
    """`jensen train ... | head -1`: a line of output is due after each line of the journal."""
    out = tmp_path / "run"
    monkeypatch.setattr(show, "PLAIN_EVERY", 0.0)
    monkeypatch.setattr(show, "expected", lambda _: None)  # that line was read
    assert unread(out, tmp_path / "log") == f"jensen: stopped; standard output was closed; {continues(out)}"
    assert [path.name for path in (out / "state").iterdir()] == ["000000002.pt"]
    assert main(going_on(out)) == 0
    assert same(weights(out), weights(run))

"""Numbers that are not finite: named with step, player and term, never saved, and skipped if that is asked for."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Normal
from torch.utils._pytree import tree_leaves

from games import ring_stream
from jensen.cli.main import main
from jensen.core.objective import Objective
from jensen.core.types import Loss, NonFiniteLoss
from jensen.models import GAN
from jensen.objectives import Adversarial
from jensen.recipes.families import gan
from jensen.training import Budget, Tolerance, consensus, extragradient, fit, optimistic, train_step
from jensen.training import checkpoint as checkpoints
from jensen.training.saved import load
from jensen.training.tolerance import refuse_non_finite
from test_cli import journal_of, refused
from test_resume import going_on, same, words
from test_training import new_state, nothing
from tiny import tiny


class Fit(Objective):
    """A Gaussian whose scale overflows from step 2 on: torch.distributions refuses it with an error."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1)

    def forward(self, players, batch, step):
        scale = (self.model(torch.ones(1, 1)) + 100 * (step >= 2)).exp()
        return {"model": Loss.of(-Normal(torch.zeros(1), 1 / scale, validate_args=True).log_prob(torch.ones(1)).mean())}


def test_an_error_from_numbers_that_are_not_finite_names_step_player_and_operation():
    state = new_state(Fit())
    for _ in range(2):
        train_step(state, nothing())
    with pytest.raises(NonFiniteLoss, match=r"^the loss of player 'model' is not finite at step 2 \(term 'exp'\)"):
        train_step(state, nothing())


def test_another_error_stays_as_it_is():
    class Wrong(Fit):
        def forward(self, players, batch, step):
            if step >= 2:
                raise ValueError("the data are not what was promised")
            return super().forward(players, batch, step)

    state = new_state(Wrong())
    with pytest.raises(ValueError, match="the data are not what was promised"):
        fit(state, lambda start: nothing(), Budget(steps=3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_a_checkpoint_would_hold_is_named(value):
    state = new_state(Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1)))
    fit(state, ring_stream(), Budget(steps=2))
    refuse_non_finite(state)
    critic = state.players["critic"]
    places = {
        "objective.critic.weight": ("critic", state.objective.critic.weight),
        "objective.model.network.bias": ("generator", state.objective.model.network.bias),
        "averages.0.network.weight": ("critic", state.average.network.weight),
        "optimizers.critic.state.0.exp_avg": ("critic", critic.optimizer.state[critic.parameters[0]]["exp_avg"]),
    }
    for place, (player, tensor) in places.items():
        before = tensor.detach().clone()
        tensor.data.view(-1)[-1] = value
        said = rf"the state of player '{player}' is not finite at step 2 \(term '{place}'\)"
        if place.startswith("averages"):
            said = rf"is not finite at step 2 \(term '{place}'\)"
        with pytest.raises(NonFiniteLoss, match=said):
            refuse_non_finite(state)
        tensor.data.copy_(before)
    refuse_non_finite(state)


# -- skipped steps ----------------------------------------------------------------------------------------------------


class Sometimes(Adversarial):
    """The generator's loss is not finite on batches that are marked, after the critic has moved."""

    def forward(self, players, batch, step):
        losses = super().forward(players, {"x": batch["x"]}, step)
        self.norm(batch["x"])
        if "generator" in players:
            bad = losses["generator"].total * batch["bad"]
            losses = {**losses, "generator": Loss.of(bad, bad=bad)}
        return losses


def game():
    torch.manual_seed(0)
    made = Sometimes(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1))
    made.norm = nn.BatchNorm1d(2, affine=False)  # a buffer that changes in every forward pass
    return made


def marked(bad):
    def stream(start):
        for k, batch in enumerate(ring_stream()(start), start):
            yield {**batch, "bad": torch.tensor(math.nan if k in bad else 1.0)}

    return stream


def leaves(state):
    """Everything that a resume needs, but the number of batches drawn; tensors as bytes."""
    kept = {key: value for key, value in state.state_dict().items() if key != "draws"}
    return [v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for v in tree_leaves(kept)]


def test_a_skipped_step_changes_nothing_but_drops_its_batch():
    state, seen = new_state(game()), []
    tolerance, batches = Tolerance(2, seen.append), marked((2, 3))(0)
    for _ in range(2):
        tolerance(state, lambda: train_step(state, batches))
    before = leaves(state)

    def looked():
        assert leaves(state) == before  # at the beginning of each attempt
        return train_step(state, batches)

    tolerance(state, looked)
    assert [(e.step, e.player, e.term) for e in seen] == [(2, "generator", "bad")] * 2
    assert (state.step, state.draws) == (3, 5)
    other = new_state(game())  # the same run on a stream without those batches
    good = (batch for k, batch in zip(range(5), marked(())(0), strict=False) if k not in (2, 3))
    for _ in range(3):
        train_step(other, good)
    assert leaves(state) == leaves(other)


def test_too_many_in_a_row_stop_with_the_last_good_state():
    state, seen = new_state(game()), []
    with pytest.raises(NonFiniteLoss, match=r"at step 6 \(term 'bad'\), after 3 skipped in a row: "):
        fit(state, marked(range(6, 100)), Budget(steps=9), tolerance=Tolerance(3, seen.append))
    assert len(seen) == 3
    assert state.step == 6
    refuse_non_finite(state)


@pytest.mark.parametrize("rule", [extragradient, optimistic, consensus(0.1)])
def test_weights_that_overflow_are_a_step_to_skip(rule):
    """A gradient that is finite, and an optimizer that leaves the range of float32, once."""

    class Huge(Objective):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(1, 1, bias=False)

        def forward(self, players, batch, step):
            return {"model": Loss.of((batch["scale"] * self.model.weight).sum() + self.model.weight.square().sum())}

    state = new_state(Huge(), rate=1e10, optimizer=torch.optim.SGD)
    state.players["model"].clip = None
    seen = []
    scales = iter({"scale": torch.tensor(s)} for s in (1e-12, 1e35, 1e-12))
    step = lambda: train_step(state, scales, update=rule)  # noqa: E731
    state.players["model"].rate = lambda step: 1e10 if state.draws == 2 else 1e-3
    tolerance = Tolerance(1, seen.append)
    for _ in range(2):
        tolerance(state, step)
    assert [e.player for e in seen] == ["model"]
    assert (state.step, state.draws) == (2, 3)
    assert state.objective.model.weight.isfinite().all()


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_that_overflows_in_a_check_of_the_library_says_step_and_player(capsys, tmp_path):
    given = ["train", "digits-vdm", "--out", str(tmp_path / "run"), *tiny("digits-vdm", training__warmup=0)]
    assert main([*given, "--steps", "4", "--lr", "1e9"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jensen: the loss of player ")
    assert " is not finite at step 1 (term " in said
    assert not (tmp_path / "run" / "model.safetensors").exists()


def overflowing(monkeypatch, at):
    """The optimizer of the generator leaves the range of its numbers in one step, with finite gradients."""
    update = gan.GAN.update

    def rule(recipe):
        def moved(state, players, evaluate):
            losses = update(recipe)(state, players, evaluate)
            if state.step in at and "generator" in players:
                at.remove(state.step)
                next(iter(state.objective.model.parameters())).data.fill_(math.inf)
            return losses

        return moved

    monkeypatch.setattr(gan.GAN, "update", rule)


def test_weights_that_overflow_in_the_last_step_are_not_exported(capsys, tmp_path, monkeypatch):
    out = tmp_path / "run"
    overflowing(monkeypatch, [5])
    assert main(words(out, steps=6)) == 1
    said = "jensen: the state of player 'generator' is not finite at step 6 (term 'objective.model.network.0.weight')"
    assert said in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    assert not (out / "evaluation.json").exists()
    assert [path.stem for path in checkpoints.checkpoints(out / "state")] == ["000000002", "000000004"]
    assert main(going_on(out)) == 0  # from the last good state
    assert main(words(tmp_path / "whole", "--no-evaluate", steps=6)) == 0
    assert same(load_file(out / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))


def test_skipped_steps_are_written_to_the_journal(tmp_path, monkeypatch):
    out = tmp_path / "run"
    overflowing(monkeypatch, [3])
    assert main(words(out, "--no-evaluate", "--set", "training.skip_nonfinite=1", steps=6)) == 0
    (note,) = [line for line in journal_of(out) if "note" in line]
    assert note["step"] == 3
    assert note["note"].startswith("skipped a step: the state of player 'generator' is not finite at step 4 (term ")
    assert all(value.isfinite().all() for value in load_file(out / "model.safetensors").values())


def test_an_old_checkpoint_that_is_not_finite_is_passed_over(tmp_path, monkeypatch):
    """As older versions could write it: the one before it is used."""
    out = tmp_path / "run"
    assert main(words(out, "--no-evaluate", steps=6)) == 0
    exact = load_file(out / "model.safetensors")
    saved = dict(load(out / "state"))
    saved["optimizers"]["critic"]["state"][0]["exp_avg"][0] = math.nan
    checkpoints.save(out / "state", 6, saved)
    (out / "model.safetensors").unlink()
    assert load(out / "state")["step"] == 4
    assert main(going_on(out)) == 0
    assert same(load_file(out / "model.safetensors"), exact)


def test_a_model_that_is_not_finite_from_the_start_is_refused(capsys, tmp_path, monkeypatch):
    make = gan.GAN.model

    def masked(family, space):
        model = make(family, space)
        model.register_buffer("mask", torch.full((2,), -math.inf))
        return model

    monkeypatch.setattr(gan.GAN, "model", masked)
    refused(capsys, words(tmp_path / "new" / "run"), "objective.model.mask must be finite before the first step")
    assert list(tmp_path.iterdir()) == []

"""One trainer for all games: gradients stay with their player, update rules are correct, resuming is exact."""

from __future__ import annotations

import copy
import io
import itertools
import math

import pytest
import torch
from torch import nn

from games import GAMES, Adversarial, ring, ring_stream
from jensen.core.objective import Objective, partition
from jensen.core.types import Loss, NonFiniteLoss, Phase
from jensen.training import (
    Budget,
    Player,
    TrainState,
    consensus,
    descend,
    extragradient,
    fit,
    optimistic,
    train_step,
    warm_decay,
    warm_then_decay,
)

named = pytest.mark.parametrize("name", GAMES)


def new_state(objective, rate=1e-2, optimizer=torch.optim.AdamW, **settings):
    players = {
        name: Player(parameters, optimizer(parameters, lr=rate), lambda step: rate, clip=1.0)
        for name, parameters in partition(objective).items()
    }
    return TrainState(objective, players, decay=warm_decay(0.9), **settings)


def made(name):
    torch.manual_seed(0)
    return new_state(GAMES[name]())


@pytest.mark.parametrize(("name", "player"), [(n, "critic" if "gan" in n else "model") for n in GAMES])
def test_training_lowers_the_loss_it_descends(name, player):
    """With one batch of 512 and the same noise before and after; for a GAN's critic early in training, while the
    generator is poor.
    """

    def loss_now(objective):
        torch.manual_seed(7)
        with torch.no_grad():
            return float(objective((player,), {"x": ring()}, 0)[player].total)

    state = made(name)
    before = loss_now(state.objective)
    fit(state, ring_stream(), Budget(steps=30 if "gan" in name else 300))
    assert loss_now(state.objective) < 0.9 * before


@named
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(name):
    whole = made(name)
    fit(whole, ring_stream(), Budget(steps=12))

    first = made(name)
    batches = ring_stream()(0)
    for _ in range(5):
        train_step(first, batches)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    torch.manual_seed(12345)
    torch.randn(7)  # other draws in between
    second = new_state(GAMES[name]())
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    fit(second, ring_stream(), Budget(steps=12))

    assert second.step == whole.step
    assert second.draws == whole.draws
    for part in ("objective", "average"):
        ours, theirs = getattr(second, part).state_dict(), getattr(whole, part).state_dict()
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), key


def test_phases_say_who_moves_how_often_and_on_which_batch():
    moves = {}
    for name, draws in (("gan-alternating", 2), ("gan-simultaneous", 1), ("gan-5:1", 5)):
        state = made(name)
        train_step(state, ring_stream()(0))
        assert state.draws == draws
        moves[name] = state.objective.moves.tolist()
    assert moves == {"gan-alternating": [1, 1], "gan-simultaneous": [1, 1], "gan-5:1": [1, 5]}


@pytest.mark.parametrize("phases", [Adversarial.ALTERNATING, Adversarial.SIMULTANEOUS])
def test_no_gradient_leaks_into_another_player(phases):
    """The step of each player equals one computed with autograd.grad of its loss and parameters alone."""
    torch.manual_seed(0)
    objective = Adversarial(phases)
    reference = copy.deepcopy(objective)
    state = new_state(objective, optimizer=torch.optim.SGD)
    for player in state.players.values():
        player.clip = None
    torch.manual_seed(1)
    train_step(state, ring_stream()(0))

    torch.manual_seed(1)
    batches = ring_stream()(0)
    for phase in phases:
        losses = reference(phase.players, next(batches), 0)
        owned = {name: list(p) for name, p in reference.players().items()}
        steps = [
            (p, g)
            for name in phase.players
            for p, g in zip(
                owned[name], torch.autograd.grad(losses[name].total, owned[name], retain_graph=True), strict=True
            )
        ]
        with torch.no_grad():
            for p, g in steps:
                p -= 1e-2 * g
    for ours, theirs in zip(objective.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


class Bilinear(Objective):
    """min over x, max over y of x y: the field is (y, -x), and simultaneous gradient steps spiral outwards."""

    phases = (Phase(("x", "y")),)

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.x = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.y = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def players(self):
        return {"x": [self.model.x], "y": [self.y]}

    def forward(self, players, batch, step):
        product = self.model.x * self.y
        return {"x": Loss.of(product), "y": Loss.of(-product)}


def nothing():
    while True:
        yield {}


def bilinear_norm(update, h, steps=1, phases=None):
    objective = Bilinear()
    if phases:
        objective.phases = phases
    state = new_state(objective, rate=h, optimizer=torch.optim.SGD)
    for player in state.players.values():
        player.clip = None
    for _ in range(steps):
        train_step(state, nothing(), update=update)
    return complex(objective.model.x.item(), objective.y.item())


@pytest.mark.parametrize("h", [0.05, 0.3])
def test_update_rules_on_the_bilinear_game(h):
    """With w = x + i y the field is -i w; a step multiplies w by a known number."""
    assert bilinear_norm(descend, h) == pytest.approx(1 + 1j * h, abs=1e-14)
    assert bilinear_norm(extragradient, h) == pytest.approx(1 + 1j * h * (1 + 1j * h), abs=1e-14)
    gamma = 0.7  # |v|^2 / 2 = |w|^2 / 2, so the regulariser adds -h gamma w
    assert bilinear_norm(consensus(gamma), h) == pytest.approx(1 + 1j * h - h * gamma, abs=1e-14)
    # optimistic: w2 = w1 + h (2 i w1 - i w0), the first step plain
    w1 = 1 + 1j * h
    assert bilinear_norm(optimistic, h, steps=2) == pytest.approx(w1 + 1j * h * (2 * w1 - 1), abs=1e-14)


def test_the_bilinear_game_spirals_out_or_in_as_theory_says():
    h, n = 0.1, 200
    assert abs(bilinear_norm(descend, h, n)) == pytest.approx((1 + h * h) ** (n / 2), rel=1e-10)
    assert abs(bilinear_norm(extragradient, h, n)) < 0.5
    assert abs(bilinear_norm(optimistic, h, n)) < 0.5
    assert abs(bilinear_norm(descend, h, n, phases=(Phase(("x",)), Phase(("y",))))) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("rule", [extragradient, optimistic, consensus(0.1)])
def test_whole_game_rules_refuse_alternating_phases(rule):
    with pytest.raises(ValueError, match="must update all players"):
        train_step(made("gan-alternating"), ring_stream()(0), update=rule)


def test_optimistic_memory_survives_a_resume():
    torch.manual_seed(0)
    state = new_state(Bilinear(), optimizer=torch.optim.SGD)
    train_step(state, nothing(), update=optimistic)
    again = new_state(Bilinear(), optimizer=torch.optim.SGD)
    again.load_state_dict(state.state_dict())
    for s in (state, again):
        train_step(s, nothing(), update=optimistic)
    assert torch.equal(state.objective.y, again.objective.y)


def test_a_stream_that_ends_says_after_how_many_draws():
    state = made("gan-5:1")
    with pytest.raises(ValueError, match="the stream ended after 7 draws"):
        fit(state, lambda start: itertools.islice(ring_stream()(start), 7), Budget(steps=5))
    assert state.step == 1
    with pytest.raises(ValueError, match="the stream ended after 7 draws"):  # resumed beyond its end
        fit(state, lambda start: itertools.islice(ring_stream()(0), start, 7), Budget(steps=5))


class Diverging(Bilinear):
    def forward(self, players, batch, step):
        bad = self.y / 0 if step == 2 else self.y
        return {"x": Loss.of(self.model.x**2), "y": Loss.of(self.y**2 + bad, ratio=bad)}


def test_a_loss_that_is_not_finite_stops_before_anything_moves():
    state = new_state(Diverging())
    for _ in range(2):
        train_step(state, nothing())
    before = copy.deepcopy(state.objective.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"player 'y' is not finite at step 2 \(term 'ratio'\)"):
        train_step(state, nothing())
    for key, value in state.objective.state_dict().items():
        assert torch.equal(value, before[key])


class Steep(Bilinear):
    """Finite losses, but an infinite gradient for y."""

    def forward(self, players, batch, step):
        return {"x": Loss.of(self.model.x**2), "y": Loss.of((self.y - self.y.detach()).sqrt())}


@pytest.mark.parametrize("rule", [descend, extragradient, optimistic, consensus(0.1)])
def test_a_gradient_that_is_not_finite_stops_before_anything_moves(rule):
    state = new_state(Steep())
    before = copy.deepcopy(state.objective.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"player 'y' is not finite at step 0 \(term 'gradient'\)"):
        train_step(state, nothing(), update=rule)
    assert all(torch.equal(value, before[key]) for key, value in state.objective.state_dict().items())


def test_consensus_of_linear_losses_is_descent_and_names_what_is_unused():
    class Linear(Bilinear):
        def forward(self, players, batch, step):
            return {"x": Loss.of(2 * self.model.x), "y": Loss.of(self.model.x.detach() - 3 * self.y)}

    state = new_state(Linear(), rate=0.1, optimizer=torch.optim.SGD)
    for player in state.players.values():
        player.clip = None
    train_step(state, nothing(), update=consensus(5.0))  # a constant field has no |v|^2 to lower
    assert (state.objective.model.x.item(), state.objective.y.item()) == pytest.approx((1 - 0.2, 0.3))

    class Unused(Bilinear):
        def forward(self, players, batch, step):
            return {"x": Loss.of(self.model.x**2), "y": Loss.of(self.model.x**2)}

    with pytest.raises(ValueError, match="y of player 'y' gets no gradient from its loss"):
        train_step(new_state(Unused()), nothing(), update=consensus(0.1))


def test_extragradient_comes_back_from_a_look_ahead_that_fails():
    class Cliff(Bilinear):
        def forward(self, players, batch, step):
            wall = torch.where(self.model.x < 1, math.inf, 0.0)
            return {"x": Loss.of(self.model.x + wall), "y": Loss.of(self.y)}

    state = new_state(Cliff(), optimizer=torch.optim.SGD)
    with pytest.raises(NonFiniteLoss):
        train_step(state, nothing(), update=extragradient)
    assert state.objective.model.x.item() == 1


def test_an_optimizer_over_another_players_parameters_is_refused():
    objective = Bilinear()
    both = torch.optim.SGD([objective.model.x, objective.y], lr=0.1)
    players = {name: Player(list(p), both, lambda step: 0.1) for name, p in objective.players().items()}
    with pytest.raises(ValueError, match="player 'x' and its optimizer must hold"):
        TrainState(objective, players)


def test_the_partition_is_checked():
    def refusing(change, message):
        game = Bilinear()
        change(game)
        with pytest.raises(ValueError, match=message):
            partition(game)

    def shared(g):
        g.players = lambda: {"x": [g.model.x, g.y], "y": [g.y]}

    refusing(shared, "y belongs to player 'x' and to player 'y'")
    refusing(lambda g: setattr(g, "players", lambda: {"x": [g.model.x], "y": []}), "'y' has no parameters")
    refusing(lambda g: setattr(g, "players", lambda: {"x": [g.model.x]}), "y requires a gradient but belongs to no")
    refusing(lambda g: g.y.requires_grad_(False), "y of player 'y' is frozen")
    refusing(lambda g: setattr(g, "phases", (Phase(("z",)),)), "a phase names player 'z'")
    with pytest.raises(ValueError, match="repeats"):
        Phase(("x",), repeats=0)


def test_a_parameter_without_a_gradient_is_named():
    class Unused(Bilinear):
        def __init__(self):
            super().__init__()
            self.spare = nn.Parameter(torch.zeros(1))

        def players(self):
            return {"x": [self.model.x], "y": [self.y, self.spare]}

    with pytest.raises(ValueError, match="spare of player 'y' gets no gradient"):
        train_step(new_state(Unused()), nothing())


def test_gradient_clipping_is_per_player():
    state = made("gan-simultaneous")
    state.players["critic"].clip = 1e-3
    state.players["generator"].clip = None
    train_step(state, ring_stream()(0))
    norm = {
        name: torch.cat([p.grad.flatten() for p in player.parameters]).norm().item()
        for name, player in state.players.items()
    }
    assert norm["critic"] == pytest.approx(1e-3, rel=1e-3)
    assert norm["generator"] > 1e-2


def test_rates_follow_steps_or_the_clock():
    rate = warm_then_decay(2.0, Budget(steps=100), warmup=10, decay=0.5)
    assert [rate(s) for s in (0, 9, 50, 75, 100)] == [0.2, 2.0, 2.0, 1.0, 0.0]
    budget = Budget(minutes=1.0, elapsed=45.0)
    budget.look()
    assert warm_then_decay(2.0, budget, warmup=0, decay=0.5)(3) == pytest.approx(1.0, abs=1e-9)
    for bad in ({}, {"steps": 1, "minutes": 1.0}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(ValueError, match=r"budget|steps|minutes"):
            Budget(**bad)


def test_bfloat16_autocast_reaches_the_objective():
    seen = []

    class Looking(Bilinear):
        def forward(self, players, batch, step):
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
            return super().forward(players, batch, step)

    for precision in (None, torch.bfloat16):
        train_step(new_state(Looking(), precision=precision), nothing())
    assert seen == [torch.float32, torch.bfloat16]

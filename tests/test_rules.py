"""The steps of all update rules for a game of a generator and a critic, computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jensen.adversarial import gradient_penalty, r1, r2, vector_field
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.objectives.adversarial import SIMULTANEOUS, alternating
from jensen.training import Player, TrainState, consensus, descend, extragradient, optimistic, train_step
from test_adversarial_objective import RATE, batches, game, state_of

pytestmark = pytest.mark.usefixtures("double_precision")


class Quiet(nn.Module):
    """A generator with fixed noise, so that a step can be repeated by hand."""

    def __init__(self, model):
        super().__init__()
        self.network = model.network

    def latent(self, n):
        return torch.linspace(-1, 1, 3 * n).reshape(n, 3)

    def forward(self, z):
        return self.network(z)


def quiet(phases, **settings):
    torch.manual_seed(11)
    objective = game("saturating", phases=phases, **settings)
    objective.model = Quiet(objective.model)
    return objective


ORDER = ("critic", "generator")


def weights(objective):
    """All weights as a vector, the critic's first."""
    players = objective.players()
    return torch.cat([p.detach().reshape(-1) for name in ORDER for p in players[name]])


def field(objective, at, x, players=ORDER):
    """The field v at the weights `at`: the gradient of each player's loss, computed explicitly; 0 for players that
    do not move.
    """
    names = [n for which in ("critic", "model") for n, _ in objective.named_parameters() if n.startswith(which)]
    shapes = [objective.get_parameter(n).shape for n in names]
    values = dict(
        zip(names, [v.reshape(s) for v, s in zip(at.split([s.numel() for s in shapes]), shapes, strict=True)],
            strict=True)
    )  # fmt: skip

    def net(prefix, h):
        h = torch.tanh(h @ values[prefix + "0.weight"].T + values[prefix + "0.bias"])
        return h @ values[prefix + "2.weight"].T + values[prefix + "2.bias"]

    made = net("model.network.", torch.linspace(-1, 1, 12).reshape(4, 3))
    real, fake = net("critic.", x), net("critic.", made)
    losses = {
        "critic": (F.softplus(-real) + F.softplus(fake)).mean(),
        "generator": -F.softplus(fake).mean(),
    }
    parts = []
    for player, prefix in (("critic", "critic."), ("generator", "model.")):
        mine = [values[n] for n in names if n.startswith(prefix)]
        if player in players:
            found = torch.autograd.grad(losses[player], mine, retain_graph=True, create_graph=True)
        else:
            found = [torch.zeros_like(v) for v in mine]
        parts += [g.reshape(-1) for g in found]
    return torch.cat(parts)


def at(objective):
    return weights(objective).clone().requires_grad_()


def test_simultaneous_alternating_and_several_to_one_by_hand():
    h = RATE
    objective, stream = quiet(SIMULTANEOUS), batches()
    w, x = at(objective), next(batches())["x"]
    train_step(state_of(objective), stream)
    torch.testing.assert_close(weights(objective), (w - h * field(objective, w, x)).detach(), atol=1e-13, rtol=0)

    objective, stream = quiet(alternating()), batches()
    w, x = at(objective), next(batches())["x"]
    train_step(state_of(objective), stream)
    half = w - h * field(objective, w, x, ("critic",))
    whole = half - h * field(objective, half, x, ("generator",))
    torch.testing.assert_close(weights(objective), whole.detach(), atol=1e-13, rtol=0)

    objective, again = quiet(alternating(5)), batches()
    state, w = state_of(objective), at(objective)
    train_step(state, batches())
    for _ in range(5):
        x = next(again)["x"]
        w = (w - h * field(objective, w, x, ("critic",))).detach().requires_grad_()
    w = w - h * field(objective, w, x, ("generator",))  # on the last of the critic's batches
    torch.testing.assert_close(weights(objective), w.detach(), atol=1e-13, rtol=0)
    assert state.draws == 5


def test_extragradient_by_hand():
    objective = quiet(SIMULTANEOUS)
    w, x = at(objective), next(batches())["x"]
    train_step(state_of(objective), batches(), update=extragradient)
    ahead = w - RATE * field(objective, w, x)
    expected = w - RATE * field(objective, ahead, x)
    torch.testing.assert_close(weights(objective), expected.detach(), atol=1e-13, rtol=0)


def test_extragradient_is_every_optimizers_own():
    """With Adam it is ExtraAdam, whose moments include both gradients; clipping and learning rate apply to both
    moves.
    """
    objective, b1, b2, clip = quiet(SIMULTANEOUS), 0.5, 0.9, 0.05
    players = {
        name: Player(ps, torch.optim.Adam(ps, betas=(b1, b2)), lambda step: RATE / (1 + step), clip)
        for name, ps in objective.players().items()
    }
    state, w = TrainState(objective, players), weights(objective)
    stream, again = batches(), batches()
    first = second = torch.zeros_like(w)
    taken, sizes = 0, [sum(p.numel() for p in players[name].parameters) for name in ORDER]

    def move(start, where, x, rate):
        nonlocal first, second, taken
        v = field(objective, where.requires_grad_(), x).detach()
        v = torch.cat([part * min(1, clip / (float(part.norm()) + 1e-6)) for part in v.split(sizes)])
        first, second, taken = b1 * first + (1 - b1) * v, b2 * second + (1 - b2) * v**2, taken + 1
        return start - rate * (first / (1 - b1**taken)) / ((second / (1 - b2**taken)).sqrt() + 1e-8)

    for step in range(3):
        x = next(again)["x"]
        train_step(state, stream, update=extragradient)
        ahead = move(w, w.clone(), x, RATE / (1 + step))
        w = move(w, ahead, x, RATE / (1 + step))
        torch.testing.assert_close(weights(objective), w, atol=1e-12, rtol=0)


def test_extragradient_converges_with_adam_where_descent_does_not():
    """L = c x y: Adam is invariant to c, so the extrapolation must be too."""

    def last(rule, c):
        objective = Bilinear(c)
        players = {
            name: Player(ps, torch.optim.Adam(ps, betas=(0.0, 0.9), eps=1e-12), lambda _: 0.01)
            for name, ps in objective.players().items()
        }
        state, norms = TrainState(objective, players), []
        for step in range(2000):
            train_step(state, iter(dict, None), update=rule)
            if step >= 1000:
                norms.append(float(nn.utils.parameters_to_vector(objective.parameters()).detach().norm()))
        return max(norms)

    for c in (1.0, 0.01):
        assert last(extragradient, c) < 0.3 * last(descend, c), c


class Bilinear(Objective):
    """x descends c x y, y ascends it."""

    phases = (Phase(("x", "y")),)

    def __init__(self, c):
        super().__init__()
        self.c, self.model, self.y = c, nn.Linear(1, 1, bias=False), nn.Parameter(torch.ones(()))
        nn.init.ones_(self.model.weight)

    def players(self):
        return {"x": list(self.model.parameters()), "y": [self.y]}

    def forward(self, players, batch, step):
        value = self.c * self.model.weight.sum() * self.y
        return {name: Loss.of(value if name == "x" else -value) for name in players}


def test_optimistic_by_hand():
    objective, stream, again = quiet(SIMULTANEOUS), batches(), batches()
    w, state = at(objective), state_of(objective)
    last = None
    for _ in range(3):
        train_step(state, stream, update=optimistic)
        v = field(objective, w, next(again)["x"])
        w = (w - RATE * (2 * v - (v if last is None else last))).detach().requires_grad_()
        last = v.detach()
        torch.testing.assert_close(weights(objective), w.detach(), atol=1e-13, rtol=0)


def test_consensus_by_hand():
    """v + gamma J^T v, with all rows of J written out."""
    gamma = 0.3
    objective = quiet(SIMULTANEOUS)
    w, x = at(objective), next(batches())["x"]
    train_step(state_of(objective), batches(), update=consensus(gamma))
    v = field(objective, w, x)
    jacobian = torch.autograd.functional.jacobian(lambda u: field(objective, u, x), w)
    expected = w - RATE * (v + gamma * jacobian.T @ v)
    torch.testing.assert_close(weights(objective), expected.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan-gp"])
def test_consensus_with_a_penalty_is_a_numerical_derivative(penalty):
    """v + gamma grad |v|^2 / 2 by central differences: a penalty at generated examples depends on the generator."""
    penalties = {
        "r1": lambda critic, real, fake: r1(critic, real, 2.0),
        "r2": lambda critic, real, fake: r2(critic, fake, 2.0),
        "wgan-gp": lambda critic, real, fake: gradient_penalty(critic, real, fake, 2.0),
    }
    gamma, h = 0.3, 1e-5
    objective = quiet(SIMULTANEOUS, penalty=penalties[penalty])
    w, batch = weights(objective), next(batches())

    def v(at):
        return vector_field(objective, batch, at=at)  # its draws begin at seed 0

    def energy(at):
        return v(at).square().sum() / 2

    slope = torch.stack([(energy(w + h * e) - energy(w - h * e)) / (2 * h) for e in torch.eye(len(w))])
    expected = w - RATE * (v(w) + gamma * slope)
    torch.manual_seed(0)
    train_step(state_of(objective), batches(), update=consensus(gamma))
    torch.testing.assert_close(weights(objective), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("rule", [extragradient, optimistic, consensus(0.1)])
def test_rules_of_the_whole_game_refuse_a_part_of_it(rule):
    with pytest.raises(ValueError, match="must update all players"):
        train_step(state_of(quiet(alternating())), batches(), update=rule)


def test_descending_is_what_no_rule_means():
    objectives = [quiet(SIMULTANEOUS), quiet(SIMULTANEOUS)]
    train_step(state_of(objectives[0]), batches())
    train_step(state_of(objectives[1]), batches(), update=descend)
    assert torch.equal(*(weights(o) for o in objectives))

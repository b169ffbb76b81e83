"""The step of each update rule on a game of a generator and a critic, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jensen.objectives.adversarial import SIMULTANEOUS, alternating
from jensen.training import consensus, descend, extragradient, optimistic, train_step
from test_adversarial_objective import RATE, batches, game, state_of

F64 = torch.float64


@pytest.fixture(autouse=True)
def _double():
    """Everything here is in double precision, from one seed."""
    torch.set_default_dtype(F64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Quiet(nn.Module):
    """A generator whose noise is always the same, so that a step can be repeated by hand."""

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
    """All weights as one vector, the critic's first."""
    players = objective.players()
    return torch.cat([p.detach().reshape(-1) for name in ORDER for p in players[name]])


def field(objective, at, x, players=ORDER):
    """v at the weights `at`: the gradient of each player's loss written out; 0 for who does not play."""
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
    """v + gamma J^T v, with J written out row by row."""
    gamma = 0.3
    objective = quiet(SIMULTANEOUS)
    w, x = at(objective), next(batches())["x"]
    train_step(state_of(objective), batches(), update=consensus(gamma))
    v = field(objective, w, x)
    jacobian = torch.autograd.functional.jacobian(lambda u: field(objective, u, x), w)
    expected = w - RATE * (v + gamma * jacobian.T @ v)
    torch.testing.assert_close(weights(objective), expected.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", [extragradient, optimistic, consensus(0.1)])
def test_rules_of_the_whole_game_refuse_a_part_of_it(rule):
    with pytest.raises(ValueError, match="moves all players at once"):
        train_step(state_of(quiet(alternating())), batches(), update=rule)


def test_descending_is_what_no_rule_means():
    objectives = [quiet(SIMULTANEOUS), quiet(SIMULTANEOUS)]
    train_step(state_of(objectives[0]), batches())
    train_step(state_of(objectives[1]), batches(), update=descend)
    assert torch.equal(*(weights(o) for o in objectives))

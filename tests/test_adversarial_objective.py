"""The game of a generator and a critic: its losses computed by hand; what each phase computes and moves."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jensen.adversarial import (
    GAME_LOSSES,
    MarginGame,
    WassersteinGame,
    annealed,
    gradient_penalty,
    hinge,
    margin_loss,
    r1,
    spectral_norm,
    squared,
)
from jensen.core.types import Phase
from jensen.models import GAN
from jensen.objectives.adversarial import Adversarial, alternating
from jensen.training import Player, TrainState, train_step

F64 = torch.float64
RATE = 0.1
pytestmark = pytest.mark.usefixtures("double_precision")


def game(loss="non-saturating", packing=1, **settings):
    """A generator of points from three numbers, and a critic with one hidden layer."""
    generator = GAN(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), [3])
    critic = nn.Sequential(nn.Linear(2 * packing, 4), nn.Tanh(), nn.Linear(4, 1))
    return Adversarial(generator, critic, loss=loss, packing=packing, **settings)


def played(objective, players, x, step=0, seed=5):
    """The losses, with fixed noise."""
    torch.manual_seed(seed)
    return objective(players, {"x": x}, step)


def noise(n, seed=5):
    """The noise z that `played` uses."""
    torch.manual_seed(seed)
    return torch.randn(n, 3)


def state_of(objective):
    players = {
        name: Player(parameters, torch.optim.SGD(parameters, lr=RATE), lambda _: RATE)
        for name, parameters in objective.players().items()
    }
    return TrainState(objective, players)


def batches(seed=7):
    """An endless stream of batches."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        yield {"x": torch.randn(4, 2, generator=rng, dtype=F64)}


X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 0.9], [1.5, 1.5]], dtype=F64)


# losses by hand ------------------------------------------------------------------------------------------------------

BY_HAND = {
    "saturating": (lambda r, t: F.softplus(-r) + F.softplus(t), lambda r, t: -F.softplus(t)),
    "non-saturating": (lambda r, t: F.softplus(-r) + F.softplus(t), lambda r, t: F.softplus(-t)),
    "least-squares": (lambda r, t: (1 - r) ** 2 + (1 + t) ** 2, lambda r, t: (1 - t) ** 2),
    "hinge": (lambda r, t: (1 - r).clamp(min=0) + (1 + t).clamp(min=0), lambda r, t: -t),
    "exponential": (lambda r, t: torch.exp(-r) + torch.exp(t), lambda r, t: -torch.exp(t)),
    "relativistic": (lambda r, t: F.softplus(t - r), lambda r, t: F.softplus(r - t)),
    "wasserstein": (lambda r, t: t - r, lambda r, t: -t),
}


@pytest.mark.parametrize("name", GAME_LOSSES)
@pytest.mark.parametrize("packing", [1, 2])
def test_losses_and_gradients_by_hand(name, packing):
    objective = game(name, packing)
    losses = played(objective, ("critic", "generator"), X)
    real = objective.critic(X.reshape(-1, 2 * packing))
    fake = objective.critic(objective.model.network(noise(4)).reshape(-1, 2 * packing))
    for player, rule in zip(("critic", "generator"), BY_HAND[name], strict=True):
        expected = rule(real, fake).mean()
        assert losses[player].total.item() == pytest.approx(expected.item(), abs=1e-12)
        mine = list(objective.players()[player])
        ours = torch.autograd.grad(losses[player].total, mine, retain_graph=True)
        theirs = torch.autograd.grad(expected, mine, retain_graph=True)
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert losses["critic"].terms["real"].item() == pytest.approx(real.mean().item())
    assert losses["critic"].terms["fake"].item() == pytest.approx(fake.mean().item())


def test_a_users_own_loss():
    """With l = (1 - m)^2 written by a user, the game is that of the built-in squared loss."""
    own = MarginGame(margin_loss(lambda m: (1 - m) ** 2, "mine"), "non-saturating")
    torch.manual_seed(1)
    ours = played(game(own), ("critic", "generator"), X)
    torch.manual_seed(1)
    theirs = played(game(MarginGame(squared, "non-saturating")), ("critic", "generator"), X)
    for player in ours:
        assert ours[player].total.item() == pytest.approx(theirs[player].total.item(), abs=1e-12)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"loss must be one of saturating.*or a GameLoss, got 'minimax'"):
        game("minimax")
    with pytest.raises(ValueError, match=r"clip must be positive, got 0"):
        game(clip=0.0)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        alternating(0)
    with pytest.raises(ValueError, match=r"B a multiple of 3, got \(4, 2\)"):
        played(game(packing=3), ("critic",), X)


def test_what_goes_wrong_in_a_game_is_said():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"the batch must hold 'x', got \['y'\]"):
        game()(("critic",), {"y": x}, 0)
    with pytest.raises(ValueError, match=r"a penalty must give a tensor, one value per example, got 0\.0"):
        game(penalty=lambda critic, real, fake: 0.0)(("critic",), {"x": x}, 0)
    with pytest.raises(ValueError, match=r"one value per example, \(4,\), got \(4, 1\)"):
        game(penalty=lambda critic, real, fake: critic(real))(("critic",), {"x": x}, 0)
    with pytest.raises(ValueError, match="loss must be one of"):
        game(WassersteinGame)


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_what_is_generated_and_what_is_real_have_one_shape(player):
    """Rows that would broadcast, transposed pictures and a critic that ignores shapes all raise an error."""
    for made, real in (((2,), (1,)), ((1,), (2,)), ((2, 3), (3, 2)), ((2,), (1, 2))):
        generator = GAN(nn.Sequential(nn.Linear(3, math.prod(made)), nn.Unflatten(1, made)), [3])
        critic = nn.Sequential(nn.Flatten(), nn.LazyLinear(1))
        shapes = f"of the real ones, {(4, *real)}, got {(4, *made)}"
        with pytest.raises(ValueError, match=re.escape(f"generated examples must have the shape {shapes}")):
            Adversarial(generator, critic)((player,), {"x": torch.zeros(4, *real)}, 0)


class Blind(nn.Module):
    """A critic that does not return one logit per example."""

    def __init__(self, say):
        super().__init__()
        self.weight, self.say = nn.Parameter(torch.ones(())), say

    def forward(self, x):
        return self.say(self.weight * x)


@pytest.mark.parametrize("player", ["critic", "generator"])
@pytest.mark.parametrize(
    ("say", "got"),
    [
        (lambda x: x.mean(), r"got shape \(\)"),
        (lambda x: x.mean(0, keepdim=True), r"got shape \(1, 2\)"),
        (lambda x: x.T, r"got shape \(2, 4\)"),
        (lambda x: x[:, :0], r"got shape \(4, 0\)"),
    ],
)
def test_a_critic_says_something_of_each_example(say, got, player):
    objective = game()
    objective.critic = Blind(say)
    with pytest.raises(ValueError, match="a critic must give logits for each of 4 examples, " + got):
        objective((player,), {"x": torch.zeros(4, 2)}, 0)


def test_noise_may_be_one_number():
    objective, found = game(), []
    for objective.noise in (0.5, lambda step: 0.5, None):
        found.append(played(objective, ("critic",), X)["critic"].total)
    assert found[0] == found[1] != found[2]


def test_losses_are_in_single_precision_under_autocast():
    objective = game().float()
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(("critic", "generator"), {"x": X.float()}, 0)
    assert {loss.total.dtype for loss in losses.values()} == {torch.float32}


# who needs what ------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts the calls of the module that it wraps."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x)


def test_a_phase_makes_only_what_its_loss_needs():
    for name, calls in (("non-saturating", 1), ("relativistic", 2)):
        objective = game(name)
        objective.critic = Counting(objective.critic)
        broken = torch.full((4, 2), math.nan)  # the generator of an unpaired game does not use x
        losses = played(objective, ("generator",), broken)
        assert objective.critic.calls == calls
        assert bool(losses["generator"].total.isfinite()) == (calls == 1)
        assert set(losses) == {"generator"}
    objective = game()
    losses = played(objective, ("critic",), X)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):  # there is no graph of G
        torch.autograd.grad(losses["critic"].total, list(objective.model.parameters()))


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_a_players_phase_moves_that_player_alone(player):
    objective = game(penalty=lambda c, real, _: r1(c, real), phases=(Phase((player,)),))
    state = state_of(objective)
    before = copy.deepcopy(objective.state_dict())
    train_step(state, batches())
    moved = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    prefix = {"critic": "critic.", "generator": "model."}[player]
    assert moved == {name for name in before if name.startswith(prefix)}


def test_forward_changes_no_state():
    objective = game(
        noise=annealed(0.5, 10), penalty=lambda c, real, fake: gradient_penalty(c, real, fake), packing=2, clip=0.01
    )
    before = copy.deepcopy(objective.state_dict())
    losses = played(objective, ("critic", "generator"), X)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert all(p.grad is None for p in objective.parameters())
    again = played(objective, ("critic", "generator"), X)
    assert all(torch.equal(losses[k].total, again[k].total) for k in losses)


def test_a_lazy_penalty_has_the_same_mean():
    """Computed in every third step, three times as large: the losses of three steps have the same sum."""
    calls = []

    def penalty(critic, real, fake):
        calls.append(len(real))
        return r1(critic, real, 0.7)

    lazy, eager = game(penalty=penalty, every=3), game(penalty=penalty)
    eager.load_state_dict(lazy.state_dict())
    one, other = ([played(x, ("critic",), X, step)["critic"] for step in range(6)] for x in (lazy, eager))
    assert len(calls) == 2 + 6
    assert ["penalty" in loss.terms for loss in one] == [True, False, False] * 2
    torch.testing.assert_close(sum(x.total for x in one), sum(x.total for x in other), rtol=1e-6, atol=0)
    torch.testing.assert_close(one[0].terms["penalty"], 3 * other[0].terms["penalty"])
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        game(every=0)


def test_a_spectral_norm_follows_its_players_move_alone():
    objective = game(penalty=lambda c, real, fake: r1(c, real))
    for net in (objective.critic, objective.model):
        spectral_norm(net)
    objective.train()
    before = copy.deepcopy(objective.state_dict())
    losses = played(objective, ("critic", "generator"), X)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    for player, name in (("critic", "critic"), ("generator", "model")):
        before = copy.deepcopy(objective.state_dict())
        objective.after(player, losses[player], 0)
        moved = {k for k, v in objective.state_dict().items() if not torch.equal(v, before[k])}
        assert moved
        assert all(k.startswith(name) and k[-2:] in ("_u", "_v") for k in moved)


def test_a_margin_loss_alone_is_no_game():
    with pytest.raises(ValueError, match=r"generator's loss too, as MarginGame\(hinge, 'non-saturating'\)"):
        Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1), loss=hinge)
    with pytest.raises(ValueError, match=r"loss must be one of saturating, .* got 3"):
        Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1), loss=3)

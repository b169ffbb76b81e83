"""The game of a generator and a critic: its losses computed by hand, and what each stabilising technique changes."""

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
    AdaptiveAugment,
    Brightness,
    MarginGame,
    WassersteinGame,
    annealed,
    gradient_penalty,
    hinge,
    margin_loss,
    r1,
    r2,
    spectral_norm,
    squared,
)
from jensen.core.objective import partition
from jensen.core.types import Phase
from jensen.models import GAN
from jensen.objectives.adversarial import Adversarial, alternating
from jensen.training import Player, TrainState, train_step

F64 = torch.float64
RATE = 0.1


@pytest.fixture(autouse=True)
def _double():
    """All tests of this file use double precision and the same seed."""
    torch.set_default_dtype(F64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


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
    """First this batch, then others."""
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


# remedies: exactly where they should ---------------------------------------------------------------------------------


def test_noise_falls_on_both_sides_and_is_annealed():
    """The critic is given x + sigma eps, with independent eps for real and generated examples; after annealing it is
    given x.
    """
    objective = game(noise=annealed(0.8, 10))
    seen = []
    objective.critic.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    for step, sigma in ((0, 0.8), (5, 0.4), (10, 0.0), (50, 0.0)):
        seen.clear()
        played(objective, ("critic",), X, step)
        z = noise(4)
        first, second = (torch.randn(4, 2), torch.randn(4, 2)) if sigma else (0.0, 0.0)
        torch.testing.assert_close(seen[0], objective.model(z).detach() + sigma * first)
        torch.testing.assert_close(seen[1], X + sigma * second)


def test_augmentation_falls_on_both_sides_and_keeps_the_generators_gradient():
    """With T(x) = 3x the critic is given T of real and generated examples, and the generator's gradient contains the
    factor 3.
    """
    torch.manual_seed(2)
    plain = game("wasserstein")
    tripled = copy.deepcopy(plain)
    tripled.augmentation = lambda x: 3 * x
    tripled.critic = plain.critic = nn.Linear(2, 1)
    a, b = (played(g, ("critic", "generator"), X) for g in (plain, tripled))
    assert b["critic"].total.item() == pytest.approx(3 * a["critic"].total.item(), abs=1e-12)
    for p, q in zip(plain.model.parameters(), tripled.model.parameters(), strict=True):
        ours = torch.autograd.grad(b["generator"].total, q, retain_graph=True)[0]
        theirs = torch.autograd.grad(a["generator"].total, p, retain_graph=True)[0]
        torch.testing.assert_close(ours, 3 * theirs)


def test_augmentation_comes_before_noise_and_noise_before_packing():
    objective = game(packing=2, noise=lambda _: 0.5, augmentation=lambda x: 10 * x)
    torch.manual_seed(3)
    seen = objective.seen(X, 0)
    torch.manual_seed(3)
    assert torch.equal(seen, (10 * X + 0.5 * torch.randn(4, 2)).reshape(2, 4))


@pytest.mark.parametrize("packing", [1, 2])
def test_penalties_are_of_what_the_critic_sees(packing):
    """R1 and R2 of a linear critic are gamma/2 |w|^2 of its weight on packs, for any input, and are added to its
    loss only.
    """
    rules = {"r1": lambda c, real, _: r1(c, real, 3.0), "r2": lambda c, _, fake: r2(c, fake, 3.0)}
    for rule in rules.values():
        plain = game("wasserstein", packing)
        plain.critic = nn.Linear(2 * packing, 1)
        penalised = copy.deepcopy(plain)
        penalised.penalty = rule
        a, b = (played(g, ("critic", "generator"), X) for g in (plain, penalised))
        square = 1.5 * plain.critic.weight.square().sum().item()
        assert b["critic"].terms["penalty"].item() == pytest.approx(square, abs=1e-12)
        assert b["critic"].total.item() - a["critic"].total.item() == pytest.approx(square, abs=1e-12)
        assert b["generator"].total.item() == a["generator"].total.item()


def test_where_each_penalty_is_taken():
    """D(x) = |x|^2 / 2 has gradient x: R1 is gamma/2 |x|^2 at real examples, R2 at generated ones, both after
    instance noise.
    """

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.weight * x.square().sum(1) / 2

    shown = {}
    for name, rule in (("real", lambda c, real, _: r1(c, real, 2.0)), ("fake", lambda c, _, fake: r2(c, fake, 2.0))):
        objective = game("wasserstein", penalty=rule, noise=lambda _: 0.3)
        objective.critic = Square()
        loss = played(objective, ("critic",), X)["critic"]
        z = noise(4)
        made, data = objective.model(z) + 0.3 * torch.randn(4, 2), X + 0.3 * torch.randn(4, 2)
        expected = {"real": data, "fake": made.detach()}[name].square().sum(1).mean()
        shown[name] = loss.terms["penalty"].item()
        assert shown[name] == pytest.approx(expected.item(), abs=1e-12)
    assert shown["real"] != pytest.approx(shown["fake"])


def test_the_gradient_penalty_is_an_examples_own():
    """WGAN-GP of a batch of four is the mean over its four examples: norms are taken per example, not over the
    batch.
    """
    objective = game("wasserstein")
    torch.manual_seed(4)
    fake = objective.model(torch.randn(4, 3)).detach()
    torch.manual_seed(9)
    whole = gradient_penalty(objective.critic, X, fake)
    torch.manual_seed(9)
    share = torch.rand(4)
    for k in range(4):
        between = (share[k] * X[k] + (1 - share[k]) * fake[k]).requires_grad_()
        (gradient,) = torch.autograd.grad(objective.critic(between), between)
        assert whole[k].item() == pytest.approx(10 * (gradient.norm().item() - 1) ** 2, abs=1e-12)
    objective.penalty = lambda critic, real, made: gradient_penalty(critic, real, made)
    loss = played(objective, ("critic",), X)["critic"]
    made = objective.model(noise(4)).detach()  # advances the generator to where the game draws epsilon
    assert loss.terms["penalty"].item() == pytest.approx(
        gradient_penalty(objective.critic, X, made).mean().item(), abs=1e-12
    )


def test_clipping_follows_the_critics_move_alone():
    objective = game("wasserstein", clip=0.05)
    with torch.no_grad():
        for p in objective.parameters():
            p.fill_(0.2)
    losses = played(objective, ("critic", "generator"), X)
    objective.after("generator", losses["generator"], 0)
    assert all(bool((p == 0.2).all()) for p in objective.parameters())
    objective.after("critic", losses["critic"], 0)
    assert all(bool((p == 0.05).all()) for p in objective.critic.parameters())
    assert all(bool((p == 0.2).all()) for p in objective.model.parameters())


def test_adaptive_augmentation_follows_the_critics_moves_and_is_saved():
    def pictures():
        augmentation = AdaptiveAugment([Brightness()], ramp=100, interval=4)
        generator = GAN(nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2))), [3])
        critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
        return Adversarial(generator, critic, augmentation=augmentation)

    objective = pictures()
    with torch.no_grad():
        objective.critic[1].weight.zero_()
        objective.critic[1].bias.fill_(5.0)  # all logits are positive, which counts as overfitting
    losses = objective(("critic", "generator"), {"x": torch.zeros(4, 1, 2, 2)}, 0)
    objective.after("generator", losses["generator"], 0)
    assert objective.augmentation.probability == 0
    objective.after("critic", losses["critic"], 0)
    assert objective.augmentation.probability == 0.04
    resumed = pictures()
    resumed.load_state_dict(objective.state_dict())
    assert resumed.augmentation.probability == 0.04
    assert set(objective.players()) == {"critic", "generator"}  # and to neither player
    assert sum(len(p) for p in partition(objective).values()) == 4


def test_adaptive_augmentation_counts_pictures_not_packs():
    augmentation = AdaptiveAugment([Brightness()], ramp=100, interval=8)
    generator = GAN(nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2))), [3])
    critic = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    objective = Adversarial(generator, critic, augmentation=augmentation, packing=4)
    with torch.no_grad():
        critic[1].weight.zero_()
        critic[1].bias.fill_(5.0)
    objective.after("critic", objective(("critic",), {"x": torch.zeros(8, 1, 2, 2)}, 0)["critic"], 0)
    assert augmentation.probability == 0.08  # eight of a hundred pictures, in two packs


def test_a_margin_loss_alone_is_no_game():
    with pytest.raises(ValueError, match=r"generator's loss too, as MarginGame\(hinge, 'non-saturating'\)"):
        Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1), loss=hinge)
    with pytest.raises(ValueError, match=r"loss must be one of saturating, .* got 3"):
        Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1), loss=3)

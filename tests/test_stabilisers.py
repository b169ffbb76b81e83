"""Stabilisers of the game of a generator and a critic: noise, augmentation, penalties and clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jensen.adversarial import (
    AdaptiveAugment,
    Brightness,
    annealed,
    gradient_penalty,
    r1,
    r2,
    spectral_norm,
)
from jensen.core.objective import partition
from jensen.models import GAN
from jensen.objectives.adversarial import Adversarial
from test_adversarial_objective import X, game, noise, played

pytestmark = pytest.mark.usefixtures("double_precision")


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


def test_a_weight_of_zeros_is_drawn_before_it_is_normalised():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    found = torch.linalg.matrix_norm(spectral_norm(layer).weight.detach(), 2)
    assert 0.5 < float(found) < 1.5

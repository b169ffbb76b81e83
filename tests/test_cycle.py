"""Translation in both directions: games, networks, inputs of the critics, and readers of translations."""

from __future__ import annotations

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn

from jensen.adversarial import (
    GAME_LOSSES,
    AdaptiveAugment,
    Brightness,
    Contrast,
    Crop,
    Cutout,
    Flip,
    ImagePool,
    Mosaic,
    Saturation,
    Translation,
    augment,
    gradient_penalty,
    r1,
    vector_field,
)
from jensen.core.seeding import generator
from jensen.core.types import Phase
from jensen.data.pool import Tensors
from jensen.data.unpaired import unpaired_stream
from jensen.models import CycleGAN
from jensen.nn import PatchCritic, Translator
from jensen.objectives import CycleConsistent, Paired
from jensen.training import Budget, Player, TrainState, consensus, fit, train_step

F64 = torch.float64


class Scale(nn.Module):
    """Multiplies x by a parameter."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=F64))

    def forward(self, x):
        return self.factor * x


class Means(nn.Module):
    """A weighted sum of the channel means of a picture: (B,) logits."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=F64))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weights


def pictures(seed, n=5, side=4):
    return torch.randn(n, 1, side, side, dtype=F64, generator=generator(seed))


A, B = pictures(1), pictures(2) + 1
BATCH = {"a": A, "b": B}
size = lambda x: x.abs().mean((1, 2, 3))  # noqa: E731


def unpaired(there=2.0, back=0.5, **settings):
    return CycleConsistent(CycleGAN(Scale(there), Scale(back)), Means(0.3), Means(-0.7), **settings)


# -- the unpaired game ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "back", "cycle"),
    [(2.0, 0.5, 0.0), (1.0, 1.0, 0.0), (2.0, 1.0, 1.0), (3.0, 0.5, 0.5), (0.0, 5.0, 1.0), (-1.0, 1.0, 2.0)],
)
def test_cycle_and_identity_errors_of_scaling(there, back, cycle):
    """F(G(a)) - a = (back there - 1) a, and likewise for b; F(a) - a = (back - 1) a, G(b) - b = (there - 1) b."""
    terms = unpaired(there, back)(("translators",), BATCH, 0)["translators"].terms
    assert float(terms["cycle"]) == pytest.approx(cycle * float((size(A) + size(B)).mean()), abs=1e-15)
    identity = abs(back - 1) * size(A) + abs(there - 1) * size(B)
    assert float(terms["identity"]) == pytest.approx(float(identity.mean()), abs=1e-15)


def test_cycle_of_a_bijection_that_is_no_scaling():
    class Turned(nn.Module):
        def __init__(self, turns, factor):
            super().__init__()
            self.turns, self.factor = turns, nn.Parameter(torch.tensor(factor, dtype=F64))

        def forward(self, x):
            return (
                self.factor * x.rot90(self.turns, (2, 3)).exp()
                if self.turns > 0
                else (x / self.factor).log().rot90(self.turns, (2, 3))
            )

    positive = {"a": A.abs() + 1, "b": B.abs() + 3}
    objective = CycleConsistent(CycleGAN(Turned(1, 2.0), Turned(-1, 2.0)), Means(0.0), Means(0.0), identity=0.0)
    terms = objective(("translators",), positive, 0)["translators"].terms
    assert float(terms["cycle"]) < 1e-12
    wrong = CycleConsistent(CycleGAN(Turned(1, 2.0), Turned(-1, 2.5)), Means(0.0), Means(0.0), identity=0.0)
    # log(2 e^a / 2.5) = a - log 1.25; on the other side 2 (b / 2.5) = b / 1.25
    expected = math.log(1.25) + float((positive["b"] * (1 - 1 / 1.25)).mean())
    found = float(wrong(("translators",), positive, 0)["translators"].terms["cycle"])
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", GAME_LOSSES)
def test_losses_are_the_games_and_the_errors_weighted(name):
    objective = unpaired(0.8, 1.1, loss=name, cycle=3.0, identity=0.7)
    game, fake_a, fake_b = GAME_LOSSES[name], 1.1 * B, 0.8 * A
    real = {"a": 0.3 * A.mean((1, 2, 3)), "b": -0.7 * B.mean((1, 2, 3))}
    fake = {"a": 0.3 * fake_a.mean((1, 2, 3)), "b": -0.7 * fake_b.mean((1, 2, 3))}
    losses = objective(("translators", "critics"), BATCH, 0)
    critics = sum(game.critic(real[side], fake[side]).mean() for side in "ab")
    assert float(losses["critics"].total.detach()) == pytest.approx(float(critics), rel=1e-12)
    for side in "ab":
        found = float(losses["critics"].terms[side])
        assert found == pytest.approx(float(game.critic(real[side], fake[side]).mean()), rel=1e-12)
    fooled = sum(game.generator(real[side], fake[side]).mean() for side in "ab")
    cycle = abs(0.88 - 1) * (size(A) + size(B)).mean()
    identity = (0.1 * size(A) + 0.2 * size(B)).mean()
    expected = float(fooled + 3.0 * cycle + 0.7 * identity)
    assert float(losses["translators"].total.detach()) == pytest.approx(expected, rel=1e-12)
    assert float(losses["translators"].terms["game"]) == pytest.approx(float(fooled), rel=1e-12)


def test_gradients_by_hand():
    """Least squares: the translators descend (1 - D(G(a)))^2 + ... with respect to their factors, the critics with
    respect to their weights. The critics' loss also depends on the translators, which consensus optimization must
    take into account.
    """
    objective = unpaired(0.8, 1.1, cycle=3.0, identity=0.7)
    losses = objective(("translators", "critics"), BATCH, 0)
    owned = {name: list(p) for name, p in objective.players().items()}
    assert [p.numel() for p in owned["translators"] + owned["critics"]] == [1] * 4
    there, back = torch.autograd.grad(losses["translators"].total, owned["translators"], retain_graph=True)
    mean_a, mean_b = A.mean((1, 2, 3)), B.mean((1, 2, 3))
    by_there = (-2 * (1 + 0.7 * 0.8 * mean_a) * -0.7 * mean_a).mean() - 3.0 * 1.1 * (size(A) + size(B)).mean()
    by_there = by_there - 0.7 * size(B).mean()  # 0.8 < 1: |0.8 b - b| falls
    by_back = (-2 * (1 - 0.3 * 1.1 * mean_b) * 0.3 * mean_b).mean() - 3.0 * 0.8 * (size(A) + size(B)).mean()
    by_back = by_back + 0.7 * size(A).mean()
    assert float(there) == pytest.approx(float(by_there), rel=1e-12)
    assert float(back) == pytest.approx(float(by_back), rel=1e-12)
    across = torch.autograd.grad(losses["critics"].total, owned["translators"], retain_graph=True)
    told = 1 - 0.7 * 0.8 * mean_a, 1 + 0.3 * 1.1 * mean_b  # 1 + D(fake), whose squares the critics descend
    assert float(across[0]) == pytest.approx(float((2 * told[0] * -0.7 * mean_a).mean()), rel=1e-12)
    assert float(across[1]) == pytest.approx(float((2 * told[1] * 0.3 * mean_b).mean()), rel=1e-12)
    of_a, of_b = torch.autograd.grad(losses["critics"].total, owned["critics"])
    fake = 1.1 * mean_b
    by_hand = (-2 * (1 - 0.3 * mean_a) * mean_a + 2 * (1 + 0.3 * fake) * fake).mean()
    assert float(of_a) == pytest.approx(float(by_hand), rel=1e-12)
    assert float(of_b) != 0


@pytest.mark.parametrize("kind", [CycleConsistent, Paired])
def test_a_player_moves_by_its_own_loss_alone(kind):
    channels = 1 if kind is CycleConsistent else 2
    objective = kind(CycleGAN(Scale(0.8), Scale(1.1)), Means(*(0.3, 0.5)[:channels]), Means(*(-0.7, 0.2)[:channels]))
    losses = objective(("translators", "critics"), BATCH, 0)
    owned = {name: list(p) for name, p in objective.players().items()}
    expected = [
        p.detach() - 0.01 * g
        for name in owned
        for p, g in zip(
            owned[name], torch.autograd.grad(losses[name].total, owned[name], retain_graph=True), strict=True
        )
    ]
    players = {name: Player(own, torch.optim.SGD(own), lambda _: 0.01) for name, own in owned.items()}
    train_step(TrainState(objective, players), iter([BATCH]))
    for p, wanted in zip([p for own in owned.values() for p in own], expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("penalty", [None, "r1", "wgan-gp"])
@pytest.mark.parametrize("kind", [CycleConsistent, Paired])
def test_consensus_is_a_numerical_derivative(kind, penalty):
    """A step is v + gamma J^T v, with J by central differences of the field: the critics' losses depend on the
    translators.
    """

    def tiny(c_in, c_out):
        net = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.Tanh()).double()
        for k, p in enumerate(net.parameters()):
            nn.init.uniform_(p, -1, 1, generator=generator(k + c_in))
        return net

    class Critic(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.body = tiny(1 if kind is CycleConsistent else 2, 2)
            self.head = nn.Parameter(torch.randn(2, dtype=F64, generator=generator(seed)))

        def forward(self, x):
            return self.body(x).mean((2, 3)) @ self.head

    penalties = {
        None: None,
        "r1": lambda critic, real, _: r1(critic, real, 2.0),
        "wgan-gp": lambda critic, real, fake: gradient_penalty(critic, real, fake, 2.0),
    }
    objective = kind(CycleGAN(tiny(1, 1), tiny(1, 1)), Critic(7), Critic(8), penalty=penalties[penalty])
    gamma, rate, h = 0.3, 0.05, 1e-5
    batch = {"a": pictures(1, 4, 2), "b": pictures(2, 4, 2) + 1}
    w = nn.utils.parameters_to_vector(p for own in objective.players().values() for p in own).detach()

    def v(at):
        return vector_field(objective, batch, at=at)  # its draws begin at seed 0

    jacobian = torch.stack([(v(w + h * e) - v(w - h * e)) / (2 * h) for e in torch.eye(len(w), dtype=F64)], 1)
    assert (
        jacobian[4:, :4].abs().max() > 0.01
    )  # derivatives of the critics' field with respect to the translators' weights
    expected = w - rate * (v(w) + gamma * jacobian.T @ v(w))
    players = {
        name: Player(own, torch.optim.SGD(own), lambda _: rate)
        for name, own in ((name, list(p)) for name, p in objective.players().items())
    }
    torch.manual_seed(0)
    train_step(TrainState(objective, players), iter([batch]), update=consensus(gamma))
    moved = nn.utils.parameters_to_vector(p for own in objective.players().values() for p in own).detach()
    torch.testing.assert_close(moved, expected, atol=1e-8, rtol=0)
    assert (moved - (w - rate * v(w))).abs().max() > 1e-3  # the derivative term is not negligible


def test_critics_alone_keep_no_graph_of_the_translators():
    class Watched(Scale):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    seen = []
    objective = CycleConsistent(CycleGAN(Watched(2.0), Watched(0.5)), Means(0.3), Means(-0.7), identity=0.0)
    objective(("critics",), BATCH, 0)
    assert seen == [False, False]
    objective(("translators",), BATCH, 0)
    assert seen[2:] == [True] * 4


def test_sides_of_different_shapes_translate_without_identity():
    model = CycleGAN(nn.Upsample(scale_factor=2), nn.AvgPool2d(2))
    objective = CycleConsistent(model, PatchCritic(1, widths=(4,)), PatchCritic(1, widths=(4,)), identity=0.0)
    batch = {"a": torch.randn(3, 1, 8, 8), "b": torch.randn(3, 1, 16, 16)}
    losses = objective(("translators", "critics"), batch, 0)
    known = (batch["b"] - nn.Upsample(scale_factor=2)(nn.AvgPool2d(2)(batch["b"]))).abs().mean()
    assert float(losses["translators"].terms["cycle"]) == pytest.approx(
        float(known), rel=1e-5
    )  # a is recovered exactly
    assert "identity" not in losses["translators"].terms


# -- what critics are shown -------------------------------------------------------------------------------------------


def test_only_critics_see_the_pool_and_only_after_translators_moved_it_grows():
    pools = ImagePool(6, (1, 4, 4)).double(), ImagePool(6, (1, 4, 4)).double()
    objective = unpaired(0.8, 1.1, pools=pools)
    for pool, value in zip(pools, (10.0, -10.0), strict=True):
        pool.push(torch.full((6, 1, 4, 4), value, dtype=F64))
    before = copy.deepcopy(objective.state_dict())
    torch.manual_seed(4)
    losses = objective(("translators", "critics"), BATCH, 0)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())  # forward changes nothing
    plain = unpaired(0.8, 1.1)(("translators",), BATCH, 0)["translators"].total
    assert torch.equal(losses["translators"].total, plain)
    torch.manual_seed(4)
    seen_a, seen_b = pools[0](1.1 * B), pools[1](0.8 * A)
    assert (seen_a == 10).any()
    assert (seen_a != 10).any()
    game = GAME_LOSSES["least-squares"]
    expected = game.critic(Means(0.3)(A), Means(0.3)(seen_a)) + game.critic(Means(-0.7)(B), Means(-0.7)(seen_b))
    assert float(losses["critics"].total.detach()) == pytest.approx(float(expected.mean().detach()), rel=1e-12)
    objective.after("critics", losses["critics"], 0)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    fresh = unpaired(0.8, 1.1, pools=(ImagePool(50, (1, 4, 4)).double(), ImagePool(50, (1, 4, 4)).double()))
    fresh.after("translators", fresh(("translators",), BATCH, 0)["translators"], 0)
    stored = [pool.images[: int(pool.count)] for pool in fresh.pools]
    assert torch.allclose(stored[0], 1.1 * B)
    assert torch.allclose(stored[1], 0.8 * A)


@pytest.mark.parametrize("kind", [CycleConsistent, Paired])
def test_noise_penalty_and_augmentation_are_of_what_critics_see(kind):
    channels = 1 if kind is CycleConsistent else 2

    def made(**settings):
        model, weights = CycleGAN(Scale(0.8), Scale(1.1)), (0.4, -0.6)[:channels]
        return kind(model, Means(*weights), Means(*weights), **settings)

    def losses(step=0, **settings):
        found = made(**settings)(("translators", "critics"), BATCH, step)
        return float(found["critics"].total.detach()), float(found["translators"].terms["game"])

    plain = losses()
    gamma = 0.9
    # the gradient of a weighted mean of 16 pixels is w / 16 at each; R1 is gamma / 2 its squared norm, on both sides
    norm = sum(w**2 for w in (0.4, -0.6)[:channels]) / 16
    penalised = losses(penalty=lambda critic, real, _: r1(critic, real, gamma))
    assert penalised[0] == pytest.approx(plain[0] + 2 * gamma / 2 * norm, rel=1e-12)
    assert penalised[1] == plain[1]
    assert losses(noise=lambda step: 0.5 * (step < 3), step=3) == plain
    assert losses(noise=lambda step: 0.5 * (step < 3), step=2)[0] != plain[0]
    doubled = losses(augmentation=lambda x: 2 * x)
    twice = kind(CycleGAN(Scale(0.8), Scale(1.1)), *(Means(*[2 * w for w in (0.4, -0.6)[:channels]]) for _ in "ab"))
    found = twice(("translators", "critics"), BATCH, 0)
    assert doubled[0] == pytest.approx(float(found["critics"].total.detach()), rel=1e-12)
    assert doubled[1] == pytest.approx(float(found["translators"].terms["game"]), rel=1e-12)


def test_a_penalty_of_a_patch_critic_is_of_its_mean():
    critic = PatchCritic(1, widths=(4,)).double()
    settings = {"penalty": lambda critic, real, _: r1(critic, real, 2.0), "identity": 0.0}
    objective = CycleConsistent(CycleGAN(Scale(0.8), Scale(1.1)), critic, copy.deepcopy(critic), **settings)
    batch = {"a": pictures(1, side=8), "b": pictures(2, side=8)}
    terms = objective(("critics",), batch, 0)["critics"].terms
    for side in "ab":
        x = batch[side].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(x).mean((1, 2, 3)).sum(), x)
        assert float(terms[f"penalty_{side}"]) == pytest.approx(
            float(gradient.square().sum((1, 2, 3)).mean()), rel=1e-10
        )


def test_adaptive_augmentation_follows_both_critics():
    ada = AdaptiveAugment([Flip()], target=0.0, ramp=100, interval=10)
    objective = CycleConsistent(CycleGAN(Scale(1.0), Scale(1.0)), Means(1.0), Means(1.0), augmentation=ada)
    sure = {"a": A.abs(), "b": B.abs()}
    found = objective(("critics",), sure, 0)["critics"]
    assert ada.probability == 0
    objective.after("critics", found, 0)
    assert ada.probability == pytest.approx(0.1)  # ten pictures, all classified as real


# -- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["least-squares", "hinge", "relativistic"])
def test_paired_losses_by_hand(name):
    """Critics with different weights for source and target detect a wrong order of the two."""
    model = CycleGAN(Scale(0.8), Scale(1.1))
    objective = Paired(model, Means(0.4, -0.6), Means(-0.2, 0.9), loss=name, distance=7.0)
    losses = objective(("translators", "critics"), BATCH, 0)
    game, a, b = GAME_LOSSES[name], A.mean((1, 2, 3)), B.mean((1, 2, 3))
    real = {"a": 0.4 * b - 0.6 * a, "b": -0.2 * a + 0.9 * b}
    fake = {"a": 0.4 * b - 0.6 * 1.1 * b, "b": -0.2 * a + 0.9 * 0.8 * a}
    critics = sum(game.critic(real[side], fake[side]).mean() for side in "ab")
    assert float(losses["critics"].total.detach()) == pytest.approx(float(critics), rel=1e-12)
    fooled = sum(game.generator(real[side], fake[side]).mean() for side in "ab")
    apart = (1.1 * B - A).abs().mean() + (0.8 * A - B).abs().mean()
    assert float(losses["translators"].terms["distance"]) == pytest.approx(float(apart), rel=1e-12)
    total = float(fooled + 7.0 * apart)
    assert float(losses["translators"].total.detach()) == pytest.approx(total, rel=1e-12)


ALL = (Brightness(), Saturation(), Contrast(), Translation(), Cutout(), Flip(), Crop(), Mosaic())


def paired_with(augmentation, weights=(1.0, 1.0)):
    return Paired(CycleGAN(Scale(1.0), Scale(1.0)), Means(*weights), Means(*weights), augmentation=augmentation)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_both_pictures_of_a_pair_are_augmented_alike(transform):
    """A pair of equal pictures stays a pair of equal pictures under each augmentation; different pairs get
    independent draws.
    """
    x = pictures(3, n=64, side=8)
    objective = paired_with(partial(augment, transforms=[transform], probability=0.5))
    torch.manual_seed(0)
    seen, later = objective.shown((x, x), 0), objective.shown((x, x), 0)
    assert torch.equal(seen[:, :1], seen[:, 1:])
    if not isinstance(transform, Saturation):  # which leaves grey pictures as they are
        changed = (seen[:, :1] - x).abs().amax((1, 2, 3)) > 0
        assert 8 < changed.sum() < 56
        assert not torch.equal(seen, later)


def test_colour_mixes_no_picture_of_a_pair_with_the_other():
    """Grey pictures have no saturation, each keeps its own mean, and the same brightness is added to both."""
    a, b = -torch.ones(64, 1, 4, 4), torch.ones(64, 1, 4, 4)
    pair = torch.cat([a, b], 1)
    for transform in (Saturation(), Contrast()):
        assert torch.equal(paired_with(lambda x, t=transform: t(x)).shown((a, b), 0), pair)
    seen = paired_with(Brightness()).shown((a, b), 0) - pair
    assert torch.allclose(seen[:, 0], seen[:, 1], atol=1e-6)
    assert float(seen.std()) == pytest.approx(0.5 / 3**0.5, rel=0.3)  # uniform on [-1/2, 1/2], 64 draws


def test_what_paired_critics_are_shown_is_augmented_picture_by_picture():
    """In a complete game: critics that sum their input see 0 for a constant pair, real or generated."""

    class Recorder(Means):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    seen = []
    model = CycleGAN(Scale(-1.0), Scale(-1.0))
    critics = (Recorder(1.0, 1.0) for _ in "ab")
    objective = Paired(model, *critics, augmentation=partial(augment, transforms=(Saturation(), Contrast())))
    flat = torch.full((6, 1, 4, 4), -1.0, dtype=F64)
    objective(("translators", "critics"), {"a": flat, "b": -flat}, 0)
    assert len(seen) == 6  # for each critic: real and generated pairs, and generated pairs for the translators
    for x in seen:
        assert torch.equal(x.sum(1), torch.zeros(6, 4, 4, dtype=F64))
        assert torch.equal(x.abs(), torch.ones_like(x))


def test_a_true_pair_has_no_distance():
    objective = Paired(CycleGAN(Scale(2.0), Scale(0.5)), Means(0.0, 0.0), Means(0.0, 0.0), distance=7.0)
    loss = objective(("translators",), {"a": A, "b": 2 * A}, 0)["translators"]
    assert float(loss.terms["distance"]) == 0
    assert float(loss.total.detach()) == float(loss.terms["game"]) == 2.0  # (1 - 0)^2 on each side


# -- training ---------------------------------------------------------------------------------------------------------


def state_of(objective):
    rates = {"translators": 1e-3, "critics": 2e-3}
    players = {}
    for name, parameters in objective.players().items():
        own = list(parameters)
        players[name] = Player(own, torch.optim.Adam(own, lr=rates[name]), lambda _, rate=rates[name]: rate)
    return TrainState(objective, players)


def small(**settings):
    torch.manual_seed(0)
    translators = (Translator(1, width=8, blocks=1, patch=2) for _ in "ab")
    critics = (PatchCritic(1, widths=(4,)) for _ in "ab")
    pools = ImagePool(5, (1, 8, 8)), ImagePool(5, (1, 8, 8))
    return CycleConsistent(CycleGAN(*translators), *critics, pools=pools, noise=lambda _: 0.1, **settings)


ALTERNATING = (Phase(("critics",), repeats=2), Phase(("translators",), fresh=False))


@pytest.mark.parametrize("phases", [None, ALTERNATING])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(phases):
    settings = {} if phases is None else {"phases": phases}
    stream = unpaired_stream(4, 0, a=Tensors(x=torch.rand(20, 1, 8, 8)), b=Tensors(x=-torch.rand(7, 1, 8, 8)))
    whole = state_of(small(**settings))
    torch.manual_seed(9)
    fit(whole, stream, Budget(steps=9))
    first = state_of(small(**settings))
    torch.manual_seed(9)
    batches = stream(0)
    for _ in range(4):
        train_step(first, batches)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    torch.manual_seed(1)
    second = state_of(small(**settings))
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    fit(second, stream, Budget(steps=9))
    ours, theirs = second.objective.state_dict(), whole.objective.state_dict()
    assert ours.keys() == theirs.keys()
    assert "pools.0.images" in ours
    assert int(ours["pools.0.count"]) == 5
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_shift_between_two_kinds_is_found_without_pairs():
    """A is uniform around -0.5, B around 0.5: the translators must learn to add and to subtract one."""
    a, b = (torch.rand(200, 1, 4, 4, generator=generator(k)) * 0.6 + shift for k, shift in ((1, -0.8), (2, 0.2)))

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.by

    torch.manual_seed(0)
    critics = (PatchCritic(1, widths=(8,)) for _ in "ab")
    objective = CycleConsistent(CycleGAN(Shift(), Shift()), *critics, identity=0.0, cycle=1.0)
    players = {
        name: Player(own, torch.optim.Adam(own, lr=0.03, betas=(0.5, 0.9)), lambda k: 0.03 * (1 - k / 150))
        for name, own in ((n, list(p)) for n, p in objective.players().items())
    }
    fit(TrainState(objective, players), unpaired_stream(16, 0, a=Tensors(x=a), b=Tensors(x=b)), Budget(steps=150))
    # the means of 200 pictures differ from the laws' by about 0.6 / sqrt(12 * 3200) = 0.003
    assert float(objective.model.a_to_b.by.detach()) == pytest.approx(1.0, abs=0.15)
    assert float(objective.model.b_to_a.by.detach()) == pytest.approx(-1.0, abs=0.15)


# -- the model, and what is refused ----------------------------------------------------------------------------------


def test_the_model_translates_both_ways():
    model = CycleGAN(Scale(3.0), Scale(0.5))
    assert torch.equal(model.translate(A, to="b"), 3 * A)
    assert torch.equal(model.translate(A, to="a"), 0.5 * A)
    assert torch.equal(model.round_trip(A), 1.5 * A)
    assert torch.equal(model.round_trip(B, via="a"), 1.5 * B)
    for call in (lambda: model.translate(A, to="c"), lambda: model.round_trip(A, via="c")):
        with pytest.raises(ValueError, match="to must be a or b, got 'c'"):
            call()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"cycle and identity must be at least 0, got -1\.0 and 5\.0"):
        unpaired(cycle=-1.0)
    with pytest.raises(ValueError, match=r"cycle and identity must be at least 0, got 10\.0 and nan"):
        unpaired(identity=math.nan)
    with pytest.raises(ValueError, match=r"loss must be one of saturating, .*, or a GameLoss, got 'best'"):
        unpaired(loss="best")
    with pytest.raises(ValueError, match=r"distance must be at least 0, got -2\.0"):
        Paired(CycleGAN(Scale(1.0), Scale(1.0)), Means(1.0, 1.0), Means(1.0, 1.0), distance=-2.0)
    with pytest.raises(ValueError, match="a and b must have the same number of pictures, got 5 and 4"):
        unpaired()(("critics",), {"a": A, "b": B[:4]}, 0)
    with pytest.raises(
        ValueError, match=r"batch must hold 'a' and 'b', the pictures of the two sides, got \['a', 'x'\]"
    ):
        unpaired()(("critics",), {"a": A, "x": B}, 0)
    wide = {"a": A, "b": pictures(2, side=8)}
    with pytest.raises(
        ValueError, match=r"the same shape on both sides, got \(1, 4, 4\) and \(1, 8, 8\): set identity=0"
    ):
        unpaired()(("critics",), wide, 0)
    with pytest.raises(ValueError, match=r"to side a must have its shape, \(5, 1, 4, 4\), got \(5, 1, 8, 8\)"):
        unpaired(identity=0.0)(("critics",), wide, 0)
    with pytest.raises(
        ValueError, match=r"since they are stacked along their channels, got \(1, 4, 4\) and \(1, 8, 8\)"
    ):
        paired_with(None)(("critics",), wide, 0)
    for player in ("critics", "translators"):
        objective = unpaired()
        objective.critic_b = nn.Sequential(nn.Flatten(0), nn.Linear(80, 1)).to(A)  # one logit for a batch of five
        with pytest.raises(ValueError, match=r"logits for each of 5 examples, got shape \(1,\)"):
            objective((player,), {"a": A, "b": B}, 0)
    with pytest.raises(ValueError, match=r"a penalty must give one value per example, \(5,\), got \(5, 1\)"):
        unpaired(penalty=lambda critic, real, fake: critic(real)[:, None])(("critics",), {"a": A, "b": B}, 0)


def test_games_are_in_single_precision_under_autocast():
    a, b = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)

    def critic(channels):
        return nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 1))

    for kind, channels in ((CycleConsistent, 1), (Paired, 2)):
        model = CycleGAN(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
        objective = kind(model, critic(channels), critic(channels), loss="relativistic").float()
        with torch.autocast("cpu", torch.bfloat16):
            losses = objective(("translators", "critics"), {"a": a, "b": b}, 0)
        assert losses["critics"].total.dtype == torch.float32
        assert losses["translators"].terms["game"].dtype == torch.float32

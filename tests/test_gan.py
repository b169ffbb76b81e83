"""GANs: distributions of points around modes, networks that match a space, training with all losses and update
rules, resuming.
"""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import nn

from jensen.adversarial import GAME_LOSSES
from jensen.core.seeding import begin_globally, generator
from jensen.data.mixtures import Modes, geometric_weights, grid, ring
from jensen.data.space import Space
from jensen.nn import RandomFourierFeatures
from jensen.nn.pictures import doublings
from jensen.recipes.families.gan import GAN
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.words import parse
from jensen.runs.opening import open_run
from jensen.runs.train import new_objective, new_state, train
from jensen.training import fit

TINY = {"width": 16, "layers": 2, "critic_width": 16, "critic_layers": 2}
RING = {"kind": "ring", "points": 1000, "test": 50}
PLANE, GREY, COLOUR = Space((2,)), Space((1, 8, 8)), Space((3, 16, 16))


def recipe(network=None, game=None, *, seed=0, **training):
    """A tiny GAN on the ring."""
    training = {"steps": 50, "batch_size": 32, "rate": 1e-3, "betas": (0.5, 0.999), "weight_decay": 0.0} | training
    family = {"kind": "gan", "network": TINY | (network or {}), "game": game or {}}
    return parse({"name": "tiny", "seed": seed, "data": RING, "family": family, "training": training})


def trained(*args, **more):
    """The training state, without writing files."""
    made = recipe(*args, **more)
    data = made.data.open(made.seed)
    begin_globally(made.seed)
    objective, budget = new_objective(made, data), made.training.budget()
    state = new_state(made, objective, budget)
    stream = made.family.stream(data, made.training.batch_size, made.seed)
    fit(state, stream, budget, update=made.family.update())
    return state


def weights(state):
    return torch.cat([p.detach().reshape(-1) for p in state.objective.parameters()])


# data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [ring(5, std=0.1, balance=0.2), grid(3, std=0.2, balance=0.5)], ids=["ring", "grid"])
def test_the_law_of_points(law):
    """Its density integrates to 1, and n = 20,000 draws have its mode weights and spread, within 4 standard errors."""
    line = torch.linspace(-4, 4, 401, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line)
    exact = Modes(law.centres.double(), law.std, law.weights.double())
    assert float(exact.log_prob(plane).exp().sum()) * 0.02**2 == pytest.approx(1, abs=1e-6)
    x, n = law.draw(20_000, generator(0)), 20_000
    nearest = torch.cdist(x, law.centres).argmin(1)
    for k, w in enumerate(law.weights.tolist()):
        mine = x[nearest == k]
        assert len(mine) / n == pytest.approx(w, abs=4 * math.sqrt(w * (1 - w) / n))
        error = law.std / math.sqrt(len(mine))
        assert (mine.mean(0) - law.centres[k]).tolist() == pytest.approx([0, 0], abs=4 * error)
        assert mine.std(0).tolist() == pytest.approx([law.std] * 2, abs=4 * error)
    found = -float(exact.log_prob(x.double()).mean())  # its entropy, by draws and by the sum over the plane
    log_p = exact.log_prob(plane)
    spread = float(exact.log_prob(x.double()).std()) / math.sqrt(n)
    assert found == pytest.approx(-float((log_p.exp() * log_p).sum()) * 0.02**2, abs=4 * spread)


def test_where_modes_lie_and_how_heavy_they_are():
    assert torch.allclose(ring(8).centres.norm(dim=1), torch.ones(8))
    assert torch.allclose(ring(8).centres[2], torch.tensor([0.0, 1.0]), atol=1e-7)
    assert grid().centres.unique(dim=0).shape == (25, 2)
    assert sorted(grid().centres[:, 0].unique().tolist()) == [-4.0, -2.0, 0.0, 2.0, 4.0]
    w = geometric_weights(5, 0.1)
    assert float(w.sum()) == pytest.approx(1)
    assert float(w[-1] / w[0]) == pytest.approx(0.1)
    assert (w[1:] / w[:-1]).tolist() == pytest.approx([0.1**0.25] * 4)
    for call, words in (
        (lambda: ring(0), "modes must be at least 1, got 0"),
        (lambda: ring(std=0.0), "std must be positive, got 0"),
        (lambda: ring(radius=-1.0), "radius must be positive, got -1"),
        (lambda: grid(spacing=math.inf), "spacing must be positive, got inf"),
        (lambda: ring(balance=0.0), "balance must be above 0 and at most 1, got 0"),
        (lambda: grid(balance=1.5), r"balance must be above 0 and at most 1, got 1\.5"),
        (lambda: ring().draw(0), "n must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# networks ------------------------------------------------------------------------------------------------------------


COLUMNS = Space((2,), mean=(0.0, 500.0), std=(1.0, 1000.0))
SPACES = [PLANE, COLUMNS, Space((5,)), GREY, COLOUR, Space((3, 20, 28))]


@pytest.mark.parametrize("kind", ["auto", "mlp"])
@pytest.mark.parametrize(
    "space", [PLANE, COLUMNS, Space((5,)), GREY, COLOUR, Space((3, 20, 28))], ids=lambda s: str(s.shape)
)
@pytest.mark.parametrize("packing", [1, 2])
def test_players_fit_any_space(space, kind, packing):
    family = GAN.model_validate(
        {"network": {"kind": kind, "width": 8, "critic_width": 8}, "game": {"packing": packing}}
    )
    family.refuse(space, Training(steps=1))
    model = family.model(space)
    game = family.objective(model, space)
    made = model.sample(4)
    assert made.shape == (4, *space.shape)
    assert not space.pictures or bool((made.abs() <= 1).all())
    assert game.critic(game.seen(made, 0)).numel() == 4 // packing
    losses = game(("critic", "generator"), {"x": torch.zeros(4, *space.shape)}, 0)
    assert all(bool(loss.total.isfinite()) for loss in losses.values())


@pytest.mark.parametrize("penalty", ["r1", "r2", "r1+r2", "wgan-gp", "dragan"])
def test_a_columns_scale_changes_no_loss(penalty):
    """With columns standardised, losses and penalties are those of the game on standardised columns."""
    x = torch.randn(8, 2, generator=generator(1))
    found = []
    for space, data in ((COLUMNS, x * torch.tensor([1.0, 1000.0]) + torch.tensor([0.0, 500.0])), (PLANE, x)):
        family = GAN.model_validate({"network": {"width": 8, "critic_width": 8}, "game": {"penalty": penalty}})
        begin_globally(0)
        model = family.model(space)
        game = family.objective(model, space)
        begin_globally(1)
        losses = game(("critic", "generator"), {"x": data}, 0)
        found.append([float(losses[player].total.detach()) for player in ("critic", "generator")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_coarsest_grid_is_at_least_four_by_four():
    sides = {
        (8, 8): 1,
        (16, 16): 2,
        (28, 28): 2,
        (12, 12): 1,
        (24, 48): 2,
        (64, 64): 4,
        (7, 7): 0,
        (4, 4): 0,
        (6, 16): 0,
    }
    assert {side: doublings(*side) for side in sides} == sides
    linear = next(
        m
        for m in GAN.model_validate({"network": {"kind": "conv"}}).model(Space((1, 24, 48))).modules()
        if isinstance(m, nn.Linear)
    )
    assert linear.out_features == 32 * 4 * 6 * 12  # four times the channels on the coarse grid


def test_sizes_are_of_the_kind_of_network():
    assert (GAN().model(PLANE).shape, GAN().model(GREY).shape) == ((2,), (32,))
    leaky = GAN.model_validate({"network": {"activation": "leaky-relu", "slope": 0.1}})
    slopes = [
        m.negative_slope
        for m in leaky.objective(leaky.model(PLANE), PLANE).critic.modules()
        if hasattr(m, "negative_slope")
    ]
    assert slopes == [0.1] * 3


def test_fourier_features_are_of_each_point_of_a_pack():
    """By hand, and the same for every point; they are kept with the critic's weights and no player moves them."""
    features = RandomFourierFeatures(2, 3, 2.0, packing=2)
    x = torch.randn(5, 4)
    found = features(x)
    for k in (0, 1):
        point = x[:, 2 * k : 2 * k + 2]
        phase = point @ features.frequencies
        torch.testing.assert_close(found[:, 8 * k : 8 * k + 8], torch.cat([point, phase.sin(), phase.cos()], 1))
    spread = RandomFourierFeatures(2, 5000, 2.0).frequencies.std().item()
    assert spread == pytest.approx(2, abs=4 * 2 / math.sqrt(2 * 10_000))
    family = GAN.model_validate({"network": {"fourier_features": 4}, "game": {"packing": 2}})
    critic = family.objective(family.model(PLANE), PLANE).critic
    assert critic(torch.zeros(3, 4)).shape == (3, 1)
    assert "0.frequencies" in critic.state_dict()
    assert "0.frequencies" not in dict(critic.named_parameters())


# training ------------------------------------------------------------------------------------------------------------

ENOUGH = {"wasserstein": {"penalty": "wgan-gp", "penalty_weight": 10}}  # unbounded over all critics


@pytest.mark.parametrize("loss", GAME_LOSSES)
def test_every_loss_trains_the_ring(loss):
    """After 60 steps all losses are finite and both players' weights have changed."""
    game = {"loss": loss} | ENOUGH.get(loss, {})
    state, start = trained(game=game, steps=60), trained(game=game, steps=1)
    assert state.step == 60
    assert bool(weights(state).isfinite().all())
    before = start.objective.state_dict()
    for player in ("critic.", "model."):
        after = {k: v for k, v in state.objective.state_dict().items() if k.startswith(player)}
        assert any(not torch.equal(v, before[k]) for k, v in after.items())


@pytest.mark.parametrize(
    "game",
    [
        {"order": "simultaneous"},
        {"critic_steps": 5},
        *({"order": "simultaneous", "update": rule} for rule in ("extragradient", "optimistic", "consensus")),
        {"noise": 0.5, "noise_steps": 20},
        {"packing": 4},
        {"clip": 0.1},
        *({"penalty": name} for name in ("r1", "r2", "r1+r2", "wgan-gp", "dragan")),
    ],
    ids=lambda game: "-".join(map(str, game.values())),
)
def test_every_rule_trains_the_ring_and_makes_a_game_of_its_own(game):
    plain, state = trained(steps=20), trained(game=game, steps=20)
    assert bool(weights(state).isfinite().all())
    assert weights(plain).shape != weights(state).shape or not torch.equal(weights(plain), weights(state))
    if "clip" in game:
        assert max(p.abs().max().item() for p in state.objective.critic.parameters()) <= 0.1 + 1e-7


def test_a_critic_is_normalised_by_its_largest_singular_values():
    """After 100 steps each weight of the critic has a spectral norm from 1 to 1.05; without the setting none has."""
    for spectral in (True, False):
        state = trained(network={"spectral": spectral}, steps=100)
        layers = [m for m in state.objective.critic.modules() if isinstance(m, nn.Linear)]
        norms = [float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in layers]
        assert len(norms) == 3
        assert all((1 - 1e-5 < norm < 1.05) == spectral for norm in norms)  # u and v are at most a little behind


def test_same_seed_same_bits_and_other_seed_other_bits():
    a, b, c = (weights(trained(seed=s, steps=30)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("network", "game"),
    [
        ({"spectral": True}, {"critic_steps": 3}),
        ({}, {"order": "simultaneous", "update": "optimistic"}),
    ],
    ids=["3:1", "optimistic"],
)
def test_a_run_stopped_and_gone_on_with_is_the_same(tmp_path, network, game):
    made = recipe(network, game, steps=8, save_every=4, previews=0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(made, whole)
    shutil.copytree(whole, parts)
    states = sorted((parts / "state").glob("*"))
    assert len(states) >= 2
    shutil.rmtree(states[-1]) if states[-1].is_dir() else states[-1].unlink()
    (parts / "model.safetensors").unlink()
    train(made, parts, resume=True)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (torch.load(max(f.glob("state/*")), weights_only=True)["objective"] for f in (whole, parts))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert torch.equal(open_run(parts).draw(5, seed=3), open_run(whole).draw(300, seed=3)[:5])


def test_players_have_rates_of_their_own():
    state = trained(rate=3e-3, rates={"critic": 1e-4}, warmup=0, steps=1)
    rates = {name: player.rate(0) for name, player in state.players.items()}
    assert rates == pytest.approx({"generator": 3e-3, "critic": 1e-4})
    assert state.players["critic"].optimizer.param_groups[0]["betas"] == (0.5, 0.999)


# what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "game", "message"),
    [
        ({}, {"packing": 3}, "game.packing must divide the 32 examples of a batch, got 3"),
        ({}, {"augmentation": "fixed"}, "game.augmentation must be none for points"),
        (
            {},
            {"order": "simultaneous", "critic_steps": 2},
            "game.critic_steps must be 1 for simultaneous updates, got 2",
        ),
        ({}, {"update": "optimistic"}, "game.order must be simultaneous for game.update optimistic, got alternating"),
        ({}, {"loss": "minimax"}, "game.loss"),
        ({}, {"penalty_weight": 3}, "game.penalty_weight is not used by this game, got 3.0: leave it at 1.0"),
        ({}, {"noise_steps": 3}, "game.noise_steps is not used by this game"),
        ({}, {"consensus": 3}, "game.consensus is not used by this game"),
        ({}, {"augmentation_share": 0.2}, "game.augmentation_share is not used by this game"),
        ({"kind": "conv"}, {}, "network.kind must be mlp for points, got conv"),
        ({"slope": 0.3}, {}, "network.slope is not used with activation relu"),
        ({"frequency": 3}, {}, "network.frequency is not used without Fourier features"),
    ],
)
def test_games_that_are_refused(network, game, message):
    with pytest.raises(ValueError) as refused:
        recipe(network, game)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "network", "message"),
    [
        (COLOUR, {"width": 12}, "network.width must be a multiple of 8 for network.kind residual, got 12"),
        (GREY, {"layers": 3}, "network.layers is not used by convolutions, got 3: leave it out"),
        (GREY, {"fourier_features": 3}, "network.fourier_features is not used for pictures, got 3: leave it at 0"),
        (
            Space((1, 9, 9)),
            {"kind": "conv"},
            "needs even sides of at least 8 pixels, got 9 x 9: set it to residual or mlp",
        ),
        (Space((1, 8, 8), b=GREY), {}, "needs data with one side, got two sides: use family translation"),
    ],
)
def test_data_that_do_not_suit_are_refused(space, network, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        GAN.model_validate({"network": network}).refuse(space, Training(steps=1))


def test_a_rate_of_no_player_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"training\.rates must name players, critic, generator, got 'critics'"):
        train(recipe(rates={"critics": 1e-3}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_kept_whole():
    made = recipe({"fourier_features": 3}, {"loss": "hinge"})
    assert Recipe.model_validate(made.tree()) == made
    assert made.tree()["family"]["network"]["fourier_features"] == 3

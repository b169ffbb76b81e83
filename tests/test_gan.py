"""GANs of points: their data's law, training by every loss and rule, resuming."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import nn

from jensen.adversarial import GAME_LOSSES
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.data.mixtures import Modes, geometric_weights, grid, ring
from jensen.recipes import RECIPES, configure, open_run
from jensen.recipes.points_gan import EDGES, Waves, ring_divergences
from jensen.recipes.running import new_state
from jensen.training import fit

TINY = (
    "data.points=1000",
    "data.test=50",
    "network.width=16",
    "network.critic_width=16",
    "network.layers=2",
    "network.critic_layers=2",
    "training.batch_size=32",
)


def trained(*words, name="ring-gan", seed=0, steps=50):
    """The state after so many steps, in memory."""
    recipe = configure(name, [*TINY, f"training.steps={steps}", *words], seed=seed)
    torch.manual_seed(seed)
    setting, budget = recipe.setting(recipe.model()), recipe.training.budget()
    state = new_state(recipe, setting.objective, budget)
    torch.manual_seed(seed)
    fit(state, setting.stream, budget, update=recipe.update())
    return recipe, state


def weights(state):
    return torch.cat([p.detach().reshape(-1) for p in state.objective.parameters()])


# data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [ring(5, std=0.1, balance=0.2), grid(3, std=0.2, balance=0.5)], ids=["ring", "grid"])
def test_the_law_of_points(law):
    """Its density integrates to 1, and n = 20,000 draws have its modes' shares and spread, 4 standard errors."""
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
        (lambda: ring(0), "at least 1 mode, got 0"),
        (lambda: ring(std=0.0), "std must be positive, got 0"),
        (lambda: ring(radius=-1.0), "radius must be positive, got -1"),
        (lambda: grid(spacing=math.inf), "spacing must be positive, got inf"),
        (lambda: ring(balance=0.0), "balance must be above 0 and at most 1, got 0"),
        (lambda: grid(balance=1.5), r"balance must be above 0 and at most 1, got 1\.5"),
        (lambda: ring().draw(0), "n must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_rings_around_modes():
    """Their probabilities are those of a chi distribution; of a law that differs in its weights or spread alone, the
    divergences are sums by hand, within 4 standard errors at n = 50,000 of the shares."""
    law = ring(4, std=0.02, balance=0.5)
    exact = law.rings(EDGES)
    assert exact.sum().item() == pytest.approx(1)
    radius = torch.distributions.Chi2(torch.tensor(2.0, dtype=torch.float64))
    ends = torch.cat([EDGES.double(), torch.tensor([100.0], dtype=torch.float64)])
    bands = radius.cdf(ends.square()).diff()
    torch.testing.assert_close(exact, law.weights.double()[:, None] * bands)
    other = ring(4, std=0.02)
    found = ring_divergences(other.draw(50_000, generator(1)), law)
    by_hand = (law.weights - other.weights).abs().sum().item() / 2
    assert found["total_variation"] == pytest.approx(by_hand, abs=4 * 0.5 / math.sqrt(50_000) + 0.01)
    p, q = law.weights.double(), other.weights.double()
    middle = (p + q) / 2
    by_hand = float((p * (p / middle).log() + q * (q / middle).log()).sum()) / 2
    assert found["jensen_shannon"] == pytest.approx(by_hand, abs=0.004)
    near = ring_divergences(law.draw(50_000, generator(2)), law)
    assert near["jensen_shannon"] < 27 / (8 * 50_000) * 3  # chi-squared over 8 n, of mean cells - 1
    beyond = law.which_ring(law.centres + torch.tensor([0.0, 0.07]), EDGES)
    assert (beyond % len(EDGES)).tolist() == [len(EDGES) - 1] * 4
    assert (beyond // len(EDGES)).tolist() == [0, 1, 2, 3]


# training ------------------------------------------------------------------------------------------------------------

ENOUGH = {"wasserstein": ("game.penalty=wgan-gp", "game.penalty_weight=10")}  # over all critics it has no bound


@pytest.mark.parametrize("loss", GAME_LOSSES)
def test_every_loss_trains_the_ring(loss):
    """60 steps without a number that is not finite, in which both players have moved on from the first."""
    _, state = trained(f"game.loss={loss}", *ENOUGH.get(loss, ()), steps=60)
    assert state.step == 60
    assert bool(weights(state).isfinite().all())
    start = trained(f"game.loss={loss}", *ENOUGH.get(loss, ()), steps=1)[1]
    for player in ("critic.", "model."):
        before = start.objective.state_dict()
        assert any(
            not torch.equal(v, before[k]) for k, v in state.objective.state_dict().items() if k.startswith(player)
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["game.packing=3"], "training.batch_size must be a multiple of game.packing, got 256 and 3"),
        (["game.augmentation=fixed"], "game.augmentation is of pictures, and ring-gan draws points: set it to none"),
        (["training.rate=0.1"], "training.rate moves nobody here: set rates.generator and rates.critic"),
    ],
)
def test_what_cannot_be_played_is_refused_before_a_folder_is_made(words, message, tmp_path, capsys):
    sets = [part for word in words for part in ("--set", word)]
    assert main(["train", "ring-gan", "--out", str(tmp_path / "run"), *sets]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("game.order=simultaneous",),
        ("game.critic_steps=5",),
        ("game.order=simultaneous", "game.update=extragradient"),
        ("game.order=simultaneous", "game.update=optimistic"),
        ("game.order=simultaneous", "game.update=consensus"),
        ("game.noise=0.5", "game.noise_steps=20"),
        ("game.packing=4",),
        ("game.clip=0.1",),
        *((f"game.penalty={name}",) for name in ("r1", "r2", "r1+r2", "wgan-gp", "dragan")),
    ],
    ids=lambda words: words[-1],
)
def test_every_rule_trains_the_ring_and_makes_a_game_of_its_own(words):
    _, plain = trained(steps=20)
    _, state = trained(*words, steps=20)
    assert bool(weights(state).isfinite().all())
    assert weights(plain).shape != weights(state).shape or not torch.equal(weights(plain), weights(state))
    if "game.clip=0.1" in words:
        assert max(p.abs().max().item() for p in state.objective.critic.parameters()) <= 0.1 + 1e-7


def test_same_seed_same_bits_and_other_seed_other_bits():
    (_, a), (_, b), (_, c) = (trained(seed=s, steps=30) for s in (0, 0, 1))
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(c))


@pytest.mark.parametrize(
    "words",
    [("game.critic_steps=3",), ("game.order=simultaneous", "game.update=optimistic")],
    ids=["3:1", "optimistic"],
)
def test_a_run_stopped_and_gone_on_with_is_the_same(tmp_path, words):
    said = [w for word in (*TINY, "training.save_every=4", "training.previews=0", *words) for w in ("--set", word)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "ring-gan", "--out", str(whole), "--steps", "8", "--no-evaluate", *said]) == 0
    shutil.copytree(whole, parts)
    later = max((parts / "state").glob("*"), key=lambda p: p.name)
    assert len(list((parts / "state").glob("*"))) >= 2
    shutil.rmtree(later) if later.is_dir() else later.unlink()
    (parts / "model.safetensors").unlink()
    assert main(["train", "ring-gan", "--out", str(parts), "--resume", "--no-evaluate"]) == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (open_run(f)[0].trained(f).state_dict() for f in (whole, parts))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_players_have_rates_of_their_own():
    recipe, state = trained("rates.generator=3e-3", "rates.critic=1e-4", "training.warmup=0", steps=1)
    rates = {name: player.rate(0) for name, player in state.players.items()}
    assert rates == pytest.approx({"generator": 3e-3, "critic": 1e-4})
    assert state.players["critic"].optimizer.param_groups[0]["betas"] == recipe.rates.betas


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("game.order=simultaneous", "game.critic_steps=2"), "simultaneous players move once each, got critic_steps 2"),
        (("game.update=optimistic",), "optimistic moves all players at once: set order to simultaneous"),
        (("game.loss=minimax",), "game.loss"),
        (("data.balance=0",), "data.balance"),
    ],
)
def test_games_that_are_refused(words, part):
    with pytest.raises(ValueError, match=part):
        configure("ring-gan", words)


def test_recipes_are_what_their_names_say():
    plain, packed = (RECIPES[name]().model_dump() for name in ("grid-gan", "grid-pacgan"))
    assert (plain["game"].pop("packing"), packed["game"].pop("packing")) == (1, 2)
    assert (plain.pop("recipe"), packed.pop("recipe")) == ("grid-gan", "grid-pacgan")
    assert plain == packed  # a fair comparison
    for name, modes in (("ring-gan", 8), ("grid-gan", 25), ("grid-pacgan", 25)):
        recipe = configure(name, ["data.points=50", "data.test=20"])
        assert len(recipe.law().centres) == modes
        assert recipe.training_data().shape == (50, 2)
        assert recipe.test_data().shape == (20, 2)
        assert not torch.equal(recipe.training_data()[:20], recipe.test_data())
        assert recipe.critic()(torch.zeros(3, 2 * recipe.game.packing)).shape == (3, 1)
    leaky = configure("ring-gan", ["network.activation=leaky-relu", "network.slope=0.1"])
    kinds = [m for m in leaky.critic().modules() if isinstance(m, nn.LeakyReLU)]
    assert len(kinds) == leaky.network.critic_layers
    assert kinds[0].negative_slope == 0.1


def test_waves_are_of_each_point_of_a_pack():
    """By hand, and the same for every point; they are kept with the critic's weights and no player moves them."""
    torch.manual_seed(0)
    waves = Waves(3, 2.0, packing=2)
    x = torch.randn(5, 4)
    found = waves(x)
    for k in (0, 1):
        point = x[:, 2 * k : 2 * k + 2]
        phase = point @ waves.frequencies
        torch.testing.assert_close(found[:, 8 * k : 8 * k + 8], torch.cat([point, phase.sin(), phase.cos()], 1))
    spread = Waves(5000, 2.0).frequencies.std().item()
    assert spread == pytest.approx(2, abs=4 * 2 / math.sqrt(2 * 10_000))
    recipe = configure("grid-pacgan", [*TINY, "network.waves=4"])
    critic = recipe.critic()
    assert critic(torch.zeros(3, 4)).shape == (3, 1)
    assert "0.frequencies" in critic.state_dict()
    assert "0.frequencies" not in dict(critic.named_parameters())
    assert not any(isinstance(m, Waves) for m in configure("ring-gan").critic().modules())

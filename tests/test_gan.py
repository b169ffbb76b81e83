"""GANs of points: their data's law, training by every loss and rule, resuming, and how they are judged."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import nn

from jensen.adversarial import GAME_LOSSES, critic_divergence, divergence, exponential, hinge, logistic, squared
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.data.mixtures import Modes, geometric_weights, grid, ring
from jensen.metrics import energy_distance, mode_coverage, wilson
from jensen.metrics.units import Units, never_positive
from jensen.models import GAN
from jensen.recipes import RECIPES, configure, open_run
from jensen.recipes.adversarial_judging import estimate, histogram, learn_critic, logits, stability_section
from jensen.recipes.folder import RunError
from jensen.recipes.points_gan import EDGES, ring_divergences
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
    assert (RECIPES["grid-pacgan"]().game.packing, RECIPES["grid-gan"]().game.packing) == (2, 1)
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


# judging -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `grid-pacgan`, trained for a moment and judged; its 50 test data are no whole number of packs."""
    folder = tmp_path_factory.mktemp("runs") / "grid"
    words = (
        *TINY,
        "game.packing=4",
        "judging.samples=200",
        "judging.critic_steps=20",
        "training.previews=2",
        "training.log_every=5",
    )
    said = [w for word in words for w in ("--set", word)]
    assert main(["train", "grid-pacgan", "--out", str(folder), "--steps", "20", *said]) == 0
    return folder


def test_judged_numbers_are_those_of_the_run(run):
    recipe, model = open_run(run)
    found = json.loads((run / "evaluation.json").read_text())
    made, x = recipe.draw(model, 200, 0), recipe.test_data()
    modes = mode_coverage(made, recipe.law().centres, recipe.law().std, recipe.law().weights)
    own = found["own"]["drawn"]
    assert (own["recovered"], own["of"], own["n"]) == (modes.recovered, 25, 200)
    assert own["high_quality"]["value"] == modes.high_quality
    interval = wilson(round(200 * modes.high_quality), 200)
    assert (own["high_quality"]["low"], own["high_quality"]["high"]) == (interval.low, interval.high)
    assert own["reverse_kl"] == pytest.approx(modes.reverse_kl)
    assert found["samples"]["drawn"]["energy"] == pytest.approx(energy_distance(made, x).value, abs=1e-9)
    assert found["critic"]["packing"] == 4
    assert found["critic"]["packs"] == 12
    assert sum(found["critic"]["logits"]["real"]) == 12
    assert found["fresh"]["estimate"]["name"] == "jensen-shannon"
    assert found["fresh"]["estimate"]["most"] == pytest.approx(math.log(2))
    for layer in (*found["units"]["generator"], *found["units"]["critic"]):
        assert 0 <= layer["never"] <= layer["of"] == 16


def test_the_critic_that_is_judged_is_trainings(run):
    recipe, _ = open_run(run)
    game = recipe.trained(run)
    saved = torch.load(max((run / "state").rglob("*.pt")), weights_only=True)["objective"]
    assert all(torch.equal(v, saved[k]) for k, v in game.state_dict().items())
    assert not any(p.requires_grad for p in game.parameters())


def test_the_page_shows_what_was_found(run):
    page = (run / "report.html").read_text()
    for part in ("modes recovered", "From noise to modes", "What critics tell apart", "of packs of 4", "Hidden units"):
        assert part in page
    assert "Stability" not in page
    assert main(["evaluate", str(run), "--stability"]) == 0
    assert "Stability" in (run / "report.html").read_text()


def test_a_run_without_its_checkpoint_says_so(run, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "state")
    capsys.readouterr()
    assert main(["evaluate", str(bare)]) == 2
    assert "no checkpoint in state/, and only that has the critic" in capsys.readouterr().err
    recipe, _ = open_run(bare)
    with pytest.raises(RunError, match="no checkpoint"):
        recipe.trained(bare)


def test_points_drawn_depend_on_seed_and_number_alone(run):
    recipe, model = open_run(run)
    assert torch.equal(recipe.draw(model, 5, 3), recipe.draw(model, 300, 3)[:5])
    assert not torch.equal(recipe.draw(model, 5, 3), recipe.draw(model, 5, 4))


def test_stability_in_words():
    found = {
        "verdict": "undecided",
        "complete": False,
        "converged": False,
        "eigenvalues": [[-1.0, 2.0], [-1.0, -2.0]],
        "weights": 1234,
        "speed": 0.5,
        "tolerance": 1e-6,
        "step_size_below": None,
    }
    section = stability_section(found)
    for part in ("1,234 weights", "undecided", "2 of the leading ones", "Those that decide were not found", "0.5"):
        assert part in section.text
    assert "<svg" in section.plots[0]
    settled = stability_section(found | {"converged": True, "complete": True, "step_size_below": 0.25})
    assert "not found" not in settled.text
    assert "below 0.25" in settled.text
    assert stability_section(None) is None


class Features(nn.Module):
    """A linear critic of the modes' indicators: enough for two laws that differ in their weights alone."""

    def __init__(self, law, squash):
        super().__init__()
        self.centres, self.squash = law.centres, squash
        self.weight = nn.Parameter(torch.zeros(len(law.centres)))

    def forward(self, x):
        return self.squash(self.weight[torch.cdist(x, self.centres).argmin(1)])


@pytest.mark.parametrize(
    ("loss", "squash"),
    [
        (logistic, lambda t: t),
        (exponential, lambda t: t),
        (squared, lambda t: torch.tanh(t / 2)),
        (hinge, lambda t: torch.tanh(10 * t)),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_fresh_critic_finds_the_divergence(loss, squash):
    """Of two rings that differ in their modes' weights: within 4 standard errors of the exact one, n = 20,000 each."""
    p, q = ring(6, balance=0.2), ring(6)
    torch.manual_seed(0)
    critic = Features(p, squash)
    at = learn_critic(critic, loss, p.draw(20_000), q.draw, steps=150, batch=500, rate=0.05)
    assert 0 < at <= 150
    real, fake = (logits(critic, law.draw(20_000)) for law in (p, q))
    found = critic_divergence(loss, real, fake)
    laws = [torch.distributions.Categorical(law.weights.double()) for law in (p, q)]
    assert found.value == pytest.approx(divergence(loss, *laws).value, abs=4 * found.stderr)
    said = estimate(loss, real, fake)
    assert (said["value"], said["name"]) == (found.value, loss.divergence)
    apart = torch.full((4,), 1e3 if loss is logistic or loss is exponential else 1.0)  # supports that do not meet
    assert said["most"] == pytest.approx(estimate(loss, apart, -apart)["value"])


def test_a_fresh_critic_rests_where_it_was_best():
    """One that only ever gets worse (its rate is absurd) is left as it was at the best look."""
    torch.manual_seed(1)
    p, q = ring(6, balance=0.2), ring(6)
    critic = Features(p, lambda t: t)
    at = learn_critic(critic, logistic, p.draw(5000), q.draw, steps=60, batch=200, rate=30.0)
    real, fake = logits(critic, p.draw(5000)), logits(critic, q.draw(5000))
    torch.manual_seed(1)
    assert at < 60 or critic_divergence(logistic, real, fake).value > 0
    assert bool(critic.weight.abs().sum() > 0)


def test_packs_of_logits_and_their_histogram():
    critic = nn.Linear(4, 1)
    x = torch.randn(7, 2)
    found = logits(critic, x, 2)
    torch.testing.assert_close(found, critic(x[:6].reshape(3, 4))[:, 0].detach())
    patches = logits(nn.Conv2d(1, 1, 2), torch.randn(3, 1, 4, 4))
    assert patches.shape == (3,)
    counted = histogram(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5]))
    assert (sum(counted["real"]), sum(counted["generated"])) == (3, 2)
    assert counted["real"][0] == 1
    assert counted["real"][-1] == 2
    assert len(counted["edges"]) == len(counted["real"]) + 1
    same = histogram(torch.zeros(3), torch.zeros(3))
    assert sum(same["real"]) == 3


def test_units_that_are_never_positive():
    """By hand: of three channels one is dead, one alive at one place of one input alone."""
    conv = nn.Conv2d(1, 3, 1)
    conv.weight.data = torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    conv.bias.data = torch.tensor([0.0, 0.0, -4.5])
    x = torch.ones(2, 1, 2, 2)
    x[1, 0, 0, 1] = 5.0
    for activation in (nn.ReLU(), nn.LeakyReLU(0.2)):
        net = nn.Sequential(conv, activation, nn.Flatten(), nn.Linear(12, 2), nn.Tanh())
        assert never_positive(net, lambda net=net: net(x)) == [Units("1", 1, 3)]
        assert not net[1]._forward_hooks
    assert never_positive(nn.Tanh(), lambda: None) == []
    model = GAN(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), [2])
    model.network[0].bias.data = torch.tensor([99.0, -99.0, -99.0, 0.0])
    z = model.latent(200, generator(0))
    assert [(u.never, u.of) for u in never_positive(model, lambda: model(z))] == [(2, 4)]

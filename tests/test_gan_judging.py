"""GANs of points: how a run is judged, and what a fresh critic finds."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import nn

from jensen.adversarial import critic_divergence, divergence, exponential, hinge, logistic, squared
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.data.mixtures import Modes, ring
from jensen.metrics import energy_distance, mode_coverage, wilson
from jensen.metrics.units import Units, never_positive
from jensen.models import GAN
from jensen.recipes import configure, open_run
from jensen.recipes.adversarial_judging import estimate, histogram, learn_critic, logits
from jensen.recipes.base import silent
from jensen.recipes.folder import RunError
from jensen.recipes.points_gan import Nearest
from test_gan import TINY


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


def test_a_fresh_critic_that_learns_rows_by_heart_rests_before():
    """Of one law twice, 100 rows in 20 dimensions to learn from: the moment is not chosen on rows that were learnt.

    On those the gain only grows; on others the last moment would be 0.5 nats below guessing and more. The bound keeps
    to 0 within 4 standard errors, n = 5,000.
    """
    torch.manual_seed(2)
    critic = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 1))

    def draw(n):
        return torch.randn(n, 20)

    data = draw(100)
    at = learn_critic(critic, logistic, data, draw, steps=300, batch=64, rate=1e-2)
    assert at <= 100
    found = critic_divergence(logistic, logits(critic, draw(5000)), logits(critic, draw(5000)))
    assert -0.5 < found.value < 4 * found.stderr


@pytest.mark.parametrize(("name", "centres"), [("ring-gan", 8), ("grid-pacgan", 25)])
def test_a_fresh_critic_of_points_resolves_narrow_modes(name, centres):
    """Modes twice as wide as they should be: n = 4,000 held-out points each find 0.8 of the divergence, and no more.

    Half the squared distance in variances is exponential, with mean 1 and 4, and sufficient. The critic of training,
    without what it sees of the modes, finds less than a third on the ring.
    """
    recipe = configure(name, ["data.std=0.01", "game.packing=1"])
    p = recipe.law()
    q = Modes(p.centres, 2 * p.std, p.weights)
    exact = divergence(
        logistic, *(torch.distributions.Exponential(torch.tensor(r).double()) for r in (1.0, 0.25))
    ).value
    found = {}
    for kind in ("fresh_critic", "critic")[: 2 if name == "ring-gan" else 1]:
        torch.manual_seed(3)
        critic = getattr(recipe, kind)()
        learn_critic(critic, logistic, p.draw(20_000), q.draw, steps=500, batch=256, rate=1e-3)
        found[kind] = critic_divergence(logistic, logits(critic, p.draw(4000)), logits(critic, q.draw(4000)))
    assert 0.8 * exact < found["fresh_critic"].value < exact + 4 * found["fresh_critic"].stderr
    assert len(recipe.law().centres) == centres
    if name == "ring-gan":
        assert found["critic"].value < exact / 3


def test_where_a_point_lies_from_its_mode():
    """By hand: on a mode, three standard deviations off it, and far away."""
    law = ring(4, std=0.1)
    seen = Nearest(law)(torch.tensor([[1.0, 0.0], [0.3, 1.0], [-11.0, 0.0]]))
    assert seen[1, :2].tolist() == pytest.approx([0.3, 1.0])
    assert seen[:, 2:6].argmax(1).tolist() == [0, 1, 2]
    assert seen[:, 2:6].sum(1).tolist() == [1, 1, 1]
    assert seen[0, 6:].tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert seen[1, 6:].tolist() == pytest.approx([math.asinh(3), 0, math.asinh(3)], abs=1e-4)
    assert seen[2, 6:].tolist() == pytest.approx([-math.asinh(100), 0, math.asinh(100)], abs=1e-4)


@pytest.mark.parametrize(("latent", "titles"), [(1, ["Modes"]), (2, ["From noise to modes", "Modes"])])
def test_noise_is_shown_where_it_is_a_plane(latent, titles, tmp_path):
    recipe = configure("ring-gan", [*TINY, f"network.latent={latent}"])
    model = recipe.model()
    own = recipe.judged(recipe.draw(model, 100, 0), model, tmp_path, silent)
    sections = recipe.own_sections(own, tmp_path)
    assert [section.title for section in sections] == titles
    assert (tmp_path / "noise.png").exists() == (latent == 2)


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

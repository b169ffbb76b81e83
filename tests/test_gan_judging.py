"""Modes, critics, transport and hidden units: cases with known results."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import nn

from cases import case_of, data_of
from jensen.adversarial import (
    ModeFeatures,
    critic_divergence,
    critic_logits,
    divergence,
    exponential,
    hinge,
    logistic,
    squared,
    train_critic,
    wasserstein1,
)
from jensen.core.seeding import generator
from jensen.data.dataset import Truths
from jensen.data.mixtures import Modes, ring
from jensen.data.space import Space
from jensen.judging.case import Played
from jensen.judging.critics import critics, estimate, fresh_critic, transport, units
from jensen.judging.modes import EDGES, modes, ring_divergences
from jensen.judging.settings import Judging
from jensen.metrics import mode_coverage
from jensen.metrics.units import Units, never_positive
from jensen.models import GAN
from jensen.objectives.adversarial import Adversarial
from jensen.recipes.families import gan
from jensen.runs.evaluate import case_of as judged
from jensen.runs.evaluate import evaluate
from jensen.runs.opening import open_run
from jensen.runs.train import train
from jensen.training import descend
from test_gan import recipe


def found(part):
    return {finding.key: finding for finding in part.findings}


# modes ---------------------------------------------------------------------------------------------------------------


def test_modes_that_samples_reach():
    """By hand: of four modes one has 30 samples near it, one has 10, and a third has 10 that are four standard
    deviations away.
    """
    law = ring(4, std=0.01, balance=0.5)
    off = law.centres[2] + torch.tensor([0.0, 0.04])
    made = torch.cat([law.centres[0].expand(30, 2), law.centres[1].expand(10, 2), off.expand(10, 2)])
    test = law.draw(40, generator(0))
    part = modes(case_of(data_of(test, test, truths=Truths(modes=law)), made))
    by_key = found(part)
    assert by_key["modes_recovered"].value == 2
    assert by_key["high_quality"].value == 0.8
    q, w = torch.tensor([0.6, 0.2, 0.2]), law.weights[:3]
    assert by_key["mode_kl"].value == pytest.approx(float((q * (q / w).log()).sum()), rel=1e-6)
    real = mode_coverage(test, law.centres, law.std, law.weights)
    assert by_key["modes_recovered"].floor == real.recovered
    assert by_key["high_quality"].floor == real.high_quality
    assert by_key["mode_kl"].floor == mode_coverage(made, law.centres, law.std, law.weights).floor
    assert part.details["modes"]["samples"]["shares"] == pytest.approx([0.6, 0.2, 0.2, 0])
    assert by_key["ring_js"].value == ring_divergences(made, law)[0]
    assert by_key["ring_tv"].floor == ring_divergences(test, law)[1]
    assert not part.pictures


def test_modes_are_judged_where_they_are_known_and_samples_are_drawn():
    law, x = ring(4), torch.zeros(20, 2)
    assert modes(case_of(data_of(x), x)) is None
    assert modes(case_of(data_of(x, truths=Truths(modes=law)), x, nn.Linear(2, 2))) is None
    for latent in (1, 2):  # noise of two dimensions is shown
        model = GAN(nn.Linear(latent, 2), latent)
        part = modes(case_of(data_of(x, truths=Truths(modes=law)), x, model))
        assert [picture.name for picture in part.pictures] == ["noise"] * (latent == 2)


def test_rings_around_modes():
    """Their probabilities are those of a chi distribution. For a distribution that differs only in weights or
    spread, the divergences are sums by hand; n = 50,000, 4 standard errors.
    """
    law = ring(4, std=0.02, balance=0.5)
    exact = law.rings(EDGES)
    assert exact.sum().item() == pytest.approx(1)
    radius = torch.distributions.Chi2(torch.tensor(2.0, dtype=torch.float64))
    ends = torch.cat([EDGES.double(), torch.tensor([100.0], dtype=torch.float64)])
    bands = radius.cdf(ends.square()).diff()
    torch.testing.assert_close(exact, law.weights.double()[:, None] * bands)
    other = ring(4, std=0.02)
    jensen_shannon, total_variation = ring_divergences(other.draw(50_000, generator(1)), law)
    by_hand = (law.weights - other.weights).abs().sum().item() / 2
    assert total_variation == pytest.approx(by_hand, abs=4 * 0.5 / math.sqrt(50_000) + 0.01)
    p, q = law.weights.double(), other.weights.double()
    middle = (p + q) / 2
    by_hand = float((p * (p / middle).log() + q * (q / middle).log()).sum()) / 2
    assert jensen_shannon == pytest.approx(by_hand, abs=0.004)
    near = ring_divergences(law.draw(50_000, generator(2)), law)
    assert near[0] < 27 / (8 * 50_000) * 3  # chi-squared over 8 n, of mean cells - 1
    beyond = law.which_ring(law.centres + torch.tensor([0.0, 0.07]), EDGES)
    assert (beyond % len(EDGES)).tolist() == [len(EDGES) - 1] * 4
    assert (beyond // len(EDGES)).tolist() == [0, 1, 2, 3]


# a fresh critic ------------------------------------------------------------------------------------------------------


class Features(nn.Module):
    """A linear critic of mode indicators: sufficient for two distributions that differ only in their weights."""

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
    """Two rings with different mode weights: within 4 standard errors of the exact divergence, n = 20,000 each."""
    p, q = ring(6, balance=0.2), ring(6)
    critic = Features(p, squash)
    at = train_critic(critic, loss, p.draw(20_000), q.draw, steps=150, batch=500, rate=0.05)
    assert 0 < at <= 150
    real, fake = (critic_logits(critic, law.draw(20_000)) for law in (p, q))
    gain = critic_divergence(loss, real, fake)
    laws = [torch.distributions.Categorical(law.weights.double()) for law in (p, q)]
    assert gain.value == pytest.approx(divergence(loss, *laws).value, abs=4 * gain.stderr)
    said = estimate("fresh", "fresh critic", loss, real, fake)
    assert (said.value, said.stderr) == (gain.value, gain.stderr)
    apart = torch.full((4,), 1e3 if loss is logistic or loss is exponential else 1.0)  # disjoint supports
    most = estimate("fresh", "fresh critic", loss, apart, -apart).value
    assert said.note == f"lower bound, at most {most:.3g}"


def test_a_fresh_critic_rests_where_it_was_best():
    """A critic that only gets worse, due to an absurd learning rate, keeps the weights of its best evaluation."""
    torch.manual_seed(1)
    p, q = ring(6, balance=0.2), ring(6)
    critic = Features(p, lambda t: t)
    at = train_critic(critic, logistic, p.draw(5000), q.draw, steps=60, batch=200, rate=30.0)
    real, fake = critic_logits(critic, p.draw(5000)), critic_logits(critic, q.draw(5000))
    assert at < 60 or critic_divergence(logistic, real, fake).value > 0
    assert bool(critic.weight.abs().sum() > 0)


def test_a_fresh_critic_that_memorises_rows_rests_before():
    """Two samples of one distribution, 100 training rows in 20 dimensions: the stopping time is not chosen on
    training rows. There the gain only grows; on other rows the last step would be at least 0.5 nats worse than
    guessing. The bound is 0 within 4 standard errors, n = 5,000.
    """
    torch.manual_seed(2)
    critic = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 1))

    def draw(n):
        return torch.randn(n, 20)

    data = draw(100)
    at = train_critic(critic, logistic, data, draw, steps=300, batch=64, rate=1e-2)
    assert at <= 100
    gain = critic_divergence(logistic, critic_logits(critic, draw(5000)), critic_logits(critic, draw(5000)))
    assert -0.5 < gain.value < 4 * gain.stderr


@pytest.mark.parametrize("own", [False, True], ids=["fresh", "of training"])
def test_a_fresh_critic_of_points_resolves_narrow_modes(own):
    """Modes twice as wide as the data's: from n = 4,000 held-out points of each the critic finds between 0.8 and all
    of the divergence. Half the squared distance divided by the variance is exponential, with mean 1 and 4, and a
    sufficient statistic. The critic of training, which does not get these features, finds less than a third.
    """
    p = ring(8)
    q = Modes(p.centres, 2 * p.std, p.weights)
    laws = (torch.distributions.Exponential(torch.tensor(r).double()) for r in (1.0, 0.25))
    exact = divergence(logistic, *laws).value
    torch.manual_seed(3)
    space, family = Space((2,)), gan.GAN()
    critic = family.objective(family.model(space), space).critic if own else fresh_critic(space, p)
    train_critic(critic, logistic, p.draw(20_000), q.draw, steps=500)
    gain = critic_divergence(logistic, critic_logits(critic, p.draw(4000)), critic_logits(critic, q.draw(4000)))
    if own:
        assert gain.value < exact / 3
    else:
        assert 0.8 * exact < gain.value < exact + 4 * gain.stderr


def test_where_a_point_lies_from_its_mode():
    """By hand: at a mode, three standard deviations away, and far away."""
    law = ring(4, std=0.1)
    seen = ModeFeatures(law.centres, law.std)(torch.tensor([[1.0, 0.0], [0.3, 1.0], [-11.0, 0.0]]))
    assert seen[1, :2].tolist() == pytest.approx([0.3, 1.0])
    assert seen[:, 2:6].argmax(1).tolist() == [0, 1, 2]
    assert seen[:, 2:6].sum(1).tolist() == [1, 1, 1]
    assert seen[0, 6:].tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert seen[1, 6:].tolist() == pytest.approx([math.asinh(3), 0, math.asinh(3)], abs=1e-4)
    assert seen[2, 6:].tolist() == pytest.approx([-math.asinh(100), 0, math.asinh(100)], abs=1e-4)


def test_fresh_critics_take_any_space():
    for space in (Space((3,)), Space((3, 12, 20))):
        assert critic_logits(fresh_critic(space), torch.zeros(4, *space.shape)).shape == (4,)


def test_packs_of_logits():
    critic = nn.Linear(4, 1)
    x = torch.randn(7, 2)
    torch.testing.assert_close(critic_logits(critic, x, 2), critic(x[:6].reshape(3, 4))[:, 0].detach())
    assert critic_logits(nn.Conv2d(1, 1, 2), torch.randn(3, 1, 4, 4)).shape == (3,)


# the game that training left -----------------------------------------------------------------------------------------


class First(nn.Module):
    """The first coordinate times a slope."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return self.slope * x.flatten(1)[:, 0]


def game_case(critic, made, test, train=None, *, model=None, **game):
    """A case with this critic and a generator that returns `made`."""
    model = GAN(nn.Linear(1, 2), 1) if model is None else model
    played = Played(Adversarial(model, critic, **game), descend, {}, 0, lambda start: iter(()))
    settings = Judging(samples=max(16, len(made)), critic_steps=3)
    return case_of(
        data_of(test if train is None else train, test), made, model, played=lambda: played, settings=settings
    )


def test_what_the_critic_of_training_tells():
    """Logits of 3 on data and -3 on samples, by hand; with packs of two there are half as many logits."""
    test, made = torch.tensor([[3.0, 0.0]]).expand(21, 2), torch.tensor([[-3.0, 0.0]]).expand(21, 2)
    for packing in (1, 2):
        part = critics(game_case(First(), made, test, packing=packing))
        by_key = found(part)
        gain = math.log(2) - math.log1p(math.exp(-3))
        assert by_key["trained"].value == pytest.approx(gain, rel=1e-6)
        assert by_key["trained"].name.startswith("Jensen-Shannon divergence, training's critic")
        assert ("packs of 2" in by_key["trained"].name) == (packing == 2)
        assert by_key["trained_tv"].value == pytest.approx(1)
        assert by_key["fresh"].note == "lower bound, at most 0.693"
        assert len(part.plots) == 2
    plain = found(critics(game_case(First(), made, test, loss="hinge")))
    assert [key for key in plain if plain[key].name.startswith("total variation")] == ["fresh", "trained"]
    assert "trained" not in found(critics(game_case(First(), made, test, loss="wasserstein")))


def test_critics_leave_the_random_numbers_as_they_were():
    x = torch.randn(30, 2)
    case = game_case(First(), x, x)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = found(critics(case))["fresh"].value
    assert torch.equal(torch.rand(1), expected)
    assert found(critics(case))["fresh"].value == first


def test_without_a_game_there_is_no_critic():
    x = torch.zeros(20, 2)
    case = case_of(data_of(x), x, GAN(nn.Linear(1, 2), 1))
    assert critics(case) is units(case) is None


def test_transport_of_a_shift_is_the_shift():
    train, test = torch.randn(40, 3), torch.randn(40, 3)
    by_key = found(transport(case_of(data_of(train, test), test + torch.tensor([0.0, 3.0, 4.0]))))
    assert by_key["transport"].value == pytest.approx(5, rel=1e-5)
    assert by_key["transport"].floor == pytest.approx(float(wasserstein1(train, test)), rel=1e-5)
    assert by_key["transport_train"].value == pytest.approx(
        float(wasserstein1(train, test + torch.tensor([0.0, 3.0, 4.0]))), rel=1e-5
    )
    assert set(by_key) == {"transport", "transport_train"}
    assert transport(case_of(data_of(train, test), test, nn.Linear(3, 3))) is None


@pytest.mark.parametrize("slope", [1.0, 1.5])
def test_a_wasserstein_critics_claim_is_a_difference_of_means(slope):
    """By hand: samples are held-out data shifted by 1/4; for a slope of 1 the claim is below the distance."""
    test, train = torch.randn(30, 2), torch.randn(50, 2)
    by_key = found(transport(game_case(First(slope), test - 0.25, test, train, loss="wasserstein")))
    assert by_key["critic_test"].value == pytest.approx(slope / 4, rel=1e-5)
    assert by_key["critic_train"].value == pytest.approx(
        slope * float(train[:, 0].mean() - (test[:, 0] - 0.25).mean()), rel=1e-4
    )
    variance = (test[:, 0].double().var() + (test[:, 0] - 0.25).double().var()) / 30
    assert by_key["critic_test"].stderr == pytest.approx(slope * float(variance.sqrt()), rel=1e-5)
    assert by_key["critic_slope"].value == pytest.approx(slope - 1, abs=1e-6)
    assert by_key["transport"].value == pytest.approx(0.25 * math.sqrt(2), rel=1e-5)
    if slope == 1:
        assert by_key["critic_test"].value < by_key["transport"].value


def test_units_that_are_never_positive():
    """By hand: of three channels one is dead, and one is positive at one place of one input only."""
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


def test_the_share_of_units_that_are_never_positive():
    """By hand: two of the generator's four units are dead because their bias is -99; the critic has no ReLU units."""
    model = GAN(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), 2)
    model.network[0].bias.data = torch.tensor([99.0, -99.0, -99.0, 0.0])
    x = torch.randn(200, 2)
    by_key = found(units(game_case(First(), x, x, model=model)))
    assert set(by_key) == {"units_generator"}
    assert by_key["units_generator"].value == 0.5
    assert by_key["units_generator"].note == "2 of 4"


# a run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A briefly trained run with packs of four; its 50 test data do not divide into whole packs."""
    folder = tmp_path_factory.mktemp("runs") / "ring"
    made = recipe({"fourier_features": 4}, {"packing": 4}, steps=20, previews=1, log_every=5)
    train(made.model_copy(update={"judging": Judging(samples=200, critic_steps=20)}), folder)
    return folder


def test_the_critic_that_is_judged_is_trainings(run):
    opened = open_run(run)
    game = judged(opened, opened.open_data()).game
    saved = torch.load(max((run / "state").rglob("*.pt")), weights_only=True)["objective"]
    assert all(torch.equal(v, saved[k]) for k, v in game.objective.state_dict().items())
    assert game.step == 20


def test_a_run_is_judged_with_its_game_or_without(run, tmp_path):
    whole = evaluate(run)
    assert {"modes_recovered", "fresh", "trained", "units_critic", "transport"} <= set(whole)
    assert "packs of 4" in whole["trained"].name
    page = (run / "report.html").read_text()
    for words in ("Noise, coloured by its sample&#39;s mode", "Hidden units", "mean logits of the critic"):
        assert words in page
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "state")
    found = evaluate(bare)
    assert set(whole) - set(found) == {"fresh", "fresh_tv", "trained", "trained_tv", "units_generator", "units_critic"}
    assert found["modes_recovered"].value == whole["modes_recovered"].value

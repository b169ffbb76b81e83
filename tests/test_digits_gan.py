"""GANs of digits: what the reader and the judge say of data whose answer is known, and that a seed decides all."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from sklearn.svm import SVC
from torch import nn

from jensen.adversarial import wasserstein1
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.core.types import Phase
from jensen.data.stacked import digit_shares
from jensen.models.gan import GAN
from jensen.objectives.adversarial import Adversarial
from jensen.recipes import configure
from jensen.recipes.data import DigitsData
from jensen.recipes.digit_reader import _machine, clarity, clear, read_digits, read_stacked, share_clear
from jensen.recipes.digits_gan import DigitsWGAN, StackedDigitsGAN
from jensen.recipes.digits_gan_judging import Single, Stacked, Wasserstein

GREY = DigitsData(scale="grey")
TINY = ["network.width=4", "network.critic_width=16", "training.batch_size=8", "training.previews=0"]


def rows_of(pictures):
    return {tuple(row.tolist()) for row in pictures.flatten(1)}


# the judge -------------------------------------------------------------------------------


def judged(made, tmp_path):
    return Single(configure("digits-gan")).judged(made, tmp_path)


def test_training_digits_are_found_out_as_copies_and_test_digits_are_not(tmp_path):
    x, labels = GREY.train()
    found = judged(x, tmp_path)
    assert found["copies"]["drawn"] == 0
    assert found["copies"]["nearer"] > 0.99
    assert found["clear"]["value"] > 0.97
    read = read_digits(x, "grey")
    assert found["classes"]["shares"] == pytest.approx((read.bincount() / len(x)).tolist())
    assert found["classes"]["data"] == pytest.approx((labels.bincount() / len(x)).tolist())
    assert found["classes"]["reverse_kl"] < 1e-3
    fresh = judged(GREY.test()[0], tmp_path)
    assert fresh["copies"]["nearer"] == pytest.approx(0.5)
    assert fresh["balls"]["drawn"]["precision"] == fresh["balls"]["drawn"]["recall"] == 1


def test_a_lost_class_shows(tmp_path):
    x, labels = GREY.train()
    found = judged(x[labels == 4], tmp_path)
    share = float((labels == 4).double().mean())
    assert found["classes"]["recovered"] == 1
    assert found["classes"]["reverse_kl"] == pytest.approx(-math.log(share), rel=1e-5)
    assert found["balls"]["drawn"]["recall"] < 0.5
    with Image.open(tmp_path / "classes.png") as sheet:  # rows of nothing are white
        assert sheet.convert("L").crop((0, 0, sheet.width, 60)).getextrema() == (255, 255)


def stacked_recipe(**data):
    return StackedDigitsGAN(data={"points": 200, "test": 100, **data})


@pytest.mark.parametrize("balance", [1.0, 0.2])
def test_draws_of_the_data_reach_what_they_should(balance):
    n = 4000
    recipe = stacked_recipe(balance=balance)
    x, modes = recipe.data.draw("train", n, seed=0)
    found = Stacked(recipe).modes(x)
    assert abs(found["recovered"] - len(modes.unique())) <= 2  # the reader errs on few training digits
    # reverse KL is about half a chi-square of 999: mean (the floor) and standard deviation sqrt(2 * 999) / 2n
    assert abs(found["reverse_kl"] - found["floor"]) < 5 * math.sqrt(2 * 999) / (2 * n)
    assert found["clear"]["value"] > 0.95
    other = stacked_recipe(balance=1.2 - balance)
    assert Stacked(other).modes(x)["reverse_kl"] > found["reverse_kl"] + 0.2


def test_a_collapsed_generator_is_seen_through():
    recipe = stacked_recipe()
    x, labels = GREY.train()
    x, labels = x[clear(x, "grey")], labels[clear(x, "grey")]
    three, seven = (x[(labels == k) & (read_digits(x, "grey") == k)][:50] for k in (3, 7))
    found = Stacked(recipe).modes(torch.cat([three, seven, three], 1))
    assert (found["recovered"], found["reached_clearly"]) == (1, 1)
    assert found["reverse_kl"] == pytest.approx(math.log(1000))
    assert [row.index(1.0) for row in found["digits"]] == [3, 7, 3]
    blurred = torch.cat([(three + seven) / 2] * 3, 1)
    assert Stacked(recipe).modes(blurred)["reached_clearly"] < Stacked(recipe).modes(blurred)["of"]


class Linear(nn.Module):
    """The mean of the pixels, times eight: a slope of 1 everywhere."""

    def forward(self, x):
        return 8 * x.flatten(1).mean(1)


def test_a_critics_claim_is_a_difference_of_means_and_below_the_distance(tmp_path, monkeypatch):
    recipe = configure("digits-wgan")
    test, training = recipe.test_data(), recipe.training_data()
    made = test - 0.25
    game = Adversarial(GAN(nn.Linear(2, 2), [2]), Linear(), loss="wasserstein")
    monkeypatch.setattr(DigitsWGAN, "trained", lambda *_: game)
    found = Wasserstein(recipe).judged(made, tmp_path)
    assert found["slope_off"] == pytest.approx(0, abs=1e-6)
    assert found["critic"]["test"]["value"] == pytest.approx(8 * 0.25, rel=1e-5)  # a shift by 1/4 in 64 pixels
    assert found["critic"]["training"]["value"] == pytest.approx(8 * float(training.mean() - made.mean()), rel=1e-4)
    assert found["between"]["test"] == pytest.approx(2.0, rel=1e-5)  # transport of a shift is the shift
    assert found["between"]["floor"] == pytest.approx(float(wasserstein1(training[:360], test)), rel=1e-6)
    a, b = (8 * x.flatten(1).mean(1).double() for x in (test, made))
    assert found["critic"]["test"]["stderr"] == pytest.approx(float((a.var() / 360 + b.var() / 360).sqrt()), rel=1e-5)


# the recipes -----------------------------------------------------------------------------


def test_games_are_what_their_names_say():
    games = {name: configure(name).game for name in ("digits-gan", "digits-wgan", "digits-exponential-gan")}
    assert [games[name].loss for name in games] == ["non-saturating", "wasserstein", "exponential"]
    assert games["digits-wgan"].phases() == (Phase(("critic",), repeats=5), Phase(("generator",), fresh=False))
    assert games["digits-wgan"].penalty == "wgan-gp"


@pytest.mark.parametrize("packing", [1, 2, 4])
def test_a_critic_of_stacks_takes_packs(packing):
    recipe = configure("stacked-digits-gan", [f"game.packing={packing}", *TINY])
    setting = recipe.setting(recipe.model())
    x = next(setting.stream(0))["x"]
    assert x.shape == (8, 3, 8, 8)
    losses = setting.objective(("critic",), {"x": x}, 0)
    seen = setting.objective.seen(x, 0)
    assert seen.shape == (8 // packing, 3 * packing, 8, 8)
    assert setting.objective.critic(seen).shape == (8 // packing,)
    assert bool(losses["critic"].total.isfinite())


def test_stacks_are_shown_channel_beside_channel():
    recipe = stacked_recipe()
    x = -torch.ones(1, 3, 8, 8)
    x[0, 1] = 1  # the second digit is white
    image = recipe.look(x, columns=1, scale=1).convert("L")
    row = [image.getpixel((6 + k, 6 + 4)) for k in range(26)]
    assert row == [0] * 8 + [102] + [255] * 8 + [102] + [0] * 8


def test_a_seed_decides_all(tmp_path):
    words = [w for setting in TINY for w in ("--set", setting)]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command = ["train", "digits-gan", "--out", str(tmp_path / name), "--steps", "6", "--no-evaluate", *words]
        assert main([*command, "--seed", str(seed)]) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_stacked_run_counts_as_many_samples_as_it_says(tmp_path):
    more = ["judging.read=50", "judging.samples=20", "judging.critic_steps=2", "data.points=60", "data.test=20"]
    words = [w for setting in [*TINY, *more, "data.balance=0.5"] for w in ("--set", setting)]
    assert main(["train", "stacked-digits-gan", "--out", str(tmp_path / "run"), "--steps", "3", *words]) == 0
    own = json.loads((tmp_path / "run" / "evaluation.json").read_text())["own"]
    assert own["n"] == own["drawn"]["n"] == own["data"]["n"] == 50
    assert own["balance"] == 0.5
    assert sum(own["drawn"]["digits"][0]) == pytest.approx(1)
    assert "0.5 times as frequent" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("digits-gan", "data.scale=ink", "data.scale must be grey"),
        ("stacked-digits-gan", "data.balance=0", "data.balance"),
        ("stacked-digits-gan", "judging.read=3", "judging.read"),
    ],
)
def test_wrong_settings_are_refused(name, word, message):
    with pytest.raises(ValueError, match=message):
        configure(name, [word])

"""Known samples: draws of the data, copies, blur, collapse; and what the judges of samples report."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from jensen.adversarial import logistic, train_critic
from jensen.core.seeding import generator
from jensen.data.dataset import Data, in_memory, some
from jensen.data.pool import Examples, Tensors
from jensen.data.space import Space
from jensen.judging.case import Case
from jensen.judging.features import features_of
from jensen.judging.samples import LEAST, class_shares, measured, nearest, nearness, samples
from jensen.judging.settings import Judging
from jensen.metrics import class_network, discriminate, nearest_distance
from jensen.recipes.sources.digits import Digits

DIGITS = Digits().open(0)
TRAIN, TEST = (rows[torch.arange(len(rows))] for rows in (DIGITS.train, DIGITS.test))
SHARES = class_shares(TRAIN["cond"], 10)
KEYS = {"frechet", "frechet_extrapolated", "kernel", "energy", "precision", "recall", "density", "coverage"}
KEYS |= {"c2st", "c2st_auc", "classes", "sharpness"}


class Replay(nn.Module):
    """A model that returns given samples."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def sample(self, n, *, cond=None, generator=None):
        return self.x[:n]


def case_of(data, x, **settings):
    model = Replay(x)
    return Case(model, data, lambda n, cond=None, advance=None: model.sample(n), settings=Judging(**settings))


def points(n, seed, scale=1.0):
    return scale * torch.randn(n, 2, generator=generator(seed))


@pytest.fixture(scope="module")
def features():
    return features_of("auto", DIGITS)


def numbers(x, features):
    return {f.key: f for f in measured(TEST["x"], x, features, DIGITS.space, 0, SHARES)}


# numbers --------------------------------------------------------------------------------------------------------------


def test_other_data_of_the_same_law_are_as_good_as_data(features):
    """Training digits as samples, n = 500: findings with an exact value are within 4 standard errors of it."""
    found = numbers(TRAIN["x"][:500], features)
    assert set(found) == KEYS
    for key, exact in (
        ("kernel", 0),
        ("energy", 0),
        ("density", 1),
        ("c2st", 0.5),
        ("c2st_auc", 0.5),
        ("sharpness", 1),
    ):
        assert found[key].value == pytest.approx(exact, abs=4 * found[key].spread), key
        assert found[key].best == exact or found[key].best == "low"
    assert found["classes"].value < 0.02


def test_blur_and_collapse_are_seen(features):
    blurred = (TRAIN["x"][:300] + TRAIN["x"][:300].roll(1, 3)) / 2
    assert numbers(blurred, features)["sharpness"].value < 0.6
    one = numbers(TRAIN["x"][TRAIN["cond"][:, 0] == 3][:100], features)
    assert one["classes"].value == pytest.approx(-math.log(SHARES[3]), rel=0.1)
    assert one["coverage"].value < 0.2
    assert one["precision"].value > 0.8
    assert one["c2st"].value > 0.8


def test_copies_are_seen_and_so_is_what_is_concentrated():
    """Data N(0, I) in the plane, n = 400. The share of samples nearer to the training data than test data are is 1 for
    copies, 1/2 for fresh draws, and more than 1/2 for draws of N(0, I / 9), none of them a copy, as the page warns.
    """
    train, test, fresh = (points(400, seed) for seed in range(3))
    baseline = nearest_distance(test, train)[0]
    found = {
        name: nearness(nearest_distance(x, train)[0], baseline)
        for name, x in {"copies": train, "concentrated": fresh / 3, "fresh": fresh}.items()
    }
    assert found["copies"].value == 1 > found["copies"].interval[0]
    assert found["concentrated"].value > 0.5 + 6 * found["concentrated"].spread
    assert found["fresh"].value == pytest.approx(0.5, abs=4 * found["fresh"].spread)


# judges ---------------------------------------------------------------------------------------------------------------


def test_a_model_of_the_training_set_is_at_every_floor_and_found_out():
    """A model that samples training digits is within 4 standard errors of all floors (n = 1,437), and all its
    samples are reported as copies.
    """
    case = case_of(DIGITS, TRAIN["x"], samples=1437)
    part = samples(case)
    assert {f.key for f in part.findings} == KEYS
    for f in part.findings:
        assert f.value == pytest.approx(f.floor, abs=4 * f.spread + 1e-9), f.key
    assert [p.name for p in part.pictures] == ["samples", "held-out"]
    assert len(part.plots) == 2
    near = {f.key: f for f in nearest(case).findings}
    assert near["copies"].value == 1
    assert near["copied"].value == 1
    assert (near["nearest"].value, near["nearest"].floor > 0.1) == (0, True)
    assert (near["copies"].floor, near["copied"].floor) == (0.5, 0.05)


def test_the_nearest_training_images_are_shown_below_their_samples():
    """For copies the two rows of the sheet are equal."""
    part = nearest(case_of(DIGITS, TRAIN["x"][100:400], samples=300))
    assert part.title == "Nearest training images"
    (picture,) = part.pictures
    pixels = torch.tensor(list(picture.image.convert("L").getdata())).view(picture.image.height, -1)
    inked = (pixels != 255).any(1).nonzero()[:, 0]  # rows of the sheet that hold pictures
    top, bottom = pixels[inked].chunk(2)
    assert torch.equal(top, bottom)


def test_points_have_a_plot_of_distances_and_no_pictures_of_them():
    data = Data("points", "p", Space((2,)), Tensors(x=points(300, 0)), Tensors(x=points(300, 1)))
    case = case_of(data, points(300, 2), samples=300)
    part = nearest(case)
    assert (part.title, part.pictures, len(part.plots)) == ("Nearest training points", [], 1)
    middle = [
        torch.cdist(x, points(300, 0)).amin(1).sort().values[149:151].mean() / 2**0.5
        for x in map(points, (300, 300), (2, 1))
    ]
    found = {f.key: f for f in part.findings}["nearest"]
    assert (found.value, found.floor) == pytest.approx(tuple(map(float, middle)), rel=1e-5)
    assert {f.key for f in samples(case).findings} == KEYS - {"classes", "sharpness"}


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 1, 8)])
def test_pictures_without_high_frequencies_have_no_sharpness(shape):
    """Constant pictures, and pictures one pixel high; all other findings are there."""
    x = torch.randn(60, 1, 1, 1, generator=generator(0)).expand(60, *shape)
    plain = Data("plain", "f", Space(shape), Tensors(x=x), Tensors(x=x.flip(0)))
    found = {f.key: f.value for f in samples(case_of(plain, x, samples=60)).findings}
    assert "sharpness" not in found
    assert found["frechet"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_judged_is_left_out():
    few = Data("few", "f", Space((2,)), Tensors(x=points(LEAST - 1, 0)), Tensors(x=points(60, 1)))
    case = case_of(few, points(60, 2), samples=60)
    assert samples(case).findings == ()
    assert len(samples(case).pictures) == 1
    small = Data("few", "f", Space((2,)), Tensors(x=points(60, 0)), Tensors(x=points(LEAST - 1, 1)))
    assert nearest(case_of(small, points(60, 2), samples=60)) is None
    no_sampler = Case(nn.Linear(1, 1), few, lambda n, **_: None)
    assert samples(no_sampler) is None
    assert nearest(no_sampler) is None


# a fresh discriminator ------------------------------------------------------------------------------------------------


def rows(n, shift, seed):
    return shift + torch.randn(n, 1, generator=generator(seed))


def test_a_fresh_discriminator_of_two_gaussians_one_apart():
    """The best one is right with probability Phi(1/2), and its AUC is Phi(1 / sqrt 2), independent of its threshold:
    n = 4,000 test rows, within 4 standard errors and a percent for the network.
    """
    found = discriminate((rows(4000, 0, 0), rows(2000, 0, 1)), (rows(4000, 1, 2), rows(2000, 1, 3)), steps=200)
    best = norm.cdf(0.5)
    assert found.accuracy.value == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 4000) + 0.01)
    assert found.auc.value == pytest.approx(norm.cdf(0.5**0.5), abs=4 * found.auc.stderr)
    assert (found.accuracy.n, found.auc.n, found.seen) == (4000, 4000, 4000)
    assert (found.steps[0], found.steps[-1], len(found.curve)) == (1, 200, len(found.steps))
    assert found.curve[-1] == found.accuracy.value


def test_a_fresh_discriminator_of_equals_and_of_strangers():
    same = discriminate((rows(300, 0, 0), rows(2000, 0, 1)), (rows(300, 0, 2), rows(2000, 0, 3)), steps=50)
    assert same.accuracy.value == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 4000))
    strangers = (rows(300, 0, 0), rows(200, 0, 1)), (rows(300, 9, 2), rows(200, 9, 3))
    far, again = (discriminate(*strangers, steps=50, seed=1) for _ in range(2))
    assert (far.accuracy.value, far.auc.value) == (1, 1)
    assert far == again
    with pytest.raises(ValueError, match=r"equal numbers of rows, got \[3, 2\] and \[3, 3\]"):
        discriminate((rows(3, 0, 0), rows(2, 0, 0)), (rows(3, 0, 0), rows(3, 0, 0)))


# rows in memory -------------------------------------------------------------------------------------------------------


def test_rows_kept_as_bytes_and_read_in_parts_give_bitwise_equal_results():
    """2,500 of 3,000 pictures of 256 levels, against the same rows as one tensor of floats."""
    x = torch.randint(256, (3000, 3, 6, 6), generator=generator(0), dtype=torch.uint8)
    rows, read = Tensors(x=x, cond=x[:, 0, 0, :1].long() // 128), []
    held, whole = in_memory(rows, 2500), some(rows, 2500)
    assert held.tensors["x"].dtype == torch.uint8
    assert all(torch.equal(held[:][name], whole[name]) for name in ("x", "cond"))
    lazy, labels = Examples(held, lambda part: (read.append(len(part)), part)[1]), whole["cond"][:, 0]

    def results(x):
        yield from nearest_distance(torch.randn(50, 3, 6, 6, generator=generator(1)), x)
        yield from class_network(x, labels, 2).state_dict().values()
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
        train_critic(critic, logistic, x, lambda n: torch.randn(n, 3, 6, 6), steps=20)
        yield from critic.state_dict().values()

    assert all(torch.equal(mine, exact) for mine, exact in zip(results(lazy), results(whole["x"]), strict=True))
    assert max(read) == 1024


def test_rows_are_kept_as_floats_if_one_of_them_is_between_the_levels():
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat(750)[:, None] / 127.5 - 1
    x[-1] = 0.0
    rows = Tensors(x=x)
    held = in_memory(rows, 1500)
    assert held.tensors["x"].dtype == torch.float32
    assert torch.equal(held[:]["x"], some(rows, 1500)["x"])

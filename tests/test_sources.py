"""Data sources: the spaces that their settings state, distributions, levels, splits, fingerprints."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jensen.data.dataset import some
from jensen.data.digits import digits
from jensen.data.stacked import mode_shares
from jensen.recipes.sources.base import Source
from jensen.recipes.sources.captcha import Captcha
from jensen.recipes.sources.digits import HANDWRITTEN, Digits, pictures
from jensen.recipes.sources.points import Grid, Moons, Ring
from jensen.recipes.sources.sprites import Sprites
from jensen.recipes.sources.stacked import StackedDigits
from jensen.recipes.sources.two import HandwrittenPrinted

SOURCES = {
    "grey": Digits(),
    "ink": Digits(scale="ink", pictures=50),
    "printed": Digits(style="printed", pictures=40),
    "printed ink": Digits(style="printed", scale="ink"),
    "enlarged": Digits(side=12, pictures=50),
    "enlarged ink": Digits(side=16, scale="ink", pictures=50),
    "stacked": StackedDigits(points=200, test=100),
    "moons": Moons(points=400, test=100),
    "ring": Ring(points=400, test=100, balance=0.5),
    "grid": Grid(points=400, test=100),
    "sprites": Sprites(size=14, scales=2, orientations=2, positions=4, test=40),
    "captcha": Captcha(pictures=24, test=16),
    "letters": Captcha(alphabet="ABCDE", length=3, height=16, width=32, colour=True, pictures=24, test=16),
    "two": HandwrittenPrinted(printed=60, test=40),
    "two, small": HandwrittenPrinted(printed=60, test=40, side=8, handwritten=30, pairing="by-class", jitter=0),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


def sides(data):
    return [data] if data.b is None else [data, data.b]


def rows_of(x):
    return {row.numpy().tobytes() for row in x}


# -- every source -----------------------------------------------------------------------------------------------------


def test_what_settings_tell_holds_of_what_is_opened(source):
    known, data = source.known(), source.open(3)
    for known_side, side in zip([known, known.b], sides(data), strict=False):
        plain = replace(side.space, mean=0.0, std=1.0, rows=0, b=None)
        assert plain == replace(known_side, b=None)
        assert data.space.b == (None if data.b is None else data.b.space)
        train = some(side.train)
        assert side.space.rows == len(side.train) == len(train["x"])
        assert side.space.mean == pytest.approx(float(train["x"].double().mean()), abs=1e-6)
        assert side.space.std == pytest.approx(float(train["x"].double().std()), abs=1e-6)
        for rows in (train, some(side.test)):
            assert rows["x"].dtype == torch.float32
            assert tuple(rows["x"].shape[1:]) == side.space.shape
            assert torch.equal(side.space.settled(rows["x"]), rows["x"])  # on the levels
            if side.space.pictures:
                assert (float(rows["x"].min()), float(rows["x"].max())) >= (-1, 0)
                assert float(rows["x"].max()) <= 1
            assert ("cond" in rows) == (side.space.cond is not None)
            if side.space.cond is not None:
                assert side.space.cond.encode(side.space.cond.decode(rows["cond"])).equal(rows["cond"])
        if side.space.levels in (2, 17):
            assert len(train["x"].unique()) == side.space.levels


def test_a_source_is_a_function_of_settings_and_seed(source):
    data, again, other = source.open(3), source.open(3), source.open(4)
    for first, second, third in zip(sides(data), sides(again), sides(other), strict=True):
        assert first.space == second.space
        assert first.fingerprint == second.fingerprint == third.fingerprint
        assert torch.equal(some(first.train)["x"], some(second.train)["x"])
        assert torch.equal(some(first.test)["x"], some(third.test)["x"])  # held out for every seed
    drawn = not isinstance(source, Digits | Sprites | HandwrittenPrinted)
    assert torch.equal(some(data.train)["x"], some(other.train)["x"]) != drawn
    batches = [b for b, _ in zip(data.stream(8, 5)(0), range(4), strict=False)]
    for name, x in next(data.stream(8, 5)(3)).items():
        assert torch.equal(x, batches[3][name])
        assert len(x) == 8
    assert any(not torch.equal(x, batches[3][name]) for name, x in next(data.stream(8, 6)(3)).items())
    assert {"x"} <= set(batches[0]) or {"a", "b"} <= set(batches[0])


def test_splits_share_no_example(source):
    if isinstance(source, Digits):
        source = source.model_copy(update={"scale": "grey"})  # by ink alone some different digits look the same
    for side in sides(source.open(0)):
        shared = rows_of(some(side.train)["x"]) & rows_of(some(side.test)["x"])
        assert len(shared) <= (len(side.test) == 600)  # of 2,600 printed digits two may be equal by chance


def test_a_source_comes_back_from_json_and_says_what_its_settings_mean(source):
    assert Source.parse(source.model_dump(mode="json")) == source
    for name, field in type(source).model_fields.items():
        assert field.description, name


def test_fingerprints_that_are_equal_and_that_are_not():
    def of(source):
        return source.open(0).fingerprint

    assert len({of(source) for source in SOURCES.values()}) == len(SOURCES)
    two = SOURCES["two"]
    assert of(two) == of(two.model_copy(update={"pairing": "by-class", "jitter": 0.0}))
    assert of(two) != of(two.model_copy(update={"test": 50}))
    assert of(Digits(pictures=HANDWRITTEN, side=8)) == of(Digits()) != of(Digits(pictures=100))
    assert of(Digits(style="printed", test=600)) == of(Digits(style="printed")) != of(Digits(style="printed", test=50))
    moons = SOURCES["moons"]
    assert of(moons) != of(moons.model_copy(update={"noise": 0.2}))


# -- laws of points ---------------------------------------------------------------------------------------------------


LAWS = [Moons(noise=0.15), Ring(std=0.12, balance=0.3), Grid(side=3, std=0.2, balance=0.5)]


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("source", LAWS, ids=lambda source: source.kind)
def test_a_density_integrates_to_one_and_is_that_of_the_points(source, sigma):
    """The sum over a grid finer than half the width of the density is exact to far below 1e-6; moments are within 4
    standard errors for 20,000 points with noise of standard deviation sigma.
    """
    law = source.model_copy(update={"points": 20_000}).open(0)
    step = 0.06
    line = torch.arange(-5, 5, step, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    p = law.truths.log_p(points, sigma).exp() * step**2
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    x = some(law.train)["x"].double()
    x = x + sigma * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    for function in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z.square().sum(1), lambda z: z.prod(1).sin()):
        seen, exact = function(x), float(p @ function(points))
        assert abs(float(seen.mean()) - exact) < 4 * float(seen.std()) / len(x) ** 0.5


@pytest.mark.parametrize("source", LAWS, ids=lambda source: source.kind)
def test_the_density_with_noise_is_the_convolution(source):
    """The convolution of the density with a Gaussian, by Gauss-Hermite quadrature with 100 nodes per axis."""
    log_p, sigma = source.open(0).truths.log_p, 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    around, weight = torch.cartesian_prod(nodes, nodes), torch.outer(weights, weights).flatten()
    for x in torch.tensor([[0.9, 0.1], [0.0, 0.5], [2.1, -1.0]], dtype=torch.float64):
        convolved = float(weight @ log_p(x + sigma * around, 0.0).exp())
        assert float(log_p(x[None], sigma)) == pytest.approx(math.log(convolved), abs=1e-6)


def test_modes_are_those_that_points_are_drawn_from():
    for source, count in ((Ring(modes=5, balance=0.2, points=20_000), 5), (Grid(side=3, points=20_000), 9)):
        data = source.open(0)
        modes = data.truths.modes
        assert len(modes.centres) == count
        assert float(modes.weights.sum()) == pytest.approx(1, abs=1e-6)
        shares = torch.cdist(some(data.train)["x"], modes.centres).argmin(1).bincount(minlength=count) / 20_000
        assert bool(((shares - modes.weights).abs() < 4 * (modes.weights / 20_000).sqrt()).all())
    assert Moons().open(0).truths.modes is None


# -- sprites, stacked digits ------------------------------------------------------------------------------------------


def test_sprites_are_split_all_over_their_grid_of_factors():
    data = SOURCES["sprites"].open(0)
    factors, held_out = data.truths.factors, some(data.test)["x"]
    assert factors.names == ("shape", "scale", "orientation", "x", "y")
    assert len(factors.x) == len(factors.values) == len(factors.x.flatten(1).unique(dim=0)) == 192
    assert rows_of(some(data.train)["x"]) | rows_of(held_out) == rows_of(factors.x)
    assert (len(data.train), len(data.test)) == (152, 40)
    rows = torch.cdist(held_out.flatten(1), factors.x.flatten(1)).argmin(1)
    assert all(len(factors.values[rows, j].unique()) == len(factors.values[:, j].unique()) for j in range(5))


def test_stacked_digits_are_of_their_split_and_their_shares():
    data = StackedDigits(points=200, test=100, balance=0.2).open(0)
    train, test = (rows_of(pictures("handwritten", part)[0]) for part in ("train", "test"))
    streamed = next(data.stream(50, 1)(0))["x"]
    for x in (streamed, some(data.train)["x"]):
        assert rows_of(x.reshape(-1, 1, 8, 8)) <= train
    assert rows_of(some(data.test)["x"].reshape(-1, 1, 8, 8)) <= test
    assert float(data.truths.shares.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(data.truths.shares, mode_shares(0.2))


# -- digits -----------------------------------------------------------------------------------------------------------


def test_few_digits_are_the_first_of_every_class():
    whole, labels = pictures("handwritten", "train")
    assert len(whole) == HANDWRITTEN == len(digits().train)
    for n in (10, 57, 1437):
        x, y = pictures("handwritten", "train", n)
        assert len(x) == len(y) == n
        assert torch.equal(
            x[:10], pictures("handwritten", "train", 10)[0]
        )  # a smaller set is the beginning of a larger one
        counts = y.bincount(minlength=10)
        assert n == 1437 or counts.max() - counts.min() <= 1
        for k in range(10):
            assert torch.equal(x[y == k], whole[labels == k][: int(counts[k])])


def test_ink_is_where_grey_is_dark_enough():
    grey, ink = (some(Digits(scale=scale).open(0).train)["x"] for scale in ("grey", "ink"))
    assert torch.equal(ink == 1, grey >= 0)
    assert len(Digits(style="printed", pictures=1500).open(0).train) == 1500


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (Sprites, {"size": 12}, "size must be at least positions [+] 5, 13, got 12"),
        (Sprites, {"test": 2304}, "test must be below the number of pictures, 2304, got 2304"),
        (Digits, {"pictures": 1500}, "pictures must be at most 1437 for handwritten digits, got 1500"),
        (Digits, {"test": 50}, "test is not used for handwritten digits, of which 360 are held out, got 50"),
        (Captcha, {"length": 0}, "length must be from 1 to 16, got 0"),
        (HandwrittenPrinted, {"partners": 3}, "partners is not used for pairing unpaired, got 3: leave it at 4"),
        (HandwrittenPrinted, {"share": 0.3}, "share is not used where no side is enlarged, got 0.3"),
        (HandwrittenPrinted, {"pairing": "by-class", "enlarge_b": "x"}, "enlarge_b is not used for pairing by-class"),
        (HandwrittenPrinted, {"handwritten": 1438}, "handwritten must be at most 1437, got 1438"),
        (Moons, {"noise": 0}, "noise must be above 0, got 0"),
    ],
)
def test_settings_that_do_not_suit_are_refused(kind, settings, said):
    with pytest.raises(ValueError, match=said):
        kind(**settings)

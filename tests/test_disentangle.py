"""Disentanglement of codes with known scores, against scikit-learn, and on sprites."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LassoCV
from sklearn.metrics import mutual_info_score, r2_score

from jensen.core.seeding import generator
from jensen.data.sprites import FACTORS, SHAPES, sprites
from jensen.metrics import (
    BoostedTrees,
    Lasso,
    completeness,
    dci,
    disentanglement,
    entropy,
    factor_vae_score,
    mig,
    mutual_information,
)

F64 = torch.float64
GRID = torch.cartesian_prod(*map(torch.arange, (3, 4, 8)))  # 96 rows
PAIR = torch.cartesian_prod(torch.arange(8), torch.arange(8)).repeat(8, 1)  # 512 rows


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


# Mutual information


def test_information_and_entropy_against_scikit_learn():
    """Five codes in NumPy's histogram bins, three factors with unequal shares and arbitrary labels."""
    factors = (torch.rand(400, 3, generator=generator(1)) ** 2 * torch.tensor([2, 5, 9])).long() * 7 - 3
    codes = randn(400, 5) + torch.nn.functional.pad(factors * 0.1, (0, 2))
    found = mutual_information(codes, factors, bins=11)
    for i, z in enumerate(codes.T.numpy()):
        binned = np.digitize(z, np.histogram(z, bins=11)[1][1:-1])
        for j, v in enumerate(factors.T.numpy()):
            assert float(found[i, j]) == pytest.approx(mutual_info_score(binned, v), abs=1e-12)
    shares = [np.unique(v, return_counts=True)[1] / 400 for v in factors.T.numpy()]
    np.testing.assert_allclose(entropy(factors), [stats.entropy(p) for p in shares])


def test_bias_of_information_and_of_the_gap():
    """Independent codes: the estimate of I is too large by (B-1)(V-1)/2N, and the gap is that of the two largest of
    D = 6 chi-squares over 2N, simulated here; 400 data sets of N = 2,000, within 4 standard errors and 3 percent for
    higher orders.
    """
    n, bins, levels, sets = 2000, 10, 5, 400
    rng, information, gaps = generator(0), [], []
    for _ in range(sets):
        codes = torch.rand(n, 6, generator=rng)
        factors = torch.randint(levels, (n, 1), generator=rng)
        found = mig(codes, factors, bins=bins)
        information.append(found.information.mean())
        gaps.append(found.value * math.log(levels))
    df = (bins - 1) * (levels - 1)
    for values, exact in (
        (torch.stack(information).numpy(), df / (2 * n)),
        (np.array(gaps), np.diff(np.sort(stats.chi2(df).rvs((200_000, 6), random_state=0))[:, -2:]).mean() / (2 * n)),
    ):
        assert abs(values.mean() - exact) < 4 * values.std() / sets**0.5 + 0.03 * exact
    assert np.mean(gaps) / math.log(levels) < 0.003  # practically 0


# The three scores on codes that are known


@pytest.mark.parametrize("padding", [0, 4])
def test_one_code_a_factor_is_perfect(padding):
    """For any order, scale, sign and offset of the codes, and with additional constant codes."""
    codes = torch.stack([-3.0 * GRID[:, 2] + 1, 1e-4 * GRID[:, 0], 500.0 * GRID[:, 1]], 1)
    codes = torch.nn.functional.pad(codes, (0, padding))
    assert mig(codes, GRID).value == pytest.approx(1, abs=1e-12)
    assert str(factor_vae_score(codes, GRID, generator=generator(0))) == "100.0% [99.5, 100.0]"
    many = codes.repeat(10, 1), GRID.repeat(10, 1)
    for probe, slack in ((BoostedTrees(), 1e-12), (Lasso(), 1e-4)):
        found = dci(*many, probe, generator=generator(0))
        assert found.disentanglement == pytest.approx(1, abs=1e-12)
        assert found.completeness == pytest.approx(1, abs=1e-12)
        assert found.informativeness == pytest.approx(1, abs=slack)
        assert found.importance.argmax(0).tolist() == [1, 2, 0]


def test_scores_of_any_codes_do_not_mind_order_and_scale():
    codes = randn(768, 4) + torch.nn.functional.pad(GRID.repeat(8, 1).double(), (0, 1))
    other = codes[:, [2, 0, 3, 1]] * torch.tensor([1e-3, 4.0, 32.0, 2.0**20]) + 5
    factors = GRID.repeat(8, 1)
    assert mig(other, factors).value == pytest.approx(mig(codes, factors).value, abs=0.01)  # edges of bins may round
    assert 0.05 < mig(codes, factors).value < 0.95
    one, two = (factor_vae_score(c, factors, batch=8, generator=generator(0)) for c in (codes, other))
    assert one == two
    assert 0.5 < one.value < 1
    one, two = (dci(c, factors, Lasso(), generator=generator(0)) for c in (codes, other))
    torch.testing.assert_close(one.importance[[2, 0, 3, 1]], two.importance, rtol=1e-4, atol=1e-4)


def test_two_factors_turned_by_an_eighth():
    """Both codes carry the same information about both factors: no gap, no disentanglement, no completeness, full
    informativeness; a fixed factor leaves half the variance of both codes, so votes are random.
    """
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    codes = PAIR.float() @ turn
    assert mig(codes, PAIR, bins=15).value == pytest.approx(0, abs=1e-12)
    known = stats.entropy(np.convolve([1 / 8] * 8, [1 / 8] * 8)) - math.log(
        8
    )  # the entropy of the sum minus that of the other factor
    np.testing.assert_allclose(mutual_information(codes, PAIR, bins=15), known, rtol=1e-12)
    found = dci(codes, PAIR, Lasso(), generator=generator(0))
    assert found.disentanglement < 1e-4
    assert found.completeness < 1e-4
    assert found.informativeness == pytest.approx(1, abs=1e-3)
    score = factor_vae_score(codes, PAIR, votes=4000, generator=generator(0))
    assert abs(score.value - 0.5) < 4 * (0.25 / 4000) ** 0.5


def test_one_code_for_two_factors():
    """MIG does not penalise this; DCI disentanglement and the FactorVAE score do: 0 (almost, with noise) and 1/2."""
    codes = torch.stack([PAIR[:, 0] + 8 * PAIR[:, 1], torch.zeros(512, dtype=torch.long)], 1).double()
    assert mig(codes, PAIR, bins=64).value == pytest.approx(1, abs=1e-12)
    found = dci(codes, PAIR, BoostedTrees(depth=8), generator=generator(0))
    assert found.disentanglement == pytest.approx(0, abs=1e-12)  # one code has importance 1/2 for both factors
    assert found.completeness == pytest.approx(1, abs=1e-12)
    assert found.informativeness > 0.9
    score = factor_vae_score(codes, PAIR, votes=4000, generator=generator(0))
    assert abs(score.value - 0.5) < 4 * (0.25 / 4000) ** 0.5


def test_one_factor_in_two_codes():
    """A factor in two codes has no gap; the other factor has a full gap."""
    codes = torch.stack([PAIR[:, 0], -PAIR[:, 0], PAIR[:, 1]], 1).double()
    found = mig(codes, PAIR)
    torch.testing.assert_close(found.gaps, torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.entropy, torch.full((2,), math.log(8), dtype=F64))
    assert found.value == pytest.approx(0.5)


def test_independent_codes_know_nothing():
    """n = 6,144 and 4,000 votes: MIG below 0.003, the FactorVAE score 1/5 within 4 standard errors."""
    factors = torch.cartesian_prod(*map(torch.arange, (3, 4, 8, 8, 8)))
    codes = randn(len(factors), 10)
    assert mig(codes, factors).value < 0.003
    score = factor_vae_score(codes, factors, votes=4000, generator=generator(0))
    assert abs(score.value - 0.2) < 4 * (0.16 / 4000) ** 0.5
    found = dci(codes[:1024], factors[:, :2][torch.randperm(6144, generator=generator(1))[:1024]], Lasso())
    assert found.informativeness < 0.02
    assert found.disentanglement + found.completeness < 0.5  # from a few small weights at most


def test_the_held_factor_is_held_and_others_move():
    """A code of one factor plus a little noise scores 1; with much noise, votes are random."""
    codes = GRID.repeat(10, 1) + 0.05 * randn(960, 3)
    assert factor_vae_score(codes, GRID.repeat(10, 1), generator=generator(0)).value == 1
    assert factor_vae_score(codes, GRID.repeat(10, 1).flip(0), generator=generator(0)).value == 1  # symmetric grid
    broken = GRID.repeat(10, 1)[torch.randperm(960, generator=generator(3))]
    assert factor_vae_score(codes, broken, generator=generator(0)).value < 0.5


def test_collapsed_codes_have_no_vote():
    """A constant code would win all votes because its variance is 0."""
    codes = torch.nn.functional.pad(GRID.double(), (2, 0))
    assert factor_vae_score(codes, GRID, generator=generator(0)).value == 1


@pytest.mark.parametrize(
    ("importance", "d", "c"),
    [
        ([[3.0, 0.0], [0.0, 5.0]], 1.0, 1.0),
        ([[1.0, 1.0], [2.0, 2.0]], 0.0, 1 - stats.entropy([1 / 3, 2 / 3], base=2)),
        # weights 3/4 and 1/4 of the codes; the third is not used
        ([[6.0, 0.0], [1.0, 1.0], [0.0, 0.0]], 0.75, (1 - stats.entropy([6, 1], base=3) + 1) / 2),
        # nothing is predicted; then one factor is not predicted
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, 0.0),
        ([[2.0, 0.0], [0.0, 0.0]], 1.0, 0.5),
    ],
)
def test_disentanglement_and_completeness_of_importances(importance, d, c):
    importance = torch.tensor(importance)
    assert disentanglement(importance) == pytest.approx(d, abs=1e-12)
    assert completeness(importance) == pytest.approx(c, abs=1e-12)
    assert disentanglement(10 * importance) == pytest.approx(d, abs=1e-12)


def test_probes_are_scored_on_rows_kept_back():
    """Random levels: trees of unlimited depth memorise them and predict at chance."""
    factors = torch.randint(2, (400, 2), generator=generator(0))
    found = dci(randn(400, 2), factors, BoostedTrees(rounds=30, depth=10), kept=0.5, generator=generator(1))
    assert abs(found.informativeness - 0.5) < 4 * (0.25 / 400) ** 0.5
    again = dci(randn(400, 2), factors, BoostedTrees(rounds=30, depth=10), kept=0.5, generator=generator(1))
    torch.testing.assert_close(found.importance, again.importance, rtol=0, atol=0)


def test_lasso_is_scored_by_the_variance_explained_of_rows_kept_back():
    """Against scikit-learn's components combined by hand; the level is linear in the codes plus noise."""
    codes = randn(200, 3).numpy()
    levels = (codes @ np.array([2.0, -1.0, 0.0]) + randn(200, seed=1).numpy()).round()
    seen, kept = (codes[:150], levels[:150]), (codes[150:], levels[150:])
    mean, scale = seen[0].mean(0), seen[0].std(0)
    model = LassoCV(cv=5).fit((seen[0] - mean) / scale, seen[1])
    importance, score = Lasso()(seen, kept, 0)
    np.testing.assert_allclose(importance, np.abs(model.coef_))
    assert score == pytest.approx(r2_score(kept[1], model.predict((kept[0] - mean) / scale)))
    assert Lasso()(seen, (kept[0], -kept[1]), 0)[1] == 0  # worse than predicting the mean


def test_rare_levels_are_learned_and_scored():
    """A level with one row among 40 is in the training rows in each split, and the others are predicted correctly;
    also two rows of one level and 38 of another, and three levels of which one is rare.
    """
    for counts in ([39, 1], [38, 2], [36, 3, 1]):
        level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        factors = torch.stack([level, torch.arange(40) % 2], 1)
        for seed in range(8):
            found = dci(factors.double(), factors, generator=generator(seed))
            assert found.informativeness == 1
            assert found.disentanglement == pytest.approx(1, abs=1e-9)
    rows = torch.arange(10)[:, None].expand(10, 2)
    with pytest.raises(ValueError, match=r"must leave training and held-out rows, got 0\.25 of 10 rows, 10 levels"):
        dci(rows.double(), rows)


def test_as_many_rows_of_a_level_are_kept_back_as_its_share():
    """A probe that records its rows: of 60 and 20 rows with kept = 1/4, 15 and 5 are held out, and the rest are for
    training.
    """
    seen = []

    def probe(learned, kept, seed):
        seen.append([np.bincount(rows[1]).tolist() for rows in (learned, kept)])
        return np.ones(2), 1.0

    level = (torch.arange(80) % 4 == 0).long()
    dci(randn(80, 2), torch.stack([level, level.flip(0)], 1), probe, generator=generator(0))
    assert seen == [[[45, 15], [15, 5]]] * 2


# Sprites


def test_sprites_are_a_grid_of_different_pictures():
    images, factors = sprites()
    assert images.shape == (6144, 1, 24, 24)
    assert images.dtype == torch.float32
    assert len(FACTORS) == factors.shape[1] == 5
    assert torch.equal(factors, torch.cartesian_prod(*map(torch.arange, (3, 4, 8, 8, 8))))
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    assert images.unique().numel() > 50  # shades at the edges
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert torch.equal(images, sprites()[0])
    levels = images.view(3, 4, 8, 8, 8, 24, 24)
    turned = (levels[:, :, 1:] - levels[:, :, :-1]).flatten(-2).norm(dim=-1)
    assert float(turned.min()) > 0.5  # the smallest turn of the smallest sprite can be seen


def moments(images):
    """Covered area in pixels, centre and covariance of the covered pixels; x points right, y points down."""
    mass = images.flatten(1).double()
    side = images.shape[-1]
    y, x = (v.flatten().double() + 0.5 for v in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    area = mass.sum(1)
    points = torch.stack([x, y], 1)
    centre = mass @ points / area[:, None]
    gap = points[None] - centre[:, None]
    return area, centre, torch.einsum("np,npi,npj->nij", mass / area[:, None], gap, gap)


def test_sprites_lie_where_their_factors_say():
    """The next position is the same picture shifted by one pixel; squares and ellipses are centred; nothing is cut
    off.
    """
    images, factors = sprites()
    places = images.view(3, 4, 8, 8, 8, 24, 24)
    assert torch.equal(places[:, :, :, 1:, :, :, 1:], places[:, :, :, :-1, :, :, :-1])  # x
    assert torch.equal(places[:, :, :, :, 1:, 1:, :], places[:, :, :, :, :-1, :-1, :])  # y
    area, centre, _ = moments(images)
    even = factors[:, 0] < 2
    torch.testing.assert_close(centre[even], factors[even][:, 3:].double() + 8.5, rtol=0, atol=1e-6)
    same = area.view(-1, 64)
    torch.testing.assert_close(same, same[:, :1].expand_as(same))


@pytest.mark.parametrize("size", [24, 40])
def test_sprites_have_their_shapes(size):
    """Areas of square, ellipse and heart against closed forms (the heart's curve encloses 3.6616); sizes increase
    from one half; the axis of the ellipse turns counter-clockwise by quarter / 8 per step.
    """
    images, factors = sprites(size)
    radius = (size - 7) / 2 * (0.5 + factors[:, 1] / 6)
    area, _, covariance = moments(images)
    unit = torch.tensor([4 * 0.64**2, math.pi * 0.5, 3.6616 / 1.26**2])[factors[:, 0]]
    torch.testing.assert_close(area, (unit * radius**2).double(), rtol=0.03, atol=0)
    ellipses = factors[:, 0] == 1
    c = covariance[ellipses]
    angle = 0.5 * torch.atan2(-2 * c[:, 0, 1], c[:, 0, 0] - c[:, 1, 1])  # y points down
    torch.testing.assert_close(angle, (factors[ellipses, 2] * math.pi / 16).double(), rtol=0, atol=0.02)
    variance = torch.linalg.eigvalsh(c)  # semi-axes a of a uniform ellipse: variance a^2 / 4, and 1/12 of a pixel
    torch.testing.assert_close(variance[:, 1], (radius[ellipses] ** 2 / 4).double(), rtol=0.05, atol=0.1)


def test_a_heart_points_down_and_turns_with_the_rest():
    images, factors = sprites(40, scales=1, orientations=2, positions=1)
    upright, turned = (images[(factors[:, 0] == 2) & (factors[:, 2] == o)][0, 0] for o in (0, 1))
    torch.testing.assert_close(upright, upright.flip(1))  # mirror symmetric
    rows = upright.sum(1)
    assert rows.argmax() < 20  # widest in the upper half
    assert float(turned[20:, 20:].sum()) < float(turned[20:, :20].sum()) + float(upright.sum())  # and
    low = turned.nonzero()[turned.nonzero().sum(1).argmax()]  # furthest to the lower right: the tip
    assert bool((low > 28).all())
    assert set(SHAPES) == {"square", "ellipse", "heart"}


def test_the_factors_of_sprites_are_disentangled_by_themselves():
    _, factors = sprites()
    assert mig(factors.double(), factors).value == pytest.approx(1, abs=1e-12)
    assert factor_vae_score(factors.double(), factors, generator=generator(0)).value == 1


# Bad input

CODES, LEVELS = randn(20, 3), torch.arange(40).view(20, 2) % 4


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mig(CODES[:5], LEVELS), "the same number of rows"),
        (lambda: mig(CODES[0], LEVELS), "the same number of rows"),
        (lambda: mig(CODES / 0, LEVELS), "codes must be finite"),
        (lambda: mig(CODES, LEVELS.double()), "factors must be integers"),
        (lambda: entropy(LEVELS[:, 0]), "factors must be integers"),
        (lambda: mig(CODES, torch.zeros_like(LEVELS)), "factor 0 must take at least two values, got one: leave it out"),
        (lambda: mig(CODES, LEVELS, bins=1), "bins must be at least 2, got 1"),
        (lambda: dci(CODES[:, :1], LEVELS), "must have at least 2 columns, got 1 and 2"),
        (lambda: dci(CODES, LEVELS[:, :1]), "must have at least 2 columns, got 3 and 1"),
        (lambda: dci(CODES, LEVELS, kept=0.0), "kept must be between 0 and 1, got 0"),
        (lambda: dci(CODES, LEVELS, kept=1.0), "kept must be between 0 and 1, got 1"),
        (lambda: disentanglement(-torch.eye(2)), "not negative"),
        (lambda: completeness(torch.ones(1, 2)), "at least 2"),
        (lambda: completeness(torch.eye(2) / 0), "finite"),
        (lambda: entropy(LEVELS[:0]), "factors must be integers"),
        (lambda: factor_vae_score(torch.ones(20, 2), LEVELS), "must not all be constant"),
        (lambda: factor_vae_score(CODES, LEVELS, votes=0), "votes must be at least 1"),
        (lambda: factor_vae_score(CODES, LEVELS, batch=1), "batch at least 2"),
        (lambda: sprites(scales=0), r"at least 1, got \(0, 8, 8\)"),
        (lambda: sprites(12), "size must be at least positions \\+ 5, 13, got 12"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()

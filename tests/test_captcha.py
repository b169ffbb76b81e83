"""Pictures are functions of (seed, index); held-out texts are disjoint from training texts; metrics against closed
forms.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from jensen.data.captcha import Painter, Style, _ink, draw, held_out, random_text
from jensen.data.pictures import GAP, LINE, sheet
from jensen.data.pool import from_bytes, pool_stream, to_bytes
from jensen.metrics import legibility, mean_pairwise_distance, nearest_distance, wilson

ALL = [f"{i:04d}" for i in range(10_000)]


def test_pictures_do_not_depend_on_the_number_of_workers():
    results = [draw(Style(), 9, seed=3, workers=w) for w in (0, 2, 4)]
    for texts, pictures in results[1:]:
        assert texts == results[0][0]
        assert np.array_equal(pictures, results[0][1])
    other = draw(Style(), 9, seed=4, workers=0)
    assert not np.array_equal(other[1], results[0][1])


def test_the_package_keeps_its_own_entropy():
    import captcha.image

    Painter(Style()).paint(0, 0)
    assert captcha.image.secrets is secrets


def test_given_texts_are_drawn_in_order():
    texts = ["0123", "4567", "8901"]
    assert draw(Style(), 3, seed=0, texts=texts, workers=2)[0] == texts
    with pytest.raises(ValueError, match="'12' must have 4 characters in this style, got 2"):
        draw(Style(), 1, seed=0, texts=["12"])
    with pytest.raises(ValueError, match="texts must be 2"):
        draw(Style(), 2, seed=0, texts=["1234"])
    with pytest.raises(ValueError, match="count must be at least 1"):
        draw(Style(), 0, seed=0)


def test_exactly_two_thousand_strings_are_kept_for_judging():
    kept = [t for t in ALL if held_out(t)]
    assert len(kept) == 2000
    for place in range(4):  # no digit occurs only in held-out texts: counts within 4 standard errors of 200
        counts = Counter(t[place] for t in kept)
        assert all(abs(counts[d] - 200) < 4 * (200 * 0.8 * 0.9) ** 0.5 for d in "0123456789")


def test_random_texts_are_of_the_side_that_is_asked_for():
    rng = random.Random(0)
    for split in ("train", "test"):
        assert all(held_out(random_text(rng, Style(), split)) == (split == "test") for _ in range(200))


@pytest.mark.parametrize("ink", [(60, 60), (70, 70), (100, 100), (140, 140)])
@pytest.mark.parametrize("colour", [False, True])
def test_glyphs_print_dark_enough_and_paper_is_light(ink, colour, monkeypatch):
    """Without dots and curve, which could hide an invisible glyph, the darkest pixel of each of 25 pictures is at
    least 60 below the background.
    """
    painter = Painter(Style(ink=ink, colour=colour))
    for name in ("create_noise_dots", "create_noise_curve"):
        monkeypatch.setattr(painter._image, name, lambda *a: None)
    for index in range(25):
        picture = painter.paint(0, index)[1].astype(float)
        grey = picture @ np.array([0.299, 0.587, 0.114]) if colour else picture[..., 0]
        assert np.median(grey) >= 230
        assert grey.min() <= np.median(grey) - 60


def test_coloured_inks_have_the_luminance_drawn_for_them():
    style = Style(colour=True, ink=(60, 200))
    for seed in range(500):
        wanted = random.Random(seed).randint(60, 200)
        red, green, blue = _ink(random.Random(seed), style)
        assert 0.299 * red + 0.587 * green + 0.114 * blue == pytest.approx(wanted, abs=1)
        assert 0 <= min(red, green, blue) <= max(red, green, blue) <= 220


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphabet": "aab"}, "without repeats"),
        ({"alphabet": "a b"}, "printable"),
        ({"alphabet": "äö"}, "printable"),
        ({"length": 0}, "1 to 16"),
        ({"height": 25}, "multiples of 8"),
        ({"ink": (10, 100)}, "60 <= low"),
        ({"ink": (100, 250)}, "high <= 200"),
        ({"alphabet": "ab", "length": 3}, "at least 100"),
    ],
)
def test_styles_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Style(**settings)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (951, 1000), (1, 1000)])
def test_wilson_against_scipy(successes, n):
    ours = wilson(successes, n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n


def test_wilson_covers_as_it_says():
    """Exact binomial coverage at p = 0.9, n = 1,000: between 94 and 96 percent."""
    k = np.arange(1001)
    inside = [wilson(int(s), 1000).low <= 0.9 <= wilson(int(s), 1000).high for s in k]
    assert 0.94 < float(stats.binom.pmf(k, 1000, 0.9) @ inside) < 0.96


def test_legibility_counts():
    asked = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]])
    read = torch.tensor([[1, 2, 3], [4, 5, 0], [9, 8, 7], [1, 1, 1]])
    found = legibility(read, asked)
    assert (found.exact.value, found.exact.n) == (0.5, 4)
    assert (found.character.value, found.character.n) == (9 / 12, 12)
    with pytest.raises(ValueError, match=r"\(N, length\)"):
        legibility(read[:2], asked)
    with pytest.raises(ValueError, match="from 0 to n"):
        wilson(3, 2)


def test_distances_against_scipy():
    a, b = torch.randn(30, 2, 3), torch.randn(50, 2, 3)
    distance, index = nearest_distance(a, b, chunk=7)
    exact = cdist(a.flatten(1), b.flatten(1)) / 6**0.5
    np.testing.assert_allclose(distance, exact.min(1), rtol=1e-5)
    assert index.tolist() == exact.argmin(1).tolist()
    assert nearest_distance(b[7:8], b)[0].item() == 0
    groups = torch.randn(3, 5, 4)
    squares = [(pdist(g) ** 2).mean() / 4 for g in groups]
    np.testing.assert_allclose(mean_pairwise_distance(groups), np.sqrt(squares), rtol=1e-5)
    with pytest.raises(ValueError, match="M at least 2"):
        mean_pairwise_distance(groups[:, :1])
    with pytest.raises(ValueError, match="references must be"):
        nearest_distance(a, b[:0])


def test_streams_are_functions_of_seed_and_draw():
    stream = pool_stream(4, seed=1, x=torch.arange(1000), cond=torch.arange(1000) * 2)
    first = [batch for batch, _ in zip(stream(0), range(5), strict=False)]
    again = next(stream(3))
    assert torch.equal(first[3]["x"], again["x"])
    assert torch.equal(again["cond"], 2 * again["x"])
    assert not torch.equal(first[0]["x"], first[1]["x"])
    assert not torch.equal(first[0]["x"], next(pool_stream(4, seed=2, x=torch.arange(1000))(0))["x"])
    with pytest.raises(ValueError, match="equally many rows"):
        pool_stream(4, seed=0, x=torch.zeros(3), y=torch.zeros(4))
    with pytest.raises(ValueError, match="batch_size"):
        pool_stream(0, seed=0, x=torch.zeros(3))


def test_bytes_come_back():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(x)), x)
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_a_sheet_keeps_every_pixel():
    pictures = torch.randint(0, 256, (3, 1, 24, 64), dtype=torch.uint8)
    page = np.asarray(sheet(pictures, 2, scale=2))
    left, top = GAP, GAP + 48 + GAP
    cell = page[top : top + 48, left : left + 128, 0]
    assert np.array_equal(cell[::2, ::2], pictures[2, 0].numpy())


def test_captions_wrap_and_are_shortened_within_their_pictures():
    """A caption of two lines makes the row higher by one; no ink leaves the columns of its picture."""
    white = torch.full((2, 1, 32, 32), 255, dtype=torch.uint8)
    short, long = (
        np.asarray(sheet(white, 2, captions=["7", text])) for text in ("8", "Travel & Places read Objects and more")
    )
    assert len(long) - len(short) == LINE
    ink = (long < 128).any((0, 2))
    assert ink[2 * GAP + 128 :].any()
    assert not ink[GAP + 128 : 2 * GAP + 128].any()
    assert not ink[-GAP:].any()

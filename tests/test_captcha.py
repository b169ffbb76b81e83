"""Pictures are functions of (seed, index); held-out texts are disjoint from training texts; metrics against closed
forms.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from jensen.data.captcha import Painter, Style, _ink, draw, held_out, random_text
from jensen.data.looks import HUES, PAPERS, paper
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
    with pytest.raises(ValueError, match="texts must be 4 characters of '0123456789', got '12'"):
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
        monkeypatch.setattr(painter._images[0], name, lambda *a: None)
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


LOOKS = Style(
    alphabet="ACDEFHJKLMNPRTVWXY234679",
    length=6,
    shortest=5,
    height=48,
    width=144,
    colour=True,
    fonts=("DroidSansMono", "cmtt10", "DejaVuSerif-Bold", "DejaVuSans-Bold"),
    papers=tuple(PAPERS),
    inks=tuple(HUES),
)


def test_named_styles_do_not_depend_on_the_number_of_workers():
    names, pictures = draw(LOOKS, 9, seed=3, workers=0)
    again, same = draw(LOOKS, 9, seed=3, workers=2)
    assert names == again
    assert np.array_equal(pictures, same)
    assert pictures.shape == (9, 48, 144, 3)


def test_labels_name_most_styles_and_only_those_that_occur_together():
    """4,000 labels: lengths, names of each kind, and fonts within 4 standard errors of their shares; of the pairs of a
    font and a paper, or a font and an ink, half occur.
    """
    painter, n = Painter(LOOKS), 4000
    painter._written = lambda font, text, ink, paper: Image.new("RGB", (144, 48))
    rows = LOOKS.texts.encode([painter.paint(0, k)[0] for k in range(n)])
    looks = rows[:, 6:]

    def near(found, share):
        assert abs(found.double().mean() - share) < 4 * (share * (1 - share) / n) ** 0.5

    near(rows[:, 5] == LOOKS.texts.alphabet.index(" "), 0.5)
    near(looks[:, 0] == 0, 0.15)
    near(looks[:, 1] == 0, 0.15)
    for font in range(4):
        near(looks[:, 0] == 1 + font, 0.85 / 4)
    named = [row for row in looks.tolist() if all(row)]
    assert len({(f, p) for f, p, _ in named}) == 4 * 3
    assert len({(f, i) for f, _, i in named}) == 4 * 3
    assert all(LOOKS.together(f - 1, p - 1, i - 1) for f, p, i in named)


def test_asked_styles_are_drawn_even_if_they_never_occur_together(monkeypatch):
    """On plain paper the darkest pixels have the ink's colour, and its luminance, and the median is the paper."""
    style = replace(LOOKS, ink=(80, 80))
    assert not style.together(3, 0, 0)
    painter = Painter(style)
    for image in painter._images:
        monkeypatch.setattr(image, "create_noise_dots", lambda *a: None)
        monkeypatch.setattr(image, "create_noise_curve", lambda *a: None)
    for k in range(20):
        label, picture = painter.paint(0, k, text="ACDEF DejaVuSans-Bold plain red")
        assert label == "ACDEF DejaVuSans-Bold plain red"
        grey = picture @ np.array([0.299, 0.587, 0.114])
        ink = picture[np.unravel_index(grey.argmin(), grey.shape)]
        assert abs(grey.min() - 80) <= 1
        assert ink[0] == 220 > 2 * max(ink[1:])
        assert 225 <= np.median(grey) <= 250


def test_each_font_draws_its_own_glyphs():
    """The same text, paper and ink from the same stream: the mean share of ink differs between fonts."""
    shares = [
        np.mean([255 - Painter(LOOKS).paint(0, k, text=f"ACDEFH {font} plain red")[1].mean() for k in range(10)])
        for font in LOOKS.fonts
    ]
    assert shares[1] < shares[0] < min(shares[2:])  # thin, regular, bold


def test_papers_are_light_and_as_their_names_say():
    for name in PAPERS:
        sheets = [paper(name, random.Random(k), 48, 144) for k in range(20)]
        assert all(170 <= sheet.min() <= sheet.max() <= 250 for sheet in sheets)
        assert not np.array_equal(*sheets[:2])
        flat = [np.ptp(sheet) < 1e-9 for sheet in sheets]
        assert all(flat) if name == "plain" else not any(flat)


def test_every_size_is_drawn():
    for height, width in ((60, 160), (17, 53)):
        assert Painter(Style(height=height, width=width)).paint(0, 0)[1].shape == (height, width, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphabet": "aab"}, "without repeats"),
        ({"alphabet": "a b"}, "printable"),
        ({"alphabet": "äö"}, "printable"),
        ({"length": 0}, "1 to 16"),
        ({"height": 12}, "from 16 to 1024"),
        ({"ink": (10, 100)}, "60 <= low"),
        ({"ink": (100, 250)}, "high <= 200"),
        ({"alphabet": "ab", "length": 3}, "at least 100"),
        ({"shortest": 5}, "shortest must be from 1 to 4"),
        ({"shortest": 1}, "at least 100 texts, got 10"),
        ({"fonts": ("cmr10",)}, "must all be named, with colour"),
        ({"fonts": ("cmr10",), "papers": ("plain",), "inks": ("red",)}, "must all be named, with colour"),
        ({"fonts": ("x",), "papers": ("plain",), "inks": ("red",), "colour": True}, "fonts must be among DejaVuSans"),
        ({"fonts": ("cmr10",), "papers": ("x",), "inks": ("red",), "colour": True}, "papers must be among plain"),
        (
            {"fonts": ("cmr10",), "papers": ("grid", "dots", "grid"), "inks": ("red",), "colour": True},
            "papers must be different, got 'grid' twice",
        ),
        ({"fonts": ("cmr10",), "papers": ("plain",), "inks": ("x",), "colour": True}, "inks must be among red"),
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

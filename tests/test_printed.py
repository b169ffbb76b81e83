"""Digits printed in several fonts, and streams of unpaired data."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from jensen.core.seeding import generator
from jensen.data import printed as module
from jensen.data.digits import to_unit
from jensen.data.pool import Tensors
from jensen.data.printed import FONTS, UNSEEN_FONTS, enlarge, printed
from jensen.data.unpaired import transformed, unpaired_stream


def test_printed_digits_are_a_function_of_the_generator_and_balanced():
    a, b, c = (printed(260, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.levels, b.levels)
    assert torch.equal(a.labels, b.labels)
    assert not torch.equal(a.levels, c.levels)
    assert a.labels.bincount().tolist() == [26] * 10
    assert a.fonts.bincount().tolist() == [20] * len(FONTS)
    both = torch.bincount(a.labels * len(FONTS) + a.fonts, minlength=10 * len(FONTS))
    assert both.tolist() == [2] * (10 * len(FONTS))  # every digit in every font
    few = printed(80, fonts=UNSEEN_FONTS, generator=generator(1))  # four, which has a divisor in common with ten
    assert torch.bincount(few.labels * 4 + few.fonts, minlength=40).tolist() == [2] * 40
    assert not set(FONTS) & set(UNSEEN_FONTS)


def test_levels_count_the_inked_dots_of_blocks(monkeypatch):
    bitmaps = []
    draw = module._bitmap

    def kept(*args):
        bitmaps.append(draw(*args))
        return bitmaps[-1]

    monkeypatch.setattr(module, "_bitmap", kept)
    found = printed(12, side=10, generator=generator(3)).levels
    for levels, bitmap in zip(found[:, 0].numpy(), bitmaps, strict=True):
        assert set(np.unique(bitmap)) == {0, 1}
        for row in range(10):
            for column in range(10):
                block = bitmap[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                assert levels[row, column] == block.sum()


@pytest.mark.parametrize("font", [*FONTS, *UNSEEN_FONTS])
def test_a_digit_fills_its_height_is_whole_and_near_the_middle(font):
    """In a bitmap of 64 dots: the height is 7/8 to all of it, the centre is off by at most 1/16; rounding can add a dot
    or two.
    """
    for height, width, place in ((56, 0.75, (-1.0, 1.0)), (64, 1.0, (1.0, -1.0))):
        for digit in "0123456789":
            plain = module._bitmap(digit, font, height, width, 0, place, 64)
            rows, columns = np.flatnonzero(plain.any(1)), np.flatnonzero(plain.any(0))
            assert abs(rows[-1] - rows[0] + 1 - height) <= 4  # a round digit is higher than a flat one
            assert columns[-1] - columns[0] + 1 < 64
            assert abs((rows[0] + rows[-1] + 1) / 2 - 32) <= min(4, (64 - height) / 2) + 2
            assert abs((columns[0] + columns[-1] + 1) / 2 - 32) <= 4 + 1
            bold = module._bitmap(digit, font, height, width, 2, place, 64)
            assert bold.sum() > 1.05 * plain.sum()


def test_sizes_widths_and_places_reach_their_ends():
    """For the 0 of one font, n = 400: uniform positions, four standard errors."""
    some = printed(4000, fonts=["DejaVuSans"], side=16, generator=generator(5))
    ink = some.levels[some.labels == 0, 0] > 0
    heights = ink.any(2).sum(1)
    assert (heights.min().item(), heights.max().item()) == (14, 16)
    mass = some.levels[some.labels == 0, 0].double().sum(1)
    middle = (mass * torch.arange(16)).sum(1) / mass.sum(1) - 7.5
    assert middle.abs().max().item() < 1 + 1 / 8  # a sixteenth of the side is a pixel, and places are whole dots
    # uniform on [-1, 1] pixels, a symmetric digit: the mean is 0, the deviation 1 / sqrt(3)
    assert middle.mean().item() == pytest.approx(0, abs=4 / math.sqrt(3 * 400) + 0.05)
    assert middle.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.08)


def test_a_reader_of_the_fonts_reads_unseen_ones():
    train = printed(800, generator=generator(0))
    machine = SVC(C=10.0).fit(train.levels.flatten(1).numpy(), train.labels.numpy())
    test = printed(200, fonts=UNSEEN_FONTS, generator=generator(1))
    right = machine.predict(test.levels.flatten(1).numpy()) == test.labels.numpy()
    assert right.mean() > 0.95
    same = [printed(10, fonts=[font], generator=generator(2)).levels for font in (*FONTS, *UNSEEN_FONTS)]
    assert len({x.numpy().tobytes() for x in same}) == len(FONTS) + len(UNSEEN_FONTS)


def test_printing_refuses_what_makes_no_sense():
    for changed, words in (
        ({"n": 0}, "n must be at least 1 and side at least 8, got 0 and 16"),
        ({"side": 7}, "n must be at least 1 and side at least 8, got 10 and 7"),
        ({"fonts": ()}, "fonts must be at least one"),
        ({"fonts": ("Comic",)}, "fonts must be among DejaVuSans, .*, got 'Comic'"),
    ):
        with pytest.raises(ValueError, match=words):
            printed(**({"n": 10} | changed))


def test_enlarging_keeps_ramps_and_what_is_large_enough():
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    wide = enlarge(x, 16)
    assert torch.allclose(wide[0, 0, :, 1:-1].diff(dim=1), torch.tensor(0.5))  # half a step a pixel
    assert torch.allclose(wide.mean(), x.mean())
    assert enlarge(wide, 16) is wide
    levels = to_unit(torch.tensor([0, 16])).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    assert torch.equal(enlarge(levels, 20)[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


# -- unpaired streams -------------------------------------------------------------------------------------------------


def unpaired(batch_size, seed, **sides):
    return unpaired_stream(batch_size, seed, **{name: Tensors(x=x) for name, x in sides.items()})


def drawn(seed, n=300, **sides):
    batches = islice(unpaired(8, seed, **sides)(0), n)
    parts = list(batches)
    return {name: torch.cat([batch[name] for batch in parts]) for name in sides}


def test_unpaired_sides_come_in_orders_of_their_own():
    """2,400 draws of each side, four standard errors: each side is uniform, and the two are independent."""
    found = drawn(0, a=torch.arange(10), b=torch.arange(4))
    n = len(found["a"])
    table = torch.bincount(found["a"] * 4 + found["b"], minlength=40).double()
    expected = n / 40
    chi_square = float(((table - expected) ** 2 / expected).sum())
    assert abs(chi_square - 39) < 4 * math.sqrt(
        2 * 39
    )  # uniform over all pairs: both sides are uniform, and independent
    same = drawn(0, a=torch.arange(10), b=torch.arange(10))
    assert torch.equal(same["a"], found["a"])  # for any other side
    assert (same["a"] == same["b"]).double().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / n))
    assert not torch.equal(drawn(1, a=torch.arange(10))["a"], found["a"])


def test_a_transform_of_unpaired_draws_is_a_function_of_the_draw():
    """Adds 5,000 normal numbers, four standard errors: the draws remain the same, and the two sides get different
    noise.
    """
    sides = {"a": torch.arange(50.0), "b": torch.arange(7.0)}
    plain = unpaired(4, 3, **sides)
    moved = transformed(plain, torch.add, torch.randn, 5)
    first = list(islice(moved(0), 1250))
    torch.manual_seed(1)
    assert all(torch.equal(next(moved(7))[name], first[7][name]) for name in "ab")
    added = {
        name: torch.cat([one[name] - other[name] for one, other in zip(first, plain(0), strict=False)]) for name in "ab"
    }
    both = torch.stack([added["a"], added["b"]])
    assert both.mean(1).abs().max() < 4 / math.sqrt(5000)
    assert (both.cov() - torch.eye(2)).abs().max() < 4 * math.sqrt(2 / 5000)
    assert len(added["a"].unique()) > 4990  # noise is not repeated


def test_unpaired_streams_open_anywhere_and_refuse_nothing_to_draw():
    stream = unpaired(4, 3, a=torch.arange(50), b=torch.rand(7, 2))
    first = list(islice(stream(0), 5))
    for draw in (0, 3):
        again = next(stream(draw))
        assert all(torch.equal(again[name], first[draw][name]) for name in ("a", "b"))
    with pytest.raises(ValueError, match=r"equally many rows, at least one, got \[0\]"):
        unpaired(4, 0, a=torch.zeros(0, 1), b=torch.zeros(3))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        unpaired(0, 0, a=torch.zeros(2), b=torch.zeros(3))

"""Classes and modes that a reader finds in pictures: cases with known results, and GANs of digits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cases import Fixed, case_of, data_of
from jensen.data.dataset import Truths
from jensen.data.space import Classes, Text
from jensen.data.stacked import expected_modes
from jensen.judging.modes import classes, reader_shares, side_by_side
from jensen.judging.settings import Judging
from jensen.recipes.sources.digits import Digits
from jensen.recipes.sources.stacked import StackedDigits


class Grey:
    """Reads the grey level of each channel, a multiple of 1/8, as its class, which is clear if the level is exact."""

    clear_means = "a class to the digit"

    def read(self, x):
        return ((x.mean((2, 3)) + 1) * 4).round().long()

    def clear(self, x):
        return ((x.mean((2, 3)) + 1) * 4).frac() == 0


def greys(*rows):
    """Pictures (N, C, 2, 2) with constant channels, whose levels may lie between two classes."""
    return (torch.tensor(rows) / 4 - 1)[:, :, None, None].expand(-1, -1, 2, 2)


def found(part):
    return {finding.key: finding for finding in part.findings}


NAMES = Classes(("a", "b", "c"))


def grey_case(made, train, test=None, **more):
    test = train if test is None else test
    rows, held = (greys(*[[float(k)] for k in part]) for part in (train, test))
    data = data_of(rows, held, names=NAMES, labels=(train, test), truths=Truths(reader=Grey()))
    return case_of(data, greys(*[[k] for k in made]), **more)


# one class a picture -------------------------------------------------------------------------------------------------


def test_shares_of_classes_and_their_divergence():
    """By hand: 12 of class a; 4 of class b, one of them not clear; none of class c. A quarter of the data are a,
    half are b.
    """
    part = classes(grey_case([0.0] * 12 + [1.0] * 3 + [1.2], [0, 1, 1, 2] * 5, [0, 1, 2, 2]))
    by_key = found(part)
    assert by_key["classes_reached"].value == by_key["clearly_reached"].value == 2
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    assert by_key["class_kl"].value == pytest.approx(expected, rel=1e-6)
    assert by_key["clear"].value == 15 / 16
    assert by_key["clear"].floor == by_key["reader"].value == 1
    shares = torch.tensor([0.25, 0.5, 0.25])
    assert by_key["classes_reached"].floor == pytest.approx(expected_modes(16, shares))
    assert part.details["classes"]["samples"]["shares"] == [[0.75, 0.25, 0.0]]
    assert part.details["classes"]["held-out"]["shares"] == [[0.25, 0.25, 0.5]]
    assert len(part.plots) == 1


def test_a_row_of_the_sheet_for_each_class():
    """The row of class c, which has no sample, is white. A cell is two pixels enlarged 4 times, with a gap of 6."""
    part = classes(grey_case([0.0] * 12 + [1.0] * 4, [0, 1, 2]))
    sheet = part.pictures[0].image.convert("L")
    centre = [6 + 4 + k * 14 for k in range(3)]
    assert [sheet.getpixel((centre[0], y)) for y in centre] == [0, 32, 255]
    assert sheet.getpixel((centre[0] + 12 * 14, centre[0])) == 255  # the thirteenth sample of a


def test_classes_are_judged_where_a_reader_knows_them():
    case = grey_case([0.0] * 16, [0, 1, 2])
    data = case.data
    assert classes(case) is not None
    assert classes(replace(case, model=torch.nn.Linear(1, 1))) is None
    unlabelled = replace(data, truths=Truths(), space=replace(data.space, cond=None))
    assert classes(replace(case, data=unlabelled)) is None
    assert reader_shares(replace(case, data=replace(data, space=replace(data.space, cond=Text("abc", 1))))) is None
    assert classes(grey_case([0.0] * 16, [0, 1, 1])) is None  # c is a class of no training picture


# one class a channel -------------------------------------------------------------------------------------------------


def stacked_case(made, shares, **more):
    data = data_of(made, made, truths=Truths(reader=Grey(), shares=shares))
    return case_of(data, made, **more)


def test_modes_of_channels_are_read_channel_by_channel():
    """By hand: two channels, nine modes; eight samples are (0, 2), seven (1, 2), and one, not clear, (2, 2)."""
    made = greys(*[[0.0, 2.0]] * 8, *[[1.0, 2.0]] * 7, [2.0, 2.1])
    shares = torch.full((9,), 1 / 9, dtype=torch.float64)
    part = classes(stacked_case(made, shares))
    by_key = found(part)
    assert (by_key["classes_reached"].value, by_key["clearly_reached"].value) == (3, 2)
    assert by_key["classes_reached"].name == "modes reached"
    q = (8 / 16, 7 / 16, 1 / 16)
    assert by_key["class_kl"].value == pytest.approx(sum(v * math.log(9 * v) for v in q), rel=1e-6)
    assert by_key["clear"].value == 31 / 32
    assert part.details["classes"]["samples"]["shares"] == [[*q], [0.0, 0.0, 1.0]]
    assert len(part.plots) == 2
    uneven = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).outer(torch.tensor([0.2, 0.2, 0.6]).double()).flatten()
    exact = sum(v * math.log(v / (w * 0.6)) for v, w in zip(q, (0.5, 0.3, 0.2), strict=True))  # the last place is 2
    assert found(classes(stacked_case(made, uneven)))["class_kl"].value == pytest.approx(exact, rel=1e-6)


def test_more_samples_are_read_where_there_are_many_modes():
    made = greys(*[[float(k // 3), float(k % 3)] for k in range(9)])
    settings = Judging(samples=16, mode_samples=4)
    part = classes(stacked_case(made, torch.full((9,), 1 / 9), settings=settings))
    assert part.details["classes"]["samples"]["n"] == 36
    assert found(part)["class_kl"].value == pytest.approx(0, abs=1e-9)


def test_channels_are_shown_side_by_side():
    x = greys([0.0, 8.0, 4.0])
    row = side_by_side(x)[0, 0, 0].tolist()
    assert row == pytest.approx([-1, -1, -0.2, 1, 1, -0.2, 0, 0])


# digits --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return Digits().open(0)


def test_training_digits_are_read_as_their_classes_and_a_lost_class_shows(digits):
    x, labels = digits.train.tensors["x"], digits.train.tensors["cond"][:, 0]
    by_key = found(classes(case_of(digits, x)))
    assert by_key["class_kl"].value < 1e-3
    assert by_key["clear"].value > 0.97
    assert by_key["clear"].floor == pytest.approx(0.95, abs=1 / 360)
    by_key = found(classes(case_of(digits, x[labels == 4])))
    share = float((labels == 4).double().mean())
    assert by_key["classes_reached"].value == 1
    assert by_key["class_kl"].value == pytest.approx(-math.log(share), rel=1e-5)


@pytest.mark.parametrize("balance", [1.0, 0.2])
def test_draws_of_stacked_digits_reach_what_they_should(balance):
    n = 2000
    data = StackedDigits(balance=balance, points=n, test=100).open(0)
    x = data.train.tensors["x"]
    by_key = found(classes(case_of(data, x, settings=Judging(samples=n, mode_samples=1))))
    # each of 100 held-out pictures has three digits, of which the reader reads 99.4% as they are
    assert by_key["reader"].value == pytest.approx(0.994**3, abs=4 * (0.018 * 0.982 / 100) ** 0.5)
    # modes reached: a sum of indicators that repel one another, of variance at most sum p (1 - p)
    p = 1 - (1 - data.truths.shares) ** n
    assert abs(by_key["classes_reached"].value - float(p.sum())) < 4 * float((p * (1 - p)).sum()) ** 0.5 + 2
    # reverse KL is about half a chi-square of 999: mean (the floor) and standard deviation sqrt(2 * 999) / 2n
    assert abs(by_key["class_kl"].value - by_key["class_kl"].floor) < 5 * math.sqrt(2 * 999) / (2 * n)
    other = StackedDigits(balance=1.2 - balance, points=16, test=16).open(0)
    wrong = found(classes(case_of(other, x, settings=Judging(samples=n, mode_samples=1))))
    assert wrong["class_kl"].value > by_key["class_kl"].value + 0.2


def test_a_collapsed_generator_is_seen_through(digits):
    """Clear threes and sevens in one mode of three channels; few blends between them are clear."""
    x, labels = digits.train.tensors["x"], digits.train.tensors["cond"]
    reader = digits.truths.reader
    x = x[reader.clear(x)[:, 0] & (reader.read(x) == labels)[:, 0]]
    read = reader.read(x)[:, 0]
    three, seven = (x[read == k][:50] for k in (3, 7))
    data = StackedDigits(points=50, test=50).open(0)
    settings = Judging(samples=50, mode_samples=1)
    by_key = found(classes(case_of(data, torch.cat([three, seven, three], 1), settings=settings)))
    assert (by_key["classes_reached"].value, by_key["clearly_reached"].value) == (1, 1)
    assert by_key["class_kl"].value == pytest.approx(math.log(1000))
    blurred = torch.cat([(three + seven) / 2] * 3, 1)
    by_key = found(classes(case_of(data, blurred, Fixed(blurred), settings=settings)))
    assert by_key["clear"].interval[1] < 0.9

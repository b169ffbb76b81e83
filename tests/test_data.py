"""Data sets that are read or drawn: digits, moons, IDX files."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
import torch
from scipy import integrate
from sklearn.datasets import load_digits, make_moons
from torch import tensor

from jensen.data.digits import LEVELS, binarize, digits, to_unit
from jensen.data.idx import read_idx
from jensen.data.moons import moons, moons_log_prob


def test_digits_are_all_there_each_once_and_every_class_on_both_sides():
    d = digits()
    everything = torch.cat([d.train, d.test]).flatten(1)
    labels = torch.cat([d.train_labels, d.test_labels])
    found = load_digits()
    ours = sorted([*row.tolist(), int(y)] for row, y in zip(everything, labels, strict=True))
    theirs = sorted([*map(int, row), int(y)] for row, y in zip(found.data, found.target, strict=True))
    assert ours == theirs
    share = torch.bincount(d.test_labels) / torch.bincount(labels)
    assert torch.allclose(share, torch.full((10,), 0.2), atol=0.01)


def test_digits_in_other_scales():
    levels = torch.arange(LEVELS)
    assert torch.allclose(to_unit(levels).diff(), torch.full((16,), 2 / 16))
    assert binarize(levels).tolist() == [0.0] * 8 + [1.0] * 9


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3])
def test_the_density_of_the_moons_integrates_to_one_and_is_theirs(noise):
    step = noise / 2  # a sum over a grid of a smooth density: exact to far below 1e-6
    grid = (torch.arange(-2.8, 3.8, step, dtype=torch.float64), torch.arange(-2.4, 2.9, step, dtype=torch.float64))
    points = torch.cartesian_prod(*grid)
    log_p = moons_log_prob(points, noise=noise)
    cell = step**2
    assert float(log_p.exp().sum() * cell) == pytest.approx(1, abs=1e-6)

    x = moons(40_000, noise=noise, generator=torch.Generator().manual_seed(1))
    for k in (0, 1):  # first and second moments, within four standard errors of n = 40,000
        for power in (1, 2):
            exact = float((log_p.exp() * points[:, k] ** power).sum() * cell)
            seen = x[:, k].double() ** power
            assert abs(float(seen.mean()) - exact) < 4 * float(seen.std()) / 200


def test_the_density_at_a_point_is_an_integral_over_the_arcs():
    x, noise = (0.3, 0.2), 0.2

    def arc(a, inner):
        c = (1 - math.cos(a), 0.5 - math.sin(a)) if inner else (math.cos(a), math.sin(a))
        return math.exp(-((x[0] - c[0]) ** 2 + (x[1] - c[1]) ** 2) / (2 * noise**2)) / (2 * math.pi * noise**2)

    total = sum(integrate.quad(arc, 0, math.pi, args=(inner,))[0] for inner in (False, True)) / (2 * math.pi)
    assert float(moons_log_prob(tensor([x], dtype=torch.float64), noise=noise)) == pytest.approx(
        math.log(total), abs=1e-9
    )


def test_moons_are_scikit_learns():
    theirs = torch.from_numpy(make_moons(20_000, noise=0.1, random_state=0)[0])
    ours = moons(20_000, generator=torch.Generator().manual_seed(0)).double()
    a, b = moons_log_prob(theirs), moons_log_prob(ours)
    assert abs(float(a.mean() - b.mean())) < 4 * float(torch.sqrt((a.var() + b.var()) / 20_000))


def test_moons_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        moons(0)
    with pytest.raises(ValueError, match="noise must be positive, got 0"):
        moons(3, noise=0)
    with pytest.raises(ValueError, match=r"x must be \(B, 2\), got \(3,\)"):
        moons_log_prob(torch.zeros(3))


CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_every_type(tmp_path, kind, packed):
    array = np.arange(24).reshape(2, 3, 4).astype(">" + kind)
    raw = bytes([0, 0, CODES[kind], 3]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path = tmp_path / "a.idx"
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    found = read_idx(path)
    assert found.tolist() == array.tolist()
    assert found.numpy().dtype.itemsize == array.dtype.itemsize


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is no IDX file"),
        (b"\x89PNG 1234", "is no IDX file"),
        (b"\0\0\x08\x01\0\0\0\x05ab", "cut short"),
        (b"\0\0\x08\x03\0\0", "cut short"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x01a", mtime=0)[:-6], "broken gzip"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, raw, words):
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=words):
        read_idx(path)


def test_a_missing_file():
    with pytest.raises(ValueError, match=r"there is no file nowhere\.idx"):
        read_idx("nowhere.idx")

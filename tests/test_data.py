"""Data sets that are read from files or drawn: digits, moons, IDX files."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate
from sklearn.datasets import load_digits, make_moons
from torch import tensor

from jensen.core.seeding import generator
from jensen.data import dataset
from jensen.data.dataset import Data, some, spaced
from jensen.data.digits import LEVELS, binarize, digits, to_unit
from jensen.data.idx import read_idx
from jensen.data.moons import moons, moons_log_prob
from jensen.data.pool import Tensors, from_bytes
from jensen.data.space import Classes, Space


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
    assert binarize(to_unit(levels)).tolist() == [-1.0] * 8 + [1.0] * 9


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
        (b"", "is not an IDX file"),
        (b"\x89PNG 1234", "is not an IDX file"),
        (b"\0\0\x08\x01\0\0\0\x05ab", "truncated"),
        (b"\0\0\x08\x03\0\0", "truncated"),
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


# -- rows and streams -------------------------------------------------------------------------------------------------


class Mapped:
    """A small stand-in for rows of a file that is larger than memory."""

    def __init__(self, path, rows):
        self.table = np.memmap(path, dtype="u1", mode="r", shape=(rows, 1, 2, 3))

    def __len__(self):
        return len(self.table)

    def __getitem__(self, index):
        return {"x": from_bytes(torch.from_numpy(self.table[index.numpy()])), "cond": index[:, None] % 3}


@pytest.fixture
def both(tmp_path):
    """The same rows from a file and from memory."""
    x = torch.randint(0, 256, (50, 1, 2, 3), dtype=torch.uint8)
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    return Mapped(tmp_path / "x", 50), Tensors(x=x, cond=torch.arange(50)[:, None] % 3)


def test_rows_from_a_file_are_data_as_tensors_are(both):
    opened = []
    for rows in both:
        space = spaced(Space((1, 2, 3), 256, cond=Classes(("a", "b", "c"))), rows)
        opened.append(Data("bytes", "", space, rows, rows))
    file, memory = opened
    assert file.space == memory.space
    x = from_bytes(both[1].tensors["x"])
    assert (file.space.mean, file.space.std) == pytest.approx(
        (float(x.double().mean()), float(x.double().std())), abs=1e-6
    )
    assert file.space.rows == 50
    for n, (ours, theirs) in enumerate(zip(file.stream(8, 3)(0), memory.stream(8, 3)(0), strict=False)):
        assert set(ours) == set(theirs) == {"x", "cond", "index"}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert torch.equal(ours["x"], x[ours["index"]])
        assert torch.equal(next(file.stream(8, 3)(n))["x"], ours["x"])  # draw n is a function of (seed, n)
        if n == 5:
            break
    assert not torch.equal(next(file.stream(8, 4)(5))["index"], ours["index"])
    every = file.asked(100)[:, 0].tolist()
    assert sorted(every[:50]) == sorted(k % 3 for k in range(50))
    assert every[:50] == every[50:]
    assert file.asked(70)[:, 0].tolist() == every[:70]
    assert Data("points", "", Space((2,)), memory.train, memory.test).asked(3) is None


def test_some_rows_are_a_choice_that_depends_on_their_number_alone(both):
    found = [some(rows, 20) for rows in both]
    x = from_bytes(both[1].tensors["x"])
    for few in found:
        assert torch.equal(few["x"], found[0]["x"])
        places = torch.cdist(few["x"].flatten(1), x.flatten(1)).argmin(1)
        assert len(places.unique()) == 20
        assert int(places[:10].max()) >= 20  # not only the first ones, and not in order
    assert torch.equal(some(both[0])["x"], x)
    assert torch.equal(some(both[0], 50)["x"][torch.randperm(50, generator=generator(0)).argsort()], x)


def test_rows_sorted_by_class_are_judged_in_a_random_order():
    """Of 300 rows of three classes one after the other, the first 60 that are judged or asked for hold 20 of each, with
    a standard deviation of 3.3."""
    labels = torch.arange(300)[:, None] // 100
    data = Data("", "", Space((1,)), rows := Tensors(x=labels.float(), cond=labels), rows)
    data = replace(data, space=Space((1,), cond=Classes(("a", "b", "c"))))
    for first in (data.asked(60), some(rows, 300)["cond"][:60], some(rows, 60)["cond"]):
        assert ((first[:, 0].bincount() - 20).abs() < 4 * 3.3).all()


def test_rows_are_drawn_evenly_and_with_replacement():
    """20,000 draws from 50 rows: the chi-square statistic of their counts is within four standard deviations of 49."""
    rows = Tensors(x=torch.arange(50.0))
    x = torch.cat(
        [
            batch["x"]
            for batch, _ in zip(Data("", "", Space((1,)), rows, rows).stream(100, 0)(0), range(200), strict=False)
        ]
    )
    counts = x.long().bincount(minlength=50).double()
    assert abs(float(((counts - 400) ** 2 / 400).sum()) - 49) < 4 * math.sqrt(2 * 49)


def test_the_scale_of_large_pictures_is_that_of_a_part_that_fits_into_memory(monkeypatch):
    rows = Tensors(x=torch.randn(100, 3, 4, 4, dtype=torch.float64))
    for numbers, n in ((48 * 30 + 47, 30), (1, 2), (2**26, 50)):
        monkeypatch.setattr(dataset, "MOST_NUMBERS", numbers)
        x = some(rows, n)["x"]
        space = spaced(Space((3, 4, 4)), rows, 50)
        assert (space.rows, space.mean, space.std) == (100, round(float(x.mean()), 6), round(float(x.std()), 6))

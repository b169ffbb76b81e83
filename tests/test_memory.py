"""Data passed from Python: every form of the same data gives the same rows, and invalid data are refused at once."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import jensen
from cases import whole
from jensen.data.dataset import some
from jensen.recipes.sources.memory import HELD, KEPT_ASIDE, Memory, memory

RNG = np.random.default_rng(0)
N = 60
POINTS = (RNG.normal(size=(N, 2)) * [0.5, 20] + [0, 100]).astype(np.float32)
BYTES = RNG.integers(0, 256, (N, 3, 4, 6), dtype=np.uint8)
KINDS = RNG.integers(0, 3, N)


class Pictures(Dataset):
    """A data set like torchvision's: floats in [0, 1], a label, and names of the classes."""

    classes = ("cat", "dog", "eel")

    def __len__(self):
        return N

    def __getitem__(self, k):
        return torch.from_numpy(BYTES[k]) / 255, int(KINDS[k])


BATCHES = [{"x": BYTES[k : k + 7], "cond": KINDS[k : k + 7]} for k in range(0, N, 7)]


@pytest.mark.parametrize(
    "given",
    [
        {"x": BYTES, "cond": KINDS},
        {"x": torch.from_numpy(BYTES), "cond": torch.from_numpy(KINDS)[:, None]},
        {"x": np.moveaxis(BYTES, 1, 3), "cond": KINDS.tolist()},
        {"x": BYTES / 255, "cond": KINDS},
        {"x": torch.from_numpy(BYTES) / 127.5 - 1, "cond": [("cat", "dog", "eel")[k] for k in KINDS]},
        TensorDataset(torch.from_numpy(BYTES), torch.from_numpy(KINDS)),
        Pictures(),
        DataLoader(Pictures(), batch_size=7, shuffle=True),
        BATCHES,
    ],
)
def test_every_form_of_the_same_pictures_gives_the_same_rows(given):
    data = memory(given).open(0)
    assert torch.equal(whole(data), torch.from_numpy(BYTES).float() / 127.5 - 1)
    assert torch.equal(whole(data, "cond")[:, 0], torch.from_numpy(KINDS))
    assert (data.space.shape, data.space.levels) == ((3, 4, 6), 256)
    assert data.space.cond.size == 3
    assert any("order and batch size" in note for note in data.notes) == isinstance(given, DataLoader)


def test_points_have_a_scale_for_each_column():
    for given in (POINTS, torch.from_numpy(POINTS).double(), {"x": POINTS}, TensorDataset(torch.from_numpy(POINTS))):
        data = memory(given).open(0)
        assert torch.equal(whole(data), torch.from_numpy(POINTS))
        mean, std = data.space.moments()
        train = some(data.train)["x"]
        torch.testing.assert_close(mean, train.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(std, train.std(0), rtol=1e-5, atol=1e-6)


def test_pictures_that_are_no_bytes_keep_their_numbers():
    x = torch.rand(N, 1, 4, 4)
    data = memory(x).open(0)
    assert data.space.levels is None
    assert torch.equal(whole(data), 2 * x - 1)
    assert torch.equal(whole(memory(x - 0.5).open(0)), x - 0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones((N, 2), bool), "x must hold numbers, got bool"),
        (torch.ones(N, 2, dtype=torch.bool), "x must hold numbers, got bool"),
        (np.array([["a", "b"]] * N), "x must hold numbers, got <U1"),
        (np.array([[None, 1]] * N), "x must hold numbers, got object"),
        (np.where(np.arange(N)[:, None] == 7, np.nan, POINTS), "x must be finite, got a number that is not in row 7"),
        (np.float64(POINTS) * 1e40, "x, in 32 bits, must be finite"),
        (POINTS[:, 0], r"data must be points \(N, D\), or pictures .*, got float32 \(60,\)"),
        (BYTES.reshape(N, -1), r"data must be points \(N, D\), or pictures .*, got uint8 \(60, 72\)"),
        (np.zeros((N, 5, 6, 2), np.uint8), r"data must hold pictures .*, got \(60, 5, 6, 2\)"),
        (BYTES.astype(np.float32), r"floats in \[0, 1\] or \[-1, 1\], got float32 from 0 to 255"),
        (BYTES.astype(np.int64), "got int64 from 0 to 255"),
        ((BYTES > 128).astype(np.uint8), "got bytes of at most 1: multiply them by 255"),
        (POINTS + np.float32([0, 1e8]), "column 2 of the data must vary by more than 1 / 100,000 of its mean"),
        (POINTS * np.float32([1, 0]), "column 2 must have at least two different values"),
        ({"x": POINTS, "y": KINDS}, "data must be named x and cond, got 'y'"),
        ({"cond": KINDS}, "data must hold 'x'"),
        ({"x": POINTS, "cond": KINDS[:3]}, r"cond must be a class for each of 60 examples, .*, got int64 \(3,\)"),
        ({"x": POINTS, "cond": KINDS / 2}, "as a whole number or a word, got float64"),
        ({"x": POINTS, "cond": KINDS - 1}, "labels must be from 0 upwards, got -1 to 1"),
        (TensorDataset(torch.from_numpy(POINTS), torch.rand(N)), "as a whole number or a word, got float32"),
        ([{"x": POINTS}, {"x": POINTS, "cond": KINDS}], r"every example must hold \['x'\], got \['cond', 'x'\]"),
        ([{"x": POINTS}, {"x": POINTS[:, :1]}], "x must have the same shape in every example"),
        ([], "at least one example, got none"),
        (3, "data must be a path, an array, .*, got int"),
        (iter([POINTS]), "a stream must be endless, got 1 batches with 60 examples: give them as a list of batches"),
    ],
)
def test_data_that_cannot_be_learnt_are_refused(given, said):
    with pytest.raises(ValueError, match=said) as refused:
        jensen.load_data(given)
    assert "\n" not in str(refused.value)


def test_numbers_for_an_objective_of_ones_own_are_finite_in_any_shape():
    with pytest.raises(ValueError, match="y must be finite, got a number that is not in row 3"):
        memory({"x": POINTS, "y": np.where(np.arange(N) == 3, np.inf, 0.0)}, as_given=True)


def test_labels_beyond_the_names_of_a_dataset_are_refused():
    class Two(Pictures):
        classes = ("cat", "dog")

    with pytest.raises(ValueError, match="labels must be from 0 to 1, got 0 to 2"):
        memory(Two())


def numbered(start, size=50):
    """Batch k holds the number k."""
    return (
        {"x": torch.full((size, 2), float(k)) + torch.arange(2) * torch.rand(size, 1)} for k in itertools.count(start)
    )


class Endless(IterableDataset):
    def __iter__(self):
        return numbered(0)


class Passes:
    """A stream that can be read repeatedly from its start, 45 batches each time."""

    def __iter__(self):
        return itertools.islice(numbered(0), 45)


@pytest.mark.parametrize("make", [lambda: numbered, lambda: numbered(0), Endless, Passes])
def test_a_stream_is_judged_on_its_first_batches_and_trains_on_the_others_in_order(make):
    aside = KEPT_ASIDE // 50
    source = memory(make())
    data = source.open(0)
    assert set(torch.cat([some(data.train)["x"], some(data.test)["x"]])[:, 0].int().tolist()) == set(range(aside))
    batches = data.stream(3, 0)(2)
    assert [int(next(batches)["x"][0, 0]) for _ in range(3)] == [aside + 2, aside + 3, aside + 4]
    if make is Passes:  # the next pass leaves out what is judged, too
        assert int(next(batches)["x"][0, 0]) == aside


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"x": torch.zeros(5, 3)}, r"every batch must hold x of shape \(2,\), got \(3,\)"),
        ({"x": torch.zeros(5, 2), "y": torch.zeros(5)}, r"every batch must hold \['x'\], got \['x', 'y'\]"),
        ({"x": torch.full((5, 2), torch.inf)}, "x must be finite"),
    ],
)
def test_a_batch_unlike_the_first_ones_is_refused(odd, said):
    first = list(itertools.islice(numbered(0), KEPT_ASIDE // 50))
    data = memory(itertools.chain(first, itertools.repeat(odd))).open(0)
    with pytest.raises(ValueError, match=said):
        next(data.stream(5, 0)(0))


def test_data_are_held_by_their_source_alone_and_known_by_their_content():
    source = memory({"x": POINTS.copy(), "cond": KINDS})
    copy = Memory.parse(source.model_dump())
    assert copy == source
    assert copy.open(0).fingerprint == source.open(0).fingerprint
    assert memory({"x": POINTS + 1e-3, "cond": KINDS}).content != source.content
    assert memory({"x": POINTS, "cond": KINDS[::-1].copy()}).content != source.content
    content = source.content
    del source
    gc.collect()
    assert content not in HELD
    with pytest.raises(ValueError, match="data given from Python are not kept with the run: give them again"):
        copy.open(0)

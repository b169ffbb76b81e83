"""Handwritten and printed digits for translation: unpaired batches, pairs, sides enlarged by generated pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from jensen.core.seeding import normal
from jensen.data.dataset import some
from jensen.data.printed import enlarge
from jensen.recipes.sources.base import OpenedRun
from jensen.recipes.sources.digits import Digits, pictures
from jensen.recipes.sources.points import Moons
from jensen.recipes.sources.two import HandwrittenPrinted


def rows_of(x):
    return {row.numpy().tobytes() for row in x}


def drawn(data, batches=8, batch_size=32, seed=0):
    """Pictures of both sides from the first batches."""
    found = [batch for batch, _ in zip(data.stream(batch_size, seed)(0), range(batches), strict=False)]
    return {side: torch.cat([batch[side] for batch in found]) for side in "ab"}


def test_sides_are_digits_of_one_size():
    data = HandwrittenPrinted(printed=100, test=50).open(0)
    a, b = some(data.train), some(data.b.train)
    assert torch.equal(a["x"], enlarge(pictures("handwritten", "train")[0], 16))
    assert torch.equal(a["cond"][:, 0], pictures("handwritten", "train")[1])
    assert torch.equal(b["x"], some(Digits(style="printed", pictures=100).open(0).train)["x"])
    assert [len(side.test) for side in (data, data.b)] == [360, 50]
    assert data.unseen is None
    assert data.b.unseen.tolist() == [False] * 25 + [True] * 25
    assert torch.equal(Digits(style="printed").open(0).unseen, torch.arange(600) >= 300)


def test_unpaired_batches_are_of_either_side_alone():
    """256 draws per side: nearly all of its 30 pictures, and no others."""
    data = HandwrittenPrinted(handwritten=30, printed=30, jitter=0).open(0)
    for side, x in drawn(data).items():
        whole = rows_of(some(data.train if side == "a" else data.b.train)["x"])
        assert rows_of(x) == whole


def test_pairs_share_their_label_and_use_everything_evenly():
    """6,400 draws of 4,311 pairs: all printed digits occur, and for a handwritten digit all three partners."""
    data = HandwrittenPrinted(printed=300, partners=3, pairing="by-class", jitter=0).open(0)
    found = drawn(data, batches=200)
    labels = {}
    for side, opened in (("a", data), ("b", data.b)):
        rows = some(opened.train)
        for x, y in zip(rows["x"], rows["cond"][:, 0].tolist(), strict=True):
            labels.setdefault((side, x.numpy().tobytes()), set()).add(y)
    pairs = {(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in zip(found["a"], found["b"], strict=True)}
    assert all(labels["a", x] & labels["b", y] for x, y in pairs)
    partners = {}
    for x, y in pairs:
        partners.setdefault(x, set()).add(y)
    assert max(map(len, partners.values())) == 3
    assert rows_of(found["b"]) == {key for side, key in labels if side == "b"}


@pytest.mark.parametrize("settings", [{}, {"pairing": "by-class"}])
def test_jitter_moves_what_is_trained_on(settings):
    """64 pictures per side: without jitter they equal the data, with jitter none do."""
    still, moved = (HandwrittenPrinted(jitter=amount, **settings).open(0) for amount in (0, 0.07))
    seen = {"still": drawn(still, batches=2), "moved": drawn(moved, batches=2)}
    for side in "ab":
        whole = some(still.train if side == "a" else still.b.train)["x"]
        inside = {
            name: int((torch.cdist(x[side].flatten(1), whole.flatten(1)).amin(1) < 1e-3).sum())
            for name, x in seen.items()
        }
        assert inside == {"still": 64, "moved": 0}
        assert 0.02 < float((seen["moved"][side] - seen["still"][side]).abs().mean()) < 0.3
        again = next(moved.stream(32, 0)(1))[side]
        assert torch.equal(again, seen["moved"][side][32:])  # draw 1 by itself


# -- enlarged sides ---------------------------------------------------------------------------------------------------


class Noise(nn.Module):
    """Generates noise, also outside [-1, 1] and between the levels."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def sample(self, n, *, cond=None, generator=None):
        return normal((n, *self.shape), generator, like=torch.zeros(()))


def run_on(source, **changes):
    data = source.open(0)
    run = OpenedRun(Path("r"), "digits-gan", "gan", Noise(data.space.shape), data.space, source, lambda: data)
    return replace(run, **changes)


def test_a_side_is_enlarged_by_samples_of_a_run():
    runs = {"/a": run_on(Digits(pictures=50)), "/b": run_on(Digits(style="printed", pictures=50))}
    settings = {"handwritten": 50, "printed": 50, "jitter": 0, "enlarge_a": "/a", "enlarge_b": "/b", "share": 0.2}
    data = HandwrittenPrinted(**settings).open(0, runs=runs.__getitem__)
    assert [len(side.train) for side in (data, data.b)] == [50, 50]  # real ones: readers and judges see no others
    for side, x in drawn(data, batches=40).items():
        real = some(data.train if side == "a" else data.b.train)["x"]
        added = rows_of(x) - rows_of(real)
        assert len(added) == 12  # of 62 they are a share of 0.2
        assert len(rows_of(x)) == 62
    made = torch.stack([torch.frombuffer(bytearray(row), dtype=torch.float32) for row in added])
    assert torch.equal(data.b.space.settled(made), made)  # side b: on the levels of the data
    other = HandwrittenPrinted(**settings).open(1, runs=runs.__getitem__)
    assert data.fingerprint == other.fingerprint == HandwrittenPrinted(handwritten=50, printed=50).open(0).fingerprint


@pytest.mark.parametrize(("share", "added"), [(0.2, 20), (0.5, 80), (0.75, 240)])
def test_samples_are_their_share_of_the_whole(share, added):
    source = HandwrittenPrinted(printed=80, enlarge_b="/b", share=share)
    real = pictures("printed", "train", 80, side=16)[0]
    run = run_on(Digits(style="printed", pictures=80))
    assert len(source._enlarged("b", real, lambda _: run)) == 80 + added


def test_a_whole_side_is_enlarged_by_a_run_on_any_of_its_digits():
    source = HandwrittenPrinted(printed=50, enlarge_a="/a")
    source.open(0, runs=lambda _: run_on(Digits(pictures=100)))


def test_runs_that_do_not_suit_are_refused_with_the_setting():
    def missing(folder):
        raise ValueError(f"there is no run folder {folder}")

    a, few = {"enlarge_a": "/a"}, {"enlarge_a": "/a", "handwritten": 40}
    fitting = "must be a run that draws pictures"
    for settings, opener, said in (
        (a, missing, "data.enlarge_a: there is no run folder /a"),
        (
            {"enlarge_b": "/a"},
            lambda _: run_on(Digits()),
            rf"data.enlarge_b {fitting} \(1, 16, 16\) of 17 levels, got /a",
        ),
        (a, lambda _: run_on(Moons()), rf"data.enlarge_a {fitting} .* on \(2,\) of None levels"),
        (a, lambda _: run_on(Digits(scale="ink")), rf"data.enlarge_a {fitting} .* of 2 levels"),
        (a, lambda _: run_on(Digits(), model=nn.Linear(1, 1)), f"data.enlarge_a {fitting}"),
        (few, lambda _: run_on(Digits(pictures=50)), "trained on the 40 pictures .*: train it with data.pictures=40"),
        (few, lambda _: run_on(Digits(pictures=30)), None),
    ):
        source = HandwrittenPrinted(printed=50, **settings)
        if said is None:
            source.open(0, runs=opener)
        else:
            with pytest.raises(ValueError, match=said):
                source.open(0, runs=opener)

"""Translation: settings of the game, readings by translators with known results, runs, and errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import jensen
from cases import case_of, data_of
from jensen.core.seeding import generator
from jensen.data.dataset import Truths
from jensen.data.space import Classes, Space
from jensen.judging.settings import Judging
from jensen.judging.translation import chosen, sides, strip, translation, way
from jensen.metrics import best_renaming, confusion
from jensen.models import CycleGAN
from jensen.nn import PatchCritic
from jensen.objectives import CycleConsistent, Paired
from jensen.recipes.families.translation import Translation
from jensen.recipes.settings import Training
from jensen.recipes.sources.two import HandwrittenPrinted
from jensen.recipes.words import parse
from jensen.runs.evaluate import evaluate
from jensen.runs.opening import open_run
from jensen.runs.train import train

SIDE = Space((1, 16, 16))
BOTH = Space((1, 16, 16), b=SIDE)
QUIET = {"noise": 0, "noise_end": 0}


def family(**settings):
    return Translation.model_validate(settings)


# the game ------------------------------------------------------------------------------------------------------------


def test_settings_reach_the_game():
    shown = {"loss": "hinge", "noise": 0.4, "noise_end": 0.2, "noise_steps": 10, "penalty": 2}
    made = family(shown=shown | {"augmentation": ["crop", "mosaic"]}, weights={"pool": 0, "cycle": 3, "identity": 0})
    game = made.objective(made.model(BOTH), BOTH)
    assert isinstance(game, CycleConsistent)
    assert [game.noise(step) for step in (5, 10, 99)] == pytest.approx([0.3, 0.2, 0.2])
    assert (game.pools, game.cycle, game.identity) == (None, 3, 0)
    assert len(game.augmentation.keywords["transforms"]) == 2
    x = torch.ones(1, 1, 2, 2)
    assert float(game.penalty(lambda x: x.sum((1, 2, 3)), x, x)) == pytest.approx(4.0)  # 2/2 |gradient|^2, four ones
    plain = family()
    game = plain.objective(plain.model(BOTH), BOTH)
    assert (game.augmentation, game.penalty, len(game.pools)) == (None, None, 2)
    paired = family(pairing="paired", shown=QUIET, weights={"distance": 7})
    game = paired.objective(paired.model(BOTH), BOTH)
    assert isinstance(game, Paired)
    assert (game.distance, game.noise) == (7, None)


@pytest.mark.parametrize("pairing", ["unpaired", "paired"])
def test_players_fit_colour_pictures_of_any_size(pairing):
    space = Space((3, 12, 20), b=Space((3, 12, 20)), paired=pairing == "paired")
    made = family(pairing=pairing, network={"width": 8, "patch": 2, "critic": [4, 4], "spectral": True})
    made.refuse(space, Training(steps=1))
    if pairing == "paired":
        with pytest.raises(ValueError, match="must be unpaired for data without pairs, got paired"):
            made.refuse(replace(space, paired=False), Training(steps=1))
    game = made.objective(made.model(space), space)
    critics = [m for m in game.modules() if isinstance(m, PatchCritic)]
    assert len(critics) == 2
    assert all(hasattr(m, "parametrizations") for c in critics for m in c.modules() if isinstance(m, nn.Conv2d))
    losses = game(("translators", "critics"), {side: torch.zeros(4, 3, 12, 20) for side in "ab"}, 0)
    assert all(bool(loss.total.isfinite()) for loss in losses.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"shown": {"augmentation": "crop"}},
            "must be a list of crop, mosaic, flip, colour, translation, cutout, as in",
        ),
        ({"shown": {"augmentation": ["rotate"]}}, "Input should be 'crop', 'mosaic'"),
        ({"shown": {"augmentation_share": 0.1}}, "shown.augmentation_share is not used without augmentation"),
        ({"shown": QUIET | {"noise_steps": 3}}, "shown.noise_steps is not used without noise"),
        (
            {"pairing": "unpaired", "weights": {"distance": 3}},
            "weights.distance is not used with pairing unpaired, got 3.0: leave it at 10.0",
        ),
        ({"pairing": "paired", "weights": {"pool": 3}}, "weights.pool is not used with pairing paired"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError) as refused:
        family(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("space", "network", "message"),
    [
        (SIDE, {}, "needs data with two sides, a and b, got one side: give --data-b PATH"),
        (
            Space((1, 16, 16), b=Space((1, 8, 8))),
            {},
            r"the same shape on both sides, got \(1, 16, 16\) and \(1, 8, 8\)",
        ),
        (Space((2,), b=Space((2,))), {}, "needs the same shape"),
    ],
)
def test_data_that_do_not_suit_are_refused(space, network, message):
    with pytest.raises(ValueError, match=message):
        family(network=network).refuse(space, Training(steps=1))


def test_the_pairing_follows_from_the_data():
    """On pairs of pictures of any size; settings of the other pairing are refused."""
    space = Space((3, 18, 13), b=Space((3, 18, 13)))
    for paired, kind, other in ((False, CycleConsistent, {"distance": 3}), (True, Paired, {"cycle": 3})):
        found = replace(space, paired=paired)
        made = family(shown=QUIET, network={"width": 8, "critic": [8, 8]})
        made.refuse(found, Training(steps=1))
        game = made.objective(made.model(found), found)
        assert isinstance(game, kind)
        x = torch.rand(2, 3, 18, 13)
        assert all(bool(loss.total.isfinite()) for loss in game(("translators",), {"a": x, "b": x}, 0).values())
        with pytest.raises(ValueError, match=f"is not used with pairing {'paired' if paired else 'unpaired'}"):
            family(weights=other).refuse(found, Training(steps=1))


# judging -------------------------------------------------------------------------------------------------------------


def test_the_best_renaming_is_the_permutation():
    order = torch.randperm(10, generator=generator(0))
    labels = torch.arange(10).repeat(7)
    read = order[labels]
    read[:5] = labels[:5]  # five labels that were not permuted
    renaming, right = best_renaming(confusion(labels, read, 10))
    assert renaming == order.tolist()
    assert right == 70 - int((order[labels[:5]] != labels[:5]).sum())
    assert confusion(torch.tensor([1, 1, 2]), torch.tensor([3, 3, 0]), 10)[1].tolist() == [0, 0, 0, 2] + [0] * 6


class Grey:
    """Reads the grey level of a constant picture, a multiple of 1/8, as its class, and adds one on the other side."""

    clear_means = ""

    def __init__(self, more):
        self.more = more

    def read(self, x):
        return ((x.mean((2, 3)) + 1) * 8).round().long() - self.more

    def clear(self, x):
        return torch.ones(len(x), 1, dtype=torch.bool)


def flat(labels, more):
    """Constant pictures of classes; on side b each class is one grey level lighter."""
    return ((torch.as_tensor(labels) + more) / 8 - 1.0)[:, None, None, None].expand(-1, 1, 4, 4)


LABELS = [0, 0, 1, 2, 2, 2, 2]
NAMES = Classes(("zero", "one", "two"))


def two_sides(unseen=None):
    a, b = (
        data_of(flat(LABELS, k), flat(LABELS, k), names=NAMES, labels=(LABELS, LABELS), truths=Truths(reader=Grey(k)))
        for k in (0, 1)
    )
    return replace(a, b=replace(b, unseen=unseen), space=replace(a.space, b=b.space))


class Levels(nn.Module):
    """Maps classes by a table and lightens pictures by `more` levels; `own` is the number of levels that its source
    side adds.
    """

    def __init__(self, table, own, more):
        super().__init__()
        self.table, self.own, self.more = torch.tensor(table), own, more

    def forward(self, x):
        label = ((x.mean((1, 2, 3)) + 1) * 8).round().long() - self.own
        return flat(self.table[label], self.own + self.more)


def test_readings_of_translators_that_are_known():
    """One translator keeps classes and is read correctly; one exchanges 0 and 2 and is read correctly only after the
    best relabelling; both have no cycle error. A translation changes a picture by 1/8, or by 3/8 where 0 becomes 2
    and by 1/8 where 2 becomes 0.
    """
    known = sides(two_sides(torch.tensor([False] * 6 + [True])), 100)
    for table in ([0, 1, 2], [2, 1, 0]):
        kept = table == [0, 1, 2]
        model = CycleGAN(Levels(table, 0, 1), Levels(table, 1, -1))
        for side in "ab":
            found = way(model, known, side)
            assert found.shares["untranslated"].value == 0  # a class is read as its neighbour, or as none
            assert found.shares["translated"].value == (1 if kept else pytest.approx(1 / 7))
            assert found.shares["renamed"].value == found.shares["kept"].value == found.shares["own"].value == 1
            assert found.renaming == tuple(table)
            assert found.cycle == 0
            assert int(found.confusion.sum()) == found.n == 7
        assert way(model, known, "a").moved == pytest.approx(1 / 8 if kept else (2 * 3 + 1 + 4 * 1) / 7 / 8)
        # the median of training pictures is of class 2: two of class 0 are 2/8 off, and one of class 1
        assert found.constant == pytest.approx(5 / 7 / 8)
        new = [way(model, known, "b").shares[key] for key in ("unseen untranslated", "unseen")]
        assert [(v.value, v.n) for v in new] == [(0, 1), (float(kept), 1)]
        assert "unseen" not in way(model, known, "a").shares


def test_what_is_said_of_a_translation():
    data = two_sides()
    model, other = (CycleGAN(Levels(t, 0, 1), Levels(t, 1, -1)) for t in ([2, 1, 0], [0, 1, 2]))
    part = translation(case_of(data, data.test.tensors["x"], model, beside=("other", other)))
    by_key = {finding.key: finding for finding in part.findings}
    assert by_key["a_to_b"].value == pytest.approx(1 / 7)
    assert by_key["a_to_b_renamed"].value == by_key["b_to_a_kept"].value == by_key["b_to_a_kept"].floor == 1
    assert by_key["b_to_a_cycle"].value == 0
    assert part.details["translation"]["a"]["confusion"] == [[0, 0, 2], [0, 1, 0], [4, 0, 0]]
    names = [row[0] for row in part.tables[0].rows]
    assert names == [
        "a to b",
        "b to a",
        "other: a to b",
        "other: b to a",
        "real a, read by the reader of this side",
        "real b, read by the reader of this side",
    ]
    assert part.tables[0].rows[2][2].startswith("100.0%")
    assert [len(table.rows) for table in part.tables[1:]] == [3, 3]
    assert translation(case_of(data_of(flat(LABELS, 0)), flat(LABELS, 0), model)) is None


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


def test_without_labels_only_what_comes_back_is_measured():
    a, b = data_of(flat(LABELS, 0)), data_of(flat(LABELS, 1))
    data = replace(a, b=b, space=replace(a.space, b=b.space))
    part = translation(case_of(data, flat(LABELS, 0), CycleGAN(Levels([0, 1, 2], 0, 1), Levels([0, 1, 2], 1, -1))))
    keys = [finding.key for finding in part.findings]
    assert keys == ["a_to_b_cycle", "a_to_b_moved", "b_to_a_cycle", "b_to_a_moved"]


def test_translations_are_compared_with_the_target_side():
    """Translations that are pictures of the target side are as near as training pictures; untranslated pictures are
    not."""
    x = torch.rand(60, 1, 8, 8, generator=generator(0))
    a, b = data_of(x), data_of(x - 1)
    data = replace(a, b=b, space=replace(a.space, b=b.space))
    part = translation(case_of(data, x, CycleGAN(Shift(-1.0), Shift(1.0))))
    found = {f.key: f for f in part.findings}
    for key in ("a_to_b_kernel", "b_to_a_kernel"):
        assert found[key].value == pytest.approx(found[key].floor, abs=1e-4)
        assert float(found[key].note.removeprefix("untranslated ")) > 100 * abs(found[key].value)
    assert not part.tables  # which would repeat the findings
    assert found["a_to_b_moved"].value == pytest.approx(1, abs=1e-6)


def test_pictures_of_each_class_are_shown():
    data = HandwrittenPrinted(printed=100, test=50).open(0)
    known = sides(data, 2000)
    places = chosen(known["b"], 2)
    assert known["b"].labels[places].tolist() == [k for k in range(10) for _ in "ab"]
    assert known["b"].unseen[places].tolist() == [False, True] * 10
    assert sides(data, 20)["b"].unseen.shape == (20,)  # fewer rows, with their part of `unseen`
    few = sides(data, 20)["b"]
    assert all(
        bool((known["b"].x[known["b"].unseen] == x).flatten(1).all(1).any()) == u
        for x, u in zip(few.x, few.unseen.tolist(), strict=True)
    )
    picture = strip(CycleGAN(nn.Identity(), nn.Identity()), data)
    assert picture.size == (20 * (2 * 16 + 6) + 6, 3 * (2 * 16 + 6) + 6)


# runs ----------------------------------------------------------------------------------------------------------------


def recipe(pairing="unpaired", **more):
    data = {"kind": "handwritten-printed", "printed": 60, "test": 40}
    data |= {"pairing": "by-class"} if pairing == "paired" else {}
    network = {"width": 8, "blocks": 1, "critic": [8]}
    made = {"kind": "translation", "pairing": pairing, "network": network}
    made |= {"shown": QUIET} if pairing == "paired" else {"weights": {"pool": 4}}
    training = {"steps": 3, "batch_size": 8, "rates": {"critics": 1e-3}, "previews": 1}
    return parse({"name": pairing, "data": data, "family": made, "training": training} | more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for pairing in ("unpaired", "paired"):
        train(recipe(pairing), folder / pairing)
    return folder


def test_samples_are_held_out_pictures_and_their_translations(runs):
    run = jensen.open(runs / "unpaired")
    samples = run.sample(3, seed=1)
    assert samples.x.shape == (12, 1, 16, 16)
    data = run.open_data()
    for k, side in ((0, data), (2, data.b)):
        held = {x.numpy().tobytes() for x in side.test.tensors["x"]}
        assert all(x.numpy().tobytes() in held for x in samples.x[k::4])
    with torch.no_grad():
        assert torch.allclose(run.model.translate(samples.x[0::4], "b"), samples.x[1::4], atol=1e-6)
        assert torch.allclose(run.model.translate(samples.x[2::4], "a"), samples.x[3::4], atol=1e-6)
    with pytest.raises(ValueError, match="-n must be at most 40, the held-out pictures of a side, got 41"):
        run.sample(41)


def test_another_run_is_judged_beside(runs, tmp_path):
    other = open_run(runs / "paired")
    train(recipe(judging={"beside": str(runs / "paired")}), tmp_path / "run")
    found = evaluate(tmp_path / "run")
    theirs = way(other.model, sides(other.open_data(), Judging().rows), "a")
    assert found.details["translation"]["paired: a"]["confusion"] == theirs.confusion.tolist()
    assert "paired: a to b" in (tmp_path / "run" / "report.html").read_text()
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text())["findings"]
    assert set(kept) == set(found)
    assert {"a_to_b", "b_to_a", "b_to_a_unseen", "a_to_b_kept", "a_to_b_cycle", "a_to_b_moved"} <= set(kept)


@pytest.mark.parametrize("pairing", ["unpaired", "paired"])
def test_a_run_stopped_and_gone_on_with_is_the_same(tmp_path, pairing):
    training = {"steps": 4, "batch_size": 8, "save_every": 2, "previews": 0}
    made, whole, parts = recipe(pairing, training=training), tmp_path / "whole", tmp_path / "parts"
    train(made, whole)
    shutil.copytree(whole, parts)
    states = sorted((parts / "state").glob("*"))
    assert len(states) == 2
    states[-1].unlink()
    (parts / "model.safetensors").unlink()
    train(made, parts, resume=True)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (torch.load(max(f.glob("state/*")), weights_only=True)["objective"] for f in (whole, parts))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert any("pools" in name for name in ours) == (pairing == "unpaired")

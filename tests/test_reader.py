"""Readers of classes: calibration by hand, and the classes and features that a reader run gives to judges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cases import Fixed, case_of, data_of
from jensen.cli.main import main
from jensen.core.seeding import generator
from jensen.data.dataset import Truths
from jensen.data.space import Classes, Space, Text
from jensen.judging.features import FeatureReader, Features, features_of, reader_features
from jensen.judging.reading import confusion_table, read_as_asked, reading
from jensen.metrics import calibration
from jensen.nn import AttentiveReader, Classifier, Reader
from jensen.objectives import Reading
from jensen.recipes.recipe import Family
from jensen.recipes.settings import Training
from jensen.recipes.words import configure
from jensen.runs.evaluate import read_evaluation

pytestmark = pytest.mark.usefixtures("blank_plots")
AB = Classes(("a", "b"))


class Sign(nn.Module):
    """Reads the sign of the first number, with probability sigmoid(|4 x|)."""

    def read(self, x):
        p = torch.sigmoid(4 * x[:, :1])
        return (p > 0.5).long(), torch.maximum(p, 1 - p)


def signs(n=200):
    x = torch.randn(n, 2, generator=generator(0))
    labels = (x[:, 0] > 0).long()
    return data_of(x, names=AB, labels=(labels, labels))


def test_calibration_by_hand():
    """Two bins: confidence .95 with 3 of 4 right, and .55 with 1 of 2: (4 * .2 + 2 * .05) / 6."""
    p = torch.tensor([0.95] * 4 + [0.55] * 2)
    right = torch.tensor([1, 1, 1, 0, 1, 0]).bool()
    found = calibration(p, right, bins=10, generator=generator(0))
    assert found.error == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert found.confidence.tolist() == pytest.approx([0.55, 0.95])
    assert found.accuracy.tolist() == [0.5, 0.75]
    assert found.counts.tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"confidence must be \(N,\), in \[0, 1\]"):
        calibration(p + 1, right)


def test_the_floor_of_the_calibration_error():
    """One bin with confidence p: E|S/n - p| of a binomial, here exactly 3/16 for n = 4 and p = 1/2, 200 draws."""
    found = calibration(torch.full((4,), 0.5), torch.ones(4, dtype=torch.bool), generator=generator(0))
    exact, variance = 3 / 16, 1 / 16 - (3 / 16) ** 2
    assert abs(found.floor - exact) < 5 * (variance / 200) ** 0.5


def test_a_perfect_reader_of_points_is_judged():
    part = reading(case_of(signs(), torch.zeros(16, 2), Sign()))
    found = {f.key: f.value for f in part.findings}
    assert found["exact"] == 1
    counts = torch.tensor([[int(v or 0) for v in row[1:]] for row in part.tables[0].rows])
    assert counts.tolist() == part.details["confusion"]
    assert int(counts.sum()) == int(counts.diag().sum()) == 200


def test_many_classes_are_listed_by_their_most_frequent_confusions():
    counts = torch.eye(30, dtype=torch.long) * 5
    counts[3, 7], counts[9, 1] = 2, 4
    assert confusion_table(counts, [f"c{k}" for k in range(30)]).rows == [("c9", "c1", "4"), ("c3", "c7", "2")]


def test_samples_of_own_classes_are_read_as_asked_by_class():
    """Samples of class a are right, those of class b are of class a: shares 1 and 0, up to the reader's error."""
    data = signs(400)
    x, labels = data.train.tensors["x"], data.train.tensors["cond"]
    pool = x[labels[:, 0] == 0]
    case = case_of(data, pool[:60], Fixed(pool), conditional=True)
    assert case.reader.read(x).eq(labels).double().mean() > 0.95
    part = read_as_asked(case)
    found = {f.key: f.value for f in part.findings}
    assert case.asked.sum() == labels[:60].sum()
    assert found["ceiling"] > 0.95
    assert abs(found["legibility"] - float((labels[:60] == 0).double().mean())) < 0.08
    assert len(part.plots) == 1


def test_a_second_reader_reads_the_same_samples_and_pictures():
    """The second reader calls everything b: it reads samples of a wrongly, and the data's share of b rightly."""

    class Always:
        def read(self, x):
            return torch.ones(len(x), 1, dtype=torch.long)

    x = torch.randn(200, 2, generator=generator(0))
    labels = (x[:, 0] > 0).long()
    data = data_of(x, names=AB, labels=(labels, labels), truths=Truths(second=Always()))
    case = case_of(data, x[labels == 1][:60], Fixed(x[labels == 1]), conditional=True)
    part = read_as_asked(case)
    found = {f.key: f.value for f in part.findings}
    assert found["second"] == pytest.approx(float(case.asked.double().mean()))
    assert found["second_ceiling"] == pytest.approx(float(labels.double().mean()))
    assert "second" not in {f.key for f in read_as_asked(case_of(signs(), x, Fixed(x), conditional=True)).findings}


def test_clear_is_as_likely_as_most_held_out_data():
    features = Features("x", lambda x: x, lambda x: torch.cat([x, torch.zeros_like(x)], 1))
    x = torch.linspace(0.1, 10, 1000)[:, None]
    reader = FeatureReader.of(features, x)
    assert float(reader.clear(x).double().mean()) == pytest.approx(0.95, abs=0.001)
    assert reader.read(-x).unique().tolist() == [1]


def family(space, **settings):
    made = Family.parse({"kind": "reader", **settings})
    made.refuse(space, Training(steps=1))
    return made


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 48, 64), (3, 9, 5), (1,), (8,)])
def test_a_reader_fits_any_shape(shape):
    pictures = len(shape) == 3
    scale = {} if pictures else {"mean": (5.0,) * shape[0], "std": (100.0,) * shape[0]}
    space = Space(shape, cond=Classes(("a", "b", "c")), **scale)
    made = family(space, network={"width": 8, "features": 16})
    model = made.model(space)
    batch = {"x": torch.rand(4, *shape), "cond": torch.tensor([[0], [1], [2], [0]])}
    losses = made.objective(model, space)(("model",), batch, 0)
    losses["model"].total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.features(batch["x"]).shape == (4, 16)
    assert model.read(batch["x"])[0].shape == (4, 1)
    assert made.summary(space)[0].startswith("classifier of size tiny: ")


@pytest.mark.parametrize(
    ("space", "settings", "said"),
    [
        (Space((2,)), {}, "needs data with a class for each example"),
        (Space((2,), cond=Text("ab", 3)), {}, "needs data with a class for each example"),
        (Space((2,), cond=AB), {"shift": 3}, "shift is not used for points, got 3"),
        (Space((1, 8, 8), cond=Text("ab", 3)), {"network": {"width": 8}}, "network.width is not used for texts, got 8"),
    ],
)
def test_readers_that_cannot_be_trained_are_refused(space, settings, said):
    with pytest.raises(ValueError, match=said):
        family(space, **settings)


def test_shifts_are_small_for_small_pictures():
    model = nn.Module()
    space = Space((1, 8, 8), cond=AB)
    assert family(space).objective(model, space).shift == 1
    wide = Space((1, 28, 28), cond=AB)
    assert family(wide).objective(model, wide).shift == 2
    assert isinstance(family(wide).objective(model, wide), Reading)


def test_features_of_a_reader_of_other_classes_are_refused():
    data = signs()
    network = Classifier(nn.Linear(2, 4), 4, classes=2)
    good = reader_features(network, data.space, data, "r")
    assert good(data.test.tensors["x"]).shape == (200, 4)
    assert features_of(good, data) is good
    for model, space, said in (
        (nn.Linear(2, 2), data.space, "must be those of a reader run on data with classes, got r"),
        (network, Space((2,), cond=Classes(("a", "c"))), "and other classes"),
        (network, Space((3,), cond=AB), r"for shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            reader_features(model, space, data, "r")


def test_a_reader_run_gives_features_to_evaluate_and_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--set", "training.batch_size=8", "--set", "judging.samples=24", "--set", "judging.rows=24"]
    width = ["--set", "network.width=8"]
    assert main(["train", "reader", "--data", "digits", "--steps", "2", "--out", "r", *quick, *width]) == 0
    assert {"exact", "calibration"} <= read_evaluation(tmp_path / "r").keys()
    own = ["--no-evaluate", "--set", "judging.features=r", "--set", "judging.critic_steps=2"]
    for name in ("g", "h"):
        assert main(["train", "gan", "--data", "digits", "--steps", "2", "--out", name, *quick, *own, *width]) == 0
    assert main(["evaluate", "g"]) == 0
    assert main(["compare", "g", "h", "--features", "r", "-n", "40"]) == 0
    assert "the 64 last features of the reader r (accuracy" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"judging\.features must be one of auto, .*, or the folder of a reader run"):
        configure("gan", ["judging.features=nowhere"], data="digits")


@pytest.mark.parametrize("size", [(24, 64), (17, 53)])
def test_each_query_of_an_attentive_reader_reads_one_character(size):
    """Exchanged queries exchange the characters, since queries differ in nothing else."""
    reader = AttentiveReader(3, alphabet=5, length=4).eval()
    x, order = torch.rand(2, 3, *size) * 2 - 1, torch.tensor([2, 0, 3, 1])
    logits = reader(x)
    assert logits.shape == (2, 4, 5)
    assert not torch.allclose(logits[:, 0], logits[:, 1], atol=1e-3)
    with torch.no_grad():
        reader.queries.copy_(reader.queries[order])
    torch.testing.assert_close(reader(x), logits[:, order])


def test_where_a_pattern_is_matters_to_an_attentive_reader():
    reader = AttentiveReader(1, alphabet=5, length=4).eval()
    x = torch.zeros(1, 1, 24, 64)
    x[..., 8:16, 8:16] = 1
    assert not torch.allclose(reader(x), reader(x.roll(32, 3)), atol=1e-3)


def test_styles_are_not_read():
    """The loss is the cross-entropy of the characters: with constant logits, log(alphabet) whatever the styles are."""
    network = Reader(1, alphabet=7, length=2)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    for styles in ([[0, 0]], [[9, 4]]):
        batch = {"x": torch.zeros(1, 1, 16, 24), "cond": torch.cat([torch.tensor([[3, 6]]), torch.tensor(styles)], 1)}
        loss = Reading(network, noise=0.0, shift=0)(("model",), batch, 0)["model"]
        assert float(loss.terms["loss"]) == pytest.approx(math.log(7), rel=1e-6)

"""Features that compare samples with data: each is a fixed function of the data with an identifying name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jensen.data.dataset import Data
from jensen.data.pool import Tensors
from jensen.data.space import Classes, Space, Text
from jensen.judging.features import features_of
from jensen.metrics import embeddings
from jensen.recipes.sources.digits import Digits

DIGITS = Digits().open(0)
X = DIGITS.test[torch.arange(len(DIGITS.test))]
POINTS = Data("points", "p", Space((2,)), Tensors(x=torch.randn(50, 2)), Tensors(x=torch.randn(50, 2)))


@pytest.fixture(scope="module")
def classifier():
    return features_of("auto", DIGITS)


def test_the_classifier_is_a_function_of_the_data_and_its_name_says_which(classifier):
    a, b = classifier, features_of("classifier", DIGITS)
    assert a.name == b.name
    assert torch.equal(a(X["x"]), b(X["x"]))
    assert a(X["x"]).shape == (360, 32)
    right = float((a.read(X["x"]) == X["cond"][:, 0]).double().mean())
    assert right > 0.95
    assert f"accuracy {100 * right:.1f}% on held-out data" in a.name
    one_less = replace(DIGITS, train=Tensors(**{k: v[:-1] for k, v in DIGITS.train[torch.arange(1437)].items()}))
    assert features_of("auto", one_less).name != a.name


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 24, 64), (3, 64, 64), (2, 1, 1)])
def test_random_convolutions_are_fixed_for_pictures_of_any_size(shape):
    """`auto` uses them for pictures without classes: 64 numbers per picture, independent of the other pictures."""
    x = torch.rand(5, *shape)
    data = Data("pictures", "f", Space(shape, cond=Text("ab", 3)), Tensors(x=x), Tensors(x=x))
    torch.manual_seed(shape[1])
    found = features_of("auto", data)
    assert found.name == features_of("convolutional", data).name
    assert "64 features of a convolutional network with fixed random weights" in found.name
    assert found(x).shape == (5, 64)
    torch.testing.assert_close(found(x)[2:3], found(x[2:3]))
    assert (shape != (1, 8, 8)) or "2d3e94342685" in found.name  # these weights must never change


def test_large_pictures_of_classes_have_a_convolutional_classifier(monkeypatch):
    """Its features distinguish bright from dark pictures."""
    labels = torch.arange(64)[:, None] % 2
    rows = Tensors(x=(labels[..., None, None] * 2 - 1) * 0.5 + 0.1 * torch.randn(64, 1, 9, 7), cond=labels)
    data = Data("light", "l", Space((1, 9, 7), cond=Classes(("dark", "bright"))), rows, rows)
    small = features_of("auto", data).name
    monkeypatch.setattr(embeddings, "SMALL", 62)
    large = features_of("auto", data)
    assert large.name != small
    assert "accuracy 100.0% on held-out data" in large.name
    assert large(rows[torch.arange(64)]["x"]).shape == (64, 32)


def test_the_numbers_themselves_and_the_users_own():
    assert torch.equal(features_of("raw", DIGITS)(X["x"]), X["x"].flatten(1))
    assert features_of("auto", POINTS).name == "the raw numbers"

    def corner(x):
        return x.flatten(1)[:, :3]

    own = features_of(corner, DIGITS)
    assert own.name == "your own features, corner"
    assert own(X["x"]).shape == (360, 3)


def test_no_name_claims_an_inception_network(classifier):
    for found in (classifier, features_of("convolutional", DIGITS), features_of("raw", DIGITS)):
        assert "fid" not in found.name.lower()
        assert "inception" not in found.name.lower()


def test_refusals():
    with pytest.raises(ValueError, match="classifier features need classes, and points have none"):
        features_of("classifier", POINTS)
    with pytest.raises(ValueError, match="convolutional features need pictures"):
        features_of("convolutional", POINTS)
    with pytest.raises(
        ValueError,
        match="features must be one of auto, classifier, convolutional, raw, or the folder of a reader run, got 'fid'",
    ):
        features_of("fid", DIGITS)

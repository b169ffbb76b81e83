"""Features for comparing samples: raw data, features of a classifier of the data's classes, or of a random network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from jensen.data.dataset import Data, in_memory, some
from jensen.data.pool import Examples
from jensen.data.space import Classes, Space
from jensen.judging.settings import FEATURES
from jensen.metrics import class_network, random_convolutions
from jensen.nn import Classifier
from jensen.training.distributed import divided

CHUNK = 1024  # number of rows whose features are computed together


@dataclass(frozen=True)
class Features:
    """A callable that maps data (N, ...) to features (N, d).

    Attributes:
        name: name of the features in a sentence.
        of: the callable that computes the features.
        classify: for features of a classifier, maps them to the logits of the classes.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat(divided(lambda rows: self.of(x[rows]), len(x), CHUNK))

    def read(self, x: Tensor) -> Tensor | None:
        """The classes (N,) that the classifier reads, or None without a classifier."""
        return None if self.classify is None else self.classify(self(x)).argmax(1)


@dataclass(frozen=True)
class FeatureReader:
    """The classifier of features, as a reader of samples.

    Attributes:
        features: features with a classifier.
        least: probability of the predicted class from which on a sample is clear.
    """

    features: Features
    least: float = 0.0

    clear_means = "as clear as 95% of the held-out data"

    def probability(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each example and its probability, (N, 1) each."""
        assert self.features.classify is not None
        best = self.features.classify(self.features(x)).detach().softmax(1).max(1, keepdim=True)
        return best.indices, best.values

    def read(self, x: Tensor) -> Tensor:
        return self.probability(x)[0]

    def clear(self, x: Tensor) -> Tensor:
        return self.probability(x)[1] >= self.least

    @classmethod
    def of(cls, features: Features, held_out: Tensor) -> FeatureReader:
        """The reader of these features, with the criterion of clearness from held-out data."""
        return cls(features, float(cls(features).probability(held_out)[1].double().quantile(0.05)))


def reader_features(model: nn.Module, space: Space, data: Data, folder: str) -> Features:
    """The last hidden layer of a reader of the data's classes, and its classifier.

    Args:
        model: model of a run of family reader.
        space: of its data.
        data: the data with which samples are compared.
        folder: of the run.

    Raises:
        ValueError: if the model does not read the classes of the data.
    """
    if not isinstance(model, Classifier):
        raise ValueError(f"features must be those of a reader run on data with classes, got {folder}")
    if (space.shape, space.cond) != (data.space.shape, data.space.cond):
        raise ValueError(
            f"features must be those of a reader of data of shape {data.space.shape} with the same classes, got "
            f"{folder}, for shape {space.shape}" + " and other classes" * (space.cond != data.space.cond)
        )
    test = some(data.test, 10_000)
    right = float((model.read(test["x"])[0] == test["cond"]).double().mean())
    width = model.head.in_features
    name = f"the {width} last features of the reader {folder} (accuracy {100 * right:.1f}% on held-out data)"
    return Features(name, model.features, model.head)


def features_of(choice: str | Features | Callable[[Tensor], Tensor], data: Data) -> Features:
    """Features by name, or from a user's callable.

    Args:
        choice: "raw", "convolutional", "classifier", or "auto": the classifier for pictures that have classes, the
            convolutional network for other pictures, raw points; or a callable (N, ...) -> (N, d), or `Features`.
        data: training data of the classifier.

    Raises:
        ValueError: for an unknown name, a classifier of data without classes, or convolutions of points.
    """
    if isinstance(choice, Features):
        return choice
    if callable(choice):
        return Features(f"your own features, {getattr(choice, '__name__', type(choice).__name__)}", choice)
    space, classes = data.space, data.space.cond
    if choice == "auto":
        choice = ("classifier" if isinstance(classes, Classes) else "convolutional") if space.pictures else "raw"
    if choice == "raw":
        return Features(f"the raw numbers{space.unit}", lambda x: space.comparable(x).flatten(1))
    if choice == "convolutional":
        network = random_convolutions(space.shape)
        name = f"64 features of a convolutional network with fixed random weights ({_hash(network)})"
        return Features(name, network)
    if choice != "classifier":
        raise ValueError(
            f"features must be one of {', '.join(FEATURES)}, or the folder of a reader run, got {choice!r}"
        )
    if not isinstance(classes, Classes):
        raise ValueError(f"classifier features need classes, and {data.name} have none: use convolutional or raw")
    train, test = in_memory(data.train, 50_000), some(data.test, 10_000)
    network = class_network(Examples(train, space.comparable), train.tensors["cond"][:, 0], classes.size)
    with torch.no_grad():
        right = float((network(space.comparable(test["x"])).argmax(1) == test["cond"][:, 0]).double().mean())
    name = (
        f"the 32 features of the last hidden layer of a classifier of the data's classes "
        f"({_hash(network)}, accuracy {100 * right:.1f}% on held-out data)"
    )
    return Features(name, lambda x: network[0](space.comparable(x)), network[1])


def _hash(network: nn.Module) -> str:
    return f"weights {hashlib.sha256(save(network.state_dict())).hexdigest()[:12]}"

"""Features by which samples are compared: raw data, a classifier of the data's classes, or a random network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from jensen.core.seeding import begin_globally, generator
from jensen.data.dataset import Data, some
from jensen.data.space import Classes, Space
from jensen.nn import mlp

WIDTH = 32  # of the classifier's last hidden layer
COARSE = 4  # grid size at which the convolutions end, in pixels
CHANNELS, LEARNED = 16, 32  # of the random network and of a classifier of large pictures
SMALL = 1024  # largest number of dimensions for which the classifier is fully connected
SEED = 20_260  # of the random network
BATCH = 64  # rows of a training step of the classifier
CHUNK = 1024  # number of rows whose features are computed together


@dataclass(frozen=True)
class Features:
    """A callable from data (N, ...) to (N, d).

    Attributes:
        name: as it appears in a sentence.
        of: the callable that computes the features.
        read: for features of a classifier, a function from data to classes (N,).
    """

    name: str
    of: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.of(rows) for rows in x.split(CHUNK)])


def features_of(choice: str | Callable[[Tensor], Tensor], data: Data) -> Features:
    """Features by name, or from a user's callable.

    Args:
        choice: "raw", "convolutional", "classifier", or "auto": the classifier for pictures that have classes, the
        convolutional network for other pictures, raw points; or a callable (N, ...) -> (N, d).
        data: training data of the classifier.

    Raises:
        ValueError: for an unknown name, a classifier of data without classes, or convolutions of points.
    """
    if callable(choice):
        return Features(f"your own features, {getattr(choice, '__name__', type(choice).__name__)}", choice)
    space = data.space
    if choice == "auto":
        choice = ("classifier" if isinstance(space.cond, Classes) else "convolutional") if space.pictures else "raw"
    if choice == "raw":
        return Features("the numbers themselves", lambda x: x.flatten(1))
    if choice == "convolutional":
        return _random(space)
    if choice == "classifier":
        return _classifier(data)
    raise ValueError(f"features must be one of auto, classifier, convolutional, raw, got {choice!r}")


def convolutions(shape: Sequence[int], channels: int) -> nn.Sequential:
    """Pictures of any size (N, C, H, W) to (N, 4 channels): 3 x 3 convolutions, all but the last of stride 2."""
    layers: list[nn.Module] = []
    inputs, side = shape[0], min(shape[1:])
    while side > COARSE:
        layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs, side = channels, -(-side // 2)
    layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def _random(space: Space) -> Features:
    """A convolutional network with fixed random weights.

    Source: Naeem et al. (2020), section 5.1, on random embeddings of 64 numbers.
    """
    if not space.pictures:
        raise ValueError(f"convolutional features need pictures (C, H, W), got data of shape {space.shape}")
    body, rng = convolutions(space.shape, CHANNELS), generator(SEED)
    for weight in body.parameters():
        scale = (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1
        nn.init.normal_(weight, std=scale, generator=rng)
    name = f"{4 * CHANNELS} features of a convolutional network with fixed random weights ({_mark(body)})"
    return Features(name, body.eval().requires_grad_(False))


def _classifier(data: Data) -> Features:
    """The last hidden layer of a small classifier of the data's classes; it depends only on the data."""
    space, classes = data.space, data.space.cond
    if not isinstance(classes, Classes):
        raise ValueError(f"classifier features need classes, and {data.name} have none: use convolutional or raw")
    train, test = some(data.train, 50_000), some(data.test, 10_000)
    x, labels = train["x"], train["cond"][:, 0]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        begin_globally(0)
        if space.pictures and space.dims > SMALL:
            inner: nn.Module = nn.Sequential(convolutions(space.shape, LEARNED), nn.Linear(4 * LEARNED, WIDTH))
        else:
            inner = nn.Sequential(nn.Flatten(), mlp(space.dims, 128, WIDTH))
        body = nn.Sequential(inner, nn.SiLU())
        whole = nn.Sequential(body, nn.Linear(WIDTH, classes.size))
        adam = torch.optim.AdamW(whole.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(max(400, min(1000, 5 * len(x) // BATCH))):
            rows = torch.randint(len(x), (BATCH,))
            loss = nn.functional.cross_entropy(whole(x[rows]), labels[rows], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
    whole.eval().requires_grad_(False)

    def read(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([whole(part).argmax(1) for part in rows.split(CHUNK)])

    right = float((read(test["x"]) == test["cond"][:, 0]).double().mean())
    name = (
        f"the {WIDTH} last features of a classifier of the data's classes "
        f"({_mark(whole)}, accuracy {100 * right:.1f}% on held-out data)"
    )
    return Features(name, body, read)


def _mark(network: nn.Module) -> str:
    return f"weights {hashlib.sha256(save(network.state_dict())).hexdigest()[:12]}"

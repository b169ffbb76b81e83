"""What samples are compared by: the numbers themselves, a random projection, a classifier of the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from jensen.core.seeding import generator
from jensen.nn import mlp
from jensen.recipes.base import Real

WIDTH = 32  # of the classifier's last hidden layer, and of a random projection
PROJECTION = 20_260  # seed of the projection: one for all
NAMES = ("classifier", "random", "raw")


@dataclass(frozen=True)
class Features:
    """A callable from data (N, ...) to (N, d).

    Attributes:
        name: in a sentence.
        of: the callable.
        read: classes (N,) of data, where the features come from a classifier.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.of(x)


def features_of(name: str | None, real: Real) -> Features:
    """Features by name; None: the classifier's where there are labels, else a projection of pictures, or raw points.

    Raises:
        ValueError: for an unknown name, or a classifier of data without labels.
    """
    if name is None:
        name = "classifier" if real.labels is not None else "random" if real.train.ndim > 2 else "raw"
    if name == "raw":
        return Features("the numbers themselves", lambda x: x.flatten(1))
    if name == "random":
        dims = real.train[0].numel()
        matrix = torch.randn(dims, min(dims, WIDTH), generator=generator(PROJECTION)) / dims**0.5
        return Features(f"a random projection to {matrix.shape[1]} numbers", lambda x: x.flatten(1) @ matrix)
    if name == "classifier":
        return _classifier(real)
    raise ValueError(f"features must be one of {', '.join(NAMES)}, got {name!r}")


def _classifier(real: Real, steps: int = 400, batch: int = 64) -> Features:
    """The last hidden layer of a small network, trained on the labels of the same data: a function of the data."""
    if real.labels is None:
        raise ValueError(f"{real.name} have no labels for a classifier to learn: take features random or raw")
    labels = real.labels[0]
    classes = int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), mlp(real.train[0].numel(), 128, WIDTH), nn.SiLU())
        head = nn.Linear(WIDTH, classes)
        whole = nn.Sequential(body, head)
        adam = torch.optim.AdamW(whole.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(steps):
            rows = torch.randint(len(labels), (batch,))
            loss = nn.functional.cross_entropy(whole(real.train[rows]), labels[rows], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
    whole.eval().requires_grad_(False)
    right = float((whole(real.test).argmax(1) == real.labels[1]).double().mean())
    mark = hashlib.sha256(save(whole.state_dict())).hexdigest()[:12]
    name = f"the {WIDTH} last features of a classifier of the same data (weights {mark}, right on {100 * right:.1f}%)"
    return Features(name, body, lambda x: whole(x).argmax(1))

"""Cases for tests of judges, with a model that returns given samples."""

from __future__ import annotations

import torch
from torch import nn

from jensen.data.dataset import Data, Truths
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.judging.case import Case
from jensen.judging.settings import Judging


class Fixed(nn.Module):
    """A model that returns these samples, in order."""

    def __init__(self, x):
        super().__init__()
        self.register_buffer("x", x)

    def sample(self, n, *, cond=None, generator=None):
        return self.x[:n]


def data_of(train, test=None, *, names=None, labels=None, truths=None):
    """A data set of these training and test rows, with class names and the labels of both."""
    rows, held = {"x": train}, {"x": train if test is None else test}
    if labels is not None:
        rows["cond"], held["cond"] = (torch.as_tensor(v)[:, None] for v in labels)
    shape = Space(tuple(train.shape[1:]), cond=names)
    return Data("data", "0", shape, Tensors(**rows), Tensors(**held), truths or Truths())


def case_of(data, samples, model=None, **more):
    """A case whose samples are these; without a model, `Fixed` returns them."""
    settings = more.pop("settings", Judging(samples=max(16, len(samples)), mode_samples=1))
    model = Fixed(samples) if model is None else model
    return Case(model, data, lambda n, **_: samples[torch.arange(n) % len(samples)], settings=settings, **more)

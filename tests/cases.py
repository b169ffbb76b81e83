"""Cases for tests of judges, with a model that returns given samples; and all rows of opened data."""

from __future__ import annotations

import torch
from torch import nn

from jensen.data.dataset import Data, Truths, some
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.data.split import held_out
from jensen.judging.case import Case
from jensen.judging.settings import Judging


def whole(data, name="x"):
    """All rows in the order in which they were given, of a source that is split by row number."""
    n = len(data.train) + len(data.test)
    test = held_out([str(k) for k in range(n)], 0.1)
    parts = some(data.train)[name], some(data.test)[name]
    out = torch.empty(n, *parts[0].shape[1:], dtype=parts[0].dtype)
    out[~test], out[test] = parts
    return out


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

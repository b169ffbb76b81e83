"""Data: order and noise of a stream, held-out rows, bytes, scales of columns."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from jensen.check.evidence import Claims, close, estimate_is, mean_is
from jensen.check.law import law
from jensen.check.line import F64, randn
from jensen.core.types import Draws
from jensen.data.dataset import spaced
from jensen.data.pool import Tensors, drawn_rows, from_bytes, to_bytes
from jensen.data.space import Space
from jensen.data.split import held_out
from jensen.data.unpaired import transformed


def _rows(stream: Draws, start: int, n: int = 3) -> Tensor:
    return torch.stack([batch["x"] for batch, _ in zip(stream(start), range(n), strict=False)])


@law("data/order")
def order(_: float) -> Claims:
    r"""Row k of draw n of a stream depends on the seed, n and k alone.

    $$x_{n,k} = f(s, n, k)$$
    So a stream that is opened at draw n continues one that was opened at 0, and processes that read every second row
    of each batch together read the whole batch. The rows are independent and uniform.
    Source: an identity: a generator is seeded for every draw.
    """
    x = torch.arange(1000.0)
    stream = drawn_rows(Tensors(x=x), 64, seed=3)
    whole = _rows(stream, 0, 6)
    yield close("draws 3 to 5, of a stream opened at 3", whole[3:], _rows(stream, 3), 0.0)
    halves = [_rows(Draws(stream.draw, 64, slice(k, None, 2)), 0) for k in range(2)]
    yield close("two processes read every second row", whole[:3], torch.stack(halves, 2).reshape(3, 64), 0.0)
    drawn = _rows(stream, 0, 100).double() / 1000
    yield mean_is("mean of u(u + 1/1000) for row number 1000 u", 0.333333, (drawn * (drawn + 1e-3)).mean(1), bias=1e-5)


@law("data/noise")
def noise(_: float) -> Claims:
    r"""Pixels that are binarised for each batch are white with a probability that is their grey level.

    $$P(b = 1 \mid x) = P(u < x) = x, \quad u \sim U(0, 1)$$
    Draws are independent, so over N batches the share has the standard deviation $(x(1 - x)/N)^{1/2}$. Processes that
    share a batch have the noise of their own rows.
    Source: Burda et al. (2016), section 5 (dynamic binarisation).
    """
    grey = torch.tensor([0.1, 0.5, 0.8])
    stream = transformed(
        drawn_rows(Tensors(x=grey[None]), 2, seed=0), lambda x, u: (u < x).float(), lambda n: torch.rand(n, 3), 1
    )
    drawn = _rows(stream, 0, 500).reshape(-1, 3).double()
    for k, p in enumerate(grey.tolist()):
        yield estimate_is(f"share of white, for {p:.1f}", p, drawn[:, k].mean(), (p * (1 - p) / len(drawn)) ** 0.5)
    second = _rows(Draws(stream.draw, 2, slice(1, None, 2)), 0, 50)
    yield close("row 1 of each batch, read alone", _rows(stream, 0, 50)[:, 1:], second, 0.0)


@law("data/held-out")
def split(_: float) -> Claims:
    r"""Whether an example is held out is a function of its name: those with a hash below the share.

    $$h(\mathrm{name}) / 2^{256} < q$$
    h is SHA-256, and its first 64 bits decide. The hashes of different names are like independent uniform numbers, so
    a share q of N names is held out, with standard deviation $(q(1 - q)/N)^{1/2}$. Other names have no influence.
    Source: Bellare & Rogaway (1993) (random oracles).
    """
    names = [f"{k}.png" for k in range(4000)]
    hashes = torch.tensor([int(hashlib.sha256(name.encode()).hexdigest(), 16) / 2**256 for name in names], dtype=F64)
    for share in (0.1, 0.5):
        found = held_out(names, share).double()
        yield close(f"the names whose hash is below {share}", (hashes < share).double(), found, 0.0)
        stderr = (share * (1 - share) / len(names)) ** 0.5
        yield estimate_is(f"their share, for {share}", share, found.mean(), stderr)
    yield close("the same names among fewer", found[1000:], held_out(names[1000:], 0.5).double(), 0.0)


@law("data/bytes")
def levels(_: float) -> Claims:
    r"""Bytes become numbers in [-1, 1], and are restored without error: 0 is black, -1, and 255 is white, 1.

    $$x = b / 127.5 - 1, \quad b = \mathrm{round}(127.5\,(x + 1))$$
    Errors of less than half a level are removed by rounding, and numbers beyond [-1, 1] are clipped.
    Source: an identity: the two maps are inverse to each other on the 256 levels.
    """
    b = torch.arange(256, dtype=torch.uint8)
    x = from_bytes(b)
    yield close("black and white", torch.tensor([-1.0, 1.0]), x[[0, 255]], 0.0)
    for error in (0.0, -0.45, 0.45):
        restored = to_bytes(x + error / 127.5)
        yield close(f"bytes, restored with an error of {error:g} levels", b.double(), restored.double(), 0.0)
    clipped = to_bytes(torch.tensor([-3.0, 3.0])).double()
    yield close("numbers beyond [-1, 1] are black or white", torch.tensor([0.0, 255.0]), clipped, 0.0)


@law("data/scale")
def scale(_: float) -> Claims:
    r"""Columns with different scales are compared in units of their own standard deviation.

    $$u_j = (x_j - m_j) / s_j$$
    m and s are mean and standard deviation of each column of the training data, to six digits; u has mean 0 and
    standard deviation 1 in each. Without it, the column with the largest scale would decide every distance.
    Source: an identity.
    """
    x = randn(0, 200, 3) * torch.tensor([1e-3, 1.0, 1e4], dtype=F64) + torch.tensor([0.0, -5.0, 1e5], dtype=F64)
    space = spaced(Space((3,)), Tensors(x=x), by_column=True)
    u = space.comparable(x)
    yield close("means of the columns", 0.0, u.mean(0), 1e-4)
    yield close("standard deviations of the columns", 1.0, u.std(0), 1e-4)
    exact = (x - x.mean(0)) / x.std(0)
    yield close("the data", exact, u, 1e-3)

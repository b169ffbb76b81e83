"""Pairwise squared distances without cancellation errors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Num
from torch import Tensor

DIRECT = 16  # for rows up to this long, explicit differences cost no more than a matrix product
RELATIVE = 1e-8


def squared_distances(x: Num[Tensor, "n d"], y: Num[Tensor, "m d"], chunk: int) -> Iterator[Float[Tensor, "b m"]]:
    r"""$|x_i - y_j|^2$ in float64 with a relative error of at most 1e-8 for each pair; exactly 0 for equal rows.

    For long rows it expands the square, $|x|^2 - 2 x^T y + |y|^2$, about the mean of y. The absolute error is then
    about $\epsilon (|x|^2 + |y|^2)$, so distances too small for it (between copies, or inside clusters that lie far
    apart or far from 0) are recomputed from the differences.

    Args:
        x: (N, D), of any real dtype.
        y: (M, D), M at least 1.
        chunk: number of rows of x processed at a time, at least 1.

    Yields:
        distances from `chunk` rows of x to all rows of y, in the order of x.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, sections 1.7 and 3.1.

    >>> x, y = torch.tensor([[1e8 + 1], [0.0]], dtype=torch.float64), torch.tensor([[1e8], [0.0]])
    >>> next(squared_distances(x, y, 2))
    tensor([[1.0000e+00, 1.0000e+16],
            [1.0000e+16, 0.0000e+00]], dtype=torch.float64)
    """
    y = y.double()
    if x.shape[1] <= DIRECT or not len(x):
        for part in x.split(max(chunk, 1)):
            yield _direct(part.double(), y)
        return
    eps, centre = torch.finfo(torch.float64).eps, y.mean(0)
    b = y - centre
    squares, longest = _squares(b), _longest(y)
    for part in x.split(chunk):
        x = part.double()
        a = x - centre
        own = _squares(a)
        found = torch.addmm(squares + own[:, None], a, b.T, alpha=-2)
        # below these thresholds the error from the product or from centring exceeds the tolerance
        product = 8 * (x.shape[1] + 4) * eps * float(torch.maximum(own.max(), squares.max()).detach()) / RELATIVE
        centring = 16 * (eps / RELATIVE) ** 2 * max(_longest(x), longest)
        rows, columns = (found < product + centring).nonzero(as_tuple=True)
        if len(rows) * 16 > found.numel():
            yield _direct(x, y)
        else:
            found[rows, columns] = (x[rows] - y[columns]).square().sum(1)
            yield found


def _direct(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances computed from differences; `torch.cdist` stores none of them, but can be differentiated only
    once.
    """
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return (x[:, None] - y).square().sum(-1)
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _squares(rows: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(rows, dim=1).square()
    return found


def _longest(rows: Tensor) -> float:
    """An upper bound on the largest squared row norm, in one pass."""
    return rows.shape[1] * max(float(v) ** 2 for v in rows.detach().aminmax())

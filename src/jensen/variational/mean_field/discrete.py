"""Mean-field inference for discrete variables whose joint distribution is a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.variational.mean_field.cavi import Ascent, coordinate_ascent, rounding

Factors = tuple[Tensor, ...]


def table_mean_field(
    log_p: Float[Tensor, "..."],
    start: Sequence[Tensor] | None = None,
    *,
    sweeps: int = 1000,
    tolerance: float = 1e-12,
) -> Ascent[Factors]:
    r"""Coordinate ascent for discrete variables $z_1, \dots, z_J$ whose joint is a table, one factor per variable.

    $q_j^*(z_j) \propto \exp \sum_{z_{-j}} \prod_{i \ne j} q_i(z_i) \log p(z)$. The bound is at most
    $\log \sum_z p(z)$, which is 0 if p is normalised, and the evidence if the table is $\log p(x, z)$ for one x.

    Args:
        log_p: (n_1, ..., n_J), finite, normalised or not.
        start: J factors (n_j,) of positive probabilities; uniform if None. It determines which of several local maxima
            is found.
        sweeps, tolerance: as in `coordinate_ascent`.

    Returns:
        The factors, (n_j,) each, and the bounds.

    Raises:
        ValueError: if the table has no axis or is not finite, or if the start does not match it.

    Source: Bishop (2006), equation 10.9.

    >>> p = torch.tensor([0.2, 0.8])[:, None] * torch.tensor([0.5, 0.25, 0.25])  # already factorised
    >>> found = table_mean_field(p.log())
    >>> found.state
    (tensor([0.2000, 0.8000]), tensor([0.5000, 0.2500, 0.2500]))
    """
    if log_p.ndim < 1 or not log_p.numel() or not bool(torch.isfinite(log_p).all()):
        raise ValueError(f"log_p must be a finite table with one axis per variable, got shape {tuple(log_p.shape)}")
    if start is None:
        start = [log_p.new_full((n,), 1 / n) for n in log_p.shape]
    if tuple(f.shape for f in start) != tuple((n,) for n in log_p.shape) or any(bool((f <= 0).any()) for f in start):
        raise ValueError(f"start must be positive factors of {tuple(log_p.shape)} states, got {list(start)}")
    return coordinate_ascent(
        tuple(f / f.sum() for f in start),
        [partial(_updated, j=j, log_p=log_p) for j in range(log_p.ndim)],
        lambda q: _expected(log_p, q).squeeze() - sum(torch.xlogy(f, f).sum() for f in q),
        sweeps=sweeps,
        tolerance=tolerance,
        slack=rounding(log_p.dtype),
    )


def _updated(q: Factors, j: int, log_p: Tensor) -> Factors:
    best = torch.softmax(_expected(log_p, q, but=j).flatten(), 0)
    return (*q[:j], best, *q[j + 1 :])


def _expected(log_p: Tensor, q: Factors, but: int | None = None) -> Tensor:
    """Expectation of the table over all factors but one; the summed axes keep size 1."""
    for i, factor in enumerate(q):
        if i != but:
            log_p = torch.tensordot(factor, log_p, dims=([0], [i])).unsqueeze(i)
    return log_p

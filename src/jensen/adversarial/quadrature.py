"""Quadrature of expectations under a normal distribution, for functions with kinks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

REACH, CELLS, LEVELS = 64.0, 2048, 60  # range, cells and bisections of the search for breaks, one per cell
TAIL = 38  # standard deviations beyond which the density underflows in double precision
_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))


def breaks(f: Callable[[Tensor], Tensor]) -> Float[Tensor, " k"]:
    """The positions in [-64, 64] at which f, elementwise, has a kink or a jump, in float64.

    In each of 2,048 cells f and its derivative by autograd are bisected to where they change most, down to adjacent
    floats: a change that remains there is a break. If a cell has several, only one is found.

    >>> breaks(lambda t: torch.relu(1 + t))
    tensor([-1.], dtype=torch.float64)
    """

    def both(t: Tensor) -> Tensor:
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            value = f(t)
            if not value.requires_grad:
                return torch.stack([value, torch.zeros_like(t)])
            (slope,) = torch.autograd.grad(value.sum(), t)
        return torch.stack([value.detach(), slope])

    edges = torch.linspace(-REACH, REACH, CELLS + 1, dtype=torch.float64)
    a, b, at_a, at_b = edges[:-1], edges[1:], *(both(v) for v in (edges[:-1], edges[1:]))
    for _ in range(LEVELS):
        middle = (a + b) / 2
        at = both(middle)
        left = (at - at_a).abs().sum(0) > (at_b - at).abs().sum(0)
        a, at_a = torch.where(left, a, middle), torch.where(left, at_a, at)
        b, at_b = torch.where(left, middle, b), torch.where(left, at, at_b)
    changed = (at_b - at_a).abs() > 1e-6 * (1 + at_a.abs() + at_b.abs())
    found: Tensor = ((a + b) / 2)[changed.any(0)].unique()
    return found


def _apart(places: Tensor, others: Tensor) -> Tensor:
    """The places that do not coincide with any of `others`, so that no edge occurs twice."""
    return places[((places[:, None] - others).abs() > 1e-9).all(1)]


def normal_mean(
    f: Callable[[Tensor], Tensor], mean: Float[Tensor, ""], deviation: Float[Tensor, ""], kinks: Float[Tensor, " k"]
) -> Float[Tensor, ""]:
    r"""$E f(m + s n)$ for $n \sim N(0, 1)$, with its first and second derivatives with respect to m and s.

    Sixteen-point Gauss-Legendre on panels of n of unit length, cut at the kinks. The cuts move with m and s, so that
    autograd includes the contribution of a kink to a second derivative, the jump of $f'$ times a density. Around 0 and
    every kink the panels are graded in the argument of f, so that nothing is missed for large s.

    Args:
        f: elementwise function, smooth except at its kinks, and beyond 64 about as smooth as a polynomial or an
            exponential.
        mean, deviation: m and s, (), float64; s of either sign.
        kinks: see `breaks`.

    >>> half = torch.tensor(0.5, dtype=torch.float64)
    >>> value = normal_mean(torch.relu, 0 * half, 4 * half, torch.zeros(1, dtype=torch.float64))
    >>> round(value.item() ** 2 * torch.pi, 12)  # 2 / sqrt(2 pi)
    2.0
    """
    n, mass = (v.to(mean) for v in _WHOLE)
    if bool(deviation.detach()) and (len(kinks) or abs(deviation.item()) > 1):  # otherwise whole panels suffice
        steps = 2.0 ** torch.arange(7).to(mean)
        near = torch.cat([kinks, kinks.new_zeros(1)])[:, None] + torch.cat([-steps, 0 * steps[:1], steps])
        moving = (kinks - mean) / deviation
        still = (_apart(near.reshape(-1), kinks) - mean.detach()) / deviation.detach()
        edge = torch.cat([moving, still, _apart(_EDGES.to(mean), moving.detach())])
        n, mass = _normal_nodes(edge[edge.abs() <= TAIL].sort().values)
    return (mass * f(mean + deviation * n)).sum()


def _normal_nodes(edge: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes of the panels between the edges, and their masses under N(0, 1)."""
    nodes, weights = _NODES.to(edge), _WEIGHTS.to(edge)
    half = edge.diff()[:, None] / 2
    n = edge[:-1, None] + half * (1 + nodes)
    return n, half * weights * torch.exp(-n.square() / 2) / math.sqrt(2 * math.pi)


_EDGES = torch.arange(-TAIL, TAIL + 1, dtype=torch.float64)
_WHOLE = _normal_nodes(_EDGES)

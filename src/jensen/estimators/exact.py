"""What is known of a q without an estimate: whether its draws can move; the gradient of E_q[f] where that is a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

Function = Callable[[Tensor], Tensor]
"""f: draws (K, *batch, *event) to values (K, *batch), one for each draw alone."""

NODES = 2**14
MOST = 2**14
"""Outcomes that are enumerated."""


def is_discrete(q: Distribution) -> bool:
    """Whether draws are some of many values: then they cannot move with the parameters, whatever `rsample` says.

    >>> is_discrete(torch.distributions.OneHotCategoricalStraightThrough(torch.ones(3)))
    True
    """
    return q.has_enumerate_support or bool(getattr(_support(q), "is_discrete", False))


def moves(q: Distribution) -> bool:
    """Whether the support hangs on parameters that require a gradient: then the mean of the score is not 0.

    >>> moves(torch.distributions.Uniform(0.0, torch.tensor(1.0, requires_grad=True)))
    True
    """
    support = _support(q)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(b, Tensor) and b.requires_grad for b in bounds)


def exact_gradient(
    q: Distribution, f: Function, leaves: Sequence[Tensor]
) -> tuple[str, list[Tensor], list[Tensor]] | None:
    """The gradient of E_q[f], summed over the batch, without draws: by enumeration, or by quadrature in one dimension.

    Args:
        q: made from the leaves.
        f: draws to values.
        leaves: to differentiate in.

    Returns:
        How it was found, a gradient a leaf in double precision, and its error; None where it is no such sum: too many
        outcomes, several dimensions, a support that moves.

    >>> logits = torch.zeros(3, requires_grad=True)
    >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
    >>> exact_gradient(q, lambda z: z.prod(-1), [logits])[:2]
    ('enumeration', [tensor([0.0625, 0.0625, 0.0625], dtype=torch.float64)])
    """
    z = _outcomes(q)
    if z is not None:
        found = slopes((q.log_prob(z).exp() * f(z)).sum(0), leaves)
        return "enumeration", found, [torch.zeros_like(g) for g in found]
    if q.event_shape or moves(q) or _ends(_support(q)) is None:
        return None
    (z, w), (few, v) = (_rule(q, nodes) for nodes in (NODES, NODES // 2))
    fine, coarse = slopes((w * f(z)).sum(0), leaves), slopes((v * f(few)).sum(0), leaves)
    lost = slopes(w.sum(0), leaves)  # of the mass, which is 1: a support that moves unsaid
    if not all(bool(g.isfinite().all()) for g in fine) or any(bool((g.abs() > 0.02).any()) for g in lost):
        return None
    return "quadrature", fine, [(a - b).abs() for a, b in zip(fine, coarse, strict=True)]


def slopes(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the sum, in double precision; zeros where nothing reaches a leaf."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf, dtype=torch.float64) for leaf in leaves]
    found = torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)
    return [(torch.zeros_like(leaf) if g is None else g).double() for g, leaf in zip(found, leaves, strict=True)]


def _support(q: Distribution) -> Any:
    try:
        return q.support
    except NotImplementedError:  # of a law that does not say
        return None


def _outcomes(q: Distribution) -> Tensor | None:
    """All values of q, (N, *batch, *event), also of independent variables together; None for too many."""
    try:
        if q.has_enumerate_support:
            return q.enumerate_support()
    except NotImplementedError:  # binomials of different counts
        return None
    if not isinstance(q, Independent) or (values := _outcomes(q.base_dist)) is None:
        return None
    batch, event = q.batch_shape, q.event_shape
    sites = q.base_dist.batch_shape[len(batch) :].numel()
    if sites * math.log(len(values)) > math.log(MOST):
        return None
    flat = values.reshape(len(values), batch.numel(), sites, -1)
    which = torch.cartesian_prod(*[torch.arange(len(values), device=flat.device)] * sites).view(-1, 1, sites)
    rows, site = (torch.arange(n, device=flat.device) for n in (batch.numel(), sites))
    return flat[which, rows[:, None], site].reshape(-1, *batch, *event)


def _ends(support: Any) -> tuple[Any, Any] | None:
    """Of an interval, as numbers or tensors; None for an end at infinity, and for anything else."""
    if support is constraints.real:
        return None, None
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return (low, high) if low is not None and not support.is_discrete else None


def _rule(q: Distribution, nodes: int) -> tuple[Tensor, Tensor]:
    """Values z and weights: the midpoint rule in a variable t of (0, 1) or (-1, 1) that stretches to q's support."""
    ends = _ends(q.support)
    assert ends is not None
    low, high = ends
    with torch.no_grad():
        pilot = q.sample(torch.Size((1001,)))
        centre = pilot.median(0).values
        scale = (pilot - centre).abs().median(0).values + torch.finfo(pilot.dtype).tiny
        t = ((torch.arange(nodes).double() + 0.5) / nodes).to(pilot).view(-1, *[1] * centre.ndim)
        if low is None:
            t = 2 * t - 1
            z, width = centre + 2 * scale * t / (1 - t**2), 4 * scale * (1 + t**2) / (1 - t**2) ** 2
        elif high is None:
            z, width = low + (centre - low) * t / (1 - t), (centre - low) / (1 - t) ** 2
        else:
            z, width = low + (high - low) * t, (high - low) * torch.ones_like(t)
        seen = q.log_prob(z).exp() > 0
        z = torch.where(seen, z, centre)
    return z, torch.where(seen, q.log_prob(z).exp() * width, 0.0) / nodes

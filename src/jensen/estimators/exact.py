"""Exact properties of q: whether its draws can be reparameterized, and grad E_q[f] by enumeration or quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, TransformedDistribution, constraints

Function = Callable[[Tensor], Tensor]
"""f: maps draws (K, *batch, *event) to values (K, *batch), each depending on its own draw alone."""

NODES = 2**14
MOST = 2**14
"""Maximum number of outcomes that are enumerated."""


def is_discrete(q: Distribution) -> bool:
    """Whether q is discrete: its draws are then not differentiable in the parameters, even if it has an `rsample`.

    >>> is_discrete(torch.distributions.OneHotCategoricalStraightThrough(torch.ones(3)))
    True
    """
    if _is_image(q):
        return is_discrete(q.base_dist)
    return q.has_enumerate_support or bool(getattr(_support(q), "is_discrete", False))


def moves(q: Distribution) -> bool:
    """Whether the support depends on parameters that require a gradient: then the mean of the score is not 0.

    >>> moves(torch.distributions.Uniform(0.0, torch.tensor(1.0, requires_grad=True)))
    True
    """
    if isinstance(q, Independent):
        return moves(q.base_dist)
    if isinstance(q, MixtureSameFamily):
        return moves(q.component_distribution)
    if _is_image(q):
        return moves(q.base_dist) or any(_moves_with(q, end) for end in _bounds(q.base_dist))
    return any(b.requires_grad for b in _bounds(q))


def exact_gradient(
    q: Distribution, f: Function, leaves: Sequence[Tensor]
) -> tuple[str, list[Tensor], list[Tensor]] | None:
    """The gradient of E_q[f], summed over the batch, by enumeration, or by quadrature in one dimension.

    Args:
        q: a distribution that depends on the leaves.
        f: maps draws to values.
        leaves: the tensors to differentiate with respect to.

    Returns:
        The method, the gradient of each leaf in double precision, and its error; None if there are too many outcomes,
        several dimensions, or a support that depends on the leaves.

    >>> logits = torch.zeros(3, requires_grad=True)
    >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
    >>> exact_gradient(q, lambda z: z.prod(-1), [logits])[:2]
    ('enumeration', [tensor([0.0625, 0.0625, 0.0625], dtype=torch.float64)])
    """
    z = _outcomes(q)
    if z is not None:
        found = slopes(_centred(q.log_prob(z).exp(), f(z)), leaves)
        return "enumeration", found, [torch.zeros_like(g) for g in found]
    if q.event_shape or moves(q) or _ends(_support(q)) is None:
        return None
    (z, w), (few, v) = (_rule(q, nodes) for nodes in (NODES, NODES // 2))
    lost = slopes(w.sum(0), leaves)  # the total mass is 1: a slope means that the support moves
    if any(bool((g.abs() > 0.02).any()) for g in lost):
        return None
    # A constant in f does not change the slope but adds rounding errors, so f is centred. Where the density is
    # infinite, the mass is less exact and the uncentred f is better. The difference from half the nodes decides.
    both = []
    for mean in (_mean, _centred):
        fine, coarse = slopes(mean(w, f(z)), leaves), slopes(mean(v, f(few)), leaves)
        both.append((fine, [(a - b).abs() for a, b in zip(fine, coarse, strict=True)]))
    (plain, doubt), (centred, other) = both
    better = [b < a for a, b in zip(doubt, other, strict=True)]
    value = [torch.where(c, b, a) for a, b, c in zip(plain, centred, better, strict=True)]
    if not all(bool(g.isfinite().all()) for g in value):
        return None
    return "quadrature", value, [torch.where(c, b, a) for a, b, c in zip(doubt, other, better, strict=True)]


def _mean(mass: Tensor, values: Tensor) -> Tensor:
    return (mass * values).sum(0)


def _centred(mass: Tensor, values: Tensor) -> Tensor:
    """The mean of the values minus their mean: it has the same slope, as the total mass is constant."""
    return _mean(mass, values - _mean(mass, values).detach())


def slopes(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the sum in double precision; zeros for leaves it does not depend on."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf, dtype=torch.float64) for leaf in leaves]
    found = torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)
    return [(torch.zeros_like(leaf) if g is None else g).double() for g, leaf in zip(found, leaves, strict=True)]


def _is_image(q: Distribution) -> TypeGuard[TransformedDistribution]:
    """Whether q's support is the image of the base's support; torch reports the codomain, which may be larger."""
    return isinstance(q, TransformedDistribution) and type(q).support is TransformedDistribution.support


def _bounds(q: Distribution) -> list[Tensor]:
    """The finite ends of the support of each component of q."""
    support = _support(q)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    found = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    return [torch.as_tensor(b) for b in found if b is not None]


def _moves_with(q: TransformedDistribution, end: Tensor) -> bool:
    """Whether an end of the base's support moves with a parameter of the transforms."""
    for transform in q.transforms:
        if transform.domain.event_dim:
            return False
        end = transform(end)
    return any(bool((g != 0).any()) for g in slopes(end, leaves_of(end)))


def leaves_of(value: Tensor) -> list[Tensor]:
    """The leaf tensors with a gradient that a computed value depends on, in the order of its formula.

    >>> a, b = (torch.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    >>> leaves_of(a * b + a)
    [tensor(2., requires_grad=True), tensor(3., requires_grad=True)]
    """
    found: list[Tensor] = []
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting.extend(parent for parent, _ in node.next_functions)
    return found


def _support(q: Distribution) -> Any:
    if _is_image(q) and _support(q.base_dist) is not constraints.real:
        return None
    try:
        return q.support
    except NotImplementedError:  # the distribution does not define it
        return None


def _outcomes(q: Distribution) -> Tensor | None:
    """All values of q, (N, *batch, *event), jointly for independent variables; None if there are too many."""
    try:
        if q.has_enumerate_support:
            return q.enumerate_support()
    except NotImplementedError:  # binomials with different total counts
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
    """The ends of an interval, with None for infinity; None if the support is not an interval."""
    if support is constraints.real:
        return None, None
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return (low, high) if low is not None and not support.is_discrete else None


def _rule(q: Distribution, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes z and weights of the midpoint rule in t of (0, 1) or (-1, 1), mapped to q's support."""
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

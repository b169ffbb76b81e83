r"""Margin losses: f, the best critic and the minimal risk, against brute force.

$f(u) = -\inf_d\,[u\,l(d) + l(-d)]$ with $u = p_d/p_g$ and y = +1 for real; conventions are those of
`jensen.adversarial.margin`. Nothing of that module is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, bounded, close

Elementwise = Callable[[Tensor], Tensor]
RATIOS = torch.cat([torch.logspace(-3, 3, 24, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]).sort().values
PAIRS = tuple(
    (torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64))
    for p, q in (
        ((0.5, 0.3, 0.2), (0.1, 0.3, 0.6)),
        ((0.7, 0.3, 0.0), (0.2, 0.3, 0.5)),
        ((0.25, 0.75), (0.25, 0.75)),
        ((1.0, 0.0), (0.0, 1.0)),
    )
)
"""Masses of p and q: overlapping, with zeros, equal, disjoint."""
POINTS, FAR = 8001, 20.0  # of d = sinh(s), |s| <= 20: the infimum may lie at infinity


def margin_loss(
    loss: Elementwise,
    *,
    f: Elementwise | None = None,
    critic: Elementwise | None = None,
    risk: Callable[[Tensor, Tensor], Tensor | float] | None = None,
    tolerance: float = 1e-6,
) -> Report:
    r"""Whether a margin loss, and what is claimed about it, agree with the definition.

    For the loss alone: $l \ge 0$; the best critic is positive where real data are more likely; $-\inf_d$ is convex and
    never increases in u. For the claims: $f(u) = -\inf_d [u\,l(d) + l(-d)]$, convex and never increasing; the critic
    attains the infimum; the least risk of masses p, q is
    $\frac12 \sum_x \inf_d [p\,l(d) + q\,l(-d)] = -\frac12 \sum_x f(p/q)\, q$, for p and q that overlap, that have
    holes, that are equal and that are disjoint.

    Args:
        loss: l, elementwise on float64 tensors.
        f: claimed f, elementwise on u > 0.
        critic: claimed best critic $D^*$, elementwise on u > 0.
        risk: claimed least risk, a function of two vectors of masses (K,) that sum to 1, some of them 0.
        tolerance: relative to $1 + |f|$.

    Source: Nguyen, Wainwright & Jordan (2009), sections 2 and 3.

    >>> softplus = torch.nn.functional.softplus
    >>> margin_loss(lambda m: softplus(-m), critic=torch.log).holds
    True
    >>> swapped = margin_loss(lambda m: torch.exp(-m), critic=lambda u: -u.log() / 2)  # e^-d for e^d
    >>> [e.claim for e in swapped.failed]
    ['the critic attains the infimum']
    """
    return Report.of(_evidence(loss, f, critic, risk, tolerance))


def _evidence(
    loss: Elementwise,
    f: Elementwise | None,
    critic: Elementwise | None,
    risk: Callable[[Tensor, Tensor], Tensor | float] | None,
    tolerance: float,
) -> Iterator[Evidence]:
    u = RATIOS
    best, least = infimum(loss, u)
    yield bounded("l is at least 0", loss(torch.linspace(-30, 30, 601, dtype=u.dtype)), 0.0, relation="at least")
    apart = (u < 0.9) | (u > 1.1)
    agrees = (best * (u - 1).sign())[apart]
    yield bounded(
        "the best critic is positive where u = p/q > 1, negative where u < 1", agrees, 0.0, relation="at least"
    )
    yield from _shape("-inf_d [u l(d) + l(-d)]", u, -least, tolerance)
    size = 1 + least.abs()
    if f is not None:
        found = f(u)
        yield close("f(u) = -inf_d [u l(d) + l(-d)], relative", -least / size, found / size, tolerance)
        yield from _shape("f", u, found, tolerance)
    if critic is not None:
        attained = weighed(loss, u, critic(u)) / size
        yield close("the critic attains the infimum", least / size, attained, tolerance)
    if risk is not None:
        for (p, q), kind in zip(PAIRS, ("overlap", "have holes", "are equal", "are disjoint"), strict=True):
            exact = _sum_of_infima(loss, p, q)
            claim = f"the least risk where p and q {kind} is half the sum of the infima"
            yield close(claim, exact, risk(p, q), tolerance)


def _shape(name: str, u: Tensor, values: Tensor, tolerance: float) -> Iterator[Evidence]:
    """Whether the values are convex and never increase in u."""
    size = 1 + values.abs()
    yield bounded(f"{name} never increases", values.diff() / size[1:], 0.0, tolerance, relation="at most")
    share = (u[1:-1] - u[:-2]) / (u[2:] - u[:-2])
    chord = (1 - share) * values[:-2] + share * values[2:]
    yield bounded(f"{name} is convex", (values[1:-1] - chord) / size[1:-1], 0.0, tolerance, relation="at most")


def infimum(loss: Elementwise, u: Tensor) -> tuple[Tensor, Tensor]:
    """The d that minimises u l(d) + l(-d), (N,), and the minimum: by a grid, and finer grids around its best point.

    >>> d, least = infimum(lambda m: torch.exp(-m), torch.tensor([4.0], dtype=torch.float64))
    >>> round(float(d), 4), round(float(least), 9)  # log(4) / 2, 2 sqrt(4)
    (0.6931, 4.0)
    """
    half = torch.linspace(-FAR, FAR, POINTS, dtype=u.dtype, device=u.device)
    low, high = half[:1].expand(len(u)), half[-1:].expand(len(u))
    share = torch.linspace(0, 1, POINTS, dtype=u.dtype, device=u.device)
    for _ in range(4):
        s = low[:, None] + (high - low)[:, None] * share
        k = weighed(loss, u[:, None], s.sinh()).argmin(1, keepdim=True)
        low, high = (s.gather(1, (k + j).clamp(0, len(share) - 1)).squeeze(1) for j in (-1, 1))
        best = s.gather(1, k).squeeze(1).sinh()
        share = torch.linspace(0, 1, 41, dtype=u.dtype, device=u.device)
    return best, weighed(loss, u, best)


def weighed(loss: Elementwise, u: Tensor, d: Tensor) -> Tensor:
    """The weighed loss u l(d) + l(-d), where an infinite l counts as the largest float, so that 0 l is 0."""
    largest = torch.finfo(d.dtype).max
    return u * loss(d).clamp(max=largest) + loss(-d).clamp(max=largest)


def _sum_of_infima(loss: Elementwise, p: Tensor, q: Tensor) -> Tensor:
    """Half the sum over points of inf_d [p l(d) + q l(-d)]; p and q are exchanged where q < p, so that q may be 0."""
    larger, smaller = torch.maximum(p, q), torch.minimum(p, q)
    return (larger * infimum(loss, smaller / larger)[1]).sum() / 2

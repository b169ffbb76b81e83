r"""Margin losses l(y D(x)), and the f-divergence that the optimal critic of each one measures.

Conventions of the whole package: y = +1 for real, -1 for generated, equally often; $u = p_d(x)/p_g(x)$. Without
restrictions on D the infimum is taken inside the integral, point by point:

$$R = \inf_D E\, l(y D(x)) = -\tfrac12 \int f(p_d/p_g)\, p_g, \qquad f(u) = -\inf_d\,[u\, l(d) + l(-d)].$$

| loss        | l(m)           | f(u)                          | D*(u)             | R            |
| ----------- | -------------- | ----------------------------- | ----------------- | ------------ |
| zero-one    | 1 for m < 0    | -min(u, 1)                    | sign(u - 1)       | (1 - TV) / 2 |
| squared     | (1 - m)^2      | -4u / (u + 1)                 | (u - 1) / (u + 1) | 1 - LC / 2   |
| logistic    | log(1 + e^-m)  | u log u - (u + 1) log(u + 1)  | log u             | log 2 - JS   |
| exponential | e^-m           | -2 sqrt(u)                    | (log u) / 2       | 1 - H^2      |
| hinge       | max(0, 1 - m)  | -2 min(u, 1)                  | sign(u - 1)       | 1 - TV       |

Zero-one has l(0) = 1/2: a critic that is 0 everywhere is at chance, and D* is +1 at a tie u = 1. Total variation is
half the L1 distance, Le Cam $\int (p-q)^2/(p+q)$, squared Hellinger $1 - \int\sqrt{pq}$, Jensen-Shannon in nats. At p =
q the risk is that of chance: 1/2, 1, log 2, 1 and 1, not zero.

Source: Nguyen, Wainwright & Jordan (2009), sections 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

from jensen.core.types import takes

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MarginLoss:
    r"""A loss l(m) of the margin m = y D(x), with its f and its optimal critic.

    Attributes:
        name: name of the loss.
        loss: l, elementwise, at least 0.
        ratio_f: f as a function of u.
        ratio_critic: D* as a function of u.
        divergence: the name of $c\,(\mathrm{chance} - R)$; None if it has none.
        scale: the factor c.
        trainable: whether l has a gradient to descend.

    >>> logistic.f(torch.tensor([1.0, 3.0])), logistic.optimal(torch.tensor([1.0, 3.0]))
    (tensor([-1.3863, -2.2493]), tensor([0.0000, 1.0986]))
    """

    name: str
    loss: Elementwise = field(repr=False)
    ratio_f: Elementwise = field(repr=False)
    ratio_critic: Elementwise = field(repr=False)
    divergence: str | None = None
    scale: float = 1.0
    trainable: bool = True

    def __call__(self, margin: Num[Tensor, "*s"] | float | int) -> Float[Tensor, "*s"]:
        """l(m), with the shape of m."""
        return self.loss(_floating(torch.as_tensor(margin)))

    def f(self, u: Num[Tensor, "*s"] | float | int) -> Float[Tensor, "*s"]:
        r"""$-\inf_d [u l(d) + l(-d)]$ at ratios u >= 0, convex and non-increasing. Raises ValueError below 0."""
        return self.ratio_f(_ratio(u))

    def optimal(self, u: Num[Tensor, "*s"] | float | int) -> Float[Tensor, "*s"]:
        """The optimal critic's value where p_d / p_g = u >= 0.

        If the infimum is only approached as d grows, the value is infinite for the five named losses, and some large
        finite d for a numerical `margin_loss`.
        """
        return self.ratio_critic(_ratio(u))

    def conditional_risk(self, log_ratio: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        r"""$\inf_d [\eta\, l(d) + (1 - \eta)\, l(-d)]$ with $\eta = P(y = 1|x) = \mathrm{sigmoid}(\log u)$, by log u.

        It is even in log u, since d and -d are exchanged, so f is needed only on [0, 1]. Its mean over $(p_d + p_g)/2$
        is R.

        >>> hinge.conditional_risk(torch.tensor([0.0, float("inf")]))
        tensor([1., 0.])
        """
        u = torch.exp(-log_ratio.abs())
        return -self.ratio_f(u) / (1 + u)

    @property
    def chance(self) -> float:
        """The risk if real and generated have the same distribution, $-f(1)/2$."""
        return -float(self.ratio_f(torch.ones((), dtype=torch.float64))) / 2


def _ratio(u: Tensor | float | int) -> Tensor:
    u = _floating(torch.as_tensor(u))
    if not bool((u >= 0).all()):
        raise ValueError(f"a density ratio must be at least 0, got {u.min().item():g}")
    return u


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _finite(u: Tensor) -> Tensor:
    """u, with infinity replaced by the largest float."""
    return u.clamp(max=torch.finfo(u.dtype).max)


def _sign(u: Tensor) -> Tensor:
    return torch.where(u >= 1, 1.0, -1.0).to(u)


zero_one = MarginLoss(
    "zero-one",
    loss=lambda m: torch.where(m.isnan(), m, (1 - m.sign()) / 2),
    ratio_f=lambda u: -u.clamp(max=1),
    ratio_critic=_sign,
    divergence="total-variation",
    scale=2.0,
    trainable=False,
)
squared = MarginLoss(
    "squared",
    loss=lambda m: (1 - m).square(),
    ratio_f=lambda u: -4 * (_finite(u) / (1 + _finite(u))),
    ratio_critic=lambda u: 1 - 2 / (u + 1),
    divergence="le-cam",
    scale=2.0,
)
logistic = MarginLoss(
    "logistic",
    loss=lambda m: F.softplus(-m),
    ratio_f=lambda u: -_finite(u) * torch.log1p(1 / u.clamp(min=torch.finfo(u.dtype).tiny)) - torch.log1p(u),
    ratio_critic=torch.log,
    divergence="jensen-shannon",
)
exponential = MarginLoss(
    "exponential",
    loss=lambda m: torch.exp(-m),
    ratio_f=lambda u: -2 * u.sqrt(),
    ratio_critic=lambda u: u.log() / 2,
    divergence="hellinger",
)
hinge = MarginLoss(
    "hinge",
    loss=lambda m: F.relu(1 - m),
    ratio_f=lambda u: -2 * u.clamp(max=1),
    ratio_critic=_sign,
    divergence="total-variation",
)

MARGIN_LOSSES: dict[str, MarginLoss] = {m.name: m for m in (zero_one, squared, logistic, exponential, hinge)}


def margin_loss(loss: Elementwise, name: str = "custom") -> MarginLoss:
    r"""Any l >= 0, with f and D* by numerical minimisation over all d.

    l need be neither convex nor continuous. The candidates are the four lowest local minima of $u\,l(d) + l(-d)$ on a
    grid of 2,001 points, d = sinh(s) for |s| <= 20 (spaced by 0.02 at 0 and by 2 percent of d far out), each then
    refined; a basin narrower than the grid may be missed. f is differentiable in u: $f'(u) = -l(D^*(u))$, by the
    envelope theorem. u = inf is replaced by the largest float.

    For `optimal` the four local minima next to 0 are candidates too. Of all candidates and grid points within 1e-12
    (relative) of the minimum it is the one with the smallest |d|, and the positive one of d and -d. So for an infimum
    at infinity the result is a finite d beyond which the gain is negligible.

    Args:
        loss: l, elementwise on float64 tensors of any shape; its values are converted to the dtype of the margins.
        name: name shown in reports.

    Raises:
        ValueError: if l is not a function or does not give a tensor with the margins' shape, is nan or negative
            somewhere on the grid, is still decreasing at the ends of the grid, or if the resulting f is not convex or
            increases (see `check_f`).

    Source: Nguyen, Wainwright & Jordan (2009), section 3.

    >>> sigmoid = margin_loss(lambda m: torch.sigmoid(-m), "sigmoid")  # not convex
    >>> sigmoid.f(torch.tensor([0.5, 1.0, 2.0]))  # total variation, as zero-one
    tensor([-0.5000, -1.0000, -1.0000])
    """
    loss = _alike(loss)
    grid = _grid(torch.float64).requires_grad_()
    values = loss(grid)
    wrong = ~(values >= 0)  # nan too
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0, 0])
        raise ValueError(f"a margin loss must be at least 0, got {values[k].item():g} at margin {grid[k].item():g}")

    def best(u: Tensor, slack: float) -> Tensor:
        parts = [_minimiser(loss, part, slack) for part in u.detach().reshape(-1).split(256)]
        return torch.cat(parts).reshape(u.shape)

    def critic(u: Tensor) -> Tensor:
        return best(_finite(u.double()), TIE).to(u)

    def f(u: Tensor) -> Tensor:
        ratio = _finite(u.double())
        return -_weighed(loss, ratio, best(ratio, 0.0)).to(u)

    _refuse_beyond(loss)
    check_f(f)
    return MarginLoss(name, loss, f, critic, trainable=_slopes(values, grid))


def _alike(loss: Elementwise) -> Elementwise:
    """The loss with values converted to the dtype of its margins; raises ValueError."""
    if not callable(loss):
        raise ValueError(f"a margin loss must be a function from margins to a tensor of their shape, got {loss!r}")
    if not takes(loss):
        raise ValueError("a margin loss must be a function of one argument, the margins")

    def alike(margin: Tensor) -> Tensor:
        margin = _floating(margin)
        values = loss(margin)
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if got != tuple(margin.shape):
            raise ValueError(
                f"a margin loss must give a tensor with the shape of its margins, {tuple(margin.shape)}, got {got}"
            )
        return values.to(margin)

    return alike


def check_f(f: Elementwise, tolerance: float = 1e-9) -> None:
    """Refuse an f that increases, or lies above a chord, at u = 0, 1 and 400 ratios from 1e-4 to 1e4.

    The f of a loss l >= 0 does neither, being a supremum of lines with slope -l(d); one that does was not minimised
    over all d.

    Args:
        f: elementwise.
        tolerance: tolerance of the comparison, relative to 1 + |f|.

    Raises:
        ValueError: if f increases or is not convex; the message says where.

    >>> check_f(lambda u: (u - 1) ** 2)
    Traceback (most recent call last):
    ...
    ValueError: f must never increase, but f(1.023) = 0.0005453 > f(1) = 0
    """
    u = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-4, 4, 400, dtype=torch.float64)])
    u = torch.cat([u, torch.ones(1, dtype=torch.float64)]).sort().values.unique()
    values = f(u)
    slack = tolerance * (1 + values.abs())
    rises = values[1:] > values[:-1] + slack[1:]
    if bool(rises.any()):
        k = int(rises.nonzero()[0, 0])
        raise ValueError(
            f"f must never increase, but f({u[k + 1].item():.4g}) = {values[k + 1].item():.4g} "
            f"> f({u[k].item():.4g}) = {values[k].item():.4g}"
        )
    share = (u[1:-1] - u[:-2]) / (u[2:] - u[:-2])
    chord = (1 - share) * values[:-2] + share * values[2:]
    above = values[1:-1] > chord + slack[1:-1]
    if bool(above.any()):
        k = int(above.nonzero()[0, 0])
        raise ValueError(
            f"f must be convex, but f({u[k + 1].item():.4g}) lies {(values[k + 1] - chord[k]).item():.2g} above the "
            f"chord from {u[k].item():.4g} to {u[k + 2].item():.4g}"
        )


def _refuse_beyond(loss: Elementwise) -> None:
    """Refuse a loss that is lower beyond the grid than on it."""
    u = RATIOS.to(torch.float64)[:, None]
    grid = _grid(torch.float64)
    least = _weighed(loss, u, grid).amin(1)
    beyond = _weighed(loss, u, BEYOND * grid[[0, -1]]).amin(1)
    if bool((beyond < least - FALLING * (1 + least.abs())).any()):
        raise ValueError(
            f"a margin loss must have its minima at margins up to {grid[0].item():.3g}, but it decreases beyond: "
            "rescale its margins"
        )


def _grid(dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Values of d in decreasing order, symmetric about 0."""
    half = torch.sinh(torch.linspace(0, 20, 1001, dtype=dtype, device=device))
    return torch.cat([half.flip(0), -half[1:]])


def _slopes(values: Tensor, margins: Tensor) -> bool:
    """Whether the values have a gradient that is not 0 everywhere."""
    return values.requires_grad and bool((torch.autograd.grad(values.sum(), margins)[0] != 0).any())


def _weighed(loss: Elementwise, u: Tensor, d: Tensor) -> Tensor:
    """The weighted loss u l(d) + l(-d), with overflows of l replaced by the largest float, so that 0 l is 0."""
    largest = torch.finfo(d.dtype).max
    return u * loss(d).clamp(max=largest) + loss(-d).clamp(max=largest)


RATIOS = torch.tensor([0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0])
BEYOND, FALLING = 10.0, 1e-6  # how far beyond the grid to look, and what counts as decreasing there
STARTS, POINTS, LEVELS = 4, 9, 20  # each level shrinks the bracket by a factor of 4: 4^20 = 1e12
TIE = 1e-12


@torch.no_grad()
def _minimiser(loss: Elementwise, u: Tensor, slack: float) -> Tensor:
    """For each u (N,), the d that minimises u l(d) + l(-d).

    Among those within `slack` (relative) of the minimum, the one nearest to 0, then the positive one.
    """
    grid = _grid(u.dtype, u.device)
    values = F.pad(_weighed(loss, u[:, None], grid), (1, 1), value=math.inf)
    here, left, right = values[:, 1:-1], values[:, :-2], values[:, 2:]
    lowest = (here <= left) & (here <= right) & ((here < left) | (here < right))  # the ends of a plateau
    keys = (here, grid.abs()) if slack else (here,)
    start = torch.cat([torch.where(lowest, v, math.inf).topk(STARTS, largest=False).indices for v in keys], 1)
    gaps = -grid.diff()
    centre, radius = grid[start], torch.maximum(F.pad(gaps, (0, 1)), F.pad(gaps, (1, 0)))[start]
    offsets = torch.linspace(1, -1, POINTS, dtype=u.dtype, device=u.device)
    offsets = offsets[offsets.abs().argsort(stable=True)]  # the centre first: it is kept in a tie
    for _ in range(LEVELS):
        d = centre[..., None] + radius[..., None] * offsets
        best = _weighed(loss, u[:, None, None], d).argmin(-1, keepdim=True)
        centre, radius = d.gather(-1, best).squeeze(-1), radius * (2 / (POINTS - 1))
    d = torch.cat([centre, grid.expand(len(u), -1)], 1)
    values = torch.cat([_weighed(loss, u[:, None], centre), here], 1)
    least = values.amin(1, keepdim=True)
    enough = least + slack * least.abs()
    nearest = torch.where(values <= enough, d.abs(), math.inf).argmin(1, keepdim=True)
    d = d.gather(1, nearest)
    return torch.where(_weighed(loss, u[:, None], d.abs()) <= enough, d.abs(), d).squeeze(1)

r"""The tail of importance weights: its heaviness, and whether the mean of the weights can be trusted."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count, checked

TOLD = 100  # fewest weights, with a tail of 20, for which its shape can be estimated
FLAT = 1e-3  # weights within this relative distance are considered equal


def tail_length(count: int) -> int:
    r"""The number of weights that form the tail of S weights: $\lceil \min(S / 5, 3 \sqrt S) \rceil$.

    Source: Vehtari et al. (2024), section 3.

    >>> tail_length(5000)
    213
    """
    check_count(count=count)
    return math.ceil(min(0.2 * count, 3 * math.sqrt(count)))


def pareto_limit(count: int) -> float:
    r"""The largest k for which the mean of S weights can be trusted: $\min(1 - 1 / \log_{10} S, 0.7)$.

    Source: Vehtari et al. (2024), section 3.

    >>> pareto_limit(100), pareto_limit(5000)
    (0.5, 0.7)
    """
    check_count(count=count)
    return min(1 - 1 / math.log10(count), 0.7) if count > 1 else -math.inf


@checked
def pareto_k(largest: Float[Tensor, "m b"], count: int) -> Float[Tensor, " b"]:
    r"""The shape k of the weights' tail: the variance is finite for k < 1/2, the mean for k < 1.

    A generalized Pareto distribution is fitted to the excesses of the largest weights over the next largest one, and k
    is shrunk towards 1/2 with the weight of ten observations.

    Args:
        largest: log weights (m, B) in descending order, at least `tail_length(count)` + 1 of them.
        count: S, the number of all weights.

    Returns:
        k, (B,) float64; $-\infty$ where the largest weights are equal; nan where it cannot be estimated: from fewer
        than 100 weights, or where a quarter of the tail equals the next weight.

    Source: Vehtari et al. (2024), algorithm 1 and appendix; Zhang & Stephens (2009) for the fit.

    >>> u = torch.arange(0.5, 1000, dtype=torch.float64)[:, None] / 1000
    >>> heavy = -0.9 * u.log()  # quantiles of a Pareto law of k = 0.9
    >>> pareto_k(heavy, 1000).round(decimals=2)
    tensor([0.8400], dtype=torch.float64)
    """
    n = tail_length(count)
    if not len(largest):
        raise ValueError(f"largest must have at least one row, got shape {tuple(largest.shape)}")
    log_w = (largest[: n + 1] - largest[:1]).double()  # relative to the largest weight
    if len(log_w) <= n:
        return torch.full_like(log_w[0], math.nan)
    flat = log_w[-1] > math.log1p(-FLAT)
    if count < TOLD:
        return torch.where(flat, -math.inf, math.nan)
    excess = (log_w[:-1].exp() - log_w[-1].exp()).flip(0)
    told, tied = excess[_quartile(n)] > 0, log_w.flip(0)[_quartile(n) + 1] == log_w[-1]
    k = generalized_pareto(torch.where(told & ~flat, excess, 1.0))
    k = torch.where(told, (n * k + 5) / (n + 10), torch.where(tied, math.nan, math.inf))
    return torch.where(flat, -math.inf, k).masked_fill(log_w.isnan().any(0), math.nan)


def generalized_pareto(x: Float[Tensor, "n b"]) -> Float[Tensor, " b"]:
    r"""The shape k of a generalized Pareto distribution, $p(x) \propto (1 + k x / \sigma)^{-1/k - 1}$, for each column.

    With $\theta = -k / \sigma$ the profile log-likelihood is
    $\ell(\theta) = n (\log(-\theta / k(\theta)) - k(\theta) - 1)$, $k(\theta) = \mathrm{mean} \log(1 - \theta x)$; the
    estimate is $k(\hat\theta)$ at the mean of $\theta$ over a grid of $30 + \lfloor \sqrt n \rfloor$ points, weighted
    by the profile likelihood.

    Args:
        x: positive, ascending, (n, B).

    Source: Zhang & Stephens (2009), section 3; their k is minus this one.

    >>> u = torch.arange(0.5, 1000, dtype=torch.float64)[:, None] / 1000
    >>> generalized_pareto(((1 - u) ** -0.3 - 1) / 0.3).round(decimals=2)
    tensor([0.3000], dtype=torch.float64)
    """
    n = len(x)
    points = 30 + math.isqrt(n)
    place = torch.arange(1, points + 1).to(x)[:, None] - 0.5
    theta = 1 / x[-1] + (1 - (points / place).sqrt()) / (3 * x[_quartile(n)])
    k = torch.stack([torch.log1p(-one * x).mean(0) for one in theta])
    profile = n * ((-theta / k).log() - k - 1)
    best = (profile.softmax(0) * theta).sum(0)
    return torch.log1p(-best * x).mean(0)


def _quartile(n: int) -> int:
    """The index of the lower quartile of n ascending numbers."""
    return int(n / 4 + 0.5) - 1

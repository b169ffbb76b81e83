"""The area under the ROC curve: how often numbers of one kind exceed those of another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Num
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu
from torch import Tensor

from jensen.metrics.proportion import Proportion


@dataclass(frozen=True)
class AUC:
    """Probability that a number of one kind exceeds one of the other, ties counting half.

    Attributes:
        value: 1/2 if these numbers do not distinguish the two kinds, 1 if all of one exceed all of the other.
        stderr: DeLong's standard error, over the choice of both; 0 if the two kinds do not overlap (the interval still
            has a width).
        p_value: probability of a value at least this large if both kinds have the same distribution: Mann and Whitney's
            test, one-sided, exact for small samples without ties.
        low, high: Newcombe's 95 percent interval.
        n: total number of values of both kinds.
    """

    value: float
    stderr: float
    p_value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> Proportion:
        return Proportion(self.value, self.low, self.high, self.n)


def auc(below: Num[Tensor, "..."], above: Num[Tensor, "..."]) -> AUC:
    r"""$P(b < a) + \frac12 P(b = a)$ for b of `below` and a of `above`.

    With $P_b$ the fraction of `above` that exceeds a given b and $P_a$ the fraction of `below` that is below a given a
    (ties counting half), the variance is $\mathrm{var}(P_b)/n + \mathrm{var}(P_a)/m$. The interval solves
    $|\theta - \hat\theta| = z \sqrt{V(\theta)}$, as Wilson's does, with the variance V of two exponential
    distributions. For a critic's scores of generated and real examples this is the probability that it ranks a real one
    above a generated one.

    Args:
        below: (N,), N at least 2.
        above: (M,), M at least 2.

    Raises:
        ValueError: for anything but one row of at least two numbers that are not nan.

    Source: Mann & Whitney (1947); DeLong et al. (1988), section 2; Hanley & McNeil (1982), equation 2, and Newcombe
    (2006), method 5, for the interval.

    >>> found = auc(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.5, 3.0]))
    >>> round(found.value, 4), round(found.p_value, 4)  # 5 of 6 pairs, so much or more in 2 of 10 orders
    (0.8333, 0.2)
    """
    for rows in (below, above):
        if rows.ndim != 1 or len(rows) < 2:
            raise ValueError(f"numbers must be one row of at least 2, got shape {tuple(rows.shape)}")
        if bool(rows.isnan().any()):
            raise ValueError("numbers must not be nan, and some are")
    b, a = (rows.detach().cpu().double().contiguous() for rows in (below, above))
    under, over = _share_below(a, b), _share_below(b, a)
    value, n = float(under.mean()), (len(b), len(a))
    stderr = math.sqrt(float(over.var()) / n[0] + float(under.var()) / n[1])
    p_value = float(mannwhitneyu(a.numpy(), b.numpy(), alternative="greater").pvalue)
    return AUC(value, stderr, p_value, *_interval(value, *n), sum(n))


def _share_below(x: Tensor, others: Tensor) -> Tensor:
    """For each x, the fraction of the others that are below it, ties counting half."""
    ordered = others.sort().values
    first, last = (torch.searchsorted(ordered, x, right=right) for right in (False, True))
    return (first + last).double() / (2 * len(others))


def _interval(value: float, n: int, m: int, z: float = 1.959963984540054) -> tuple[float, float]:
    more, inside = (n + m) / 2 - 1, min(max(value, 1e-12), 1 - 1e-12)

    def off(t: float) -> float:
        variance = t * (1 - t) * (1 + more * (1 - t) / (2 - t) + more * t / (1 + t)) / (n * m)
        return (t - value) ** 2 - z**2 * variance

    low = 0.0 if value == 0 else float(brentq(off, 0.0, inside))
    high = 1.0 if value == 1 else float(brentq(off, inside, 1.0))
    return low, high

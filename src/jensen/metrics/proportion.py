"""A proportion and its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Proportion:
    """A proportion `value` of `n` trials, with a 95 percent interval [low, high]."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> Proportion:
    r"""Wilson's score interval.

    $\frac{\hat p + z^2/2n \pm z \sqrt{\hat p (1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}$

    Args:
        successes: number of successes, from 0 to n.
        n: number of trials, at least 1.
        z: normal quantile; 1.96 for 95 percent.

    Raises:
        ValueError: if the numbers are out of range.

    Source: Wilson (1927), equation 4.

    >>> print(wilson(95, 100))
    95.0% [88.8, 97.8]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be from 0 to n and n at least 1, got {successes} of {n}")
    p, square = successes / n, z**2 / n
    centre = (p + square / 2) / (1 + square)
    half = z * math.sqrt(p * (1 - p) / n + square / (4 * n)) / (1 + square)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Proportion(p, low, high, n)

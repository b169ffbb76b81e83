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


def relative(found: Proportion, ceiling: Proportion) -> Proportion:
    r"""The ratio of two independent proportions, which may exceed 1, with a 95 percent interval; its n is `found`'s.

    With intervals $[l, u]$ of $p$ and $[l', u']$ of $p'$, and $a = pp'$, it is from
    $\frac{l(2p - l)}{a + \sqrt{a^2 - l(2p - l) u'(2p' - u')}}$ to
    $\frac{a + \sqrt{a^2 - u(2p - u) l'(2p' - l')}}{l'(2p' - l')}$.

    Raises:
        ValueError: if the ceiling, or the low end of its interval, is 0.

    Source: Newcombe (2016), MOVER-R confidence intervals for ratios and products.

    >>> print(relative(wilson(900, 1000), wilson(950, 1000)))
    94.7% [92.3, 97.1]
    """
    p, q = found.value, ceiling.value
    if not ceiling.low > 0:
        raise ValueError(f"ceiling must be above 0, got {ceiling}")
    a, lowest = p * q, found.low * (2 * p - found.low)
    least, most = ceiling.low * (2 * q - ceiling.low), ceiling.high * (2 * q - ceiling.high)
    low = lowest / (a + math.sqrt(a * a - lowest * most)) if lowest > 0 else 0.0
    high = (a + math.sqrt(a * a - found.high * (2 * p - found.high) * least)) / least
    return Proportion(p / q, low, high, found.n)

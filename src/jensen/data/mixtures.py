"""Points around known modes: a ring and a grid of Gaussians, the usual test of mode collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from jensen.core.distances import squared_distances


@dataclass(frozen=True)
class Modes:
    r"""$\sum_k w_k N(c_k, \sigma^2 I)$.

    Attributes:
        centres: (K, D).
        std: sigma.
        weights: (K,), with sum 1.
    """

    centres: Tensor
    std: float
    weights: Tensor

    def law(self) -> MixtureSameFamily:
        """The distribution itself, in the dtype of the centres."""
        parts = Independent(Normal(self.centres, torch.full_like(self.centres, self.std)), 1)
        return MixtureSameFamily(Categorical(self.weights), parts)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x (..., D), nats."""
        found: Tensor = self.law().log_prob(x)
        return found

    def noised(self, sigma: float) -> Modes:
        r"""$\sum_k w_k N(c_k, (s^2 + \sigma^2) I)$: with Gaussian noise of standard deviation sigma added, float64."""
        return Modes(self.centres.double(), math.hypot(self.std, sigma), self.weights.double())

    def rings(self, edges: Tensor) -> Tensor:
        r"""Probabilities (K, R) of rings around each mode, with radii `edges` in standard deviations, the last
        unbounded.

        $w_k (e^{-a^2/2} - e^{-b^2/2})$ in the plane, for modes so far apart that they do not overlap.
        """
        beyond = torch.cat([(-edges.double().square() / 2).exp(), torch.zeros(1, dtype=torch.float64)])
        return self.weights.double()[:, None] * -beyond.diff()

    def which_ring(self, x: Tensor, edges: Tensor) -> Tensor:
        """The index of the ring that contains each x (N, 2): k R + r, with k its nearest mode, (N,)."""
        square, mode = next(squared_distances(x, self.centres, len(x))).min(1)
        return mode * len(edges) + torch.bucketize(square.sqrt() / self.std, edges.double(), right=True) - 1

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, D).

        Raises:
            ValueError: for n < 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.centres.shape[1], generator=generator, dtype=self.centres.dtype)
        return self.centres[which] + self.std * noise


def ring(modes: int = 8, *, radius: float = 1.0, std: float = 0.01, balance: float = 1.0) -> Modes:
    """Gaussians evenly spaced on a circle, the first at angle 0, float32.

    Args:
        modes: number of modes.
        radius: radius of the circle.
        std: standard deviation of each mode in each direction.
        balance: weight of the last mode divided by that of the first, geometric in between; 1: equal weights.

    Raises:
        ValueError: for no modes, a radius or std that is not positive, or a balance outside (0, 1].

    Source: Srivastava et al. (2017), section 4.1, with the sizes of Lin et al. (2018), section 4.1.

    >>> ring(4, radius=2.0).centres.round().abs().tolist()
    [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]
    """
    _check(modes, radius=radius, std=std)
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return Modes((radius * torch.stack([angle.cos(), angle.sin()], 1)).float(), std, geometric_weights(modes, balance))


def grid(side: int = 5, *, spacing: float = 2.0, std: float = 0.05, balance: float = 1.0) -> Modes:
    """Gaussians on a square grid around the origin, row by row, float32.

    Args:
        side: number of modes in a row.
        spacing: distance between neighbouring modes.
        std: standard deviation of each mode in each direction.
        balance: as in `ring`.

    Raises:
        ValueError: as in `ring`.

    Source: Srivastava et al. (2017), section 4.1, with the sizes of Lin et al. (2018), section 4.1.

    >>> grid(2).centres.tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    _check(side, spacing=spacing, std=std)
    line = spacing * (torch.arange(side) - (side - 1) / 2)
    centres = torch.stack([line.repeat(side), line.repeat_interleave(side)], 1)
    return Modes(centres, std, geometric_weights(side**2, balance))


def geometric_weights(modes: int, balance: float) -> Tensor:
    """Weights (K,) that sum to 1, in decreasing order; the ratio of the last to the first is `balance`.

    Raises:
        ValueError: for a balance outside (0, 1].

    >>> geometric_weights(3, 0.25)
    tensor([0.5714, 0.2857, 0.1429])
    """
    if not 0 < balance <= 1:
        raise ValueError(f"balance must be above 0 and at most 1, got {balance}")
    weights = torch.tensor(balance, dtype=torch.float64) ** torch.linspace(0, 1, modes, dtype=torch.float64)
    return (weights / weights.sum()).float()


def _check(modes: int, **sizes: float) -> None:
    if modes < 1:
        raise ValueError(f"modes must be at least 1, got {modes}")
    for name, size in sizes.items():
        if not 0 < size < math.inf:
            raise ValueError(f"{name} must be positive, got {size}")

"""Initial components: the best of several runs of k-means from k-means++."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.core.distances import squared_distances


def nearest(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the nearest centre, (N,)."""
    return next(squared_distances(x, centres, len(x))).argmin(1)


def seeds(x: Float[Tensor, "n d"], count: int, generator: torch.Generator | None = None) -> Float[Tensor, "k d"]:
    r"""K-means++: each next row is drawn with probability proportional to its squared distance from the nearest centre.

    The greedy variant: of $2 + \lfloor\log K\rfloor$ candidates it takes the one that leaves the smallest sum of
    squared distances.

    Source: Arthur & Vassilvitskii (2007), algorithm 2.2 and the remark in its section 5.

    >>> x = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    >>> bool((seeds(x, 2, torch.Generator().manual_seed(0)) > 5).sum() == 1)
    True
    """
    trials = 2 + int(math.log(count))
    chosen = [x[_draw(x.new_ones(len(x)), 1, generator)]]
    far = (x - chosen[0]).square().sum(1)
    for _ in range(count - 1):
        candidates = x[_draw(far if bool(far.sum() > 0) else torch.ones_like(far), trials, generator)]
        left = torch.minimum(far[:, None], next(squared_distances(x, candidates, len(x))).to(x))
        best = left.sum(0).argmin()
        chosen.append(candidates[best, None])
        far = left[:, best]
    return torch.cat(chosen)


def best_centres(
    x: Float[Tensor, "n d"], count: int, *, tries: int, rounds: int, generator: torch.Generator | None = None
) -> Float[Tensor, "k d"]:
    """The centres with the smallest sum of squared distances to the rows, of several runs of k-means."""
    found = [k_means(x, seeds(x, count, generator), rounds) for _ in range(tries)]
    costs = [(x - c[nearest(x, c)]).square().sum() for c in found]
    return found[int(torch.stack(costs).argmin())]


def k_means(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], rounds: int) -> Float[Tensor, "k d"]:
    """Centres after this number of rounds of Lloyd's algorithm; centres of empty clusters do not move."""
    for _ in range(rounds):
        labels = nearest(x, centres)
        counts = labels.bincount(minlength=len(centres))[:, None]
        means = torch.zeros_like(centres).index_add_(0, labels, x) / counts.clamp_min(1)
        centres = torch.where(counts > 0, means, centres)
    return centres


def _draw(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    device = weights.device if generator is None else generator.device
    return torch.multinomial(weights.to(device), n, replacement=True, generator=generator).to(weights.device)

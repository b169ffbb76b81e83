"""Doubly stochastic sums: a sum over data seen through a random part of it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def subsampled_sum(values: Float[Tensor, "*k b"], population: int) -> Float[Tensor, "*k"]:
    r"""$\frac{N}{B} \sum_{i \in \mathrm{batch}} v_i$: unbiased for the sum over all N, if each is as likely drawn.

    The values may themselves be Monte Carlo estimates: the two errors are independent, so the sum stays unbiased.

    Args:
        values: (B,), one per example of the batch, or (K, B) of K draws.
        population: N, at least B.

    Returns:
        (), or (K,): a sum for each draw.

    Raises:
        ValueError: for an empty batch, or one larger than the population.

    Source: Hoffman et al. (2013), section 2.3; Titsias & Lázaro-Gredilla (2014).

    >>> import torch
    >>> subsampled_sum(torch.tensor([1.0, 3.0]), 10)
    tensor(20.)
    """
    batch = values.shape[-1]
    if not 1 <= batch <= population:
        raise ValueError(f"a batch must hold between 1 and {population} of the population, got {batch}")
    total: Tensor = values.sum(-1) * (population / batch)
    return total

"""Doubly stochastic sums: estimates of a sum over all data from a random batch."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import checked


@checked
def subsampled_sum(values: Float[Tensor, "*k b"], population: int) -> Float[Tensor, "*k"]:
    r"""$\frac{N}{B} \sum_{i \in \mathrm{batch}} v_i$: unbiased for the sum over all N under uniform sampling.

    The values may themselves be unbiased Monte Carlo estimates: the sum remains unbiased.

    Args:
        values: (B,), one per example of the batch, or (K, B) for K draws.
        population: N, at least B.

    Returns:
        (), or (K,): one sum per draw.

    Raises:
        ValueError: for an empty batch, or one larger than the population.

    Source: Hoffman et al. (2013), section 2.3; Titsias & Lázaro-Gredilla (2014).

    >>> import torch
    >>> subsampled_sum(torch.tensor([1.0, 3.0]), 10)
    tensor(20.)
    """
    batch = values.shape[-1]
    if not 1 <= batch <= population:
        raise ValueError(f"the batch must hold between 1 and {population} examples, got {batch}")
    total: Tensor = values.sum(-1) * (population / batch)
    return total

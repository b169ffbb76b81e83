"""Instance noise: annealed noise on the critic's inputs, both real and generated."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_rows


def instance_noise(x: Float[Tensor, "b ..."], sigma: float, generator: Rng = None) -> Float[Tensor, "b ..."]:
    r"""$x + \sigma\epsilon$, $\epsilon \sim N(0, I)$: for the critic's inputs, real and generated, with separate draws.

    The supports then overlap, so that the optimal critic has a gradient. With sigma = 0 the result is x itself.

    Args:
        x: (B, ...).
        sigma: standard deviation of the noise, in the units of x, at least 0.
        generator: None, one, or one per row.

    Raises:
        ValueError: for a negative sigma.

    Source: Sonderby et al. (2017), section 3.2; Arjovsky & Bottou (2017), section 3.

    >>> import torch
    >>> instance_noise(torch.ones(2), 0.0)
    tensor([1., 1.])
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    check_rows(x=x)
    return x + sigma * normal(x.shape, generator, like=x) if sigma else x


def annealed(start: float, steps: int, end: float = 0.0) -> Callable[[int], float]:
    """Linear from `start` at step 0 to `end` at step `steps`, constant outside: step -> sigma.

    Raises:
        ValueError: for a negative start or end, or fewer than 1 step.

    >>> sigma = annealed(0.5, 100)
    >>> sigma(0), sigma(50), sigma(100), sigma(1000)
    (0.5, 0.25, 0.0, 0.0)
    """
    if not (start >= 0 and end >= 0 and steps >= 1):
        raise ValueError(f"start and end must be at least 0 and steps at least 1, got {start}, {end} and {steps}")
    return lambda step: start + (end - start) * min(max(step / steps, 0.0), 1.0)

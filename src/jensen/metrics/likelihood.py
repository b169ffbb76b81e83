"""Likelihoods in bits per dimension."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count, single


def bits_per_dim(nats: Float[Tensor, "*b"], dims: int, bin_width: float = 1.0) -> Float[Tensor, "*b"]:
    r"""$-\log p(x) / (D \log 2) - \log_2 w$: lower is better. Computed at least in float32.

    Args:
        nats: log-likelihoods, of a mass (width 1), or of a density of dequantized data with bins of this width.
        dims: D, at least 1.
        bin_width: w, in the units of the density: 2 / 255 for bytes scaled to [-1, 1].

    Raises:
        ValueError: for dims < 1 or a width that is not positive.

    Source: Theis et al. (2016), section 3.1.

    >>> import torch
    >>> bits_per_dim(torch.tensor([-3072 * math.log(256)]), dims=3072)  # bytes, evenly likely
    tensor([8.])
    """
    check_count(dims=dims)
    if not bin_width > 0:
        raise ValueError(f"bin_width must be positive, got {bin_width}")
    return -single(nats) / (dims * math.log(2)) - math.log2(bin_width)

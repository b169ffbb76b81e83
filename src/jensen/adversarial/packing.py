"""Packing: the critic sees m examples at a time, all real or all generated."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import check_count


def pack(x: Float[Tensor, "..."], m: int) -> Float[Tensor, "..."]:
    r"""Concatenate every m neighbours of a batch along the first event axis: (B, C, ...) -> (B / m, m C, ...).

    A critic of packs distinguishes $p_d^m$ from $p_g^m$: a missing mode, which is hard to detect in one example, is
    easier to detect in m. Its first layer takes m C channels; nothing else changes.

    Args:
        x: (B, C, ...), independent examples.
        m: number of examples per pack, at least 1; 1 changes nothing.

    Raises:
        ValueError: for m < 1, a batch that m does not divide, or events without an axis.

    Source: Lin et al. (2018), section 2 (PacGAN).

    >>> import torch
    >>> pack(torch.arange(8.0).reshape(4, 2), 2)
    tensor([[0., 1., 2., 3.],
            [4., 5., 6., 7.]])
    """
    check_count(m=m)
    if x.ndim < 2 or len(x) % m:
        raise ValueError(f"a batch to pack by {m} must be (B, C, ...) with B a multiple of {m}, got {tuple(x.shape)}")
    return x.reshape(len(x) // m, m * x.shape[1], *x.shape[2:])

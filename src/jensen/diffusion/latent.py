"""Interpolation of latents along the sphere on which Gaussian noise concentrates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import checked, right_pad


@checked
def slerp(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], share: Float[Tensor, " n"]
) -> Float[Tensor, "n ..."]:
    r"""Spherical interpolation: $\frac{\sin((1-\tau)\theta)}{\sin\theta} a + \frac{\sin(\tau\theta)}{\sin\theta} b$.

    $\theta$ is the angle between the two vectors. In many dimensions, draws of N(0, I) have nearly the same length, and
    so have the points of this path, while those on the straight line are too short. In one dimension the path is the
    straight line.

    Args:
        first, second: one latent each, of the same shape.
        share: (N,) $\tau$: 0 gives the first, 1 the second.

    Returns:
        (N, ...).

    Raises:
        ValueError: for shapes that differ, a zero latent, or two that point in opposite directions.

    Source: Shoemake (1985), section 3.3; Song et al., DDIM (2021), appendix D.5.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
    tensor([[0.7071, 0.7071]])
    """
    if first.shape != second.shape:
        raise ValueError(f"latents must have the same shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b, line = first.double(), second.double(), first.numel() == 1  # a line has no arc
    lengths = a.norm() * b.norm()
    if bool(lengths == 0) and not line:
        raise ValueError("latents must not be zero: a zero latent has no direction")
    # from the lengths of the sum and difference of unit vectors, which is accurate for small angles too
    u, v = a / a.norm(), b / b.norm()
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if bool(angle > torch.pi - 1e-6) and not line:
        raise ValueError("latents must not point in opposite directions: there is no unique shortest path")
    share = right_pad(share.to(a), a[None])
    if line or bool(angle < 1e-6):
        return (a + share * (b - a)).to(first)
    mixed = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
    return (mixed / torch.sin(angle)).to(first)

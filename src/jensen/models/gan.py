"""The generator of an adversarial game, which maps noise to data in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count, checked
from jensen.diffusion import slerp
from jensen.models.chunks import refuse_condition

CHUNK = 256


class GAN(nn.Module):
    r"""$x = G(z)$, $z \sim N(0, I)$. The critic belongs to the objective, not to the model.

    The batch size changes the last bits of a matrix product, so `decode` processes rows in padded chunks of a fixed
    size: each row is then a function of its noise alone.

    Args:
        network: G, from (B, *shape) to (B, *event).
        shape: shape of z, or its length as one number.
        bound: samples are clipped to [-bound, bound]; `forward` is not, so that every pixel keeps its gradient. None:
            no bound.

    Raises:
        ValueError: for an empty shape, or one with an axis below 1, or a bound that is not positive.

    Source: Goodfellow et al. (2014).

    >>> model = GAN(nn.Linear(3, 2), [3])
    >>> a = model.sample(5, generator=torch.Generator().manual_seed(0))
    >>> b = model.sample(7, generator=torch.Generator().manual_seed(0))
    >>> a.shape, bool((a == model.decode(model.latent(5, torch.Generator().manual_seed(0)))).all())
    (torch.Size([5, 2]), True)
    >>> GAN(nn.Identity(), 3).sample(2).shape  # a length is a shape, and a network needs no parameters
    torch.Size([2, 3])
    """

    def __init__(self, network: nn.Module, shape: int | Sequence[int], *, bound: float | None = None):
        super().__init__()
        if bound is not None and not bound > 0:
            raise ValueError(f"bound must be positive, got {bound}")
        self.bound = bound
        axes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        if not axes or not all(isinstance(k, Integral) and k >= 1 for k in axes):
            raise ValueError(f"the shape of z must have axes of at least 1, got {shape!r}")
        self.network = network
        self.shape = tuple(int(k) for k in axes)

    @checked
    def forward(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, "..."]:
        """G(z), with gradients, for objectives."""
        x: Tensor = self.network(z)
        return x

    def latent(self, n: int, generator: Rng = None) -> Float[Tensor, "n ..."]:
        """Draws of z, (n, *shape).

        Args:
            n: number of samples, at least 1.
            generator: None, one, or n of them, one per row.

        Raises:
            ValueError: for n < 1, or a number of generators other than n.
        """
        check_count(n=n)
        if isinstance(generator, Sequence) and len(generator) != n:
            raise ValueError(f"generators must be {n}, one per row, got {len(generator)}")
        like = next(self.network.parameters(), torch.empty(()))  # without parameters: torch's default
        return normal((n, *self.shape), generator, like=like)

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """G(z) in evaluation mode, within the bound, without a gradient.

        Raises:
            ValueError: unless the rows of z have the model's shape.
        """
        if not len(z) or tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"z must be rows of shape {self.shape}, got shape {tuple(z.shape)}")
        with evaluating(self):
            padded = torch.cat([z, z[:1].expand(-len(z) % CHUNK, *self.shape)])
            x = torch.cat([self(part) for part in padded.split(CHUNK)])[: len(z)]
            return x if self.bound is None else x.clamp(-self.bound, self.bound)

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None) -> Float[Tensor, "n ..."]:
        """N draws of x, (n, *event), without a gradient.

        Args:
            n: number of samples, at least 1.
            cond: must be None, since there are no conditions.
            generator: None, one, or n of them, one per row: then a row is a function of its generator alone.

        Raises:
            ValueError: for n < 1, a condition, or a number of generators other than n.
        """
        refuse_condition(cond)
        return self.decode(self.latent(n, generator))

    def interpolate(self, first: torch.Generator, second: torch.Generator, n: int) -> Float[Tensor, "n ..."]:
        """G along the great circle from the z of one generator to that of another: n rows, including both ends.

        Raises:
            ValueError: for n < 2.
        """
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        a, b = self.latent(1, first)[0], self.latent(1, second)[0]
        return self.decode(slerp(a, b, torch.linspace(0, 1, n, device=a.device)))

    def extra_repr(self) -> str:
        return f"z of {math.prod(self.shape)}"

"""Noise that does not hang on what it is added to: a level learned for each coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

Law = Callable[[Tensor, Tensor], Distribution]
"""Means and scales of one shape to a distribution of each number."""


def _normal(mean: Tensor, std: Tensor) -> Distribution:
    return Normal(mean, std, validate_args=False)


class DiagonalNoise(nn.Module):
    r"""$N(\mu, \mathrm{diag}(s^2))$ with a learned s of each coordinate, the same for every input; the output is $\mu$.

    A decoder's family. $s = s_{\min} + e^\rho$ with a parameter $\rho$ of the event's shape. Given the means, and draws
    z of q, the bound is largest at $s_i^2 = \mathrm{mean}\, (x_i - \mu_i(z))^2$ over data and draws, where that is
    above $s_{\min}^2$; with linear means the model is factor analysis. Without $s_{\min}$ the density of a coordinate
    that is rebuilt exactly, a constant one say, would be unbounded.

    Args:
        shape: of one event.
        std: where s starts, above min_std.
        min_std: positive.
        law: of each number given its mean and s, instead of the Gaussian: a `DiscretizedLogistic`, say.

    Raises:
        ValueError: unless 0 < min_std < std < inf; called, if the output does not end in the shape.

    Source: Rubin & Thayer (1982), equation 6; Rybkin, Daniilidis & Levine (2021), section 3.

    >>> DiagonalNoise(2, std=0.5)(torch.zeros(3, 2)).variance[0]
    tensor([0.2500, 0.2500], grad_fn=<SelectBackward0>)
    """

    def __init__(self, shape: int | Sequence[int], std: float = 1.0, *, min_std: float = 1e-3, law: Law = _normal):
        super().__init__()
        if not 0 < min_std < std < math.inf:
            raise ValueError(f"stds must be 0 < min_std < std < inf, got {min_std} and {std}")
        self.min_std, self.law = min_std, law
        self.raw = nn.Parameter(torch.full((shape,) if isinstance(shape, int) else tuple(shape), std - min_std).log())

    @property
    def std(self) -> Tensor:
        """S, of the event's shape."""
        return self.min_std + self.raw.exp()

    def forward(self, mean: Float[Tensor, "..."]) -> Distribution:
        axes, shape = self.raw.ndim, tuple(self.raw.shape)
        if tuple(mean.shape[mean.ndim - axes :]) != shape:
            raise ValueError(f"means must end in {shape}, got shape {tuple(mean.shape)}")
        return Independent(self.law(mean, self.std.to(mean.dtype).expand(mean.shape)), axes, validate_args=False)

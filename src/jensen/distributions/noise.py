"""Gaussian noise with a learned standard deviation per coordinate, shared by all data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

Law = Callable[[Tensor, Tensor], Distribution]
"""Maps means and scales of equal shape to an elementwise distribution."""


def _normal(mean: Tensor, std: Tensor) -> Distribution:
    return Normal(mean, std, validate_args=False)


class DiagonalNoise(nn.Module):
    r"""$N(\mu, \mathrm{diag}(s^2))$ with one learned vector s for all inputs; the network's output is $\mu$.

    A family for decoders. $s = s_{\min} + e^\rho$ with a parameter $\rho$ of the event's shape. For given means, the
    bound is largest at $s_i^2 = \mathrm{mean}\, (x_i - \mu_i(z))^2$ over data and draws z of q, if that is above
    $s_{\min}^2$; with linear means the model is factor analysis. Without the floor $s_{\min}$ the density would be
    unbounded for a coordinate that is reconstructed exactly, such as a constant one.

    Args:
        shape: event shape.
        std: initial value of s, above min_std; a number, or a vector of the event's shape.
        min_std: the floor, positive.
        law: distribution of each entry given its mean and scale; Gaussian by default, or for example
            `DiscretizedLogistic`.

    Raises:
        ValueError: unless 0 < min_std < std < inf; when called, if the output's shape does not end in `shape`.

    Source: Rubin & Thayer (1982), equation 6; Rybkin, Daniilidis & Levine (2021), section 3.

    >>> DiagonalNoise(2, std=0.5)(torch.zeros(3, 2)).variance[0]
    tensor([0.2500, 0.2500], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self, shape: int | Sequence[int], std: float | Tensor = 1.0, *, min_std: float = 1e-3, law: Law = _normal
    ):
        super().__init__()
        first = torch.as_tensor(std, dtype=torch.float64)
        if not 0 < min_std < float(first.min()) <= float(first.max()) < math.inf:
            raise ValueError(f"stds must be 0 < min_std < std < inf, got {min_std} and {std}")
        self.min_std, self.law = min_std, law
        whole = first.expand((shape,) if isinstance(shape, int) else tuple(shape))
        self.raw = nn.Parameter((whole - min_std).to(torch.get_default_dtype()).log())

    @property
    def std(self) -> Tensor:
        """The vector s, of the event's shape."""
        return self.min_std + self.raw.exp()

    def forward(self, mean: Float[Tensor, "..."]) -> Distribution:
        axes, shape = self.raw.ndim, tuple(self.raw.shape)
        if tuple(mean.shape[mean.ndim - axes :]) != shape:
            raise ValueError(f"means must end in {shape}, got shape {tuple(mean.shape)}")
        return Independent(self.law(mean, self.std.to(mean.dtype).expand(mean.shape)), axes, validate_args=False)

"""The Erlang distribution: the waiting time for the k-th event of a Poisson process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

from jensen.distributions.checks import check_positive


class Erlang(Gamma):
    r"""Gamma with an integer shape k: $x = (E_1 + \dots + E_k) / \mathrm{rate}$ for unit exponentials $E_i$.

    The sum is the reparameterization: $\partial x / \partial \mathrm{rate} = -x / \mathrm{rate}$, exactly. A draw costs
    the largest k. Density, moments, entropy and KL are Gamma's.

    Args:
        shape: k, an integer of at least 1, of any dtype; carries no gradient.
        rate: positive; broadcasts with the shape.
        validate_args: False skips the check of both.

    Raises:
        ValueError: if the shape is not an integer of at least 1, or the rate not positive and finite.

    >>> Erlang(3, 2.0).mean
    tensor(1.5000)
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012

    def __init__(self, shape: int | float | Tensor, rate: int | float | Tensor, validate_args: bool | None = None):
        if isinstance(shape, Tensor):
            rate = torch.as_tensor(rate, dtype=None if isinstance(rate, Tensor) else torch.get_default_dtype())
            shape = shape.detach().to(rate.dtype)
        shape, rate = broadcast_all(shape, rate)
        if validate_args is not False:
            wrong = ~((shape >= 1) & (shape == shape.round()) & torch.isfinite(shape))
            if bool(wrong.any()):
                raise ValueError(f"shape must be an integer of at least 1, got {float(shape[wrong][0]):.4g}")
            check_positive("rate", rate)
        super().__init__(shape, rate, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Erlang:
        return Erlang(self.concentration.expand(batch_shape), self.rate.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        most = int(self.concentration.max())
        waits = self.rate.new_empty((most, *self._extended_shape(torch.Size(sample_shape)))).exponential_()
        order = torch.arange(most, device=waits.device).view(-1, *[1] * (waits.ndim - 1))
        return (waits * (order < self.concentration)).sum(0) / self.rate

"""The Erlang distribution: the waiting time for the k-th event of a Poisson process."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions.kl import register_kl
from torch.types import _size

from jensen.core.shapes import check_broadcast
from jensen.distributions.checks import check, check_positive, parameters
from jensen.distributions.special import excess, log_less_digamma, log_ratio, stirling

MANY = 100
"""The largest number of exponentials summed for one draw."""


class Erlang(Gamma):
    r"""Gamma with an integer shape k: $x = (E_1 + \dots + E_k) / \mathrm{rate}$ for unit exponentials $E_i$.

    The sum is the reparameterization: $\partial x / \partial \mathrm{rate} = -x / \mathrm{rate}$, exactly. A draw sums
    up to 100 exponentials; if a shape is larger, Gamma variables are drawn instead, with the same gradient.
    Density, entropy and KL are those of the Gamma distribution, accurate to rounding for every k, while differences of
    $\log\Gamma$ would lose all digits for large k.

    Args:
        shape: k, an integer of at least 1, of any dtype; has no gradient.
        rate: positive; broadcasts with the shape. Integers and half precision are converted to single precision.
        validate_args: False skips the check of both.

    Raises:
        ValueError: if the shape is not an integer of at least 1, or the rate is not positive and finite.

    >>> Erlang(3, 2.0).mean
    tensor(1.5000)
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012

    def __init__(self, shape: int | float | Tensor, rate: int | float | Tensor, validate_args: bool | None = None):
        shape, rate = parameters(shape.detach() if isinstance(shape, Tensor) else shape, rate)
        if validate_args is not False:
            right = (shape >= 1) & (shape == shape.round()) & torch.isfinite(shape)
            check("shape", "an integer of at least 1", shape, right)
            check_positive("rate", rate)
        super().__init__(shape, rate, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Erlang:
        return Erlang(self.concentration.expand(batch_shape), self.rate.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        shape, most = self._extended_shape(torch.Size(sample_shape)), int(self.concentration.max())
        if most > MANY:
            return torch._standard_gamma(self.concentration.expand(shape)) / self.rate
        waits = self.rate.new_empty((most, *shape)).exponential_()
        order = torch.arange(most, device=waits.device).view(-1, *[1] * (waits.ndim - 1))
        return (waits * (order < self.concentration)).sum(0) / self.rate

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Log-density in nats; $-\infty$ below 0 and at infinity.

        With n = k - 1 and $\lambda$ = rate x it is log rate plus the log-probability of a Poisson count,
        $-n\,(\rho - 1 - \log\rho) - \frac12\log 2\pi n - \mathrm{stirling}(n)$ with $\rho = \lambda / n$.

        Source: Loader (2000), "Fast and accurate computation of binomial probabilities".
        """
        value = torch.as_tensor(value, device=self.rate.device)
        check_broadcast(value=value, rate=self.rate)
        inside = (value >= 0) & (value < torch.inf)
        events, n = self.rate * torch.where(inside, value, 0.0), self.concentration - 1
        first, zero = n == 0, inside & (value == 0)
        n, positive = torch.where(first, 1.0, n), torch.where(events == 0, 1.0, events)
        gap = (positive - n) / n
        distance = torch.where(gap.abs() < 0.1, excess(torch.log1p(gap.clamp(-0.1, 0.1))), gap - (positive / n).log())
        log_p = self.rate.log() - n * distance - (2 * math.pi * n).log() / 2 - stirling(n)
        log_p = torch.where(first, self.rate.log() - events, torch.where(zero, -torch.inf, log_p))
        return torch.where(inside, log_p, torch.where(value.isnan(), torch.nan, -torch.inf))

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        inside: Tensor = super().cdf(value.clamp(min=0))
        return inside

    def entropy(self) -> Tensor:
        r"""$k + \log\Gamma(k) + (1 - k)\psi(k) - \log\mathrm{rate}$ in nats."""
        k = self.concentration
        return (2 * math.pi * k).log() / 2 + stirling(k) + (k - 1) * log_less_digamma(k) - self.rate.log()


@register_kl(Erlang, Erlang)
@register_kl(Erlang, Gamma)
@register_kl(Gamma, Erlang)
def _kl_gamma(p: Gamma, q: Gamma) -> Tensor:
    r"""$b\,(\rho - 1 - \log\rho)$ for shapes a, b and the ratio $\rho$ of the means, plus the KL for equal means.

    The latter is $\frac12\log\frac ab - (a - b)(\log a - \psi(a)) + \mathrm{stirling}(b) - \mathrm{stirling}(a)$.
    """
    a, b = p.concentration, q.concentration
    log_rho = log_ratio(a, b) + log_ratio(q.rate, p.rate)
    rest = log_ratio(a, b) / 2 - (a - b) * log_less_digamma(a) + stirling(b) - stirling(a)
    return b * excess(log_rho) + rest

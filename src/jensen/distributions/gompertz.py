"""The Gompertz distribution: a hazard that grows exponentially."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import broadcast_all
from torch.types import _size

from jensen.distributions.checks import check_positive
from jensen.distributions.special import scaled_exp1, scaled_upper_gamma


class Gompertz(Distribution):
    r"""Gompertz($\eta$, b) on $x \ge 0$, of survival function $S(x) = e^{-\eta (e^{b x} - 1)}$.

    Its cumulative hazard $\eta (e^{bx} - 1)$ is a unit exponential variable, so that
    $x = \log(1 + E / \eta) / b$ with $E = -\log(1 - u)$ is the inverse CDF and the reparameterization.

    Args:
        shape: $\eta$, positive.
        rate: b, positive; broadcasts with the shape.
        validate_args: False skips the check of both.

    Raises:
        ValueError: if either is not positive and finite.

    Source: Gompertz (1825); Lenart (2014), "The moments of the Gompertz distribution", for the mean.

    >>> q = Gompertz(0.5, 2.0)
    >>> q.cdf(q.icdf(torch.tensor(0.25))), q.mean
    (tensor(0.2500), tensor(0.4615))
    """

    arg_constraints = {"shape": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, shape: int | float | Tensor, rate: int | float | Tensor, validate_args: bool | None = None):
        self.shape, self.rate = broadcast_all(shape, rate)
        if validate_args is not False:
            check_positive("shape", self.shape)
            check_positive("rate", self.rate)
        super().__init__(self.shape.shape, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Gompertz:
        return Gompertz(self.shape.expand(batch_shape), self.rate.expand(batch_shape), validate_args=False)

    def _quantile_of_hazard(self, hazard: Tensor) -> Tensor:
        return torch.log1p(hazard / self.shape) / self.rate

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        hazard = self.shape.new_empty(self._extended_shape(torch.Size(sample_shape))).exponential_()
        return self._quantile_of_hazard(hazard)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""$\log(\eta b) + b x - \eta (e^{b x} - 1)$ in nats; $-\infty$ below 0."""
        x = self.rate * value
        inside = self.shape.log() + self.rate.log() + x - self.shape * torch.expm1(x)
        return torch.where(value < 0, -torch.inf, inside)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.expm1(-self.shape * torch.expm1(self.rate * value.clamp(min=0)))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Quantile of a probability in [0, 1]."""
        return self._quantile_of_hazard(-torch.log1p(-value))

    @property
    def mean(self) -> Tensor:
        r"""$e^\eta E_1(\eta) / b$."""
        return scaled_exp1(self.shape) / self.rate

    @property
    def mode(self) -> Tensor:
        r"""$\max(0, -\log\eta) / b$."""
        return (-self.shape.log()).clamp(min=0) / self.rate

    def entropy(self) -> Tensor:
        r"""$1 - \log(\eta b) - e^\eta E_1(\eta)$ in nats."""
        return 1 - self.shape.log() - self.rate.log() - scaled_exp1(self.shape)


@register_kl(Gompertz, Gompertz)
def _kl_gompertz(p: Gompertz, q: Gompertz) -> Tensor:
    r"""With $r = b_q / b_p$: $E_p e^{b_q x} = E (1 + E/\eta_p)^r = e^{\eta_p} \eta_p^{-r}\, \Gamma(r + 1, \eta_p)$."""
    eta, ratio, eta_q = torch.broadcast_tensors(p.shape, q.rate / p.rate, q.shape)
    growth = eta * scaled_upper_gamma(ratio + 1, eta) - 1
    log_q: Tensor = q.shape.log() + q.rate.log() + q.rate * p.mean - eta_q * growth
    return -p.entropy() - log_q

"""The Gompertz distribution: a hazard that grows exponentially."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.types import _size

from jensen.core.shapes import check_broadcast
from jensen.distributions.checks import check, check_positive, parameters
from jensen.distributions.special import excess, exponential_rule, log_ratio


class Gompertz(Distribution):
    r"""Gompertz($\eta$, b) on $x \ge 0$, with survival function $S(x) = e^{-\eta (e^{b x} - 1)}$.

    Its cumulative hazard $\eta (e^{bx} - 1)$ is a unit exponential variable E, so that $x = \log(1 + E / \eta) / b$
    with $E = -\log(1 - u)$ is both the inverse CDF and the reparameterization.

    Args:
        shape: $\eta$, positive; integers and half precision are converted to single precision.
        rate: b, positive; broadcasts with the shape.
        validate_args: False skips the check of both.

    Raises:
        ValueError: if shape or rate is not positive and finite; from `icdf`, for values outside [0, 1].

    Source: Gompertz (1825); Lenart (2014), "The moments of the Gompertz distribution", for the mean.

    >>> q = Gompertz(0.5, 2.0)
    >>> q.cdf(q.icdf(torch.tensor(0.25))), q.mean
    (tensor(0.2500), tensor(0.4615))
    """

    arg_constraints = {"shape": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, shape: int | float | Tensor, rate: int | float | Tensor, validate_args: bool | None = None):
        self.shape, self.rate = parameters(shape, rate)
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

    def _hazard(self, x: Tensor) -> Tensor:
        r"""$\eta (e^x - 1)$ for x = b times the value; finite even where $e^x$ alone overflows."""
        return torch.where(
            x < 1, self.shape * torch.expm1(x.clamp(max=1)), torch.exp(x.clamp(min=1) + self.shape.log()) - self.shape
        )

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""$\log(\eta b) + b x - \eta (e^{b x} - 1)$ in nats; $-\infty$ below 0 and at infinity."""
        check_broadcast(value=value, rate=self.rate)
        inside = (value >= 0) & (value < torch.inf)
        x = self.rate * torch.where(inside, value, 0.0)
        log_p = self.shape.log() + self.rate.log() + x - self._hazard(x)
        return torch.where(inside, log_p, torch.where(value.isnan(), torch.nan, -torch.inf))

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -torch.expm1(-self._hazard(self.rate * value.clamp(min=0)))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The quantile of a probability in [0, 1]."""
        check("a probability", "in [0, 1]", value, (value >= 0) & (value <= 1))
        return self._quantile_of_hazard(-torch.log1p(-value))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of b x, in double precision."""
        t, log_w = exponential_rule(self.shape)
        x, w = torch.log1p(t / self.shape.double()[..., None]), log_w.exp()
        mean = (w * x).sum(-1)
        return mean, (w * (x - mean[..., None]) ** 2).sum(-1)

    @property
    def mean(self) -> Tensor:
        r"""$e^\eta E_1(\eta) / b$."""
        return self._moments()[0].to(self.rate) / self.rate

    @property
    def variance(self) -> Tensor:
        r"""$\mathrm{Var}\log(1 + E / \eta) / b^2$, by quadrature."""
        return self._moments()[1].to(self.rate) / self.rate**2

    @property
    def mode(self) -> Tensor:
        r"""$\max(0, -\log\eta) / b$."""
        return (-self.shape.log()).clamp(min=0) / self.rate

    def entropy(self) -> Tensor:
        r"""$1 - \log(\eta b) - e^\eta E_1(\eta)$ in nats."""
        return 1 - self.shape.log() - self.rate.log() - self._moments()[0].to(self.rate)


@register_kl(Gompertz, Gompertz)
def _kl_gompertz(p: Gompertz, q: Gompertz) -> Tensor:
    r"""KL as a sum of two non-negative terms; differences of terms of the size of the shapes would lose all digits.

    With $r = b_q / b_p$ and $L = \log(1 + E / \eta_p)$, $E_p[e^{b_q x} - 1] = r\, E e^{(r - 1) L} / \eta_p$ by parts,
    and KL = $\rho - 1 - \log\rho + \log E e^{(r - 1)(L - E L)}$ with $\rho = r\,(\eta_q / \eta_p)\, E e^{(r - 1) L}$.
    """
    eta, b, eta_q, b_q = (v.double() for v in torch.broadcast_tensors(p.shape, p.rate, q.shape, q.rate))
    t, log_w = exponential_rule(eta)
    log_growth = torch.log1p(t / eta[..., None])
    mean = (log_w.exp() * log_growth).sum(-1)
    power = ((b_q - b) / b)[..., None]
    above = torch.logsumexp(log_w + power * (log_growth - mean[..., None]), -1)
    log_rho = log_ratio(b_q, b) + log_ratio(eta_q, eta) + above + power[..., 0] * mean
    return (excess(log_rho) + above).to(torch.promote_types(p.shape.dtype, q.shape.dtype))

"""Likelihoods for 8-bit data: the probability of a continuous distribution in the cell of each level."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from jensen.core.shapes import check_broadcast, checked
from jensen.distributions.checks import check_finite, check_positive, parameters
from jensen.distributions.special import log_ndtr

SQRT2 = math.sqrt(2)
TOGETHER = 16  # levels whose survival functions a mean computes at a time


def check_levels(levels: int) -> None:
    """Raise for fewer than two levels."""
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")


class _OnLevels(constraints.Constraint):
    """Constraint: within a hundredth of the spacing of one of the levels."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int):
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        index = (value + 1) * ((self.levels - 1) / 2)
        return ((index - index.round()).abs() < 1e-2) & (value.abs() <= 1)


class Discretized(Distribution, ABC):
    r"""A location-scale distribution rounded to the levels $x_i = -1 + 2i / (L - 1)$ of [-1, 1].

    $P(x_i) = F(x_i + 1/(L-1)) - F(x_i - 1/(L-1))$ with F the continuous CDF; the first and the last cell include the
    tails, so that the L probabilities sum to 1. They are probabilities, not comparable with densities.

    Args:
        loc: location.
        scale: positive; broadcasts with loc.
        levels: L, at least 2; 256 for 8-bit data scaled by x / 127.5 - 1.
        validate_args: False skips the check of loc and scale.

    Raises:
        ValueError: if the scale is not positive and finite, loc is not finite, or levels is below 2; from `log_prob`
            and `cdf`, for values that are not levels.

    Source: Salimans et al. (2017), equation 2; Ho et al. (2020), equation 13.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return _OnLevels(self.levels)

    def __init__(
        self,
        loc: int | float | Tensor,
        scale: int | float | Tensor,
        levels: int = 256,
        validate_args: bool | None = None,
    ):
        self.loc, self.scale = parameters(loc, scale)
        self.levels = levels
        check_levels(levels)
        if validate_args is not False:
            check_finite("loc", self.loc)
            check_positive("scale", self.scale)
        super().__init__(self.loc.shape, validate_args=False)

    @abstractmethod
    def _log_cdf(self, z: Tensor) -> Tensor:
        """Log F of the standard distribution, which is symmetric: its log survival function is `_log_cdf(-z)`."""

    @abstractmethod
    def _cdf(self, z: Tensor) -> Tensor:
        """F of the standard distribution."""

    @abstractmethod
    def _log_cell(self, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
        """Log of F(high) - F(low); the width is exact where high - low would be lost to rounding."""

    @abstractmethod
    def _noise(self, shape: torch.Size) -> Tensor:
        """Draws of the standard distribution."""

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Discretized:
        return type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels, False)

    def _check(self, value: Tensor) -> None:
        if not bool(self.support.check(value).all()):
            raise ValueError(
                f"data must lie on the {self.levels} levels of [-1, 1], got values in "
                f"[{float(value.min()):.4g}, {float(value.max()):.4g}]: scale them by 2 i / {self.levels - 1} - 1"
            )

    def _index(self, value: Tensor) -> Tensor:
        self._check(value)
        check_broadcast(value=value, loc=self.loc)
        return ((value + 1) * ((self.levels - 1) / 2)).round().to(self.loc)

    def _edge(self, index: Tensor) -> Tensor:
        """The upper edge of a cell, bit for bit equal to the lower edge of the next."""
        return ((2 * index + 2 - self.levels) / (self.levels - 1) - self.loc) / self.scale

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats, elementwise; finite even in the far tails, unless it overflows."""
        i = self._index(value)
        low, high = self._edge(i - 1), self._edge(i)
        inner = self._log_cell(low, high, 2 / (self.levels - 1) / self.scale)
        inner = torch.where(i == 0, self._log_cdf(high), inner)
        return torch.where(i == self.levels - 1, self._log_cdf(-low), inner)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """P(X <= value), for values on the levels."""
        i = self._index(value)
        return torch.where(i == self.levels - 1, 1.0, self._log_cdf(self._edge(i)).exp())

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of the continuous distribution, rounded to the nearest level."""
        with torch.no_grad():
            x = self.loc + self.scale * self._noise(self._extended_shape(torch.Size(sample_shape)))
            steps = (self.levels - 1) / 2
            return ((x.clamp(-1, 1) + 1) * steps).round() / steps - 1

    has_enumerate_support = True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The levels, (L, *batch), or (L, 1, ...) if not `expand`."""
        levels = torch.linspace(-1, 1, self.levels, dtype=self.loc.dtype, device=self.loc.device)
        levels = levels.view(-1, *[1] * len(self.batch_shape))
        return levels.expand(-1, *self.batch_shape) if expand else levels

    def _expect(self, f: Tensor) -> Tensor:
        """The sum over all levels of their probability times f, (L, ...)."""
        return (self.log_prob(self.enumerate_support()).exp() * f).sum(0)

    @property
    def mean(self) -> Tensor:
        r"""$-1 + \frac{2}{L-1} \sum_{i=0}^{L-2} P(X > x_i)$, a few levels at a time."""
        total = torch.zeros_like(self.loc)
        for index in torch.arange(self.levels - 1, device=self.loc.device).split(TOGETHER):
            edges = self._edge(index.view(-1, *[1] * self.loc.ndim).to(self.loc))
            total = total + self._cdf(-edges).sum(0)
        return total * (2 / (self.levels - 1)) - 1

    @property
    def variance(self) -> Tensor:
        """Variance, by enumeration, at the cost of L log-probabilities."""
        return self._expect((self.enumerate_support(expand=False) - self.mean) ** 2)

    def entropy(self) -> Tensor:
        """Entropy in nats, by enumeration."""
        log_p = self.log_prob(self.enumerate_support())
        return -torch.where(log_p.exp() > 0, log_p.exp() * log_p, 0.0).sum(0)


class DiscretizedLogistic(Discretized):
    r"""Discretized logistic: $\log P = \log\sigma(b) + \log\sigma(-a) + \log(1 - e^{a - b})$ for a cell (a, b).

    >>> q = DiscretizedLogistic(0.0, 0.1)
    >>> float(q.log_prob(q.enumerate_support()).logsumexp(0).abs()) < 1e-6
    True
    """

    def _log_cdf(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z)

    def _cdf(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def _log_cell(self, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
        return F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-width))

    def _noise(self, shape: torch.Size) -> Tensor:
        e = self.loc.new_empty((2, *shape)).exponential_()
        return e[0].log() - e[1].log()


class DiscretizedGaussian(Discretized):
    r"""Discretized Gaussian.

    For a cell (a, b), reflected so that its midpoint m is at least 0,
    $\log P = \log\Phi(-a) + \log(1 - e^{\log\Phi(-b) - \log\Phi(-a)})$, where for a > 0 the exponent is $-m\delta$ plus
    the logarithm of a ratio of `erfcx`. For cells so narrow that this loses digits,
    $\log P = \log\phi(m) + \log\delta + \log(1 + (m^2 - 1)\,\delta^2 / 24)$; $\delta = b - a$ is the width.

    >>> DiscretizedGaussian(0.0, 1.0).log_prob(torch.tensor(1.0)).exp()
    tensor(0.1596)
    """

    def _log_cdf(self, z: Tensor) -> Tensor:
        return log_ndtr(z)

    def _cdf(self, z: Tensor) -> Tensor:
        p: Tensor = torch.special.ndtr(z)
        return p

    def _log_cell(self, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
        right = low + high >= 0
        near, far = torch.where(right, low, -high), torch.where(right, high, -low)
        m = (near + far) / 2
        # The relative errors eps / width (of the difference) and width^4 / 1920 (of the expansion) are equal here.
        edge = (1920 * torch.finfo(m.dtype).eps) ** 0.2
        narrow = width * (1 + m) < edge
        difference = _log_difference(torch.where(narrow, 0.0, near), torch.where(narrow, 1.0, far), width)
        m, width = torch.where(narrow, m, 0.0), torch.where(narrow, width, edge)
        log_density = -(m**2 + math.log(2 * math.pi)) / 2
        expansion = log_density + width.log() + torch.log1p((m**2 - 1) * width**2 / 24)
        return torch.where(narrow, expansion, difference)

    def _noise(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


def _log_difference(near: Tensor, far: Tensor, width: Tensor) -> Tensor:
    r"""$\log(\Phi(-a) - \Phi(-b))$ for a < b with b > 0 and a midpoint of at least 0."""
    a, b = (torch.where(near > 0, v, 1.0) for v in (near, far))
    beside, beyond = (torch.special.erfcx(v.clamp(max=1e30) / SQRT2) for v in (a, b))
    fall = -(a + b) / 2 * width + torch.log(beyond / beside)
    across = log_ndtr(-far) - log_ndtr(-torch.where(near > 0, 0.0, near))
    return log_ndtr(-near) + torch.log(-torch.expm1(torch.where(near > 0, fall, across)))


class Binary(Distribution):
    r"""Two levels: x = 1 with probability $\sigma(l)$, x = -1 otherwise, so that $\log P(x) = \log\sigma(x l)$.

    The Bernoulli distribution of data scaled to [-1, 1]; for more levels see `Discretized`. `log_prob` is a log mass,
    the mean is $\tanh(l / 2)$.

    Args:
        logits: l, the log-odds of 1.

    Raises:
        ValueError: from `log_prob`, for values other than -1 and 1.

    >>> Binary(torch.zeros(2)).log_prob(torch.tensor([-1.0, 1.0])).exp()
    tensor([0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = _OnLevels(2)
    has_enumerate_support = True

    @checked
    def __init__(self, logits: Float[Tensor, "..."]):
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Binary:
        return Binary(self.logits.expand(batch_shape))

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats, elementwise."""
        if not torch.compiler.is_compiling() and not bool((value.abs() == 1).all()):
            low, high = float(value.min()), float(value.max())
            raise ValueError(f"data must be -1 or 1, got values in [{low:.4g}, {high:.4g}]: binarize them")
        check_broadcast(value=value, logits=self.logits)
        return F.logsigmoid(value * self.logits)

    @property
    def mean(self) -> Tensor:
        return torch.tanh(self.logits / 2)

    @property
    def variance(self) -> Tensor:
        """Variance: one minus the square of the mean."""
        return 4 * torch.sigmoid(self.logits) * torch.sigmoid(-self.logits)

    def entropy(self) -> Tensor:
        """Entropy in nats, elementwise."""
        return F.softplus(self.logits) - self.logits * torch.sigmoid(self.logits)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            shares = torch.sigmoid(self.logits).expand(self._extended_shape(torch.Size(sample_shape)))
            return 2 * torch.bernoulli(shares) - 1

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """-1 and 1, (2, *batch), or (2, 1, ...) without `expand`."""
        values = self.logits.new_tensor([-1.0, 1.0]).view(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

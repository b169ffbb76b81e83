"""Priors: modules that return a distribution without any input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.kl import register_kl
from torch.types import _size

from jensen.core.shapes import single
from jensen.distributions.categorical import OneHot
from jensen.distributions.checks import check_finite


class GaussianPrior(nn.Module):
    r"""$p(z) = N(\mu, \sigma^2 I)$ with one $\sigma$; both fixed, or both learned.

    Args:
        shape: event shape of z.
        mean: $\mu$, a number or a tensor that broadcasts to `shape`.
        std: $\sigma$, positive.
        learned: make $\mu$ (of `shape`) and $\log\sigma$ parameters, initialised here.

    Raises:
        ValueError: if std is not positive, or the mean is not finite or does not broadcast.

    >>> GaussianPrior(3, std=2.0)().variance
    tensor([4., 4., 4.])
    """

    mean: Tensor
    log_std: Tensor

    def __init__(
        self, shape: int | Sequence[int], mean: float | Tensor = 0.0, std: float = 1.0, *, learned: bool = False
    ):
        super().__init__()
        if not (std > 0 and math.isfinite(std)):
            raise ValueError(f"std must be positive and finite, got {std}")
        shape, mean = _shape(shape), torch.as_tensor(mean, dtype=torch.get_default_dtype())
        try:
            mean = mean.expand(shape).clone()
        except RuntimeError:
            raise ValueError(f"mean must broadcast to {shape}, got shape {tuple(mean.shape)}") from None
        check_finite("mean", mean)
        log_std = torch.tensor(math.log(std))
        if learned:
            self.mean, self.log_std = nn.Parameter(mean), nn.Parameter(log_std)
        else:
            self.register_buffer("mean", mean)
            self.register_buffer("log_std", log_std)

    def forward(self) -> Distribution:
        """The prior: batch shape (), event shape `shape`."""
        mean, std = single(self.mean), single(self.log_std).exp()
        return Independent(Normal(mean, std.expand(mean.shape), validate_args=False), mean.ndim, validate_args=False)


class CategoricalPrior(nn.Module):
    """Independent uniform one-hot variables.

    Args:
        groups: number of variables, at least 1.
        classes: number of classes of each variable, at least 2.

    Raises:
        ValueError: for fewer groups or classes.

    >>> CategoricalPrior(3, 4)().log_prob(torch.eye(4)[:3]).exp()
    tensor(0.0156)
    """

    logits: Tensor

    def __init__(self, groups: int, classes: int):
        super().__init__()
        if groups < 1 or classes < 2:
            raise ValueError(f"groups must be at least 1 and classes at least 2, got {groups} and {classes}")
        self.register_buffer("logits", torch.zeros(groups, classes))

    def forward(self) -> Distribution:
        """The prior: batch shape (), event shape (groups, classes)."""
        return Independent(OneHot(logits=single(self.logits), validate_args=False), 1, validate_args=False)


class Flat(Distribution):
    r"""The improper $p(z) = 1$ on all of $R^d$: log density 0, cannot be sampled; $KL(q \| p) = -H(q)$.

    Args:
        shape: event shape of z, each axis at least 1.
        batch_shape: batch shape of the distribution.

    Raises:
        ValueError: for an empty axis; from `log_prob`, for values of another shape; from `sample`; from the KL
            divergence, if the event shapes differ.

    >>> q = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    >>> bool(torch.distributions.kl_divergence(q, Flat((2,))) == -q.entropy())
    True
    """

    arg_constraints = {}  # noqa: RUF012 (torch declares it on the instance)

    def __init__(self, shape: int | Sequence[int], batch_shape: _size = ()):
        super().__init__(torch.Size(batch_shape), torch.Size(_shape(shape)), validate_args=False)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Flat:
        return Flat(self.event_shape, batch_shape)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Zeros, one per event."""
        n = len(self.event_shape)
        if tuple(value.shape[value.ndim - n :]) != tuple(self.event_shape):
            raise ValueError(f"values must end in {tuple(self.event_shape)}, got {tuple(value.shape)}")
        return value.new_zeros(torch.broadcast_shapes(value.shape[: value.ndim - n], self.batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        raise ValueError("a flat prior is improper and cannot be sampled: choose another prior, or sample a posterior")

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample(sample_shape)


class FlatPrior(nn.Module):
    """The improper flat prior: `forward()` returns `Flat(shape)`.

    >>> FlatPrior(2)().log_prob(torch.ones(5, 2))
    tensor([0., 0., 0., 0., 0.])
    """

    def __init__(self, shape: int | Sequence[int]):
        super().__init__()
        self.shape = _shape(shape)

    def forward(self) -> Flat:
        return Flat(self.shape)


@register_kl(Distribution, Flat)
def _kl_flat(q: Distribution, p: Flat) -> Tensor:
    if q.event_shape != p.event_shape:
        raise ValueError(f"event shapes must agree, got {tuple(q.event_shape)} and {tuple(p.event_shape)}")
    entropy: Tensor = q.entropy()
    return (-entropy).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    axes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(n >= 1 for n in axes):
        raise ValueError(f"shape must be at least 1 on each axis, got {axes}")
    return axes

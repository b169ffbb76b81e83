"""Networks that return distributions, and families that turn a network's output into one.

The last `event_dims` axes of a distribution are the event, all axes before them the batch: an encoder's output
(K, B, 2d) becomes K x B Gaussians in d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.core.shapes import check_count, checked, single
from jensen.distributions.bernoulli import Bernoulli
from jensen.distributions.categorical import Categorical, OneHot
from jensen.distributions.checks import check_temperature, classes
from jensen.distributions.discretized import Binary, Discretized, DiscretizedLogistic, check_levels
from jensen.distributions.one_hot import StraightThroughOneHot


class Conditional(nn.Module):
    r"""$q(\cdot | c)$ = family(net(c)): an encoder, a decoder, a learned prior or (an embedding) a table.

    Args:
        net: any module, from (..., B, *c) to (..., B, *parameters).
        family: maps the network's output to a distribution of batch shape (..., B). If it is a module (one with a
            learned noise level), it is registered as a submodule.
        input_dims: number of axes of one input c. If given, all axes before them are flattened into one batch axis, for
            networks that need exactly one, such as convolutions; None passes the input as it is.

    Integer and boolean inputs are converted to the network's dtype if it begins with a linear layer or a convolution.
    The distribution is in at least single precision even if the network is not: log-densities summed in half precision
    have errors of several nats.

    >>> encoder = Conditional(nn.Linear(5, 4), DiagonalGaussian())
    >>> q = encoder(torch.zeros(7, 3, 5))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7, 3]), torch.Size([2]))
    """

    def __init__(self, net: nn.Module, family: Callable[[Tensor], Distribution], input_dims: int | None = None):
        super().__init__()
        self.net, self.family, self.input_dims = net, family, input_dims

    @checked
    def forward(self, c: Shaped[Tensor, "_ ..."]) -> Distribution:
        return self.family(single(self._out(_taken(self.net, c))))

    def _out(self, c: Tensor) -> Tensor:
        whole: Tensor
        if self.input_dims is None:
            whole = self.net(c)
            return whole
        if c.ndim <= self.input_dims:
            raise ValueError(
                f"inputs must have a batch axis before {self.input_dims} event axes, got shape {tuple(c.shape)}"
            )
        lead = c.ndim - self.input_dims
        whole = self.net(c.flatten(0, lead - 1)).unflatten(0, c.shape[:lead])
        return whole


def _taken(net: nn.Module, c: Tensor) -> Tensor:
    """The input, converted to the network's dtype if that is half precision or the first layer has weights."""
    first = net
    while isinstance(first, nn.Sequential) and len(first):
        first = next((m for m in first if not isinstance(m, nn.Flatten | nn.Unflatten | nn.Identity)), nn.Identity())
    own = next((p.dtype for p in net.parameters() if p.is_floating_point()), c.dtype)
    multiplies = isinstance(first, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if own.itemsize < 4 if c.is_floating_point() else multiplies:
        return c.to(own)
    return c


def soft_clamp(x: Float[Tensor, "..."], low: float, high: float) -> Float[Tensor, "..."]:
    r"""A smooth, strictly increasing map of the real line onto (low, high), close to the identity in the interior.

    $\mathrm{low} + \mathrm{softplus}(x - \mathrm{low}) - \mathrm{softplus}(x - \mathrm{high})$, with derivative
    $\mathrm{sigmoid}(x - \mathrm{low}) - \mathrm{sigmoid}(x - \mathrm{high})$. Inputs are clamped to
    [low - 30, high + 30], outside which the derivative is below 1e-13.

    Raises:
        ValueError: unless low < high.

    Source: the two one-sided bounds of Chua et al. (2018), appendix A.1, combined.

    >>> soft_clamp(torch.tensor([-1e9, 0.0, 1e9]), -8.0, 8.0).round(decimals=5)
    tensor([-8., 0., 8.])
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    x = x.clamp(low - 30, high + 30)
    return low + F.softplus(x - low) - F.softplus(x - high)


def _check_events(out: Tensor, dims: int) -> None:
    if out.ndim < dims or not out.is_floating_point():
        got = f"{str(out.dtype).removeprefix('torch.')} {tuple(out.shape)}"
        raise ValueError(f"the output must be floating-point numbers with {dims} event axes, got {got}")


def _split(out: Tensor, event_dims: int) -> tuple[Tensor, Tensor]:
    """The two halves along the first event axis."""
    if out.ndim < event_dims or out.shape[-event_dims] % 2:
        raise ValueError(
            f"axis {-event_dims} of the output must be even (means and scales), got shape {tuple(out.shape)}"
        )
    mean, raw = out.chunk(2, dim=-event_dims)
    return mean, raw


def _check_event_dims(event_dims: int) -> None:
    check_count(event_dims=event_dims)


def _check_bounds(low: float, high: float, name: str) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds must be 0 < min_{name} < max_{name}, got {low} and {high}")


@dataclass(frozen=True)
class DiagonalGaussian:
    r"""$N(\mu, \mathrm{diag}(\sigma^2))$; the output's first event axis is split into $\mu$ and a raw $\log\sigma$.

    For vectors that is the last axis, for images the channels. $\log\sigma$ is the `soft_clamp` of the raw value
    between the logarithms of the bounds, so a raw value of 0 gives a standard deviation within 1% of 1.

    Args:
        event_dims: number of axes of one event.
        min_std, max_std: open bounds of the standard deviation.

    Raises:
        ValueError: unless 0 < min_std < max_std and event_dims >= 1; when called, if the output does not split in two.

    >>> DiagonalGaussian()(torch.zeros(3, 4)).stddev.round(decimals=2)
    tensor([[0.9900, 0.9900], [0.9900, 0.9900], [0.9900, 0.9900]])
    """

    event_dims: int = 1
    min_std: float = 1e-3
    max_std: float = 1e2

    def __post_init__(self) -> None:
        _check_event_dims(self.event_dims)
        _check_bounds(self.min_std, self.max_std, "std")

    def __call__(self, out: Float[Tensor, "..."]) -> Distribution:
        mean, raw = _split(out, self.event_dims)
        std = soft_clamp(raw, math.log(self.min_std), math.log(self.max_std)).exp()
        return Independent(Normal(mean, std, validate_args=False), self.event_dims, validate_args=False)


class IsotropicGaussian(nn.Module):
    r"""$N(\mu, \sigma^2 I)$ with one shared $\sigma$; the output is $\mu$. For decoders, or encoders of fixed width.

    Args:
        std: $\sigma$, positive.
        learned: make $\log\sigma$ a parameter, initialised here.
        event_dims: number of axes of one event.

    Raises:
        ValueError: if std is not positive, or event_dims below 1.

    >>> IsotropicGaussian(0.5)(torch.zeros(3, 2)).variance[0]
    tensor([0.2500, 0.2500])
    """

    log_std: Tensor

    def __init__(self, std: float = 1.0, *, learned: bool = False, event_dims: int = 1):
        super().__init__()
        _check_event_dims(event_dims)
        if not (std > 0 and math.isfinite(std)):
            raise ValueError(f"std must be positive and finite, got {std}")
        self.event_dims, log_std = event_dims, torch.tensor(math.log(std))
        if learned:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, mean: Float[Tensor, "..."]) -> Distribution:
        _check_events(mean, self.event_dims)
        std = single(self.log_std).exp().to(mean.dtype).expand(mean.shape)
        return Independent(Normal(mean, std, validate_args=False), self.event_dims, validate_args=False)


@dataclass(frozen=True)
class BernoulliLogits:
    """Independent Bernoulli variables; the output is their logits. Raises for data other than 0 and 1.

    >>> BernoulliLogits()(torch.zeros(2, 3)).log_prob(torch.ones(2, 3)).exp()
    tensor([0.1250, 0.1250])
    """

    event_dims: int = 1

    def __post_init__(self) -> None:
        _check_event_dims(self.event_dims)

    def __call__(self, logits: Float[Tensor, "..."]) -> Distribution:
        _check_events(logits, self.event_dims)
        return Independent(Bernoulli(logits=logits, validate_args=False), self.event_dims, validate_args=False)


@dataclass(frozen=True)
class BinaryLogits:
    """Independent variables with values -1 and 1; the output is the logits of 1. Raises for other data.

    >>> BinaryLogits()(torch.zeros(2, 3)).log_prob(torch.ones(2, 3)).exp()
    tensor([0.1250, 0.1250])
    """

    event_dims: int = 1

    def __post_init__(self) -> None:
        _check_event_dims(self.event_dims)

    def __call__(self, logits: Float[Tensor, "..."]) -> Distribution:
        _check_events(logits, self.event_dims)
        return Independent(Binary(logits), self.event_dims, validate_args=False)


@dataclass(frozen=True)
class OneHotLogits:
    """Independent one-hot variables: logits (..., groups * classes) to events (groups, classes).

    Args:
        groups: number of variables, at least 1.
        classes: number of classes of each variable, at least 2.
        temperature: if given, draws carry the straight-through gradient of the relaxation at this temperature
            (`StraightThroughOneHot`), which is biased; values, log-probability and KL remain exact.

    Raises:
        ValueError: for fewer groups or classes, or a temperature that is not positive; when called, if the number of
            logits is wrong.

    >>> OneHotLogits(3, 4)(torch.zeros(2, 12)).event_shape
    torch.Size([3, 4])
    """

    groups: int
    classes: int
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_temperature(self.temperature)
        if self.groups < 1 or self.classes < 2:
            raise ValueError(f"groups must be at least 1 and classes at least 2, got {self.groups} and {self.classes}")

    def __call__(self, logits: Float[Tensor, "..."]) -> Distribution:
        if logits.shape[-1:] != (self.groups * self.classes,):
            raise ValueError(
                f"the last axis must hold {self.groups} x {self.classes} logits, got shape {tuple(logits.shape)}"
            )
        logits = logits.unflatten(-1, (self.groups, self.classes))
        if self.temperature is None:
            law = classes(lambda: OneHot(logits=logits, validate_args=False), logits)
            return Independent(law, 1, validate_args=False)
        return Independent(StraightThroughOneHot(self.temperature, logits), 1, validate_args=False)


@dataclass(frozen=True)
class CategoricalLogits:
    """Independent categorical variables as integers: logits (..., *event, classes) to events of `event_dims` axes.

    Draws are integers, and the mean is the mean of the integers. Raises for data that are not integers in range.

    >>> CategoricalLogits()(torch.zeros(2, 5, 4)).log_prob(torch.zeros(2, 5)).exp()
    tensor([0.0010, 0.0010])
    """

    event_dims: int = 1

    def __post_init__(self) -> None:
        _check_event_dims(self.event_dims)

    def __call__(self, logits: Float[Tensor, "..."]) -> Distribution:
        _check_events(logits, self.event_dims + 1)
        return Independent(Categorical(logits=logits, validate_args=False), self.event_dims, validate_args=False)


@dataclass(frozen=True)
class Levels:
    """A discretized likelihood of 8-bit data; the output's first event axis is split into loc and a raw log-scale.

    The log-scale is bounded as in `DiagonalGaussian`. Raises for data that are not on the levels.

    Args:
        law: `DiscretizedLogistic` or `DiscretizedGaussian`.
        event_dims: number of axes of one event.
        levels: number of levels of the data in [-1, 1].
        min_scale, max_scale: open bounds of the scale.

    >>> Levels()(torch.zeros(2, 6)).log_prob(torch.ones(2, 3)).shape
    torch.Size([2])
    """

    law: type[Discretized] = DiscretizedLogistic
    event_dims: int = 1
    levels: int = 256
    min_scale: float = 1e-3
    max_scale: float = 1e2

    def __post_init__(self) -> None:
        _check_event_dims(self.event_dims)
        _check_bounds(self.min_scale, self.max_scale, "scale")
        check_levels(self.levels)

    def __call__(self, out: Float[Tensor, "..."]) -> Distribution:
        loc, raw = _split(out, self.event_dims)
        scale = soft_clamp(raw, math.log(self.min_scale), math.log(self.max_scale)).exp()
        return Independent(self.law(loc, scale, self.levels, False), self.event_dims, validate_args=False)

r"""Monte Carlo estimates of $E_q[f]$ whose gradients are unbiased or relaxed estimates of $\nabla E_q[f]$.

An estimator draws, and adds a correction of value zero whose gradient completes the gradient through the
draw. The same objects serve a single expectation, the nodes of a `Graph`, and `compare_estimators`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from jensen.core.seeding import drawing
from jensen.core.shapes import check_count
from jensen.distributions import gumbel_softmax
from jensen.distributions.checks import check_temperature
from jensen.estimators.baselines import Baseline, evaluate, fits
from jensen.estimators.exact import Function, is_discrete, moves


@runtime_checkable
class Estimator(Protocol):
    """A way to differentiate through a sampling node."""

    def unbiased(self, q: Distribution) -> bool:
        """Whether the gradient has mean grad E_q[f] for this q and every f that the estimator accepts."""

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        """Draws z, (*shape, *batch, *event)."""

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        """Zeros that broadcast to the cost; their gradient completes that of the draws."""


def score_surrogate(
    value: Float[Tensor, "..."], log_q: Float[Tensor, "..."], baseline: Baseline = 0.0
) -> Float[Tensor, "..."]:
    r"""The value f, with $(f - b)\, \nabla \log q$ added to its gradient.

    $f + \mathrm{sg}(f - b)\, (\log q - \mathrm{sg}(\log q))$, where sg stops the gradient.

    Args:
        value: f, any shape.
        log_q: log-probability in nats of the draw, with the draw held fixed; broadcasts to the value.
        baseline: a number, a tensor that broadcasts to the value, or a function of the values.

    Raises:
        ValueError: if log_q or the baseline would enlarge the value, or if the baseline depends on the values of other
            draws while all values share one draw.

    Source: Williams (1992); Schulman et al. (2015), equation 6.

    >>> log_q = torch.tensor([-1.0], requires_grad=True)
    >>> surrogate = score_surrogate(torch.tensor([5.0]), log_q, baseline=2.0)
    >>> surrogate.backward()
    >>> surrogate.item(), log_q.grad
    (5.0, tensor([3.]))
    """
    return value + _score(value, log_q, baseline)


def _score(cost: Tensor, log_q: Tensor, baseline: Baseline) -> Tensor:
    if not fits(log_q.shape, cost.shape):
        raise ValueError(f"log q must broadcast to the values, {tuple(cost.shape)}, got {tuple(log_q.shape)}")
    if callable(baseline) and (*log_q.shape[:1], log_q.ndim) != (*cost.shape[:1], cost.ndim) and _reads(baseline, cost):
        raise ValueError(
            f"axis 0 of the values, {tuple(cost.shape)}, must be draws of the node for a baseline made of the other "
            f"draws' values, got draws of shape {tuple(log_q.shape)}"
        )
    return (cost.detach() - evaluate(baseline, cost)) * (log_q - log_q.detach())


def _reads(baseline: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether a baseline depends on the values, which is tested by changing them."""
    values = values.detach()
    return not torch.equal(torch.as_tensor(baseline(values)), torch.as_tensor(baseline(2 * values + 1)))


@dataclass(frozen=True)
class Pathwise:
    """Reparameterization: the draw is a differentiable function of q's parameters and of noise; q needs `rsample`.

    Unbiased for continuous f and continuous q; the `rsample` of a discrete q is a straight-through estimator.
    """

    def unbiased(self, q: Distribution) -> bool:
        return q.has_rsample and not is_discrete(q)

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        if not q.has_rsample:
            raise ValueError(f"{_name(q)} has no pathwise gradient: use the score function or a relaxation")
        return q.rsample(shape)

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return cost.new_zeros(())


@dataclass(frozen=True)
class ScoreFunction:
    r"""$(f - b)\, \nabla\log q$ for any f and any q with a density; the baseline b reduces the variance.

    Unbiased for every f, unless the support of q depends on its parameters, as for a uniform distribution.

    Args:
        baseline: 0 for none, a number, a tensor B(x), `leave_one_out`, a `MovingAverage`, or a function of the values.
    """

    baseline: Baseline = 0.0

    def unbiased(self, q: Distribution) -> bool:
        return not moves(q)

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        return q.sample(shape).detach()

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return _score(cost, q.log_prob(z), self.baseline)


@dataclass(frozen=True)
class Relaxed:
    r"""Gumbel-Softmax draws at temperature $\tau$ in place of `OneHotCategorical` or `Bernoulli` draws: biased.

    Soft draws give the exact gradient of $E f(y_\tau)$, which differs from $E f(z)$ by $O(\tau)$; the variance grows as
    $1/\tau$. Hard (straight-through) draws give the value at z and the gradient $f'(z)\, \partial y_\tau$; its bias
    vanishes as $\tau \to 0$ only if the trapezoid rule is exact for f between two classes, as for a quadratic.

    Args:
        temperature: $\tau$, positive.
        hard: whether draws are one-hot, with the straight-through gradient.

    Raises:
        ValueError: if the temperature is not positive; from `draw`, for another distribution.

    Source: Jang et al. (2017); Maddison et al. (2017).
    """

    temperature: float
    hard: bool = False

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def unbiased(self, q: Distribution) -> bool:
        return False

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        base: Distribution = q
        while isinstance(base, Independent):
            base = base.base_dist
        if isinstance(base, OneHotCategorical):
            logits = base.logits.expand(*shape, *base.logits.shape)
            return gumbel_softmax(logits, self.temperature, hard=self.hard)
        if isinstance(base, Bernoulli):
            logits = base.logits.expand(*shape, *base.logits.shape)
            pair = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
            return gumbel_softmax(pair, self.temperature, hard=self.hard)[..., 0]
        raise ValueError(f"a relaxed q must be a OneHotCategorical or a Bernoulli, got {_name(q)}")

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return cost.new_zeros(())


def expectation(
    q: Distribution,
    f: Function,
    estimator: Estimator,
    samples: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*b"]:
    """Monte Carlo mean of f under q, with q's batch shape and the estimator's gradient.

    Args:
        q: batch (*b).
        f: maps draws (K, *b, *event) to values (K, *b), each depending on its own draw alone.
        estimator: `Pathwise`, `ScoreFunction`, `Relaxed`, or your own.
        samples: number of draws K, at least 1.
        generator: None for torch's global one.

    Raises:
        ValueError: if samples is below 1, or f returns another shape.
    """
    check_count(samples=samples)
    with drawing(generator):
        z = estimator.draw(q, torch.Size((samples,)))
    value = f(z)
    if value.shape != (samples, *q.batch_shape):
        raise ValueError(
            f"f must return one value per draw, shape {(samples, *q.batch_shape)}, got {tuple(value.shape)}"
        )
    return (value + estimator.correction(q, z, value)).mean(0)


def pathwise(
    q: Distribution, f: Function, samples: int = 1, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*b"]:
    r"""$\nabla E_q[f] = E_\epsilon[\nabla f(z_\theta(\epsilon))]$: `expectation` with `Pathwise`.

    Args:
        q: batch (*b), with `rsample`.
        f: maps draws (K, *b, *event) to values (K, *b), differentiable.
        samples: number of draws K, at least 1.
        generator: None for torch's global one.

    Raises:
        ValueError: if q has no `rsample`, samples is below 1, or f returns another shape.

    Source: Kingma & Welling (2014), section 2.4; Rezende et al. (2014).

    >>> mean = torch.tensor(3.0, requires_grad=True)
    >>> pathwise(torch.distributions.Normal(mean, 1.0), lambda z: 2 * z, samples=5).backward()
    >>> mean.grad
    tensor(2.)
    """
    return expectation(q, f, Pathwise(), samples, generator=generator)


def score_function(
    q: Distribution,
    f: Function,
    samples: int = 1,
    *,
    baseline: Baseline = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*b"]:
    r"""$\nabla E_q[f] = E_q[(f - b)\, \nabla\log q]$, plus f's own gradient: `expectation` with `ScoreFunction`.

    Args:
        q: batch (*b).
        f: maps draws (K, *b, *event) to values (K, *b).
        samples: number of draws K, at least 1.
        baseline: 0 for none, a number, a tensor B(x) of shape (*b), `leave_one_out`, a `MovingAverage`, or a function
            of the values (K, *b).
        generator: None for torch's global one.

    Raises:
        ValueError: if samples is below 1 (2 with leave-one-out), f returns another shape, or the baseline does not
            broadcast to the values.

    Source: Williams (1992); Paisley et al. (2012).

    >>> from jensen.estimators import leave_one_out
    >>> logits = torch.zeros(2, requires_grad=True)
    >>> q = torch.distributions.OneHotCategorical(logits=logits)
    >>> score_function(q, lambda z: 4 * z[..., 0], samples=2000, baseline=leave_one_out).backward()
    >>> logits.grad.round(decimals=1)
    tensor([ 1., -1.])
    """
    return expectation(q, f, ScoreFunction(baseline), samples, generator=generator)


def relaxed(
    q: Distribution,
    f: Function,
    samples: int = 1,
    *,
    temperature: float,
    hard: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*b"]:
    r"""$\nabla E f(y_\tau)$ for Gumbel-Softmax draws $y_\tau$, a biased gradient: `expectation` with `Relaxed`.

    The value is the mean of f at the draws: inside the simplex, or at its corners if `hard`.

    Args:
        q: a `OneHotCategorical` or `Bernoulli`, possibly inside `Independent`; batch (*b).
        f: maps draws (K, *b, *event) to values (K, *b), differentiable and defined between the classes.
        samples: number of draws K, at least 1.
        temperature: positive.
        hard: whether draws are one-hot, with the straight-through gradient.
        generator: None for torch's global one.

    Raises:
        ValueError: for another q, a temperature that is not positive, samples below 1, or an f that returns another
            shape.

    Source: Jang et al. (2017); Maddison et al. (2017).

    >>> logits = torch.zeros(2, requires_grad=True)
    >>> q = torch.distributions.OneHotCategorical(logits=logits)
    >>> value = relaxed(q, lambda z: z[..., 0], samples=100, temperature=0.5, hard=True)
    >>> value.backward()
    >>> bool(logits.grad[0] > 0)
    True
    """
    return expectation(q, f, Relaxed(temperature, hard), samples, generator=generator)


def _name(q: Distribution) -> str:
    while isinstance(q, Independent):
        q = q.base_dist
    return type(q).__name__

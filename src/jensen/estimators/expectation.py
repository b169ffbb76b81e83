r"""$E_q[f]$ with a gradient: the value is the Monte Carlo mean, the gradient the estimator's.

An estimator is two things: how a draw is made, and a correction, zero in value, whose gradient is what the draw itself
does not carry. The same objects serve one expectation, the nodes of a `Graph`, and `compare_estimators`.
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
from jensen.distributions import gumbel_softmax
from jensen.distributions.checks import check_temperature
from jensen.estimators.baselines import Baseline, evaluate, fits
from jensen.estimators.exact import Function, is_discrete, moves


@runtime_checkable
class Estimator(Protocol):
    """A way to differentiate through a sampling node."""

    def unbiased(self, q: Distribution) -> bool:
        """Whether the mean of the gradient is that of E_q[f], for this q and any f the estimator takes."""

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        """Draws z, (*shape, *batch, *event)."""

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        """Zeros that broadcast to the cost; their gradient completes the draw's."""


def score_surrogate(
    value: Float[Tensor, "..."], log_q: Float[Tensor, "..."], baseline: Baseline = 0.0
) -> Float[Tensor, "..."]:
    r"""The value, with $(f - b)\, \nabla \log q$ added to its gradient.

    $f + \mathrm{sg}(f - b)\, (\log q - \mathrm{sg}(\log q))$, with sg for "no gradient".

    Args:
        value: f, any shape.
        log_q: of the draw held fixed, in nats; broadcasts to the value.
        baseline: a number, a tensor that broadcasts to the value, or a function of the values.

    Raises:
        ValueError: if log_q or the baseline would enlarge the value, or a baseline of other draws' values meets values
            that share one draw.

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
            f"a baseline of other draws' values needs axis 0 of the values, {tuple(cost.shape)}, to be draws of the "
            f"node: got draws of shape {tuple(log_q.shape)}"
        )
    return (cost.detach() - evaluate(baseline, cost)) * (log_q - log_q.detach())


def _reads(baseline: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether a baseline hangs on the values: it is asked about others."""
    values = values.detach()
    return not torch.equal(torch.as_tensor(baseline(values)), torch.as_tensor(baseline(2 * values + 1)))


@dataclass(frozen=True)
class Pathwise:
    """The draw is a differentiable function of q's parameters and of noise without any: q must have `rsample`.

    Unbiased where f has no jumps and the draws move: those of a discrete q with an `rsample` are straight-through.
    """

    def unbiased(self, q: Distribution) -> bool:
        return q.has_rsample and not is_discrete(q)

    def draw(self, q: Distribution, shape: torch.Size) -> Tensor:
        if not q.has_rsample:
            raise ValueError(f"{_name(q)} has no pathwise gradient: use the score function, or relax it")
        return q.rsample(shape)

    def correction(self, q: Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return cost.new_zeros(())


@dataclass(frozen=True)
class ScoreFunction:
    r"""$(f - b)\, \nabla\log q$: any q with a density, any f, no gradient of f; the baseline decides the variance.

    Args:
        baseline: 0 for none, a number, a tensor B(x), `leave_one_out`, a `MovingAverage`, or a function of the values.

    Unbiased whatever f is, unless q's support moves with its parameters, as a uniform one's does.
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
    r"""Gumbel-Softmax draws at temperature $\tau$ instead of a `OneHotCategorical`'s or a `Bernoulli`'s: biased.

    Soft draws give the exact gradient of $E f(y_\tau)$, which differs from $E f(z)$ by $O(\tau)$; variance grows as
    $1/\tau$. Hard ones (straight-through) give the value at z and the gradient $f'(z)\, \partial y_\tau$; as
    $\tau \to 0$ its bias goes to zero only where the trapezoid rule is exact for f between two classes, as it is for a
    quadratic.

    Args:
        temperature: $\tau$, positive.
        hard: straight-through.

    Raises:
        ValueError: if the temperature is not positive; on a draw, for another distribution.

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
        raise ValueError(f"only a OneHotCategorical or a Bernoulli can be relaxed, got {_name(q)}")

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
    """Monte Carlo mean of f under q, of q's batch shape, whose gradient is the estimator's.

    Args:
        q: batch (*b).
        f: draws (K, *b, *event) to values (K, *b), each of its own draw alone.
        estimator: `Pathwise`, `ScoreFunction`, `Relaxed`, or your own.
        samples: K, at least 1.
        generator: None for torch's global one.

    Raises:
        ValueError: if samples is below 1, or f returns another shape.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
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
    r"""$\nabla E_q[f] = E_\epsilon[\nabla f(z_\theta(\epsilon))]$; `expectation` by `Pathwise`.

    Args:
        q: batch (*b), with `rsample`.
        f: draws (K, *b, *event) to values (K, *b), differentiable.
        samples: K, at least 1.
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
    r"""$\nabla E_q[f] = E_q[(f - b)\, \nabla\log q]$, and f's own gradient; `expectation` by `ScoreFunction`.

    Args:
        q: batch (*b).
        f: draws (K, *b, *event) to values (K, *b).
        samples: K, at least 1.
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
    r"""$\nabla E f(y_\tau)$ for Gumbel-Softmax draws $y_\tau$, a biased gradient; `expectation` by `Relaxed`.

    The value is the mean of f at what was drawn: inside the simplex, or with `hard` at its corners.

    Args:
        q: a `OneHotCategorical` or `Bernoulli`, also inside `Independent`; batch (*b).
        f: draws (K, *b, *event) to values (K, *b), differentiable and defined between the classes.
        samples: K, at least 1.
        temperature: positive.
        hard: straight-through.
        generator: None for torch's global one.

    Raises:
        ValueError: for another q, a temperature not positive, samples below 1, or f of another shape.

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

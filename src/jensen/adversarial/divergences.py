r"""The risk of a critic, the Bayes risk, and the divergences they measure.

Between distributions with a density: exact sums over the values of both if these can be enumerated, adaptive quadrature
in one dimension, Monte Carlo otherwise. From samples, with a critic: a lower bound. Conventions are those of `margin`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, MixtureSameFamily, OneHotCategorical
from torch.distributions.constraints import Constraint

from jensen.adversarial.margin import MARGIN_LOSSES, MarginLoss, zero_one
from jensen.core.quadrature import integrate_line
from jensen.core.seeding import drawing
from jensen.core.seeding import generator as seeded

DIVERGENCES: dict[str, MarginLoss] = {
    **{m.divergence: m for m in MARGIN_LOSSES.values() if m.divergence is not None},
    "total-variation": zero_one,
}
"""For each divergence, the loss whose optimal critic measures it."""

SAMPLES, MARKS, EVERY = 100_000, 2048, 16
OFF_ONE = 1e-5  # allowed deviation of a density's integral from 1


@dataclass(frozen=True)
class Estimate:
    """A number and its error.

    Attributes:
        value: the exact or estimated value.
        stderr: the standard error for Monte Carlo; the size of the last correction for quadrature; 0 for a sum,
            although the distribution's own masses may be less precise.

    >>> float(Estimate(0.5, 0.01))
    0.5
    """

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value


Value = Callable[[Tensor, Tensor], Tensor]
"""Maps points (N, *event) and log p/q at these points (N,) to values (N,)."""


def bayes_risk(
    loss: str | MarginLoss,
    p: Distribution,
    q: Distribution,
    *,
    samples: int = SAMPLES,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""$\inf_D E\, l(y D(x)) = -\frac12 \int f(p/q)\, q$, over every function D.

    At p = q it is `loss.chance`: 1/2 for zero-one, log 2 for logistic, 1 for squared, exponential and hinge. Between
    distributions of disjoint support it is 0 for all five.

    Args:
        loss: one of the five, its name, or the result of `margin_loss`.
        p, q: distributions of real and generated data, without batch axes, over the same events.
        samples: number of Monte Carlo samples, half from each; not used if there is an exact method.
        generator: random generator for the Monte Carlo draws.

    Raises:
        ValueError: for an unknown loss; for p or q that is not a distribution (for samples, see `critic_divergence`);
            for distributions with a batch shape, over different events, or whose densities do not integrate to 1; for
            fewer than 4 samples.

    >>> from torch.distributions import Normal
    >>> p, q = Normal(0.0, 1.0), Normal(2.0, 1.0)
    >>> round(bayes_risk(zero_one, p, q).value, 6)  # the tail beyond 1 of a standard normal
    0.158655
    """
    margin = _named(loss, MARGIN_LOSSES, "loss")
    return _mean(lambda _, ratio: margin.conditional_risk(ratio), None, p, q, samples, generator)


def divergence(
    name: str | MarginLoss,
    p: Distribution,
    q: Distribution,
    *,
    samples: int = SAMPLES,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""$c\,(\mathrm{chance} - R)$: the gain of the optimal critic over guessing. At least 0, and 0 if p = q.

    "total-variation" $\frac12 \int |p - q|$, "le-cam" $\int (p-q)^2/(p+q)$, "hellinger" (squared) $1 - \int\sqrt{pq}$,
    "jensen-shannon" $\frac12 KL(p|m) + \frac12 KL(q|m)$ with $m = (p+q)/2$, in nats. They are symmetric, and reach 1,
    2, 1 and log 2 if the supports are disjoint.

    Args:
        name: one of these, or a margin loss for the divergence that it measures.
        p, q, samples, generator: as in `bayes_risk`.

    Raises:
        ValueError: for an unknown name, and as in `bayes_risk`.

    Source: Nguyen, Wainwright & Jordan (2009), section 3; Le Cam (1986) for the squared loss.

    >>> from torch.distributions import Normal
    >>> round(divergence("hellinger", Normal(0.0, 1.0), Normal(2.0, 1.0)).value, 6)  # 1 - exp(-1/2)
    0.393469
    """
    loss = _named(name, DIVERGENCES, "divergence")
    chance = loss.chance
    gain = _mean(lambda _, ratio: chance - loss.conditional_risk(ratio), None, p, q, samples, generator)
    return Estimate(loss.scale * gain.value, loss.scale * gain.stderr)


def risk(
    loss: str | MarginLoss,
    critic: Callable[[Tensor], Tensor],
    p: Distribution,
    q: Distribution,
    *,
    samples: int = SAMPLES,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""$\frac12 E_p\, l(D(x)) + \frac12 E_q\, l(-D(x))$ of one critic; at least the Bayes risk.

    Only the infimum over *all* functions may be taken inside the integral. Over a smaller class, such as linear
    critics, the minimum risk is larger and gives no f-divergence.

    Args:
        loss: as in `bayes_risk`.
        critic: maps events (N, *event) to (N,). Events have the dtype of the distributions.
        p, q, samples, generator: as in `bayes_risk`.

    Raises:
        ValueError: as in `bayes_risk`; if the critic does not give one number per example (nan is not accepted), or
            quadrature does not converge (an infinite risk).

    >>> from torch.distributions import Normal
    >>> p, q = Normal(0.0, 1.0), Normal(0.0, 3.0)  # no line tells them apart
    >>> from jensen.adversarial import logistic
    >>> round(risk(logistic, lambda x: 0 * x, p, q).value, 4), round(bayes_risk(logistic, p, q).value, 4)
    (0.6931, 0.5067)
    """
    margin = _named(loss, MARGIN_LOSSES, "loss")

    def values(x: Tensor) -> Tensor:
        d = critic(x)
        if d.shape != x.shape[:1]:
            raise ValueError(f"a critic must give one number per example, ({len(x)},), got {tuple(d.shape)}")
        return _numbers(d)

    return _mean(lambda x, _: margin(values(x)), lambda x, _: margin(-values(x)), p, q, samples, generator)


def critic_divergence(name: str | MarginLoss, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Estimate:
    r"""$c\,(\mathrm{chance} - \hat R)$ from a critic's values on samples: its mean is a lower bound on the divergence.

    Use held-out samples: on the critic's training samples it is too high and not a bound. It equals the divergence for
    the optimal critic, and is below 0 for one that is worse than guessing.

    Args:
        name: a divergence's name ("total-variation" uses the critic's sign), or the margin loss to use.
        real, fake: (N,) and (M,) critic's values, at least 2 each.

    Raises:
        ValueError: for an unknown name, or values that are not one row of at least 2 numbers.

    >>> critic_divergence("total-variation", torch.tensor([3.0, 2.0]), torch.tensor([-1.0, -4.0]))
    Estimate(value=1.0, stderr=0.0)
    """
    loss = _named(name, DIVERGENCES, "divergence")
    for values in (real, fake):
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"a critic's values must be one row of at least 2, got {tuple(values.shape)}")
    half = _half_and_half(loss(_numbers(real)), loss(-_numbers(fake)))
    return Estimate(loss.scale * (loss.chance - half.value), loss.scale * half.stderr)


def _named(name: str | MarginLoss, known: dict[str, MarginLoss], what: str) -> MarginLoss:
    if isinstance(name, MarginLoss):
        return name
    if callable(name):
        raise ValueError(f"{what} must be a name or a margin loss, got a function: wrap it with margin_loss")
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]


def _numbers(d: Tensor) -> Tensor:
    """A critic's values in double precision; refuses nan, which some losses would accept as a margin."""
    if bool(d.isnan().any()):
        raise ValueError(f"a critic's values must be numbers, got nan in {int(d.isnan().sum())} of {d.numel()}")
    return d.detach().double()


def _half_and_half(a: Tensor, b: Tensor) -> Estimate:
    """Mean of two means and its standard error."""
    variance = a.var() / len(a) + b.var() / len(b)
    return Estimate(float(a.mean() + b.mean()) / 2, float(variance.sqrt()) / 2)


@torch.no_grad()
def _mean(
    under_p: Value, under_q: Value | None, p: Distribution, q: Distribution, samples: int, rng: torch.Generator | None
) -> Estimate:
    """Half the mean of `under_p` over p plus half that of `under_q` over q; None: the same function."""
    under_q = under_q or under_p
    for name, d in (("p", p), ("q", q)):
        if not isinstance(d, Distribution):
            raise ValueError(
                f"{name} must be a distribution, got {type(d).__name__}: from samples, see critic_divergence"
            )
        if d.batch_shape:
            raise ValueError(f"{name} must be one distribution, got batch {tuple(d.batch_shape)}: use Independent")
    if p.event_shape != q.event_shape:
        raise ValueError(f"p and q must have equal event shapes, got {tuple(p.event_shape)} and {tuple(q.event_shape)}")
    if p.has_enumerate_support and q.has_enumerate_support:
        return _sum(under_p, under_q, p, q)
    if _support(p).is_discrete != _support(q).is_discrete:
        raise ValueError("p and q must both be discrete or both have a density, got one of each")
    if p.event_shape.numel() == 1 and not _support(p).is_discrete:
        return _quadrature(under_p, under_q, p, q)
    return _monte_carlo(under_p, under_q, p, q, samples, rng)


def _sum(under_p: Value, under_q: Value, p: Distribution, q: Distribution) -> Estimate:
    """The sum over every value that p or q can take; where one has no mass, its probability is 0."""
    own = [d.enumerate_support() for d in (p, q)]
    values, place = torch.cat([v.double() for v in own]).unique(dim=0, return_inverse=True)
    log_mass = torch.full((2, len(values)), -math.inf, dtype=torch.float64, device=values.device)
    log_mass[0, place[: len(own[0])]] = _log_masses(p, own[0])
    log_mass[1, place[len(own[0]) :]] = _log_masses(q, own[1])
    x, y = (values.to(v.dtype) for v in own)
    return Estimate(float(_joint(under_p, under_q, x, y, log_mass[0], log_mass[1]).sum()), 0.0)


def _log_masses(d: Distribution, x: Tensor) -> Tensor:
    """Log-probabilities of all values of d; torch's `log_prob` raises a probability of 0 to epsilon."""
    if isinstance(d, Categorical | OneHotCategorical):
        return d.probs.double().log()
    if isinstance(d, Bernoulli):
        return torch.stack([1 - d.probs, d.probs]).double().log()
    return d.log_prob(x).double()


def _quadrature(under_p: Value, under_q: Value, p: Distribution, q: Distribution) -> Estimate:
    with drawing(seeded(0)):  # draws show where the mass is
        draws = [_parts(d) for d in (p, q)]
    own = [v.dtype for v in draws]
    spread = [v.double().sort(0).values[EVERY // 2 :: EVERY].reshape(-1) for v in draws]
    marks = torch.cat([*spread, *(_ends(_support(d)).to(spread[0]) for d in (p, q))])

    def integrands(t: Tensor) -> Tensor:
        x = t.reshape(-1, *p.event_shape)
        log_p, log_q = (_log_prob(d, x, dtype) for d, dtype in zip((p, q), own, strict=True))
        log_p, log_q = (v.masked_fill(v == math.inf, -math.inf) for v in (log_p, log_q))  # rounded onto a pole
        joint = _joint(under_p, under_q, x.to(own[0]), x.to(own[1]), log_p, log_q)
        return torch.stack([joint, log_p.exp(), log_q.exp()], 1)

    value, error = integrate_line(integrands, marks)
    for name, integral in zip("pq", value[1:].tolist(), strict=True):
        if not abs(integral - 1) < OFF_ONE:
            raise ValueError(
                f"{name} integrates to {integral:.6f} by quadrature, not 1: parameters in single precision, a pole, a "
                "peak that is too narrow, or a density that is not 0 outside its support"
            )
    result, stderr = float(value[0]), float(error[0]) + float((value[1:] - 1).abs().max())
    if not error[0] <= OFF_ONE * max(1, abs(result)):
        raise ValueError(f"quadrature did not converge: {result:.6g} with an error estimate of {float(error[0]):.2g}")
    return Estimate(result, stderr)


def _monte_carlo(
    under_p: Value, under_q: Value, p: Distribution, q: Distribution, samples: int, rng: torch.Generator | None
) -> Estimate:
    if not (isinstance(samples, int) and samples >= 4):
        raise ValueError(f"samples must be a whole number of at least 4, got {samples}")
    with drawing(rng):
        x, y = p.sample((samples // 2,)), q.sample((samples // 2,))
    p_x, p_y = (_log_prob(p, v, x.dtype) for v in (x, y))
    q_x, q_y = (_log_prob(q, v, y.dtype) for v in (x, y))
    for name, at_own in (("p", p_x), ("q", q_y)):
        if bool((at_own == -math.inf).any()):
            raise ValueError(f"{name} draws where its density is 0: its support or its density is wrong")
    return _half_and_half(under_p(x, p_x - q_x).double(), under_q(y, p_y - q_y).double())


def _parts(d: Distribution) -> Tensor:
    """Draws (n, k) in one dimension, from each of the k components of a mixture, so that every peak gets marks."""
    if not isinstance(d, MixtureSameFamily):
        return d.sample((MARKS,)).reshape(MARKS, 1)
    parts = d.component_distribution
    n = max(EVERY, MARKS // parts.batch_shape[-1])
    return parts.sample((n,)).reshape(n, -1)


def _joint(under_p: Value, under_q: Value, x: Tensor, y: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The integrand at x, (N,), where y is x in the dtype of q; 0 where a density is 0, even if the factor is
    infinite.
    """
    possible = (log_p > -math.inf) | (log_q > -math.inf)
    ratio = torch.where(possible, log_p - log_q, 0.0)
    a = under_p(x, ratio)
    b = a if under_q is under_p else under_q(y, ratio)
    p, q = log_p.exp(), log_q.exp()
    return torch.where(p > 0, p * a, 0.0) / 2 + torch.where(q > 0, q * b, 0.0) / 2


def _log_prob(d: Distribution, x: Tensor, own: torch.dtype) -> Tensor:
    """Log density in float64, -inf outside the support; `own` is the dtype of draws from d."""
    if d.event_shape:  # linear algebra needs a single dtype
        x = x.to(own)
    if isinstance(d, MixtureSameFamily):
        return _log_mixture(d, x)
    inside = _support(d).check(x)
    out = torch.full(inside.shape, -math.inf, dtype=torch.float64, device=x.device)
    if bool(inside.any()):  # torch cannot sum over the axes of an empty batch
        out[inside] = d.log_prob(x[inside]).double()
    return out


def _log_mixture(d: MixtureSameFamily, x: Tensor) -> Tensor:
    """Like `_log_prob`, for mixtures: each component has its own support, while torch uses the intersection."""
    parts, events = d.component_distribution, len(d.event_shape)
    x = x.unsqueeze(-1 - events)
    inside = _support(parts).check(x)
    with drawing(seeded(0)):
        allowed = parts.sample().to(x)
    x = torch.where(inside.reshape(*inside.shape, *[1] * events), x, allowed)
    each = torch.where(inside, parts.log_prob(x).double(), -math.inf)
    return torch.logsumexp(each + d.mixture_distribution.probs.double().log(), -1)


def _support(d: Distribution) -> Constraint:
    if d.support is None:
        raise ValueError(f"{type(d).__name__} must define its support")
    return d.support


def _ends(support: Constraint) -> Tensor:
    """Finite ends of a support, where the density has jumps or poles."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    ends = [torch.as_tensor(getattr(support, end, ())).reshape(-1).double() for end in ("lower_bound", "upper_bound")]
    return torch.cat(ends)

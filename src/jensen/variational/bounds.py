r"""Bounds on log p(x), one number per example in nats, and estimators of their gradients.

A bound is a function of a trace. A gradient estimator wraps it and keeps its value, so that the reported number is
always the bound. Bounds $E_q \log p(x | z) - C$ compose: `free_bits` defines a cost C, `beta` multiplies it by a
number, `annealed` by a function of the step, as in `annealed(linear(1000), beta(4.0, free_bits(0.5)))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.shapes import single
from jensen.variational.trace import Trace

Bound = Callable[[Trace], Tensor]
"""Maps a trace to a bound per example, (B,), in nats."""


def log_weights(trace: Trace) -> Float[Tensor, "k b"]:
    r"""$\log w = \log p(x, z) / q(z | x)$ of every draw, (K, B) nats.

    Raises:
        ValueError: if a term is analytic, or there are no draws.
    """
    if any(trace.analytic):
        raise ValueError(
            f"weights need sampled terms, and layer {trace.analytic.index(True) + 1}'s is analytic: "
            "make the trace with analytic=False"
        )
    return _joint(trace)


def _joint(trace: Trace) -> Tensor:
    joint: Tensor = _likelihood(trace) - sum(single(kl) for kl in trace.kl)
    return joint


def _likelihood(trace: Trace) -> Tensor:
    if trace.samples < 1:
        raise ValueError(f"samples must be at least 1, got {trace.samples}")
    return single(trace.log_px)


def elbo(trace: Trace) -> Float[Tensor, " b"]:
    r"""$E_q[\log p(x | z) - \sum_l \mathrm{kl}_l] \le \log p(x)$, the mean over K draws.

    Raises:
        ValueError: if there are no draws.

    Source: Kingma & Welling (2014), equation 3.

    >>> one = torch.ones(2, 1)
    >>> elbo(Trace(-3 * one, kl=(one,), log_q=(one,), analytic=(False,), pathwise=(True,)))
    tensor([-4.])
    """
    return _joint(trace).mean(0)


def iwae(trace: Trace) -> Float[Tensor, " b"]:
    r"""$\log \frac1K \sum_k w_k$: increases with K, from the ELBO at K = 1 to log p(x).

    Raises:
        ValueError: if a term is analytic, or there are no draws.

    Source: Burda et al. (2016), equation 8.

    >>> log_px, zero = torch.tensor([[0.0], [math.log(3)]]), torch.zeros(2, 1)
    >>> iwae(Trace(log_px, kl=(zero,), log_q=(zero,), analytic=(False,), pathwise=(True,))).exp()
    tensor([2.])
    """
    return log_weights(trace).logsumexp(0) - math.log(trace.samples)


@dataclass(frozen=True)
class Penalized:
    r"""$E_q \log p(x | z) - \beta \sum_g \max(\lambda, \mathrm{mean}_{B, K}\, \mathrm{kl}_g)$, on average over a batch.

    The type of `beta`, `free_bits` and their compositions. A row's value contains its own $\mathrm{kl}_g$ if the mean
    is above $\lambda$, otherwise $\lambda$. A bound on $\log p(x)$ for $\beta \ge 1$.

    Attributes:
        weight: $\beta$, at least 0.
        floor: $\lambda$ of each group, nats; -inf for none (a term that is not a KL divergence may be negative).
        per: a group is a "layer" or one "dimension" of a layer (`Trace.coordinates`).
    """

    weight: float = 1.0
    floor: float = -math.inf
    per: str = "layer"

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")

    def __call__(self, trace: Trace) -> Float[Tensor, " b"]:
        if self.floor == -math.inf:
            return elbo(replace(trace, kl=tuple(self.weight * kl for kl in trace.kl)))
        kl = self.groups(trace)
        paid = torch.where(kl.mean((0, 1)) > self.floor, kl, self.floor).sum(-1)
        return (_likelihood(trace) - self.weight * paid).mean(0)

    def groups(self, trace: Trace) -> Float[Tensor, "k b g"]:
        """The terms of all groups.

        Raises:
            ValueError: if groups are dimensions, and the trace has no coordinates.
        """
        if self.per == "layer":
            return torch.stack(trace.kl, -1)
        if not trace.coordinates:
            raise ValueError("free bits per dimension need a trace that holds the coordinates of its terms")
        return torch.cat(trace.coordinates, -1)

    @torch.no_grad()
    def worth(self, trace: Trace, *, of_rows: bool) -> Float[Tensor, "_ b"]:
        """The decrease of the sum over a batch of at least two rows if each row (1, B), or each draw (K, B), is
        removed.

        A removed draw is replaced by the other draws of its row. Through the floor the values of other rows change too.
        """
        kl, log_px, (k, b) = self.groups(trace), trace.log_px, trace.log_px.shape
        mean, rows = kl.mean((0, 1)), kl.mean(0, keepdim=True)
        if of_rows:
            own, left, count = log_px.mean(0, keepdim=True), (b * mean - rows) / (b - 1), b - 1
        else:
            own, left, count = (log_px - log_px.mean(0)) / (k - 1), mean + (rows - kl) / (b * (k - 1)), b
        paid = b * mean.clamp_min(self.floor) - count * left.clamp_min(self.floor)
        return own - self.weight * paid.sum(-1)


def beta(weight: float, bound: Bound = elbo) -> Bound:
    r"""$E_q \log p(x | z) - \beta\, C$ of a bound $E_q \log p(x | z) - C$; also a bound for $\beta \ge 1$.

    Args:
        weight: beta, at least 0.
        bound: `elbo`, `free_bits` or another `beta`: `beta(4.0, free_bits(0.5))` is
            $E_q \log p(x | z) - 4 \sum_l \max(\tfrac12, \mathrm{kl}_l)$.

    Raises:
        ValueError: if the weight is negative or not finite, or for another bound.

    Source: Higgins et al. (2017), equation 4.

    >>> one = torch.ones(2, 1)
    >>> trace = Trace(-3 * one, kl=(one,), log_q=(one,), analytic=(False,), pathwise=(True,))
    >>> beta(4.0)(trace), beta(4.0, free_bits(1.5))(trace)
    (tensor([-7.]), tensor([-9.]))
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"beta must be at least 0 and finite, got {weight}")
    if bound is elbo:
        return Penalized(weight)
    if bound is iwae:
        raise ValueError(
            "iwae has no KL to weigh or to warm up: it is the logarithm of a mean of weights p(x, z) / q(z | x), "
            "choose elbo or free_bits"
        )
    if not isinstance(bound, Penalized):
        got = getattr(bound, "__name__", type(bound).__name__)
        raise ValueError(f"beta must weight elbo, free_bits or beta, got {got}")
    return replace(bound, weight=weight * bound.weight)


def free_bits(nats: float, per: str = "layer") -> Bound:
    r"""$E_q \log p(x | z) - \sum_g \max(\lambda, \mathrm{mean}_B\, \mathrm{kl}_g)$: the first $\lambda$ nats are free.

    As published, the maximum applies to each group's mean over the batch: below $\lambda$ the group's term is constant
    and has no gradient for any example; above it every example keeps its own term. Each row thus depends
    on all rows: `scored` accounts for this, and sticking the landing is biased.

    Args:
        nats: $\lambda$ of each group, at least 0.
        per: "layer", or "dimension" for a floor for each independent coordinate of each layer.

    Raises:
        ValueError: if nats is negative or not finite, or for another `per`.

    Source: Kingma et al. (2016), equation 15 and appendix C.8.

    >>> kl = torch.tensor([[1.0, 2.0]])
    >>> trace = Trace(torch.zeros(1, 2), kl=(kl,), log_q=(kl,), analytic=(True,), pathwise=(True,))
    >>> free_bits(1.4)(trace), free_bits(3.0)(trace)
    (tensor([-1., -2.]), tensor([-3., -3.]))
    """
    if not 0 <= nats < math.inf:
        raise ValueError(f"free bits must be at least 0 nats and finite, got {nats}")
    if per not in ("layer", "dimension"):
        raise ValueError(f"free bits must be per layer or dimension, got {per!r}")
    return Penalized(floor=nats, per=per)


def scored(bound: Bound, baseline: Float[Tensor, " b"] | None = None) -> Bound:
    r"""The bound, with the score function's gradient for every layer without reparameterization.

    $\nabla E_q F = E_q[\nabla F + \sum_k (F - b_k)\, \nabla\log q(z_k | x)]$ for a bound F of K draws. By default $b_k$
    is the bound of the other K - 1 draws: for the ELBO the leave-one-out baseline, for IWAE the learning signal of
    VIMCO (0 for K = 1, where the variance grows with the square of the bound). Unbiased; without effect if all layers
    are reparameterized.

    Under free bits the draws of one row affect the other rows through the batch mean. Then F is the sum over the batch,
    b is that sum without the draw or, for K = 1 or with a baseline, without the row, and the gradient is that of the
    batch's sum, not of each row.

    Args:
        bound: the bound; in a custom one each row must depend only on its own draws.
        baseline: (B,), independent of the draws, instead of the other draws.

    Source: Mnih & Rezende (2016), equations 5 to 7, holding a draw out rather than replacing it; Kool et al. (2019).

    >>> w = torch.zeros(2, 1, requires_grad=True)
    >>> trace = Trace(torch.tensor([[0.0], [2.0]]), (0 * w,), (w,), analytic=(False,), pathwise=(False,))
    >>> scored(elbo)(trace).backward()
    >>> w.grad.flatten()
    tensor([-1., 1.])
    """

    def estimate(trace: Trace) -> Tensor:
        value = bound(trace)
        scores = [log_q for log_q, pathwise in zip(trace.log_q, trace.pathwise, strict=True) if not pathwise]
        if not scores:
            return value
        if has_floor(bound) and len(value) > 1:
            worth = bound.worth(trace, of_rows=baseline is not None or trace.samples == 1)
            signal = worth if baseline is None else worth - baseline.detach()
        else:
            signal = value.detach() - (_of_the_others(bound, trace) if baseline is None else baseline.detach())
        return _with_gradient(value, (signal * sum(scores)).sum(0))

    return estimate


def has_floor(bound: object) -> TypeGuard[Penalized]:
    """Whether a row's value depends on the other rows through the floor of a batch mean."""
    return isinstance(bound, Penalized) and bound.floor > -math.inf


@torch.no_grad()
def _of_the_others(bound: Bound, trace: Trace) -> Tensor:
    """The bound without each draw in turn, (K, B); 0 if there is only one."""
    k = trace.samples
    if k == 1:
        return torch.zeros_like(trace.log_px)
    kept = [[j for j in range(k) if j != left] for left in range(k)]
    return torch.stack([bound(_draws(trace, rows)) for rows in kept])


def _draws(trace: Trace, rows: list[int]) -> Trace:
    return replace(
        trace,
        log_px=trace.log_px[rows],
        kl=tuple(kl[rows] for kl in trace.kl),
        log_q=tuple(log_q[rows] for log_q in trace.log_q),
        coordinates=tuple(c[rows] for c in trace.coordinates),
    )


def _with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, to whose gradient that of the surrogate is added."""
    return value + (surrogate - surrogate.detach())


def sticking_the_landing(trace: Trace) -> Trace:
    r"""The same trace without the score of q, which has mean zero: the encoder's gradient is pathwise only.

    If $q = p(z | x)$ the ELBO's gradient for q is then zero for every draw. Unbiased for the ELBO and `beta`; biased
    where the weight of a term depends on the draws: for IWAE with K > 1 (use `dreg`), and under free bits.

    Raises:
        ValueError: if a layer is not reparameterized, or a term is analytic (its gradient contains no score).

    Source: Roeder et al. (2017), equation 6; on the bias Tucker et al. (2019), section 4.
    """
    _need_paths("sticking the landing", trace)
    if any(trace.analytic):
        raise ValueError("sticking the landing needs sampled terms: make the trace with analytic=False")
    kl = tuple(kl - (log_q - log_q.detach()) for kl, log_q in zip(trace.kl, trace.log_q, strict=True))
    return replace(trace, kl=kl, coordinates=())


def dreg(trace: Trace) -> Float[Tensor, " b"]:
    r"""IWAE, with the doubly reparameterized gradient for the parameters of q.

    $\sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}$ with
    $\tilde w = \mathrm{softmax}(\log w)$: unbiased for any K, and its signal-to-noise ratio grows with K, while that
    of the standard gradient of IWAE falls. For the parameters of q only; use `iwae` for those of p.

    Raises:
        ValueError: if a layer is not reparameterized, a term is analytic, or there are no draws.

    Source: Tucker et al. (2019), equation 8.
    """
    value = iwae(trace).detach()
    log_w = log_weights(sticking_the_landing(trace))
    seen = log_w.detach() > -math.inf  # a draw of weight 0 has no gradient
    weight = torch.where(seen, log_w.detach().softmax(0), 0)
    return _with_gradient(value, (weight.square() * torch.where(seen, log_w, 0)).sum(0))


def _need_paths(who: str, trace: Trace) -> None:
    if not all(trace.pathwise):
        raise ValueError(f"{who} needs reparameterized draws, and layer {trace.pathwise.index(False) + 1}'s are not")

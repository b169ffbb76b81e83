r"""Bounds on log p(x), one number per example in nats, and the gradients to raise them with.

A bound is a function of a trace. A trick for its gradient is a function around it that keeps the value: the number
reported is always the bound's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.variational.trace import Trace

Bound = Callable[[Trace], Tensor]
"""Trace -> (B,), nats."""


def log_weights(trace: Trace) -> Float[Tensor, "k b"]:
    r"""$\log w = \log p(x, z) / q(z | x)$ of every draw, (K, B) nats.

    Raises:
        ValueError: if a term is analytic, since a weight is of one draw; or without a draw.
    """
    if any(trace.analytic):
        raise ValueError(
            f"weights need sampled terms, and layer {trace.analytic.index(True) + 1}'s is analytic: "
            "make the trace with analytic=False"
        )
    return _joint(trace)


def _joint(trace: Trace) -> Tensor:
    if trace.samples < 1:
        raise ValueError(f"samples must be at least 1, got {trace.samples}")
    joint: Tensor = trace.log_px - sum(trace.kl)
    return joint


def elbo(trace: Trace) -> Float[Tensor, " b"]:
    r"""$E_q[\log p(x | z) - \sum_l \mathrm{kl}_l] \le \log p(x)$, its mean over K draws.

    Raises:
        ValueError: without a draw.

    Source: Kingma & Welling (2014), equation 3.

    >>> one = torch.ones(2, 1)
    >>> elbo(Trace(-3 * one, kl=(one,), log_q=(one,), analytic=(False,), pathwise=(True,)))
    tensor([-4.])
    """
    return _joint(trace).mean(0)


def iwae(trace: Trace) -> Float[Tensor, " b"]:
    r"""$\log \frac1K \sum_k w_k$: rises with K, from the ELBO at K = 1 to log p(x).

    Raises:
        ValueError: if a term is analytic, or without a draw.

    Source: Burda et al. (2016), equation 8.

    >>> log_px, zero = torch.tensor([[0.0], [math.log(3)]]), torch.zeros(2, 1)
    >>> iwae(Trace(log_px, kl=(zero,), log_q=(zero,), analytic=(False,), pathwise=(True,))).exp()
    tensor([2.])
    """
    return log_weights(trace).logsumexp(0) - math.log(trace.samples)


def beta(weight: float) -> Bound:
    r"""$E_q \log p(x | z) - \beta\, \mathrm{KL}$; a bound on log p(x) for $\beta \ge 1$.

    Args:
        weight: beta, at least 0.

    Raises:
        ValueError: if it is negative or not finite.

    Source: Higgins et al. (2017), equation 4.

    >>> one = torch.ones(2, 1)
    >>> beta(4.0)(Trace(-3 * one, kl=(one,), log_q=(one,), analytic=(False,), pathwise=(True,)))
    tensor([-7.])
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"beta must be at least 0 and finite, got {weight}")
    return lambda trace: elbo(replace(trace, kl=tuple(weight * kl for kl in trace.kl)))


def free_bits(nats: float) -> Bound:
    r"""$E_q \log p(x | z) - \sum_l \max(\lambda, \mathrm{mean}_B\, \mathrm{kl}_l)$: a layer's first nats cost the same.

    The maximum is of each layer's mean over the batch, as published: below $\lambda$ the whole layer's term is the
    constant, and has no gradient, whatever single examples need. Above it every example keeps its own term.

    Args:
        nats: lambda of each layer, at least 0.

    Raises:
        ValueError: if it is negative or not finite.

    Source: Kingma et al. (2016), equation 15, with a layer as the group.

    >>> kl = torch.tensor([[1.0, 2.0]])
    >>> trace = Trace(torch.zeros(1, 2), kl=(kl,), log_q=(kl,), analytic=(True,), pathwise=(True,))
    >>> free_bits(1.4)(trace), free_bits(3.0)(trace)
    (tensor([-1., -2.]), tensor([-3., -3.]))
    """
    if not 0 <= nats < math.inf:
        raise ValueError(f"free bits must be at least 0 nats and finite, got {nats}")

    def bound(trace: Trace) -> Tensor:
        return elbo(replace(trace, kl=tuple(torch.where(kl.mean() > nats, kl, nats) for kl in trace.kl)))

    return bound


def scored(bound: Bound, baseline: Float[Tensor, " b"] | None = None) -> Bound:
    r"""The bound, with the score function's gradient for every layer that has no path.

    $\nabla E_q F = E_q[\nabla F + \sum_k (F - b_k)\, \nabla\log q(z_k | x)]$ for a bound F of K draws. By default each
    draw's $b_k$ is the bound of the other K - 1: for the ELBO the leave-one-out baseline, for IWAE the signal of
    VIMCO (0 for K = 1). Unbiased. Where every layer has a path it changes nothing.

    Args:
        bound: what is raised.
        baseline: (B,), made without the draws, instead of the other draws.

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
        signal = value.detach() - (_of_the_others(bound, trace) if baseline is None else baseline.detach())
        return _with_gradient(value, (signal * sum(scores)).sum(0))

    return estimate


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
    )


def _with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the surrogate's gradient on top of its own."""
    return value + (surrogate - surrogate.detach())


def sticking_the_landing(trace: Trace) -> Trace:
    r"""The same trace without the score of q, whose mean is zero: only the path moves the encoder.

    With $q = p(z | x)$ the ELBO's gradient for q is then zero draw by draw. Unbiased for the ELBO and its weighted
    kin; biased for IWAE with K > 1, whose weights depend on q too (there use `dreg`).

    Raises:
        ValueError: if a layer has no path, or a term is analytic (its gradient has no score to take away).

    Source: Roeder et al. (2017), equation 6; on the bias Tucker et al. (2019), section 4.
    """
    _need_paths("sticking the landing", trace)
    if any(trace.analytic):
        raise ValueError("sticking the landing needs sampled terms: make the trace with analytic=False")
    kl = tuple(kl - (log_q - log_q.detach()) for kl, log_q in zip(trace.kl, trace.log_q, strict=True))
    return replace(trace, kl=kl)


def dreg(trace: Trace) -> Float[Tensor, " b"]:
    r"""IWAE, with the doubly reparameterized gradient for the parameters of q.

    $\sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}$ with
    $\tilde w = \mathrm{softmax}(\log w)$: unbiased for any K, and its signal-to-noise ratio grows with K, where that
    of IWAE's own gradient falls. For the parameters of q only: those of p descend `iwae`.

    Raises:
        ValueError: if a layer has no path, a term is analytic, or without a draw.

    Source: Tucker et al. (2019), equation 8.
    """
    value = iwae(trace).detach()
    log_w = log_weights(sticking_the_landing(trace))
    return _with_gradient(value, (log_w.detach().softmax(0).square() * log_w).sum(0))


def _need_paths(who: str, trace: Trace) -> None:
    if not all(trace.pathwise):
        raise ValueError(f"{who} needs reparameterized draws, and layer {trace.pathwise.index(False) + 1}'s are not")

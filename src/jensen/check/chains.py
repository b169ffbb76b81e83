"""Markov chain Monte Carlo: whether a move keeps its distribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jensen.check.evidence import Report, bounded, close, mean_is
from jensen.check.line import F64, Density, Line, rows_alone, uniform_evidence

Kernel = Callable[[Tensor, torch.Generator], Tensor]
"""Moves every chain once: maps x (B, 1) and a generator to new x (B, 1)."""

PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "u - 1/2, (u - 1/2)^2 of the quantile u": (lambda u: u - 0.5, lambda u: (u - 0.5) ** 2),
    "cos, sin of 2 pi u": (lambda u: torch.cos(2 * torch.pi * u), lambda u: torch.sin(2 * torch.pi * u)),
}


def mcmc(
    kernel: Kernel,
    density: Density,
    *,
    reversible: bool = True,
    moves: int = 10,
    chains: int = 20_000,
    bias: float = 0.0,
    span: tuple[float, float] = (-12.0, 12.0),
) -> Report:
    r"""Whether a Markov kernel $k(y | x)$ keeps a density, and is in detailed balance if it claims to be.

    Chains start from exact draws of p and make some moves. Stationarity, $\int p(x)\, k(y|x)\, dx = p(y)$: the
    distribution function of p at their end points is uniform. Detailed balance,
    $p(x)\, k(y|x) = p(y)\, k(x|y)$: over one move $E[\phi(x)\psi(y) - \psi(x)\phi(y)] = 0$, for functions of the
    quantile. In addition: chains move, a draw is a function of its generator, and no chain depends on another.

    Args:
        kernel: one move.
        density: log p up to a constant: a function, or a distribution of `torch.distributions`.
        reversible: whether detailed balance is claimed.
        moves: number of moves over which errors add up, at least 1.
        chains: number of independent chains, at least 1,000; the five standard errors allowed for a quantile's mean are
            $1.5 / \sqrt{n}$.
        bias: allowed bias of a quantile's mean, added to the tolerance, for moves that keep p only up to the order of
            their step size.
        span: an interval that contains the mass of p.

    Raises:
        ValueError: for a number out of its range, a span without the mass, or a kernel that changes the shape.

    Source: Hastings (1970), section 2.

    >>> from jensen.score import mala
    >>> normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    >>> log_prob = lambda x: normal.log_prob(x)[:, 0]
    >>> mcmc(lambda x, g: mala(log_prob, x, 0.8, 1, generator=g).x, normal, chains=2000).holds
    True

    Without the Metropolis step the variance settles at 1 / (1 - 0.8 / 2) instead of 1:

    >>> from jensen.score import langevin
    >>> mcmc(lambda x, g: langevin(torch.neg, x, 0.8, 1, generator=g), normal, chains=2000).holds
    False
    """
    if moves < 1 or chains < 1000:
        raise ValueError(f"moves must be at least 1 and chains at least 1,000, got {moves} and {chains}")
    line = Line.of(density, span)
    generator = torch.Generator().manual_seed(0)
    start = line.quantile(torch.rand(chains, dtype=F64, generator=generator))
    x = kernel(start, generator)
    if x.shape != start.shape:
        raise ValueError(f"a kernel must keep the shape of x, {tuple(start.shape)}, got {tuple(x.shape)}")
    u, v = line.cdf(start), line.cdf(x)
    out = [bounded("chains move: mean change of the quantile", (u - v).abs().mean(), 1e-3, relation="at least")]
    if reversible:
        for name, (phi, psi) in PAIRS.items():
            flow = phi(u) * psi(v) - psi(u) * phi(v)
            out.append(mean_is(f"detailed balance: E[f(x) g(y) - g(x) f(y)] is 0 for f, g = {name}", 0.0, flow))
    for _ in range(moves - 1):
        x = kernel(x, generator)
    out += uniform_evidence(f"after {moves} moves from exact draws", line.cdf(x), bias)

    calls = iter(range(100))

    def moved(rows: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(next(calls))  # what is drawn outside the generator differs from call to call
            return kernel(start[rows], torch.Generator().manual_seed(1))

    first = torch.arange(256)
    out.append(close("the same generator gives the same draws", moved(first), moved(first), 0.0))
    out.append(rows_alone("a chain does not depend on the other chains", moved))
    return Report.of(out)

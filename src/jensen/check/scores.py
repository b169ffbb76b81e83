"""Score matching losses and score functions, checked by quadrature in one dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, bounded, close
from jensen.check.line import Density, Line, log_prob_of, rows_alone

Score = Callable[[Tensor], Tensor]
SMALL = 1e-6  # of quadrature, relative

DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {"1": torch.ones_like, "x": lambda x: x, "sin x": torch.sin}


def _gradient(density: Density) -> Score:
    """The gradient of log p, differentiable."""
    log_prob = log_prob_of(density)

    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_prob(at).sum(), at, create_graph=True)
        return slope

    return score


def score(
    loss: Callable[..., Tensor],
    density: Density,
    *,
    sigma: float | None = None,
    scale: float = 1.0,
    span: tuple[float, float] = (-12.0, 12.0),
) -> Report:
    r"""Whether a score matching loss fits the right score.

    The mean loss over x ~ p is compared, by quadrature, for the exact score $s^*$ and for $s^* + h g$ with three
    functions g: every kind of score matching must be explicit score matching plus a constant,

    $$E\,\ell(s^* + h g) - E\,\ell(s^*) = c\, \tfrac{h^2}{2}\, E\, g^2,$$

    so that it is minimal at $s^*$; its gradient must be that of its value (no term detached), and no row may depend on
    another. For denoising losses $s^*$ is the score of the density *noised* by sigma, and p's own score must be worse.

    Args:
        loss: (score, x) -> (B,), with score a function (B, 1) -> (B, 1), differentiable, and x (B, 1) draws of p. With
            sigma it is (score, x, eps) -> (B,), eps standard normal noise.
        density: log p up to a constant: a function, or a distribution of `torch.distributions`.
        sigma: standard deviation of the noise that the loss adds, positive; None if it adds none.
        scale: c, 1 for losses with the usual factor 1/2.
        span: an interval that contains the mass of p.

    Returns:
        one piece of evidence for each claim.

    Raises:
        ValueError: for a sigma that is not positive, a span without the mass, or a loss that is not (B,).

    Source: Hyvarinen (2005), theorem 1; Vincent (2011), equation 11.

    >>> from jensen.score import implicit
    >>> normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    >>> score(implicit, normal).holds
    True

    A loss with the whole square instead of half of it fits half the score:

    >>> score(lambda s, x: implicit(s, x) + s(x)[:, 0] ** 2 / 2, normal).failed[0].claim
    'the mean loss is minimal at the score of the density'
    """
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    own, line = _gradient(density), Line.of(density, span, 801 if sigma is None else 201)
    if sigma is None:
        return Report.of(_evidence(loss, _Draws((line.x,), line.x, line.mass), own, None, scale))
    noise = Line.of(lambda e: -e.square() / 2, (-10.0, 10.0), 45)
    mass = (line.mass[:, None] * noise.mass).reshape(-1)
    x, eps = line.x.repeat_interleave(len(noise.x), 0), noise.x.repeat(len(line.x), 1)
    live = mass > 1e-16 * mass.max()
    x, eps, mass = x[live], eps[live], mass[live]
    draws = _Draws((x, eps), x + sigma * eps, mass)
    return Report.of(_evidence(loss, draws, lambda x: line.noised_score(x, sigma), own, scale))


@dataclass(frozen=True)
class _Draws:
    """The arguments of a loss, the points at which it evaluates the score, and the mass of each row."""

    given: tuple[Tensor, ...]
    asked: Tensor
    mass: Tensor


def _evidence(
    loss: Callable[..., Tensor], draws: _Draws, exact: Score, clean: Score | None, scale: float
) -> Iterator[Evidence]:
    def mean(candidate: Score) -> Tensor:
        return draws.mass @ _per_row(loss(candidate, *draws.given), len(draws.mass))

    def half_square(g: Tensor) -> Tensor:
        return scale / 2 * draws.mass @ g.detach()[:, 0] ** 2

    least, x = mean(exact).detach(), draws.asked
    moved = [(g, h) for g in DIRECTIONS.values() for h in (-0.5, 0.5)]
    gaps = torch.stack([mean(_moved(exact, g, h)).detach() - least for g, h in moved])
    wanted = torch.stack([half_square(h * g(x)) for g, h in moved])
    small = SMALL * float(wanted.max())
    of = "the density" if clean is None else "the noised density"
    yield bounded(f"the mean loss is minimal at the score of {of}", gaps, 0.0, small, relation="at least")
    yield close("the mean loss is explicit score matching plus a constant", wanted, gaps, small)
    if clean is not None:
        lost = mean(clean).detach() - least
        yield close("excess loss of the clean density's score", half_square(clean(x) - exact(x)), lost, small)
    for name, g in DIRECTIONS.items():
        h = torch.tensor(0.5, dtype=x.dtype, requires_grad=True)
        value = mean(_moved(exact, g, h))
        slope = torch.autograd.grad(value, h)[0] if value.requires_grad else torch.zeros(())
        yield close(
            f"the loss's gradient is that of explicit score matching, direction {name}", half_square(g(x)), slope, small
        )
    picked = torch.linspace(0, len(x) - 1, 8).long()
    yield rows_alone(
        "a row's loss does not depend on the other rows",
        lambda rows: loss(_moved(exact, torch.sin, 1.0), *(given[picked[rows]] for given in draws.given)),
    )


def _moved(score: Score, g: Callable[[Tensor], Tensor], h: float | Tensor) -> Score:
    return lambda x: score(x) + h * g(x)


def score_function(
    score: Score, density: Density, *, normalised: bool = True, span: tuple[float, float] = (-12.0, 12.0)
) -> Report:
    r"""Whether a function is the score of a density.

    $s = \nabla \log p$ at every point; then $E_p\, s = 0$ and, by Stein's identity, $E_p\, x\, s(x) = -1$, which detect
    a wrong sign or factor even if log p's own gradient shares it; p integrates to 1; no row depends on another.

    Args:
        score: (B, 1) -> (B, 1).
        density: log p: a function, or a distribution of `torch.distributions`.
        normalised: whether log p claims to integrate to 1.
        span: an interval that contains the mass of p.

    Raises:
        ValueError: for a span that does not contain the mass, or a score whose shape is not that of x.

    Source: Stein (1972); Vincent (2011), section 4.2, for kernel densities.

    >>> from jensen.score import KernelDensity
    >>> kernels = KernelDensity(torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64), 0.5)
    >>> score_function(kernels.score, kernels).holds
    True

    The score of M kernels without the 1/M of the numerator is M times too large:

    >>> wrong = score_function(lambda x: 3 * kernels.score(x), kernels).failed[-1]
    >>> wrong.claim, round(wrong.measured, 6)
    ('the mean of x s(x) is -1', -3.0)
    """
    line = Line.of(density, span)
    live = line.mass > 1e-12
    x = line.x[live]
    s = score(x).detach()
    if s.shape != x.shape:
        raise ValueError(f"a score must have the shape of x, {tuple(x.shape)}, got {tuple(s.shape)}")
    exact = _gradient(density)(x).detach()
    mass = line.mass[live]
    size = max(1.0, float(exact.abs().max()))
    out = [close("the function is the gradient of log p", exact, s, SMALL * size)]
    if normalised:
        out.append(close("p integrates to 1: log of its integral", 0.0, line.log_total, SMALL))
    out += [
        close("the mean of s(x) is 0", 0.0, mass @ s[:, 0], 1e-5),
        close("the mean of x s(x) is -1", -1.0, mass @ (x * s)[:, 0], 1e-5),
    ]
    picked = x[torch.linspace(0, len(x) - 1, 8).long()]
    out.append(rows_alone("a row's score does not depend on the other rows", lambda rows: score(picked[rows])))
    return Report.of(out)


def _per_row(values: Any, rows: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (rows,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"a loss must be one number per row, ({rows},), got {shape}")
    return values

"""Score matching and kernel densities, by quadrature on a density whose score is written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from jensen.check.evidence import Claims, close, differs
from jensen.check.law import law
from jensen.check.line import F64, Line, f64, normal_nodes
from jensen.check.scores import score as check_score
from jensen.check.scores import score_function as check_score_function
from jensen.core.seeding import generator
from jensen.diffusion import EmpiricalOracle, VarianceExploding
from jensen.report import plots
from jensen.score import KernelDensity, denoising, explicit, implicit, noise_conditional, sliced, sliced_vr, tweedie

Score = Callable[[Tensor], Tensor]
WEIGHTS, MEANS, DEVIATIONS = f64([0.4, 0.6]), f64([-1.0, 1.2]), f64([0.5, 0.8])
SPAN = (-12.0, 12.0)
CANDIDATES: dict[str, Score] = {
    "0": torch.zeros_like,
    "-x": lambda x: -x,
    "sin 2x - x^3/9": lambda x: torch.sin(2 * x) - x**3 / 9,
}


def parts(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Log of weight times density, and score, of each of two Gaussians noised by sigma; (B, 2) each."""
    variance = DEVIATIONS**2 + sigma**2
    log_density = WEIGHTS.log() - (x - MEANS) ** 2 / (2 * variance) - torch.log(2 * math.pi * variance) / 2
    return log_density, (MEANS - x) / variance


def log_prob(x: Tensor) -> Tensor:
    """Log p(x), (B,)."""
    return parts(x, 0.0)[0].logsumexp(1)


def true_score(x: Tensor, sigma: float = 0.0) -> Tensor:
    """The gradient of log p_sigma, written out, (B, 1)."""
    log_density, slopes = parts(x, sigma)
    return (torch.softmax(log_density, 1) * slopes).sum(1, keepdim=True)


def times(a: float | Tensor) -> Score:
    """S(x) = a x."""
    return lambda x: a * x


def noised() -> tuple[Tensor, Tensor, Tensor]:
    """Data x (N, 1), noise eps (N, 1) and their mass (N,)."""
    line, (eps, mass) = Line.of(log_prob, SPAN, 241), normal_nodes(60)
    weight = (line.mass[:, None] * mass).reshape(-1)
    live = weight > 1e-17
    return line.x.repeat_interleave(60, 0)[live], eps.repeat(241)[:, None][live], weight[live]


@law("score-matching/explicit")
def explicit_matching(_: float) -> Claims:
    r"""Explicit score matching is half the Fisher divergence: 0 at the score, and known for N(0, v) against N(0, 1).

    $$J(s) = \tfrac12\, E_p\,|s - \nabla\log p|^2$$
    s = -x / v and p = N(0, 1): J = (1 - 1/v)^2 / 2.
    Source: Hyvarinen (2005), equation 2.
    """
    line = Line.of(lambda x: -(x**2) / 2, SPAN, 401)
    for v in (0.5, 3.0):
        found = line.mean(explicit(times(-1 / v), line.x, torch.neg))
        yield close(f"N(0, {v}) against N(0, 1)", (1 - 1 / v) ** 2 / 2, found, 1e-9)
    yield check_score(lambda s, x: explicit(s, x, true_score), log_prob).failures()


@law("score-matching/implicit")
def implicit_matching(_: float) -> Claims:
    r"""Implicit score matching is explicit score matching less a constant: it needs no score of p.

    $$E_p\big[\mathrm{tr}\,\nabla s + \tfrac12 |s|^2\big] = \tfrac12\,E_p|s - \nabla\log p|^2
    - \tfrac12\,E_p|\nabla\log p|^2$$
    The cross term -E[s grad log p] is -int s grad p, which by parts is int p tr grad s. By quadrature over two modes,
    for several s: the constant is -E|grad log p|^2 / 2 for all of them. Sliced matching is the same in the mean over
    slices, which on the line all signs give at once.
    Source: Hyvarinen (2005), theorem 1.
    Assumes: p s falls to 0 at infinity.
    """
    line = Line.of(log_prob, SPAN, 801)
    constant = -line.mean(true_score(line.x)[:, 0] ** 2) / 2
    signs = torch.stack([torch.ones_like(line.x), -torch.ones_like(line.x)])
    for said, s in CANDIDATES.items():
        exact = line.mean((s(line.x) - true_score(line.x))[:, 0] ** 2) / 2 + constant
        for name, loss in (
            ("implicit", implicit(s, line.x)),
            ("sliced", sliced(s, line.x, signs)),
            ("sliced, reduced variance", sliced_vr(s, line.x, signs)),
        ):
            yield close(f"{name}, s = {said}", exact, line.mean(loss), 1e-8)
    yield check_score(implicit, log_prob).failures()


@law("score-matching/slices")
def slices(_: float) -> Claims:
    r"""The mean of a slice over all signs is the trace and half the square, with one vector product a slice.

    $$E_v\big[v^\top\nabla s\,v + \tfrac12 (v^\top s)^2\big] = \mathrm{tr}\,\nabla s + \tfrac12|s|^2,
    \quad E\,vv^\top = I$$
    In the plane, for s with a full Jacobian J: (x1^2 - x2, x1 x2 + sin x1) has trace 3 x1. The four sign vectors have
    the identity as their second moment, and their spread is what a single slice adds to the variance.
    Source: Song et al. (2019), equation 8.
    """
    x = f64([[0.3, -1.2], [1.5, 0.4], [-0.7, 2.0]])

    def s(x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        return torch.stack([a**2 - b, a * b + torch.sin(a)], 1)

    exact = 3 * x[:, 0] + s(x).square().sum(1) / 2
    v = torch.cartesian_prod(*[f64([-1.0, 1.0])] * 2)[:, None].expand(4, 3, 2)
    for name, found in (("implicit", implicit(s, x)), ("sliced", sliced(s, x, v)), ("reduced", sliced_vr(s, x, v))):
        yield close(f"{name}: trace and half the square", exact, found, 1e-9)


@law("score-matching/denoising")
def denoising_matching(_: float) -> Claims:
    r"""Denoising score matching is explicit score matching at the noised density, plus a constant.

    $$\tfrac12\,E\,|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \tfrac12\,E_{q_\sigma}|s -
    \nabla\log q_\sigma|^2 + C, \quad C = \tfrac{D}{2\sigma^2} - \tfrac12 E_{q_\sigma}|\nabla\log q_\sigma|^2$$
    E[-eps/sigma | x + sigma eps] = grad log q_sigma: the target is the score of q_sigma plus a term of mean 0 given
    z, so its square adds a constant that does not depend on s. Weighted by sigma^2 it is the loss of all noise levels,
    in which s = 0 costs D/2.
    Source: Vincent (2011), equation 11.
    """
    x, eps, mass = noised()
    for sigma in (0.5, 1.0):
        z = x + sigma * eps
        exact_score, level = true_score(z, sigma), torch.full((len(x),), sigma, dtype=F64)
        constant = 1 / (2 * sigma**2) - mass @ exact_score[:, 0] ** 2 / 2
        for said, s in CANDIDATES.items():
            exact = mass @ (s(z) - exact_score)[:, 0] ** 2 / 2 + constant
            yield close(f"sigma = {sigma}, s = {said}", exact, mass @ denoising(s, x, eps, sigma), 1e-7)
        exact = sigma**2 * (mass @ (-z - exact_score)[:, 0] ** 2 / 2 + constant)
        weighted = mass @ noise_conditional(lambda z, _: -z, x, eps, level)
        yield close(f"sigma = {sigma}, of all noise levels, s = -x", exact, weighted, 1e-7)
        nothing = mass @ noise_conditional(lambda z, _: torch.zeros_like(z), x, eps, level)
        yield close(f"sigma = {sigma}, of all noise levels, s = 0", 0.5, nothing, 1e-9)
    yield check_score(lambda s, x, eps: denoising(s, x, eps, 0.7), log_prob, sigma=0.7).failures()


@law("errata/denoising-target")
def denoising_target(_: float) -> Claims:
    r"""Denoising score matching fits the score of the noised density, not of the clean one.

    $$\arg\min_s E|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \nabla\log q_\sigma,
    \text{ not } \nabla\log p; \quad p = N(0,1),\ \sigma = 1: \ -x/2$$
    For data N(0, 1) and sigma = 1, s = a x costs E|a z + eps|^2 / 2 = (2 a^2 + 2 a + 1) / 2 with z = x + eps: it is
    minimal at a = -1/2, the score of N(0, 2), where it is 1/4; at a = -1, the score of the data, it is 1/2.
    Source: Vincent (2011), section 4.3; Song & Ermon (2019), section 2.1.
    """
    places, mass = normal_nodes(20)
    x, eps = places.repeat_interleave(20)[:, None], places.repeat(20)[:, None]

    def cost(a: float | Tensor) -> Tensor:
        return (mass[:, None] * mass).reshape(-1) @ denoising(times(a), x, eps, 1.0)

    for a in (-1.0, -0.5, 0.3):
        yield close(f"the loss at a = {a}", (2 * a**2 + 2 * a + 1) / 2, cost(a), 1e-9)
    for a, slope in ((-0.5, 0.0), (-1.0, -1.0)):
        at = f64(a).requires_grad_()
        yield close(f"its slope at a = {a}", slope, torch.autograd.grad(cost(at), at)[0], 1e-9)
    yield differs("the loss at -1 instead of -1/2", cost(-0.5), cost(-1.0), 0.2)
    x2, eps2, weight = noised()
    low, middle, high = (float(weight @ denoising(times(a), x2, eps2, 1.0)) for a in (-0.1, 0.0, 0.1))
    best = -0.1 * (high - low) / (high - 2 * middle + low) / 2
    yield close("best slope on two modes: -1 / E z^2 of the noised", -1 / (weight @ (x2 + eps2) ** 2), best, 1e-8)
    yield differs("-1 / E x^2 of the clean data", best, -1 / (weight @ x2**2), 0.2)


@denoising_matching.drawn
def _plot_denoising() -> str:
    a = torch.linspace(-1.6, -0.1, 31, dtype=F64)
    rows = {
        "denoising, sigma = 1": (a**2 * 2 + 2 * a + 1) / 2,
        "explicit at the noised density + 1/4": ((a + 0.5) ** 2 * 2 + 0.5) / 2,
        "explicit at the clean density": (a + 1) ** 2 / 2,
    }
    title = "s = a x on data N(0, 1): the minimum is at -1/2, not -1"
    return plots.curves(a.tolist(), {k: v.tolist() for k, v in rows.items()}, title=title, xlabel="a", markers=False)


@law("score-matching/tweedie")
def tweedies_formula(_: float) -> Claims:
    r"""The posterior mean of the clean datum is one step along the score of the noised density.

    $$E[x \mid \tilde x] = \tilde x + \sigma^2\,\nabla\log q_\sigma(\tilde x)$$
    q_sigma(z) = int p(x) N(z; x, sigma^2) dx has the gradient int (x - z)/sigma^2 p N dx. The mean is taken by
    quadrature over x.
    Source: Efron (2011), equation 1.3; Robbins (1956).
    """
    line, z = Line.of(log_prob, SPAN, 801), torch.linspace(-4, 4, 17, dtype=F64)[:, None]
    for sigma in (0.4, 1.5):
        share = torch.softmax(line.mass.log() - (z - line.places) ** 2 / (2 * sigma**2), 1)
        found = tweedie(partial(true_score, sigma=sigma), z, sigma)
        yield close(f"mean of the clean datum, sigma = {sigma}", share @ line.x, found, 1e-8)


DATA, H = f64([[-1.3], [-0.2], [0.1], [0.4], [2.2]]), 0.6


def kernels(x: Tensor) -> Tensor:
    """N(x; x_i, h^2) of each datum, (B, M)."""
    return torch.exp(-((x - DATA.T) ** 2) / (2 * H**2)) / math.sqrt(2 * math.pi * H**2)


@law("kernel-density/score")
def kernel_score(_: float) -> Claims:
    r"""The score of a kernel density points to a weighted mean of the data: (sum w_i x_i - x) / h^2.

    $$\nabla\log\tfrac1M\sum_i N(x; x_i, h^2) = \frac{\tfrac1M\sum_i N(x; x_i, h^2)\,(x_i - x)/h^2}
    {\tfrac1M\sum_i N(x; x_i, h^2)}$$
    1/M is in the numerator and in the denominator, and cancels. Compared with the ratio written out and with the
    gradient of log p. It is also the score of the data set noised by h, so the exact denoiser of the data set is the
    mean by Tweedie's formula.
    Source: Vincent (2011), section 4.2.
    """
    x, density = torch.linspace(-4, 5, 37, dtype=F64)[:, None], KernelDensity(DATA, H)
    k = kernels(x)
    yield close("log density", k.mean(1).log(), density.log_prob(x), 1e-9)
    yield close("score", (k * (DATA.T - x)).mean(1) / H**2 / k.mean(1), density.score(x)[:, 0], 1e-9)
    yield check_score_function(density.score, density).failures()
    t = torch.full((37,), math.log(H / 0.1) / math.log(100), dtype=F64)  # where sigma is h
    mean = (k * DATA.T).sum(1) / k.sum(1)
    yield close(
        "the data set's denoiser", mean, EmpiricalOracle(DATA, VarianceExploding(0.1, 10.0))(x, t).x[:, 0], 1e-9
    )
    yield close("is the mean by Tweedie's formula", mean, tweedie(density.score, x, H)[:, 0], 1e-9)


@law("errata/kernel-score")
def mean_of_kernels(_: float) -> Claims:
    r"""The gradient of a mean of M kernels is a mean: without its 1/M the score is M times too large.

    $$\nabla\log p = \frac1{p}\,\frac1M\sum_i N(x; x_i, h^2)\,\frac{x_i - x}{h^2},
    \text{ not without the } \tfrac1M$$
    Five data; the exact score is the derivative of log p by central differences. Stein's identity E[x s(x)] = -1 would
    give -5.
    Source: Vincent (2011), section 4.2.
    """
    x = f64([[-2.0], [0.9], [3.0]])
    above, below = (kernels(x + shift).mean(1).log() for shift in (1e-5, -1e-5))
    exact = (above - below) / 2e-5
    yield close("jensen's score", exact, KernelDensity(DATA, H).score(x)[:, 0], 1e-7)
    wrong = (kernels(x) * (DATA.T - x)).sum(1) / H**2 / kernels(x).mean(1)
    yield close("without 1/M, over the exact score", 5.0, wrong / exact, 1e-6)
    yield differs("without 1/M the score", exact, wrong, 1.0)


@kernel_score.drawn
def _plot_kernel() -> str:
    of, u = (torch.arange(40) % 5 < 3).long(), (torch.randperm(40, generator=generator(0)) + 0.5) / 40
    data, x = MEANS[of] + DEVIATIONS[of] * torch.special.ndtri(u), torch.linspace(-4, 5, 200, dtype=F64)[:, None]
    rows = {f"40 kernels, h = {h}": KernelDensity(data[:, None].double(), h).score(x) for h in (0.15, 0.5)}
    rows = {"score of two modes": true_score(x), **rows}
    title = "A kernel density's score and the true one"
    lines = {name: row[:, 0].tolist() for name, row in rows.items()}
    return plots.curves(x[:, 0].tolist(), lines, title=title, xlabel="x", markers=False)

"""Score matching and kernel densities, by quadrature on a density whose score is written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Normal

from jensen.check.evidence import Claims, close, differs
from jensen.check.law import law
from jensen.check.line import F64, Line, f64, mixture, normal_nodes
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
log_prob = mixture(WEIGHTS, MEANS, DEVIATIONS)


def true_score(x: Tensor, sigma: float = 0.0) -> Tensor:
    """The gradient of the log density noised by sigma, written out, (B, 1)."""
    variance = DEVIATIONS**2 + sigma**2
    share = torch.softmax(WEIGHTS.log() - (x - MEANS) ** 2 / (2 * variance) - variance.log() / 2, 1)
    return (share * (MEANS - x) / variance).sum(1, keepdim=True)


def times(a: float | Tensor) -> Score:
    """The score function s(x) = a x."""
    return lambda x: a * x


def noised() -> tuple[Tensor, Tensor, Tensor]:
    """Quadrature nodes of data x (N, 1) and noise eps (N, 1), and their weights (N,)."""
    line, (eps, mass) = Line.of(log_prob, SPAN, 241), normal_nodes(60)
    weight = (line.mass[:, None] * mass).reshape(-1)
    live = weight > 1e-17
    return line.x.repeat_interleave(60, 0)[live], eps.repeat(241)[:, None][live], weight[live]


@law("score-matching/explicit")
def explicit_matching(_: float) -> Claims:
    r"""Explicit score matching is half the Fisher divergence, which is 0 at the score of p.

    $$J(s) = \tfrac12\, E_p\,|s - \nabla\log p|^2$$
    For s = -x/v, the score of N(0, v), and p = N(0, 1): J = (1 - 1/v)^2 / 2.
    Source: Hyvarinen (2005), equation 2.
    """
    line = Line.of(lambda x: -(x**2) / 2, SPAN, 401)
    for v in (0.5, 3.0):
        found = line.mean(explicit(times(-1 / v), line.x, torch.neg))
        yield close(f"J of the score of N(0, {v}) for data N(0, 1)", (1 - 1 / v) ** 2 / 2, found, 1e-9)
    yield check_score(lambda s, x: explicit(s, x, true_score), log_prob).failures()


@law("score-matching/implicit")
def implicit_matching(_: float) -> Claims:
    r"""Implicit score matching is explicit score matching minus a constant; it does not use the score of p.

    $$E_p\big[\mathrm{tr}\,\nabla s + \tfrac12 |s|^2\big] = \tfrac12\,E_p|s - \nabla\log p|^2
    - \tfrac12\,E_p|\nabla\log p|^2$$
    Integration by parts turns the cross term -E[s grad log p] = -int s grad p into int p tr grad s. By quadrature over
    two modes, for several s. Sliced score matching has the same value in the mean over slices; on the line these are
    the two signs.
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
            ("sliced with reduced variance", sliced_vr(s, line.x, signs)),
        ):
            yield close(f"{name} loss for s = {said}", exact, line.mean(loss), 1e-8)
    yield check_score(implicit, log_prob).failures()


@law("score-matching/slices")
def slices(_: float) -> Claims:
    r"""The mean of sliced score matching over random directions v with E v v' = I is implicit score matching.

    $$E_v\big[v^\top\nabla s\,v + \tfrac12 (v^\top s)^2\big] = \mathrm{tr}\,\nabla s + \tfrac12|s|^2,
    \quad E\,vv^\top = I$$
    A slice needs one vector-Jacobian product instead of the trace. In the plane, for s = (x1^2 - x2, x1 x2 + sin x1),
    whose Jacobian has the trace 3 x1, with the four sign vectors as v.
    Source: Song et al. (2019), equation 8.
    """
    x = f64([[0.3, -1.2], [1.5, 0.4], [-0.7, 2.0]])

    def s(x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        return torch.stack([a**2 - b, a * b + torch.sin(a)], 1)

    exact = 3 * x[:, 0] + s(x).square().sum(1) / 2
    v = torch.cartesian_prod(*[f64([-1.0, 1.0])] * 2)[:, None].expand(4, 3, 2)
    for name, found in (
        ("implicit", implicit(s, x)),
        ("sliced", sliced(s, x, v)),
        ("sliced with reduced variance", sliced_vr(s, x, v)),
    ):
        yield close(f"{name} loss: 3 x1 + |s|^2 / 2", exact, found, 1e-9)


@law("score-matching/denoising")
def denoising_matching(_: float) -> Claims:
    r"""Denoising score matching is explicit score matching at the noised density, plus a constant.

    $$\tfrac12\,E\,|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \tfrac12\,E_{q_\sigma}|s -
    \nabla\log q_\sigma|^2 + C, \quad C = \tfrac{D}{2\sigma^2} - \tfrac12 E_{q_\sigma}|\nabla\log q_\sigma|^2$$
    E[-eps/sigma | z] = grad log q_sigma(z) at z = x + sigma eps: the target is the score of q_sigma plus a term with
    mean 0 given z, whose square adds a constant that does not depend on s. The noise-conditional loss has the weight
    sigma^2; with s = 0 it is D/2.
    Source: Vincent (2011), equation 11.
    """
    x, eps, mass = noised()
    for sigma in (0.5, 1.0):
        z, at = x + sigma * eps, f"sigma = {sigma}"
        exact_score, level = true_score(z, sigma), torch.full((len(x),), sigma, dtype=F64)
        constant = 1 / (2 * sigma**2) - mass @ exact_score[:, 0] ** 2 / 2
        exact = {name: mass @ (s(z) - exact_score)[:, 0] ** 2 / 2 + constant for name, s in CANDIDATES.items()}
        for said, s in CANDIDATES.items():
            yield close(f"loss for s = {said}, {at}", exact[said], mass @ denoising(s, x, eps, sigma), 1e-7)
        weighted = mass @ noise_conditional(lambda z, _: -z, x, eps, level)
        yield close(f"noise-conditional loss for s = -x, {at}", sigma**2 * exact["-x"], weighted, 1e-7)
        nothing = mass @ noise_conditional(lambda z, _: torch.zeros_like(z), x, eps, level)
        yield close(f"noise-conditional loss for s = 0, {at}", 0.5, nothing, 1e-9)
    yield check_score(lambda s, x, eps: denoising(s, x, eps, 0.7), log_prob, sigma=0.7).failures()


@law("errata/denoising-target")
def denoising_target(_: float) -> Claims:
    r"""Denoising score matching fits the score of the noised density, not of the clean one.

    $$\arg\min_s E|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \nabla\log q_\sigma,
    \text{ not } \nabla\log p; \quad p = N(0,1),\ \sigma = 1: \ -x/2$$
    For data N(0, 1), sigma = 1 and s(z) = a z with z = x + eps, the loss is E|a z + eps|^2 / 2 = (2 a^2 + 2 a + 1) / 2.
    Its minimum is 1/4, at a = -1/2, which gives the score of N(0, 2); at a = -1, the score of the data, it is 1/2.
    Source: Vincent (2011), section 4.3; Song & Ermon (2019), section 2.1.
    """
    places, mass = normal_nodes(20)
    x, eps = places.repeat_interleave(20)[:, None], places.repeat(20)[:, None]

    def cost(a: float | Tensor) -> Tensor:
        return (mass[:, None] * mass).reshape(-1) @ denoising(times(a), x, eps, 1.0)

    for a in (-1.0, -0.5, 0.3):
        yield close(f"loss at a = {a}", (2 * a**2 + 2 * a + 1) / 2, cost(a), 1e-9)
    for a, slope in ((-0.5, 0.0), (-1.0, -1.0)):
        at = f64(a).requires_grad_()
        yield close(f"derivative of the loss at a = {a}", slope, torch.autograd.grad(cost(at), at)[0], 1e-9)
    yield differs("the loss at a = -1 instead of -1/2", cost(-0.5), cost(-1.0), 0.2)
    x2, eps2, weight = noised()
    low, middle, high = (float(weight @ denoising(times(a), x2, eps2, 1.0)) for a in (-0.1, 0.0, 0.1))
    best = -0.1 * (high - low) / (high - 2 * middle + low) / 2
    yield close("best a for data from two modes: -1 / E z^2", -1 / (weight @ (x2 + eps2) ** 2), best, 1e-8)
    yield differs("-1 / E x^2 instead", best, -1 / (weight @ x2**2), 0.2)


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
    r"""The posterior mean of the clean datum x given the noised one is one step along the score of the noised density.

    $$E[x \mid \tilde x] = \tilde x + \sigma^2\,\nabla\log q_\sigma(\tilde x)$$
    q_sigma(z) = int p(x) N(z; x, sigma^2) dx has the gradient int (x - z)/sigma^2 p(x) N(z; x, sigma^2) dx. The mean
    is taken by quadrature over x.
    Source: Efron (2011), equation 1.3; Robbins (1956).
    """
    line, z = Line.of(log_prob, SPAN, 801), torch.linspace(-4, 4, 17, dtype=F64)[:, None]
    for sigma in (0.4, 1.5):
        share = torch.softmax(line.mass.log() - (z - line.places) ** 2 / (2 * sigma**2), 1)
        found = tweedie(partial(true_score, sigma=sigma), z, sigma)
        yield close(f"posterior mean of x, sigma = {sigma}", share @ line.x, found, 1e-8)


DATA, H = f64([[-1.3], [-0.2], [0.1], [0.4], [2.2]]), 0.6


def kernels(x: Tensor) -> Tensor:
    """N(x; x_i, h^2) of each datum, (B, M)."""
    return Normal(DATA[:, 0], H).log_prob(x).exp()


@law("kernel-density/score")
def kernel_score(_: float) -> Claims:
    r"""The score of a kernel density is (m(x) - x) / h^2, with m(x) the mean of the data weighted by the kernels at x.

    $$\nabla\log\tfrac1M\sum_i N(x; x_i, h^2) = \frac{\tfrac1M\sum_i N(x; x_i, h^2)\,(x_i - x)/h^2}
    {\tfrac1M\sum_i N(x; x_i, h^2)}$$
    1/M occurs in the numerator and in the denominator, and cancels. Compared with the ratio written out and with the
    gradient of log p. A kernel density is the data set noised by h: by Tweedie's formula m(x) is the exact denoiser.
    Source: Vincent (2011), section 4.2.
    """
    x, density = torch.linspace(-4, 5, 37, dtype=F64)[:, None], KernelDensity(DATA, H)
    k = kernels(x)
    yield close("log density", k.mean(1).log(), density.log_prob(x), 1e-9)
    yield close("score", (k * (DATA.T - x)).mean(1) / H**2 / k.mean(1), density.score(x)[:, 0], 1e-9)
    yield check_score_function(density.score, density).failures()
    t = torch.full((37,), math.log(H / 0.1) / math.log(100), dtype=F64)  # where sigma is h
    mean, oracle = (k * DATA.T).sum(1) / k.sum(1), EmpiricalOracle(DATA, VarianceExploding(0.1, 10.0))
    yield close("m(x) is the exact denoiser of the data set", mean, oracle(x, t).x[:, 0], 1e-9)
    yield close("m(x) is x + h^2 times the score", mean, tweedie(density.score, x, H)[:, 0], 1e-9)


@law("errata/kernel-score")
def mean_of_kernels(_: float) -> Claims:
    r"""The gradient of a mean of M kernels has the factor 1/M too: without it the score is M times too large.

    $$\nabla\log p = \frac1{p}\,\frac1M\sum_i N(x; x_i, h^2)\,\frac{x_i - x}{h^2},
    \text{ not without the } \tfrac1M$$
    For M = 5; the exact score is the derivative of log p by central differences. In Stein's identity E[x s(x)] = -1 the
    wrong score would give -5.
    Source: Vincent (2011), section 4.2.
    """
    x = f64([[-2.0], [0.9], [3.0]])
    above, below = (kernels(x + shift).mean(1).log() for shift in (1e-5, -1e-5))
    exact = (above - below) / 2e-5
    yield close("score of the kernel density", exact, KernelDensity(DATA, H).score(x)[:, 0], 1e-7)
    wrong = (kernels(x) * (DATA.T - x)).sum(1) / H**2 / kernels(x).mean(1)
    yield close("score without 1/M, divided by the exact one", 5.0, wrong / exact, 1e-6)
    yield differs("score without 1/M", exact, wrong, 1.0)


@kernel_score.drawn
def _plot_kernel() -> str:
    of, u = (torch.arange(40) % 5 < 3).long(), (torch.randperm(40, generator=generator(0)) + 0.5) / 40
    data, x = MEANS[of] + DEVIATIONS[of] * torch.special.ndtri(u), torch.linspace(-4, 5, 200, dtype=F64)[:, None]
    rows = {f"40 kernels, h = {h}": KernelDensity(data[:, None].double(), h).score(x) for h in (0.15, 0.5)}
    rows = {"score of two modes": true_score(x), **rows}
    title = "A kernel density's score and the true one"
    lines = {name: row[:, 0].tolist() for name, row in rows.items()}
    return plots.curves(x[:, 0].tolist(), lines, title=title, xlabel="x", markers=False)

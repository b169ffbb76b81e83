"""Score matching and kernel densities, by quadrature on a density whose score is written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, close
from jensen.check.law import Law, law
from jensen.check.line import F64, Line, normal_nodes
from jensen.check.scores import score as check_score
from jensen.check.scores import score_function as check_score_function
from jensen.diffusion import EmpiricalOracle, VarianceExploding
from jensen.report import plots
from jensen.score import (
    KernelDensity,
    denoising,
    explicit,
    implicit,
    noise_conditional,
    sliced,
    sliced_vr,
    tweedie,
)

Score = Callable[[Tensor], Tensor]
WEIGHTS, MEANS, DEVIATIONS = (torch.tensor(v, dtype=F64) for v in ((0.4, 0.6), (-1.0, 1.2), (0.5, 0.8)))
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


def log_prob(x: Tensor, sigma: float = 0.0) -> Tensor:
    """Log p_sigma(x), (B,)."""
    return parts(x, sigma)[0].logsumexp(1)


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


@law(
    "score-matching/explicit",
    formula=r"J(s) = \tfrac12\, E_p\,|s - \nabla\log p|^2",
    source="Hyvarinen (2005), equation 2",
)
def explicit_matching(_: float) -> Iterator[Evidence]:
    """Explicit score matching is half the Fisher divergence: 0 at the score, and for N(0, v) against N(0, 1) known.

    s = -x / v and p = N(0, 1): J = (1 - 1/v)^2 / 2.
    """
    line = Line.of(lambda x: -(x**2) / 2, SPAN, 401)
    for v in (0.5, 3.0):
        found = line.mean(explicit(times(-1 / v), line.x, torch.neg))
        yield close(f"N(0, {v}) against N(0, 1)", (1 - 1 / v) ** 2 / 2, found, 1e-9)
    report = check_score(lambda s, x: explicit(s, x, true_score), log_prob)
    yield Evidence(f"claims of {len(report.evidence)} that fail", 0.0, len(report.failed), 0.0)


@law(
    "score-matching/implicit",
    formula=r"E_p\big[\mathrm{tr}\,\nabla s + \tfrac12 |s|^2\big] = \tfrac12\,E_p|s - \nabla\log p|^2 "
    r"- \tfrac12\,E_p|\nabla\log p|^2",
    source="Hyvarinen (2005), theorem 1",
    assumptions="p s falls to 0 at infinity",
)
def implicit_matching(_: float) -> Iterator[Evidence]:
    r"""Implicit score matching is explicit less a constant: it needs no score of p.

    The cross term -E[s grad log p] is -int s grad p, which by parts is int p tr grad s. By quadrature over two modes,
    for several s: the constant is -E|grad log p|^2 / 2 for all of them. Sliced matching is the same in the mean over
    slices, which on the line all signs give at once.
    """
    line = Line.of(log_prob, SPAN, 801)
    constant = -line.mean(true_score(line.x)[:, 0] ** 2) / 2
    signs = torch.stack([torch.ones_like(line.x), -torch.ones_like(line.x)])
    forms: dict[str, Callable[[Score, Tensor], Tensor]] = {
        "implicit": implicit,
        "sliced": partial(_sliced, sliced, signs),
        "sliced, reduced variance": partial(_sliced, sliced_vr, signs),
    }
    for name, loss in forms.items():
        for said, s in CANDIDATES.items():
            exact = line.mean((s(line.x) - true_score(line.x))[:, 0] ** 2) / 2 + constant
            yield close(f"{name}, s = {said}", exact, line.mean(loss(s, line.x)), 1e-8)
    report = check_score(implicit, log_prob)
    yield Evidence(f"claims of {len(report.evidence)} that fail", 0.0, len(report.failed), 0.0)


def _sliced(loss: Callable[[Score, Tensor, Tensor], Tensor], signs: Tensor, s: Score, x: Tensor) -> Tensor:
    return loss(s, x, signs)


@law(
    "score-matching/slices",
    formula=r"E_v\big[v^\top\nabla s\,v + \tfrac12 (v^\top s)^2\big] = \mathrm{tr}\,\nabla s + \tfrac12|s|^2, "
    r"\quad E\,vv^\top = I",
    source="Song et al. (2019), equation 8",
)
def slices(_: float) -> Iterator[Evidence]:
    r"""The mean over all signs of a slice is the trace and the square, with one product a slice.

    In the plane, for s with a full Jacobian J: (x1^2 - x2, x1 x2 + sin x1) has trace 3 x1. The four sign vectors have
    the identity as their second moment, and their spread is what a single slice adds to the variance.
    """
    x = torch.tensor([[0.3, -1.2], [1.5, 0.4], [-0.7, 2.0]], dtype=F64)

    def s(x: Tensor) -> Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([a**2 - b, a * b + torch.sin(a)], 1)

    exact = 3 * x[:, 0] + s(x).square().sum(1) / 2
    v = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 2)[:, None].expand(4, 3, 2)
    for name, found in (("implicit", implicit(s, x)), ("sliced", sliced(s, x, v)), ("reduced", sliced_vr(s, x, v))):
        yield close(f"{name}: trace and half the square", exact, found, 1e-9)


@law(
    "score-matching/denoising",
    formula=r"\tfrac12\,E\,|s(x + \sigma\epsilon) + \epsilon/\sigma|^2 = \tfrac12\,E_{q_\sigma}|s - "
    r"\nabla\log q_\sigma|^2 + C, \quad C = \tfrac{D}{2\sigma^2} - \tfrac12 E_{q_\sigma}|\nabla\log q_\sigma|^2",
    source="Vincent (2011), equation 11",
)
def denoising_matching(_: float) -> Iterator[Evidence]:
    r"""Denoising score matching is explicit score matching at the noised density, plus a constant.

    E[-eps/sigma | x + sigma eps] = grad log q_sigma: the target is the score of q_sigma plus what has mean 0 given
    z, so its square adds a constant that does not see s. Weighted by sigma^2 it is the loss of all noise levels, in
    which a score that says nothing costs D/2.
    """
    x, eps, mass = noised()
    for sigma in (0.5, 1.0):
        z = x + sigma * eps
        exact_score = true_score(z, sigma)
        constant = 1 / (2 * sigma**2) - mass @ exact_score[:, 0] ** 2 / 2
        for said, s in CANDIDATES.items():
            exact = mass @ (s(z) - exact_score)[:, 0] ** 2 / 2 + constant
            yield close(f"sigma = {sigma}, s = {said}", exact, mass @ denoising(s, x, eps, sigma), 1e-7)
        level = torch.full((len(x),), sigma, dtype=F64)
        weighted = mass @ noise_conditional(lambda z, _: -z, x, eps, level)
        exact = sigma**2 * (mass @ (-z - exact_score)[:, 0] ** 2 / 2 + constant)
        yield close(f"sigma = {sigma}, of all noise levels, s = -x", exact, weighted, 1e-7)
        nothing = mass @ noise_conditional(lambda z, _: torch.zeros_like(z), x, eps, level)
        yield close(f"sigma = {sigma}, of all noise levels, s = 0", 0.5, nothing, 1e-9)
    report = check_score(lambda s, x, eps: denoising(s, x, eps, 0.7), log_prob, sigma=0.7)
    yield Evidence(f"claims of {len(report.evidence)} that fail", 0.0, len(report.failed), 0.0)


@denoising_matching.drawn
def _plot_denoising() -> str:
    slopes = torch.linspace(-1.6, -0.1, 31, dtype=F64)
    return plots.curves(
        slopes.tolist(),
        {
            "denoising, sigma = 1": ((slopes**2 * 2 + 2 * slopes + 1) / 2).tolist(),
            "explicit at the noised density + 1/4": (((slopes + 0.5) ** 2 * 2 + 0.5) / 2).tolist(),
            "explicit at the clean density": ((slopes + 1) ** 2 / 2).tolist(),
        },
        title="s = a x on data N(0, 1): the least is at -1/2, not -1",
        xlabel="a",
        markers=False,
    )


@law(
    "score-matching/tweedie",
    formula=r"E[x \mid \tilde x] = \tilde x + \sigma^2\,\nabla\log q_\sigma(\tilde x)",
    source="Efron (2011), equation 1.3; Robbins (1956)",
)
def tweedies_formula(_: float) -> Iterator[Evidence]:
    r"""The mean of the clean datum is one step along the noised score.

    q_sigma(z) = int p(x) N(z; x, sigma^2) dx has the gradient int (x - z)/sigma^2 p N dx. The mean is taken by
    quadrature over x.
    """
    line, z = Line.of(log_prob, SPAN, 801), torch.linspace(-4, 4, 17, dtype=F64)[:, None]
    for sigma in (0.4, 1.5):
        share = torch.softmax(line.mass.log() - (z - line.places) ** 2 / (2 * sigma**2), 1)
        found = tweedie(partial(true_score, sigma=sigma), z, sigma)
        yield close(f"mean of the clean datum, sigma = {sigma}", share @ line.x, found, 1e-8)


@law(
    "kernel-density/score",
    formula=r"\nabla\log\tfrac1M\sum_i N(x; x_i, h^2) = \frac{\tfrac1M\sum_i N(x; x_i, h^2)\,(x_i - x)/h^2}"
    r"{\tfrac1M\sum_i N(x; x_i, h^2)}",
    source="Vincent (2011), section 4.2",
)
def kernel_score(_: float) -> Iterator[Evidence]:
    r"""The score of a kernel density pulls towards a weighted mean of the data, (sum w_i x_i - x) / h^2.

    1/M stands in the numerator and in the denominator, and cancels. Held to the ratio written out and to the gradient
    of log p; it is the score of the data set noised by h, so the exact denoiser of the data set is its Tweedie's mean.
    """
    data = torch.tensor([[-1.3], [-0.2], [0.1], [0.4], [2.2]], dtype=F64)
    x, h = torch.linspace(-4, 5, 37, dtype=F64)[:, None], 0.6
    kernels = torch.exp(-((x - data.T) ** 2) / (2 * h**2)) / math.sqrt(2 * math.pi * h**2)
    density = KernelDensity(data, h)
    yield close("log density", kernels.mean(1).log(), density.log_prob(x), 1e-9)
    ratio = (kernels * (data.T - x)).mean(1) / h**2 / kernels.mean(1)
    yield close("score", ratio, density.score(x)[:, 0], 1e-9)
    report = check_score_function(density.score, density)
    yield Evidence(f"claims of {len(report.evidence)} that fail", 0.0, len(report.failed), 0.0)
    schedule = VarianceExploding(0.1, 10.0)
    t = torch.full((37,), math.log(h / 0.1) / math.log(100), dtype=F64)  # where sigma is h
    mean = (kernels * data.T).sum(1) / kernels.sum(1)
    yield close("the data set's denoiser", mean, EmpiricalOracle(data, schedule)(x, t).x[:, 0], 1e-9)
    yield close("is Tweedie's mean", mean, tweedie(density.score, x, h)[:, 0], 1e-9)


@kernel_score.drawn
def _plot_kernel() -> str:
    data = MEANS[(torch.arange(40) % 5 < 3).long()] + DEVIATIONS[
        (torch.arange(40) % 5 < 3).long()
    ] * torch.special.ndtri((torch.randperm(40, generator=torch.Generator().manual_seed(0)) + 0.5) / 40)
    x = torch.linspace(-4, 5, 200, dtype=F64)[:, None]
    rows = {
        f"40 kernels, h = {h}": KernelDensity(data[:, None].double(), h).score(x)[:, 0].tolist() for h in (0.15, 0.5)
    }
    return plots.curves(
        x[:, 0].tolist(),
        {"score of two modes": true_score(x)[:, 0].tolist(), **rows},
        title="A kernel density's score and the true one",
        xlabel="x",
        markers=False,
    )


LAWS: tuple[Law, ...] = (
    explicit_matching,
    implicit_matching,
    slices,
    denoising_matching,
    tweedies_formula,
    kernel_score,
)

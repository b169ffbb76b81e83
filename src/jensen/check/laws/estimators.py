"""Gradients of E_q[f]: exact means and variances of estimators, with their noise on the nodes of a quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch import distributions as D

from jensen.check.evidence import Claims, bounded, close
from jensen.check.gradients import gradient
from jensen.check.law import draws, law
from jensen.check.line import F64, f64, normal_nodes
from jensen.core.seeding import generator
from jensen.estimators import (
    Estimator,
    Graph,
    MovingAverage,
    Pathwise,
    ScoreFunction,
    baseline_loss,
    expectation,
    leave_one_out,
    pathwise,
    score_function,
    subsampled_sum,
)
from jensen.report import plots

MU, SIGMA = 0.8, 1.3
MEAN_F = MU**2 + SIGMA**2  # of f(z) = z^2 under N(MU, SIGMA^2)
BEST = MU**2 + 3 * SIGMA**2  # E[f s^2] / E[s^2] with the score s: the best constant baseline for the mean's gradient
SLOPES = f64([2 * MU, 2 * SIGMA])


@dataclass(frozen=True)
class At:
    """An estimator whose draws are given: standard normal noise for a `Normal`, the draws themselves otherwise."""

    inner: Estimator
    noise: Tensor

    def unbiased(self, q: D.Distribution) -> bool:
        return True

    def draw(self, q: D.Distribution, shape: torch.Size) -> Tensor:
        z = q.loc + q.scale * self.noise if isinstance(q, D.Normal) else self.noise
        return z if isinstance(self.inner, Pathwise) else z.detach()

    def correction(self, q: D.Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return self.inner.correction(q, z, cost)


def hermite(samples: int) -> tuple[Tensor, Tensor]:
    """Nodes (K, R) and weights (R,) of the K-fold normal distribution: exact for polynomials up to degree 17."""
    grid, weights = (torch.cartesian_prod(*[v] * samples).view(-1, samples) for v in normal_nodes(9))
    return grid.T.contiguous(), weights.prod(1)


def moments(estimator: Estimator, samples: int) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the gradient of E z^2 in the mean and the standard deviation, (2,) each."""
    noise, weights = hermite(samples)
    m, s = (torch.full_like(weights, v).requires_grad_() for v in (MU, SIGMA))
    value = expectation(D.Normal(m, s), torch.square, At(estimator, noise), samples)
    g = torch.stack(torch.autograd.grad(value.sum(), (m, s)))
    mean = g @ weights
    return mean, (g - mean[:, None]) ** 2 @ weights


def scored_variance(baseline: float) -> float:
    """The variance of (z^2 - b) s with the score s = (z - mu) / sigma^2."""
    a = MU**2 - baseline
    return a**2 / SIGMA**2 + 6 * a + 8 * MU**2 + 15 * SIGMA**2


@law("gradient/pathwise")
def pathwise_gradient(_: float) -> Claims:
    r"""The pathwise gradient is unbiased, and its variance in mu is 4 sigma^2 / K.

    $$\nabla_\lambda E_q f(z) = E_\epsilon\,\nabla_\lambda f(z_\lambda(\epsilon))$$
    z = mu + sigma eps has noise without parameters, so that the derivative moves inside the integral: 2 z in mu and
    2 z eps in sigma. All moments here are exact, by Gauss-Hermite quadrature over the noise of all K draws.
    Source: Kingma & Welling (2014), section 2.4.
    Assumes: f differentiable; here f(z) = z^2, q = N(mu, sigma^2).
    """
    for k in (1, 3):
        mean, variance = moments(Pathwise(), k)
        yield close(f"mean with {k} draws", SLOPES, mean, 1e-10)
        exact = f64([4 * SIGMA**2, 4 * MU**2 + 8 * SIGMA**2]) / k
        yield close(f"variance with {k} draws", exact, variance, 1e-9)


@law("gradient/score-function")
def score_gradient(_: float) -> Claims:
    r"""The score function's gradient is unbiased, and its variance many times the pathwise one.

    $$\nabla_\lambda E_q f = E_q\big[f\,\nabla_\lambda \log q\big]$$
    grad q = q grad log q. In mu its variance is a^2 / sigma^2 + 6 a + 8 mu^2 + 15 sigma^2 with a = mu^2, from
    the moments of a Gaussian up to the sixth, against 4 sigma^2 of the pathwise gradient.
    Source: Williams (1992); Paisley et al. (2012).
    Assumes: the support of q does not move; here f(z) = z^2, q = N(mu, sigma^2).
    """
    for k in (1, 3):
        mean, variance = moments(ScoreFunction(), k)
        yield close(f"mean with {k} draws", SLOPES, mean, 1e-10)
        yield close(f"variance in mu with {k} draws", scored_variance(0.0) / k, variance[0], 1e-9)
    ratio = moments(ScoreFunction(), 1)[1] / moments(Pathwise(), 1)[1]
    yield bounded("its variance over the pathwise one, in mu and in sigma", ratio, 4.0, relation="at least")


@law("gradient/claims")
def claims(precision: float) -> Claims:
    r"""The functions that estimate gradients pass `check.gradient`, with their own draws.

    $$E\,\hat g = \nabla_\lambda E_{q_\lambda} f$$
    A normal, whose integral is a quadrature, and a one-hot variable, by enumeration.
    Source: Kingma & Welling (2014); Williams (1992); Kool et al. (2019).
    """
    estimators: dict[str, Callable[..., Tensor]] = {
        "pathwise": pathwise,
        "score function": score_function,
        "score function, leave-one-out": partial(score_function, samples=3, baseline=leave_one_out),
    }
    mean, logits = (f64(v).requires_grad_() for v in (MU, [0.3, -0.5, 1.0]))
    functions: tuple[tuple[D.Distribution, Callable[[Tensor], Tensor]], ...] = (
        (D.Normal(mean, SIGMA), torch.square),
        (D.OneHotCategorical(logits=logits), f64([1.0, 0.0, 9.0]).inner),
    )
    for (name, estimator), (q, f) in itertools.product(estimators.items(), functions):
        if q.has_rsample or estimator is not pathwise:
            report = gradient(estimator, q, f, repeats=draws(400, precision), generator=generator(0))
            yield from report.named(f"{name}, {type(q).__name__}")


@law("gradient/baselines")
def baselines(_: float) -> Claims:
    r"""No baseline changes the mean; variances fall in the order none, leave-one-out, E f, best constant, pathwise.

    $$\mathrm{Var}\big[(f - b)\,s\big] = \mathrm{Var}[f s] - 2 b\,\mathrm{Cov}(f s, s) + b^2\,\mathrm{Var}[s]$$
    E[b s] = 0 if b is independent of the draw. The variance is a parabola in b, minimal at E[f s^2] / E[s^2]; the mean
    of the other K - 1 draws, a U-statistic, tends to E f and costs (Var f Var s + Cov(f, s)^2) / (K (K - 1)) more.
    Source: Greensmith et al. (2004); Kool et al. (2019) for leave-one-out.
    Assumes: f(z) = z^2, q = N(mu, sigma^2), K = 3.
    """
    k, last = 3, moments(Pathwise(), 3)[1][0]
    var_f, var_s, covariance = 2 * SIGMA**4 + 4 * MU**2 * SIGMA**2, 1 / SIGMA**2, 2 * MU
    left_out = scored_variance(MEAN_F) / k + (var_f * var_s + covariance**2) / (k * (k - 1))
    for name, b, exact in (
        ("the best constant", BEST, scored_variance(BEST) / k),
        ("E f", MEAN_F, scored_variance(MEAN_F) / k),
        ("leave-one-out", leave_one_out, left_out),
    ):
        mean, variance = moments(ScoreFunction(b), k)
        yield close(f"mean with {name}", SLOPES, mean, 1e-10)
        yield close(f"variance with {name}", exact, variance[0], 1e-6)
        yield bounded(f"variance with {name} is above the one before", variance[0], last, relation="at least")
        last = variance[0]
    yield bounded("and below that of none", last, scored_variance(0.0) / k, relation="at most")


@baselines.drawn
def _baselines_plot() -> str:
    estimators: dict[str, Estimator] = {
        "none": ScoreFunction(),
        "leave-one-out": ScoreFunction(leave_one_out),
        "E f": ScoreFunction(MEAN_F),
        "the best constant": ScoreFunction(BEST),
        "pathwise": Pathwise(),
    }
    variances = [float(moments(e, 3)[1][0]) for e in estimators.values()]
    return plots.bars(list(estimators), variances, title="exact variance, 3 draws", xlabel="of the gradient in mu")


@law("gradient/learned-baseline")
def learned_baseline(_: float) -> Claims:
    r"""A baseline's loss is minimal at E[f|x], and the running mean of earlier batches converges there too.

    $$\arg\min_B E_q\,(f - B(x))^2 = E_q[f|x]$$
    The squared error's derivative 2 (B - E f) vanishes there. The average of earlier batches is a weighted mean with
    weights d^(t - s), divided by their sum so that its start does not pull it to 0.
    Source: Mnih & Gregor (2014), equation 7; Williams (1992), section 4.
    """
    noise, weights = hermite(1)
    values, b = (f64([MU, -1.0]) + SIGMA * noise[0, :, None]) ** 2, f64([0.0, 0.0]).requires_grad_()
    loss = weights @ torch.stack([baseline_loss(b, v) for v in values])
    (slope,) = torch.autograd.grad(loss.sum(), b)
    yield close("one Newton step from 0 is at E[f|x]", f64([MEAN_F, 1 + SIGMA**2]), -slope / 2, 1e-9)
    average, means = MovingAverage(0.8), (3.0, -1.0, 2.0, 5.0)
    for t, m in enumerate(means, 1):
        average.update(torch.tensor([m - 1, m + 1]))
        exact = 0.2 * sum(0.8 ** (t - s) * v for s, v in enumerate(means[:t], 1)) / (1 - 0.8**t)
        yield close(f"the running mean after {t} batches", exact, average(torch.zeros(1)), 1e-5)


@law("gradient/biased-baseline")
def biased_baseline(_: float) -> Claims:
    r"""A baseline that depends on its own draw removes part of the gradient: the mean of all K values, 1/K of it.

    $$E\Big[\big(f_k - \tfrac1K\textstyle\sum_j f_j\big)\,s_k\Big] = \big(1 - \tfrac1K\big)\,\nabla E f$$
    Of the mean's K terms only the draw's own is correlated with its score.
    Source: Kool et al. (2019), section 3.
    """
    for k in (2, 3):
        mean = moments(ScoreFunction(lambda v: v.mean(0)), k)[0]
        yield close(f"mean with {k} draws, in mu", (1 - 1 / k) * 2 * MU, mean[0], 1e-10)


# stochastic graphs ----------------------------------------------------------------------------------------------------

THETA = {"a": 0.4, "b": -0.3, "w": 1.2, "c": 0.9, "d": -0.8}


def costs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The costs of a; of a and b; of c, which depends on b; and of d alone."""
    return 2 * a + 1, (a - 2 * b) ** 2, (c - 1) ** 2, 5 * d


def graph_moments(named: bool, baseline: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact mean and variance of the graph's gradient, the exact gradient, (5,) each; values less the costs' sums.

    Over all outcomes of the bits a, b, d and all nodes of c's noise.
    """
    bit, (nodes, masses) = f64([0.0, 1.0]), normal_nodes(5)
    a, b, d, noise = torch.cartesian_prod(bit, bit, bit, nodes).T
    theta = {k: torch.full_like(a, v).requires_grad_() for k, v in THETA.items()}

    def given(*names: str) -> list[str] | None:
        return list(names) if named else None

    graph, score = Graph(), ScoreFunction(baseline)
    za = graph.sample("a", D.Bernoulli(logits=theta["a"]), At(score, a), given=given())
    zb = graph.sample("b", D.Bernoulli(logits=theta["w"] * za + theta["b"]), At(score, b), given=given("a"))
    zc = graph.sample("c", D.Normal(theta["c"] + zb, torch.ones_like(a)), At(Pathwise(), noise), given=given("b"))
    zd = graph.sample("d", D.Bernoulli(logits=theta["d"]), At(score, d), given=given())
    paid = costs(za, zb, zc, zd)
    for cost, names in zip(paid, (("a",), ("a", "b"), ("c",), ("d",)), strict=True):
        graph.cost(cost, given=given(*names))
    value = graph.surrogate()
    g = torch.stack(torch.autograd.grad(value.sum(), list(theta.values())))
    leaves = {k: f64(v).requires_grad_() for k, v in THETA.items()}
    p = masses.repeat(8)
    for rate, of in ((leaves["a"], a), (leaves["w"] * a + leaves["b"], b), (leaves["d"], d)):
        p = p * torch.where(of == 1, torch.sigmoid(rate), 1 - torch.sigmoid(rate))
    total = (p * sum(costs(a, b, leaves["c"] + b + noise, d))).sum()
    exact, p = torch.stack(torch.autograd.grad(total, list(leaves.values()))), p.detach()
    mean = g @ p
    return mean, (g - mean[:, None]) ** 2 @ p, exact, value - torch.stack(paid).sum(0)


@law("stochastic-graph/unbiased")
def stochastic_graph(_: float) -> Claims:
    r"""The gradient of a graph's expected cost is a sum over nodes, and each node needs only the costs below it.

    $$\nabla E\sum_c c = E\Big[\sum_c\nabla c + \sum_z \nabla\log q(z)\sum_{c\ \mathrm{below}\ z} c\Big]$$
    A cost that does not depend on a node has mean zero with its score: leaving it out changes the variance alone. Bits
    a -> b -> a Gaussian c, and a bit d, over all 40 outcomes of the bits and of a quadrature of the noise.
    Source: Schulman et al. (2015), theorem 1.
    """
    named, unnamed = graph_moments(True), graph_moments(False)
    yield close("mean with the parents named", named[2], named[0], 1e-10)
    yield close("mean with none named", unnamed[2], unnamed[0], 1e-10)
    yield close("mean with a baseline", named[2], graph_moments(True, baseline=3.0)[0], 1e-10)
    yield close("its value less the costs", 0.0, named[3], 1e-12)
    scored = [list(THETA).index(name) for name in ("b", "w", "d")]
    ratio = named[1][scored] / unnamed[1][scored]
    yield bounded("variance left by naming them, for each scored parameter", ratio, 0.8, relation="at most")
    s = 1 / (1 + math.exp(-THETA["d"]))
    own = 25 * s * (1 - s) ** 2 - (5 * s * (1 - s)) ** 2  # of 5 d (d - s)
    yield close("variance in d, of its own cost alone", own, named[1][4], 1e-9)


@law("doubly-stochastic/unbiased")
def doubly_stochastic(_: float) -> Claims:
    r"""A batch's estimated gradients, times N / B, have the mean of the whole sum's; both kinds of noise add up.

    $$E\Big[\frac NB\sum_{i\in\mathrm{batch}} \hat g_i\Big] = \sum_{i=1}^N \nabla E f_i$$
    Batch and draw are independent, so that the mean is taken in turn. The variance is that of the exact sum over
    batches, N^2 / B (1 - B/N) S^2 with S^2 the data's variance over N - 1, and N / B times the sum of the draws'.
    Source: Titsias & Lázaro-Gredilla (2014); Hoffman et al. (2013), section 2.3.
    """
    n, size = 6, 2
    batches, values = list(itertools.combinations(range(n), size)), torch.linspace(-1, 2, n, dtype=F64) ** 3
    sums = torch.stack([subsampled_sum(values[list(b)], n) for b in batches])
    yield close("mean over all 15 batches of 2 of 6 values", values.sum(), sums.mean(), 1e-10)
    exact = n**2 / size * (1 - size / n) * values.var()
    yield close("and variance", exact, sums.var(correction=0), 1e-10)
    noise, weights = hermite(1)
    means, total = torch.linspace(-1, 1, n, dtype=F64), torch.zeros(n, dtype=F64)
    for b, (e, w) in itertools.product(batches, zip(noise[0], weights, strict=True)):
        m = means.clone().requires_grad_()
        q = D.Normal(m[list(b)], torch.ones(size, dtype=F64))
        value = expectation(q, torch.square, At(ScoreFunction(), e.expand(1, size)), 1)
        total += w * torch.autograd.grad(subsampled_sum(value, n), m)[0] / len(batches)
    yield close("mean gradient over all batches and draws", 2 * means, total, 1e-9)

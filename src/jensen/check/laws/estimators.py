"""Estimators of the gradient of E_q[f]: exact means and variances, by quadrature over their noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from jensen.check.evidence import Claims, bounded, close
from jensen.check.gradients import gradient
from jensen.check.law import draws, law
from jensen.check.line import F64, f64, normal_grid, normal_nodes
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
BEST = MU**2 + 3 * SIGMA**2  # E[f s^2] / E[s^2] with the score s in mu: the constant baseline of least variance
SLOPES = f64([2 * MU, 2 * SIGMA])


@dataclass(frozen=True)
class At:
    """An estimator with given samples: their standard normal noise for a `Normal`, the samples themselves otherwise."""

    inner: Estimator
    noise: Tensor

    def unbiased(self, q: D.Distribution) -> bool:
        return True

    def draw(self, q: D.Distribution, shape: torch.Size) -> Tensor:
        z = q.loc + q.scale * self.noise if isinstance(q, D.Normal) else self.noise
        return z if isinstance(self.inner, Pathwise) else z.detach()

    def correction(self, q: D.Distribution, z: Tensor, cost: Tensor) -> Tensor:
        return self.inner.correction(q, z, cost)


def moments(estimator: Estimator, samples: int) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the gradient of E z^2 with respect to mean and standard deviation, (2,) each."""
    noise, weights = normal_grid(samples, 9)
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
    r"""The pathwise gradient is unbiased; for f(z) = z^2 its variance with respect to mu is 4 sigma^2 / K.

    $$\nabla_\lambda E_q f(z) = E_\epsilon\,\nabla_\lambda f(z_\lambda(\epsilon))$$
    The noise eps of z = mu + sigma eps does not depend on lambda = (mu, sigma), so the derivative moves inside the
    mean: 2 z in mu and 2 z eps in sigma. Moments are exact, by Gauss-Hermite quadrature over the noise of K samples.
    Source: Kingma & Welling (2014), section 2.4.
    Assumes: f is differentiable.
    """
    for k in (1, 3):
        mean, variance = moments(Pathwise(), k)
        yield close(f"mean, K = {k}", SLOPES, mean, 1e-10)
        exact = f64([4 * SIGMA**2, 4 * MU**2 + 8 * SIGMA**2]) / k
        yield close(f"variance, K = {k}", exact, variance, 1e-9)


@law("gradient/score-function")
def score_gradient(_: float) -> Claims:
    r"""The score-function gradient is unbiased, with many times the variance of the pathwise gradient.

    $$\nabla_\lambda E_q f = E_q\big[f\,\nabla_\lambda \log q\big]$$
    The gradient of q is q times that of log q. For f(z) = z^2 and q = N(mu, sigma^2) the variance of the gradient with
    respect to mu is a^2 / sigma^2 + 6 a + 8 mu^2 + 15 sigma^2 with a = mu^2, against 4 sigma^2 of the pathwise
    gradient.
    Source: Williams (1992); Paisley et al. (2012).
    Assumes: the support of q does not depend on lambda.
    """
    for k in (1, 3):
        mean, variance = moments(ScoreFunction(), k)
        yield close(f"mean, K = {k}", SLOPES, mean, 1e-10)
        yield close(
            f"variance of the gradient with respect to mu, K = {k}", scored_variance(0.0) / k, variance[0], 1e-9
        )
    ratio = moments(ScoreFunction(), 1)[1] / moments(Pathwise(), 1)[1]
    yield bounded(
        "variance divided by that of the pathwise gradient, for mu and for sigma", ratio, 4.0, relation="at least"
    )


@law("gradient/claims")
def claims(precision: float) -> Claims:
    r"""The pathwise and score-function gradients are unbiased for Gaussian and one-hot categorical variables.

    $$E\,\hat g = \nabla_\lambda E_{q_\lambda} f$$
    By `jensen.check.gradient`, whose exact gradient is a quadrature for the Gaussian and an enumeration for the other.
    Source: Kingma & Welling (2014); Williams (1992); Kool et al. (2019).
    """
    estimators: dict[str, Callable[..., Tensor]] = {
        "pathwise": pathwise,
        "score function": score_function,
        "score function, leave-one-out": partial(score_function, samples=3, baseline=leave_one_out),
    }
    mean, logits = (f64(v).requires_grad_() for v in (MU, [0.3, -0.5, 1.0]))
    normal, one_hot = D.Normal(mean, SIGMA), D.OneHotCategorical(logits=logits)
    functions: dict[D.Distribution, Any] = {normal: torch.square, one_hot: f64([1.0, 0.0, 9.0]).inner}
    for (name, estimator), (q, f) in itertools.product(estimators.items(), functions.items()):
        if q.has_rsample or estimator is not pathwise:
            report = gradient(estimator, q, f, repeats=draws(400, precision), generator=generator(0))
            yield from report.named(f"{name}, {type(q).__name__}")


@law("gradient/baselines")
def baselines(_: float) -> Claims:
    r"""A baseline b leaves the mean of the score-function gradient unchanged; the best constant is E[f s^2] / E[s^2].

    $$\mathrm{Var}\big[(f - b)\,s\big] = \mathrm{Var}[f s] - 2 b\,\mathrm{Cov}(f s, s) + b^2\,\mathrm{Var}[s]$$
    s is the score with respect to mu, and E[b s] = 0 if b is independent of the sample. The leave-one-out baseline is
    the mean of f over the other K - 1 samples; its variance is that of b = E f plus (Var f Var s + Cov(f, s)^2) / (K (K
    - 1)). Here the variance decreases in the order none, leave-one-out, E f, best constant, pathwise.
    Source: Greensmith et al. (2004); Kool et al. (2019) for leave-one-out.
    Assumes: f(z) = z^2, q = N(mu, sigma^2), K = 3.
    """
    k, last, alone = 3, moments(Pathwise(), 3)[1][0], scored_variance(0.0) / 3
    var_f, var_s, covariance = 2 * SIGMA**4 + 4 * MU**2 * SIGMA**2, 1 / SIGMA**2, 2 * MU
    left_out = scored_variance(MEAN_F) / k + (var_f * var_s + covariance**2) / (k * (k - 1))
    for name, b, exact in (
        ("the best constant", BEST, scored_variance(BEST) / k),
        ("E f", MEAN_F, scored_variance(MEAN_F) / k),
        ("leave-one-out", leave_one_out, left_out),
    ):
        mean, variance = moments(ScoreFunction(b), k)
        yield close(f"{name}: mean", SLOPES, mean, 1e-10)
        yield close(f"{name}: variance of the gradient in mu", exact, variance[0], 1e-6)
        yield bounded(
            f"{name}: variance of the gradient in mu, above that of the estimator before it",
            variance[0],
            last,
            relation="at least",
        )
        last = variance[0]
    yield bounded(
        "leave-one-out: variance of the gradient in mu, below that without a baseline", last, alone, relation="at most"
    )


@baselines.drawn
def _baselines_plot() -> str:
    estimators: dict[str, Estimator] = {"none": ScoreFunction(), "leave-one-out": ScoreFunction(leave_one_out)}
    estimators |= {"E f": ScoreFunction(MEAN_F), "the best constant": ScoreFunction(BEST), "pathwise": Pathwise()}
    variances = [float(moments(e, 3)[1][0]) for e in estimators.values()]
    return plots.bars(list(estimators), variances, title="exact variance, 3 samples", xlabel="of the gradient in mu")


@law("gradient/learned-baseline")
def learned_baseline(_: float) -> Claims:
    r"""The loss of a learned baseline B(x) is minimal at E[f|x]; the moving average of f is a weighted mean of batches.

    $$\arg\min_B E_q\,(f - B(x))^2 = E_q[f|x]$$
    The derivative of the squared error, 2 (B - E f), vanishes there. The moving average after batch t gives batch s the
    weight d^(t - s), divided by the sum of the weights, so that it is unbiased from the start.
    Source: Mnih & Gregor (2014), equation 7; Williams (1992), section 4.
    """
    noise, weights = normal_nodes(9)
    values, b = (f64([MU, -1.0]) + SIGMA * noise[:, None]) ** 2, f64([0.0, 0.0]).requires_grad_()
    loss = weights @ torch.stack([baseline_loss(b, v) for v in values])
    (slope,) = torch.autograd.grad(loss.sum(), b)
    yield close("baseline after one Newton step, E[f|x]", f64([MEAN_F, 1 + SIGMA**2]), -slope / 2, 1e-9)
    average, means = MovingAverage(0.8), (3.0, -1.0, 2.0, 5.0)
    for t, m in enumerate(means, 1):
        average.update(torch.tensor([m - 1, m + 1]))
        exact = 0.2 * sum(0.8 ** (t - s) * v for s, v in enumerate(means[:t], 1)) / (1 - 0.8**t)
        yield close(f"moving average after {t} batches", exact, average(torch.zeros(1)), 1e-5)


@law("gradient/biased-baseline")
def biased_baseline(_: float) -> Claims:
    r"""The mean of f over all K samples, as a baseline, biases the score-function gradient by the factor 1 - 1/K.

    $$E\Big[\big(f_k - \tfrac1K\textstyle\sum_j f_j\big)\,s_k\Big] = \big(1 - \tfrac1K\big)\,\nabla E f$$
    s_k is the score of sample k. Of the K terms of the mean only f_k is correlated with it.
    Source: Kool et al. (2019), section 3.
    """
    for k in (2, 3):
        mean = moments(ScoreFunction(lambda v: v.mean(0)), k)[0]
        yield close(f"mean gradient with respect to mu, K = {k}", (1 - 1 / k) * 2 * MU, mean[0], 1e-10)


THETA = {"a": 0.4, "b": -0.3, "w": 1.2, "c": 0.9, "d": -0.8}


def costs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> dict[tuple[str, ...], Tensor]:
    """The costs of a stochastic graph, each keyed by the nodes that it depends on."""
    return {("a",): 2 * a + 1, ("a", "b"): (a - 2 * b) ** 2, ("c",): (c - 1) ** 2, ("d",): 5 * d}


def graph_moments(named: bool, baseline: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of the graph's gradient, the exact gradient, (5,) each; values of the surrogate minus costs.

    They are exact sums over all outcomes of the bits a, b and d, and over the quadrature nodes of the noise of c.
    """
    bit, (nodes, masses) = f64([0.0, 1.0]), normal_nodes(5)
    a, b, d, noise = torch.cartesian_prod(bit, bit, bit, nodes).T
    theta = {k: torch.full_like(a, v).requires_grad_() for k, v in THETA.items()}
    logits = torch.stack([theta["a"], theta["w"] * a + theta["b"], theta["d"]])

    def given(*names: str) -> list[str] | None:
        return list(names) if named else None

    graph, score = Graph(), ScoreFunction(baseline)
    za = graph.sample("a", D.Bernoulli(logits=logits[0]), At(score, a), given=given())
    zb = graph.sample("b", D.Bernoulli(logits=logits[1]), At(score, b), given=given("a"))
    zc = graph.sample("c", D.Normal(theta["c"] + zb, torch.ones_like(a)), At(Pathwise(), noise), given=given("b"))
    zd = graph.sample("d", D.Bernoulli(logits=logits[2]), At(score, d), given=given())
    for names, cost in costs(za, zb, zc, zd).items():
        graph.cost(cost, given=given(*names))
    value, total = graph.surrogate(), torch.stack(list(costs(a, b, theta["c"] + b + noise, d).values())).sum(0)
    p = masses.repeat(8) * torch.sigmoid((2 * torch.stack([a, b, d]) - 1) * logits).prod(0)
    leaves = list(theta.values())
    g, exact = (torch.stack(torch.autograd.grad(v.sum(), leaves, retain_graph=True)) for v in (value, p * total))
    mean = g @ p.detach()
    return mean, (g - mean[:, None]) ** 2 @ p.detach(), exact.sum(1), value - total


@law("stochastic-graph/unbiased")
def stochastic_graph(_: float) -> Claims:
    r"""The gradient of a stochastic graph's expected cost needs, for each node, only the costs that depend on it.

    $$\nabla E\sum_c c = E\Big[\sum_c\nabla c + \sum_z \nabla\log q(z)\sum_{c\ \mathrm{below}\ z} c\Big]$$
    The product of a node's score and a cost that does not depend on the node has mean zero, so leaving it out changes
    only the variance. The graph is a -> b -> c and d, with bits a, b, d and a Gaussian c: 40 outcomes with quadrature.
    Source: Schulman et al. (2015), theorem 1.
    """
    named, unnamed = graph_moments(True), graph_moments(False)
    yield close("mean, parents given", named[2], named[0], 1e-10)
    yield close("mean, no parents given", unnamed[2], unnamed[0], 1e-10)
    yield close("mean, with a baseline", named[2], graph_moments(True, baseline=3.0)[0], 1e-10)
    yield close("value of the surrogate minus the costs", 0.0, named[3], 1e-12)
    scored = [list(THETA).index(name) for name in ("b", "w", "d")]
    ratio = named[1][scored] / unnamed[1][scored]
    yield bounded("variance with parents given over variance without", ratio, 0.8, relation="at most")
    s = 1 / (1 + math.exp(-THETA["d"]))
    own = 25 * s * (1 - s) ** 2 - (5 * s * (1 - s)) ** 2  # of 5 d (d - s)
    yield close("variance of the gradient in d, from the cost of d alone", own, named[1][4], 1e-9)


@law("doubly-stochastic/unbiased")
def doubly_stochastic(_: float) -> Claims:
    r"""The sum of gradient estimates over a batch of B, times N / B, is unbiased for the sum over all N data.

    $$E\Big[\frac NB\sum_{i\in\mathrm{batch}} \hat g_i\Big] = \sum_{i=1}^N \nabla E f_i$$
    The batch is independent of the samples z. For exact f_i the variance over batches without replacement is
    N^2 / B (1 - B/N) S^2, with the sample variance S^2 of the f_i; the variances of the g_i add N / B times their sum.
    Source: Titsias & Lázaro-Gredilla (2014); Hoffman et al. (2013), section 2.3.
    """
    n, size = 6, 2
    batches, values = list(itertools.combinations(range(n), size)), torch.linspace(-1, 2, n, dtype=F64) ** 3
    sums = torch.stack([subsampled_sum(values[list(b)], n) for b in batches])
    yield close("mean of the estimated sum over all 15 batches of 2 of 6 values", values.sum(), sums.mean(), 1e-10)
    exact = n**2 / size * (1 - size / n) * values.var()
    yield close("variance of the estimated sum", exact, sums.var(correction=0), 1e-10)
    means, total = torch.linspace(-1, 1, n, dtype=F64), torch.zeros(n, dtype=F64)
    for b, (e, w) in itertools.product(batches, zip(*normal_nodes(9), strict=True)):
        m = means.clone().requires_grad_()
        q = D.Normal(m[list(b)], torch.ones(size, dtype=F64))
        value = expectation(q, torch.square, At(ScoreFunction(), e.expand(1, size)), 1)
        total += w * torch.autograd.grad(subsampled_sum(value, n), m)[0] / len(batches)
    yield close("mean gradient over all batches and samples", 2 * means, total, 1e-9)

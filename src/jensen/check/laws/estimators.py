"""Laws of gradients of E_q[f]: exact means and variances of estimators, whose noise is put on a quadrature's nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from jensen.check.evidence import Evidence, Report, bounded, close
from jensen.check.gradients import gradient
from jensen.check.law import draws, law
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

F64 = torch.float64
MU, SIGMA = 0.8, 1.3
MEAN_F = MU**2 + SIGMA**2  # of f(z) = z^2 under N(MU, SIGMA^2)
BEST = MU**2 + 3 * SIGMA**2  # E[f s^2] / E[s^2] with the score s: the best constant baseline for the mean's gradient


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


def hermite(samples: int, nodes: int = 9) -> tuple[Tensor, Tensor]:
    """Nodes (K, R) and weights (R,) of the K-fold normal law: exact for polynomials up to degree 17."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = torch.cartesian_prod(*[torch.from_numpy(x)] * samples).view(-1, samples)
    weights = torch.cartesian_prod(*[torch.from_numpy(w / w.sum())] * samples).view(-1, samples).prod(1)
    return grid.T.contiguous(), weights


def moments(estimator: Estimator, samples: int) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the gradient of E z^2 in the mean and the standard deviation, (2,) each."""
    noise, weights = hermite(samples)
    m, s = (torch.full_like(weights, v).requires_grad_() for v in (MU, SIGMA))
    value = expectation(D.Normal(m, s), torch.square, At(estimator, noise), samples)
    g = torch.stack(torch.autograd.grad(value.sum(), (m, s)))
    mean = g @ weights
    return mean, (g - mean[:, None]) ** 2 @ weights


SLOPES = torch.tensor([2 * MU, 2 * SIGMA], dtype=F64)


@law(
    "gradient/pathwise",
    formula=r"\nabla_\lambda E_q f(z) = E_\epsilon\,\nabla_\lambda f(z_\lambda(\epsilon))",
    source="Kingma & Welling (2014), section 2.4",
    assumptions="f differentiable; here f(z) = z^2, q = N(mu, sigma^2)",
)
def pathwise_gradient(_: float) -> Iterator[Evidence]:
    """The path's gradient is unbiased, and its variance in mu is 4 sigma^2 / K.

    z = mu + sigma eps has noise without parameters, so that the derivative goes under the integral: 2 z in mu and
    2 z eps in sigma. All moments here are exact, by Gauss-Hermite quadrature over the noise of all K draws.
    """
    for k in (1, 3):
        mean, variance = moments(Pathwise(), k)
        yield close(f"mean with {k} draws", SLOPES, mean, 1e-10)
        exact = torch.tensor([4 * SIGMA**2, 4 * MU**2 + 8 * SIGMA**2], dtype=F64) / k
        yield close(f"variance with {k} draws", exact, variance, 1e-9)


@law(
    "gradient/score-function",
    formula=r"\nabla_\lambda E_q f = E_q\big[f\,\nabla_\lambda \log q\big]",
    source="Williams (1992); Paisley et al. (2012)",
    assumptions="the support of q does not move; here f(z) = z^2, q = N(mu, sigma^2)",
)
def score_gradient(_: float) -> Iterator[Evidence]:
    """The score function's gradient is unbiased, and its variance many times the path's.

    grad q = q grad log q. In mu its variance is a^2 / sigma^2 + 6 a + 8 mu^2 + 15 sigma^2 with a = mu^2, from
    the moments of a Gaussian up to the sixth, against the path's 4 sigma^2.
    """
    for k in (1, 3):
        mean, variance = moments(ScoreFunction(), k)
        yield close(f"mean with {k} draws", SLOPES, mean, 1e-10)
        yield close(f"variance in mu with {k} draws", scored_variance(0.0) / k, variance[0], 1e-9)
    ratio = moments(ScoreFunction(), 1)[1] / moments(Pathwise(), 1)[1]
    yield bounded("its variance over the path's, in mu and in sigma", ratio, 4.0, relation="at least")


def scored_variance(baseline: float) -> float:
    """Of (z^2 - b) s with the score s = (z - mu) / sigma^2."""
    a = MU**2 - baseline
    return a**2 / SIGMA**2 + 6 * a + 8 * MU**2 + 15 * SIGMA**2


@law(
    "gradient/baselines",
    formula=r"\mathrm{Var}\big[(f - b)\,s\big] = \mathrm{Var}[f s] - 2 b\,\mathrm{Cov}(f s, s) + b^2\,\mathrm{Var}[s]",
    source="Greensmith et al. (2004); Kool et al. (2019) for leave-one-out",
    assumptions="f(z) = z^2, q = N(mu, sigma^2), K = 3",
)
def baselines(_: float) -> Iterator[Evidence]:
    """No baseline changes the mean, and each gains what its closed form says: none > leave-one-out > E f > best > path.

    E[b s] = 0 for what does not know the draw. The variance is a parabola in b, least at E[f s^2] / E[s^2]; the mean of
    the other K - 1 draws, a U-statistic, comes to E f and costs (Var f Var s + Cov(f, s)^2) / (K (K - 1)) more.
    """
    k, last = 3, moments(Pathwise(), 3)[1][0]
    for name, b in (("the best constant", BEST), ("E f", MEAN_F)):
        mean, variance = moments(ScoreFunction(b), k)
        yield close(f"mean with {name}", SLOPES, mean, 1e-10)
        yield close(f"variance with {name}", scored_variance(b) / k, variance[0], 1e-6)
        yield bounded(f"{name} costs more than the one before", variance[0], last, relation="at least")
        last = variance[0]
    mean, variance = moments(ScoreFunction(leave_one_out), k)
    var_f, var_s, covariance = 2 * SIGMA**4 + 4 * MU**2 * SIGMA**2, 1 / SIGMA**2, 2 * MU
    exact = scored_variance(MEAN_F) / k + (var_f * var_s + covariance**2) / (k * (k - 1))
    yield close("mean with leave-one-out", SLOPES, mean, 1e-10)
    yield close("variance with leave-one-out", exact, variance[0], 1e-9)
    yield bounded("leave-one-out costs more than E f", variance[0], last, relation="at least")
    yield bounded("and less than none", variance[0], scored_variance(0.0) / k, relation="at most")


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


@law(
    "gradient/claims",
    formula=r"E\,\hat g = \nabla_\lambda E_{q_\lambda} f",
    source="Kingma & Welling (2014); Williams (1992); Kool et al. (2019)",
)
def claims(precision: float) -> Report:
    """The functions that estimate gradients pass `check.gradient`, draws and all.

    A normal, whose integral is a quadrature, and a one-hot variable, by enumeration.
    """
    estimators: dict[str, Callable[..., Tensor]] = {
        "pathwise": pathwise,
        "score function": score_function,
        "score function, leave-one-out": partial(score_function, samples=3, baseline=leave_one_out),
    }
    mean, logits = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (MU, [0.3, -0.5, 1.0]))
    costs_of_class = torch.tensor([1.0, 0.0, 9.0], dtype=F64)
    found = []
    for name, estimator in estimators.items():
        for q, f in ((D.Normal(mean, SIGMA), torch.square), (D.OneHotCategorical(logits=logits), costs_of_class.inner)):
            if q.has_rsample or estimator is not pathwise:
                report = gradient(estimator, q, f, repeats=draws(400, precision), generator=generator(0))
                found += [replace(e, claim=f"{name}, {type(q).__name__}: {e.claim}") for e in report.evidence]
    return Report(tuple(found))


@law(
    "gradient/learned-baseline",
    formula=r"\arg\min_B E_q\,(f - B(x))^2 = E_q[f|x]",
    source="Mnih & Gregor (2014), equation 7; Williams (1992), section 4",
)
def learned_baseline(_: float) -> Iterator[Evidence]:
    """A baseline's loss is least at E[f|x], and the running mean of earlier batches comes there too.

    The squared error's derivative 2 (B - E f) vanishes there. The average of earlier batches is a weighted mean with
    weights d^(t - s), divided by their sum so that its start does not pull it to 0.
    """
    noise, weights = hermite(1)
    values = (torch.tensor([MU, -1.0], dtype=F64) + SIGMA * noise[0, :, None]) ** 2
    b = torch.zeros(2, dtype=F64, requires_grad=True)
    loss = weights @ torch.stack([baseline_loss(b, v) for v in values])
    (slope,) = torch.autograd.grad(loss.sum(), b)
    yield close(
        "one Newton step from 0 is at E[f|x]", torch.tensor([MEAN_F, 1 + SIGMA**2], dtype=F64), -slope / 2, 1e-9
    )
    average, means = MovingAverage(0.8), (3.0, -1.0, 2.0, 5.0)
    for t, m in enumerate(means, 1):
        average.update(torch.tensor([m - 1, m + 1]))
        exact = 0.2 * sum(0.8 ** (t - s) * v for s, v in enumerate(means[:t], 1)) / (1 - 0.8**t)
        yield close(f"the running mean after {t} batches", exact, average(torch.zeros(1)), 1e-5)


@law(
    "gradient/biased-baseline",
    formula=r"E\Big[\big(f_k - \tfrac1K\textstyle\sum_j f_j\big)\,s_k\Big] = \big(1 - \tfrac1K\big)\,\nabla E f",
    source="Kool et al. (2019), section 3",
)
def biased_baseline(_: float) -> Iterator[Evidence]:
    """A baseline that knows its own draw takes away part of the gradient: the mean of all K values, 1/K of it.

    Of the mean's K terms only the draw's own is correlated with its score.
    """
    for k in (2, 3):
        mean = moments(ScoreFunction(lambda v: v.mean(0)), k)[0]
        yield close(f"mean with {k} draws, in mu", (1 - 1 / k) * 2 * MU, mean[0], 1e-10)


# -- stochastic graphs -------------------------------------------------------------------------------------------------

THETA = {"a": 0.4, "b": -0.3, "w": 1.2, "c": 0.9, "d": -0.8}


def costs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """What is paid by a; by a and b; by c, which hangs on b; and by d alone."""
    return 2 * a + 1, (a - 2 * b) ** 2, (c - 1) ** 2, 5 * d


def outcomes() -> tuple[Tensor, ...]:
    """All of the bits a, b, d with all nodes of c's noise, (R,) each; and the noise's weights."""
    x, w = np.polynomial.hermite_e.hermegauss(5)
    bits = list(itertools.product((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), range(5)))
    a, b, d, node = torch.tensor(bits, dtype=F64).T
    return a, b, d, torch.from_numpy(x)[node.long()], torch.from_numpy(w / w.sum())[node.long()]


def probability(theta: dict[str, Tensor], a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """Of the bits: sigmoids, written out."""
    rates = (torch.sigmoid(v) for v in (theta["a"], theta["w"] * a + theta["b"], theta["d"]))
    total = torch.ones_like(a)
    for rate, bit in zip(rates, (a, b, d), strict=True):
        total = total * torch.where(bit == 1, rate, 1 - rate)
    return total


def graph_moments(named: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Exact mean and variance of the graph's gradient, and the exact gradient, (5,) each."""
    a, b, d, noise, weight = outcomes()
    theta = {k: torch.full_like(a, v).requires_grad_() for k, v in THETA.items()}

    def given(*names: str) -> list[str] | None:
        return list(names) if named else None

    graph, score = Graph(), ScoreFunction()
    za = graph.sample("a", D.Bernoulli(logits=theta["a"]), At(score, a), given=given())
    zb = graph.sample("b", D.Bernoulli(logits=theta["w"] * za + theta["b"]), At(score, b), given=given("a"))
    zc = graph.sample("c", D.Normal(theta["c"] + zb, torch.ones_like(a)), At(Pathwise(), noise), given=given("b"))
    zd = graph.sample("d", D.Bernoulli(logits=theta["d"]), At(score, d), given=given())
    parents = (("a",), ("a", "b"), ("c",), ("d",))
    for cost, names in zip(costs(za, zb, zc, zd), parents, strict=True):
        graph.cost(cost, given=given(*names))
    g = torch.stack(torch.autograd.grad(graph.surrogate().sum(), list(theta.values())))
    leaves = {k: torch.tensor(v, dtype=F64, requires_grad=True) for k, v in THETA.items()}
    p = weight * probability(leaves, a, b, d)
    exact = torch.stack(
        torch.autograd.grad((p * sum(costs(a, b, leaves["c"] + b + noise, d))).sum(), list(leaves.values()))
    )
    p = p.detach()
    mean = g @ p
    return mean, (g - mean[:, None]) ** 2 @ p, exact


@law(
    "stochastic-graph/unbiased",
    formula=r"\nabla E\sum_c c = E\Big[\sum_c\nabla c + \sum_z \nabla\log q(z)\sum_{c\ \mathrm{below}\ z} c\Big]",
    source="Schulman et al. (2015), theorem 1",
)
def stochastic_graph(_: float) -> Iterator[Evidence]:
    """A program that samples and pays has the gradient of its expected cost, node by node, and needs only costs below.

    A cost that does not hang on a node has mean zero with its score: leaving it out changes the variance alone. Bits
    a -> b -> a Gaussian c, and a bit d, over all 40 outcomes of the bits and of a quadrature of the noise.
    """
    named, all_before = graph_moments(True), graph_moments(False)
    yield close("mean with the parents named", named[2], named[0], 1e-10)
    yield close("mean with none named", all_before[2], all_before[0], 1e-10)
    scored = [list(THETA).index(name) for name in ("b", "w", "d")]
    ratio = named[1][scored] / all_before[1][scored]
    yield bounded("variance left by naming them, of each scored parameter", ratio, 0.8, relation="at most")
    s = 1 / (1 + math.exp(-THETA["d"]))
    own = 25 * s * (1 - s) ** 2 - (5 * s * (1 - s)) ** 2  # of 5 d (d - s)
    yield close("variance in d, of its own cost alone", own, named[1][4], 1e-9)


@law(
    "doubly-stochastic/unbiased",
    formula=r"E\Big[\frac NB\sum_{i\in\mathrm{batch}} \hat g_i\Big] = \sum_{i=1}^N \nabla E f_i",
    source="Titsias & Lázaro-Gredilla (2014); Hoffman et al. (2013), section 2.3",
)
def doubly_stochastic(_: float) -> Iterator[Evidence]:
    """A batch's estimated gradients, times N / B, have the mean of the whole sum's; both kinds of noise add up.

    Batch and draw are independent, so that the mean is taken in turn. The variance is that of the exact sum over
    batches, N^2 / B (1 - B/N) S^2 with S^2 the data's variance over N - 1, and N / B times the sum of the draws'.
    """
    n, size = 6, 2
    batches = list(itertools.combinations(range(n), size))
    values = torch.linspace(-1, 2, n, dtype=F64) ** 3
    sums = torch.stack([subsampled_sum(values[list(b)], n) for b in batches])
    yield close("mean over all 15 batches of 2 of 6 values", values.sum(), sums.mean(), 1e-10)
    exact = n**2 / size * (1 - size / n) * values.var()
    yield close("and variance", exact, sums.var(correction=0), 1e-10)
    noise, weights = hermite(1)
    means = torch.linspace(-1, 1, n, dtype=F64)
    total = torch.zeros(n, dtype=F64)
    for b in batches:
        for e, w in zip(noise[0], weights, strict=True):
            m = means.clone().requires_grad_()
            q = D.Normal(m[list(b)], torch.ones(size, dtype=F64))
            value = expectation(q, torch.square, At(ScoreFunction(), e.expand(1, size)), 1)
            total += w * torch.autograd.grad(subsampled_sum(value, n), m)[0] / len(batches)
    yield close("mean gradient over all batches and draws", 2 * means, total, 1e-9)


LAWS = (
    pathwise_gradient,
    score_gradient,
    claims,
    baselines,
    learned_baseline,
    biased_baseline,
    stochastic_graph,
    doubly_stochastic,
)

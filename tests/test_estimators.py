"""Estimators against exact gradients and variances: by quadrature, by enumeration, and with a million draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import distributions as D
from torch import nn

from jensen.core.seeding import drawing, generator
from jensen.distributions import Erlang, Gompertz
from jensen.estimators import (
    Graph,
    MovingAverage,
    Pathwise,
    Relaxed,
    ScoreFunction,
    baseline_loss,
    compare_estimators,
    expectation,
    leave_one_out,
    pathwise,
    relaxed,
    score_function,
    score_surrogate,
    subsampled_sum,
)

F64 = torch.float64
MILLION = 1_000_000


def T(value, grad=False):  # noqa: N802
    return torch.tensor(value, dtype=F64, requires_grad=grad)


# -- exact laws of an estimator: its noise is put on the nodes of a quadrature -------------------------------


@dataclass(frozen=True)
class At:
    """An estimator with given draws: standard normal noise for a `Normal`, the draws themselves otherwise."""

    inner: object
    noise: torch.Tensor

    def unbiased(self, q):
        return True

    def draw(self, q, shape):
        z = q.loc + q.scale * self.noise if isinstance(q, D.Normal) else self.noise
        return z if isinstance(self.inner, Pathwise) else z.detach()

    def correction(self, q, z, cost):
        return self.inner.correction(q, z, cost)


def hermite(samples, nodes=9):
    """Nodes (K, R) and weights (R,) of the K-dimensional standard normal: exact for polynomials up to degree 17."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[x] * samples), -1).reshape(-1, samples)
    weights = np.stack(np.meshgrid(*[w / w.sum()] * samples), -1).reshape(-1, samples).prod(1)
    return torch.from_numpy(grid.T.copy()), torch.from_numpy(weights)


def law(estimator, f, mean, std, samples):
    """The exact mean and variance of the gradient with respect to mean and standard deviation, (2,) each."""
    noise, weights = hermite(samples)
    m, s = (torch.full((len(weights),), v, dtype=F64, requires_grad=True) for v in (mean, std))
    value = expectation(D.Normal(m, s), f, At(estimator, noise), samples)
    g = torch.stack(torch.autograd.grad(value.sum(), (m, s)))
    first = g @ weights
    return first, (g - first[:, None]) ** 2 @ weights


MU, SIGMA = 0.8, 1.3
MEAN_F = MU**2 + SIGMA**2


def test_leave_one_out_keeps_the_digits_of_small_values():
    """With one value of 1e8 the mean of the others is 1.5; a difference of sums in single precision gives 0 or 4."""
    b = leave_one_out(torch.tensor([1e8, 1.0, 2.0]))
    assert b.dtype == torch.float32
    assert b.tolist() == torch.tensor([1.5, 50_000_001.0, 50_000_000.5]).tolist()


def test_moving_average():
    """0 before the first batch, then a function of earlier batches only."""
    b = MovingAverage(0.8)
    assert float(b(torch.zeros(4))) == 0
    b.update(torch.tensor([2.0, 4.0]))
    assert float(b(torch.full((4,), 99.0))) == pytest.approx(3)
    assert set(b.state_dict()) == {"total", "weight"}


def test_moving_average_settles_at_the_mean():
    """Its variance is Var(batch mean) (1 - d) / (1 + d): 5,000 steps, 4 standard errors, with autocorrelation
    included.
    """
    b, d, n = MovingAverage(0.5), 0.5, 5000
    seen = []
    values = torch.randn(n, 4, generator=generator(0)) * 2 + 1
    for v in values:
        b.update(v)
        seen.append(float(b(v)))
    seen = torch.tensor(seen[50:])
    assert float(seen.mean()) == pytest.approx(1, abs=4 / math.sqrt(n))
    # of an autoregression the squares have correlations d^2k, a factor (1 + d^2) / (1 - d^2)
    assert float(seen.var()) == pytest.approx((1 - d) / (1 + d), rel=4 * math.sqrt(2 / n * (1 + d**2) / (1 - d**2)))


def test_learned_baseline():
    """Its loss has its minimum at E[f | x], which one Newton step of a table finds; the variance falls to the closed
    form.
    """
    noise, weights = hermite(1)
    means = T([-1.0, 0.5, 2.0])
    table = nn.Embedding(3, 1, dtype=F64)
    values = (means + 1.0 * noise[0, :, None]) ** 2  # (R, 3)
    b = table(torch.arange(3)).squeeze(-1)
    loss = torch.stack([baseline_loss(b, v) for v in values])
    (slope,) = torch.autograd.grad((weights @ loss).sum(), table.weight)
    exact = means**2 + 1
    torch.testing.assert_close(table.weight - slope / 2, exact[:, None])
    several = baseline_loss(b, values)
    torch.testing.assert_close(several, ((values - b) ** 2).mean(0))
    for baseline, of in ((0.0, lambda m: m**4 + 14 * m**2 + 15), (exact, lambda m: 8 * m**2 + 10)):
        m = means.expand(len(weights), 3).clone().requires_grad_()
        value = expectation(D.Normal(m, T(1.0)), torch.square, At(ScoreFunction(baseline), noise[..., None]), 1)
        (g,) = torch.autograd.grad(value.sum(), m)
        torch.testing.assert_close(weights @ g, 2 * means)
        torch.testing.assert_close(weights @ (g - weights @ g) ** 2, of(means))


def test_the_value_is_the_monte_carlo_mean():
    """The value equals the mean bit for bit, for all estimators; the gradient with respect to parameters of f is
    kept."""
    q, w = D.Normal(T([0.3, 1.0], grad=True), T(1.0)), T(1.7, grad=True)
    seen = []

    def f(z):
        seen.append(z)
        return w * z**3

    for value in (
        pathwise(q, f, 5, generator=generator(1)),
        score_function(q, f, 5, generator=generator(1)),
        score_function(q, f, 5, baseline=leave_one_out, generator=generator(1)),
        score_function(q, f, 5, baseline=T([3.0, 2.0]), generator=generator(1)),
        score_function(q, f, 5, baseline=MovingAverage(), generator=generator(1)),
    ):
        z = seen[-1].detach()
        assert torch.equal(value, (w * z**3).mean(0))
        (slope,) = torch.autograd.grad(value.sum(), w)
        torch.testing.assert_close(slope, (z**3).mean(0).sum())
    bits = D.Bernoulli(logits=T([0.3, -1.0]))
    for hard in (True, False):
        value = relaxed(bits, f, 5, temperature=0.5, hard=hard, generator=generator(2))
        assert torch.equal(value, (w * seen[-1] ** 3).mean(0))
        assert set(seen[-1].unique().tolist()) == {0.0, 1.0} if hard else seen[-1].min() > 0


def test_draws_follow_the_generator():
    q = D.Normal(T(0.0), T(1.0))
    for estimate in (pathwise, score_function):
        a, b, c = (estimate(q, torch.square, 4, generator=generator(s)) for s in (1, 1, 2))
        assert a == b != c
    before = torch.get_rng_state()
    pathwise(q, torch.square, 4, generator=generator(1))
    assert torch.equal(before, torch.get_rng_state())


def test_score_surrogate():
    """The value is kept; the gradient is (f - b) grad log q plus that of f."""
    log_q, f = T([-1.0, -2.0], grad=True), T([[3.0, 4.0], [5.0, 6.0]], grad=True)
    surrogate = score_surrogate(f, log_q, baseline=T([1.0, 2.0]))
    assert torch.equal(surrogate, f)
    g_q, g_f = torch.autograd.grad(surrogate.sum(), (log_q, f))
    assert g_q.tolist() == [2 + 4, 2 + 4]
    assert (g_f == 1).all()


# -- a million draws --------------------------------------------------------------------------------------


def assert_unbiased(table, limit=4.0):
    for row in table.rows:
        assert row.bias.abs().max() < limit, str(table)


def test_gaussian_at_a_million_draws():
    """All estimators are within 4 standard errors of the exact gradient, with variances near those of the
    quadrature.
    """
    estimators = {
        "pathwise": Pathwise(),
        "none": ScoreFunction(),
        "constant": ScoreFunction(2.5),
        "mean": ScoreFunction(MEAN_F),
        "leave-one-out": ScoreFunction(leave_one_out),
    }
    table = compare_estimators(
        D.Normal,
        torch.square,
        [T(MU), T(SIGMA)],
        estimators,
        exact=[T(2 * MU), T(2 * SIGMA)],
        samples=4,
        repeats=MILLION // 4,
        chunk=50_000,
        generator=generator(0),
    )
    assert_unbiased(table)
    for name, estimator in estimators.items():
        exact = law(estimator, torch.square, MU, SIGMA, 4)[1].sum()
        assert table[name].variance == pytest.approx(float(exact), rel=0.05)


def test_discrete_at_a_million_draws():
    """Three classes; the exact gradient by enumeration."""
    w = T([[1.0, 0.2, -0.5], [0.2, -2.0, 0.7], [-0.5, 0.7, 3.0]])
    table = compare_estimators(
        lambda logits: D.OneHotCategorical(logits=logits),
        lambda z: (z @ w * z).sum(-1),
        T([0.3, -0.5, 1.0]),
        {
            "none": ScoreFunction(),
            "constant": ScoreFunction(1.0),
            "leave-one-out": ScoreFunction(leave_one_out),
        },
        samples=4,
        repeats=MILLION // 4,
        chunk=50_000,
        generator=generator(0),
    )
    p = torch.softmax(T([0.3, -0.5, 1.0]), 0)
    torch.testing.assert_close(table.exact, p * (w.diagonal() - p @ w.diagonal()))
    assert table.reference == "the exact gradient, by enumeration"
    assert_unbiased(table)


@pytest.mark.parametrize(
    ("q", "at", "exact"),
    [
        (Gompertz, (0.7, 2.0), lambda q: q.mean),
        (lambda rate: Erlang(3, rate), (2.0,), lambda q: q.mean**2 + q.variance),
    ],
    ids=["Gompertz", "Erlang"],
)
def test_new_distributions_at_a_million_draws(q, at, exact):
    """E[x] of a Gompertz, E[x^2] of an Erlang: pathwise and score function against the gradient of the closed form."""
    f = torch.square if len(at) == 1 else lambda x: x
    parameters = [T(v, grad=True) for v in at]
    truth = torch.autograd.grad(exact(q(*parameters)), parameters)
    table = compare_estimators(
        q, f, parameters, exact=truth, samples=4, repeats=MILLION // 4, chunk=50_000, generator=generator(0)
    )
    assert len(table.rows) == 4
    assert_unbiased(table)
    assert table["pathwise"].variance < table["score function, leave-one-out"].variance
    assert table["score function, leave-one-out"].variance < table["score function"].variance


# -- relaxed: biased, as theory says -----------------------------------------------------------------------

LOGIT = 1.0
S = 1 / (1 + math.exp(-LOGIT))
CUBE = 0.3


def quadratic(z):
    return (z - CUBE) ** 2


EXACT = S * (1 - S) * (1 - 2 * CUBE)  # of d/dl [s (1 - t)^2 + (1 - s) t^2]


def by_quadrature(temperature, hard, slope):
    """The estimator's mean, E[f'(z) dy/dl], over logistic noise: y = sigmoid(u / tau), u = l + noise."""

    def integrand(v):  # u = tau v
        s = 1 / (1 + math.exp(-temperature * v + LOGIT))
        y = 1 / (1 + math.exp(-v))
        return slope(float(v > 0) if hard else y) * y * (1 - y) * s * (1 - s)

    halves = [scipy.integrate.quad(integrand, *ends, epsabs=1e-13)[0] for ends in ((-40, 0), (0, 40))]
    return sum(halves)


def of_quadratic(z):
    return 2 * (z - CUBE)


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "straight-through"])
def test_bias_of_a_relaxation_shrinks_with_the_temperature(hard):
    """The means of a million draws at each temperature are within 4 standard errors of the quadrature, and their
    bias is that of the quadrature: to first order tau s (1 - s) (2s - 1), times 2 log 2 for straight-through.
    """
    rate = S * (1 - S) * (2 * S - 1) * (2 * math.log(2) if hard else 1)
    biases = []
    for temperature in (0.5, 0.2, 0.1):
        table = compare_estimators(
            lambda l: D.Bernoulli(logits=l),  # noqa: E741
            quadratic,
            T(LOGIT),
            {"it": Relaxed(temperature, hard)},
            samples=1,
            repeats=MILLION,
            chunk=100_000,
            generator=generator(0),
        )
        row, mean = table["it"], by_quadrature(temperature, hard, of_quadratic)
        assert abs(float(row.mean) - mean) < 4 * float(row.stderr)
        assert float(table.exact) == pytest.approx(EXACT)
        biases.append(float(row.mean) - EXACT)
    assert biases[0] > biases[1] > biases[2] > 4 * float(row.stderr)
    errors = [abs((by_quadrature(t, hard, of_quadratic) - EXACT) / t - rate) for t in (0.1, 0.05, 0.025)]
    assert errors[0] < 0.05 * rate
    assert errors[2] < errors[1] / 2 < errors[0] / 4 * 1.3  # the remainder is of higher order


def test_straight_through_stays_biased_where_the_trapezoid_rule_is_not_exact():
    """For f = z^3 its limit is s (1 - s) (f'(0) + f'(1)) / 2, 3/2 of the exact gradient; relaxed draws converge to
    the exact one.
    """
    exact = S * (1 - S)
    assert by_quadrature(1e-3, True, lambda z: 3 * z**2) == pytest.approx(1.5 * exact, rel=2e-3)
    estimators = {"soft": Relaxed(0.05), "straight-through": Relaxed(0.05, hard=True)}
    table = compare_estimators(
        lambda l: D.Bernoulli(logits=l),  # noqa: E741
        lambda z: z**3,
        T(LOGIT),
        estimators,
        samples=1,
        repeats=MILLION,
        chunk=100_000,
        generator=generator(0),
    )
    for name, row in ((row.estimator, row) for row in table.rows):
        mean = by_quadrature(0.05, name != "soft", lambda z: 3 * z**2)
        assert abs(float(row.mean) - mean) < 4 * float(row.stderr)
    assert float(table["straight-through"].bias) > 50
    assert float(table["straight-through"].mean) == pytest.approx(1.5 * exact, rel=0.05)


def test_relaxed_one_hot_and_its_bernoulli_agree():
    """Two classes are a Bernoulli: equal means at equal temperature; three classes approach the exact gradient."""
    table = compare_estimators(
        lambda l: D.OneHotCategorical(logits=torch.stack([l, torch.zeros_like(l)], -1)),  # noqa: E741
        lambda z: quadratic(z[..., 0]),
        T(LOGIT),
        {"soft": Relaxed(0.5), "hard": Relaxed(0.5, hard=True)},
        repeats=100_000,
        generator=generator(1),
    )
    for name, hard in (("soft", False), ("hard", True)):
        mean = by_quadrature(0.5, hard, of_quadratic)
        assert abs(float(table[name].mean) - mean) < 4 * float(table[name].stderr)
    logits, w = T([0.3, -0.5, 1.0]), T([1.0, -2.0, 3.0])
    biases = []
    for temperature in (1.0, 0.1):
        table = compare_estimators(
            lambda l: D.Independent(D.OneHotCategorical(logits=l[..., None, :]), 1),  # noqa: E741
            lambda z: (z[..., 0, :] @ w) ** 2,
            logits,
            {"soft": Relaxed(temperature)},
            exact=torch.softmax(logits, 0) * (w**2 - torch.softmax(logits, 0) @ w**2),
            samples=1,
            repeats=300_000,
            chunk=100_000,
            generator=generator(1),
        )
        biases.append(float((table["soft"].mean - table.exact).norm()))
        assert table["soft"].bias.abs().max() > 4
    assert biases[1] < biases[0] / 3


# -- stochastic graphs -------------------------------------------------------------------------------------

THETA = {"a": 0.4, "b": -0.3, "w": 1.2, "c": 0.9, "d": -0.8}


def costs(a, b, c, d):
    """Costs of the graph: of a; of a and b; of c, a child of b; and of d."""
    return 2 * a + 1, (a - 2 * b) ** 2, (c - 1) ** 2, 5 * d


def outcomes():
    """All values of (a, b, d), (R,) each, with quadrature nodes for the noise of c; and the weights of c."""
    x, w = np.polynomial.hermite_e.hermegauss(5)
    rows = list(itertools.product((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), range(5)))
    a, b, d, i = (np.array(v) for v in zip(*rows, strict=True))
    i = i.astype(int)
    return (*(torch.from_numpy(v) for v in (a, b, d, x[i])), torch.from_numpy((w / w.sum())[i]))


def probability(theta, a, b, d):
    """The probability of the discrete outcomes, differentiable."""
    return (
        D.Bernoulli(logits=theta["a"]).log_prob(a)
        + D.Bernoulli(logits=theta["w"] * a + theta["b"]).log_prob(b)
        + D.Bernoulli(logits=theta["d"]).log_prob(d)
    ).exp()


def exact_graph():
    """The gradient of the expected cost, by enumeration and quadrature."""
    theta = {k: T(v, grad=True) for k, v in THETA.items()}
    a, b, d, e, w = outcomes()
    mean = (w * probability(theta, a, b, d) * sum(costs(a, b, theta["c"] + b + e, d))).sum()
    return torch.stack(torch.autograd.grad(mean, list(theta.values())))


def test_a_cost_denied_its_parent_gives_no_score():
    """So the tests above would detect a missing dependence."""
    logit = T([0.3, 0.3], grad=True)
    for given, slope in (([], [0.0, 0.0]), (["z"], [0.0, 5 * (1 - 1 / (1 + math.exp(-0.3)))])):
        g = Graph()
        z = g.sample("z", D.Bernoulli(logits=logit), At(ScoreFunction(), T([0.0, 1.0])))
        g.cost(5 * z, given=given)
        g.cost(0 * z)
        assert torch.autograd.grad(g.surrogate().sum(), logit)[0].tolist() == pytest.approx(slope)


def test_a_pathwise_parent_moves_a_scored_child():
    """z ~ N(mu, 1), bit ~ Bernoulli(logit 2z), cost (bit - z)^2: the gradient with respect to mu passes through log
    q(bit | z).
    """
    x, w = np.polynomial.hermite_e.hermegauss(60)
    noise, weights = torch.from_numpy(x).repeat(2), torch.from_numpy(w / w.sum()).repeat(2)
    bits = torch.cat([torch.zeros(60), torch.ones(60)]).double()
    mu = torch.full((120,), 0.4, dtype=F64, requires_grad=True)
    g = Graph()
    z = g.sample("z", D.Normal(mu, T(1.0)), At(Pathwise(), noise))
    bit = g.sample("bit", D.Bernoulli(logits=2 * z), At(ScoreFunction(), bits))
    g.cost((bit - z) ** 2)
    (slope,) = torch.autograd.grad(g.surrogate().sum(), mu)
    chosen = D.Bernoulli(logits=2 * (0.4 + noise)).log_prob(bits).exp()
    m = T(0.4, grad=True)
    zs = m + noise
    mean = (weights * D.Bernoulli(logits=2 * zs).log_prob(bits).exp() * (bits - zs) ** 2).sum()
    (exact,) = torch.autograd.grad(mean, m)
    torch.testing.assert_close((weights * chosen * slope).sum(), exact, rtol=1e-9, atol=0)


def test_a_graph_at_a_million_draws():
    """Sampled nodes, batch (K, B), leave-one-out along K, within 4 standard errors of the enumeration."""
    k, n = 4, MILLION // 4
    theta = {name: torch.full((n,), v, dtype=F64, requires_grad=True) for name, v in THETA.items()}
    g, score = Graph(generator(0)), ScoreFunction(leave_one_out)
    a = g.sample("a", D.Bernoulli(logits=theta["a"]), score, shape=(k,))
    b = g.sample("b", D.Bernoulli(logits=theta["w"] * a + theta["b"]), score, given=["a"])
    c = g.sample("c", D.Normal(theta["c"] + b, T(1.0)), given=["b"])
    d = g.sample("d", D.Bernoulli(logits=theta["d"]), score, given=[], shape=(k,))
    parents = (["a"], ["a", "b"], ["c"], ["d"])
    for value, given in zip(costs(a, b, c, d), parents, strict=True):
        g.cost(value, given=given)
    assert g.surrogate().shape == (k, n)
    slopes = torch.stack(torch.autograd.grad(g.surrogate().mean(0).sum(), list(theta.values())))
    error = (slopes.mean(1) - exact_graph()) / (slopes.std(1) / math.sqrt(n))
    assert error.abs().max() < 4


def test_a_relaxed_node_in_a_graph():
    logits = torch.zeros(5, 3, dtype=F64, requires_grad=True)
    g = Graph(generator(0))
    z = g.sample("z", D.OneHotCategorical(logits=logits), Relaxed(0.5, hard=True))
    g.cost(z @ T([1.0, 2.0, 3.0]))
    with drawing(generator(0)):
        w = Relaxed(0.5, hard=True).draw(D.OneHotCategorical(logits=logits), torch.Size())
    (ours,) = torch.autograd.grad(g.surrogate().sum(), logits)
    (direct,) = torch.autograd.grad((w @ T([1.0, 2.0, 3.0])).sum(), logits)
    torch.testing.assert_close(ours, direct)


def test_a_shared_node_serves_every_example():
    """One global draw (), costs (B,): the exact gradient of the mean cost, by enumeration of the bit."""
    weights = T([1.0, 3.0, -2.0])
    total = 0.0
    for bit in (0.0, 1.0):
        logit = T(0.3, grad=True)
        g = Graph()
        z = g.sample("z", D.Bernoulli(logits=logit), At(ScoreFunction(), T(bit)))
        g.cost(weights * z)
        (slope,) = torch.autograd.grad(g.surrogate().mean(), logit)
        total += float(D.Bernoulli(logits=T(0.3)).log_prob(T(bit)).exp() * slope)
    s = 1 / (1 + math.exp(-0.3))
    assert total == pytest.approx(s * (1 - s) * 2 / 3)


def test_leave_one_out_wants_draws_of_the_node_it_serves():
    """One draw for a batch: the baselines of its B values sum to the values, so the gradient would be 0 and is
    refused. One draw shared by the examples along the draws axis is allowed: exact, by enumeration of both bits.
    """
    for logit, shape in ((T(0.3, grad=True), ()), (T([0.3, 0.1, 0.2], grad=True), ())):
        g = Graph()
        z = g.sample("z", D.Bernoulli(logits=logit), ScoreFunction(leave_one_out), shape=shape)
        g.cost(z * T([[1.0, 3.0, -2.0]] * 2)[: 2 - (logit.ndim == 0), ...].squeeze(0))
        with pytest.raises(ValueError, match="axis 0 of the values"):
            g.surrogate()
    s, total = 1 / (1 + math.exp(-0.3)), 0.0
    for bits in itertools.product((0.0, 1.0), repeat=2):
        logit = T(0.3, grad=True)
        g = Graph()
        z = g.sample("z", D.Bernoulli(logits=logit), At(ScoreFunction(leave_one_out), T(bits)[:, None]), shape=(2, 1))
        g.cost(T([1.0, 3.0, -2.0]) * z)
        (slope,) = torch.autograd.grad(g.surrogate().sum(1).mean(), logit)
        total += float(D.Bernoulli(logits=T(0.3)).log_prob(T(bits)).sum().exp() * slope)
    assert total == pytest.approx(s * (1 - s) * 2)


@pytest.mark.parametrize("baseline", [2.5, MovingAverage(), lambda v: T(1.0), lambda v: nn.Parameter(T(1.0))])
def test_a_baseline_that_reads_no_values_serves_a_shared_draw(baseline):
    """One bit for three examples: exact, by enumeration."""
    s, total = 1 / (1 + math.exp(-0.3)), 0.0
    for bit in (0.0, 1.0):
        logit = T(0.3, grad=True)
        g = Graph()
        z = g.sample("z", D.Bernoulli(logits=logit), At(ScoreFunction(baseline), T(bit)))
        g.cost(T([1.0, 3.0, -2.0]) * z)
        (slope,) = torch.autograd.grad(g.surrogate().sum(), logit)
        total += float(D.Bernoulli(logits=T(0.3)).log_prob(T(bit)).exp() * slope)
    assert total == pytest.approx(s * (1 - s) * 2)


@pytest.mark.parametrize(
    "baseline", [leave_one_out, lambda v: v.detach().mean(), torch.median, lambda v: float(v.max())]
)
def test_a_baseline_of_the_values_does_not_serve_a_shared_draw(baseline):
    """Such a baseline is refused even if autograd does not see the dependence: a detached mean, or a number, still
    depends on the values."""
    logit = T(0.3, grad=True)
    z = D.Bernoulli(logits=logit).sample()
    with pytest.raises(ValueError, match="axis 0 of the values"):
        score_surrogate(T([1.0, 3.0, -2.0]) * z, D.Bernoulli(logits=logit).log_prob(z), baseline)


# -- bad input --------------------------------------------------------------------------------------------

NORMAL, BIT = D.Normal(torch.zeros(2), 1.0), D.Bernoulli(logits=torch.zeros(2))


SHARED = (
    "axis 0 of the values, {}, must be draws of the node for a baseline made of the other draws' values, "
    "got draws of shape {}"
)


def graph_with(name, q, **options):
    g = Graph()
    g.sample(name, q, ScoreFunction(), **options)
    return g


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pathwise(NORMAL, torch.square, 0), "samples must be at least 1, got 0"),
        (lambda: score_function(NORMAL, torch.square, -1), "samples must be at least 1, got -1"),
        (
            lambda: pathwise(NORMAL, lambda z: z.sum(-1), 3),
            "f must return one value per draw, shape (3, 2), got (3,)",
        ),
        (
            lambda: pathwise(D.Independent(BIT, 1), lambda z: z.sum(-1)),
            "Bernoulli has no pathwise gradient: use the score function or a relaxation",
        ),
        (
            lambda: relaxed(NORMAL, torch.square, temperature=0.5),
            "a relaxed q must be a OneHotCategorical or a Bernoulli, got Normal",
        ),
        (lambda: relaxed(BIT, torch.square, temperature=0.0), "temperature must be positive, got 0.0"),
        (
            lambda: score_function(NORMAL, torch.square, baseline=leave_one_out),
            "leave-one-out needs at least 2 samples, got 1",
        ),
        (
            lambda: score_function(NORMAL, torch.square, 3, baseline=torch.zeros(2, 1)),
            "the baseline must broadcast to the values, (3, 2), got (2, 1)",
        ),
        (
            lambda: score_surrogate(torch.zeros(2), torch.zeros(3, 2)),
            "log q must broadcast to the values, (2,), got (3, 2)",
        ),
        (
            lambda: baseline_loss(torch.zeros(3), torch.zeros(4, 2)),
            "a learned baseline must have one number per example of values (4, 2), got shape (3,)",
        ),
        (lambda: MovingAverage(1.0), "decay must be in [0, 1), got 1.0"),
        (lambda: subsampled_sum(torch.zeros(3), 2), "the batch must hold between 1 and 2 examples, got 3"),
        (lambda: subsampled_sum(torch.zeros(0), 2), "the batch must hold between 1 and 2 examples, got 0"),
        (
            lambda: graph_with("z", BIT).sample("z", BIT),
            "names of nodes must be unique, got 'z' twice",
        ),
        (
            lambda: graph_with("z", BIT).sample("y", BIT, given=["x"]),
            "node 'y' must depend on earlier nodes, ['z'], got 'x'",
        ),
        (
            lambda: graph_with("z", BIT).cost(torch.zeros(2), given=["x"]),
            "a cost must depend on earlier nodes, ['z'], got 'x'",
        ),
        (
            lambda: graph_with("z", BIT).cost(torch.zeros(())),
            "a cost of shape () cannot depend on node 'z' of shape (2,): there must be one value per example",
        ),
        (
            lambda: graph_with("z", BIT).sample("y", D.Normal(0.0, 1.0)),
            "node 'y' of shape () cannot depend on node 'z' of shape (2,): there must be one value per example",
        ),
        (lambda: graph_with("z", BIT).surrogate(), "a graph must have at least one cost, got none: call cost first"),
        (
            lambda: score_surrogate(torch.zeros(4, 3), torch.zeros(3), leave_one_out),
            SHARED.format("(4, 3)", "(3,)"),
        ),
        (lambda: score_surrogate(torch.zeros(4), torch.zeros(1), leave_one_out), SHARED.format("(4,)", "(1,)")),
        (
            lambda: score_surrogate(torch.zeros(4), torch.zeros(()), lambda v: v.flip(0)),
            SHARED.format("(4,)", "()"),
        ),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message

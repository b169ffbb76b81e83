"""Margin losses and divergences against closed forms, scipy's quadrature, and each other."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import beta, gamma
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform

from jensen.adversarial import (
    MARGIN_LOSSES,
    bayes_risk,
    check_f,
    divergence,
    exponential,
    hinge,
    logistic,
    margin_loss,
    risk,
    squared,
    zero_one,
)

F64 = torch.float64
LOSSES = list(MARGIN_LOSSES.values())
RATIOS = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-8, 8, 161, dtype=F64)])
CHANCE = {"zero-one": 0.5, "squared": 1.0, "logistic": math.log(2), "exponential": 1.0, "hinge": 1.0}

# mean and deviation of p, of q
PAIRS = [
    (0.0, 1.0, 1.0, 1.0),
    (0.0, 1.0, 0.0, 3.0),
    (-1.0, 0.5, 2.0, 2.0),
    (0.0, 1.0, 0.001, 1.0),
    (0.0, 1.0, 30.0, 0.2),
]


def normal(mean, std):
    return Normal(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64))


def mixture(weights, means, stds):
    weights, means, stds = (torch.tensor(v, dtype=F64) for v in (weights, means, stds))
    return MixtureSameFamily(Categorical(weights), Normal(means, stds))


def by_quad(integrand, breaks):
    """scipy's quadrature between breaks, and none of ours."""
    return sum(integrate.quad(integrand, a, b, epsabs=1e-12, limit=200)[0] for a, b in pairwise(breaks))


def closed_forms(m, s, n, t):
    """Of N(m, s^2) and N(n, t^2): what has a closed form by it, the others by scipy's quadrature."""
    p, q = stats.norm(m, s).pdf, stats.norm(n, t).pdf
    scale = sorted({v for c, w in ((m, s), (n, t)) for v in c + w * np.linspace(-12, 12, 49)})

    def half_kl(x):
        a, b = p(x), q(x)
        terms = [v * math.log(2 * v / (a + b)) for v in (a, b) if v > 0]
        return sum(terms) / 2

    # log p = log q is a quadratic with the crossings as its roots
    curve = [1 / t**2 - 1 / s**2, 2 * (m / s**2 - n / t**2), n**2 / t**2 - m**2 / s**2 + 2 * math.log(t / s)]
    roots = np.sort(np.real(np.roots(np.trim_zeros(curve, "f"))))
    gains = np.diff([0, *(stats.norm(m, s).cdf(roots) - stats.norm(n, t).cdf(roots)), 0])
    return {
        "total-variation": float(np.abs(gains).sum() / 2),
        "hellinger": 1 - math.sqrt(2 * s * t / (s**2 + t**2)) * math.exp(-((m - n) ** 2) / (4 * (s**2 + t**2))),
        "le-cam": by_quad(lambda x: (p(x) - q(x)) ** 2 / max(p(x) + q(x), 1e-300), scale),
        "jensen-shannon": by_quad(half_kl, scale),
    }


def risks_of(d):
    """The Bayes risk of each loss, by the divergences."""
    return {
        "zero-one": (1 - d["total-variation"]) / 2,
        "squared": 1 - d["le-cam"] / 2,
        "logistic": math.log(2) - d["jensen-shannon"],
        "exponential": 1 - d["hellinger"],
        "hinge": 1 - d["total-variation"],
    }


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_f_is_the_infimum_and_the_critic_attains_it(loss):
    u = torch.tensor([0.0, 0.01, 0.3, 1.0, 2.5, 40.0], dtype=F64)
    d = torch.linspace(-30, 30, 600_001, dtype=F64)
    lowest = (u[:, None] * loss(d) + loss(-d)).min(1).values
    torch.testing.assert_close(-loss.f(u), lowest, atol=1e-8, rtol=1e-8)
    best = loss.optimal(u[1:])
    torch.testing.assert_close(u[1:] * loss(best) + loss(-best), lowest[1:], atol=1e-8, rtol=1e-8)


def test_the_values_at_a_few_margins_and_the_tie():
    m = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    expected = {
        "zero-one": [1, 1, 0, 0],
        "squared": [4, 1, 0.25, 1],
        "logistic": [1.313262, 0.693147, 0.474077, 0.126928],
        "exponential": [math.e, 1, 0.606531, 0.135335],
        "hinge": [2, 1, 0.5, 0],
    }
    for loss in LOSSES:
        torch.testing.assert_close(loss(m), torch.tensor(expected[loss.name], dtype=torch.float32), atol=1e-6, rtol=0)
    assert zero_one.optimal(torch.tensor([0.99, 1.0])).tolist() == [-1.0, 1.0]
    assert [loss.name for loss in LOSSES if not loss.trainable] == ["zero-one"]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_a_numerical_f_is_the_closed_one(loss):
    found = margin_loss(loss.loss)
    torch.testing.assert_close(found.f(RATIOS), loss.f(RATIOS), atol=1e-13, rtol=1e-13)
    assert found.trainable == loss.trainable
    d = found.optimal(RATIOS[1:])
    if loss in (squared, logistic, exponential):
        torch.testing.assert_close(d, loss.optimal(RATIOS[1:]), atol=1e-6, rtol=0)
    else:  # where u = 1 any critic in [-1, 1] will do for hinge
        apart = RATIOS[1:] != 1
        assert bool(((d > 0) == (RATIOS[1:] >= 1))[apart | (loss is zero_one)].all())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_f_is_convex_falls_and_is_its_own_mirror(loss):
    check_f(loss.f)
    torch.testing.assert_close(loss.f(RATIOS[1:]), RATIOS[1:] * loss.f(1 / RATIOS[1:]))
    log_ratio = RATIOS[1:].log()
    torch.testing.assert_close(loss.conditional_risk(log_ratio), -loss.f(RATIOS[1:]) / (1 + RATIOS[1:]))


def test_the_slope_of_a_numerical_f_is_the_loss_at_the_critic():
    u = torch.tensor([0.2, 1.0, 5.0], dtype=F64, requires_grad=True)
    found, exact = (torch.autograd.grad(loss.f(u).sum(), u)[0] for loss in (margin_loss(logistic.loss), logistic))
    torch.testing.assert_close(found, exact, atol=1e-7, rtol=0)
    torch.testing.assert_close(found, -torch.log1p(1 / u.detach()), atol=1e-7, rtol=0)


def dented(m):
    """A hinge with a dent at -3 that a descent from 0 never finds, deep enough to pay."""
    return torch.relu(torch.relu(1 - m) - 3.9 * torch.exp(-20 * (m + 3) ** 2))


def test_the_minimum_is_global():
    """Against brute force, for losses that are not convex."""
    d = torch.linspace(-12, 12, 600_001, dtype=F64)
    u = torch.tensor([0.01, 0.3, 0.9, 1.0, 1.7], dtype=F64)
    for loss in (dented, lambda m: torch.sigmoid(-m), lambda m: 1 + torch.sin(3 * m) * torch.exp(-(m**2) / 8)):
        lowest = torch.stack([(v * loss(d) + loss(-d)).min() for v in u])
        torch.testing.assert_close(-margin_loss(loss).f(u), lowest, atol=2e-5, rtol=0)
    local = margin_loss(hinge.loss).f(u)  # what descending from 0 would say of the dented one
    assert float((margin_loss(dented).f(u) - local).max()) > 0.05


def test_what_is_no_margin_loss_is_refused():
    with pytest.raises(ValueError, match=r"at least 0, got -0.5 at margin 2.4"):
        margin_loss(lambda m: torch.exp(-m) - 0.5)
    with pytest.raises(ValueError, match="at least 0, got nan"):
        margin_loss(lambda m: m * math.nan)
    with pytest.raises(ValueError, match="keep the shape"):
        margin_loss(lambda m: m.square().sum())
    with pytest.raises(ValueError, match=r"never increase, but f\(1.023\)"):
        check_f(lambda u: (u - 1) ** 2)
    with pytest.raises(ValueError, match=r"convex, but f\(.*\) lies"):
        check_f(lambda u: -(u**1.5))
    with pytest.raises(ValueError, match="convex"):  # a local minimisation: one basin of two
        check_f(lambda u: torch.where(u < 2, -u.clamp(max=1), -0.9 - 0.1 * u))
    with pytest.raises(ValueError, match="ratio must be at least 0, got -1"):
        logistic.f(torch.tensor([2.0, -1.0]))
    with pytest.raises(ValueError, match="ratio must be at least 0"):
        hinge.optimal(torch.tensor([math.nan]))


@pytest.mark.parametrize(
    "loss",
    [lambda m: (m <= 0).float(), lambda m: (m <= 0) * 1.0, lambda m: m <= 0, lambda m: (m <= 0).long()],
    ids=["float", "times 1", "bool", "long"],
)
def test_a_loss_of_any_dtype(loss):
    found = margin_loss(loss)
    torch.testing.assert_close(found.f(RATIOS), zero_one.f(RATIOS), atol=1e-13, rtol=0)
    assert found(torch.tensor([-1.0, 1.0], dtype=F64)).dtype == F64
    assert not found.trainable


def test_a_loss_in_single_precision_keeps_its_graph():
    found = margin_loss(lambda m: torch.exp(-m.float()))
    torch.testing.assert_close(found.f(RATIOS), exponential.f(RATIOS), atol=0, rtol=1e-6)
    assert found.trainable
    assert margin_loss(lambda m: torch.ones(m.shape)).f(RATIOS).tolist() == (-1 - RATIOS).tolist()


def test_of_several_minimisers_the_nearest_to_0_then_the_positive():
    def best(loss, *u):
        return margin_loss(loss).optimal(torch.tensor(u, dtype=F64)).tolist()

    def half(m):
        return torch.where(m == 0, 0.5, (m < 0).to(m))

    for loss in (lambda m: ((1 - m) / 2).clamp(0, 1), lambda m: torch.sigmoid(-m), half, hinge.loss):
        assert best(loss, 1.0) == [0]
    assert best(lambda m: 1 + torch.sin(m), 0.5, 1.0, 2.0) == pytest.approx([math.pi / 2, 0, -math.pi / 2], abs=1e-6)
    assert best(lambda m: (m.abs() - 1).square(), 0.3, 1.0, 7.0) == pytest.approx([1, 1, 1], abs=1e-6)  # not -1
    assert best(hinge.loss, 0.0, 0.5, 2.0) == pytest.approx([-1, -1, 1], abs=0.03)
    far = best(logistic.loss, 0.0, math.inf)  # an infimum at infinity
    assert -math.inf < far[0] < -20
    assert 20 < far[1] < math.inf


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_closed_forms_at_both_ends(dtype):
    """Values at 0 and infinity, and the slopes there (that of logistic and exponential at 0 is infinite)."""
    ends = {
        "zero-one": ([0, -1], [-1, 0], [-1, 1]),
        "squared": ([0, -4], [-4, 0], [-1, 1]),
        "logistic": ([0, -math.inf], [None, 0], [-math.inf, math.inf]),
        "exponential": ([0, -math.inf], [None, 0], [-math.inf, math.inf]),
        "hinge": ([0, -2], [-2, 0], [-1, 1]),
    }
    for loss in LOSSES:
        values, slopes, critics = ends[loss.name]
        u = torch.tensor([0.0, math.inf], dtype=dtype, requires_grad=True)
        f = loss.f(u)
        assert f.tolist() == values, loss.name
        found = torch.autograd.grad(f.sum(), u)[0].tolist()
        assert all(a == b for a, b in zip(found, slopes, strict=True) if b is not None), loss.name
        assert loss.optimal(u).tolist() == critics, loss.name
    assert margin_loss(zero_one.loss).f(u).tolist() == [0, -1]


def test_ratios_may_be_numbers_and_whole():
    for loss in (*LOSSES, margin_loss(logistic.loss)):
        for of in (loss.f, loss.optimal):
            expected = of(torch.tensor([1.0, 2.0]))
            assert of(torch.tensor([1, 2])).tolist() == expected.tolist()
            assert [of(1).item(), of(2.0).item()] == expected.tolist()
    with pytest.raises(ValueError, match="ratio must be at least 0, got -1"):
        squared.f(-1)


WRONG = """
from torch.distributions import Normal
from jensen.adversarial import bayes_risk, divergence, margin_loss, risk

p = Normal(0.0, 1.0)
for call in (
    lambda: margin_loss("hinge"),
    lambda: margin_loss(lambda m: 1.0),
    lambda: bayes_risk(lambda m: m.exp(), p, p),
    lambda: risk(lambda m: m.exp(), lambda x: x, p, p),
    lambda: divergence(lambda m: m.exp(), p, p),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_wrong_types_are_refused_in_a_sentence():
    """In a process of its own, where signatures are not checked."""
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, timeout=300, check=True)
    wrap = "must be a name or a margin loss, got a function: wrap it with margin_loss"
    assert done.stdout.splitlines() == [
        "a margin loss must be a function from margins to a tensor of their shape, got 'hinge'",
        "a margin loss must give a tensor and keep the shape of its margins, (2001,), got float",
        f"loss {wrap}",
        f"loss {wrap}",
        f"divergence {wrap}",
    ]


# -- divergences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_gaussians(pair):
    p, q, exact = normal(*pair[:2]), normal(*pair[2:]), closed_forms(*pair)
    for name, value in exact.items():
        found = divergence(name, p, q)
        assert found.value == pytest.approx(value, abs=1e-9), name
        assert found.stderr < 1e-9
        assert divergence(name, q, p).value == pytest.approx(value, abs=1e-9)
    for name, value in risks_of(exact).items():
        assert bayes_risk(MARGIN_LOSSES[name], p, q).value == pytest.approx(value, abs=1e-9), name


def test_gaussians_in_single_precision():
    for m, s, n, t in PAIRS:
        for name, value in closed_forms(m, s, n, t).items():
            assert float(divergence(name, Normal(m, s), Normal(n, t))) == pytest.approx(value, abs=1e-6)


def test_a_loss_of_ones_own_between_gaussians():
    """The five through their numerical f, and the sigmoid loss, whose infimum is that of zero-one."""
    p, q = normal(0.0, 1.0), normal(1.0, 2.0)
    for loss in (logistic, zero_one):
        assert bayes_risk(margin_loss(loss.loss), p, q).value == pytest.approx(bayes_risk(loss, p, q).value, abs=1e-9)
    sigmoid = margin_loss(lambda m: torch.sigmoid(-m))
    assert 2 * divergence(sigmoid, p, q).value == pytest.approx(divergence("total-variation", p, q).value, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_offsets(loss):
    """Equal distributions are told apart no better than by chance, disjoint ones always."""
    assert loss.chance == pytest.approx(CHANCE[loss.name], abs=1e-15)
    p = mixture([0.3, 0.7], [-1.0, 2.0], [0.5, 1.0])
    assert bayes_risk(loss, p, p).value == pytest.approx(CHANCE[loss.name], abs=1e-9)
    assert divergence(loss, p, p).value == pytest.approx(0, abs=1e-9)
    apart = Uniform(0.0, 1.0), Uniform(3.0, 4.0)
    assert bayes_risk(loss, *apart).value == pytest.approx(0, abs=1e-9)


def test_jumps_kinks_poles_and_far_peaks():
    assert float(divergence("total-variation", Uniform(0.0, 1.0), Uniform(0.25, 4.25))) == pytest.approx(1 - 0.75 / 4)
    p, q = stats.laplace(0, 1).pdf, stats.laplace(1, 0.5).pdf
    exact = 1 - by_quad(lambda x: math.sqrt(p(x) * q(x)), [-40, 0, 1, 40])
    assert float(divergence("hellinger", Laplace(0.0, 1.0), Laplace(1.0, 0.5))) == pytest.approx(exact, abs=1e-7)
    a, b = 0.5, 1.5
    affinity = gamma((a + b) / 2) / math.sqrt(gamma(a) * gamma(b))
    assert float(divergence("hellinger", Gamma(a, 1.0), Gamma(b, 1.0))) == pytest.approx(1 - affinity, abs=1e-6)
    affinity = beta(1.25, 0.5) / math.sqrt(beta(0.5, 0.5) * beta(2.0, 0.5))
    assert float(divergence("hellinger", Beta(0.5, 0.5), Beta(2.0, 0.5))) == pytest.approx(1 - affinity, abs=1e-6)
    far = mixture([0.98, 0.02], [0.0, 500.0], [1.0, 1e-4])
    exact = 1 - math.sqrt(0.98)
    assert float(divergence("hellinger", far, normal(0.0, 1.0))) == pytest.approx(exact, abs=1e-9)


def test_discrete_is_a_sum_and_one_event_axis_changes_nothing():
    p, q = torch.tensor([0.1, 0.6, 0.3], dtype=F64), torch.tensor([0.5, 0.5, 0.0], dtype=F64)
    expected = {
        "total-variation": (p - q).abs().sum() / 2,
        "hellinger": 1 - (p * q).sqrt().sum(),
        "le-cam": ((p - q) ** 2 / (p + q)).sum(),
        "jensen-shannon": sum(torch.xlogy(v, 2 * v / (p + q)).sum() / 2 for v in (p, q)),
    }
    for name, value in expected.items():
        assert divergence(name, Categorical(p), Categorical(q)).value == pytest.approx(float(value), abs=1e-12)
    for a, b in ((0.0, 0.3), (1.0, 1.0)):
        exact = 1 - math.sqrt(a * b) - math.sqrt((1 - a) * (1 - b))
        assert float(divergence("hellinger", Bernoulli(a), Bernoulli(b))) == pytest.approx(exact, abs=1e-7)
    wrapped = MultivariateNormal(torch.zeros(1), torch.eye(1)), Independent(Normal(torch.ones(1), torch.ones(1)), 1)
    assert float(divergence("hellinger", *wrapped)) == pytest.approx(1 - math.exp(-1 / 8), abs=1e-6)


def test_monte_carlo_and_its_error():
    """Gaussians in 3-D, 60 runs of 2,000 samples: the errors have the mean 0 and the variance 1 of standard scores,
    within 4 standard errors of each."""
    p, q = (Independent(Normal(torch.full((3,), m, dtype=F64), 1.0), 1) for m in (0.0, 0.8))
    along = math.sqrt(3) * 0.8  # only the way from one mean to the other matters
    exact = closed_forms(0.0, 1.0, along, 1.0)
    for name in ("total-variation", "jensen-shannon"):
        runs = [divergence(name, p, q, samples=2000, generator=torch.Generator().manual_seed(k)) for k in range(60)]
        z = torch.tensor([(r.value - exact[name]) / r.stderr for r in runs])
        assert abs(float(z.mean())) < 4 / math.sqrt(60)
        assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / 59)
    poisson = divergence("hellinger", Poisson(2.0), Poisson(3.0), generator=torch.Generator().manual_seed(0))
    exact_poisson = 1 - math.exp(-((math.sqrt(2) - math.sqrt(3)) ** 2) / 2)
    assert poisson.value == pytest.approx(exact_poisson, abs=4 * poisson.stderr)
    assert divergence("le-cam", p, p).value == 0


def test_a_transformed_distribution_of_several_dimensions():
    """Against the same Gaussian without a transform; the caller's generator only gives the draws."""
    one = MultivariateNormal(torch.zeros(2), torch.eye(2))
    moved = TransformedDistribution(one, [AffineTransform(torch.ones(2), 2 * torch.ones(2))])
    plain = MultivariateNormal(torch.ones(2), 4 * torch.eye(2))
    state = torch.get_rng_state()
    found, exact = (
        divergence("jensen-shannon", p, one, samples=2000, generator=torch.Generator().manual_seed(0))
        for p in (moved, plain)
    )
    assert found.value == pytest.approx(exact.value, abs=1e-6)
    assert torch.equal(state, torch.get_rng_state())
    line = MultivariateNormal(torch.zeros(1), torch.eye(1))
    shifted = TransformedDistribution(line, [AffineTransform(torch.ones(1), torch.ones(1))])
    assert float(divergence("hellinger", shifted, line)) == pytest.approx(1 - math.exp(-1 / 8), abs=1e-6)


def test_a_loss_by_its_name():
    p, q = normal(0.0, 1.0), normal(1.0, 2.0)
    for name, loss in MARGIN_LOSSES.items():
        assert bayes_risk(name, p, q) == bayes_risk(loss, p, q)
    assert risk("squared", torch.tanh, p, q) == risk(squared, torch.tanh, p, q)
    with pytest.raises(ValueError, match=r"loss must be one of exponential, .*, got 'le-cam'"):
        bayes_risk("le-cam", p, q)


# -- critics of limited and unlimited capacity ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_the_optimal_critic_risks_the_bayes_risk(loss):
    p, q = mixture([0.4, 0.6], [-1.0, 1.5], [0.6, 0.8]), normal(0.3, 1.2)
    least = bayes_risk(loss, p, q).value

    def best(x):
        return loss.optimal((p.log_prob(x) - q.log_prob(x)).exp())

    assert risk(loss, best, p, q).value == pytest.approx(least, abs=1e-9)
    worse = risk(loss, lambda x: best(x) + 2 * torch.sin(3 * x), p, q).value
    assert worse > least + 1e-3


def test_a_linear_critic_risks_more():
    """Only over all functions may the infimum enter the integral.

    One bump between two: by symmetry and convexity the best line is 0, at chance, although the best function gains.
    Two mixtures without symmetry: the best line, found by scipy, gains something but less."""
    two, one = mixture([0.5, 0.5], [-2.0, 2.0], [1.0, 1.0]), normal(0.0, 1.0)
    skew = mixture([0.2, 0.8], [-2.0, 2.0], [0.7, 0.7])
    other = mixture([0.9, 0.1], [0.0, 4.0], [0.7, 0.7])
    for loss, gap in ((logistic, 0.25), (exponential, 0.25), (squared, 0.5)):

        def best_line(p, q, loss=loss):
            def at(w):
                return risk(loss, lambda x: w[0] + w[1] * x, p, q).value

            return optimize.minimize(at, [0.1, -0.2], method="BFGS")

        symmetric, line = best_line(two, one), best_line(skew, other)
        assert symmetric.fun == pytest.approx(loss.chance, abs=1e-6)
        assert symmetric.x == pytest.approx([0, 0], abs=1e-3)
        assert bayes_risk(loss, two, one).value < loss.chance - 0.1
        assert bayes_risk(loss, skew, other).value + gap * loss.chance < line.fun < loss.chance - 0.01
    # squared has normal equations: the risk of the best line is 1 - b^2 / (1 + b^2) with b^2 = (difference / 2)^2 / var
    p, q = normal(1.0, 1.0), normal(-1.0, 2.0)
    share = 1 / (1 + (1 + 4) / 2)
    line = optimize.minimize(lambda w: risk(squared, lambda x: w[0] + w[1] * x, p, q).value, [0.0, 0.5]).fun
    assert line == pytest.approx(1 - share, abs=1e-6)
    assert bayes_risk(squared, p, q).value < line - 0.05


def test_a_quadratic_critic_is_enough_for_gaussians():
    p, q = normal(0.0, 1.0), normal(0.5, 2.0)

    def log_ratio(x):
        return math.log(2) - x**2 / 2 + (x - 0.5) ** 2 / 8

    for loss, share in ((logistic, 1.0), (exponential, 0.5)):
        assert risk(loss, lambda x, s=share: s * log_ratio(x), p, q).value == pytest.approx(
            bayes_risk(loss, p, q).value, abs=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_critic_gets_the_dtype_of_the_distributions(dtype):
    """By quadrature in one dimension and by Monte Carlo in two, where only the first coordinate counts."""
    seen, found = set(), []
    for n in (1, 2):
        net = nn.Sequential(nn.Linear(n, 1), nn.Flatten(0)).to(dtype)
        net.load_state_dict({"0.weight": torch.tensor([[-1.0, 0.0][:n]]), "0.bias": torch.tensor([0.5])})
        net.register_forward_pre_hook(lambda _, x: seen.add(x[0].dtype))
        p, q = (MultivariateNormal(torch.full((n,), m, dtype=dtype), torch.eye(n, dtype=dtype)) for m in (0.0, 1.0))
        found.append(risk(logistic, net, p, q))
    line = risk(logistic, lambda x: 0.5 - x, normal(0.0, 1.0), normal(1.0, 1.0)).value
    assert seen == {dtype}
    assert found[0].value == pytest.approx(line, abs=1e-6)
    assert found[1].value == pytest.approx(line, abs=4 * found[1].stderr)


# -- packing: a critic of m at a time measures p^m against q^m --------------------------------------------------------


def power(probs, m):
    """The law of m independent draws, as one Categorical over the n^m tuples."""
    return Categorical(torch.stack([torch.stack(t).prod() for t in product(probs, repeat=m)]))


def test_packing_measures_product_distributions():
    """Hellinger's affinities multiply; total variation of disjoint parts is 1 - (1 - TV)^m; all grow with m."""
    p, q = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.4, 0.35, 0.25], dtype=F64)
    one = divergence("hellinger", Categorical(p), Categorical(q)).value
    for m in (1, 2, 3, 5):
        packed = divergence("hellinger", power(p, m), power(q, m)).value
        assert packed == pytest.approx(1 - (1 - one) ** m, abs=1e-12)
    for name in ("total-variation", "le-cam", "jensen-shannon"):
        grown = [divergence(name, power(p, m), power(q, m)).value for m in (1, 2, 3, 4)]
        assert all(a < b for a, b in pairwise(grown))
        bound = 2 * divergence("hellinger", power(p, 4), power(q, 4)).value
        assert grown[-1] <= math.sqrt(2 * bound)


def test_packing_tells_a_lost_mode_from_a_spread_out_error():
    """Equal at m = 1, where the critic sees one at a time; PacGAN's example, exactly.

    A generator that misses a fifth of the data: 1 - 0.8^m. One that is off by 40 percent, up and down: less."""
    data = torch.full((10,), 0.1, dtype=F64)
    lost = torch.tensor([0.125] * 8 + [0.0] * 2, dtype=F64)
    uneven = torch.tensor([0.14, 0.06] * 5, dtype=F64)
    for m in (1, 2, 3):
        found = [divergence("total-variation", power(data, m), power(q, m)).value for q in (lost, uneven)]
        assert found[0] == pytest.approx(1 - 0.8**m, abs=1e-12)
        assert found[1] == pytest.approx(0.2, abs=1e-12) if m == 1 else found[1] < found[0] - 0.1


def test_what_cannot_be_compared_is_refused():
    one, two = normal(0.0, 1.0), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ValueError, match=r"q must be one distribution, got a batch \(2,\)"):
        divergence("hellinger", one, Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"equal events, got \(\) and \(2,\)"):
        bayes_risk(logistic, one, two)
    with pytest.raises(ValueError, match=r"divergence must be one of .*, got 'kullback'"):
        divergence("kullback", one, one)
    with pytest.raises(ValueError, match="both be discrete"):
        divergence("hellinger", one, Poisson(1.0))
    with pytest.raises(ValueError, match="over the same values, got 2 and 3"):
        divergence("hellinger", Categorical(torch.ones(2)), Categorical(torch.ones(3)))
    with pytest.raises(ValueError, match="samples must be at least 4, got 3"):
        divergence("hellinger", two, two, samples=3)
    with pytest.raises(ValueError, match=r"one number an example, \(.*,\), got"):
        risk(logistic, lambda x: x.sum(), one, one)
    with pytest.raises(ValueError, match="did not settle"):  # an infinite risk
        risk(exponential, lambda x: -(x**2), one, one)
    with pytest.raises(ValueError, match=r"p integrates to 0\.\d+ by quadrature"):  # half of its mass is below 1e-30
        divergence("hellinger", Gamma(0.01, 1.0), one)

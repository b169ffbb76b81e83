"""Divergences between distributions against closed forms, SciPy's quadrature and sums; critics of limited capacity."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.spatial.distance import jensenshannon
from scipy.special import beta, gamma
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
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
    constraints,
)
from torch.distributions.transforms import AffineTransform

from jensen.adversarial import (
    MARGIN_LOSSES,
    Estimate,
    bayes_risk,
    critic_divergence,
    divergence,
    exponential,
    logistic,
    margin_loss,
    risk,
    squared,
    zero_one,
)

F64 = torch.float64
LOSSES = list(MARGIN_LOSSES.values())
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
    """SciPy's quadrature between breakpoints, independent of jensen."""
    return sum(integrate.quad(integrand, a, b, epsabs=1e-12, limit=200)[0] for a, b in pairwise(breaks))


def closed_forms(m, s, n, t):
    """Divergences of N(m, s^2) and N(n, t^2): by closed form where there is one, otherwise by SciPy's quadrature."""
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
    """The Bayes risk of each loss in terms of the divergences."""
    return {
        "zero-one": (1 - d["total-variation"]) / 2,
        "squared": 1 - d["le-cam"] / 2,
        "logistic": math.log(2) - d["jensen-shannon"],
        "exponential": 1 - d["hellinger"],
        "hinge": 1 - d["total-variation"],
    }


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
    """Built-in losses through their numerical f, and the sigmoid loss, whose infimum is that of zero-one."""
    p, q = normal(0.0, 1.0), normal(1.0, 2.0)
    for loss in (logistic, zero_one):
        assert bayes_risk(margin_loss(loss.loss), p, q).value == pytest.approx(bayes_risk(loss, p, q).value, abs=1e-9)
    sigmoid = margin_loss(lambda m: torch.sigmoid(-m))
    assert 2 * divergence(sigmoid, p, q).value == pytest.approx(divergence("total-variation", p, q).value, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_offsets(loss):
    """Equal distributions can only be told apart by chance, disjoint ones always."""
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


def test_discrete_laws_on_different_values_are_summed_over_the_union():
    """(1, 1)/2 on {0, 1} against (1, 2, 1)/4 on {0, 1, 2}: TV 1/4, H^2 1/2 - 8^(-1/2); three types of distribution,
    in both orders.
    """
    half = torch.tensor([0.5, 0.5], dtype=F64)
    pairs = [
        (Categorical(half), Categorical(torch.tensor([0.25, 0.5, 0.25], dtype=F64))),
        (Bernoulli(half[0]), Binomial(2, half[0])),
        (Categorical(half), Binomial(2, half[0])),
    ]
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    for pair, name in product([*pairs, *(v[::-1] for v in pairs)], ("total-variation", "hellinger", "jensen-shannon")):
        exact = {
            "total-variation": 0.25,
            "hellinger": 0.5 - 0.125**0.5,
            "jensen-shannon": jensenshannon(p, q) ** 2,
        }[name]
        assert float(divergence(name, *pair)) == pytest.approx(exact, abs=1e-12)
    apart = [Binomial(1, torch.zeros((), dtype=F64)), Binomial(3, torch.ones((), dtype=F64))]
    assert float(divergence("jensen-shannon", *apart)) == pytest.approx(math.log(2), abs=1e-12)
    critic = lambda x: torch.where(x == 2, -1.0, 0.0)  # noqa: E731 (sure of what real ones never are)
    assert float(risk("hinge", critic, *pairs[0])) == pytest.approx((1 + 0.75) / 2, abs=1e-12)


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
    """Gaussians in 3-D, 60 runs of 2,000 samples: errors divided by their standard errors have mean 0 and variance
    1, within 4 standard errors of each.
    """
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
    """Against the same Gaussian without a transform; only the draws use the caller's generator."""
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


def test_a_mixture_of_different_supports():
    """Two overlapping boxes and two disjoint ones, against sums by hand; for torch the support of the mixture is
    that of its components.
    """

    def boxes(low, event):
        low = torch.tensor(low, dtype=F64)
        parts = Uniform(low, low + 1)
        return MixtureSameFamily(Categorical(torch.ones(2, dtype=F64)), Independent(parts, 1) if event else parts)

    def root(a, b):
        """The integral of the square root of a standard normal density from a to b."""
        share = stats.norm.cdf(b, scale=math.sqrt(2)) - stats.norm.cdf(a, scale=math.sqrt(2))
        return math.sqrt(2) * (2 * math.pi) ** 0.25 * share

    for second in (0.5, 5.0):
        line, ends = boxes([0.0, second], event=False), sorted({0.0, 1.0, second, second + 1})

        def gain(x, s=second):
            return max(((0 < x < 1) + (s < x < s + 1)) / 2 - stats.norm.pdf(x), 0)

        gains = by_quad(gain, ends)
        assert divergence("total-variation", line, normal(0.0, 1.0)).value == pytest.approx(gains, abs=1e-9)
        plane = boxes([[0.0, 0.0], [second, second]], event=True)
        two = Independent(Normal(torch.zeros(2, dtype=F64), 1.0), 1)
        found = divergence("hellinger", plane, two, generator=torch.Generator().manual_seed(0))
        one, other = root(0, 1) ** 2, root(second, second + 1) ** 2
        shared = root(second, 1) ** 2 if second < 1 else 0.0
        affinity = math.sqrt(0.5) * (one + other - 2 * shared) + shared
        assert found.value == pytest.approx(1 - affinity, abs=4 * found.stderr)
        assert divergence("jensen-shannon", plane, plane) == Estimate(0.0, 0.0)


def test_a_narrow_peak_of_a_mixture_has_marks_of_its_own():
    thin = mixture([0.995, 0.005], [0.0, 500.0], [1.0, 1e-4])
    exact = 1 - math.sqrt(0.995)
    assert divergence("hellinger", thin, normal(0.0, 1.0)).value == pytest.approx(exact, abs=1e-9)


class Misplaced(Normal):
    """States a support above 10, where it has no mass."""

    support = constraints.greater_than(10.0)


def test_a_density_that_does_not_belong_to_its_draws_is_refused():
    wrong = Independent(Misplaced(torch.zeros(2), torch.ones(2), validate_args=False), 1, validate_args=False)
    right = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    for p, q, name in ((wrong, right, "p"), (right, wrong, "q")):
        with pytest.raises(ValueError, match=f"{name} draws where its density is 0"):
            divergence("hellinger", p, q)


@pytest.mark.parametrize("name", ["total-variation", "le-cam", "jensen-shannon", "hellinger"])
def test_a_critic_that_is_0_guesses(name):
    """It measures a divergence of 0; if only signs count, an output of 0 is half an error."""
    assert critic_divergence(name, torch.zeros(7), torch.zeros(5)) == Estimate(0.0, 0.0)
    half = critic_divergence("total-variation", torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0]))
    assert half.value == 0.5


def test_a_critic_that_gives_no_number_is_refused():
    """Zero-one would count nan as a correct decision."""
    x = torch.tensor([1.0, math.nan])
    with pytest.raises(ValueError, match="values must be numbers, got nan in 1 of 2"):
        critic_divergence("total-variation", x, torch.zeros(2))
    with pytest.raises(ValueError, match="values must be numbers, got nan"):
        risk("zero-one", lambda x: x * math.nan, normal(0.0, 1.0), normal(1.0, 1.0))
    assert zero_one(x).isnan().tolist() == [False, True]


def test_parameters_that_are_trained_change_nothing():
    mean = torch.zeros((), dtype=F64, requires_grad=True)
    found = divergence("hellinger", Normal(mean, torch.ones((), dtype=F64)), normal(2.0, 1.0))
    assert found.value == pytest.approx(1 - math.exp(-0.5), abs=1e-9)


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
    """The infimum can be taken inside the integral only over all functions. One bump between two: by symmetry and
    convexity the best linear critic is 0, at chance, although the best function gains. Two mixtures without
    symmetry: the best linear critic, found by SciPy, gains less than the best function.
    """
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


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_critic_gets_the_dtype_of_the_distributions(dtype):
    """By quadrature in one dimension and by Monte Carlo in two, where only the first coordinate matters."""
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


def test_what_cannot_be_compared_is_refused():
    one, two = normal(0.0, 1.0), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ValueError, match=r"q must be one distribution, got batch \(2,\)"):
        divergence("hellinger", one, Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"equal event shapes, got \(\) and \(2,\)"):
        bayes_risk(logistic, one, two)
    with pytest.raises(ValueError, match=r"divergence must be one of .*, got 'kullback'"):
        divergence("kullback", one, one)
    with pytest.raises(ValueError, match="both be discrete"):
        divergence("hellinger", one, Poisson(1.0))
    with pytest.raises(ValueError, match="samples must be a whole number of at least 4, got 3"):
        divergence("hellinger", two, two, samples=3)
    with pytest.raises(ValueError, match=r"one number per example, \(.*,\), got"):
        risk(logistic, lambda x: x.sum(), one, one)
    with pytest.raises(ValueError, match="did not converge"):  # an infinite risk
        risk(exponential, lambda x: -(x**2), one, one)
    with pytest.raises(ValueError, match=r"p integrates to 0\.\d+ by quadrature"):  # half of its mass is below 1e-30
        divergence("hellinger", Gamma(0.01, 1.0), one)

"""`check.gradient` and `check.bound` pass correct implementations and catch wrong ones."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import distributions as D
from torch import nn

from jensen import check
from jensen.core.seeding import generator
from jensen.distributions import Conditional, DiagonalGaussian, Erlang, GaussianPrior, Gompertz, IsotropicGaussian
from jensen.estimators import leave_one_out, pathwise, relaxed, score_function
from jensen.models import VAE
from jensen.variational import LinearGaussian, beta, dreg, elbo, free_bits, iwae, scored, sticking_the_landing

F64 = torch.float64


def T(value):  # noqa: N802
    return torch.tensor(value, dtype=F64, requires_grad=True)


def normal():
    return D.Normal(T(0.8), T(1.3))


def failed(report):
    return [e.claim for e in report.failed]


# -- check.gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [pathwise, score_function, partial(score_function, samples=3, baseline=leave_one_out)],
    ids=["pathwise", "score", "leave-one-out"],
)
def test_right_gradients_pass(estimator):
    """Against quadrature and the closed form; the variance is within 40% of its closed form, n = 300."""
    for exact in (None, [torch.tensor(1.6, dtype=F64), torch.tensor(2.6, dtype=F64)]):
        mean, std = T(0.8), T(1.3)
        report = check.gradient(
            estimator,
            D.Normal(mean, std),
            torch.square,
            exact,
            parameters=[mean, std],
            repeats=300,
            generator=generator(0),
        )
        report.require()
        assert [e.expected for e in report.evidence] == pytest.approx([1.6, 2.6, 0.0], abs=1e-6)
    if estimator is pathwise:  # the variances of 2z and 2z eps
        assert report.evidence[-1].measured == pytest.approx(4 * 1.69 + 4 * 0.64 + 8 * 1.69, rel=0.4)


def wrong_sign(q, f):
    z = q.sample((4,))
    return -(f(z) * q.log_prob(z)).mean(0)


def factor_two(q, f):
    return 2 * pathwise(q, f, 4)


def detached(q, f):
    return f(q.mean + q.stddev.detach() * torch.randn(4, *q.batch_shape, dtype=F64)).mean(0)


def biased_baseline(q, f):
    z = q.sample((2,))
    v = f(z)
    return ((v - v.mean(0)) * q.log_prob(z)).mean(0)


def wrong_axis(q, f):
    z = q.sample((2,))
    return (f(z) * q.log_prob(z)).mean(-1)


def no_gradient(q, f):
    return f(q.sample((4,))).mean(0)


def score_of_a_path(q, f):
    """Both the pathwise and the score-function term: twice the gradient."""
    z = q.rsample((4,))
    return (f(z) + f(z).detach() * q.log_prob(z.detach())).mean(0)


@pytest.mark.parametrize(
    "estimator", [wrong_sign, factor_two, detached, biased_baseline, wrong_axis, no_gradient, score_of_a_path]
)
def test_wrong_gradients_are_caught(estimator):
    mean, std = T([0.8, -1.0, 2.0]), T([1.3, 0.5, 1.0])
    q = D.Normal(mean, std)
    exact = [2 * mean.detach(), 2 * std.detach()]
    check.gradient(
        pathwise, q, torch.square, exact, parameters=[mean, std], repeats=300, generator=generator(0)
    ).require()
    report = check.gradient(
        estimator, q, torch.square, exact, parameters=[mean, std], repeats=800, generator=generator(0)
    )
    assert not report.holds
    assert not check.gradient(estimator, q, torch.square, repeats=500, generator=generator(0)).holds


def test_a_draw_that_does_not_move_as_its_law_does():
    """An exponential draw as lambda eps instead of eps / lambda; uniform draws, whose support depends on the
    parameters, need an exact reference.
    """
    rate = T(2.0)
    q = D.Exponential(rate)

    def upside_down(q, f):
        return f(rate * -torch.rand(4, dtype=F64).log()).mean(0)

    check.gradient(pathwise, q, lambda z: z, generator=generator(0), repeats=300).require()
    assert not check.gradient(upside_down, q, lambda z: z, generator=generator(0), repeats=300).holds
    low, high = T(0.5), T(2.0)
    slope = torch.tensor(0.5, dtype=F64)
    uniform = D.Uniform(low, high)
    check.gradient(pathwise, uniform, lambda z: z, [slope, slope], parameters=[low, high], repeats=500).require()
    with pytest.raises(ValueError, match="the support of Uniform moves with its parameters"):
        check.gradient(pathwise, uniform, lambda z: z)


@pytest.mark.parametrize(
    ("q", "slope"),
    [
        (lambda p: D.Normal(p, 1.0), lambda p: 3 * p**2 + 3),
        (lambda p: D.LogNormal(p, torch.tensor(0.5, dtype=F64)), lambda p: 3 * math.exp(3 * p + 9 / 8)),
        (lambda p: Erlang(3, p), lambda p: -3 * 60 / p**4),
        (lambda p: D.Beta(p, torch.tensor(1.0, dtype=F64)), lambda p: 3 / (p + 3) ** 2),
        (lambda p: D.Bernoulli(p), lambda p: 1.0),
        (lambda p: Gompertz(torch.tensor(0.5, dtype=F64), p), None),
    ],
    ids=["real", "positive", "nonnegative", "interval", "enumerated", "gompertz"],
)
def test_the_reference_is_exact_where_it_is_a_quadrature(q, slope):
    """E[z^3] in closed form, to 1e-6; for a Gompertz distribution with scale 1 / rate the derivative is -3 E / rate."""
    p = T(0.7)
    report = check.gradient(score_function, q(p), lambda z: z**3, repeats=100, generator=generator(0))
    report.require()
    expected = report.evidence[0].expected
    if slope is not None:
        assert expected == pytest.approx(slope(0.7), rel=1e-6)
        return
    with torch.no_grad():
        z = q(p).icdf((torch.arange(10**6, dtype=F64) + 0.5) / 10**6)
    assert expected == pytest.approx(-3 * float((z**3).mean()) / 0.7, rel=1e-5)


def test_several_coordinates_are_referred_to_draws():
    """E |z|^2 of a correlated Gaussian: the reference is a mean of a million draws, and its error is included."""
    mean = T([0.5, -1.0])
    q = D.MultivariateNormal(mean, torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=F64))

    def f(z):
        return z.square().sum(-1)

    check.gradient(pathwise, q, f, repeats=300, generator=generator(0)).require()
    assert not check.gradient(factor_two, q, f, repeats=300, generator=generator(0)).holds
    assert not check.gradient(lambda q, f: relaxed_pair(f), pair(), first, repeats=500, generator=generator(0)).holds


LOGITS = T([[1.0, 0.0]])


def pair():
    return D.OneHotCategorical(logits=LOGITS)


def first(z):
    return z[..., 0] ** 2


def relaxed_pair(f):
    """A relaxation at too high a temperature for a product: 2 E[y y'] is not E[z']."""
    return relaxed(pair(), f, 4, temperature=3.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check.gradient(pathwise, normal(), torch.square, repeats=1), "repeats must be at least 2, got 1"),
        (lambda: check.gradient(pathwise, D.Normal(0.0, 1.0), torch.square), "must be made from parameters"),
        (lambda: check.gradient(pathwise, normal(), torch.square, [T(1.0), T(1.0)]), "must state the order in which"),
        (
            lambda: check.gradient(pathwise, D.Normal(T(0.0), 1.0), torch.square, T([1.0])),
            r"must have the parameters' shapes, \[\(\)\], got \[\(1,\)\]",
        ),
        (lambda: check.bound(elbo, oracle(), claims=("tihgt",)), "there is no 'tihgt'"),
        (lambda: check.bound(elbo, vae(), claims=("tight",)), "only an oracle shows 'tight'"),
        (lambda: check.bound(elbo, oracle(), samples=(4, 1)), r"samples must be at least 1 and increase, got \[4, 1\]"),
        (lambda: check.bound(elbo, oracle(), repeats=1), "repeats must be at least 2, got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- check.bound -------------------------------------------------------------------------------------------------------


def oracle():
    weight = torch.tensor([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]], dtype=F64)
    return LinearGaussian(weight, torch.tensor([0.1, -0.2, 0.3], dtype=F64), 0.6)


def vae():
    torch.manual_seed(0)
    encoder = Conditional(nn.Linear(3, 4), DiagonalGaussian())
    return VAE(encoder, Conditional(nn.Linear(2, 3), IsotropicGaussian(0.8)), GaussianPrior(2)).double()


X = torch.tensor([[0.5, -1.0, 0.3], [1.5, 0.2, 2.0]], dtype=F64)


@pytest.mark.parametrize(
    ("bound", "reparameterized"),
    [(elbo, True), (iwae, True), (dreg, True), (scored(elbo), False), (scored(iwae), False), (free_bits(0.0), True)],
    ids=["elbo", "iwae", "dreg", "scored elbo", "scored iwae", "free bits of 0"],
)
def test_right_bounds_pass(bound, reparameterized):
    report = check.bound(bound, oracle(), X, repeats=1500, reparameterized=reparameterized, generator=generator(0))
    report.require()
    assert len(report.evidence) == 1 + 2 * 5 + 3 + 3


WRONG = {
    "exceeds log p by log K": (
        lambda t: (t.log_px - t.kl[0]).logsumexp(0),
        "mean bound is at most log p(x), 4 draws of the model's q",
    ),
    "half of the KL": (
        lambda t: (t.log_px - 0.5 * t.kl[0]).mean(0),
        "mean bound is at most log p(x), 1 draws of the model's q",
    ),
    "the prior left out": (lambda t: t.log_px.mean(0), "mean bound is at most log p(x), 1 draws of the model's q"),
    "a KL of the wrong sign": (
        lambda t: (t.log_px + t.kl[0]).mean(0),
        "mean bound is at most log p(x), 1 draws of the model's q",
    ),
    "not tight": (beta(2.0), "every value is log p(x) for q = p(z|x), 1 draws"),
    "a detached KL": (
        lambda t: (t.log_px - t.kl[0].detach()).mean(0),
        "mean gradient is the gradient of the mean, 1 draws",
    ),
    "a factor 2 in the gradient": (
        lambda t: 2 * elbo(t) - elbo(t).detach(),
        "mean gradient is the gradient of the mean, 1 draws",
    ),
    "a path taken for all of it": (
        lambda t: iwae(sticking_the_landing(t)),
        "mean gradient is the gradient of the mean, 4 draws",
    ),
    "falls with K": (
        lambda t: elbo(t) - 0.3 * math.log(t.samples),
        "mean bound is no less than with fewer draws, 4 draws of the model's q",
    ),
    "a mean over the data": (
        lambda t: (t.log_px - t.kl[0]).mean(1),
        "the bound has one value for each datum, shape (B,)",
    ),
    "not a number": (lambda t: elbo(t) / 0 * 0, "mean bound is at most log p(x), 1 draws of the model's q"),
}


@pytest.mark.parametrize(("wrong", "claim"), WRONG.values(), ids=WRONG)
def test_wrong_bounds_are_caught(wrong, claim):
    report = check.bound(wrong, oracle(), X, samples=(1, 4), repeats=3000, generator=generator(0))
    assert claim in failed(report)


def test_the_score_is_missed_where_draws_carry_no_gradient():
    assert "mean gradient is the gradient of the mean, 1 draws" in failed(
        check.bound(iwae, oracle(), X, reparameterized=False, generator=generator(0))
    )


def test_a_model_without_a_posterior_shows_the_rest():
    """Its log p is estimated; a bound that exceeds it is caught nevertheless."""
    report = check.bound(iwae, vae(), X, samples=(1, 4), repeats=1000, generator=generator(0))
    report.require()
    assert len(report.evidence) == 1 + 3 + 2
    wrong, claim = WRONG["exceeds log p by log K"]
    claim = claim.replace("4", "64")  # with more draws the bound of this poor q is close to log p
    assert claim in failed(check.bound(wrong, vae(), X, samples=(1, 64), repeats=500, generator=generator(0)))
    check.bound(beta(4.0), vae(), claims=("under", "gradient"), repeats=500, generator=generator(0)).require()

"""Distributions against scipy, closed forms and finite differences; draws that follow one generator."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import distributions as D
from torch import nn
from torch.distributions import kl_divergence

from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    Bernoulli,
    BernoulliLogits,
    CategoricalLogits,
    CategoricalPrior,
    Conditional,
    DiagonalGaussian,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Erlang,
    Flat,
    FlatPrior,
    GaussianPrior,
    Gompertz,
    IsotropicGaussian,
    Levels,
    OneHotLogits,
    StraightThroughOneHot,
    gumbel_softmax,
    soft_clamp,
)
from jensen.distributions.special import log_ndtr, scaled_exp1, scaled_upper_gamma

F64 = torch.float64
T = torch.tensor


# -- conditional families ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "out", "event"),
    [
        (DiagonalGaussian(), (6,), (3,)),
        (DiagonalGaussian(event_dims=3), (4, 5, 5), (2, 5, 5)),
        (IsotropicGaussian(0.3), (6,), (6,)),
        (IsotropicGaussian(0.3, learned=True, event_dims=3), (1, 4, 4), (1, 4, 4)),
        (BernoulliLogits(), (6,), (6,)),
        (BernoulliLogits(event_dims=3), (1, 4, 4), (1, 4, 4)),
        (OneHotLogits(3, 4), (12,), (3, 4)),
        (CategoricalLogits(), (6, 4), (6,)),
        (CategoricalLogits(event_dims=3), (1, 4, 4, 7), (1, 4, 4)),
    ],
)
@pytest.mark.parametrize("lead", [(2,), (5, 2)])
def test_batch_axes_lead_and_the_event_is_all_of_x(family, out, event, lead):
    q = family(torch.randn(*lead, *out))
    assert (q.batch_shape, q.event_shape) == (lead, event)
    x = q.sample((7,))
    assert x.shape == (7, *lead, *event)
    assert q.log_prob(x).shape == (7, *lead)


def test_conditional_is_its_family_of_its_network():
    net = nn.Linear(5, 4)
    q, c = Conditional(net, DiagonalGaussian()), torch.randn(3, 5)
    mean, raw = net(c).chunk(2, -1)
    assert torch.equal(q(c).mean, mean)
    torch.testing.assert_close(q(c).stddev, soft_clamp(raw, math.log(1e-3), math.log(1e2)).exp())


def test_a_network_of_one_batch_axis_takes_sample_axes_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    q, c = Conditional(net, DiagonalGaussian(event_dims=3), input_dims=3), torch.randn(2, 3, 1, 4, 4)
    assert q(c).batch_shape == (2, 3)
    torch.testing.assert_close(q(c).mean[1], q(c[1]).mean)
    with pytest.raises(ValueError, match=r"^inputs must have a batch axis before 3 of their own, got \(1, 4, 4\)$"):
        q(c[0, 0])


def test_a_conditional_owns_what_its_family_learns():
    decoder = Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5, learned=True))
    assert "family.log_std" in dict(decoder.named_parameters())
    assert "family.log_std" not in dict(Conditional(nn.Linear(2, 3), IsotropicGaussian(0.5)).named_parameters())
    decoder(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).sum().backward()
    assert decoder.family.log_std.grad is not None


def test_soft_clamp():
    """Onto (low, high), rising, its slope the difference of two sigmoids, near the identity inside."""
    low, high = -7.0, 5.0
    x = torch.linspace(-60, 60, 2401, dtype=F64, requires_grad=True)
    y = soft_clamp(x, low, high)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert abs(y.min() - low) < 1e-9
    assert abs(y.max() - high) < 1e-9
    assert (y.diff() > -1e-8).all()  # softplus turns linear at 20
    inside = (x > low - 29) & (x < high + 29)
    torch.testing.assert_close(slope[inside], (torch.sigmoid(x - low) - torch.sigmoid(x - high))[inside])
    assert (y - x).detach().abs()[(x > low + 5) & (x < high - 5)].max() < 7e-3  # log(1 + e^-5)
    assert soft_clamp(T([1e30, -1e30]), low, high).tolist() == [high, low]


SINGLE = "std must be positive and finite, got "
RANK = "event_dims must be at least 1, got 0"
OFF = "data must lie on the 256 levels of [-1, 1], got values in [{}]: scale them by 2 i / 255 - 1"
BITS = "a Bernoulli's data must be 0 or 1, got values in [{}]: binarize them"
IMPROPER = "a flat prior is improper and cannot be sampled: draw z from a posterior, or choose another"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalGaussian(event_dims=0), RANK),
        (lambda: IsotropicGaussian(event_dims=0), RANK),
        (lambda: BernoulliLogits(0), RANK),
        (lambda: CategoricalLogits(0), RANK),
        (lambda: DiagonalGaussian(1, 2.0, 1.0), "bounds must be 0 < min_std < max_std, got 2.0 and 1.0"),
        (
            lambda: DiagonalGaussian()(torch.zeros(2, 3)),
            "a mean and a spread need an even number of outputs on axis -1, got shape (2, 3)",
        ),
        (lambda: IsotropicGaussian(0.0), SINGLE + "0.0"),
        (lambda: Levels(event_dims=0), RANK),
        (lambda: Levels(min_scale=0.0), "bounds must be 0 < min_scale < max_scale, got 0.0 and 100.0"),
        (lambda: OneHotLogits(2, 3, temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: StraightThroughOneHot(-1.0, torch.zeros(3)), "temperature must be positive, got -1.0"),
        (lambda: gumbel_softmax(torch.zeros(3), 0.0), "temperature must be positive, got 0.0"),
        (lambda: Gompertz(T([1.0, -2.0]), 1.0), "shape must be positive and finite, got -2"),
        (lambda: Gompertz(1.0, math.inf), "rate must be positive and finite, got inf"),
        (lambda: Erlang(T([1.0, 2.5]), 1.0), "shape must be an integer of at least 1, got 2.5"),
        (lambda: Erlang(0, 1.0), "shape must be an integer of at least 1, got 0"),
        (lambda: Erlang(2, 0.0), "rate must be positive and finite, got 0"),
        (lambda: DiscretizedGaussian(0.0, 0.0), "scale must be positive and finite, got 0"),
        (lambda: DiscretizedGaussian(0.0, 1.0, levels=1), "levels must be at least 2, got 1"),
        (lambda: DiscretizedGaussian(0.0, 1.0).log_prob(T([0.3])), OFF.format("0.3, 0.3")),
        (lambda: DiscretizedLogistic(0.0, 1.0).log_prob(T([1 + 2 / 255, 1.0])), OFF.format("1, 1.008")),
        (lambda: DiscretizedLogistic(0.0, 1.0).cdf(T([0.0])), OFF.format("0, 0")),
        (lambda: Levels()(torch.zeros(1, 2)).log_prob(T([[math.nan]])), OFF.format("nan, nan")),
        (lambda: OneHotLogits(0, 3), "there must be at least 1 group of 2 classes, got 0 of 3"),
        (lambda: OneHotLogits(2, 3)(torch.zeros(2, 5)), "the last axis must hold 2 x 3 logits, got shape (2, 5)"),
        (lambda: GaussianPrior(2, std=-1.0), SINGLE + "-1.0"),
        (lambda: GaussianPrior(2, mean=torch.zeros(3)), "mean of shape (3,) does not broadcast to (2,)"),
        (lambda: CategoricalPrior(1, 1), "there must be at least 1 group of 2 classes, got 1 of 1"),
        (lambda: FlatPrior(2)().sample(), IMPROPER),
        (lambda: FlatPrior(2)().rsample((3,)), IMPROPER),
        (lambda: FlatPrior(2)().log_prob(torch.zeros(4, 3)), "values must end in (2,), got (4, 3)"),
        (lambda: kl_divergence(GaussianPrior(3)(), Flat(2)), "event shapes must agree, got (3,) and (2,)"),
        (lambda: BernoulliLogits()(torch.zeros(1, 2)).log_prob(T([[0.2, 1.0]])), BITS.format("0.2, 1")),
        (lambda: Bernoulli(logits=torch.zeros(1)).log_prob(T([-1.0])), BITS.format("-1, -1")),
        (lambda: Bernoulli(logits=torch.zeros(1)).log_prob(T([math.nan])), BITS.format("nan, nan")),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


# -- priors ------------------------------------------------------------------------------------------------


def test_gaussian_prior():
    prior = GaussianPrior((2, 3), mean=0.5, std=2.0, learned=True)
    assert (prior().batch_shape, prior().event_shape) == ((), (2, 3))
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(prior().log_prob(x), D.Normal(0.5, 2.0).log_prob(x).sum((1, 2)))
    assert {n: p.shape for n, p in prior.named_parameters()} == {"mean": (2, 3), "log_std": ()}
    assert not list(GaussianPrior((2, 3)).parameters())


def test_kl_to_the_priors():
    """KL(N(m, s^2) || N(mu, sigma^2 I)) and the one to uniform classes in closed form, batch by batch."""
    m, s = torch.randn(5, 3, dtype=F64), torch.rand(5, 3, dtype=F64) + 0.5
    q = D.Independent(D.Normal(m, s), 1)
    prior = GaussianPrior(3, mean=0.3, std=1.7).double()
    exact = (((s**2 + (m - 0.3) ** 2) / 1.7**2 - 1) / 2 - (s / 1.7).log()).sum(1)
    torch.testing.assert_close(kl_divergence(q, prior()), exact, rtol=1e-6, atol=1e-6)
    q = OneHotLogits(2, 4)(torch.randn(5, 8))
    torch.testing.assert_close(kl_divergence(q, CategoricalPrior(2, 4)()), 2 * math.log(4) - q.entropy())


def test_kl_of_bernoullis_is_that_of_torch():
    """A subclass keeps its parent's closed forms."""
    a, b = torch.randn(4), torch.randn(4)
    ours = kl_divergence(BernoulliLogits()(a[None]), BernoulliLogits()(b[None]))
    torch.testing.assert_close(ours, kl_divergence(D.Bernoulli(logits=a), D.Bernoulli(logits=b)).sum()[None])


def test_flat_prior():
    q = D.Independent(D.Normal(torch.randn(5, 3), torch.rand(5, 3)), 1)
    p = FlatPrior(3)()
    assert p.log_prob(torch.randn(7, 5, 3, dtype=F64)).dtype == F64
    assert (p.log_prob(torch.randn(7, 5, 3)) == torch.zeros(7, 5)).all()
    torch.testing.assert_close(kl_divergence(q, p), -q.entropy())


# -- Gompertz ----------------------------------------------------------------------------------------------

SHAPES, RATES = [0.01, 0.3, 1.0, 2.5, 40.0], [0.2, 1.0, 7.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gompertz_is_that_of_scipy(shape, rate):
    q, oracle = Gompertz(T(shape, dtype=F64), T(rate, dtype=F64)), scipy.stats.gompertz(shape, scale=1 / rate)
    u = np.concatenate([np.logspace(-15, -2, 14), np.linspace(0.02, 1 - 1e-6, 50)])
    x = oracle.ppf(u)
    np.testing.assert_allclose(q.icdf(torch.from_numpy(u)), x, rtol=1e-12)
    np.testing.assert_allclose(q.cdf(torch.from_numpy(x)), oracle.cdf(x), rtol=1e-12)
    np.testing.assert_allclose(q.log_prob(torch.from_numpy(x)), oracle.logpdf(x), rtol=1e-12, atol=1e-12)
    assert float(q.mean) == pytest.approx(oracle.mean(), rel=1e-7)  # scipy integrates numerically
    assert float(q.entropy()) == pytest.approx(float(oracle.entropy()), rel=1e-7, abs=1e-7)


def test_gompertz_outside_and_at_its_mode():
    q = Gompertz(T([0.2, 3.0], dtype=F64), 2.0)
    assert (q.log_prob(T(-1e-3)) == -math.inf).all()
    assert (q.cdf(T([-1.0, 0.0])) == 0).all()
    assert q.mode.tolist() == pytest.approx([math.log(5) / 2, 0.0])
    x = torch.linspace(0, 4, 40001, dtype=F64)[:, None]
    torch.testing.assert_close(x[q.log_prob(x).argmax(0), 0], q.mode, atol=1e-4, rtol=0)


def kolmogorov(u) -> float:
    """Sqrt(n) times the largest distance from the uniform law; above 1.95 once in a thousand."""
    u = u.detach().double().sort().values
    n = len(u)
    steps = torch.arange(n + 1, dtype=F64) / n
    return math.sqrt(n) * max(float((steps[1:] - u).max()), float((u - steps[:-1]).max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_gompertz_draws(shape):
    q = Gompertz(T(shape, dtype=F64), 2.0)
    with drawing(generator(1)):
        x = q.sample((100_000,))
    assert kolmogorov(T(scipy.stats.gompertz(shape, scale=0.5).cdf(x))) < 1.95
    assert (x >= 0).all()


def slopes(sample, parameters, h=1e-6):
    """Central differences of a draw in each parameter, the noise held."""
    out = []
    for i, p in enumerate(parameters):
        ends = [sample(*(q + s * h * p if i == j else q for j, q in enumerate(parameters))) for s in (1, -1)]
        out.append((ends[0] - ends[1]) / (2 * h * p))
    return out


@pytest.mark.parametrize("kind", [Gompertz, Erlang])
def test_draws_move_with_their_parameters(kind):
    """Against finite differences, and against the implicit gradient -(dF/d theta) / density."""
    parameters = [T(v, dtype=F64, requires_grad=True) for v in ((0.7, 2.0) if kind is Gompertz else (2.0,))]
    make = kind if kind is Gompertz else lambda rate: Erlang(3, rate)

    def sample(*p):
        with drawing(generator(0)):
            return make(*p).rsample((50,))

    x = sample(*parameters)
    assert x.requires_grad
    numeric = slopes(sample, [p.detach() for p in parameters])
    density = make(*parameters).log_prob(x).exp().detach()
    for i, p in enumerate(parameters):
        exact = torch.stack([torch.autograd.grad(v, p, retain_graph=True)[0] for v in x])
        torch.testing.assert_close(exact, numeric[i], rtol=1e-6, atol=1e-9)

        def cdf(*p):
            return make(*p).cdf(x.detach())

        implicit = -slopes(cdf, [q.detach() for q in parameters])[i] / density
        torch.testing.assert_close(exact, implicit, rtol=1e-5, atol=1e-7)


def test_gradient_of_gompertz_mean():
    """d E[x] by pathwise draws against the closed form's derivative: n = 1e6, 4 standard errors."""
    shape, rate = (torch.full((1_000_000,), v, dtype=F64, requires_grad=True) for v in (0.7, 2.0))
    with drawing(generator(0)):
        x = Gompertz(shape, rate).rsample()
    grads = torch.autograd.grad(x.sum(), (shape, rate))
    at = [T(v, dtype=F64, requires_grad=True) for v in (0.7, 2.0)]
    exact = torch.autograd.grad(Gompertz(*at).mean, at)
    e1 = scipy.special.exp1(0.7) * math.exp(0.7)
    assert [float(v) for v in exact] == pytest.approx([(e1 - 1 / 0.7) / 2, -e1 / 4], rel=1e-12)
    for g, truth in zip(grads, exact, strict=True):
        assert abs(g.mean() - truth) < 4 * g.std() / 1000


@pytest.mark.parametrize(("a", "b"), [((0.5, 2.0), (1.5, 1.0)), ((3.0, 1.0), (0.2, 2.5)), ((0.05, 1.0), (0.05, 1.0))])
def test_gompertz_kl(a, b):
    p, q = (Gompertz(*T(v, dtype=F64)) for v in (a, b))

    def integrand(x):
        x = T(x, dtype=F64)
        return float(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)))

    numeric, _ = scipy.integrate.quad(integrand, 0, float(p.icdf(T(1 - 1e-15, dtype=F64))), epsabs=1e-11, limit=200)
    assert float(kl_divergence(p, q)) == pytest.approx(numeric, abs=1e-9)


def test_gompertz_kl_has_exact_gradients():
    parameters = [T(v, dtype=F64, requires_grad=True) for v in (0.5, 2.0, 1.5, 1.2)]
    assert torch.autograd.gradcheck(lambda a, b, c, d: kl_divergence(Gompertz(a, b), Gompertz(c, d)), parameters)
    same_rate = kl_divergence(Gompertz(0.5, 2.0), Gompertz(1.5, 2.0))
    assert float(same_rate) == pytest.approx(math.log(0.5 / 1.5) - 1 + 1.5 / 0.5, rel=1e-5)


def test_incomplete_gamma():
    """Against scipy over ten decades, both of its expansions, and against finite differences in both arguments."""
    x = np.logspace(-6, 2.8, 400)
    np.testing.assert_allclose(scaled_exp1(torch.from_numpy(x)), scipy.special.exp1(x) * np.exp(x), rtol=1e-13)
    for s in (1.0, 1.3, 2.0, 7.7, 50.0):
        x = np.logspace(-2, 2.5, 200)
        log = np.log(scipy.special.gammaincc(s, x)) + scipy.special.gammaln(s) + x - s * np.log(x)
        ours = scaled_upper_gamma(torch.full((200,), s, dtype=F64), torch.from_numpy(x)).log()
        known = np.isfinite(log)
        assert known.sum() > 150
        np.testing.assert_allclose(ours[known], log[known], atol=1e-10)
    s = T([1.2, 3.0, 3.0, 9.0], dtype=F64, requires_grad=True)
    x = T([0.3, 2.0, 7.0, 30.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(scaled_upper_gamma, (s, x))
    assert torch.autograd.gradcheck(scaled_exp1, (x,))


def test_log_ndtr():
    """Scipy's values; derivatives in single precision against mpmath's inverse Mills ratio."""
    z = np.concatenate([-np.logspace(-3, 3.5, 60), np.linspace(0, 8, 20)])
    np.testing.assert_allclose(log_ndtr(torch.from_numpy(z)), scipy.special.log_ndtr(z), rtol=1e-13, atol=1e-17)
    single = torch.from_numpy(z).float().requires_grad_()
    (slope,) = torch.autograd.grad(log_ndtr(single).sum(), single)
    exact = [float(mpmath.npdf(v) / mpmath.ncdf(v)) for v in single.tolist()]
    np.testing.assert_allclose(slope, exact, rtol=2e-6, atol=1e-15)


# -- Erlang ------------------------------------------------------------------------------------------------


def test_erlang_is_that_of_scipy():
    q = Erlang(T([1, 2, 7, 30]), T([0.5, 1.0, 3.0, 2.0], dtype=F64))
    oracle = scipy.stats.erlang([1, 2, 7, 30], scale=1 / q.rate)
    x = torch.from_numpy(oracle.ppf(np.linspace(0.001, 0.999, 40)[:, None]))
    np.testing.assert_allclose(q.log_prob(x), oracle.logpdf(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(q.cdf(x), oracle.cdf(x), rtol=1e-8)  # torch's gammainc has nine digits
    np.testing.assert_allclose(q.mean, oracle.mean())
    np.testing.assert_allclose(q.variance, oracle.var())
    np.testing.assert_allclose(q.entropy(), oracle.entropy(), rtol=1e-10)


def test_erlang_draws():
    """Each of a batch of shapes has its own number of exponentials."""
    q = Erlang(T([1, 2, 7, 30]), T([0.5, 1.0, 3.0, 2.0], dtype=F64))
    with drawing(generator(2)):
        x = q.sample((50_000,))
    for i, k in enumerate((1, 2, 7, 30)):
        assert kolmogorov(T(scipy.stats.erlang(k, scale=1 / q.rate[i]).cdf(x[:, i]))) < 1.95


def test_erlang_is_a_gamma():
    rate = T(2.0, dtype=F64, requires_grad=True)
    with drawing(generator(0)):
        x = Erlang(3, rate).rsample()
    (slope,) = torch.autograd.grad(x, rate)
    assert float(slope) == pytest.approx(float(-x.detach() / 2), rel=1e-12)
    torch.testing.assert_close(
        kl_divergence(Erlang(3, 2.0), D.Gamma(2.5, 1.0)), kl_divergence(D.Gamma(3.0, 2.0), D.Gamma(2.5, 1.0))
    )
    assert Erlang(T(3.0, requires_grad=True), 2.0).mean.requires_grad is False


@pytest.mark.parametrize(
    "q",
    [
        Gompertz(T([0.5, 1.0]), 2.0),
        Erlang(T([1, 3]), 2.0),
        DiscretizedGaussian(T([0.1, 0.4]), 0.2),
        DiscretizedLogistic(T([0.1, 0.4]), 0.2, levels=16),
        StraightThroughOneHot(0.5, torch.randn(2, 3)),
    ],
    ids=lambda q: type(q).__name__,
)
def test_expand_and_draw_by_one_generator(q):
    wide = q.expand(torch.Size((4, 2)))
    assert type(wide) is type(q)
    draws = []
    for rng in (generator(3), generator(3), generator(4)):
        with drawing(rng):
            draws.append(wide.sample((5,)))
    assert draws[0].shape == (5, 4, 2, *q.event_shape)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.testing.assert_close(wide.log_prob(draws[0]), q.log_prob(draws[0]))


# -- discretized -------------------------------------------------------------------------------------------

LAWS = {DiscretizedGaussian: scipy.stats.norm, DiscretizedLogistic: scipy.stats.logistic}


@pytest.mark.parametrize("scale", [0.003, 0.05, 0.6, 20.0])
@pytest.mark.parametrize("loc", [-1.3, -1.0, 0.02, 0.9])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_levels_hold_the_mass_of_their_cells(law, loc, scale):
    q, oracle = law(T(loc, dtype=F64), T(scale, dtype=F64)), LAWS[law](loc, scale)
    levels = q.enumerate_support()
    upper = np.append(oracle.cdf(levels[:-1] + 1 / 255), 1.0)
    np.testing.assert_allclose(q.log_prob(levels).exp(), np.diff(upper, prepend=0.0), atol=1e-15)
    np.testing.assert_allclose(q.cdf(levels), upper, atol=1e-15)
    assert float(q.log_prob(levels).exp().sum()) == pytest.approx(1, abs=1e-12)
    single = law(T(loc), T(scale))
    assert float(single.log_prob(single.enumerate_support()).exp().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_far_tails_and_narrow_cells(law, dtype):
    """Sixty digits of mpmath, scales from 0.001 to 100: within 2 eps^0.8 / 4.5 of every formula, which is what the
    switch from the difference to the expansion promises, and relative rounding."""
    mpmath.mp.dps, eps = 60, torch.finfo(dtype).eps

    def cdf(z):
        return mpmath.ncdf(z) if law is DiscretizedGaussian else 1 / (1 + mpmath.exp(-z))

    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
        for loc in (-1.2, -0.3, 0.0, 2.0):
            q = law(T(loc, dtype=dtype), T(scale, dtype=dtype))
            levels = q.enumerate_support()[[0, 1, 50, 126, 127, 128, 133, 254, 255]]
            for x, ours in zip(levels.tolist(), q.log_prob(levels).tolist(), strict=True):
                s, m, h = (mpmath.mpf(v) for v in (float(q.scale), float(q.loc), mpmath.mpf(1) / 255))
                a, b = (x - h - m) / s, (x + h - m) / s
                if x == -1:
                    exact = mpmath.log(cdf(b))
                elif x == 1:
                    exact = mpmath.log(cdf(-a))
                else:
                    exact = mpmath.log(cdf(-a) - cdf(-b) if a > 0 else cdf(b) - cdf(a))
                assert abs(ours - exact) < 2 * eps / (1920 * eps) ** 0.2 + 10 * eps * abs(exact)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_gradients_of_levels(law):
    """Finite differences on all formulas in double; single agrees with double to 1e-3, far out too."""
    levels = law(0.0, 1.0).enumerate_support()[[0, 3, 100, 127, 128, 250, 255]].double()
    for loc in (-1.2, 0.03, 0.9):
        for scale in (3e-3, 0.04, 0.5, 4.0, 60.0):
            p = [T(v, dtype=F64, requires_grad=True) for v in (loc, scale)]
            double = torch.autograd.grad(law(*p).log_prob(levels).sum(), p)
            h = 1e-5 * scale
            for i in (0, 1):
                ends = [
                    law(*(q.detach() + s * h * (i == j) for j, q in enumerate(p))).log_prob(levels).sum()
                    for s in (1, -1)
                ]
                assert float(double[i]) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-5)
            f = [T(v, requires_grad=True) for v in (loc, scale)]
            single = torch.autograd.grad(law(*f).log_prob(levels.float()).sum(), f)
            for s, d in zip(single, double, strict=True):
                assert float(s) == pytest.approx(float(d), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_draws_of_levels(law):
    """Chi-square of 100,000 draws on 16 levels, tails included: above 37.7 once in a thousand."""
    q = law(T(0.6, dtype=F64), 0.5, levels=16)
    with drawing(generator(0)):
        x = q.sample((100_000,))
    counts = torch.bincount(((x + 1) * 7.5).round().long(), minlength=16)
    expected = 100_000 * q.log_prob(q.enumerate_support()).exp()
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7
    q.log_prob(x)  # every draw is a level
    law(T(0.1), 0.3).log_prob(law(T(0.1), 0.3).sample((5000,)))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_moments_of_levels(law):
    q = law(T([-0.9, 0.3], dtype=F64), T([0.4, 0.1], dtype=F64))
    levels = np.linspace(-1, 1, 256)
    for i in (0, 1):
        p = q.log_prob(q.enumerate_support()).exp()[:, i].numpy()
        assert float(q.mean[i]) == pytest.approx(p @ levels, abs=1e-12)
        assert float(q.variance[i]) == pytest.approx(p @ levels**2 - (p @ levels) ** 2, abs=1e-12)
        assert float(q.entropy()[i]) == pytest.approx(scipy.stats.entropy(p), rel=1e-10)
    assert float(q.mean[0]) > -0.9 + 0.01  # the tail below -1 is moved up to it


# -- one-hot -----------------------------------------------------------------------------------------------


def test_gumbel_max_is_exact():
    """A million draws of five classes: chi-square above 18.5 once in a thousand; relaxed draws order the same."""
    logits = T([0.5, -1.0, 2.0, 0.0, -3.0])
    q, n = StraightThroughOneHot(0.7, logits), 1_000_000
    with drawing(generator(0)):
        z = q.rsample((n,))
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(-1) == 1).all()
    expected = n * torch.softmax(logits, 0)
    assert float(((z.sum(0) - expected) ** 2 / expected).sum()) < 18.5
    with drawing(generator(0)):
        soft = gumbel_softmax(logits.expand(n, 5), 0.7)
    assert torch.equal(soft.argmax(-1), z.argmax(-1))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_relaxed_draws_follow_their_law(temperature):
    """With two classes P(y_1 <= c) = sigmoid(tau logit(c) - l), l the difference of the logits: n = 1e5."""
    with drawing(generator(0)):
        y = gumbel_softmax(T([0.8, -0.3], dtype=F64).expand(100_000, 2), temperature)
    torch.testing.assert_close(y.sum(-1), torch.ones(100_000, dtype=F64))
    assert kolmogorov(torch.sigmoid(temperature * (y[:, 0].log() - y[:, 1].log()) - 1.1)) < 1.95


def test_limits_of_the_temperature():
    """With the same noise: the one-hot vector as tau -> 0, at the rate e^(-gap / tau), equal shares as tau grows."""
    logits = torch.randn(200, 4, dtype=F64, generator=generator(1))

    def at(temperature, hard=False):
        with drawing(generator(0)):
            return gumbel_softmax(logits, temperature, hard=hard)

    winner = at(1.0, hard=True)
    errors = [(at(t) - winner).abs().max(-1).values for t in (1.0, 0.3, 0.1, 0.03, 1e-3)]
    assert all((b <= a + 1e-15).all() for a, b in pairwise(errors))
    log_y = at(1.0).log()
    gap = log_y.max(-1).values - log_y.topk(2, -1).values[:, 1]
    assert (errors[2] <= 3 * torch.exp(-gap / 0.1)).all()
    assert (errors[-1] < 1e-6).float().mean() > 0.95
    torch.testing.assert_close(at(1e6), torch.full((200, 4), 0.25, dtype=F64), atol=1e-5, rtol=0)


def test_straight_through_is_hard_forward_and_relaxed_backward():
    logits, w = torch.randn(50, 4, requires_grad=True), torch.randn(50, 4)
    grads = []
    for hard in (True, False):
        with drawing(generator(0)):
            y = gumbel_softmax(logits, 0.6, hard=hard)
        grads.append(torch.autograd.grad((w * y).sum(), logits)[0])
    torch.testing.assert_close(*grads)
    q = OneHotLogits(2, 3, temperature=0.5)(torch.randn(7, 6, requires_grad=True))
    assert q.has_rsample
    assert q.rsample((2,)).requires_grad
    torch.testing.assert_close(kl_divergence(q, CategoricalPrior(2, 3)()), 2 * math.log(3) - q.entropy())


def test_levels_family():
    out = torch.randn(5, 2, 6, 4, 4)
    for law in LAWS:
        q = Levels(law, event_dims=3)(out)
        assert (q.batch_shape, q.event_shape) == ((5, 2), (3, 4, 4))
        scale = soft_clamp(out[:, :, 3:], math.log(1e-3), math.log(1e2)).exp()
        x = q.sample()
        torch.testing.assert_close(q.log_prob(x), law(out[:, :, :3], scale).log_prob(x).sum((2, 3, 4)))

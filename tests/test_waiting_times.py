"""Gompertz and Erlang distributions against SciPy, mpmath, closed forms and finite differences, also at extreme
parameters.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import distributions as D
from torch.distributions import kl_divergence

from jensen.core.seeding import drawing, generator
from jensen.distributions import Erlang, Gompertz
from jensen.distributions.special import exponential_rule, log_ndtr
from kolmogorov import kolmogorov

F64 = torch.float64
T = torch.tensor


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


@pytest.mark.parametrize("shape", SHAPES)
def test_gompertz_draws(shape):
    q = Gompertz(T(shape, dtype=F64), 2.0)
    with drawing(generator(1)):
        x = q.sample((100_000,))
    assert kolmogorov(T(scipy.stats.gompertz(shape, scale=0.5).cdf(x))) < 1.95
    assert (x >= 0).all()


def slopes(sample, parameters, h=1e-6):
    """Central differences of a draw in each parameter, with fixed noise."""
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
    """d E[x] by pathwise draws against the derivative of the closed form: n = 1e6, 4 standard errors."""
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


def test_log_ndtr():
    """SciPy's values; derivatives in single precision against mpmath's inverse Mills ratio."""
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
    """Each shape in a batch is a sum of that number of exponentials."""
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


# -- extreme parameters: mpmath's forty digits ----------------------------------------------------------------

FORTY = mpmath.mp.clone()
FORTY.dps = 40
DTYPES = pytest.mark.parametrize("dtype", [F64, torch.float32])


def hazard_mean(f, eta):
    """E f(E) for a unit exponential E, with f smooth on the scales of eta and of 1."""
    ends = sorted({0, *(v for v in (eta / 100, eta, 10 * eta) if v < 1), 1, 5, 20, 60, 120})
    return FORTY.quad(lambda t: FORTY.exp(-t) * f(t), ends)


@pytest.mark.parametrize("eta", [1e-12, 1e-3, 0.4, 3.0, 1e3, 1e8])
def test_the_rule_is_exact(eta):
    """Moments of log(1 + E / eta) and of powers, from 1e-12 to 1e8: to a relative 1e-13, the rounding of the
    exponent.
    """
    t, log_w = exponential_rule(T(0.0))
    growth = torch.log1p(t / eta)
    e = FORTY.mpf(eta)
    for k in (1, 2):
        exact = hazard_mean(lambda t, k=k: FORTY.log1p(t / e) ** k, e)
        assert float((log_w.exp() * growth**k).sum()) == pytest.approx(float(exact), rel=1e-14)
    for s in (1e-3, 0.5, 1.0, 2.5, 30.0, 1000.0):
        if eta <= 1e3:  # e^eta eta^(1 - s) Gamma(s, eta)
            exact = e + FORTY.log(FORTY.gammainc(s, e)) - (s - 1) * FORTY.log(e)
        else:
            exact = FORTY.log(hazard_mean(lambda t, s=s: (1 + t / e) ** (s - 1), e))
        ours = torch.logsumexp(log_w + (s - 1) * growth, 0)
        assert float(ours) == pytest.approx(float(exact), rel=1e-13, abs=1e-15)


@DTYPES
def test_gompertz_moments_at_extreme_shapes(dtype):
    shapes = [1e-12, 1e-4, 0.5, 20.0, 1e4, 1e8]
    q = Gompertz(T(shapes, dtype=dtype), T(3.0, dtype=dtype))
    for i, eta in enumerate(q.shape.tolist()):
        mean = hazard_mean(lambda t, e=FORTY.mpf(eta): FORTY.log1p(t / e), FORTY.mpf(eta))
        variance = hazard_mean(lambda t, e=FORTY.mpf(eta), m=mean: (FORTY.log1p(t / e) - m) ** 2, FORTY.mpf(eta))
        close = {"rel": 8 * torch.finfo(dtype).eps}
        assert float(q.mean[i]) == pytest.approx(float(mean / 3), **close)
        assert float(q.variance[i]) == pytest.approx(float(variance / 9), **close)
        assert float(q.stddev[i]) == pytest.approx(float(FORTY.sqrt(variance) / 3), **close)
        exact = float(1 - FORTY.log(3 * FORTY.mpf(eta)) - mean)
        assert float(q.entropy()[i]) == pytest.approx(exact, **close)


def gompertz_kl(p, q):
    """E_p log(p / q) over the hazard of p."""
    eta, b, eta_q, b_q = (FORTY.mpf(float(v)) for v in (p.shape, p.rate, q.shape, q.rate))
    r = b_q / b
    growth = hazard_mean(lambda t: FORTY.expm1(r * FORTY.log1p(t / eta)), eta)
    mean = hazard_mean(lambda t: FORTY.log1p(t / eta), eta)
    return float(FORTY.log(eta * b / (eta_q * b_q)) + (1 - r) * mean - 1 + eta_q * growth)


@DTYPES
@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((1e6, 1.0), (1.1e6, 1.0)),
        ((1e6, 1.0), (1e6, 1.1)),
        ((3e4, 2.0), (2e4, 2.5)),
        ((50.0, 1.0), (50.0, 1.001)),
        ((1e-6, 1.0), (2e-6, 0.5)),
        ((0.5, 1.0), (2e3, 1e-3)),
        ((0.5, 1.0), (1e-30, 20.0)),
        ((7.0, 1.0), (7.0, 1.0)),
    ],
)
def test_gompertz_kl_at_extreme_parameters(p, q, dtype):
    """With shapes 1e6 and 1.1e6 it is .0046898; a difference of large numbers gives .0849 in single precision."""
    p, q = (Gompertz(*T(v, dtype=dtype)) for v in (p, q))
    exact = gompertz_kl(p, q)
    eps = torch.finfo(dtype).eps
    assert float(kl_divergence(p, q)) == pytest.approx(exact, rel=8 * eps, abs=1e-15)
    assert kl_divergence(p, q).dtype == dtype


@DTYPES
def test_gompertz_density_where_the_exponential_overflows(dtype):
    """A tiny shape and a large x: eta e^(b x) is moderate although e^(b x) overflows in single precision."""
    q = Gompertz(T(1e-37, dtype=dtype), T(1.0, dtype=dtype))
    eta = FORTY.mpf(float(q.shape))
    x = T([0.0, 1e-6, 1.0, 60.0, 89.0, 91.0], dtype=dtype)
    for v, log_p, cdf in zip(x.tolist(), q.log_prob(x).tolist(), q.cdf(x).tolist(), strict=True):
        hazard = eta * FORTY.expm1(FORTY.mpf(v))
        eps = 100 * torch.finfo(dtype).eps  # e^v of a rounded v
        assert log_p == pytest.approx(float(FORTY.log(eta) + v - hazard), rel=eps)
        assert cdf == pytest.approx(float(-FORTY.expm1(-hazard)), rel=eps)


@DTYPES
def test_erlang_at_large_shapes(dtype):
    """Density, entropy and divergences for k up to 1e7: exact up to the effect of rounding x and the rate."""
    eps = torch.finfo(dtype).eps
    for k in (1, 2, 5, 13, 1000, 10**7):
        q = Erlang(T(k), T(3.0, dtype=dtype))
        entropy = k + FORTY.loggamma(k) + (1 - k) * FORTY.digamma(k) - FORTY.log(3)
        assert float(q.entropy()) == pytest.approx(float(entropy), rel=20 * eps, abs=20 * eps)
        for z in (-5.0, -0.5, 0.0, 2.0, 8.0):
            x = q.mean * abs(1 + z / k**0.5) + 1e-3
            v = FORTY.mpf(float(x))
            exact = FORTY.log(3) + (k - 1) * FORTY.log(3 * v) - 3 * v - FORTY.loggamma(k)
            moved = 2 * abs(3 * v - k + 1) + 10  # of the log density, by a relative error of x
            assert float(q.log_prob(x)) == pytest.approx(float(exact), rel=20 * eps, abs=float(moved) * eps)
        for other, rate in ((k, 3.0), (k, 3.3), (k + 1, 3.0), (2 * k, 5.0)):
            p = Erlang(T(other), T(rate, dtype=dtype))
            a, b, ratio = FORTY.mpf(k), FORTY.mpf(other), FORTY.mpf(float(p.rate)) / 3
            exact = (a - b) * FORTY.digamma(a) - FORTY.loggamma(a) + FORTY.loggamma(b)
            exact = float(exact - b * FORTY.log(ratio) + a * (ratio - 1))
            for pair in ((q, p), (q, D.Gamma(p.concentration, p.rate)), (D.Gamma(q.concentration, q.rate), p)):
                assert float(kl_divergence(*pair)) == pytest.approx(exact, rel=40 * eps, abs=20 * eps)


def test_erlang_draws_at_large_shapes():
    """For more than a hundred exponentials a draw is that of a Gamma, and still differentiable with respect to the
    rate.
    """
    rate = T(2.0, dtype=F64, requires_grad=True)
    q = Erlang(10**6, rate)
    with drawing(generator(0)):
        x = q.rsample((20_000,))
    assert kolmogorov(T(scipy.stats.gamma(10**6, scale=0.5).cdf(x.detach()))) < 1.95
    (slope,) = torch.autograd.grad(x.sum(), rate)
    assert float(slope) == pytest.approx(float(-x.detach().sum() / 2), rel=1e-12)


# -- outside their support -------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [Gompertz(T([0.5, 30.0]), 2.0), Erlang(T([1, 4]), 2.0), Erlang(T([400]), 2.0)], ids=str)
def test_nothing_lies_outside(q):
    """Log density -inf below 0 and at infinity, with finite gradients; nan for nan; cdf 0 and 1."""
    x = T([-math.inf, -3.0, -1e-30, math.inf, 1e30])[:, None].requires_grad_()
    log_p = q.log_prob(x)
    assert (log_p[:4] == -math.inf).all()
    assert (log_p[4] < -1e29).all()
    seen = T([0.5, math.inf, -1.0])[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(q.log_prob(seen).sum(), seen)
    assert torch.isfinite(slope).all()
    assert q.log_prob(T([math.nan])).isnan().all()
    assert (q.cdf(x.detach())[:3] == 0).all()
    assert (q.cdf(x.detach())[3:] == 1).all()


def test_at_zero():
    """The density at 0 is b eta; for Erlang the rate if k = 1, and 0 if k > 1."""
    assert Gompertz(T(0.5, dtype=F64), 2.0).log_prob(T(0.0)).item() == pytest.approx(0.0)
    assert Erlang(T([1, 2, 500]), T(3.0, dtype=F64)).log_prob(T(0.0)).tolist() == [math.log(3), -math.inf, -math.inf]


def test_quantiles_at_the_ends_and_beyond():
    q = Gompertz(T(0.5, dtype=F64), 2.0)
    assert q.icdf(T([0.0, 1.0])).tolist() == [0.0, math.inf]
    u = torch.linspace(0, 0.999, 200, dtype=F64)
    for shape in (1e-8, 1.0, 1e8):
        q = Gompertz(T(shape, dtype=F64), 2.0)
        torch.testing.assert_close(q.cdf(q.icdf(u)), u, rtol=1e-13, atol=0)
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"^a probability must be in \[0, 1\], got {wrong}$"):
            q.icdf(T([0.5, wrong]))


# -- integers and half precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Gompertz, Erlang])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16])
def test_parameters_of_other_dtypes_are_taken_in_single_precision(kind, dtype):
    q, single = kind(T([1, 3], dtype=dtype), T([2, 1], dtype=dtype)), kind(T([1.0, 3.0]), T([2.0, 1.0]))
    for name in ("mean", "variance", "mode"):
        assert getattr(q, name).dtype == torch.float32
        assert torch.equal(getattr(q, name), getattr(single, name))
    draws = []
    for law in (q, single):
        with drawing(generator(0)):
            draws.append(law.rsample((5,)))
    assert torch.equal(*draws)
    assert torch.equal(q.entropy(), single.entropy())
    assert torch.equal(kind(T([1, 3]), 0.5).mean, kind(T([1.0, 3.0]), 0.5).mean)  # 0.5 is no integer 0
    assert kind(3, 0.5).mean.dtype == torch.float32
    assert kind(T(3), T(0.5, dtype=F64)).mean.dtype == F64

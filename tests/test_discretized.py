"""Likelihoods of 8-bit data against SciPy, mpmath and finite differences."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from jensen.core.seeding import drawing, generator
from jensen.distributions import (
    Binary,
    BinaryLogits,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Levels,
    measure,
    soft_clamp,
)

F64 = torch.float64
T = torch.tensor


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
    """Against mpmath with sixty digits, scales from 0.001 to 100: within 2 eps^0.8 / 4.5, the promised accuracy at
    the switch from difference to series, plus relative rounding and rounding of an edge.
    """
    mpmath.mp.dps, eps = 60, torch.finfo(dtype).eps

    def cdf(z):
        return mpmath.ncdf(z) if law is DiscretizedGaussian else 1 / (1 + mpmath.exp(-z))

    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
        for loc in (-1.2, -0.3, 0.0, 2.0):
            q = law(T(loc, dtype=dtype), T(scale, dtype=dtype))
            levels = q.enumerate_support()[[0, 1, 50, 126, 127, 128, 133, 254, 255]]
            for level, ours in zip(levels.tolist(), q.log_prob(levels).tolist(), strict=True):
                s, m, h = (mpmath.mpf(v) for v in (float(q.scale), float(q.loc), mpmath.mpf(1) / 255))
                x = round((level + 1) * 127.5) * 2 * h - 1
                a, b = (x - h - m) / s, (x + h - m) / s
                if x == -1:
                    exact = mpmath.log(cdf(b))
                elif x == 1:
                    exact = mpmath.log(cdf(-a))
                else:
                    exact = mpmath.log(cdf(-a) - cdf(-b) if a > 0 else cdf(b) - cdf(a))
                moved = 2 * eps * (abs(x) + abs(m)) * (abs(x - m) / s + 1) / s  # by the rounding of an edge
                assert abs(ours - exact) < 2 * eps / (1920 * eps) ** 0.2 + 10 * eps * abs(exact) + moved


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_two_levels_are_a_bernoulli(dtype):
    """Against torch's Bernoulli of (x + 1) / 2: probabilities, moments and entropies, up to a logit of 800."""
    logits = T([-800.0, -20.0, -1.3, 0.0, 0.4, 30.0, 800.0], dtype=dtype)
    ours, theirs = Binary(logits), torch.distributions.Bernoulli(logits=logits.double())
    x = ours.enumerate_support()
    exact = torch.distributions.Bernoulli(logits=logits.double(), validate_args=False).log_prob((x.double() + 1) / 2)
    torch.testing.assert_close(ours.log_prob(x).double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.log_prob(x).logsumexp(0), torch.zeros_like(logits), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.mean.double(), 2 * theirs.mean - 1, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.variance.double(), 4 * theirs.variance, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(ours.entropy().double()[1:-1], theirs.entropy()[1:-1], rtol=1e-4, atol=1e-6)
    assert ours.entropy()[[0, -1]].tolist() == [0, 0]
    assert measure(BinaryLogits()(logits)) == "mass"
    expanded = ours.expand((3, 7))
    assert expanded.log_prob(x[1]).shape == (3, 7)


def test_draws_of_two_levels():
    """20,000 draws of each: shares within 4 standard errors, all values -1 or 1."""
    ours = Binary(T([-2.0, 0.3, 1.5]))
    with drawing(generator(0)):
        made = ours.sample((20_000,))
    assert made.unique().tolist() == [-1, 1]
    error = (ours.variance / 20_000).sqrt()
    assert bool(((made.mean(0) - ours.mean).abs() < 4 * error).all())
    for value in (0.0, 0.999, -2.0):
        with pytest.raises(ValueError, match="data must be -1 or 1, got values in"):
            BinaryLogits(2)(torch.zeros(4, 3)).log_prob(torch.full((4, 3), value))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_gradients_of_levels(law):
    """Against finite differences for all formulas in double precision; single precision agrees to 1e-3, also in the
    tails.
    """
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
    """Chi-square of 100,000 draws on 16 levels including the tails: above 37.7 with probability 0.001."""
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


def test_levels_family():
    out = torch.randn(5, 2, 6, 4, 4)
    for law in LAWS:
        q = Levels(law, event_dims=3)(out)
        assert (q.batch_shape, q.event_shape) == ((5, 2), (3, 4, 4))
        scale = soft_clamp(out[:, :, 3:], math.log(1e-3), math.log(1e2)).exp()
        x = q.sample()
        torch.testing.assert_close(q.log_prob(x), law(out[:, :, :3], scale).log_prob(x).sum((2, 3, 4)))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("levels", [2, 3, 256, 2048])
def test_extreme_parameters(law, dtype, levels):
    """Probabilities sum to one for scales from 1e-30 to 1e30 and any loc, because neighbouring cells share their
    edge bit for bit. No result is nan, and log-probabilities are -inf only where probabilities are 0.
    """
    for scale in (1e-30, 1e-6, 1e-3, 1.0, 1e6, 1e30):
        for loc in (-1e3, -1.0, 0.0, 1 / 255, 0.7, 5.0, 1e30):
            q = law(T(loc, dtype=dtype), T(scale, dtype=dtype), levels=levels)
            log_p = q.log_prob(q.enumerate_support())
            assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=2e-5 if dtype is not F64 else 1e-11)
            assert not log_p.isnan().any()
            for number in (q.mean, q.variance, q.entropy(), q.cdf(q.enumerate_support()).diff().min() + 1):
                assert torch.isfinite(number)
            assert float(q.entropy()) <= math.log(levels) * (1 + 1e-5)
            assert -1 - 1e-6 <= float(q.mean) <= 1 + 1e-6


def test_the_far_tail_of_a_gaussian_in_single_precision():
    """Cells too narrow or too far out for a difference of two logarithms, against mpmath with sixty digits."""
    mpmath.mp.dps = 60
    for levels, loc, scale in ((65_536, 1e3, 1e-3), (65_536, 1e3, 0.1), (256, 50.0, 0.02), (256, -7.0, 1e-4)):
        q = DiscretizedGaussian(T(loc), T(scale), levels=levels)
        for i in (1, levels // 3, levels - 2):
            m, s = (mpmath.mpf(float(v)) for v in (q.loc, q.scale))
            a, b = ((mpmath.mpf(2 * i + side) / (levels - 1) - 1 - m) / s for side in (-1, 1))
            near, far = sorted((abs(a), abs(b)))
            ratio = mpmath.erfc(far / mpmath.sqrt(2)) / mpmath.erfc(near / mpmath.sqrt(2)) if near < 1e4 else 0
            upper = -(near**2) / 2 - mpmath.log(near * mpmath.sqrt(2 * mpmath.pi)) if near >= 1e4 else None
            exact = upper if upper is not None else mpmath.log(mpmath.erfc(near / mpmath.sqrt(2)) / 2)
            exact += mpmath.log(1 - (ratio or mpmath.exp(-(far**2 - near**2) / 2)))
            assert float(q.log_prob(q.enumerate_support()[i])) == pytest.approx(float(exact), rel=2e-6)


def test_parameters_of_any_dtype():
    """Integers with floats, and half precision computed in single precision."""
    assert DiscretizedLogistic(T(0), 0.5).scale.item() == 0.5
    for dtype in (torch.bfloat16, torch.float16):
        q = DiscretizedGaussian(T([0.25, -0.5], dtype=dtype), T([0.5, 0.25], dtype=dtype))
        exact = DiscretizedGaussian(T([0.25, -0.5]), T([0.5, 0.25]))
        x = q.sample((100,))
        assert x.dtype == torch.float32
        assert torch.equal(q.log_prob(x), exact.log_prob(x))
        assert torch.equal(q.entropy(), exact.entropy())


def test_they_say_that_they_are_discrete():
    for q in (
        DiscretizedGaussian(0.0, 1.0),
        Levels()(torch.zeros(2, 6)),
        Levels(event_dims=3)(torch.zeros(1, 2, 4, 4)),
    ):
        assert q.support.is_discrete
        assert q.support.check(q.sample()).all()
    assert not DiscretizedGaussian(0.0, 1.0).support.check(T([0.3, 1.1, math.nan])).any()

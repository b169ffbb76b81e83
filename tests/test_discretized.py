"""Likelihoods of 8-bit data against scipy, mpmath and finite differences."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from jensen.core.seeding import drawing, generator
from jensen.distributions import DiscretizedGaussian, DiscretizedLogistic, Levels, soft_clamp

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


def test_levels_family():
    out = torch.randn(5, 2, 6, 4, 4)
    for law in LAWS:
        q = Levels(law, event_dims=3)(out)
        assert (q.batch_shape, q.event_shape) == ((5, 2), (3, 4, 4))
        scale = soft_clamp(out[:, :, 3:], math.log(1e-3), math.log(1e2)).exp()
        x = q.sample()
        torch.testing.assert_close(q.log_prob(x), law(out[:, :, :3], scale).log_prob(x).sum((2, 3, 4)))

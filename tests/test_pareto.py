"""The tail of importance weights: the fit against known distributions and a published program, and reliable errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal

from jensen.core.seeding import generator
from jensen.distributions import CategoricalPrior, Conditional, IsotropicGaussian, OneHotLogits
from jensen.models import VAE
from jensen.variational import LinearGaussian, ais_log_likelihood, log_likelihood, pareto_k, pareto_limit
from jensen.variational.importance import LogMean
from jensen.variational.pareto import generalized_pareto, tail_length

F64 = torch.float64


def published(log_w):
    """k of `psislw` in ArviZ 0.17 (stats/stats.py: _psislw and _gpdfit), for one datum, with reff = 1."""
    x = np.sort(log_w - log_w.max())
    cutoff = max(x[-math.ceil(min(0.2 * len(x), 3 * len(x) ** 0.5)) - 1], np.log(np.finfo(float).tiny))
    ary = np.exp(x[x > cutoff]) - np.exp(cutoff)
    n, prior_bs, prior_k = len(ary), 3, 10
    m_est = 30 + int(n**0.5)
    b_ary = 1 - np.sqrt(m_est / (np.arange(1, m_est + 1, dtype=float) - 0.5))
    b_ary /= prior_bs * ary[int(n / 4 + 0.5) - 1]
    b_ary += 1 / ary[-1]
    k_ary = np.log1p(-b_ary[:, None] * ary).mean(axis=1)
    len_scale = n * (np.log(-(b_ary / k_ary)) - k_ary - 1)
    weights = 1 / np.exp(len_scale - len_scale[:, None]).sum(axis=1)
    real = weights >= 10 * np.finfo(float).eps
    weights, b_ary = weights[real] / weights[real].sum(), b_ary[real]
    k_post = np.log1p(-np.sum(b_ary * weights) * ary).mean()
    return (n * k_post + prior_k * 0.5) / (n + prior_k)


@pytest.mark.parametrize("k", [-0.5, 0.1, 0.5, 1.0, 2.0])
def test_the_fit_knows_the_shape_of_a_generalized_pareto_law(k):
    """300 draws, 2,000 repetitions: the mean fit is within 0.03 of k, and its standard deviation within 10% of (1 +
    k) / sqrt(n) for k > 0.
    """
    draws = np.sort(stats.genpareto(k, scale=3.0).rvs((300, 2000), random_state=0), axis=0)
    found = generalized_pareto(torch.from_numpy(draws))
    assert float(found.mean()) == pytest.approx(k, abs=0.03)
    if k > 0:
        assert float(found.std()) == pytest.approx((1 + k) / 300**0.5, rel=0.1)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("count", [100, 1000, 5000])
def test_k_is_the_published_programs(scale, count):
    log_w = scale * np.random.default_rng(0).standard_normal((count, 4))
    ours = LogMean.of(torch.from_numpy(log_w)).estimate("density").pareto_k
    np.testing.assert_allclose(ours, [published(column) for column in log_w.T], rtol=1e-9)


@pytest.mark.parametrize("variance", [0.25, 0.5, 0.8])
def test_k_of_too_narrow_a_proposal(variance):
    """Proposal N(0, c^2) for N(0, 1): w = c e^{z^2 (1/c^2 - 1) / 2} has P(w > t) = t^{-1 / (1 - c^2)} / sqrt(log t).
    So k is 1 - c^2; the logarithmic factor lowers the estimate by 0.1. 200 runs of 20,000 draws.
    """
    x = torch.zeros(200, 1, dtype=F64)
    k = log_likelihood(shifted(0.0, variance**0.5), x, 20_000, generator=generator(0)).pareto_k
    assert 1 - variance - 0.12 < float(k.mean()) < 1 - variance + 0.02


def shifted(far, width=0.1):
    """A model with one latent and posterior N(0, 1), and a q whose mean is `far` away."""
    return LinearGaussian(
        torch.zeros(1, 1, dtype=F64), [0.0], 1.0, encoder=lambda x: Independent(Normal(x + far, width), 1)
    )


@pytest.mark.parametrize("samples", [10, 99, 100, 5000])
def test_an_estimate_near_one_effective_sample_has_no_error(samples):
    """q = N(40, 0.1) for N(0, 1): log p is off by hundreds of nats, while the delta method states an error of 1."""
    x = torch.zeros(20, 1, dtype=F64)
    estimate = log_likelihood(shifted(40.0), x, samples, generator=generator(0))
    exact = shifted(40.0).log_prob(x)
    assert float((exact - estimate.value).min()) > 500
    assert float(estimate.ess.median()) < 2.5
    assert bool(estimate.stderr.isinf().all())
    assert bool(estimate.pareto_k.isnan().all()) == (samples < 100)
    if samples >= 100:
        assert float(estimate.pareto_k.min()) > pareto_limit(samples)


def test_equal_weights_have_no_tail():
    """The posterior as its own proposal: k is -inf and the error 0, for at least two draws, also in float32."""
    for dtype in (F64, torch.float32):
        model = LinearGaussian(torch.ones(1, 1, dtype=dtype), [0.0], 0.3)
        x = torch.tensor([[0.0], [2.0]], dtype=dtype)
        for samples in (2, 30, 5000):
            estimate = log_likelihood(model, x, samples)
            assert estimate.pareto_k.tolist() == [-math.inf] * 2
            assert float(estimate.stderr.max()) < 1e-5
        one = log_likelihood(model, x, 1)
        assert one.stderr.tolist() == [math.inf] * 2
        assert bool(one.pareto_k.isnan().all())


def test_a_tail_that_doubles_cannot_hold_is_no_tie():
    """Weights that differ by factors e^1000: relative to the largest all others underflow; k is still large,
    although the excesses are 0.
    """
    log_w = -1000 * torch.arange(5000, dtype=F64)[:, None]
    estimate = LogMean.of(log_w).estimate("density")
    assert (estimate.pareto_k.tolist(), estimate.stderr.tolist()) == ([math.inf], [math.inf])
    alone = torch.full((5000, 1), -math.inf, dtype=F64)
    alone[0] = 0.0
    assert LogMean.of(alone).estimate("mass").pareto_k.isnan().all()  # all others are 0, and so tied


def test_few_weights_and_ties():
    """99 weights are too few for k, 100 suffice; a tied largest value is no tail."""
    log_w = 0.3 * torch.randn(100, 1, dtype=F64, generator=generator(0))
    few, enough = (LogMean.of(v).estimate("mass") for v in (log_w[1:], log_w))
    assert few.pareto_k.isnan().all()
    assert few.stderr.isfinite().all()
    assert float(enough.pareto_k) == pytest.approx(published(log_w[:, 0].numpy()))
    tied = torch.tensor([0.0] * 900 + [2.0] * 100, dtype=F64)[:, None]
    assert LogMean.of(tied).estimate("mass").pareto_k.tolist() == [
        -math.inf
    ]  # there are more largest values than the tail has entries
    loose = torch.tensor([0.0] * 990 + [2.0] * 10, dtype=F64)[:, None]
    assert LogMean.of(loose).estimate("mass").pareto_k.isnan().all()
    assert LogMean.of(loose).estimate("mass").stderr.isfinite().all()
    giants = torch.tensor([0.0] * 998 + [40.0] * 2, dtype=F64)[:, None]
    assert LogMean.of(giants).estimate("mass").stderr.isinf().all()


def test_a_discrete_model_sums_over_its_classes():
    """Three classes, enumerated: within 4 standard errors, which are finite."""
    torch.manual_seed(0)
    encoder = Conditional(nn.Linear(2, 3), OneHotLogits(1, 3))
    decoder = Conditional(nn.Sequential(nn.Flatten(-2), nn.Linear(3, 2)), IsotropicGaussian())
    model, x = VAE(encoder, decoder, CategoricalPrior(1, 3)), torch.randn(4, 2)
    every = torch.eye(3)[:, None, None].expand(3, 4, 1, 3)
    exact = (model.log_px(x, (every,)) - math.log(3)).logsumexp(0)
    estimate = model.log_likelihood(x, generator=generator(0))
    assert bool(((estimate.value - exact).abs() < 4 * estimate.stderr + 1e-5).all())
    assert float(estimate.stderr.max()) < 0.1


def test_tail_and_limit():
    assert [tail_length(n) for n in (1, 5, 100, 225, 5000)] == [1, 1, 20, 45, 213]
    assert [pareto_limit(n) for n in (1, 10, 100, 10**5)] == [-math.inf, 0.0, 0.5, 0.7]
    assert pareto_k(torch.zeros(1, 3), 1).isnan().all()


@pytest.mark.parametrize("memory", [1e-9, 1e-3])
def test_a_memory_that_holds_nothing_takes_one_at_a_time(memory):
    """With chunks of one datum the estimates are still within 4 standard errors of log p."""
    model = LinearGaussian(torch.ones(1, 1, dtype=F64), [0.0], 1.0)
    wide = LinearGaussian(model.weight, model.bias, 1.0, encoder=lambda x: Independent(Normal(x / 2, 1.0), 1))
    x = torch.tensor([[0.0], [1.0], [-2.0]], dtype=F64)
    estimate = log_likelihood(wide, x, 100, generator=generator(0), memory=memory)
    assert bool(((estimate.value - model.log_prob(x)).abs() < 4 * estimate.stderr).all())
    assert bool((estimate.stderr < 0.2).all())
    annealed = ais_log_likelihood(wide, x, 20, 16, 2, generator(0), memory)
    assert bool(((annealed.value - model.log_prob(x)).abs() < 4 * annealed.stderr).all())

"""The best q of a datum: exact where it is known, and with an estimate of the remaining gap elsewhere."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch.distributions import Independent, Normal

from gaussians import draws, hierarchy
from jensen.core.seeding import drawing, generator
from jensen.distributions import BernoulliLogits
from jensen.models import VAE
from jensen.variational import LinearGaussian, amortization_gap, fit_posterior, gap_split, posterior_trace
from jensen.variational.ascent import noise
from jensen.variational.inference import Fitted

F64 = torch.float64


def halving(x):
    return Independent(Normal(x / 2, torch.ones_like(x)), 1)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("values", [[1.0, 1.0], [30.0], [-1000.0, 0.0, 3.0]])
@pytest.mark.parametrize("start", ["encoder", "prior"])
def test_a_posterior_in_the_family_leaves_no_gap(values, dtype, start):
    """z in one dimension, noise 0.01, encoder N(x / 2, 1): the family contains the posterior, however poor the
    encoder is.
    """
    model = LinearGaussian(torch.ones(1, 1, dtype=dtype), [0.0], 0.01, encoder=halving)
    x = torch.tensor(values, dtype=dtype)[:, None]
    split = gap_split(model, x, log_p=model.log_likelihood(x), start=start, generator=generator(0))
    rounding = 1e2 * torch.finfo(dtype).eps * (1 + split.log_p.value.abs())
    assert bool((split.approximation.value.abs() < rounding).all())
    assert bool((split.left.abs() < rounding).all())
    (q,) = fit_posterior(model, x, start=start, generator=generator(0))
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(q.mean, x / 1.01, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(q.stddev, torch.full_like(x, (0.01 / 1.01) ** 0.5), rtol=tolerance**0.5, atol=0)


def test_correlated_posteriors_of_any_scale_have_their_best_factors():
    """8 latents with scales from 0.01 to 100 and correlations up to a condition number of 10^3: exact to 1e-6 nats.
    The best factors have the mean of the posterior and the inverse diagonal of its precision as variances.
    """
    scales = torch.logspace(-2, 2, 8, dtype=F64)
    mixing = (
        torch.linalg.qr(draws(8, 8)).Q * torch.logspace(0, 1.5, 8, dtype=F64) @ torch.linalg.qr(draws(8, 8, seed=1)).Q
    )
    model = LinearGaussian(mixing / scales, torch.zeros(8), 1.0)
    x = 5 * draws(6, 8, seed=2)
    posterior = model.posterior(x)
    precision = posterior.precision_matrix
    ideal = Independent(Normal(posterior.mean, precision.diagonal(dim1=1, dim2=2).rsqrt()), 1)
    found = fit_posterior(model, x, generator=generator(0))
    short = model.elbo(ideal, x) - model.elbo(found[0], x)
    assert -1e-8 < float(short.min()) < float(short.max()) < 1e-6
    assert bool(found.stationary.all())


def test_what_is_left_is_the_natural_step_of_the_slope():
    """P = 1 + 1/4, from N(m, s^2): (s P (mu - m))^2 / 2 + (1 - s^2 P)^2 / 4, which is 0 at the posterior."""
    model, x = LinearGaussian(torch.ones(1, 1, dtype=F64), [0.0], 4.0), torch.tensor([[2.0], [-1.0]], dtype=F64)
    p, mean = 1.25, x / 5
    for shift, std in ((0.0, 1.25**-0.5), (0.7, 0.5), (-2.0, 3.0)):
        q = Independent(Normal(mean + shift, torch.full_like(x, std)), 1)
        fitted = fit_posterior(model, x, steps=0, start=(q,), generator=generator(0))
        left = (std * p * shift) ** 2 / 2 + (1 - std**2 * p) ** 2 / 4
        torch.testing.assert_close(fitted.left, torch.full((2,), left, dtype=F64))
        assert fitted.stationary.tolist() == [left < 0.05] * 2


def test_a_fit_that_did_not_arrive_says_so():
    model = LinearGaussian(torch.ones(2, 2, dtype=F64) + torch.eye(2), torch.zeros(2), 0.01)
    x = 10 * draws(5, 2)
    with pytest.warns(UserWarning, match=r"not reached for \d of 5 data: one more step would gain up to .* nats"):
        fitted = fit_posterior(model, x, steps=1, generator=generator(0))
    assert float(fitted.left.max()) > 1
    with pytest.warns(UserWarning, match="was not reached"):
        gap = amortization_gap(model, x, steps=1, samples=10, start="prior", generator=generator(0))
    log_p = model.log_likelihood(x)
    with pytest.warns(UserWarning, match="was not reached"):
        split = gap_split(model, x, log_p=log_p, steps=1, samples=10, start="prior", generator=generator(0))
    for found in (gap, split.approximation, split.amortization):
        assert float(found.left.max()) > 1
    assert split.total.left is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(fit_posterior(model, x, generator=generator(0)).left.max()) < 1e-6
        fit_posterior(model, x, steps=0)


def test_a_fit_where_there_is_no_bound_says_so():
    """log(z + 1/2) is nan for a third of the draws of a standard normal, although its derivative is finite there."""

    class Logarithm(LinearGaussian):
        def log_px(self, x, z):
            return (z[0][..., 0] + 0.5).log()

    model = Logarithm(torch.ones(1, 1, dtype=F64), [0.0], 1.0)
    with pytest.warns(UserWarning, match="not reached for 2 of 2 data: one more step would gain up to inf nats"):
        fitted = fit_posterior(model, torch.zeros(2, 1, dtype=F64), generator=generator(0))
    assert fitted.left.tolist() == [math.inf] * 2


def test_what_noise_hides_is_not_stationary():
    (q,) = fit_posterior(LinearGaussian([[1.0]], [0.0], 1.0), torch.zeros(1, 1), generator=generator(0))
    assert Fitted((q,), torch.tensor([-3.0, 0.04, -0.04, 3.0])).stationary.tolist() == [False, True, True, False]


def test_a_fit_is_a_sequence_of_layers():
    deep, flat = hierarchy()
    x = flat.sample(3, generator=generator(1))
    fitted = fit_posterior(deep, x, generator=generator(0))
    assert [tuple(q.event_shape) for q in fitted] == [(3,), (2,)]
    assert fitted[1] is fitted.layers[1]
    assert len(fitted[:1]) == 1
    assert posterior_trace(deep, x, fitted, samples=2).log_px.shape == (2, 3)


class Logistic:
    """z ~ N(0, 1), and three bits with logits a z + b."""

    measure = "mass"
    a, b = torch.tensor([3.0, -2.0, 5.0], dtype=F64), torch.tensor([0.5, 1.0, -1.0], dtype=F64)

    def prior_sample(self, shape):
        return (torch.randn(*shape, 1, dtype=F64),)

    def log_prior(self, z):
        return Normal(0.0, 1.0).log_prob(z[0]).sum(-1)

    def log_px(self, x, z):
        return BernoulliLogits()(self.a * z[0] + self.b).log_prob(x)

    def trace(self, x, **options):
        return posterior_trace(self, x, (Independent(Normal(torch.zeros(len(x), 1), 1.0), 1),))


def test_a_posterior_that_is_not_gaussian():
    """The best Gaussian by quadrature and SciPy: for 8 data the bound is within 0.003 nats of its optimum and never
    above it.
    """
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 3)
    model = Logistic()
    (q,) = fit_posterior(model, bits, generator=generator(0))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    a, b = model.a.numpy(), model.b.numpy()

    def bound(at, x):
        z = at[0] + math.exp(at[1]) * nodes
        logits = a * z[:, None] + b
        inside = (x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)).sum(1) - z**2 / 2
        return weights @ inside + at[1] + 0.5

    for row, x in enumerate(bits.numpy()):
        best = optimize.minimize(lambda at, x=x: -bound(at, x), np.zeros(2), tol=1e-10)
        ours = bound((float(q.mean[row]), math.log(float(q.stddev[row]))), x)
        assert -1e-9 < -best.fun - ours < 3e-3


@pytest.mark.parametrize(("samples", "dims", "count"), [(1, 1, 2), (8, 3, 12), (128, 16, 128), (100, 7, 112)])
def test_noise_has_the_moments_of_a_normal_law_exactly(samples, dims, count):
    with drawing(generator(0)):
        e = noise(samples, dims, torch.zeros((), dtype=F64))
    assert e.shape == (count, dims)
    torch.testing.assert_close(e.mean(0), torch.zeros(dims, dtype=F64))
    torch.testing.assert_close(e.T @ e / count, torch.eye(dims, dtype=F64))


def test_noise_has_the_radii_of_a_normal_law():
    """Fourth and sixth moments of a coordinate, 3 and 15, over 20,000 draws in two dimensions: within 5%."""
    with drawing(generator(0)):
        e = noise(20_000, 2, torch.zeros((), dtype=F64))
    assert float(e.pow(4).mean()) == pytest.approx(3, rel=0.05)
    assert float(e.pow(6).mean()) == pytest.approx(15, rel=0.05)


def test_the_loss_of_a_vae_is_not_the_searchs():
    """A small VAE of bits: the fits that start from the encoder and from the prior agree to 0.01 nats."""
    from jensen.distributions import Conditional, DiagonalGaussian, GaussianPrior
    from jensen.nn import mlp

    torch.manual_seed(0)
    decoder = Conditional(mlp(3, 16, 12), BernoulliLogits())
    with torch.no_grad():
        decoder.net[-1].weight.mul_(8)
    model = VAE(Conditional(mlp(12, 16, 6), DiagonalGaussian()), decoder, GaussianPrior(3)).double()
    x = model.sample(20, generator=generator(1))
    one, two = (fit_posterior(model, x, start=s, generator=generator(0)) for s in ("encoder", "prior"))
    assert float(one.left.abs().max()) < 0.05
    torch.testing.assert_close(one[0].mean, two[0].mean, rtol=0, atol=0.02)

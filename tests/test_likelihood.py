"""log p(x): the linear-Gaussian oracle, importance sampling and annealed importance sampling, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from gaussians import draws, hierarchy
from jensen.core.seeding import drawing, generator
from jensen.distributions import CategoricalPrior, Conditional, Flat, IsotropicGaussian, OneHotLogits
from jensen.models import HVAE
from jensen.variational import LinearGaussian, ais_log_likelihood, elbo, log_likelihood, log_weights
from jensen.variational.ais import _move, _Tempered, temperatures
from jensen.variational.importance import LogMean, bytes_made, parts
from jensen.variational.pareto import tail_length

F64 = torch.float64


def gaussian(latents, seed=5):
    """A correlated Gaussian away from the origin."""
    root = torch.eye(latents, dtype=F64) + 0.4 * draws(latents, latents, seed=seed)
    return MultivariateNormal(draws(latents, seed=seed + 1), root @ root.T)


def oracle(dims=4, latents=2, encoder=None, prior="correlated", noise=None):
    prior = gaussian(latents) if prior == "correlated" else prior
    noise = torch.linspace(0.3, 0.9, dims, dtype=F64) if noise is None else noise
    return LinearGaussian(draws(dims, latents, seed=1), draws(dims, seed=2), noise, prior, encoder)


def widened(model, scale=1.5, shift=0.0):
    """The posterior with its standard deviations multiplied by `scale` and its mean shifted by `shift` of them."""

    def encoder(x):
        q = model.posterior(x)
        return MultivariateNormal(q.mean + shift * q.stddev, scale_tril=scale * q.scale_tril)

    return LinearGaussian(model.weight, model.bias, model.noise, model.prior, encoder)


# the oracle ---------------------------------------------------------------------------------------------------------


def test_evidence_is_the_marginal_gaussian():
    model = oracle()
    w, b, s, m = (v.numpy() for v in (model.weight, model.bias, model.noise, model.prior.mean))
    exact = stats.multivariate_normal(w @ m + b, w @ model.prior.covariance_matrix.numpy() @ w.T + np.diag(s))
    x = draws(5, 4)
    np.testing.assert_allclose(model.log_prob(x), exact.logpdf(x), rtol=1e-12)
    assert model.log_likelihood(x).kind == "exact"


def test_posterior_is_the_joint_gaussian_conditioned():
    """By the Schur complement of the joint covariance, independently of the oracle's precisions."""
    model, x = oracle(), draws(5, 4)
    s0 = model.prior.covariance_matrix
    cross = s0 @ model.weight.T
    gain = cross @ torch.linalg.inv(model.weight @ cross + torch.diag(model.noise))
    mean = model.prior.mean + (x - model.weight @ model.prior.mean - model.bias) @ gain.T
    posterior = model.posterior(x)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.covariance_matrix, (s0 - gain @ cross.T).expand(5, 2, 2))


@pytest.mark.parametrize("prior", ["correlated", None, Flat(2)])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_bound_plus_divergence_is_the_evidence(prior, dtype):
    model, x = oracle(prior=prior).to(dtype), draws(5, 4).to(dtype)
    full = MultivariateNormal(draws(5, 2, seed=8).to(dtype), gaussian(2, seed=9).covariance_matrix.to(dtype))
    diagonal = Independent(Normal(draws(5, 2, seed=8).to(dtype), 0.7), 1)
    for q in (full, diagonal):
        assert float((model.elbo(q, x) + model.kl(q, x) - model.log_prob(x)).abs().max()) < (
            1e-10 if dtype == F64 else 1e-5 * float(model.log_prob(x).abs().max())
        )
        assert bool((model.kl(q, x) > 0.01).all())
    torch.testing.assert_close(model.elbo(model.posterior(x), x), model.log_prob(x))


def test_closed_bound_is_the_mean_of_sampled_ones():
    """n = 100,000 draws, 4 standard errors."""
    model = oracle()
    q = Independent(Normal(draws(3, 2, seed=3), torch.full((3, 2), 0.7, dtype=F64)), 1)
    sampled = LinearGaussian(model.weight, model.bias, model.noise, model.prior, lambda x: q)
    x = draws(3, 4)
    log_w = log_weights(sampled.trace(x, samples=100_000))
    error = log_w.std(0) / 100_000**0.5
    assert bool(((log_w.mean(0) - model.elbo(q, x)).abs() < 4 * error).all())
    analytic = sampled.trace(x, samples=100_000, analytic=True)
    assert analytic.analytic == (True,)
    assert bool(((elbo(analytic) - model.elbo(q, x)).abs() < 4 * error).all())


@pytest.mark.parametrize("prior", ["correlated", Flat(2)])
def test_every_weight_of_the_exact_posterior_is_the_evidence(prior):
    model, x = oracle(prior=prior), draws(3, 4)
    torch.testing.assert_close(log_weights(model.trace(x, samples=7)), model.log_prob(x).expand(7, 3))


def test_flat_prior_is_the_integral_of_the_likelihood():
    model = LinearGaussian(torch.tensor([[1.5], [-0.5]], dtype=F64), [0.2, 0.1], [0.3, 0.6], Flat(1))
    x = torch.tensor([[0.7, -1.1]], dtype=F64)

    def likelihood(z):
        return float(model.log_px(x, (torch.full((1, 1, 1), z, dtype=F64),)).exp())

    total, _ = integrate.quad(likelihood, -20, 20)
    first, _ = integrate.quad(lambda z: z * likelihood(z), -20, 20)
    assert float(model.log_prob(x)) == pytest.approx(math.log(total), rel=1e-9)
    assert float(model.posterior(x).mean) == pytest.approx(first / total, rel=1e-9)


def test_flat_prior_is_the_limit_of_wide_ones():
    flat, x = oracle(prior=Flat(2)), draws(3, 4)
    c = 1e9
    wide = oracle(prior=MultivariateNormal(torch.zeros(2, dtype=F64), c * torch.eye(2, dtype=F64)))
    torch.testing.assert_close(wide.log_prob(x) + math.log(2 * math.pi * c), flat.log_prob(x), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weight", [[[1.0, 2.0]], [[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]])
def test_flat_prior_is_refused_where_its_integral_diverges(weight):
    with pytest.raises(ValueError, match=r"weight must have full column rank, 2, for a flat prior, got 1"):
        LinearGaussian(weight, [0.0] * len(weight), 1.0, Flat(2))
    with pytest.raises(ValueError, match="cannot be sampled"):
        LinearGaussian([[1.0]], [0.0], 1.0, Flat(1)).sample(1)


def test_closed_form_fit_is_the_maximum():
    """Its value is that of Tipping & Bishop, its gradient is zero, and it reproduces the leading eigenvalues."""
    x = draws(60, 5) @ draws(5, 5, seed=1) + draws(5, seed=2)
    model = LinearGaussian.fit(x, 2)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[2:].mean()
    best = -(values[:2].log().sum() + 3 * noise.log() + 5 * math.log(2 * math.pi) + 5) / 2
    torch.testing.assert_close(model.log_prob(x).mean(), best)
    theta = [v.clone().requires_grad_() for v in (model.weight, model.bias, model.noise[0])]
    LinearGaussian(*theta).log_prob(x).mean().backward()
    assert max(float(v.grad.abs().max()) for v in theta) < 1e-10
    covariance = model.weight @ model.weight.T + torch.diag(model.noise)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance).flip(0)[:2], values[:2])
    assert LinearGaussian.fit(x.float(), 2).weight.dtype == torch.float32


def test_samples_have_the_marginal_moments():
    """n = 100,000, 4 standard errors of mean and of covariance."""
    model, n = oracle(), 100_000
    x = model.sample(n, generator=generator(3))
    mean = model.weight @ model.prior.mean + model.bias
    covariance = model.weight @ model.prior.covariance_matrix @ model.weight.T + torch.diag(model.noise)
    scale = covariance.diagonal()
    assert bool(((x.mean(0) - mean).abs() < 4 * (scale / n).sqrt()).all())
    error = ((covariance.square() + scale[:, None] * scale) / n).sqrt()
    assert bool(((torch.cov(x.T) - covariance).abs() < 4 * error).all())


def test_gradients_reach_theta_and_the_encoder():
    """At the exact posterior the gradient of the sampled bound is that of log p: the KL is stationary there."""
    model, x = oracle(prior=None), draws(6, 4)
    weight = model.weight.clone().requires_grad_()
    (exact,) = torch.autograd.grad(LinearGaussian(weight, model.bias, model.noise).log_prob(x).sum(), weight)
    held = model.posterior(x)
    (closed,) = torch.autograd.grad(LinearGaussian(weight, model.bias, model.noise).elbo(held, x).sum(), weight)
    torch.testing.assert_close(closed, exact)


# importance sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", ["encoder", "prior"])
def test_importance_sampling_is_right_and_knows_its_error(proposal):
    """z-scores of 400 data: mean 0 and standard deviation 1 within 4 standard errors (that of the standard deviation
    is 1 / sqrt(800)). With the prior as proposal, the 13 data with fewer than 50 effective samples of 2000 have no
    error estimate.
    """
    model = widened(oracle())
    x = model.sample(400, generator=generator(1))
    estimate = log_likelihood(model, x, 2000, proposal, generator(2))
    known = estimate.stderr.isfinite()
    assert int((~known).sum()) == {"encoder": 0, "prior": 13}[proposal]
    assert bool((estimate.ess[~known] < 50).all())
    z = ((estimate.value - model.log_prob(x)) / estimate.stderr)[known]
    bias = float(estimate.stderr[known].mean()) / 2  # of the logarithm, in standard errors
    assert abs(float(z.mean()) + bias) < 4 / 20
    assert abs(float(z.std()) - 1) < 4 / 800**0.5
    assert estimate.kind == "estimate"
    assert estimate.measure == "density"


def test_effective_samples_of_an_encoder_in_closed_form():
    """With proposal N(0, c^2) for N(0, 1) in d dimensions, K / ESS is (c^2 / sqrt(2 c^2 - 1))^d: 64 runs, 4 standard
    errors.
    """
    model = widened(oracle(), scale=1.5)
    x = model.sample(1, generator=generator(1)).expand(64, 4)
    estimate = log_likelihood(model, x, 4000, generator=generator(2))
    share, exact = estimate.ess / 4000, (1.5**2 / math.sqrt(2 * 1.5**2 - 1)) ** -2
    assert abs(float(share.mean()) - exact) < 4 * float(share.std()) / 8
    torch.testing.assert_close(estimate.stderr, ((4000 / estimate.ess - 1) / 3999).sqrt())


@pytest.mark.parametrize("dims", [1, 4])
def test_prior_monte_carlo_has_the_variance_theory_gives(dims):
    """With x|z ~ N(z, s^2) and z ~ N(0, 1), E w^2 = N(x; 0, 1 + s^2/2) / (2 s sqrt(pi)) per dimension. 64 runs of K
    = 4000: effective samples and squared errors within 4 standard errors of the closed form; in four dimensions the
    prior's share of effective samples is the fourth power, that of the exact posterior is 1.
    """
    s, point = 0.5, 0.8
    eye = torch.eye(dims, dtype=F64)
    model = LinearGaussian(eye, torch.zeros(dims), s**2)
    x = torch.full((64, dims), point, dtype=F64)
    second = stats.norm(0, math.sqrt(1 + s**2 / 2)).pdf(point) / (2 * s * math.sqrt(math.pi))
    share = (stats.norm(0, math.sqrt(1 + s**2)).pdf(point) ** 2 / second) ** dims
    estimate = log_likelihood(model, x, 4000, "prior", generator(0))
    seen = estimate.ess / 4000
    assert abs(float(seen.mean()) - share) < 4 * float(seen.std()) / 8
    square = estimate.stderr.square()
    assert abs(float(square.mean()) - (1 / share - 1) / 4000) < 4 * float(square.std()) / 8
    spread = float((estimate.value - model.log_prob(x)).square().mean())  # a mean of 64 squares
    assert abs(spread * 4000 / (1 / share - 1) - 1) < 4 * math.sqrt(2 / 64)
    exact = log_likelihood(model, x, 4000, generator=generator(0))
    torch.testing.assert_close(exact.ess, torch.full((64,), 4000.0, dtype=F64))
    assert float(exact.stderr.max()) < 1e-6


def test_chunks_are_put_together_exactly():
    log_w = 0.4 * draws(500, 3) + torch.tensor([-1e4, 0.0, 1e4], dtype=F64)
    whole = LogMean.of(log_w).estimate("mass")
    torch.testing.assert_close(whole.value, log_w.logsumexp(0) - math.log(500))
    weight = (log_w - log_w.max(0).values).exp()
    torch.testing.assert_close(whole.ess, weight.sum(0).square() / weight.square().sum(0), rtol=1e-9, atol=0)
    relative = weight.std(0) / 500**0.5 / weight.mean(0)
    torch.testing.assert_close(whole.stderr, relative, rtol=1e-9, atol=0)
    for size in (1, 7, 499):
        pieces = [LogMean.of(v, keep=tail_length(500) + 1) for v in log_w.split(size)]
        total = sum(pieces[1:], start=pieces[0]).estimate("mass")
        assert len(sum(pieces[1:], start=pieces[0]).largest) == 69  # of 500, 3 sqrt(500) and the next
        for name in ("value", "stderr", "ess", "pareto_k"):
            torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_weights_of_zero_say_nothing():
    log_w = torch.tensor([[-math.inf, -math.inf], [-math.inf, 0.0]])
    estimate = LogMean.of(log_w).estimate("mass")
    assert estimate.value.tolist() == [-math.inf, pytest.approx(-math.log(2))]
    assert estimate.ess.tolist() == [0.0, 1.0]
    assert estimate.stderr.tolist() == [math.inf, math.inf]
    assert LogMean.of(torch.zeros(1, 1)).estimate("mass").stderr[0] == math.inf


class Watched(LinearGaussian):
    """Records the numbers of samples and data of each call."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def trace(self, x, *, samples=1, **options):
        self.asked.append((samples, len(x)))
        return super().trace(x, samples=samples, **options)


@pytest.mark.parametrize("memory", [0.5, 2.0, 1024.0])
def test_chunks_keep_within_memory_and_leave_nothing_out(memory):
    plain = widened(oracle())
    model = Watched(plain.weight, plain.bias, plain.noise, plain.prior, plain.encoder)
    x = plain.sample(300, generator=generator(1))
    estimate = log_likelihood(model, x, 250, generator=generator(2), memory=memory)
    measured, chunks = model.asked[:2], model.asked[2:]
    assert measured == [(2, 2), (3, 2)]
    assert sum(k * b for k, b in chunks) == 300 * 250
    assert len(chunks) < 100  # not one chunk per datum
    assert memory < 1024 or chunks == [(250, 300)]
    k, b = max(chunks, key=math.prod)
    made = bytes_made(lambda: log_weights(plain.trace(x[:b], samples=k)), x)
    assert (memory < 1024) * memory * 2**20 / 4 < made <= memory * 2**20
    again = log_likelihood(plain, x, 250, generator=generator(2), memory=memory)
    assert bool((again.value == estimate.value).all())
    z = (estimate.value - plain.log_prob(x)) / estimate.stderr
    assert abs(float(z.std()) - 1) < 4 / 600**0.5  # for all chunk sizes


def test_bytes_made():
    x, w = torch.zeros(2, 4), torch.zeros(4, 3)
    assert bytes_made(lambda: x @ w, x) == 2 * 3 * 4
    assert bytes_made(lambda: x.exp().mT[1:], x) == 32  # views allocate nothing
    assert bytes_made(lambda: x.exp().add_(1), x) == 32  # nor do in-place operations
    assert bytes_made(lambda: (x.exp() + 1).double(), x) == 32 + 32 + 64
    state = torch.random.get_rng_state()
    bytes_made(lambda: torch.randn(5), x)
    assert bool((torch.random.get_rng_state() == state).all())


def test_any_posterior_proposes():
    model, x = widened(oracle(), shift=20.0), draws(3, 4)
    estimate = log_likelihood(model, x, 10, lambda part: (model.posterior(part),), generator(0), memory=0.5)
    torch.testing.assert_close(estimate.value, model.log_prob(x))
    torch.testing.assert_close(estimate.ess, torch.full((3,), 10.0, dtype=F64))


def test_estimates_follow_the_data():
    model, x = oracle().float(), draws(3, 4).float()
    estimate = log_likelihood(model, x, 10)
    assert {estimate.value.dtype, estimate.stderr.dtype, estimate.ess.dtype} == {torch.float32}
    assert not estimate.value.requires_grad


# annealed importance sampling ---------------------------------------------------------------------------------------


def sharp(encoder=None):
    """A model whose posterior standard deviations are a tenth of the prior's."""
    return LinearGaussian(1.5 * draws(6, 3, seed=1), torch.zeros(6), 0.2, encoder=encoder)


def test_annealing_is_right_within_its_error_where_a_bad_proposal_fails():
    """100 data: z-scores have mean 0 and standard deviation 1 within 4 standard errors; importance sampling is off
    by tens of nats.
    """
    model = widened(sharp(), scale=0.3, shift=6.0)
    x = model.sample(100, generator=generator(1))
    estimate = ais_log_likelihood(model, x, steps=400, chains=64, leapfrog=2, generator=generator(2))
    exact = model.log_prob(x)
    z = (estimate.value - exact) / estimate.stderr
    assert abs(float(z.mean()) + float(estimate.stderr.mean()) / 2) < 4 / 10
    assert abs(float(z.std()) - 1) < 4 / 200**0.5
    assert float(estimate.stderr.median()) < 0.15
    fooled = log_likelihood(model, x, 5000, generator=generator(2))
    assert float((exact - fooled.value).min()) > 10
    assert float(fooled.ess.median()) < 5


def test_weights_are_unbiased_however_badly_chains_mix():
    """Three temperatures: the mean weight is p(x), 20,000 chains, 4 standard errors."""
    model, x = oracle(), draws(2, 4)
    estimate = ais_log_likelihood(model, x, steps=3, chains=20_000, leapfrog=1, generator=generator(3))
    assert bool(((estimate.value - model.log_prob(x)).abs() < 4 * estimate.stderr).all())
    prior = ais_log_likelihood(model, x, steps=1, chains=20_000, generator=generator(3))
    plain = log_likelihood(model, x, 20_000, "prior", generator(4))
    assert bool(((prior.value - plain.value).abs() < 4 * torch.hypot(prior.stderr, plain.stderr)).all())
    assert bool((estimate.ess > prior.ess).all())


def test_moves_leave_every_tempered_law_as_it_is():
    """20,000 chains from exact draws, three moves with large leapfrog steps: moments within 4 standard errors."""
    model, x, beta, n = oracle(), draws(1, 4), 0.3, 20_000
    tempered_law = LinearGaussian(model.weight, model.bias, model.noise / beta, model.prior).posterior(x)
    tempered = _Tempered(model, x)
    with drawing(generator(1)):
        state = tempered.at(tempered_law.sample((n,)))
        for _ in range(3):
            state, accepted = _move(tempered, state, beta, torch.tensor([0.9], dtype=F64), leapfrog=3)
    assert 0.3 < float(accepted.mean()) < 0.9
    z, mean, covariance = state.z[:, 0], tempered_law.mean[0], tempered_law.covariance_matrix[0]
    scale = covariance.diagonal()
    assert bool(((z.mean(0) - mean).abs() < 4 * (scale / n).sqrt()).all())
    error = ((covariance.square() + scale[:, None] * scale) / n).sqrt()
    assert bool(((torch.cov(z.T) - covariance).abs() < 4 * error).all())


def test_leapfrog_is_of_second_order():
    """The rejection rate falls with the square of the step size, as does the energy error over a trajectory of fixed
    length.
    """
    model, x = oracle(), draws(1, 4)
    tempered = _Tempered(model, x)
    errors = []
    for halvings in (3, 4, 5):
        with drawing(generator(1)):
            state = tempered.at(model.posterior(x).sample((2000,)))
            _, accepted = _move(tempered, state, 1.0, torch.tensor([0.8 / 2**halvings], dtype=F64), 2**halvings)
        errors.append(math.log(1 - float(accepted.mean())))
    assert (errors[0] - errors[2]) / (2 * math.log(2)) == pytest.approx(2, abs=0.2)


def test_temperatures_are_a_sigmoid_from_end_to_end():
    t = temperatures(10)
    assert (float(t[0]), float(t[5]), float(t[10])) == (0, pytest.approx(0.5), 1)
    s = stats.logistic.cdf(np.linspace(-4, 4, 11))
    np.testing.assert_allclose(t, (s - s[0]) / (s[-1] - s[0]), rtol=1e-12)


def test_annealing_moves_all_layers_of_a_hierarchy():
    """20 examples, within 4 standard errors each; the encoders are untrained."""
    model, exact = hierarchy()
    x = exact.sample(20, generator=generator(1))
    estimate = ais_log_likelihood(model, x, steps=100, chains=32, leapfrog=5, generator=generator(2))
    assert float(estimate.stderr.max()) < 0.5
    assert bool(((estimate.value - exact.log_prob(x)).abs() < 4 * estimate.stderr).all())
    assert all(p.grad is None for p in model.parameters())


def test_chunks_of_data_keep_chains_together():
    model = sharp()
    x = model.sample(12, generator=generator(1))
    estimate = ais_log_likelihood(model, x, steps=200, chains=32, leapfrog=2, generator=generator(2), memory=0.3)
    assert estimate.value.shape == (12,)
    assert bool(((estimate.value - model.log_prob(x)).abs() < 4 * estimate.stderr).all())


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"proposal": "posterior"}, "proposal must be 'encoder', 'prior' or a function of x, got 'posterior'"),
        ({"x": torch.zeros(0, 4, dtype=F64)}, r"x must have at least 1 row, got shape \(0, 4\)"),
        ({"x": torch.zeros(2, 5, dtype=F64)}, r"x must be \(B, 4\), got \(2, 5\)"),
        (
            {"proposal": lambda x: (Independent(Normal(x[:, :3], 1.0), 1),)},
            r"posterior must have batch shape \(2,\) and event shape \(2,\), got \(2,\) and \(3,\)",
        ),
        (
            {"proposal": lambda x: (Normal(x[:, :2], 1.0),)},
            r"posterior must have batch shape \(2,\) and event shape \(2,\), got \(2, 2\) and \(\)",
        ),
        ({"proposal": lambda x: ()}, "posterior must have one distribution per layer, 1, got 0"),
    ],
)
def test_likelihoods_refuse(options, message):
    options = {"model": oracle(), "x": draws(2, 4), "samples": 5, **options}
    with pytest.raises(ValueError, match=message):
        log_likelihood(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"leapfrog": 0}, "leapfrog must be at least 1, got 0"),
        ({"x": torch.zeros(0, 4, dtype=F64)}, "x must have at least 1 row"),
        ({"model": oracle(prior=Flat(2))}, "flat prior is improper and cannot be sampled"),
    ],
)
def test_annealing_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ais_log_likelihood(**{"model": oracle(), "x": draws(2, 4), **options})


def test_annealing_refuses_discrete_latents():
    flatten = nn.Sequential(nn.Flatten(-2), nn.Linear(6, 4))
    encoder = Conditional(nn.Linear(4, 6), OneHotLogits(2, 3))
    model = HVAE([encoder], [Conditional(flatten, IsotropicGaussian())], CategoricalPrior(2, 3))
    with pytest.raises(ValueError, match="sampling needs reparameterized latents, and the draws of layer 1"):
        ais_log_likelihood(model, torch.zeros(2, 4))
    assert bool(torch.isfinite(log_likelihood(model, torch.zeros(2, 4), 10).value).all())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearGaussian([[1.0]], [0.0, 0.0], 1.0), r"weight must be \(D, L\), bias \(D,\)"),
        (lambda: LinearGaussian([[1.0]], [0.0], [1.0, 1.0]), r"noise \(\) or \(D,\)"),
        (lambda: LinearGaussian([[1.0]], [0.0], 0.0), "noise, a variance, must be positive"),
        (lambda: LinearGaussian([[1.0]], [0.0], 1.0, gaussian(2)), r"prior must be over \(1,\), got \(2,\)"),
        (lambda: LinearGaussian([[1.0]], [0.0], 1.0, Normal(torch.zeros(1), 1.0)), "must be a Gaussian over a vector"),
        (lambda: LinearGaussian.fit(torch.randn(9, 3), 0), "latent must be at least 1 and below 3"),
        (lambda: LinearGaussian.fit(torch.randn(9, 3), 3), "latent must be at least 1 and below 3"),
        (lambda: LinearGaussian.fit(torch.randn(9, 1) @ torch.ones(1, 3), 1), "x lies in 1 dimensions"),
        (
            lambda: LinearGaussian.fit(1e3 + torch.randn(20, 1) * torch.tensor([1.0, 0.3, 0.7]), 1),
            "x lies in 1 dimensions",
        ),
        (lambda: oracle().log_prob(torch.zeros(2, 3, dtype=F64)), r"x must be \(B, 4\), got \(2, 3\)"),
        (lambda: oracle().trace(draws(2, 4), samples=0), "samples must be at least 1, got 0"),
        (
            lambda: oracle(encoder=lambda x: Independent(Normal(x, 1.0), 1)).trace(draws(2, 4)),
            r"encoder must return batch shape \(2,\) and event shape \(2,\), got \(2,\) and \(4,\)",
        ),
        (
            lambda: oracle().elbo(Independent(Normal(draws(2, 4), 1.0), 1), draws(2, 4)),
            r"q must have event shape \(2,\), got \(4,\)",
        ),
    ],
)
def test_the_oracle_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_parts():
    assert list(parts(6, 3)) == [3, 3]
    assert list(parts(2, 3)) == [2]

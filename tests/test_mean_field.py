"""Mean-field inference against closed forms, enumeration, SciPy and scikit-learn."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from jensen.core.protocols import Bounded, Sampleable
from jensen.core.seeding import generator
from jensen.variational import GaussianMixtureVI, MixturePrior, coordinate_ascent
from jensen.variational.mean_field import (
    FactorisedGaussian,
    MixtureFactors,
    NormalWishart,
    RobbinsMonro,
    gaussian_mean_field,
    mixture_log_evidence,
    table_mean_field,
)
from jensen.variational.mean_field.quadratic import Frame, features, forms, row_chunks, unpacked
from jensen.variational.mean_field.seeds import best_centres, k_means, nearest, seeds

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def precision_matrix(d, seed=0):
    a = randn(d, d + 2, seed=seed)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=F64)


# The driver and the two small models --------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.9, 0.5])
def test_a_correlated_gaussian_in_two_dimensions(rho):
    """Variances (1 - rho^2) s_j^2, divergence -log(1 - rho^2)/2, and an error of the means that falls by rho^2 per
    sweep.
    """
    s, mu = torch.tensor([2.0, 0.5], dtype=F64), torch.tensor([1.0, -3.0], dtype=F64)
    covariance = torch.diag(s) @ torch.tensor([[1, rho], [rho, 1]], dtype=F64) @ torch.diag(s)
    found = gaussian_mean_field(mu, torch.linalg.inv(covariance))
    torch.testing.assert_close(found.state.variance, (1 - rho**2) * s**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.state.mean, mu, rtol=0, atol=1e-5)
    assert -float(found.elbo[-1]) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=1e-11)
    assert found.converged
    first, second = (gaussian_mean_field(mu, torch.linalg.inv(covariance), sweeps=n, tolerance=0.0) for n in (1, 2))
    assert not first.converged
    torch.testing.assert_close(second.state.mean - mu, rho**2 * (first.state.mean - mu), rtol=1e-9, atol=0)


def test_a_correlated_gaussian_in_five_dimensions():
    """The bound is minus torch's KL, is lower for other factors, and converges to the closed form."""
    mu, precision = randn(5, seed=1), precision_matrix(5, seed=2)
    target = torch.distributions.MultivariateNormal(mu, precision_matrix=precision)
    start = FactorisedGaussian(randn(5, seed=3), torch.rand(5, dtype=F64) + 0.1)

    def kl(q):
        return torch.distributions.kl_divergence(
            torch.distributions.MultivariateNormal(q.mean, torch.diag(q.variance)), target
        )

    once = gaussian_mean_field(mu, precision, start, sweeps=1)
    torch.testing.assert_close(once.elbo[[0, -1]], -torch.stack([kl(start), kl(once.state)]))
    for j, scale, shift in itertools.product(range(5), (0.8, 1, 1.25), (-0.1, 0, 0.1)):
        best = start.updated(j, mu, precision)
        axis = torch.eye(5, dtype=F64)[j]
        other = FactorisedGaussian(best.mean + shift * axis, best.variance * scale**axis)
        assert kl(other) > kl(best) or (scale, shift) == (1, 0)
    found = gaussian_mean_field(mu, precision, start)
    torch.testing.assert_close(found.state.variance, 1 / precision.diagonal())
    exact = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    torch.testing.assert_close(-found.elbo[-1], exact, rtol=0, atol=1e-10)
    assert bool((found.elbo.diff() >= -1e-12).all())
    assert len(found.elbo) % 5 == 1  # the start, and five updates a sweep


def test_a_table_that_factorises_is_found_in_one_sweep():
    factors = [torch.softmax(randn(n, seed=n), 0) for n in (2, 3, 4)]
    log_p = torch.einsum("a,b,c->abc", *factors).log() + 1.5
    found = table_mean_field(log_p, sweeps=1)
    torch.testing.assert_close(found.state, tuple(factors))
    assert float(found.elbo[-1]) == pytest.approx(1.5, abs=1e-12)  # log Z


def test_the_start_decides_between_two_maxima():
    """Two strongly coupled spins: the solution depends on the initial factors."""
    log_p = 3 * torch.eye(2, dtype=F64)
    tilt = torch.tensor([0.6, 0.4], dtype=F64)
    up, down = (table_mean_field(log_p, (t, t)).state[0][0] for t in (tilt, tilt.flip(0)))
    assert up > 0.9
    torch.testing.assert_close(up, 1 - down)
    torch.testing.assert_close(*(table_mean_field(log_p, (s * tilt, tilt), sweeps=1).elbo for s in (1, 2)))


def test_the_driver_refuses_what_is_not_optimal():
    """A factor with half the right variance lowers the bound if the right factor was there before."""
    mu, precision = torch.zeros(2, dtype=F64), precision_matrix(2)

    def wrong(q):
        return FactorisedGaussian(q.mean, q.variance * torch.tensor([1.0, 0.5], dtype=F64))

    start = gaussian_mean_field(mu, precision).state
    with pytest.raises(ValueError, match=r"update 1 took the ELBO from .* an optimal factor never lowers it"):
        coordinate_ascent(start, [lambda q: q, wrong], lambda q: -q.kl(mu, precision))
    with pytest.raises(ValueError, match="never lowers"):  # it must not become nan either
        coordinate_ascent(0.0, [lambda q: math.nan], lambda q: torch.tensor(q))


def test_the_driver_counts_sweeps():
    seen = []
    found = coordinate_ascent(
        0, [lambda n: n + 1] * 2, lambda n: torch.tensor(1.0 - 0.5**n), sweeps=3, on_sweep=lambda *a: seen.append(a)
    )
    assert (found.state, found.converged) == (6, False)
    assert seen == [(1, 0.75), (2, 1 - 0.5**4), (3, 1 - 0.5**6)]
    found = coordinate_ascent(0, [lambda n: n + 1], lambda n: torch.tensor(1.0 - 0.5**n), tolerance=0.1)
    assert (found.state, found.converged, len(found.elbo)) == (4, True, 5)  # 1/16 is the first gain below
    assert coordinate_ascent(0, [lambda n: n + 1], lambda n: torch.tensor(0.0), sweeps=0).state == 0


# The conjugate law --------------------------------------------------------------------------------------------------


def law(d=3, seed=0):
    return NormalWishart(
        randn(d, seed=seed),
        torch.tensor(0.7 + seed, dtype=F64),
        torch.tensor(d + 1.3 * (seed + 1), dtype=F64),
        precision_matrix(d, seed=seed),
    )


def natural(p):
    """The natural parameters (log|Lambda|/2, -mu' Lambda mu/2, mu' Lambda, -Lambda/2), and log Z as a function of
    them.
    """
    outer = p.strength * torch.outer(p.mean, p.mean)
    return (p.degrees, p.strength, p.strength * p.mean, p.scatter + outer)


def log_normaliser(nu, kappa, pull, second):
    mean = pull / kappa
    return NormalWishart(mean, kappa, nu, second - kappa * torch.outer(mean, mean)).log_normaliser


def test_normal_wishart_is_normalised_as_scipy_is():
    """log Z is the difference between the unnormalised log density and SciPy's at any point; E log|Lambda| is twice
    its derivative with respect to nu.
    """
    p = law()
    precision, mu = torch.linalg.inv(precision_matrix(3, seed=9)), randn(3, seed=8)
    scipy = stats.wishart(float(p.degrees), torch.linalg.inv(p.scatter).numpy()).logpdf(precision.numpy())
    scipy += stats.multivariate_normal(p.mean, torch.linalg.inv(p.strength * precision)).logpdf(mu)
    gap = mu - p.mean
    exponent = -0.5 * (p.scatter * precision).sum() - 0.5 * p.strength * gap @ precision @ gap
    kernel = 0.5 * (p.degrees - 3) * torch.logdet(precision) + exponent
    assert float(p.log_normaliser) == pytest.approx(float(kernel) - scipy, abs=1e-9)
    (slope,) = torch.autograd.grad(log_normaliser(nu := p.degrees.clone().requires_grad_(), *natural(p)[1:]), nu)
    torch.testing.assert_close(p.expected_log_det, 2 * slope)


def test_divergence_is_the_bregman_divergence_of_the_normaliser():
    """KL(q

    p) = A(p) - A(q) - <grad A(q), p - q>, with the gradient by automatic differentiation.
    """
    q, p = law(seed=1), law(seed=2)
    at = [v.clone().requires_grad_() for v in natural(q)]
    slopes = torch.autograd.grad(log_normaliser(*at), at)
    inner = sum(((b - a) * g).sum() for a, b, g in zip(natural(q), natural(p), slopes, strict=True))
    torch.testing.assert_close(q.kl(p), p.log_normaliser - q.log_normaliser - inner)
    torch.testing.assert_close(q.kl(q), torch.zeros((), dtype=F64), rtol=0, atol=1e-12)
    assert q.kl(p) > 0.1


def sums_of(x):
    return torch.tensor(float(len(x)), dtype=F64), x.sum(0), x.T @ x


def student(p):
    """The predictive density of a Normal-Wishart distribution, from SciPy."""
    nu = float(p.degrees) - p.dims + 1
    shape = p.scatter * (p.strength + 1) / (p.strength * nu)
    return stats.multivariate_t(p.mean.numpy(), shape.numpy(), df=nu)


def test_evidence_of_one_component_is_a_chain_of_students():
    """log p(x_1, ..., x_5) by the ratio of normalising constants and by the product of SciPy's predictive densities."""
    x, prior = randn(5, 3, seed=3), law()
    after, chain = prior, 0.0
    for row in x:
        chain += student(after).logpdf(row.numpy())
        after = after.given(*sums_of(row[None]))
    at_once = prior.given(*sums_of(x))
    for name in ("mean", "strength", "degrees", "scatter"):
        torch.testing.assert_close(getattr(after, name), getattr(at_once, name))
    ratio = at_once.log_normaliser - prior.log_normaliser - 7.5 * math.log(2 * math.pi)
    assert float(ratio) == pytest.approx(chain, abs=1e-10)
    assert float(mixture_log_evidence(x, 1, MixturePrior(0.4, prior))) == pytest.approx(chain, abs=1e-10)


def test_evidence_of_three_components_is_a_sum_of_chains():
    """The Polya urn and SciPy's predictive densities, summed over the 3^4 assignments."""
    x, prior = randn(4, 2, seed=4), MixturePrior(0.6, law(d=2))
    terms = []
    for z in itertools.product(range(3), repeat=4):
        laws, counts, total = [prior.component] * 3, [0.6] * 3, 0.0
        for row, k in zip(x, z, strict=True):
            total += math.log(counts[k] / sum(counts)) + student(laws[k]).logpdf(row.numpy())
            laws[k], counts[k] = laws[k].given(*sums_of(row[None])), counts[k] + 1
        terms.append(total)
    assert float(mixture_log_evidence(x, 3, prior)) == pytest.approx(special.logsumexp(terms), abs=1e-10)


def test_a_law_moves_with_the_coordinates():
    """The posterior from x A + b with the transformed prior is the transformed posterior from x; divergences do not
    change.
    """
    x, a, b = randn(6, 3), randn(3, 3, seed=5), randn(3, seed=6)
    p, q = law(seed=1), law(seed=2)
    after, moved = p.given(*sums_of(x)).moved(b, a), p.moved(b, a).given(*sums_of(x @ a + b))
    torch.testing.assert_close(after.mean, moved.mean)
    torch.testing.assert_close(after.scatter, moved.scatter)
    torch.testing.assert_close(p.moved(b, a).kl(q.moved(b, a)), p.kl(q))


def test_a_scatter_that_rounding_spoils_is_put_back():
    """1e8 equal rows far from the origin: the difference of the sums is only rounding, so the posterior scatter is
    that of the prior.
    """
    prior = law()
    row = torch.tensor([1e6, -2e6, 3e6], dtype=F64)
    far = NormalWishart(row, *(getattr(prior, n) for n in ("strength", "degrees", "scatter")))
    spoilt = 1e8 * torch.outer(row, row) * (1 - 1e-12)  # the error is far larger than the scatter
    after = far.given(torch.tensor(1e8, dtype=F64), 1e8 * row, spoilt)
    assert math.isfinite(float(after.log_normaliser))
    assert float(torch.linalg.eigvals(torch.linalg.solve(prior.scatter, after.scatter)).real.min()) > 1 - 1e-3
    # impossible sums: half of the prior's scatter is subtracted, in one direction or in all
    zero, axis = torch.zeros(3, dtype=F64), torch.linalg.cholesky(prior.scatter)[:, :1]
    centred = NormalWishart(zero, *(getattr(prior, n) for n in ("strength", "degrees", "scatter")))
    for taken in (0.5 * prior.scatter, 0.5 * axis @ axis.T):
        after = centred.given(torch.tensor(0.0, dtype=F64), zero, -taken)
        torch.testing.assert_close(after.scatter, prior.scatter, rtol=1e-5, atol=1e-5)
    more = centred.given(torch.tensor(0.0, dtype=F64), zero, axis @ axis.T - 0.5 * 1e-7 * prior.scatter)
    torch.testing.assert_close(more.scatter, prior.scatter + axis @ axis.T, rtol=1e-6, atol=1e-6)


def test_packed_forms_and_sums():
    y, q, m, c = randn(5, 4), precision_matrix(4), randn(4, seed=1), randn(1, seed=2)
    phi, gap = features(y), y - m
    torch.testing.assert_close((forms(c, m[None], q[None]) @ phi)[0], c + ((gap @ q) * gap).sum(1))
    count, first, second = unpacked(torch.ones(1, 5, dtype=F64) @ phi.T, 4)
    torch.testing.assert_close((count[0], first[0], second[0]), sums_of(y))


def test_the_frame_whitens():
    """Mean 0 and covariance I; it remains invertible if a direction is constant."""
    x = blobs(200, d=3) + 50
    frame = Frame.whitening(x.mean(0), x.T.cov(correction=0))
    torch.testing.assert_close(frame(x).T.cov(correction=0), torch.eye(3, dtype=F64), rtol=0, atol=1e-10)
    torch.testing.assert_close(frame(x).mean(0), torch.zeros(3, dtype=F64), rtol=0, atol=1e-10)
    torch.testing.assert_close(frame.log_det, -0.5 * torch.logdet(x.T.cov(correction=0)))
    flat = Frame.whitening(torch.zeros(2), torch.diag(torch.tensor([4.0, 0.0])))
    assert math.isfinite(float(flat.log_det))
    assert math.isfinite(float(Frame.whitening(torch.zeros(2), torch.zeros(2, 2)).log_det))


# The mixture --------------------------------------------------------------------------------------------------------


def blobs(n=300, d=2, k=3, spread=3.0, seed=0):
    """Overlapping clusters with correlated noise."""
    centres, roots = spread * randn(k, d, seed=seed), randn(k, d, d, seed=seed + 1)
    label = torch.randint(k, (n,), generator=generator(seed + 2))
    return centres[label] + (roots[label] @ randn(n, d, 1, seed=seed + 3))[..., 0]


def soft(n, k, seed=0):
    return torch.softmax(2 * randn(n, k, seed=seed), 1)


class StartedAt(BayesianGaussianMixture):
    """scikit-learn's mixture, started from given responsibilities."""

    responsibilities: np.ndarray

    def _initialize_parameters(self, x, random_state, xp=None):
        self._initialize(x, self.responsibilities)


def peer(x, responsibilities, iterations, **settings):
    """scikit-learn's result after this number of iterations, without the ridge that it adds to the covariances."""
    model = StartedAt(
        n_components=responsibilities.shape[1],
        weight_concentration_prior_type="dirichlet_distribution",
        reg_covar=0.0,
        tol=0.0,
        max_iter=iterations,
        **settings,
    )
    model.responsibilities = responsibilities.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.numpy())


def left_out(x, prior, k):
    """The terms of the ELBO that scikit-learn's lower bound omits: normalising constants of the prior and powers of
    pi, from SciPy.
    """
    (n, d), law_, a = x.shape, prior.component, prior.concentration
    nu, kappa = float(law_.degrees), float(law_.strength)
    log_dirichlet = k * special.gammaln(a) - special.gammaln(k * a)
    log_wishart = 0.5 * nu * (d * math.log(2) - np.linalg.slogdet(law_.scatter.numpy())[1])
    log_wishart += special.multigammaln(nu / 2, d) - 0.25 * d * (d - 1) * math.log(math.pi)
    return -0.5 * n * d * math.log(2 * math.pi) - log_dirichlet - k * (log_wishart - 0.5 * d * math.log(kappa))


@pytest.mark.parametrize("given", [False, True])
def test_scikit_learn_from_the_same_start(given):
    """Parameters, responsibilities and, with the omitted terms, the bound at each of 25 iterations."""
    x, r = blobs(), soft(300, 4)
    prior = MixturePrior.around(x, 4)
    settings = {}
    if given:
        scatter = precision_matrix(2, seed=7)
        settings = {
            "weight_concentration_prior": 1.7,
            "mean_prior": np.array([1.0, -1.0]),
            "mean_precision_prior": 0.3,
            "degrees_of_freedom_prior": 4.5,
            "covariance_prior": scatter.numpy(),
        }
        numbers = (torch.tensor(v, dtype=F64) for v in ([1.0, -1.0], 0.3, 4.5))
        prior = MixturePrior(1.7, NormalWishart(*numbers, scatter))
    theirs = peer(x, r, 25, **settings)
    ours = GaussianMixtureVI(4, prior)
    ours.start(x, r)
    ascent = ours.fit(x, sweeps=25, tolerance=0.0)
    found, laws = ours.factors, ours.factors.components
    covariances = laws.scatter / laws.degrees[:, None, None]
    for mine, its in (
        (found.concentration, theirs.weight_concentration_),
        (found.concentration / found.concentration.sum(), theirs.weights_),
        (laws.strength, theirs.mean_precision_),
        (laws.mean, theirs.means_),
        (laws.degrees, theirs.degrees_of_freedom_),
        (covariances, theirs.covariances_),
        (torch.linalg.inv(covariances), theirs.precisions_),
        (ours.responsibilities(x), theirs.predict_proba(x.numpy())),
    ):
        np.testing.assert_allclose(mine.numpy(), its, rtol=1e-7, atol=1e-9)
    after_parameters = ascent.elbo[1::2].numpy()
    bounds = np.array(theirs.lower_bounds_)[: len(after_parameters)]  # ours stops where rounding dominates
    np.testing.assert_allclose(after_parameters, bounds + left_out(x, prior, 4), rtol=1e-8)
    assert after_parameters[-1] - after_parameters[0] > 20


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_bound_never_falls(scale):
    """To a relative 1e-9, at all updates until rounding dominates, also a thousand widths from the origin."""
    x = scale * (blobs(400, d=3, k=4) + (0 if scale == 1 else 1e3))
    mixture = GaussianMixtureVI(7, MixturePrior.around(x, 7))
    ascent = mixture.fit(x, sweeps=150, tolerance=0.0, generator=generator(0))
    assert len(ascent.elbo) > 100
    assert bool((ascent.elbo.diff() >= -1e-9 * ascent.elbo[1:].abs()).all())
    assert float(ascent.elbo[-1] - ascent.elbo[0]) > 10
    torch.testing.assert_close(mixture.elbo(x), ascent.elbo[-1], rtol=1e-12, atol=0)
    # what is returned is at its best: the bound from all factors is that from the parameters alone
    last = ascent.state.elbo(mixture._prior) + len(x) * mixture._frame.log_det
    torch.testing.assert_close(last, ascent.elbo[-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_never_above_the_evidence(seed):
    """Eight data, two components, 2^8 assignments: initially, after each update, for all initialisations."""
    x = blobs(8, k=2, spread=1.5, seed=10 * seed)
    prior = MixturePrior(0.8, law(d=2, seed=seed))
    evidence = float(mixture_log_evidence(x, 2, prior))
    gaps = []
    for r in (soft(8, 2, seed=seed), torch.full((8, 2), 0.5, dtype=F64), torch.eye(2, dtype=F64)[(x[:, 0] > 0).long()]):
        mixture = GaussianMixtureVI(2, prior)
        mixture.start(x, r)
        ascent = mixture.fit(x, tolerance=1e-9)
        gaps += [evidence - float(v) for v in ascent.elbo]
    assert min(gaps) > 1e-3
    assert min(gaps) < 5  # of a bound near -30: the factors miss the symmetry of the components, log 2, and more


def test_one_component_is_exact():
    """The bound is the evidence after the first update and later."""
    x, prior = randn(7, 3), MixturePrior(0.4, law())
    mixture = GaussianMixtureVI(1, prior)
    ascent = mixture.fit(x)
    exact = mixture_log_evidence(x, 1, prior)
    torch.testing.assert_close(ascent.elbo[1:], exact.expand(len(ascent.elbo) - 1), rtol=1e-12, atol=1e-11)


def test_nothing_seen_is_the_prior():
    prior = MixturePrior(0.4, law())
    mixture = GaussianMixtureVI(3, prior)
    torch.testing.assert_close(mixture.factors.kl(prior), torch.zeros((), dtype=F64), rtol=0, atol=1e-10)
    x = randn(5, 3)
    np.testing.assert_allclose(mixture.log_prob(x), student(prior.component).logpdf(x.numpy()))


def fitted(d=2, k=3, n=300):
    x = blobs(n, d=d)
    mixture = GaussianMixtureVI(k, MixturePrior.around(x, k))
    mixture.fit(x, generator=generator(1))
    return x, mixture


def test_predictive_density():
    """Against SciPy's Student distributions; the posterior by Bayes' rule; the gradient by differences."""
    _, mixture = fitted()
    x, found = 3 * randn(20, 2, seed=5), mixture.factors
    weights = found.concentration / found.concentration.sum()
    laws = [
        NormalWishart(*(getattr(found.components, n)[k] for n in ("mean", "strength", "degrees", "scatter")))
        for k in range(3)
    ]
    joint = np.stack([np.log(float(w)) + student(p).logpdf(x.numpy()) for w, p in zip(weights, laws, strict=True)], 1)
    np.testing.assert_allclose(mixture.log_prob(x), special.logsumexp(joint, 1), rtol=1e-9)
    np.testing.assert_allclose(mixture.posterior(x).probs, special.softmax(joint, 1), rtol=1e-7, atol=1e-12)
    assert torch.autograd.gradcheck(mixture.log_prob, (x[:3].clone().requires_grad_(),))
    assert mixture.log_likelihood(x).kind == "exact"
    assert isinstance(mixture, Bounded)
    assert isinstance(mixture, Sampleable)


def test_predictive_density_integrates_to_one():
    _, mixture = fitted(d=1)
    total, _ = integrate.quad(
        lambda v: float(mixture.log_prob(torch.tensor([[v]], dtype=F64)).exp()), -500, 500, limit=500, points=[-5, 0, 5]
    )
    assert total == pytest.approx(1, abs=1e-6)


def test_draws_follow_the_density():
    """n = 100,000 from a mixture: mean and covariance within 4 standard errors."""
    _, mixture = fitted()
    found, n = mixture.factors, 100_000
    laws, w = found.components, found.concentration / found.concentration.sum()
    x = mixture.sample(n, generator=generator(3))
    mean = w @ laws.mean
    nu = laws.degrees - 1
    within = (
        (laws.scatter * ((laws.strength + 1) / laws.strength / (nu - 2))[:, None, None]).mul(w[:, None, None]).sum(0)
    )
    gap = laws.mean - mean
    covariance = within + (gap * w[:, None]).T @ gap
    assert bool(((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all())
    products = torch.einsum("ni,nj->nij", x - mean, x - mean)
    assert bool(((products.mean(0) - covariance).abs() < 4 * products.std(0) / n**0.5).all())
    torch.testing.assert_close(mixture.sample(5, generator=generator(3)), mixture.sample(5, generator=generator(3)))


def test_draws_have_the_tails_of_the_density():
    """n = 20,000 from the prior's predictive density, with 2.3 degrees of freedom: each coordinate by Kolmogorov's
    test against SciPy's Student.
    """
    prior = law()
    draws = GaussianMixtureVI(2, MixturePrior(0.4, prior)).sample(20_000, generator=generator(4))
    nu = float(prior.degrees) - 2
    for i in range(3):
        scale = math.sqrt(float(prior.scatter[i, i] * (prior.strength + 1) / (prior.strength * nu)))
        assert stats.kstest(draws[:, i], stats.t(nu, float(prior.mean[i]), scale).cdf).pvalue > 1e-3


def test_tolerance_is_a_datums():
    """The last sweep is the first that gains less than 0.002 nats per datum."""
    x = blobs()
    mixture = GaussianMixtureVI(4, MixturePrior.around(x, 4))
    ascent = mixture.fit(x, tolerance=0.002, generator=generator(0))
    gains = ascent.elbo[::2].diff() / len(x)
    assert ascent.converged
    assert len(gains) > 2
    assert bool((gains[:-1] >= 0.002).all())
    assert float(gains[-1]) < 0.002


def test_the_fit_moves_with_the_coordinates():
    """Data x A + b from the same responsibilities: the same factors, transformed, and the bound minus N log|A|."""
    x, r = blobs(d=3), soft(300, 3)
    a, b = randn(3, 3, seed=5), 100 * randn(3, seed=6)
    prior = MixturePrior.around(x, 3)
    plain, moved = GaussianMixtureVI(3, prior), GaussianMixtureVI(3, MixturePrior(1 / 3, prior.component.moved(b, a)))
    bounds = []
    for mixture, data in ((plain, x), (moved, x @ a + b)):
        mixture.start(data, r)
        bounds.append(mixture.fit(data, sweeps=20, tolerance=0.0).elbo[-1])
    expected = plain.factors.components.moved(b, a)
    torch.testing.assert_close(moved.factors.components.mean, expected.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.factors.components.scatter, expected.scatter, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(bounds[1], bounds[0] - 300 * torch.linalg.slogdet(a).logabsdet)


def test_chunks_and_precisions_change_nothing_but_rounding():
    x, r = blobs(), soft(300, 3)
    found = {}
    for name, data, chunk in (("whole", x, None), ("chunks", x, 7), ("float32", x.float(), None)):
        mixture = GaussianMixtureVI(3, MixturePrior.around(x, 3))
        mixture.start(data, r, chunk=chunk)
        mixture.fit(data, sweeps=10, tolerance=0.0, chunk=chunk)
        found[name] = (
            mixture.sums,
            mixture.log_prob(data, chunk=chunk),
            mixture.responsibilities(data, chunk=chunk),
            mixture.elbo(data, chunk=chunk),
        )
    for one, other in zip(found["whole"], found["chunks"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert [v.dtype for v in found["float32"]] == [F64, torch.float32, torch.float32, F64]
    for one, other in zip(found["whole"], found["float32"], strict=True):
        torch.testing.assert_close(one, other.double(), rtol=2e-4, atol=2e-3)


def test_single_precision_loses_what_is_said():
    """Two clusters whose width is a hundredth of their distance: log densities to 1e-6 times 100^2."""
    x = torch.cat([randn(200, 2), randn(200, 2, seed=1) + 200])
    mixture = GaussianMixtureVI(2, MixturePrior.around(x, 2))
    mixture.fit(x, generator=generator(0))
    gap = (mixture.log_prob(x) - mixture.log_prob(x.float()).double()).abs().max()
    assert gap < 1e-2
    single = GaussianMixtureVI(2, MixturePrior.around(x.float(), 2))
    single.fit(x.float(), generator=generator(0))
    assert float((single.log_prob(x) - mixture.log_prob(x)).abs().max()) < 5e-2


def test_a_saved_mixture_comes_back():
    x, mixture = fitted()
    other = GaussianMixtureVI(3, MixturePrior(1.0, law(d=2)))
    other.load_state_dict(mixture.state_dict())
    torch.testing.assert_close(other.log_prob(x), mixture.log_prob(x), rtol=0, atol=0)
    assert other.prior.concentration == mixture.prior.concentration


# Where it starts ----------------------------------------------------------------------------------------------------


def test_seeds_find_clusters_far_apart():
    """Twelve clusters with widths 1/50 of their distances: one seed in each, for all generators, so the fit finds all
    of them.
    """
    corners = torch.tensor(list(itertools.product(range(4), range(3))), dtype=F64) * 50
    x = (corners[:, None] + randn(12, 20, 2)).flatten(0, 1)
    for seed in range(5):
        assert len(set(nearest(seeds(x, 12, generator(seed)), corners).tolist())) == 12
    numbers = (torch.tensor(v, dtype=F64) for v in ([75.0, 50.0], 0.01, 3.0))
    mixture = GaussianMixtureVI(12, MixturePrior(0.5, NormalWishart(*numbers, torch.eye(2, dtype=F64))))
    mixture.fit(x, generator=generator(0))
    np.testing.assert_allclose(mixture.factors.concentration, 20.5, rtol=1e-6)


def test_seeds_prefer_what_is_far():
    """K = 2, three places, squared distances from the first 1 and 9. Of two candidates the one with the smaller cost
    is taken: place 3 unless both candidates are place 2, so with probability 1 - 0.1^2; n = 2,000, 4 standard
    errors.
    """
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=F64)
    rng, hits, n = generator(0), 0, 0
    for _ in range(6_000):
        first, second = seeds(x, 2, rng)[:, 0].tolist()
        if first == 0:
            n, hits = n + 1, hits + (second == 3)
    assert abs(hits / n - 0.99) < 4 * (0.99 * 0.01 / n) ** 0.5


def test_k_means_goes_down_and_keeps_lost_centres():
    x = blobs()
    centres = torch.cat([x[:3], torch.full((1, 2), 1e4, dtype=F64)])

    def cost(c):
        return float(torch.cdist(x, c).square().amin(1).sum())

    costs = [cost(k_means(x, centres, rounds)) for rounds in range(6)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(costs))
    assert costs[-1] < 0.9 * costs[0]
    assert k_means(x, centres, 3)[3].tolist() == [1e4, 1e4]
    assert len(seeds(torch.zeros(5, 2), 3)) == 3  # fewer places than seeds


def test_the_best_of_several_tries():
    """Of ten tries with one generator, the one with the least cost by torch's distances."""
    x, rng = blobs(k=8), generator(0)
    found = [k_means(x, seeds(x, 5, rng), 4) for _ in range(10)]
    costs = torch.stack([torch.cdist(x, c).square().amin(1).sum() for c in found])
    assert costs.max() > 1.05 * costs.min()
    torch.testing.assert_close(best_centres(x, 5, tries=10, rounds=4, generator=generator(0)), found[costs.argmin()])


def test_a_start_on_a_part_of_the_data_counts_for_all():
    x = blobs(1000)
    mixture = GaussianMixtureVI(3, MixturePrior.around(x, 3))
    mixture.start(x, rows=100, generator=generator(0))
    count, first, _ = unpacked(mixture.sums, 2)
    assert float(count.sum()) == pytest.approx(1000)
    assert bool(((first.sum(0) / 1000).abs() < 0.5).all())  # mean 0 and variance 1: 5 standard errors of 100 rows


# Natural gradients --------------------------------------------------------------------------------------------------


def test_the_step_is_the_natural_gradient():
    """The gradient of the bound with respect to the sums is the Fisher matrix (the Hessian of the log normaliser, by
    automatic differentiation) times the difference to the sums of the best responsibilities.
    """
    x, r = blobs(30), soft(30, 2)
    prior = MixturePrior.around(x, 2)
    mixture = GaussianMixtureVI(2, prior)
    mixture.start(x, r)
    framed, phi = mixture._prior, features(mixture._frame(x))

    def bound(sums):
        found = MixtureFactors.given(framed, sums)
        return (found.expected_log_joint @ phi).logsumexp(0).sum() - found.kl(framed)

    def normaliser(sums):
        found = MixtureFactors.given(framed, sums)
        a = found.concentration
        return found.components.log_normaliser.sum() + torch.lgamma(a).sum() - torch.lgamma(a.sum())

    sums = mixture.sums.clone()
    gradient = torch.autograd.functional.jacobian(bound, sums).flatten()
    fisher = torch.autograd.functional.hessian(normaliser, sums).reshape(12, 12)
    mixture.natural_step(x, size=30, rate=1.0)
    torch.testing.assert_close(fisher @ (mixture.sums - sums).flatten(), gradient, rtol=1e-7, atol=1e-8)
    assert gradient.norm() > 0.1
    # and a partial step is that fraction
    other = GaussianMixtureVI(2, prior)
    other.start(x, r)
    other.natural_step(x, size=30, rate=0.3)
    torch.testing.assert_close(other.sums, 0.7 * sums + 0.3 * mixture.sums)


def test_batches_are_unbiased():
    """Over all batches of the data, the mean step is the step on the whole data, and the mean estimate is the bound."""
    x, r = blobs(120), soft(120, 3)
    prior = MixturePrior.around(x, 3)

    def started():
        mixture = GaussianMixtureVI(3, prior)
        mixture.start(x, r)
        return mixture

    whole = started()
    assert float(whole.natural_step(x, 120, 1.0)) == pytest.approx(float(started().elbo(x)), rel=1e-12)
    steps = []
    for part in x.split(20):
        mixture = started()
        steps.append((mixture.natural_step(part, 120, 1.0), mixture.sums))
    torch.testing.assert_close(torch.stack([s for _, s in steps]).mean(0), whole.sums)
    torch.testing.assert_close(torch.stack([e for e, _ in steps]).mean(), started().elbo(x))
    assert float(torch.stack([e for e, _ in steps]).std()) > 1


def test_whole_batches_at_rate_one_are_sweeps():
    x, r = blobs(), soft(300, 3)
    prior = MixturePrior.around(x, 3)
    sweeping, stepping = GaussianMixtureVI(3, prior), GaussianMixtureVI(3, prior)
    for mixture in (sweeping, stepping):
        mixture.start(x, r)
    ascent = sweeping.fit(x, sweeps=8, tolerance=0.0)
    bounds = stepping.fit_stochastic(x, steps=8, batch=300, rate=lambda _: 1.0, generator=generator(0))
    torch.testing.assert_close(stepping.sums, sweeping.sums, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds, ascent.elbo[:-1:2], rtol=1e-10, atol=0)


def test_batches_come_to_where_the_whole_does():
    """Ten epochs with batches of 1/40 end within 0.0005 nats per datum of the bound to which sweeps converge from
    the same start, 0.38 below it; with a constant rate they stay more than 0.01 below.
    """
    x = blobs(4000, d=3, k=4, spread=2.0)
    prior = MixturePrior.around(x, 4)
    whole, batches, constant = (GaussianMixtureVI(4, prior) for _ in range(3))
    trace = whole.fit(x, generator=generator(0), tolerance=1e-8).elbo
    seen = []
    estimates = batches.fit_stochastic(
        x, steps=400, batch=100, generator=generator(0), on_step=lambda *a: seen.append(a)
    )
    assert [n for n, _ in seen] == list(range(1, 401))
    np.testing.assert_allclose([v for _, v in seen], estimates, rtol=1e-12)
    constant.fit_stochastic(x, steps=400, batch=100, rate=lambda _: 0.5, generator=generator(0))
    assert float(estimates[0]) == pytest.approx(float(trace[0]), rel=0.05)
    gaps = [(float(trace[-1]) - float(v)) / len(x) for v in (trace[0], batches.elbo(x), constant.elbo(x))]
    assert gaps[0] > 0.3
    assert gaps[1] < 0.0005
    assert gaps[2] > 0.01


def test_every_row_is_seen_once_a_pass():
    """With rates 1/t the sums are the mean over the steps; with one component they are exact."""
    x = blobs(100)
    mixture = GaussianMixtureVI(1, MixturePrior.around(x, 1))
    mixture.fit_stochastic(x, steps=5, batch=20, rate=RobbinsMonro(0.0, 1.0), generator=generator(0))
    exact = GaussianMixtureVI(1, MixturePrior.around(x, 1))
    exact.fit(x)
    torch.testing.assert_close(mixture.sums, exact.sums)


def test_robbins_monro():
    rate = RobbinsMonro(delay=3.0, forgetting=0.6)
    assert [rate(t) for t in (1, 2)] == pytest.approx([4**-0.6, 5**-0.6])


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: coordinate_ascent(0, [], lambda s: s), "updates must be at least 1, got none"),
        (lambda: coordinate_ascent(0, [id], torch.tensor, sweeps=-1), "at least 0, got -1"),
        (lambda: gaussian_mean_field(torch.zeros(2), torch.eye(3)), "must agree"),
        (lambda: gaussian_mean_field(torch.zeros(2), -torch.eye(2)), "positive definite"),
        (lambda: gaussian_mean_field(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (
            lambda: gaussian_mean_field(
                torch.zeros(2), torch.eye(2), FactorisedGaussian(torch.zeros(2), torch.zeros(2))
            ),
            "positive variances",
        ),
        (lambda: table_mean_field(torch.tensor([0.0, -math.inf])), "finite table"),
        (lambda: table_mean_field(torch.zeros(2, 2), [torch.ones(2)]), "start must be positive factors"),
        (lambda: MixturePrior(0.0, law()), "must be positive, got 0"),
        (
            lambda: MixturePrior(1.0, NormalWishart(*(torch.ones(s) for s in ((2, 1), 2, 2, (2, 1, 1))))),
            "must be a single NormalWishart",
        ),
        (
            lambda: MixturePrior(1.0, NormalWishart(*(torch.ones(s) for s in ((2,), (), ())), torch.eye(2))),
            "above D - 1",
        ),
        (lambda: MixturePrior(1.0, NormalWishart(*(torch.ones(s) for s in ((1,), (), ())), -torch.eye(1))), "scatter"),
        (lambda: MixturePrior.around(torch.ones(5, 2), 2), "must vary in all its 2 directions"),
        (lambda: MixturePrior.around(torch.ones(5, 2, dtype=torch.int), 2), "x must be finite floats"),
        (lambda: MixturePrior.around(torch.full((5, 2), math.nan), 2), "x must be finite floats"),
        (lambda: MixturePrior.around(torch.ones(5), 2), "x must be"),
        (lambda: MixturePrior.around(randn(5, 2), 0), "components must be at least 1, got 0"),
        (lambda: GaussianMixtureVI(0, MixturePrior(1.0, law())), "components must be at least 1, got 0"),
        (lambda: RobbinsMonro(forgetting=0.5), "forgetting in"),
        (lambda: RobbinsMonro(delay=-1.0), "delay must be"),
        (lambda: mixture_log_evidence(randn(30, 3), 2, MixturePrior(1.0, law())), "at most 1,000,000"),
        (lambda: mixture_log_evidence(randn(3, 2), 2, MixturePrior(1.0, law())), "x must be"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def degenerate(name, dtype):
    """Data in a plane, up to rounding of the last digit."""
    x, y = randn(500, 1), randn(500, 2, seed=1)
    z = {
        "a column twice": torch.cat([x, x], 1),
        "a column in other units": torch.cat([x, 0.3 * x + 1], 1),
        "a column that is a sum": torch.cat([y, 0.7 * y.sum(1, keepdim=True) - 3], 1),
        "a constant column": torch.cat([x, torch.full_like(x, 0.1)], 1),
        "a constant far from 0": torch.cat([x, torch.full_like(x, 1e4 + 0.1)], 1),
        "as many rows as columns": randn(5, 5),
    }[name]
    return z.to(dtype)


DEGENERATE = (
    "a column twice",
    "a column in other units",
    "a column that is a sum",
    "a constant column",
    "a constant far from 0",
    "as many rows as columns",
)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", DEGENERATE)
def test_data_in_a_plane_are_refused(name, dtype):
    """Due to rounding some have a positive definite scatter of 1e-17, and would have a bound of thousands of nats."""
    with pytest.raises(ValueError, match="must vary in all its"):
        MixturePrior.around(degenerate(name, dtype), 3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_thin_data_are_not_in_a_plane(dtype):
    """A change of the unit of a column adds the logarithm of its factor per row to the bound; thin data are fitted
    too."""
    x = randn(500, 2).to(dtype)

    def bound(x):
        ascent = GaussianMixtureVI(1, MixturePrior.around(x, 1)).fit(x, generator=generator(0))
        return float(ascent.elbo[-1])

    scale = torch.tensor([1.0, 1e-9], dtype=dtype)
    assert bound(x * scale) - bound(x) == pytest.approx(500 * math.log(1e9), rel=1e-5)
    thin = torch.stack([x[:, 0], x[:, 0] + 1e-4 * x[:, 1]], 1)
    assert bound(thin) - bound(x) == pytest.approx(500 * math.log(1e4), rel=1e-3)
    assert bound(x + 1e4) == pytest.approx(bound(x), rel=1e-3)


def test_singular_matrices_are_refused_however_they_round():
    """A is D x L with L < D: A A' is singular, but due to rounding about one in four has a Cholesky factorisation."""
    for seed in range(20):
        a = randn(3, 2, seed=seed)
        with pytest.raises(ValueError, match="beyond rounding"):
            gaussian_mean_field(torch.zeros(3, dtype=F64), a @ a.T)
        with pytest.raises(ValueError, match="beyond rounding"):
            MixturePrior(
                1.0, NormalWishart(*(torch.ones(s, dtype=F64) for s in ((3,), ())), torch.tensor(3.0), a @ a.T)
            )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: m.fit(x[:, :1]), "x must be floats"),
        (lambda m, x: m.fit(x.int()), "x must be floats"),
        (lambda m, x: m.fit(x[:0]), "x must be floats"),
        (lambda m, x: m.fit(x / 0), "x must be finite"),
        (lambda m, x: m.fit(x, chunk=0), "chunk must be at least 1, got 0"),
        (lambda m, x: m.fit(x, sweeps=-1), "at least 0"),
        (lambda m, x: m.log_prob(x[0]), "x must be floats"),
        (lambda m, x: m.start(x, soft(9, 3)), "responsibilities must be probabilities"),
        (lambda m, x: m.start(x, 2 * soft(10, 3)), "responsibilities must be probabilities"),
        (lambda m, x: m.start(x, rows=0), "rows must be at least 1, got 0"),
        (lambda m, x: m.start(x, tries=0), "tries must be at least 1, got 0"),
        (lambda m, x: m.natural_step(x, 10, 0.5), "the mixture must be initialised"),
        (lambda m, x: m.fit_stochastic(x, steps=0), "steps must be at least 1, got 0"),
        (lambda m, x: m.fit_stochastic(x, steps=1, batch=11), "batch must be from 1 to 10, got 11"),
        (lambda m, x: m.fit_stochastic(x, steps=1, batch=5, rate=lambda _: 1.5), "rate in"),
        (lambda m, x: (m.start(x), m.natural_step(x, 5, 0.5)), "size must be at least 10"),
    ],
)
def test_bad_input_to_a_mixture(call, match):
    with pytest.raises(ValueError, match=match):
        call(GaussianMixtureVI(3, MixturePrior(1.0, law(d=2))), randn(10, 2))


def test_chunks_by_themselves_stay_small():
    """At most 64 MiB of features on a CPU, for any number of dimensions, and never the whole data at once."""
    for d in (2, 16, 200):
        x = torch.zeros(5000, d)
        sizes = [s.stop - s.start for s in row_chunks(x, None)]
        assert sizes[0] == min(2048, 2**26 // ((d + 1) * (d + 2) * 2))
        assert max(sizes) * (d + 1) * (d + 2) / 2 * 4 <= 2**26
        assert sum(len(x[s]) for s in row_chunks(x, None)) == 5000


def test_the_nearest_centre_is_found_far_from_0():
    """Centres at distance 1 near 1e4, in single precision: each row is assigned to its own centre, as it is near 0."""
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    labels = torch.arange(200) % 2
    x = centres[labels] + 0.1 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    for offset in (0.0, 1e4):
        assert torch.equal(nearest(offset + x, offset + centres), labels)

"""The marginal likelihood: by Monte Carlo, by importance sampling, by annealing, and in the log domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.check.evidence import Claims, Evidence, bounded, close, mean_is
from jensen.check.law import draws, law
from jensen.check.line import F64, f64
from jensen.core.seeding import drawing, generator
from jensen.report import plots
from jensen.variational import Estimate, LinearGaussian, ais_log_likelihood, elbo, iwae, log_likelihood

W, B, S2, X = 0.9, 0.2, 0.5, 1.3  # p(x|z) = N(W z + B, S2) with z ~ N(0, 1), one latent; and a datum
VARIANCE = W**2 + S2
LOG_P = -((X - B) ** 2) / (2 * VARIANCE) - math.log(2 * math.pi * VARIANCE) / 2  # log N(X; B, W^2 + S2)
PRECISION = 1 + W**2 / S2
MEAN = W * (X - B) / S2 / PRECISION  # of p(z|x) = N(MEAN, 1 / PRECISION)
PROPOSALS = {"N(0.5, 1)": (0.5, 1.0), "the prior N(0, 1)": (0.0, 1.0), "N(1, 0.8^2)": (1.0, 0.8)}


def model() -> LinearGaussian:
    """The model of the constants above."""
    return LinearGaussian(f64([[W]]), [B], S2)


def data(rows: int) -> Tensor:
    return torch.full((rows, 1), X, dtype=F64)


def gaussian(mean: float, std: float, x: Tensor) -> Distribution:
    """A q(z | x) that does not depend on x."""
    return Independent(Normal(torch.full_like(x, mean), torch.full_like(x, std)), 1)


def estimated(rows: int, samples: int, mean: float, std: float, seed: int) -> Estimate:
    """Log p(X) by importance samples of N(mean, std^2), estimated independently in each row."""
    return log_likelihood(model(), data(rows), samples, lambda x: (gaussian(mean, std, x),), generator(seed))


@law("marginal-likelihood/monte-carlo")
def monte_carlo(precision: float) -> Claims:
    r"""The mean of p(x|z) over samples of the prior is an unbiased estimate of p(x).

    $$p(x) = E_{p(z)}\,p(x|z) \approx \frac1K\sum_k p(x|z_k),\quad z_k \sim p(z)$$
    p(x) is the integral of p(x|z) p(z) over z. The logarithm of the estimate is biased downwards, by Jensen's
    inequality. Here z ~ N(0, 1) and x|z ~ N(0.9 z + 0.2, 0.5), so that x ~ N(0.2, 1.31).
    Source: Bishop (2006), equation 11.2; the model is its 2.115.
    """
    estimate = log_likelihood(model(), data(draws(2000, precision)), 50, "prior", generator(0))
    yield mean_is("mean estimate from 50 samples of the prior is p(x)", math.exp(LOG_P), estimate.value.exp())
    two = log_likelihood(model(), data(draws(4000, precision)), 2, "prior", generator(0))
    low = "mean logarithm of an estimate from 2 samples is below log p(x) - 0.05"
    yield mean_is(low, LOG_P - 0.05, two.value, relation="at most")


def square_ratio(dims: int) -> float:
    """E p(x|z)^2 / p(x)^2 for x = 0, x|z ~ N(z, I), z ~ N(0, I) in `dims` dimensions."""
    return float((2 / math.sqrt(3)) ** dims)


def draws_per_effective_draw(dims: int, rows: int) -> Tensor:
    """The number of samples K = 10,000 of plain Monte Carlo divided by the effective sample size, for each row."""
    flat = LinearGaussian(torch.eye(dims, dtype=F64), torch.zeros(dims, dtype=F64), 1.0)
    zeros = torch.zeros(rows, dims, dtype=F64)
    return 10_000 / log_likelihood(flat, zeros, 10_000, "prior", generator(dims)).ess


@law("marginal-likelihood/variance")
def variance_problem(precision: float) -> Claims:
    r"""Plain Monte Carlo's relative variance grows exponentially with the number of latents d.

    $$\frac{\mathrm{Var}_{p(z)}\,p(x|z)}{p(x)^2} = \Big(\frac{2}{\sqrt3}\Big)^d - 1$$
    p(x|z) is a product over dimensions, and so is its mean square. In one dimension N(0; z, 1)^2 = N(0; z, 1/2) /
    (2 sqrt(pi)), whose mean over z is N(0; 0, 3/2) / (2 sqrt(pi)); dividing by p(0)^2 = N(0; 0, 2)^2 gives 2/sqrt(3).
    The number of samples over the effective sample size tends to E p(x|z)^2 / p(x)^2.
    Source: Owen (2013), section 9.1; Gaussian integrals.
    Assumes: x = 0, x|z ~ N(z, I), z ~ N(0, I) in d dimensions.
    """
    for dims in (1, 2, 4, 8):
        exact, share = square_ratio(dims), draws_per_effective_draw(dims, draws(40, precision))
        bias = 3 * exact**3 / 10_000  # of a ratio of means
        yield mean_is(f"samples over effective sample size, d = {dims}", exact, share, bias=bias)


@variance_problem.drawn
def _variance_plot() -> str:
    dims = [1, 2, 4, 8, 16]
    measured = [float(draws_per_effective_draw(d, 10).mean()) for d in dims]
    rows = {"exact": [square_ratio(d) for d in dims], "measured": measured}
    return plots.curves(dims, rows, title="number of draws / effective sample size", xlabel="latents", log=True)


@law("importance-sampling/unbiased")
def importance_sampling(precision: float) -> Claims:
    r"""The mean of p(x, z) / q(z) over z ~ q is p(x), for any proposal q.

    $$p(x) = E_{q(z)}\,\frac{p(x|z)\,p(z)}{q(z)}$$
    q cancels in the integral of q(z) p(x, z) / q(z).
    Source: Owen (2013), equation 9.3; Burda et al. (2016), equation 8.
    Assumes: q > 0 wherever p(x, z) > 0.
    """
    for name, q in PROPOSALS.items():
        weights = estimated(draws(2000, precision), 50, *q, seed=1).value.exp()
        yield mean_is(f"mean importance weight for q = {name} is p(x)", math.exp(LOG_P), weights)


@law("errata/weights-without-prior")
def weights_without_prior(precision: float) -> Claims:
    r"""An importance weight must contain the prior: the mean of p(x|z) / q(z) is the integral of p(x|z) over z.

    $$p(x) = E_q\frac{p(x|z)\,p(z)}{q(z)} \ne E_q\frac{p(x|z)}{q(z)} = \int p(x|z)\,dz$$
    The integral of N(x; w z + b, v) over z is 1/w for every x, here 1/0.9 = 1.11; p(x) = N(x; b, w^2 + v) = 0.22.
    Source: Owen (2013), equation 9.3.
    """
    rows, q = draws(1000, precision), (0.5, 1.0)
    yield mean_is("mean weight p(x|z) p(z) / q(z)", math.exp(LOG_P), estimated(rows, 100, *q, seed=0).value.exp())
    x = data(rows)
    proposal = gaussian(*q, x)
    with drawing(generator(0)):
        z = proposal.sample(torch.Size((100,)))
    wrong = (model().log_px(x, (z,)) - proposal.log_prob(z)).exp().mean(0)
    yield mean_is("mean weight p(x|z) / q(z), without the prior", 1 / W, wrong)
    yield bounded("error of that mean", wrong.mean() - math.exp(LOG_P), 0.8, relation="at least")


@law("importance-sampling/optimal-proposal")
def optimal_proposal(precision: float) -> Claims:
    r"""The optimal proposal is the posterior: with q(z) = p(z|x) every importance weight is p(x).

    $$E_q\Big[\frac{p(x,z)^2}{q(z)^2}\Big] = p(x)^2\,\big(1 + \chi^2(p(z|x)\,\|\,q)\big)$$
    p(x, z) / p(z|x) = p(x) for every z, so that the weights have no variance. With any other q their relative variance
    is the chi-square divergence, which reduces the effective sample size. For a posterior N(m, 1/a) and q = N(mu, s^2)
    1 + chi^2 = a s / sqrt(c) exp(a (m - mu)^2 / (c s^2)) with c = 2a - 1/s^2 > 0.
    Source: Owen (2013), section 9.1; Kahn & Marshall (1953).
    """
    exact = log_likelihood(model(), data(5), 100, "encoder", generator(0))
    yield close("each estimate with q = p(z|x) is log p(x)", LOG_P, exact.value, 1e-10)
    yield close("standard error of these estimates is 0", 0.0, torch.as_tensor(exact.stderr), 1e-7)
    yield close("effective sample size of these estimates is the number of samples", 100.0, exact.ess, 1e-6)
    samples = 10_000
    for name, (mean, std) in PROPOSALS.items():
        estimate, c = estimated(draws(40, precision), samples, mean, std, seed=1), 2 * PRECISION - 1 / std**2
        ratio = PRECISION * std / math.sqrt(c) * math.exp(PRECISION * (MEAN - mean) ** 2 / (c * std**2))
        claim = f"samples over effective sample size, q = {name}: 1 + chi-square"
        yield mean_is(claim, ratio, samples / estimate.ess, bias=0.005 * ratio)
        scatter = torch.as_tensor(estimate.stderr).square().mean() * samples + 1
        yield close(f"1 + K stderr^2 of log p(x) from K samples, q = {name}", ratio, scatter, 0.05)


@law("importance-sampling/tail")
def tail(precision: float) -> Claims:
    r"""A proposal narrower than the posterior gives weights with a heavy tail, whose index k can be estimated.

    $$P(w > t) \sim t^{-1/k},\quad k = 1 - c^2\ \mathrm{for}\ q = N(\mu, c^2 \sigma^2)$$
    w = c exp(y^2 (1/c^2 - 1) / 2) with y = c e, e ~ N(0, 1): w > t where |e| > sqrt(2 log(t / c) / (1 - c^2)), of
    probability t^(-1 / (1 - c^2)) up to a factor sqrt(log t), which lowers estimates of k by 0.1 at most. For k >= 1/2
    the weights have infinite variance: their mean is unreliable. The weights of a wider proposal are bounded.
    Source: Vehtari et al. (2024), section 3; Zhang & Stephens (2009).
    Assumes: the posterior is N(mu, sigma^2).
    """
    rows, sigma = draws(20, precision), PRECISION**-0.5
    for share in (0.25, 0.5, 0.75):
        k = float(estimated(rows, 10_000, MEAN, share**0.5 * sigma, 1).pareto_k.mean())
        yield Evidence(f"estimated k for q with {share} of the posterior's variance", 1 - share, k, 0.12)
    wide = estimated(rows, 10_000, MEAN, 2 * sigma, 2)
    yield bounded("estimated k for q with 4 times its variance", wide.pareto_k, 0.0, relation="at most")
    far = estimated(rows, 10_000, MEAN + 40 * sigma, sigma / 10, 3)
    claim = "log p(x) minus its estimate, for q 40 standard deviations from the posterior, nats"
    yield bounded(claim, LOG_P - far.value, 100.0, relation="at least")
    finite = torch.as_tensor(far.stderr).isfinite().double().mean()
    yield Evidence("share of those estimates that report a finite standard error", 0.0, float(finite), 0.0)


@law("importance-sampling/annealed")
def annealed(precision: float) -> Claims:
    r"""The weights of annealed importance sampling have mean p(x), for any number of temperatures.

    $$E\prod_t p(x|z_{t-1})^{\beta_t - \beta_{t-1}} = p(x)$$
    The transition at each temperature keeps the tempered density, so that the weight of a chain is an importance weight
    on the space of paths, and the normaliser of the last density is p(x).
    Source: Neal (2001), equations 3 to 11.
    """
    estimate = ais_log_likelihood(model(), data(draws(400, precision)), steps=4, chains=8, generator=generator(0))
    yield mean_is("mean estimate from 8 chains with 4 temperatures", math.exp(LOG_P), estimate.value.exp())


@law("log-domain/underflow")
def underflow(_: float) -> Claims:
    r"""A product of many densities underflows to 0 in floating point; the sum of their logarithms does not.

    $$\log\prod_i p_i = \sum_i \log p_i,\quad \log\tfrac1K\sum_k w_k = \mathrm{logsumexp}_k \log w_k - \log K$$
    In single precision, numbers below 1e-45 are 0. The density of 1000 coordinates near their means is about
    (2 pi e)^-500 = 1e-616. Sums of logarithms, and means of weights by logsumexp, do not underflow.
    Source: Bishop (2006), section 1.2.4; Goodfellow et al. (2016), section 4.1.
    """
    dims = 1000
    single, x = LinearGaussian(torch.ones(dims, 1), torch.zeros(dims), 1.0), torch.sin(torch.arange(dims).float())[None]
    v = x[0].double()  # under N(0, I + 1 1'): |I + 1 1'| = 1 + D, inverse I - 1 1' / (1 + D)
    exact = float(-(v @ v - v.sum() ** 2 / (1 + dims)) / 2 - math.log(1 + dims) / 2 - dims * math.log(2 * math.pi) / 2)
    with drawing(generator(0)):
        trace = single.trace(x, samples=50)
    product = float(Normal(0.0, 1.0).log_prob(x[0]).exp().prod())
    yield Evidence("product of 1000 densities in single precision", 0.0, product, 0.0)
    weights = (trace.log_px - trace.kl[0]).exp()
    yield Evidence("mean of importance weights in single precision", 0.0, float(weights.mean()), 0.0)
    for name, value in (
        ("log p(x)", single.log_prob(x)),
        ("ELBO with q = p(z|x)", elbo(trace)),
        ("IWAE bound of 50 samples with q = p(z|x)", iwae(trace)),
        ("importance sampling", log_likelihood(single, x, 50, generator=generator(0)).value),
    ):
        yield close(f"{name} in single precision", exact, value, 1e-5 * abs(exact))
    yield bounded("log p(x) against log 1e-45", exact, -103.3, relation="at most")

"""The marginal likelihood: by Monte Carlo, by importance sampling, by annealing, and in the log domain."""

from __future__ import annotations

import math
from functools import partial

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
DIMS = (1, 2, 4, 8)


def model() -> LinearGaussian:
    """The model of the constants above."""
    return LinearGaussian(f64([[W]]), [B], S2)


def data(rows: int) -> Tensor:
    return torch.full((rows, 1), X, dtype=F64)


def gaussian(mean: float, std: float, x: Tensor) -> Distribution:
    """A q(z | x) that does not depend on x."""
    return Independent(Normal(torch.full_like(x, mean), torch.full_like(x, std)), 1)


def proposed(mean: float, std: float, x: Tensor) -> tuple[Distribution]:
    """That q as a proposal: one distribution a layer."""
    return (gaussian(mean, std, x),)


@law("marginal-likelihood/monte-carlo")
def monte_carlo(precision: float) -> Claims:
    r"""The mean of p(x|z) over the prior is p(x), without bias.

    $$p(x) = E_{p(z)}\,p(x|z) \approx \frac1K\sum_k p(x|z_k),\quad z_k \sim p(z)$$
    The integral of p(x|z) p(z) over z is p(x), and a mean of draws of p(z) is an unbiased estimate of it. Its logarithm
    is biased: it is low, by Jensen's inequality. Here z ~ N(0, 1) and x|z ~ N(0.9 z + 0.2, 0.5), so that
    x ~ N(0.2, 1.31).
    Source: Bishop (2006), equation 11.2; the model is its 2.115.
    """
    estimate = log_likelihood(model(), data(draws(2000, precision)), 50, "prior", generator(0))
    yield mean_is("estimates of 50 draws have mean p(x)", math.exp(LOG_P), estimate.value.exp())
    two = log_likelihood(model(), data(draws(4000, precision)), 2, "prior", generator(0))
    low = "logarithms of estimates of 2 draws have a lower mean than log p(x)"
    yield mean_is(low, LOG_P - 0.05, two.value, relation="at most")


def square_ratio(dims: int) -> float:
    """E p(x|z)^2 / p(x)^2 for x = 0, x|z ~ N(z, I), z ~ N(0, I): 2/sqrt(3) = 1.1547 a dimension."""
    return float((2 / math.sqrt(3)) ** dims)


def draws_per_effective_draw(dims: int, rows: int) -> Tensor:
    """K over the effective samples of plain Monte Carlo, for each row; K = 10,000."""
    flat = LinearGaussian(torch.eye(dims, dtype=F64), torch.zeros(dims, dtype=F64), 1.0)
    estimate = log_likelihood(flat, torch.zeros(rows, dims, dtype=F64), 10_000, "prior", generator(dims))
    return 10_000 / estimate.ess


@law("marginal-likelihood/variance")
def variance_problem(precision: float) -> Claims:
    r"""Plain Monte Carlo's relative variance grows exponentially with the number of latents.

    $$\frac{\mathrm{Var}_{p(z)}\,p(x|z)}{p(x)^2} = \Big(\frac{2}{\sqrt3}\Big)^d - 1$$
    p(x|z) is a product over dimensions, and so is its mean square. In one dimension N(0; z, 1)^2 = N(0; z, 1/2) /
    (2 sqrt(pi)), whose mean over z is N(0; 0, 3/2) / (2 sqrt(pi)), over p(0)^2 = N(0; 0, 2)^2. K over the number of
    effective samples tends to this ratio.
    Source: Owen (2013), section 9.1; Gaussian integrals.
    Assumes: x = 0, x|z ~ N(z, I), z ~ N(0, I) in d dimensions.
    """
    for dims in DIMS:
        exact, share = square_ratio(dims), draws_per_effective_draw(dims, draws(40, precision))
        bias = 3 * exact**3 / 10_000  # of a ratio of means
        yield mean_is(f"draws per effective draw, d = {dims}", exact, share, bias=bias)


@variance_problem.drawn
def _variance_plot() -> str:
    dims = [1, 2, 4, 8, 16]
    measured = [float(draws_per_effective_draw(d, 10).mean()) for d in dims]
    rows = {"exact": [square_ratio(d) for d in dims], "measured": measured}
    return plots.curves(dims, rows, title="draws of the prior per effective draw", xlabel="latents", log=True)


PROPOSALS = {"N(0.5, 1)": (0.5, 1.0), "N(0, 1), the prior": (0.0, 1.0), "N(1, 0.8^2)": (1.0, 0.8)}


@law("importance-sampling/unbiased")
def importance_sampling(precision: float) -> Claims:
    r"""The mean of p(x, z) / q(z) over any q is p(x).

    $$p(x) = E_{q(z)}\,\frac{p(x|z)\,p(z)}{q(z)}$$
    q cancels in the integral of q(z) p(x, z) / q(z).
    Source: Owen (2013), equation 9.3; Burda et al. (2016), equation 8.
    Assumes: q > 0 wherever p(x, z) > 0.
    """
    x = data(draws(2000, precision))
    for name, (mean, std) in PROPOSALS.items():
        estimate = log_likelihood(model(), x, 50, partial(proposed, mean, std), generator=generator(1))
        yield mean_is(f"weights of draws of {name} have mean p(x)", math.exp(LOG_P), estimate.value.exp())


@law("errata/weights-without-prior")
def weights_without_prior(precision: float) -> Claims:
    r"""An importance weight has the prior in it: without it the mean is the integral of the likelihood, here 1/0.9.

    $$p(x) = E_q\frac{p(x|z)\,p(z)}{q(z)} \ne E_q\frac{p(x|z)}{q(z)} = \int p(x|z)\,dz$$
    The integral over z of N(x; w z + b, v) is 1 / w, whatever x is; p(x) is N(x; b, w^2 + v), 0.22 here.
    Source: Owen (2013), equation 9.3.
    """
    x, q = data(draws(1000, precision)), (0.5, 1.0)
    estimate = log_likelihood(model(), x, 100, partial(proposed, *q), generator=generator(0))
    yield mean_is("the mean weight", math.exp(LOG_P), estimate.value.exp())
    proposal = gaussian(*q, x)
    with drawing(generator(0)):
        z = proposal.sample(torch.Size((100,)))
    wrong = (model().log_px(x, (z,)) - proposal.log_prob(z)).exp().mean(0)
    yield mean_is("the mean of p(x|z) / q(z) instead", 1 / W, wrong)
    yield bounded("its error", wrong.mean() - math.exp(LOG_P), 0.8, relation="at least")


def chi_square(mean: float, std: float) -> float:
    r"""E_q w^2 / p(x)^2 = the integral of p(z|x)^2 / q(z), of the Gaussians N(MEAN, 1/PRECISION) and N(mean, std^2).

    The exponent is a quadratic form of precision 2 PRECISION - 1/std^2, which must be positive.
    """
    a = 1 / std**2
    total = 2 * PRECISION - a
    centre = (2 * PRECISION * MEAN - a * mean) / total
    exponent = -PRECISION * (centre - MEAN) ** 2 + a * (centre - mean) ** 2 / 2
    return float(PRECISION * std * math.sqrt(1 / total) * math.exp(exponent))


@law("importance-sampling/optimal-proposal")
def optimal_proposal(precision: float) -> Claims:
    r"""The best proposal is the posterior: with it every weight is p(x).

    $$E_q\Big[\frac{p(x,z)^2}{q(z)^2}\Big] = p(x)^2\,\big(1 + \chi^2(p(z|x)\,\|\,q)\big)$$
    p(x, z) / p(z|x) = p(x) whatever z is, so that the weights do not vary; with any other q they do, by the chi-square
    divergence, which the number of effective samples shows.
    Source: Owen (2013), section 9.1; Kahn & Marshall (1953).
    """
    exact = log_likelihood(model(), data(5), 100, "encoder", generator(0))
    yield close("every estimate is log p(x)", LOG_P, exact.value, 1e-10)
    yield close("its standard error is 0", 0.0, torch.as_tensor(exact.stderr), 1e-7)
    yield close("all 100 samples are effective", 100.0, exact.ess, 1e-6)
    x, samples = data(draws(40, precision)), 10_000
    for name, q in PROPOSALS.items():
        estimate = log_likelihood(model(), x, samples, partial(proposed, *q), generator=generator(1))
        ratio = chi_square(*q)
        yield mean_is(f"draws per effective draw of {name}", ratio, samples / estimate.ess, bias=0.005 * ratio)
        scatter = torch.as_tensor(estimate.stderr).square().mean() * samples + 1
        yield close("the standard error of the logarithm agrees", ratio, scatter, 0.05)


@law("importance-sampling/tail")
def tail(precision: float) -> Claims:
    r"""Too narrow a proposal gives weights a heavy tail, whose shape k says whether their mean is reliable.

    $$P(w > t) \sim t^{-1/k},\quad k = 1 - c^2\ \mathrm{for}\ q = N(\mu, c^2 \sigma^2)$$
    w = c exp(y^2 (1/c^2 - 1) / 2) with y = c e, e ~ N(0, 1): w > t where |e| > sqrt(2 log(t / c) / (1 - c^2)), of
    probability t^(-1 / (1 - c^2)) up to a factor sqrt(log t), which lowers estimates of k by 0.1 at most. From
    k = 1/2 on weights have no variance. The weights of a wide proposal are bounded.
    Source: Vehtari et al. (2024), section 3; Zhang & Stephens (2009).
    Assumes: the posterior is N(mu, sigma^2).
    """
    x, std = data(draws(20, precision)), PRECISION**-0.5

    def estimated(mean: float, std: float, seed: int) -> Estimate:
        return log_likelihood(model(), x, 10_000, partial(proposed, mean, std), generator(seed))

    for share in (0.25, 0.5, 0.75):
        k = float(estimated(MEAN, share**0.5 * std, 1).pareto_k.mean())
        yield Evidence(f"k of a q of {share} of the variance", 1 - share, k, 0.12)
    wide, far = estimated(MEAN, 2 * std, 2), estimated(MEAN + 40 * std, std / 10, 3)
    yield bounded("k of a q of 4 times the variance", wide.pareto_k, 0.0, relation="at most")
    yield bounded("nats of error of a q 40 deviations off", LOG_P - far.value, 100.0, relation="at least")
    told = torch.as_tensor(far.stderr).isfinite().double().mean()
    yield Evidence("share of its estimates that claim an error", 0.0, float(told), 0.0)


@law("importance-sampling/annealed")
def annealed(precision: float) -> Claims:
    r"""Annealed importance sampling's weights have mean p(x), for any number of temperatures.

    $$E\prod_t p(x|z_{t-1})^{\beta_t - \beta_{t-1}} = p(x)$$
    Each move keeps its tempered density, so that the weight of a chain is an importance weight on the space of paths,
    and the normaliser of the last density is p(x).
    Source: Neal (2001), equations 3 to 11.
    """
    estimate = ais_log_likelihood(model(), data(draws(400, precision)), steps=4, chains=8, generator=generator(0))
    yield mean_is("estimates of 8 chains through 4 temperatures", math.exp(LOG_P), estimate.value.exp())


@law("log-domain/underflow")
def underflow(_: float) -> Claims:
    r"""Log p, not p: a product of a few hundred densities is 0 in floating point, and its logarithm an ordinary number.

    $$\log\prod_i p_i = \sum_i \log p_i,\quad \log\tfrac1K\sum_k w_k = \mathrm{logsumexp}_k \log w_k - \log K$$
    In single precision numbers below 1e-45 are 0. The density of 1000 coordinates near their means is about
    (2 pi e)^-500 = 1e-616. Sums of logarithms, and means of weights by logsumexp, lose nothing.
    Source: Bishop (2006), section 1.2.4; Goodfellow et al. (2016), section 4.1.
    """
    dims = 1000
    single, x = LinearGaussian(torch.ones(dims, 1), torch.zeros(dims), 1.0), torch.sin(torch.arange(dims).float())[None]
    v = x[0].double()  # under N(0, I + 1 1'): |I + 1 1'| = 1 + D, inverse I - 1 1' / (1 + D)
    exact = float(-(v @ v - v.sum() ** 2 / (1 + dims)) / 2 - math.log(1 + dims) / 2 - dims * math.log(2 * math.pi) / 2)
    with drawing(generator(0)):
        trace = single.trace(x, samples=50)
    product = float(Normal(0.0, 1.0).log_prob(x[0]).exp().prod())
    yield Evidence("the product of 1000 densities is 0 in single precision", 0.0, product, 0.0)
    yield Evidence("so is a mean of weights", 0.0, float((trace.log_px - trace.kl[0]).exp().mean()), 0.0)
    for name, value in (
        ("log p(x)", single.log_prob(x)),
        ("the ELBO at the posterior", elbo(trace)),
        ("IWAE of 50 draws at the posterior", iwae(trace)),
        ("importance sampling", log_likelihood(single, x, 50, generator=generator(0)).value),
    ):
        yield close(f"{name}, to a relative 1e-5", exact, value, 1e-5 * abs(exact))
    yield bounded("log p(x) is far below the smallest p(x)", exact, -103.3, relation="at most")

"""Wrong formulas of inference and of distributions that circulate, each with the number that refutes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal

from jensen.check.evidence import Evidence, bounded, close, mean_is, means_are
from jensen.check.law import draws, law
from jensen.check.laws.distributions import drawn
from jensen.check.laws.likelihood import F64, LOG_P, W, X, data, gaussian, model, proposed
from jensen.check.laws.variational import three_terms, two_layers
from jensen.core.seeding import drawing, generator
from jensen.distributions import Erlang, gumbel_softmax
from jensen.variational import Layer, LinearGaussian, elbo, fit_posterior, log_likelihood


@law(
    "errata/ratio-for-log-ratio",
    formula=r"\mathrm{KL}(q\|p) = E_q\log\tfrac qp \ne E_q\tfrac qp = 1 + \chi^2(q\|p)",
    source="Kullback & Leibler (1951)",
    assumptions="q = N(1, 1), p = N(0, 1)",
)
def ratio_for_log_ratio(precision: float) -> Iterator[Evidence]:
    """The divergence in the bound is the mean of the log-ratio: 1/2; the mean of the ratio is e.

    log q/p = z - 1/2 has the mean 1/2 under q, and q/p = e^(z - 1/2) the mean e^(1 - 1/2 + 1/2).
    """
    one = torch.ones(1, dtype=F64)
    q, p = Independent(Normal(one, one), 1), Independent(Normal(0 * one, one), 1)
    with drawing(generator(0)):
        z = q.sample(torch.Size((draws(40_000, precision),)))
    layer = Layer(z, q, p, q, divergence=True)
    log_ratio, _ = layer.term(analytic=False)
    yield close("the term of the bound, in closed form", 0.5, layer.term(analytic=True)[0], 1e-12)
    yield mean_is("the term of the bound, by draws", 0.5, log_ratio)
    yield mean_is("the mean of the ratio instead", math.e, log_ratio.exp())
    wrong = log_ratio.exp().mean()
    yield bounded("by which it is off", wrong - 0.5, 2.0, relation="at least")


@law(
    "errata/weights-without-prior",
    formula=r"p(x) = E_q\frac{p(x|z)\,p(z)}{q(z)} \ne E_q\frac{p(x|z)}{q(z)} = \int p(x|z)\,dz",
    source="Owen (2013), equation 9.3",
)
def weights_without_prior(precision: float) -> Iterator[Evidence]:
    """An importance weight has the prior in it: without it the mean is the integral of the likelihood, here 1/0.9.

    The integral over z of N(x; w z + b, v) is 1 / w, whatever x is; p(x) is N(x; b, w^2 + v), 0.22 here.
    """
    x, q = data(draws(1000, precision)), (0.5, 1.0)
    estimate = log_likelihood(model(), x, 100, partial(proposed, *q), generator=generator(0))
    yield mean_is("the mean weight", math.exp(LOG_P), estimate.value.exp())
    proposal = gaussian(*q, x)
    with drawing(generator(0)):
        z = proposal.sample(torch.Size((100,)))
    wrong = (model().log_px(x, (z,)) - proposal.log_prob(z)).exp().mean(0)
    yield mean_is("the mean of p(x|z) / q(z) instead", 1 / W, wrong)
    yield bounded("by which it is off", wrong.mean() - math.exp(LOG_P), 0.8, relation="at least")


@law(
    "errata/one-encoder",
    formula=r"\sum_n\max_{\lambda_n}\mathcal L(x_n, \lambda_n) \ge \max_\phi\sum_n\mathcal L(x_n, e_\phi(x_n))",
    source="Cremer et al. (2018), section 3.2",
    assumptions="x = +-2, z ~ N(0, 1), x|z ~ N(z, 1/2); the encoder says the same q of both",
)
def one_encoder(_: float) -> Iterator[Evidence]:
    """The best q of each datum is at least as good as the best encoder, and equal only where an encoder can say it.

    Each datum's best q is its posterior N(2x/3, 1/3), and the bound log p. An encoder that says one N(m, s^2) of both
    is best at m = 0, s^2 = 1/3, and loses m'Pm / 2 = (4/3)^2 3 / 2 = 8/3 nats a datum.
    """
    x = torch.tensor([[-2.0], [2.0]], dtype=F64)
    oracle = LinearGaussian(torch.ones(1, 1, dtype=F64), [0.0], 0.5)
    log_p = -(x.flatten() ** 2) / 3 - math.log(2 * math.pi * 1.5) / 2
    (best,) = fit_posterior(oracle, x, generator=generator(0))
    each = oracle.elbo(best, x)
    yield close("the bound of each datum's best q is log p", log_p, each, 2e-3)
    leaves = [torch.zeros(1, dtype=F64, requires_grad=True) for _ in range(2)]
    for _step in range(100):
        q = Independent(Normal(leaves[0].expand(2, 1), leaves[1].exp().expand(2, 1)), 1)
        slopes = torch.autograd.grad(oracle.elbo(q, x).sum(), leaves)
        leaves = [(v + 0.1 * s).detach().requires_grad_() for v, s in zip(leaves, slopes, strict=True)]
    shared = oracle.elbo(q, x).sum().detach()
    yield close("the best of one encoder for both", log_p.sum() - 2 * 8 / 3, shared, 1e-4)
    yield bounded("nats that the one encoder loses", each.sum() - shared, 5.0, relation="at least")


SHARP = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.1)), ((1.0, 0.0, 1.0), (1.0, 0.0, 0.1))


@law(
    "errata/first-term-is-no-kl",
    formula=r"E_q\log\frac{q(z_1|x)}{p(z_1|z_2)} = \log\tfrac{t_2}{s_1} - \tfrac12 + \tfrac{s_2^2}{2t_2^2} < 0",
    source="Burda et al. (2016), section 2",
    assumptions="q(z1|x) = N(0, 1), q(z2|z1) = N(z1, 0.01), p(z1|z2) = N(z2, 0.01)",
)
def first_term(precision: float) -> Iterator[Evidence]:
    """z1's term of a two-layer bound is no divergence: here it is -2.30 nats, and divergences are never negative.

    z2 is drawn from z1, so p(z1|z2) knows z1 better than q(z1|x) does.
    """
    hvae, x = two_layers(*SHARP), data(draws(20_000, precision))
    with drawing(generator(0)), torch.no_grad():
        trace = hvae.trace(x, analytic=True)
    exact = math.log(0.1) - 1 / 2 + 1 / 2
    yield close("the closed form of three terms", exact, three_terms(*SHARP, X)[1], 1e-12)
    yield mean_is("z1's term", exact, trace.kl[0][0])
    yield bounded("it is below", trace.kl[0].mean(), -2.0, relation="at most")
    yield Evidence("terms taken in closed form as divergences", 1.0, float(sum(trace.analytic)), 0.0)
    total = three_terms(*SHARP, X)
    yield mean_is("the bound, which counts it as it is", total[0] - total[1] - total[2], elbo(trace))


@law(
    "errata/temperature-of-the-logits-alone",
    formula=r"\mathrm{softmax}\big((G + \log\pi)/\tau\big) \ne \mathrm{softmax}\big(G + (\log\pi)/\tau\big)",
    source="Jang et al. (2017), equation 2; Maddison et al. (2017), equation 10",
    assumptions="pi = (.6, .4), tau = .1",
)
def temperature_alone(precision: float) -> Iterator[Evidence]:
    """The temperature divides noise and logits: class 1 wins 60%; dividing the logits alone it wins 98%.

    log pi / tau are the logits of pi^(1/tau) normalised, which Gumbel's trick then samples: 1 / (1 + (2/3)^10).
    """
    logits = torch.tensor([0.6, 0.4], dtype=F64).log().expand(draws(40_000, precision), 2)
    with drawing(generator(0)):
        right = gumbel_softmax(logits, 0.1).argmax(-1)
        wrong = gumbel_softmax(logits / 0.1, 1.0).argmax(-1)
    yield means_are("shares of the largest entry", torch.tensor([0.6, 0.4], dtype=F64), F.one_hot(right, 2))
    share = 1 / (1 + (2 / 3) ** 10)
    yield mean_is("of class 1 with the logits alone divided", share, (wrong == 0).double())
    yield bounded("by which that is off", (wrong == 0).double().mean() - 0.6, 0.35, relation="at least")


@law(
    "errata/gamma-of-n",
    formula=r"\Gamma(n) = (n-1)!,\quad \int_0^\infty \frac{\lambda^n z^{n-1}e^{-\lambda z}}{n!}\,dz = \frac1n",
    source="Abramowitz & Stegun, 6.1.6",
    assumptions="n = 4, lambda = 2",
)
def gamma_of_n(_: float) -> Iterator[Evidence]:
    """Gamma(n) is (n - 1)!: an Erlang density with n! in its place holds a mass of 1/n.

    Gamma(n + 1) = n Gamma(n) and Gamma(1) = 1.
    """
    n, rate = 4, 2.0
    q = Erlang(n, torch.tensor(rate, dtype=F64))
    z = torch.linspace(1e-9, 40, 400_001, dtype=F64)
    yield close("mass of the density", 1.0, torch.trapezoid(q.log_prob(z).exp(), z), 1e-8)
    with_factorial = rate**n * z ** (n - 1) * torch.exp(-rate * z) / math.factorial(n)
    wrong = torch.trapezoid(with_factorial, z)
    yield close("mass with n! instead", 1 / n, wrong, 1e-8)
    yield bounded("which is off by", 1 - wrong, 0.7, relation="at least")
    right = rate**n * z[1:] ** (n - 1) * torch.exp(-rate * z[1:]) / math.factorial(n - 1)
    yield close("the density with (n - 1)!", right, q.log_prob(z[1:]).exp(), 1e-12)


@law(
    "errata/exponential-by-its-rate",
    formula=r"z = \epsilon/\lambda \sim \mathrm{Exp}(\lambda),\quad E z = 1/\lambda \ne \lambda",
    source="Devroye (1986), section II.2",
    assumptions="epsilon a unit exponential, lambda = 2",
)
def exponential(precision: float) -> Iterator[Evidence]:
    """An exponential variable of rate lambda is a unit one over lambda, not times it: the mean is 1/2, not 2.

    P(epsilon / lambda > z) = e^(-lambda z).
    """
    n, rate = draws(40_000, precision), torch.tensor(2.0, dtype=F64, requires_grad=True)
    z = drawn(Erlang(1, rate), n)
    (slope,) = torch.autograd.grad(z.mean(), rate)
    yield mean_is("mean of draws of rate 2", 0.5, z)
    yield close("their path is -z / lambda", -z.detach().mean() / 2, slope, 1e-12)
    wrong = 2.0 * drawn(Erlang(1, torch.tensor(1.0, dtype=F64)), n)
    yield mean_is("mean of lambda epsilon", 2.0, wrong)
    yield bounded("which is off by", wrong.mean() - 0.5, 1.4, relation="at least")


@law(
    "errata/gamma-of-unequal-rates",
    formula=r"\mathrm{Var}(E_1/\lambda_1 + E_2/\lambda_2) = 1/\lambda_1^2 + 1/\lambda_2^2 \ge m^2/2",
    source="Devroye (1986), section IX.3",
    assumptions="rates 1 and 3, of mean m = 4/3; a Gamma(2) of this mean has the variance m^2 / 2",
)
def unequal_rates(precision: float) -> Iterator[Evidence]:
    """Exponentials add up to a Gamma only if their rates are equal: of rates 1 and 3 the variance is 10/9, not 8/9.

    Their sum is hypoexponential, of density (3/2)(e^-z - e^-3z); 8/9 is the variance of a Gamma of the same mean.
    """
    n, mean = draws(100_000, precision), 4 / 3
    z = drawn(Erlang(2, torch.tensor(2 / mean, dtype=F64)), n)
    yield mean_is("mean square deviation of a Gamma of mean 4/3", mean**2 / 2, (z - mean) ** 2)
    wrong = drawn(Erlang(1, torch.tensor([1.0, 3.0], dtype=F64)), n).sum(-1)
    yield mean_is("mean square deviation of the sum of rates 1 and 3", 10 / 9, (wrong - mean) ** 2)
    yield bounded("which is off by", ((wrong - mean) ** 2).mean() - mean**2 / 2, 0.15, relation="at least")


LAWS = (
    ratio_for_log_ratio,
    weights_without_prior,
    one_encoder,
    first_term,
    temperature_alone,
    gamma_of_n,
    exponential,
    unequal_rates,
)

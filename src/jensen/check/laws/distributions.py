"""Distributions: which reparameterize and how, decoders, closed divergences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch import distributions as D

from jensen.check.evidence import Claims, Evidence, bounded, close, mean_is, means_are
from jensen.check.law import draws, law
from jensen.check.line import F64, f64
from jensen.core.seeding import drawing, generator
from jensen.distributions import BernoulliLogits, Erlang, Gompertz, IsotropicGaussian
from jensen.estimators import pathwise
from jensen.variational import Layer


def moves(name: str, q: Callable, at: tuple[float, ...], f: Callable, exact: tuple[float, ...], n: int) -> Evidence:
    """The pathwise gradient of E f in each parameter, from n rows of one draw each, against the closed form."""
    rows = [torch.full((n,), v, dtype=F64, requires_grad=True) for v in at]
    value = pathwise(q(*rows), f, generator=generator(0))
    slopes = torch.stack(torch.autograd.grad(value.sum(), rows), 1)
    return means_are(f"{name}: mean of the pathwise gradient", f64(exact), slopes)


def drawn(q: D.Distribution, n: int) -> Tensor:
    with drawing(generator(1)):
        x: Tensor = q.rsample(torch.Size((n,)))
    return x


def agrees(name: str, q: D.Distribution, theirs: Any, x: Tensor, n: int) -> Claims:
    """Draws follow scipy's distribution function, F(x) with mean 1/2 and mean square 1/3; densities are scipy's."""
    u = torch.from_numpy(theirs.cdf(drawn(q, n).detach().numpy()))
    yield mean_is(f"{name}: mean of F(x)", 1 / 2, u)
    yield mean_is(f"{name}: mean of F(x)^2", 1 / 3, u**2)
    yield close(f"{name}: log density is scipy's", torch.from_numpy(theirs.logpdf(x)), q.log_prob(x), 1e-10)


@law("reparameterization/location-scale")
def location_scale(precision: float) -> Claims:
    r"""A location and a scale reparameterize: a draw is the standard draw times the scale, plus the location.

    $$z = \mu + \sigma\epsilon,\quad \nabla_{\mu,\sigma} E z^2 = (2\mu,\ 2\sigma\,E\epsilon^2)$$
    E z^2 = mu^2 + sigma^2 E eps^2.
    Source: Kingma & Welling (2014), section 2.4, case 2; Rezende et al. (2014).
    Assumes: E eps = 0; E eps^2 = 1 for a normal, 2 for a Laplace, 1/3 for a uniform one on (-1, 1).
    """
    n = draws(40_000, precision)
    for name, family, second in (("normal", D.Normal, 1.0), ("Laplace", D.Laplace, 2.0)):
        yield moves(name, family, (0.8, 1.3), torch.square, (1.6, 2.6 * second), n)


@law("reparameterization/uniform")
def uniform(precision: float) -> Claims:
    r"""A uniform variable reparameterizes by its ends, though its support moves, where the score function fails.

    $$z = a + (b - a)u,\quad \nabla_{a,b} E z^2 = \tfrac13(2a + b,\ a + 2b)$$
    E z^2 = (a^2 + a b + b^2) / 3. The density's logarithm -log(b - a) has a gradient of mean 1 / (b - a), not 0: mass
    enters and leaves at the ends.
    Source: Devroye (1986), section II.2.
    """
    a, b = 0.5, 2.0
    exact = ((2 * a + b) / 3, (a + 2 * b) / 3)
    yield moves("uniform", D.Uniform, (a, b), torch.square, exact, draws(40_000, precision))
    low, high = (f64(v).requires_grad_() for v in (a, b))
    q = D.Uniform(low, high)
    (score,) = torch.autograd.grad(q.log_prob(drawn(q, 100).detach()).mean(), low)
    yield close("the mean of the score is 1 / (b - a)", 1 / (b - a), score, 1e-12)


@law("reparameterization/log-normal")
def log_normal(precision: float) -> Claims:
    r"""A function of a reparameterized variable reparameterizes: the exponential of a Gaussian.

    $$z = e^{\mu + \sigma\epsilon},\quad \nabla_{\mu,\sigma} E z = (1, \sigma)\,e^{\mu + \sigma^2/2}$$
    The chain rule: dz/dmu = z and dz/dsigma = z eps.
    Source: Kingma & Welling (2014), section 2.4, case 3.
    """
    mu, sigma = 0.3, 0.5
    mean = math.exp(mu + sigma**2 / 2)
    yield moves("log-normal", D.LogNormal, (mu, sigma), torch.clone, (mean, sigma * mean), draws(40_000, precision))


@law("reparameterization/gompertz")
def gompertz(precision: float) -> Claims:
    r"""A Gompertz variable reparameterizes by its inverse distribution function.

    $$z = \tfrac1b\log\big(1 - \tfrac1\eta\log(1-u)\big),\quad F(z) = 1 - e^{-\eta(e^{bz} - 1)}$$
    F(z) is uniform, so z = F^-1(u). E z = e^eta E_1(eta) / b, whose gradient in b is -E z / b and in eta
    (e^eta E_1(eta) - 1 / eta) / b.
    Source: Gompertz (1825); Kingma & Welling (2014), section 2.4, case 1.
    """
    n, eta, b = draws(40_000, precision), 0.7, 2.0
    scaled = math.exp(eta) * float(scipy.special.exp1(eta))
    yield moves("Gompertz", Gompertz, (eta, b), torch.clone, ((scaled - 1 / eta) / b, -scaled / b**2), n)
    q, theirs, u = Gompertz(f64(eta), f64(b)), scipy.stats.gompertz(eta, scale=1 / b), torch.linspace(0.01, 0.99, 99)
    yield from agrees("Gompertz", q, theirs, q.icdf(u.double()), n)
    inverse = torch.from_numpy(theirs.cdf(q.icdf(u.double()).numpy()))
    yield close("inverse of scipy's distribution function", u.double(), inverse, 1e-10)
    yield close("mean is e^eta E_1(eta) / b", scaled / b, q.mean, 1e-9)
    yield close("entropy is scipy's", theirs.entropy(), q.entropy(), 1e-6)
    x = torch.linspace(0, float(q.icdf(f64(1 - 1e-15))), 200_001, dtype=F64)
    for p, name in ((Gompertz(eta, 1.5 * b), "another rate"), (Gompertz(3 * eta, b), "another shape")):
        integral = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x)
        yield close(f"divergence from {name} is the integral", integral, D.kl_divergence(q, p), 1e-6)
    large = (Gompertz(torch.tensor(v), torch.tensor(b)) for v in (1e6, 1.1e6))
    yield close("divergence of shapes of a million", 0.1 - math.log(1.1), D.kl_divergence(*large), 1e-7)


@law("reparameterization/erlang")
def erlang(precision: float) -> Claims:
    r"""A Gamma of integer shape is a sum of exponentials of one rate, and reparameterizes with it.

    $$z = -\tfrac1\lambda\sum_{i=1}^k \log u_i \sim \mathrm{Gamma}(k, \lambda)$$
    Exponentials are -log(u) / lambda by the inverse distribution function; Laplace transforms multiply to
    (1 + s / lambda)^-k. E z^2 = k (k + 1) / lambda^2.
    Source: Devroye (1986), section IX.3; Kingma & Welling (2014), section 2.4, case 3.
    Assumes: k an integer: the shape has no gradient.
    """
    n, k, rate = draws(40_000, precision), 3, 2.0
    yield moves("Erlang", lambda r: Erlang(k, r), (rate,), torch.square, (-2 * k * (k + 1) / rate**3,), n)
    q, theirs = Erlang(k, f64(rate)), scipy.stats.gamma(k, scale=1 / rate)
    yield from agrees("Erlang", q, theirs, torch.linspace(0.1, 6, 60, dtype=F64), n)
    several = drawn(Erlang(f64([1.0, 2.0, 5.0]), f64(rate)), n)
    yield means_are("means of shapes 1, 2 and 5 at once", f64([0.5, 1.0, 2.5]), several)
    other, x = scipy.stats.gamma(5, scale=1 / 1.2), np.linspace(0, 40, 400_001)[1:]
    integral = np.trapezoid(theirs.pdf(x) * (theirs.logpdf(x) - other.logpdf(x)), x)
    yield close("divergence is the integral", integral, D.kl_divergence(q, Erlang(5, f64(1.2))), 1e-6)
    large = (Erlang(10**6, torch.tensor(v)) for v in (1.0, 1.1))
    yield close("divergence at a million, a million", 0.1 - math.log(1.1), D.kl_divergence(*large) / 10**6, 1e-7)


@law("errata/gamma-of-n")
def gamma_of_n(_: float) -> Claims:
    r"""Gamma(n) is (n - 1)!: an Erlang density with n! instead has a mass of 1/n.

    $$\Gamma(n) = (n-1)!,\quad \int_0^\infty \frac{\lambda^n z^{n-1}e^{-\lambda z}}{n!}\,dz = \frac1n$$
    Gamma(n + 1) = n Gamma(n) and Gamma(1) = 1.
    Source: Abramowitz & Stegun, 6.1.6.
    Assumes: n = 4, lambda = 2.
    """
    n, rate, z = 4, 2.0, torch.linspace(1e-9, 40, 400_001, dtype=F64)
    density, unscaled = Erlang(n, f64(rate)).log_prob(z).exp(), rate**n * z ** (n - 1) * torch.exp(-rate * z)
    wrong = torch.trapezoid(unscaled / math.factorial(n), z)
    yield close("mass of the density", 1.0, torch.trapezoid(density, z), 1e-8)
    yield close("mass with n! instead", 1 / n, wrong, 1e-8)
    yield bounded("its error", 1 - wrong, 0.7, relation="at least")
    yield close("the density with (n - 1)!", unscaled / math.factorial(n - 1), density, 1e-12)


@law("errata/exponential-by-its-rate")
def exponential(precision: float) -> Claims:
    r"""An exponential variable of rate lambda is a unit one over lambda, not times it: the mean is 1/2, not 2.

    $$z = \epsilon/\lambda \sim \mathrm{Exp}(\lambda),\quad E z = 1/\lambda \ne \lambda$$
    P(epsilon / lambda > z) = e^(-lambda z).
    Source: Devroye (1986), section II.2.
    Assumes: epsilon a unit exponential, lambda = 2.
    """
    n, rate = draws(40_000, precision), f64(2.0).requires_grad_()
    z, wrong = drawn(Erlang(1, rate), n), 2.0 * drawn(Erlang(1, f64(1.0)), n)
    yield mean_is("mean of draws of rate 2", 0.5, z)
    (slope,) = torch.autograd.grad(z.mean(), rate)
    yield close("their pathwise gradient is -z / lambda", -z.detach().mean() / 2, slope, 1e-12)
    yield mean_is("mean of lambda epsilon", 2.0, wrong)
    yield bounded("its error", wrong.mean() - 0.5, 1.4, relation="at least")


@law("errata/gamma-of-unequal-rates")
def unequal_rates(precision: float) -> Claims:
    r"""Exponentials add up to a Gamma only if their rates are equal: with rates 1 and 3 the variance is 10/9, not 8/9.

    $$\mathrm{Var}(E_1/\lambda_1 + E_2/\lambda_2) = 1/\lambda_1^2 + 1/\lambda_2^2 \ge m^2/2$$
    Their sum is hypoexponential, of density (3/2)(e^-z - e^-3z); 8/9 is the variance of a Gamma of the same mean.
    Source: Devroye (1986), section IX.3.
    Assumes: rates 1 and 3, of mean m = 4/3; a Gamma(2) of this mean has the variance m^2 / 2.
    """
    n, mean = draws(100_000, precision), 4 / 3
    right = (drawn(Erlang(2, f64(2 / mean)), n) - mean) ** 2
    wrong = (drawn(Erlang(1, f64([1.0, 3.0])), n).sum(-1) - mean) ** 2
    yield mean_is("mean square deviation of a Gamma of mean 4/3", mean**2 / 2, right)
    yield mean_is("mean square deviation of the sum of rates 1 and 3", 10 / 9, wrong)
    yield bounded("its error", wrong.mean() - mean**2 / 2, 0.15, relation="at least")


@law("decoder/bernoulli")
def bernoulli_decoder(_: float) -> Claims:
    r"""A Bernoulli decoder's negative log-likelihood is the binary cross-entropy, and its gradient p - x.

    $$-\log p(x|z) = -\sum_i x_i\log p_i + (1 - x_i)\log(1 - p_i)$$
    log p^x (1 - p)^(1 - x), and dp/dl = p (1 - p) for a logit l.
    Source: Kingma & Welling (2014), appendix C.1.
    """
    logits = torch.linspace(-4, 4, 12, dtype=F64).reshape(3, 4).requires_grad_()
    x, p = f64([[0.0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]), 1 / (1 + torch.exp(-logits.detach()))
    log_px = BernoulliLogits()(logits).log_prob(x)
    entropy = -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    yield close("minus log p(x|z) is the cross-entropy", entropy, -log_px, 1e-12)
    yield close("its gradient is p - x", p - x, torch.autograd.grad(-log_px.sum(), logits)[0], 1e-12)
    bits = torch.cartesian_prod(*[f64([0.0, 1.0])] * 4)
    total = BernoulliLogits()(logits[:1].detach()).log_prob(bits).exp().sum()
    yield close("probabilities of all 16 pictures of 4 bits", 1.0, total, 1e-12)


@law("decoder/gaussian")
def gaussian_decoder(_: float) -> Claims:
    r"""A Gaussian decoder of fixed isotropic variance is a squared error over 2 sigma^2 and a constant.

    $$-\log p(x|z) = \frac{|x - \mu(z)|^2}{2\sigma^2} + \frac D2\log(2\pi\sigma^2)$$
    Only the constant depends on the scale alone: the decoder's gradient is (mu - x) / sigma^2.
    Source: Kingma & Welling (2014), appendix C.2.
    Assumes: sigma fixed, the same for all coordinates.
    """
    x = torch.linspace(-1, 2, 12, dtype=F64).reshape(3, 4)
    for std in (0.5, 2.0):
        mean = x.flip(0, 1).contiguous().requires_grad_()
        log_px = IsotropicGaussian(std).double()(mean).log_prob(x)
        constant = -log_px - (x - mean).square().sum(-1) / (2 * std**2)
        exact = 4 / 2 * math.log(2 * math.pi * std**2)
        yield close(f"minus log p(x|z) less the squared error, std {std}", exact, constant, 1e-6)
        (slope,) = torch.autograd.grad(-log_px.sum(), mean)
        yield close(f"its gradient, std {std}", (mean - x) / std**2, slope, 1e-6)


@law("gaussian-kl/closed-form")
def gaussian_kl(precision: float) -> Claims:
    r"""The KL of Gaussians in closed form is the integral of q log(q/p), and the mean log-ratio of draws.

    $$\mathrm{KL} = \log\tfrac s\sigma + \tfrac{\sigma^2 + (\mu - m)^2}{2s^2} - \tfrac12$$
    E_q of two quadratic forms. It is 0 for equal distributions alone, and not symmetric.
    Source: Kingma & Welling (2014), appendix B.
    """
    grid = torch.linspace(-30, 30, 600_001, dtype=F64)
    for mean, std, m, s in ((0.7, 0.4, 0.0, 1.0), (-1.0, 2.0, 0.5, 0.8), (0.3, 1.1, 0.3, 1.1)):
        name, pairs = f"KL(N({mean}, {std}^2) || N({m}, {s}^2))", ((mean, std), (m, s))
        q, p = (D.Independent(D.Normal(f64([a]), f64([b])), 1) for a, b in pairs)
        log_q, log_p = (-((grid - a) ** 2) / (2 * b**2) - math.log(b) for a, b in pairs)
        integral = torch.trapezoid(log_q.exp() / math.sqrt(2 * math.pi) * (log_q - log_p), grid)
        with drawing(generator(0)):
            z = q.sample(torch.Size((draws(20_000, precision),)))
        layer = Layer(z, q, p, q, divergence=True)
        closed, _ = layer.term(analytic=True)
        yield close(f"{name}, in closed form", integral, closed, 1e-8)
        ratio, _ = layer.term(analytic=False)
        yield mean_is(f"{name}, by draws", float(integral), ratio) if std != s else close(name, 0.0, ratio, 0.0)
        yield bounded(f"{name} is at least 0", closed, 0.0, relation="at least")

"""Distributions: reparameterizations, decoders, and KL divergences in closed form."""

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
from jensen.check.line import F64, f64, randn
from jensen.core.seeding import drawing, generator
from jensen.distributions import BernoulliLogits, Erlang, Gompertz, IsotropicGaussian
from jensen.estimators import pathwise
from jensen.variational import Layer


def moves(name: str, q: Callable, at: tuple[float, ...], f: Callable, exact: tuple[float, ...], n: int) -> Evidence:
    """The mean of n pathwise gradients of E f with respect to each parameter, against the closed form."""
    rows = [torch.full((n,), v, dtype=F64, requires_grad=True) for v in at]
    value = pathwise(q(*rows), f, generator=generator(0))
    slopes = torch.stack(torch.autograd.grad(value.sum(), rows), 1)
    return means_are(f"{name}: mean pathwise gradient", f64(exact), slopes)


def drawn(q: D.Distribution, n: int) -> Tensor:
    with drawing(generator(1)):
        x: Tensor = q.rsample(torch.Size((n,)))
    return x


def agrees(name: str, q: D.Distribution, scipys: Any, x: Tensor, n: int) -> Claims:
    """Samples follow scipy's distribution function F: F(x) is uniform. Densities are scipy's."""
    u = torch.from_numpy(scipys.cdf(drawn(q, n).detach().numpy()))
    yield mean_is(f"{name}: mean of F(x)", 1 / 2, u)
    yield mean_is(f"{name}: mean of F(x)^2", 1 / 3, u**2)
    yield close(f"{name}: log density, against scipy", torch.from_numpy(scipys.logpdf(x)), q.log_prob(x), 1e-10)


@law("reparameterization/location-scale")
def location_scale(precision: float) -> Claims:
    r"""A location-scale family is reparameterized by a standard variable eps: z = mu + sigma eps.

    $$z = \mu + \sigma\epsilon,\quad \nabla_{\mu,\sigma} E z^2 = (2\mu,\ 2\sigma\,E\epsilon^2)$$
    E z^2 = mu^2 + sigma^2 E eps^2.
    Source: Kingma & Welling (2014), section 2.4, case 2; Rezende et al. (2014).
    Assumes: E eps = 0; E eps^2 is 1 for the normal and 2 for the Laplace distribution.
    """
    n = draws(40_000, precision)
    for name, family, second in (("normal", D.Normal, 1.0), ("Laplace", D.Laplace, 2.0)):
        yield moves(name, family, (0.8, 1.3), torch.square, (1.6, 2.6 * second), n)


@law("reparameterization/uniform")
def uniform(precision: float) -> Claims:
    r"""A uniform variable is reparameterized by the ends of its support; its score-function gradient is biased.

    $$z = a + (b - a)u,\quad \nabla_{a,b} E z^2 = \tfrac13(2a + b,\ a + 2b)$$
    E z^2 = (a^2 + a b + b^2) / 3. The score with respect to a, the derivative of -log(b - a), is 1 / (b - a)
    everywhere; its mean is not 0, because the support depends on a.
    Source: Devroye (1986), section II.2.
    """
    a, b = 0.5, 2.0
    exact = ((2 * a + b) / 3, (a + 2 * b) / 3)
    yield moves("uniform", D.Uniform, (a, b), torch.square, exact, draws(40_000, precision))
    low = f64(a).requires_grad_()
    q = D.Uniform(low, f64(b))
    (score,) = torch.autograd.grad(q.log_prob(drawn(q, 100).detach()).mean(), low)
    yield close("mean score with respect to a", 1 / (b - a), score, 1e-12)


@law("reparameterization/log-normal")
def log_normal(precision: float) -> Claims:
    r"""A differentiable function of a reparameterized variable is reparameterized, such as exp of a Gaussian.

    $$z = e^{\mu + \sigma\epsilon},\quad \nabla_{\mu,\sigma} E z = (1, \sigma)\,e^{\mu + \sigma^2/2}$$
    By the chain rule dz/dmu = z and dz/dsigma = z eps.
    Source: Kingma & Welling (2014), section 2.4, case 3.
    """
    mu, sigma = 0.3, 0.5
    mean = math.exp(mu + sigma**2 / 2)
    yield moves("log-normal", D.LogNormal, (mu, sigma), torch.clone, (mean, sigma * mean), draws(40_000, precision))


@law("reparameterization/gompertz")
def gompertz(precision: float) -> Claims:
    r"""A Gompertz variable is reparameterized by its inverse distribution function.

    $$z = \tfrac1b\log\big(1 - \tfrac1\eta\log(1-u)\big),\quad F(z) = 1 - e^{-\eta(e^{bz} - 1)}$$
    u = F(z) is uniform. E z = e^eta E_1(eta) / b, with the exponential integral E_1; its derivative is -E z / b with
    respect to b and (e^eta E_1(eta) - 1 / eta) / b with respect to eta.
    Source: Gompertz (1825); Kingma & Welling (2014), section 2.4, case 1.
    """
    n, eta, b = draws(40_000, precision), 0.7, 2.0
    scaled = math.exp(eta) * float(scipy.special.exp1(eta))
    yield moves("Gompertz", Gompertz, (eta, b), torch.clone, ((scaled - 1 / eta) / b, -scaled / b**2), n)
    q, scipys, u = Gompertz(f64(eta), f64(b)), scipy.stats.gompertz(eta, scale=1 / b), torch.linspace(0.01, 0.99, 99)
    x = q.icdf(u.double())
    yield from agrees("Gompertz", q, scipys, x, n)
    yield close("scipy's F of the inverse distribution function", u.double(), torch.from_numpy(scipys.cdf(x)), 1e-10)
    yield close("mean, e^eta E_1(eta) / b", scaled / b, q.mean, 1e-9)
    yield close("entropy, against scipy", scipys.entropy(), q.entropy(), 1e-6)
    x = torch.linspace(0, float(q.icdf(f64(1 - 1e-15))), 200_001, dtype=F64)
    for p, name in ((Gompertz(eta, 1.5 * b), "another rate"), (Gompertz(3 * eta, b), "another shape")):
        integral = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x)
        yield close(f"KL divergence from {name}, against the integral", integral, D.kl_divergence(q, p), 1e-6)
    large = (Gompertz(torch.tensor(v), torch.tensor(b)) for v in (1e6, 1.1e6))
    yield close("KL divergence for shapes of a million", 0.1 - math.log(1.1), D.kl_divergence(*large), 1e-7)


@law("reparameterization/erlang")
def erlang(precision: float) -> Claims:
    r"""A Gamma variable of integer shape k is a sum of k exponentials of one rate, which reparameterizes it.

    $$z = -\tfrac1\lambda\sum_{i=1}^k \log u_i \sim \mathrm{Gamma}(k, \lambda)$$
    -log(u) / lambda is exponential, and the Laplace transforms of k of them multiply to (1 + s / lambda)^-k.
    E z^2 = k (k + 1) / lambda^2.
    Source: Devroye (1986), section IX.3; Kingma & Welling (2014), section 2.4, case 3.
    Assumes: k is an integer, and has no gradient.
    """
    n, k, rate = draws(40_000, precision), 3, 2.0
    yield moves("Erlang", lambda r: Erlang(k, r), (rate,), torch.square, (-2 * k * (k + 1) / rate**3,), n)
    q, scipys = Erlang(k, f64(rate)), scipy.stats.gamma(k, scale=1 / rate)
    yield from agrees("Erlang", q, scipys, torch.linspace(0.1, 6, 60, dtype=F64), n)
    several = drawn(Erlang(f64([1.0, 2.0, 5.0]), f64(rate)), n)
    yield means_are("means of a batch of shapes 1, 2 and 5", f64([0.5, 1.0, 2.5]), several)
    other, x = scipy.stats.gamma(5, scale=1 / 1.2), np.linspace(0, 40, 400_001)[1:]
    integral = np.trapezoid(scipys.pdf(x) * (scipys.logpdf(x) - other.logpdf(x)), x)
    yield close("KL divergence, against the integral", integral, D.kl_divergence(q, Erlang(5, f64(1.2))), 1e-6)
    large = (Erlang(10**6, torch.tensor(v)) for v in (1.0, 1.1))
    kl = D.kl_divergence(*large) / 10**6
    yield close("KL divergence divided by the shape, for shapes of a million", 0.1 - math.log(1.1), kl, 1e-7)


@law("errata/gamma-of-n")
def gamma_of_n(_: float) -> Claims:
    r"""Gamma(n) is (n - 1)!; an Erlang density with n! in its place integrates to 1/n.

    $$\Gamma(n) = (n-1)!,\quad \int_0^\infty \frac{\lambda^n z^{n-1}e^{-\lambda z}}{n!}\,dz = \frac1n$$
    Gamma(n + 1) = n Gamma(n) and Gamma(1) = 1.
    Source: Abramowitz & Stegun, 6.1.6.
    Assumes: n = 4, lambda = 2.
    """
    n, rate, z = 4, 2.0, torch.linspace(1e-9, 40, 400_001, dtype=F64)
    density, unscaled = Erlang(n, f64(rate)).log_prob(z).exp(), rate**n * z ** (n - 1) * torch.exp(-rate * z)
    wrong = torch.trapezoid(unscaled / math.factorial(n), z)
    yield close("integral of the density", 1.0, torch.trapezoid(density, z), 1e-8)
    yield close("integral with n!", 1 / n, wrong, 1e-8)
    yield bounded("error of the integral with n!", 1 - wrong, 0.7, relation="at least")
    yield close("density, with (n - 1)!", unscaled / math.factorial(n - 1), density, 1e-12)


@law("errata/exponential-by-its-rate")
def exponential(precision: float) -> Claims:
    r"""An exponential variable of rate lambda is a unit exponential divided by lambda, not multiplied by it.

    $$z = \epsilon/\lambda \sim \mathrm{Exp}(\lambda),\quad E z = 1/\lambda \ne \lambda$$
    P(epsilon / lambda > z) = e^(-lambda z). For lambda = 2 the mean is 1/2, not 2.
    Source: Devroye (1986), section II.2.
    Assumes: epsilon is exponential with rate 1.
    """
    n, rate = draws(40_000, precision), f64(2.0).requires_grad_()
    z, wrong = drawn(Erlang(1, rate), n), 2.0 * drawn(Erlang(1, f64(1.0)), n)
    yield mean_is("mean of samples of rate 2", 0.5, z)
    (slope,) = torch.autograd.grad(z.mean(), rate)
    yield close("their mean pathwise gradient, -z / lambda", -z.detach().mean() / 2, slope, 1e-12)
    yield mean_is("mean of lambda epsilon", 2.0, wrong)
    yield bounded("error of the mean of lambda epsilon", wrong.mean() - 0.5, 1.4, relation="at least")


@law("errata/gamma-of-unequal-rates")
def unequal_rates(precision: float) -> Claims:
    r"""A sum of exponentials is a Gamma variable only if their rates are equal.

    $$\mathrm{Var}(E_1/\lambda_1 + E_2/\lambda_2) = 1/\lambda_1^2 + 1/\lambda_2^2 \ge m^2/2$$
    With unequal rates the sum is hypoexponential; for the rates 1 and 3 its mean is m = 4/3 and its variance 10/9. A
    Gamma variable of shape 2 and the same mean has the variance m^2/2 = 8/9.
    Source: Devroye (1986), section IX.3.
    """
    n, mean = draws(100_000, precision), 4 / 3
    right = (drawn(Erlang(2, f64(2 / mean)), n) - mean) ** 2
    wrong = (drawn(Erlang(1, f64([1.0, 3.0])), n).sum(-1) - mean) ** 2
    yield mean_is("variance of a Gamma variable of shape 2 and mean 4/3", mean**2 / 2, right)
    yield mean_is("variance of the sum of exponentials of rates 1 and 3", 10 / 9, wrong)
    yield bounded("difference of the variances", wrong.mean() - mean**2 / 2, 0.15, relation="at least")


@law("decoder/bernoulli")
def bernoulli_decoder(_: float) -> Claims:
    r"""A Bernoulli decoder's negative log-likelihood is the binary cross-entropy, with the gradient p - x for logits.

    $$-\log p(x|z) = -\sum_i x_i\log p_i + (1 - x_i)\log(1 - p_i)$$
    p = sigmoid(l) for a logit l, and dp/dl = p (1 - p).
    Source: Kingma & Welling (2014), appendix C.1.
    """
    logits = torch.linspace(-4, 4, 12, dtype=F64).reshape(3, 4).requires_grad_()
    x, p = f64([[0.0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]), 1 / (1 + torch.exp(-logits.detach()))
    log_px = BernoulliLogits()(logits).log_prob(x)
    entropy = -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    yield close("-log p(x|z), the cross-entropy", entropy, -log_px, 1e-12)
    yield close("its gradient, p - x", p - x, torch.autograd.grad(-log_px.sum(), logits)[0], 1e-12)
    bits = torch.cartesian_prod(*[f64([0.0, 1.0])] * 4)
    total = BernoulliLogits()(logits[:1].detach()).log_prob(bits).exp().sum()
    yield close("sum of the probabilities of all 16 vectors of 4 bits", 1.0, total, 1e-12)


@law("decoder/gaussian")
def gaussian_decoder(_: float) -> Claims:
    r"""A Gaussian decoder's negative log-likelihood is the squared error over 2 sigma^2 plus a constant.

    $$-\log p(x|z) = \frac{|x - \mu(z)|^2}{2\sigma^2} + \frac D2\log(2\pi\sigma^2)$$
    D is the dimension of x. The gradient with respect to mu is (mu - x) / sigma^2.
    Source: Kingma & Welling (2014), appendix C.2.
    Assumes: a fixed sigma, the same for all coordinates.
    """
    x = torch.linspace(-1, 2, 12, dtype=F64).reshape(3, 4)
    for std in (0.5, 2.0):
        mean = x.flip(0, 1).contiguous().requires_grad_()
        log_px = IsotropicGaussian(std).double()(mean).log_prob(x)
        constant = -log_px - (x - mean).square().sum(-1) / (2 * std**2)
        exact = 4 / 2 * math.log(2 * math.pi * std**2)
        yield close(f"-log p(x|z) minus |x - mu|^2 / (2 sigma^2), sigma = {std}", exact, constant, 1e-6)
        (slope,) = torch.autograd.grad(-log_px.sum(), mean)
        yield close(f"gradient with respect to mu, sigma = {std}", (mean - x) / std**2, slope, 1e-6)


@law("gaussian-kl/closed-form")
def gaussian_kl(precision: float) -> Claims:
    r"""The KL divergence of Gaussians q = N(mu, sigma^2) and p = N(m, s^2) has a closed form.

    $$\mathrm{KL}(q\|p) = \log\tfrac s\sigma + \tfrac{\sigma^2 + (\mu - m)^2}{2s^2} - \tfrac12$$
    It is the mean of log q/p, a quadratic polynomial, under q. It is 0 only for q = p, and not symmetric.
    Source: Kingma & Welling (2014), appendix B.
    """
    grid = torch.linspace(-30, 30, 600_001, dtype=F64)
    for mean, std, m, s in ((0.7, 0.4, 0.0, 1.0), (-1.0, 2.0, 0.5, 0.8), (0.3, 1.1, 0.3, 1.1)):
        name, pairs = f"KL(N({mean}, {std}^2) || N({m}, {s}^2))", ((mean, std), (m, s))
        q, p = (D.Independent(D.Normal(f64([a]), f64([b])), 1) for a, b in pairs)
        log_q, log_p = (-((grid - a) ** 2) / (2 * b**2) - math.log(b) for a, b in pairs)
        integral = torch.trapezoid(log_q.exp() / math.sqrt(2 * math.pi) * (log_q - log_p), grid)
        layer = Layer(mean + std * randn(0, draws(20_000, precision), 1), q, p, q, divergence=True)
        (closed, _), (ratio, _) = layer.term(analytic=True), layer.term(analytic=False)
        yield close(f"{name} in closed form, against the integral", integral, closed, 1e-8)
        sampled = f"{name} by Monte Carlo"
        yield mean_is(sampled, float(integral), ratio) if std != s else close(sampled, 0.0, ratio, 0.0)
        yield bounded(f"{name}, not negative", closed, 0.0, relation="at least")

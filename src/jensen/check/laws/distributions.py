"""Laws of distributions: which reparameterize and how, Gumbel's trick and its limit, decoders, closed divergences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch import distributions as D

from jensen.check.evidence import Evidence, bounded, close, mean_is, means_are
from jensen.check.law import draws, law
from jensen.core.seeding import drawing, generator
from jensen.distributions import BernoulliLogits, Erlang, Gompertz, IsotropicGaussian
from jensen.estimators import pathwise
from jensen.variational import Layer

F64 = torch.float64


def moves(
    name: str,
    q: Callable[..., D.Distribution],
    at: tuple[float, ...],
    f: Callable[[Tensor], Tensor],
    exact: tuple[float, ...],
    n: int,
) -> Evidence:
    """The path's gradient of E f in each parameter, from n rows of one draw each, against the closed form."""
    rows = [torch.full((n,), v, dtype=F64, requires_grad=True) for v in at]
    value = pathwise(q(*rows), f, generator=generator(0))
    slopes = torch.stack(torch.autograd.grad(value.sum(), rows), 1)
    return means_are(f"{name}: mean gradient of the path", torch.tensor(exact, dtype=F64), slopes)


def falls(name: str, x: Tensor, cdf: Callable[..., np.ndarray]) -> Iterator[Evidence]:
    """Draws (N,) follow a distribution function: u = F(x) has the mean 1/2 and the mean square 1/3."""
    u = torch.from_numpy(cdf(x.detach().numpy()))
    yield mean_is(f"{name}: mean of F(x)", 1 / 2, u)
    yield mean_is(f"{name}: mean of F(x)^2", 1 / 3, u**2)


def drawn(q: D.Distribution, n: int) -> Tensor:
    with drawing(generator(1)):
        x: Tensor = q.rsample(torch.Size((n,)))
    return x


@law(
    "reparameterization/location-scale",
    formula=r"z = \mu + \sigma\epsilon,\quad \nabla_{\mu,\sigma} E z^2 = (2\mu,\ 2\sigma\,E\epsilon^2)",
    source="Kingma & Welling (2014), section 2.4, case 2; Rezende et al. (2014)",
    assumptions="E eps = 0; E eps^2 = 1 for a normal, 2 for a Laplace, 1/3 for a uniform one on (-1, 1)",
)
def location_scale(precision: float) -> Iterator[Evidence]:
    """A location and a scale move every draw along: the standard draw times the scale, plus the location.

    E z^2 = mu^2 + sigma^2 E eps^2.
    """
    n = draws(40_000, precision)
    for name, family, second in (("normal", D.Normal, 1.0), ("Laplace", D.Laplace, 2.0)):
        yield moves(name, family, (0.8, 1.3), torch.square, (1.6, 2.6 * second), n)


@law(
    "reparameterization/uniform",
    formula=r"z = a + (b - a)u,\quad \nabla_{a,b} E z^2 = \tfrac13(2a + b,\ a + 2b)",
    source="Devroye (1986), section II.2",
)
def uniform(precision: float) -> Iterator[Evidence]:
    """A uniform variable reparameterizes by its ends, though its support moves, where the score function fails.

    E z^2 = (a^2 + a b + b^2) / 3. The density's logarithm -log(b - a) has a gradient of mean 1 / (b - a), not 0: mass
    enters and leaves at the ends.
    """
    n, a, b = draws(40_000, precision), 0.5, 2.0
    yield moves("uniform", D.Uniform, (a, b), torch.square, ((2 * a + b) / 3, (a + 2 * b) / 3), n)
    low, high = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (a, b))
    q = D.Uniform(low, high)
    (score,) = torch.autograd.grad(q.log_prob(drawn(q, 100).detach()).mean(), low)
    yield close("the mean of the score is 1 / (b - a)", 1 / (b - a), score, 1e-12)


@law(
    "reparameterization/log-normal",
    formula=r"z = e^{\mu + \sigma\epsilon},\quad \nabla_{\mu,\sigma} E z = (1, \sigma)\,e^{\mu + \sigma^2/2}",
    source="Kingma & Welling (2014), section 2.4, case 3",
)
def log_normal(precision: float) -> Iterator[Evidence]:
    """A function of a reparameterized variable is one: the exponential of a Gaussian."""
    n, mu, sigma = draws(40_000, precision), 0.3, 0.5
    mean = math.exp(mu + sigma**2 / 2)
    yield moves("log-normal", D.LogNormal, (mu, sigma), lambda z: z, (mean, sigma * mean), n)


@law(
    "reparameterization/gompertz",
    formula=r"z = \tfrac1b\log\big(1 - \tfrac1\eta\log(1-u)\big),\quad F(z) = 1 - e^{-\eta(e^{bz} - 1)}",
    source="Gompertz (1825); Kingma & Welling (2014), section 2.4, case 1",
)
def gompertz(precision: float) -> Iterator[Evidence]:
    """A Gompertz variable reparameterizes by its inverse distribution function.

    F(z) is uniform, so z = F^-1(u). E z = e^eta E_1(eta) / b, whose gradient in b is -E z / b and in eta
    (e^eta E_1(eta) - 1 / eta) / b.
    """
    n, eta, b = draws(40_000, precision), 0.7, 2.0
    scaled = math.exp(eta) * float(scipy.special.exp1(eta))
    slopes = ((scaled - 1 / eta) / b, -scaled / b**2)
    yield moves("Gompertz", Gompertz, (eta, b), lambda z: z, slopes, n)
    q = Gompertz(torch.tensor(eta, dtype=F64), torch.tensor(b, dtype=F64))
    theirs = scipy.stats.gompertz(eta, scale=1 / b)
    yield from falls("Gompertz", drawn(q, n), theirs.cdf)
    u = torch.linspace(0.01, 0.99, 99, dtype=F64)
    yield close("inverse of scipy's distribution function", u, torch.from_numpy(theirs.cdf(q.icdf(u).numpy())), 1e-10)
    yield close("log density is scipy's", torch.from_numpy(theirs.logpdf(q.icdf(u))), q.log_prob(q.icdf(u)), 1e-10)
    yield close("mean is e^eta E_1(eta) / b", scaled / b, q.mean, 1e-9)
    yield close("entropy is scipy's", theirs.entropy(), q.entropy(), 1e-6)
    x = torch.linspace(0, float(q.icdf(torch.tensor(1 - 1e-15, dtype=F64))), 200_001, dtype=F64)
    for p, name in ((Gompertz(eta, 1.5 * b), "another rate"), (Gompertz(3 * eta, b), "another shape")):
        integral = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x)
        yield close(f"divergence from {name} is the integral", integral, D.kl_divergence(q, p), 1e-6)
    large = (Gompertz(torch.tensor(v), torch.tensor(b)) for v in (1e6, 1.1e6))
    yield close("divergence of shapes of a million", 0.1 - math.log(1.1), D.kl_divergence(*large), 1e-7)


@law(
    "reparameterization/erlang",
    formula=r"z = -\tfrac1\lambda\sum_{i=1}^k \log u_i \sim \mathrm{Gamma}(k, \lambda)",
    source="Devroye (1986), section IX.3; Kingma & Welling (2014), section 2.4, case 3",
    assumptions="k an integer: the shape carries no gradient",
)
def erlang(precision: float) -> Iterator[Evidence]:
    """A Gamma of integer shape is a sum of exponentials of one rate, and moves with it.

    Exponentials are -log(u) / lambda by the inverse distribution function; Laplace transforms multiply to
    (1 + s / lambda)^-k. E z^2 = k (k + 1) / lambda^2.
    """
    n, k, rate = draws(40_000, precision), 3, 2.0
    slope = -2 * k * (k + 1) / rate**3
    yield moves("Erlang", lambda r: Erlang(k, r), (rate,), torch.square, (slope,), n)
    q = Erlang(k, torch.tensor(rate, dtype=F64))
    theirs = scipy.stats.gamma(k, scale=1 / rate)
    yield from falls("Erlang", drawn(q, n), theirs.cdf)
    several = Erlang(torch.tensor([1.0, 2.0, 5.0], dtype=F64), torch.tensor(rate, dtype=F64))
    yield means_are("means of shapes 1, 2 and 5 at once", torch.tensor([0.5, 1.0, 2.5], dtype=F64), drawn(several, n))
    z = torch.linspace(0.1, 6, 60, dtype=F64)
    yield close("log density is scipy's", torch.from_numpy(theirs.logpdf(z)), q.log_prob(z), 1e-10)
    p = Erlang(5, torch.tensor(1.2, dtype=F64))
    theirs_p, x = scipy.stats.gamma(5, scale=1 / 1.2), np.linspace(0, 40, 400_001)[1:]
    integrand = theirs.pdf(x) * (theirs.logpdf(x) - theirs_p.logpdf(x))
    yield close("divergence is the integral", np.trapezoid(integrand, x), D.kl_divergence(q, p), 1e-6)
    large = (Erlang(10**6, torch.tensor(v)) for v in (1.0, 1.1))
    yield close("divergence at a million, a million", 0.1 - math.log(1.1), D.kl_divergence(*large) / 10**6, 1e-7)


# -- decoders and divergences ------------------------------------------------------------------------------------------


@law(
    "decoder/bernoulli",
    formula=r"-\log p(x|z) = -\sum_i x_i\log p_i + (1 - x_i)\log(1 - p_i)",
    source="Kingma & Welling (2014), appendix C.1",
)
def bernoulli_decoder(_: float) -> Iterator[Evidence]:
    """A Bernoulli decoder's negative log-likelihood is the binary cross-entropy, and its gradient p - x.

    log p^x (1 - p)^(1 - x), and dp/dl = p (1 - p) for a logit l.
    """
    logits = torch.linspace(-4, 4, 12, dtype=F64).reshape(3, 4).requires_grad_()
    x = torch.tensor([[0.0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=F64)
    p = 1 / (1 + torch.exp(-logits.detach()))
    entropy = -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    log_px = BernoulliLogits()(logits).log_prob(x)
    yield close("minus log p(x|z) is the cross-entropy", entropy, -log_px, 1e-12)
    (slope,) = torch.autograd.grad(-log_px.sum(), logits)
    yield close("its gradient is p - x", p - x, slope, 1e-12)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 4)
    total = BernoulliLogits()(logits[:1].detach()).log_prob(bits).exp().sum()
    yield close("probabilities of all 16 pictures of 4 bits", 1.0, total, 1e-12)


@law(
    "decoder/gaussian",
    formula=r"-\log p(x|z) = \frac{|x - \mu(z)|^2}{2\sigma^2} + \frac D2\log(2\pi\sigma^2)",
    source="Kingma & Welling (2014), appendix C.2",
    assumptions="sigma fixed, the same for all coordinates",
)
def gaussian_decoder(_: float) -> Iterator[Evidence]:
    """A Gaussian decoder of fixed isotropic variance is a squared error over 2 sigma^2 and a constant.

    Only the constant is a matter of the scale: the decoder's gradient is (mu - x) / sigma^2.
    """
    x, mu = torch.linspace(-1, 2, 12, dtype=F64).reshape(3, 4), torch.linspace(2, -1, 12, dtype=F64).reshape(3, 4)
    for std in (0.5, 2.0):
        mean = mu.clone().requires_grad_()
        log_px = IsotropicGaussian(std).double()(mean).log_prob(x)
        error = (x - mu).square().sum(-1) / (2 * std**2)
        constant = 4 / 2 * math.log(2 * math.pi * std**2)
        yield close(f"minus log p(x|z) less the squared error, std {std}", constant, -log_px - error, 1e-6)
        (slope,) = torch.autograd.grad(-log_px.sum(), mean)
        yield close(f"its gradient, std {std}", (mu - x) / std**2, slope, 1e-6)


@law(
    "gaussian-kl/closed-form",
    formula=r"\mathrm{KL} = \log\tfrac s\sigma + \tfrac{\sigma^2 + (\mu - m)^2}{2s^2} - \tfrac12",
    source="Kingma & Welling (2014), appendix B",
)
def gaussian_kl(precision: float) -> Iterator[Evidence]:
    """The divergence of Gaussians in closed form is the integral of q log(q/p), and the mean of log-ratios of draws.

    E_q of two quadratic forms. It is 0 for equal laws alone, and not symmetric.
    """
    cases = ((0.7, 0.4, 0.0, 1.0), (-1.0, 2.0, 0.5, 0.8), (0.3, 1.1, 0.3, 1.1))
    grid = torch.linspace(-30, 30, 600_001, dtype=F64)
    for mean, std, m, s in cases:
        q, p = (
            D.Independent(D.Normal(torch.tensor([a], dtype=F64), torch.tensor([b], dtype=F64)), 1)
            for a, b in ((mean, std), (m, s))
        )
        log_q, log_p = (-((grid - a) ** 2) / (2 * b**2) - math.log(b) for a, b in ((mean, std), (m, s)))
        density = log_q.exp() / math.sqrt(2 * math.pi)
        integral = torch.trapezoid(density * (log_q - log_p), grid)
        with drawing(generator(0)):
            z = q.sample(torch.Size((draws(20_000, precision),)))
        layer = Layer(z, q, p, q, divergence=True)
        name = f"KL(N({mean}, {std}^2) || N({m}, {s}^2))"
        closed, analytic = layer.term(analytic=True)
        assert analytic
        yield close(f"{name}, in closed form", integral, closed, 1e-8)
        ratio, _ = layer.term(analytic=False)
        yield mean_is(f"{name}, by draws", float(integral), ratio) if std != s else close(name, 0.0, ratio, 0.0)
        yield bounded(f"{name} is at least 0", closed, 0.0, relation="at least")


LAWS = (
    location_scale,
    uniform,
    log_normal,
    gompertz,
    erlang,
    bernoulli_decoder,
    gaussian_decoder,
    gaussian_kl,
)

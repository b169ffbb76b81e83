"""Bounds on log p(x): the gap of the ELBO, K samples, gradients, two layers of latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.check.bounds import bound as check_bound
from jensen.check.evidence import Claims, Evidence, bounded, close, mean_is, means_are
from jensen.check.law import draws, law
from jensen.check.laws.likelihood import LOG_P, MEAN, PRECISION, S2, B, W, X, data, gaussian, model
from jensen.check.line import F64, f64, normal, normal_grid, randn
from jensen.core.seeding import drawing, generator
from jensen.distributions import GaussianPrior
from jensen.models import HVAE, VAE
from jensen.report import plots
from jensen.variational import (
    Bound,
    Layer,
    LinearGaussian,
    Trace,
    ascend_theta,
    dreg,
    elbo,
    iwae,
    log_weights,
    posterior_trace,
    scored,
)

M, S = 0.2, 0.9  # mean and standard deviation of a q(z|x) that is not the posterior
GAP = (S**2 * PRECISION + (M - MEAN) ** 2 * PRECISION - 1 - math.log(S**2 * PRECISION)) / 2  # KL(q || p(z|x))


class Affine(nn.Module):
    """N(slope c + offset, std^2), with separate parameters for each row, so that each row has its own gradient."""

    def __init__(self, slope: float, offset: float, std: float, rows: int = 1):
        super().__init__()
        self.theta = nn.Parameter(f64([slope, offset, math.log(std)]).expand(rows, 3).clone())

    def forward(self, c: Tensor) -> Distribution:
        slope, offset, log_std = self.theta[: c.shape[-2]].split(1, dim=1)
        mean = slope * c + offset
        return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)


def off_trace(rows: int, samples: int = 1) -> Trace:
    """Samples of q = N(M, S^2) at each row."""
    x = data(rows)
    with drawing(generator(0)), torch.no_grad():
        return posterior_trace(model(), x, (gaussian(M, S, x),), samples=samples)


@law("elbo/kl-gap")
def kl_gap(precision: float) -> Claims:
    r"""The ELBO is log p(x) minus the KL divergence of q(z|x) from the posterior p(z|x).

    $$\log p(x) = E_q\log\frac{p(x,z)}{q(z|x)} + \mathrm{KL}\big(q(z|x)\,\|\,p(z|x)\big)$$
    The first term is the ELBO. log p(x) = log p(x, z) - log p(z|x) for every z, so it equals its mean over q.
    Source: Jordan et al. (1999); Kingma & Welling (2014), equations 1 and 2.
    """
    oracle, x, q = model(), data(1), gaussian(M, S, data(1))
    yield close("log p(x)", LOG_P, oracle.log_prob(x), 1e-10)
    yield close("KL divergence of q from the posterior", GAP, oracle.kl(q, x), 1e-10)
    yield close("ELBO in closed form", LOG_P - GAP, oracle.elbo(q, x), 1e-10)
    yield mean_is("ELBO by Monte Carlo", LOG_P - GAP, elbo(off_trace(draws(40_000, precision))))
    exact = posterior_trace(oracle, x, (oracle.posterior(x),), samples=100)
    yield close("log weight of every sample of the posterior", LOG_P, log_weights(exact), 1e-10)


@law("errata/ratio-for-log-ratio")
def ratio_for_log_ratio(precision: float) -> Claims:
    r"""The KL divergence is the mean of log q/p, here 1/2; the mean of the ratio q/p is e.

    $$\mathrm{KL}(q\|p) = E_q\log\tfrac qp \ne E_q\tfrac qp = 1 + \chi^2(q\|p)$$
    Under q, log q/p = z - 1/2 has the mean 1/2, and q/p = e^(z - 1/2) has the mean e^(1 - 1/2 + 1/2).
    Source: Kullback & Leibler (1951).
    Assumes: q = N(1, 1), p = N(0, 1).
    """
    q, p = (gaussian(mean, 1.0, f64([0.0])) for mean in (1.0, 0.0))
    layer = Layer(1 + randn(0, draws(40_000, precision), 1), q, p, q, divergence=True)
    log_ratio, _ = layer.term(analytic=False)
    yield close("KL term of the ELBO in closed form", 0.5, layer.term(analytic=True)[0], 1e-12)
    yield mean_is("KL term of the ELBO by Monte Carlo", 0.5, log_ratio)
    yield mean_is("mean of q/p", math.e, log_ratio.exp())
    yield bounded("error of the mean of q/p as the KL", log_ratio.exp().mean() - 0.5, 2.0, relation="at least")


def iwae_exact(samples: int, nodes: int) -> float:
    """E log mean_k w_k for q = N(M, S^2), by Gauss-Hermite quadrature over the noise of the K samples."""
    noise, mass = normal_grid(samples, nodes)
    z = M + S * noise
    log_w = Normal(W * z + B, S2**0.5).log_prob(f64(X)) + normal(0.0).log_prob(z) - normal(M, S).log_prob(z)
    return float(mass @ (log_w.logsumexp(0) - math.log(samples)))


@law("iwae/rises-with-k")
def iwae_rises(precision: float) -> Claims:
    r"""The IWAE bound does not decrease with the number of samples K, and tends to log p(x).

    $$\mathrm{ELBO} = \mathcal L_1 \le \mathcal L_m \le \mathcal L_k \le \log p(x)\quad (k \ge m)$$
    $\mathcal L_k = E\log\frac1k\sum_i w_i$ with weights w = p(x, z)/q(z|x). The mean of k weights is the average of the
    means of its subsets of m weights; Jensen's inequality takes this average out of the logarithm.
    Source: Burda et al. (2016), theorem 1.
    """
    last, name = LOG_P - GAP, "the ELBO"
    for k in (1, 2, 3, 4):
        exact = iwae_exact(k, 40 if k < 4 else 24)
        yield mean_is(f"bound with K = {k}, by Monte Carlo", exact, iwae(off_trace(draws(40_000, precision), k)))
        yield bounded(f"exact bound with K = {k}, at least {name}", exact, last, 1e-9, relation="at least")
        last, name = exact, f"that with K = {k}"
    many = mean_is("bound with K = 256", LOG_P, iwae(off_trace(draws(4000, precision), 256)), relation="at most")
    yield many
    yield bounded("bound with K = 256, within 0.01 of log p(x)", many.measured, LOG_P - 0.01, relation="at least")


@iwae_rises.drawn
def _iwae_plot() -> str:
    counts, elbos = list(range(7)), {"log p(x)": [LOG_P] * 7, "ELBO": [LOG_P - GAP] * 7}
    rows = {"IWAE": [float(iwae(off_trace(20_000, 2**k)).mean()) for k in counts], **elbos}
    return plots.curves(counts, rows, title="bounds against the number of samples K", xlabel="log2 K")


BOUNDS: dict[str, tuple[Bound, bool]] = {
    "ELBO": (elbo, True),
    "IWAE": (iwae, True),
    "ELBO, score-function gradient": (scored(elbo), False),
    "IWAE, score-function gradient": (scored(iwae), False),
    "IWAE, doubly reparameterized": (dreg, True),
}


@law("bounds/claims")
def claims(precision: float) -> Claims:
    r"""Each bound is below log p(x), increases with K, is tight at the posterior and has an unbiased gradient.

    $$\mathcal L_K \le \mathcal L_{K'} \le \log p(x)\ (K < K'),\quad E\nabla\hat L_K = \nabla\mathcal L_K$$
    By `jensen.check.bound`, on a linear-Gaussian model with two latents and three observed variables; q is half a
    standard deviation off the posterior and 1.3 times too wide.
    Source: Burda et al. (2016), theorem 1; Mnih & Rezende (2016); Tucker et al. (2019), equation 8.
    """
    x, weight = f64([[0.5, -1.0, 0.3]]), f64([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]])
    oracle, repeats = LinearGaussian(weight, f64([0.1, -0.2, 0.3]), 0.6), draws(3000, precision)
    for name, (bound, path) in BOUNDS.items():
        how = {"samples": (1, 5), "repeats": repeats, "reparameterized": path, "generator": generator(0)}
        yield from check_bound(bound, oracle, x, **how).named(name)  # type: ignore[arg-type]


@law("elbo/gradient-theta")
def gradient_theta(precision: float) -> Claims:
    r"""The ELBO's gradient with respect to the parameters theta of p is the mean over q of the gradient of log p(x, z).

    $$\nabla_\theta E_q\log p_\theta(x,z) = E_q\,\nabla_\theta\log p_\theta(x,z)$$
    q does not depend on theta, so the derivative moves inside the expectation. For x|z ~ N(w z + b, v), v = e^(2l),
    q = N(m, s^2) and r = x - w m - b, it is (r m - w s^2) / v for w, r / v for b, and (r^2 + w^2 s^2) / v - 1 for l.
    Source: Kingma & Welling (2014), section 2.3.
    """
    rows, r = draws(40_000, precision), X - W * M - B
    decoder = Affine(W, B, math.sqrt(S2), rows)
    vae = VAE(Affine(0.0, M, S, rows), decoder, GaussianPrior(1).double())
    with drawing(generator(0)):
        elbo(vae.trace(data(rows))).sum().backward()
    exact = f64([(r * M - W * S**2) / S2, r / S2, (r**2 + W**2 * S**2) / S2 - 1])
    yield means_are("mean gradient with respect to w, b and l", exact, torch.as_tensor(decoder.theta.grad))


def slopes(bound: Bound, rows: int, *, path: bool, samples: int = 1) -> Tensor:
    """Each row's gradient of a bound with respect to the mean m and log standard deviation log s of q, (rows, 2)."""
    leaves = [torch.full((rows, 1), v, dtype=F64, requires_grad=True) for v in (M, math.log(S))]
    q = Independent(Normal(leaves[0], leaves[1].exp()), 1)
    with drawing(generator(0)):
        trace = posterior_trace(model(), data(rows), (q,), samples=samples, reparameterized=path)
    return torch.cat(torch.autograd.grad(bound(trace).sum(), leaves), 1)


@law("elbo/gradient-lambda")
def gradient_lambda(precision: float) -> Claims:
    r"""The pathwise and the score-function gradient of the ELBO have the same mean; the pathwise has less variance.

    $$\nabla_\lambda\mathcal L = E_\epsilon\nabla\log\tfrac pq(z_\lambda(\epsilon)) = E_q[\log\tfrac pq\,\nabla\log q]$$
    For x|z ~ N(w z + b, v), q = N(m, s^2): w (x - w m - b) / v - m in m, and 1 - s^2 (1 + w^2 / v) in log s.
    Source: Paisley et al. (2012); Ranganath et al. (2014); Kingma & Welling (2014), equation 6.
    """
    rows, exact = draws(40_000, precision), f64([W * (X - W * M - B) / S2 - M, 1 - S**2 * PRECISION])
    path, score = slopes(elbo, rows, path=True), slopes(scored(elbo), rows, path=False)
    yield means_are("mean pathwise gradient with respect to m and log s", exact, path)
    yield means_are("mean score-function gradient with respect to m and log s", exact, score)
    ratio = score.var(0) / path.var(0)
    yield bounded("score-function variance over pathwise variance", ratio, 2.0, relation="at least")
    others = slopes(scored(elbo), rows, path=False, samples=4)
    yield means_are("mean score-function gradient with 4 samples and a leave-one-out baseline", exact, others)
    alone = slopes(scored(elbo, torch.zeros(rows, dtype=F64)), rows, path=False, samples=4)
    ratio = others.var(0) / alone.var(0)
    yield bounded("its variance over the variance without a baseline", ratio, 0.6, relation="at most")


@law("elbo/theta-alone")
def theta_alone(_: float) -> Claims:
    r"""Maximising the ELBO in theta with q fixed can lower log p(x); with q the posterior at each step it cannot.

    $$\mathrm{ELBO}(\theta, q) = \log p_\theta(x) - \mathrm{KL}(q\,\|\,p_\theta(z|x))$$
    A smaller KL can raise the ELBO while log p(x) falls. Here the ELBO is -log(2 pi)/2 - (4 + w^2)/2, largest at w = 0;
    log p(x) = log N(2; 0, 1 + w^2) is largest at sqrt(3). From there to 0 they change by 3/2 and log 2 - 3/2 nats.
    Source: Turner & Sahani (2011), section 3; Neal & Hinton (1998) for the alternation.
    Assumes: x = 2, z ~ N(0, 1), x|z ~ N(w z, 1), q = N(0, 1) held fixed.
    """
    x, root = f64([[2.0]]), 3**0.5
    path = ascend_theta(LinearGaussian(f64([[root]]), [0.0], 1.0), x, gaussian(0.0, 1.0, x), steps=120, rate=0.1)
    yield close("increase of the ELBO", 1.5, path.elbo[-1] - path.elbo[0], 1e-8)
    yield close("decrease of log p(x)", 1.5 - math.log(2), path.log_p[0] - path.log_p[-1], 1e-8)
    w = root * 0.9 ** torch.arange(121, dtype=F64)
    yield close("w after t steps: sqrt(3) (1 - rate)^t", w, path.weight.flatten(), 1e-10)
    at, log_p = LinearGaussian(f64([[0.5]]), [0.0], 1.0), []
    for _step in range(40):
        step = ascend_theta(at, x, at.posterior(x), steps=2, rate=0.5)
        log_p.append(step.log_p[0])
        at = LinearGaussian(step.weight[-1], [0.0], 1.0)
    rises = torch.stack(log_p).diff()
    yield bounded("change of log p(x) at each step, q the posterior", rises, -1e-12, relation="at least")
    yield close("w at the end, q the posterior", root, at.weight, 1e-3)


Pair = tuple[tuple[float, float, float], tuple[float, float, float]]  # slope, offset and std of two Gaussians


def two_layers(up: Pair, down: Pair, rows: int, *, analytic: bool) -> Trace:
    """Samples of a VAE with q(z1|x), q(z2|z1) in `up` and p(x|z1), p(z1|z2) in `down`."""
    hvae = HVAE([Affine(*v) for v in up], [Affine(*v) for v in down], GaussianPrior(1).double())
    with drawing(generator(0)), torch.no_grad():
        return hvae.trace(data(rows), analytic=analytic)


def three_terms(up: Pair, down: Pair) -> tuple[float, float, float]:
    """E log p(X|z1), E log q(z1|X) / p(z1|z2) and E KL(q(z2|z1) || p(z2)) in closed form."""
    (a, b, s1), (c, d, s2) = up
    (w, e, t1), (v, f, t2) = down
    m1 = a * X + b
    rebuilt = -((X - w * m1 - e) ** 2 + w**2 * s1**2) / (2 * t1**2) - math.log(2 * math.pi * t1**2) / 2
    spread = ((1 - v * c) * m1 - v * d - f) ** 2 + (1 - v * c) ** 2 * s1**2 + v**2 * s2**2
    between = math.log(t2 / s1) - 1 / 2 + spread / (2 * t2**2)
    top = (s2**2 + (c * m1 + d) ** 2 + c**2 * s1**2 - 1 - 2 * math.log(s2)) / 2
    return rebuilt, between, top


@law("two-layer/three-terms")
def two_layer_terms(precision: float) -> Claims:
    r"""The ELBO of a two-layer VAE has three terms, of which only that of the top latent z2 is a KL divergence.

    $$\mathcal L = E\log p(x|z_1) - E\log\tfrac{q(z_1|x)}{p(z_1|z_2)} - E\,\mathrm{KL}(q(z_2|z_1)\|p(z_2))$$
    The ELBO is the mean of log p(x, z) / q(z|x), factor by factor. The z1 term is no KL divergence, because z2 in
    p(z1|z2) is itself drawn given z1. For linear Gaussian layers all three terms have closed forms.
    Source: Burda et al. (2016), section 2; Sonderby et al. (2016), equation 6.
    Assumes: bottom-up inference, q(z1|x) q(z2|z1).
    """
    layers: tuple[Pair, Pair] = ((0.4, 0.1, 0.6), (0.7, -0.3, 0.5)), ((0.9, 0.2, 0.7), (0.8, 0.1, 0.4))
    trace, closed = (two_layers(*layers, draws(40_000, precision), analytic=v) for v in (False, True))
    rebuilt, between, top = three_terms(*layers)
    yield mean_is("E log p(x|z1)", rebuilt, trace.log_px[0])
    yield mean_is("E log q(z1|x) / p(z1|z2)", between, trace.kl[0][0])
    yield mean_is("E log q(z2|z1) / p(z2)", top, trace.kl[1][0])
    yield mean_is("E KL(q(z2|z1) || p(z2)) in closed form", top, closed.kl[1][0])
    yield mean_is("ELBO", rebuilt - between - top, elbo(trace))
    yield mean_is("z1 term with `analytic=True`", between, closed.kl[0][0])
    which = 1.0 + closed.analytic.index(True)
    yield Evidence("layer whose term is a KL divergence in closed form", 2.0, which, 0.0)


@law("errata/first-term-is-no-kl")
def first_term(precision: float) -> Claims:
    r"""The z1 term of a two-layer ELBO is not a KL divergence: here it is -2.30 nats, and a KL is never negative.

    $$E_q\log\frac{q(z_1|x)}{p(z_1|z_2)} = \log\tfrac{t_2}{s_1} - \tfrac12 + \tfrac{s_2^2}{2t_2^2} < 0$$
    t2, s1 and s2 are the standard deviations of p(z1|z2), q(z1|x) and q(z2|z1). Since z2 is drawn given z1, p(z1|z2)
    can know more of z1 than q(z1|x) does.
    Source: Burda et al. (2016), section 2.
    Assumes: q(z1|x) = N(0, 1), q(z2|z1) = N(z1, 0.01), p(z1|z2) = N(z2, 0.01).
    """
    sharp: tuple[Pair, Pair] = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.1)), ((1.0, 0.0, 1.0), (1.0, 0.0, 0.1))
    trace, exact = two_layers(*sharp, draws(20_000, precision), analytic=True), math.log(0.1) - 1 / 2 + 1 / 2
    rebuilt, between, top = three_terms(*sharp)
    yield close("z1 term in closed form", exact, between, 1e-12)
    yield mean_is("z1 term by Monte Carlo", exact, trace.kl[0][0])
    yield bounded("z1 term, which is negative", trace.kl[0].mean(), -2.0, relation="at most")
    yield Evidence("number of terms that are KL divergences in closed form", 1.0, float(sum(trace.analytic)), 0.0)
    yield mean_is("ELBO with the negative z1 term", rebuilt - between - top, elbo(trace))

"""Inference: one encoder for all data, tables of factors, mean fields, and the limit without noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.check.evidence import Claims, bounded, close, estimate_is, mean_is
from jensen.check.law import draws, law
from jensen.check.line import F64, f64, randn
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, FlatPrior, IsotropicGaussian
from jensen.models import Autoencoder
from jensen.report import plots
from jensen.variational import (
    LinearGaussian,
    amortization_gap,
    elbo,
    fit_posterior,
    gaussian_mean_field,
    posterior_table,
    stochastic_vi,
    table_mean_field,
)

WEIGHT = f64([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]])
NOISE = 0.4
PRECISION = torch.eye(2, dtype=F64) + WEIGHT.T @ WEIGHT / NOISE  # of p(z|x)
FAMILY = float(PRECISION.diagonal().log().sum() - torch.logdet(PRECISION)) / 2  # KL of the best factors
SHIFT, WIDEN = 0.5, 1.1
SHIFTED = SHIFT * PRECISION.diagonal().rsqrt()
AMORTIZED = 2 * (WIDEN**2 / 2 - 1 / 2 - math.log(WIDEN)) + float(SHIFTED @ PRECISION @ SHIFTED) / 2


def model(encoder: object = None) -> LinearGaussian:
    return LinearGaussian(WEIGHT, torch.zeros(3, dtype=F64), NOISE, encoder=encoder)  # type: ignore[arg-type]


def observed(n: int) -> Tensor:
    return randn(3, n, 3) * f64([1.5, 0.8, 1.2])


def log_p(x: Tensor) -> Tensor:
    """Log N(x; 0, W W' + v I), written out."""
    covariance = WEIGHT @ WEIGHT.T + NOISE * torch.eye(3, dtype=F64)
    energy = (x @ torch.linalg.inv(covariance) * x).sum(-1)
    return -(energy + torch.logdet(2 * math.pi * covariance)) / 2


def means(x: Tensor) -> Tensor:
    """The means of p(z|x)."""
    return x @ WEIGHT @ torch.linalg.inv(PRECISION) / NOISE


def off(x: Tensor) -> Distribution:
    """An encoder that is half a standard deviation off the best factors, and a tenth too wide."""
    std = PRECISION.diagonal().rsqrt().expand(len(x), 2)
    return Independent(Normal(means(x) + SHIFT * std, WIDEN * std), 1)


@law("amortization/gap")
def amortization(precision: float) -> Claims:
    r"""An encoder has two gaps: that of the best q of its family, and its own to that best q.

    $$\log p(x) - \mathcal L_{enc} = \mathrm{KL}(q^*\|p(z|x)) + (\mathcal L_{q^*} - \mathcal L_{enc})$$
    The best factors have the posterior's means and the diagonal of its precision. Shifted by half of their standard
    deviation and widened by a tenth they lose sum(c^2/2 - 1/2 - log c) + d'Pd / 2 more.
    Source: Cremer et al. (2018), equation 2.
    Assumes: a linear-Gaussian model, q of independent Gaussians.
    """
    x, at = observed(12), model(off)
    yield close("log p(x)", log_p(x), at.log_prob(x), 1e-9)
    yield close("the encoder's whole gap", FAMILY + AMORTIZED, at.log_prob(x) - at.elbo(off(x), x), 1e-9)
    gap = amortization_gap(at, x, samples=draws(3000, precision), generator=generator(0))
    stderr = gap.stderr.square().sum().sqrt() / len(x)
    yield estimate_is("the gap within its family", AMORTIZED, gap.value.mean(), stderr, bias=3e-3)
    yield bounded("the gap to the best q of each datum", gap.value + 5 * gap.stderr, 0.0, relation="at least")


@law("errata/one-encoder")
def one_encoder(_: float) -> Claims:
    r"""The best q of each datum is at least as good as the best encoder, and equal only if an encoder can express it.

    $$\sum_n\max_{\lambda_n}\mathcal L(x_n, \lambda_n) \ge \max_\phi\sum_n\mathcal L(x_n, e_\phi(x_n))$$
    Each datum's best q is its posterior N(2x/3, 1/3), and the bound log p. An encoder with one N(m, s^2) for both is
    best at m = 0, s^2 = 1/3, and loses m'Pm / 2 = (4/3)^2 3 / 2 = 8/3 nats a datum.
    Source: Cremer et al. (2018), section 3.2.
    Assumes: x = +-2, z ~ N(0, 1), x|z ~ N(z, 1/2); the encoder gives the same q for both.
    """
    x, oracle = f64([[-2.0], [2.0]]), LinearGaussian(f64([[1.0]]), [0.0], 0.5)
    log_p = -(x.flatten() ** 2) / 3 - math.log(2 * math.pi * 1.5) / 2
    (best,) = fit_posterior(oracle, x, generator=generator(0))
    each = oracle.elbo(best, x)
    yield close("the bound of each datum's best q is log p", log_p, each, 2e-3)
    leaves = [f64([0.0]).requires_grad_() for _ in range(2)]
    for _step in range(100):
        q = Independent(Normal(leaves[0].expand(2, 1), leaves[1].exp().expand(2, 1)), 1)
        slopes = torch.autograd.grad(oracle.elbo(q, x).sum(), leaves)
        leaves = [(v + 0.1 * s).detach().requires_grad_() for v, s in zip(leaves, slopes, strict=True)]
    shared = oracle.elbo(q, x).sum().detach()
    yield close("the best of one encoder for both", log_p.sum() - 2 * 8 / 3, shared, 1e-4)
    yield bounded("nats that the one encoder loses", each.sum() - shared, 5.0, relation="at least")


@law("stochastic-vi/optimum")
def stochastic(precision: float) -> Claims:
    r"""A table of factors, moved by noisy gradients of random batches, converges to each datum's best factors.

    $$\lambda_n \leftarrow \lambda_n + \eta\,\nabla_{\lambda_n}\tfrac NB\textstyle\sum_{b}\mathcal L_b$$
    N / B times the batch's bound is unbiased for the sum over the data; steps that decrease to 0 average the noise
    away. The best factors have the posterior's means and variances 1 / P_jj.
    Source: Hoffman et al. (2013), section 2.3; Ranganath et al. (2014), section 5.
    """
    x, table, rows = observed(20), posterior_table(20, 2).double(), torch.arange(20)
    start = float(model().elbo(table(rows), x).mean().detach())
    still = stochastic_vi(model(), x, [table], steps=draws(200, precision), batch=5, rate=1e-12, generator=generator(0))
    epochs = still[: len(still) // 4 * 4].view(-1, 4).mean(1)  # each is one pass through the data
    yield mean_is("estimates of the sum without learning", start, epochs)
    stochastic_vi(model(), x, [table], steps=300, batch=10, rate=0.15, samples=4, generator=generator(1))
    with torch.no_grad():
        q = table(rows)
        yield close("means of the factors", means(x), q.mean, 0.1)
        yield close("log variances of the factors", -PRECISION.diagonal().log(), q.variance.log(), 0.2)
        yield close("nats below the best factors", 0.0, log_p(x) - FAMILY - model().elbo(q, x), 0.02)


@law("mean-field/optimum")
def mean_field(_: float) -> Claims:
    r"""The best factor is the exponential of the mean log joint; Gaussian means are right, variances too small.

    $$q_j^* \propto \exp E_{-j}\log p,\quad \mathrm{KL} = \tfrac12(\sum_j\log\Lambda_{jj} - \log|\Lambda|)$$
    The bound as a function of one factor is minus its divergence from that exponential, so that no update lowers it.
    Source: Bishop (2006), equations 10.9 and 10.12 to 10.15.
    """
    root, mean = f64([[1.0, 0, 0], [0.6, 0.9, 0], [-0.4, 0.5, 1.2]]), f64([0.5, -1.0, 2.0])
    precision = root @ root.T
    found = gaussian_mean_field(mean, precision)
    yield close("means of the factors", mean, found.state.mean, 1e-5)
    yield close("variances of the factors", 1 / precision.diagonal(), found.state.variance, 1e-9)
    marginal = torch.linalg.inv(precision).diagonal()
    yield bounded("and none is more than the marginal", found.state.variance, marginal, relation="at most")
    kl = (precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    yield close("the divergence that is left", kl, -found.elbo[-1], 1e-8)
    yield bounded("no update lowers the bound", found.elbo.diff(), -1e-12, relation="at least")
    log_joint = randn(0, 3, 2, 4)
    table = table_mean_field(log_joint)
    a, b, c = table.state
    q = torch.einsum("a,b,c->abc", a, b, c)
    for axis, (factor, others) in enumerate(((a, (1, 2)), (b, (0, 2)), (c, (0, 1)))):
        mean_log = (q / q.sum(others, keepdim=True) * log_joint).sum(others)
        yield close(f"factor {axis} of a table is its own optimum", torch.softmax(mean_log, 0), factor, 1e-5)
    yield close("its bound", (q * (log_joint - q.log())).sum(), table.elbo[-1], 1e-9)
    yield bounded("below the log of the sum", table.elbo[-1], log_joint.logsumexp((0, 1, 2)), relation="at most")


STDS = (0.3, 1e-1, 1e-2, 1e-4)
VARIANCE = 0.25


def autoencoder() -> tuple[Autoencoder, Tensor, float, float]:
    """A linear one; a datum; log p(x | e(x)); and |W|^2 / (2 v), by which the bound falls short per std^2."""
    weight = torch.tensor([[0.5, -0.3], [0.8, 0.2], [-0.1, 0.9]])
    encoder, decoder = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    encoder.weight.data, decoder.weight.data = weight.T.clone(), weight.clone()
    whole = Autoencoder(encoder, Conditional(decoder, IsotropicGaussian(VARIANCE**0.5)), FlatPrior(2)).double()
    x, w = f64([[1.0, -0.5, 0.7]]), weight.double()
    error = float((x - x @ w @ w.T).square().sum()) / (2 * VARIANCE)
    return whole, x, -error - 1.5 * math.log(2 * math.pi * VARIANCE), float(w.square().sum()) / (2 * VARIANCE)


def entropy(std: float) -> float:
    """The entropy of N(e, std^2 I) in two dimensions, nats."""
    return 2 * (math.log(2 * math.pi * math.e) / 2 + math.log(std))


@law("autoencoder/limit")
def autoencoder_limit(precision: float) -> Claims:
    r"""An autoencoder is a VAE whose q shrinks to a point under a flat, improper prior, less an infinite constant.

    $$\mathcal L - H(q) = \log p(x|e(x)) - \frac{\sigma^2|W|^2}{2v} \to \log p(x|e(x)),\quad H(q) \to -\infty$$
    KL(q || 1) = -H(q) does not depend on the encoder, and grows like -d log sigma; the rest of the bound tends to
    the autoencoder's squared error as sigma^2. E |x - W z|^2 = |x - W e(x)|^2 + sigma^2 |W|^2.
    Source: Kingma & Welling (2014), section 2.3; Ghosh et al. (2020).
    Assumes: q = N(e(x), sigma^2 I), the flat prior p(z) = 1, a linear decoder.
    """
    whole, x, limit, excess = autoencoder()
    with torch.no_grad():
        yield close("the autoencoder's own bound", limit, elbo(whole.trace(x)), 1e-6)
        for std in STDS:
            with drawing(generator(0)):
                trace = whole.noisy(std).double().trace(x.expand(draws(20_000, precision), 3), analytic=True)
            yield close(f"KL to the flat prior, std {std}", -entropy(std), trace.kl[0][0, 0], 1e-5)
            value = elbo(trace) - entropy(std)
            yield mean_is(f"bound less the entropy, std {std}", limit - std**2 * excess, value, bias=1e-5)


@autoencoder_limit.drawn
def _limit_plot() -> str:
    whole, x, limit, excess = autoencoder()
    stds, measured = [1.0, 0.3, 0.1, 0.03], []
    with torch.no_grad(), drawing(generator(0)):
        for std in stds:
            trace = whole.noisy(std).double().trace(x.expand(200_000, 3), analytic=True)
            measured.append(limit - float((elbo(trace) - entropy(std)).mean()))
    rows = {"sigma^2 |W|^2 / (2 v)": [s**2 * excess for s in stds], "measured": measured}
    return plots.curves(stds, rows, title="log p(x|e(x)) less the bound without H(q)", xlabel="std of q", log=True)

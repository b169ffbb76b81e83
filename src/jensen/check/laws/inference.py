"""Inference: amortization, stochastic variational inference, mean fields, and the limit of an autoencoder."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from jensen.check.evidence import Claims, bounded, close, estimate_is, mean_is
from jensen.check.law import draws, law
from jensen.check.line import F64, f64, randn
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, FlatPrior, IsotropicGaussian
from jensen.models import Autoencoder
from jensen.report import plots
from jensen.variational import (
    LinearGaussian,
    Trace,
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
FAMILY = float(PRECISION.diagonal().log().sum() - torch.logdet(PRECISION)) / 2  # KL of the best factorised q
COVARIANCE = WEIGHT @ WEIGHT.T + NOISE * torch.eye(3, dtype=F64)  # of x
DATA = randn(3, 20, 3) * f64([1.5, 0.8, 1.2])
LOG_P = MultivariateNormal(torch.zeros(3, dtype=F64), COVARIANCE).log_prob(DATA)


def model(encoder: Any = None) -> LinearGaussian:
    return LinearGaussian(WEIGHT, torch.zeros(3, dtype=F64), NOISE, encoder=encoder)


def best(x: Tensor, shift: float = 0.0, widen: float = 1.0) -> Distribution:
    """The best factorised Gaussian q for each x, shifted by `shift` standard deviations, `widen` times as wide."""
    std = PRECISION.diagonal().rsqrt().expand(len(x), 2)
    mean = x @ WEIGHT @ torch.linalg.inv(PRECISION) / NOISE  # the posterior's
    return Independent(Normal(mean + shift * std, widen * std), 1)


@law("amortization/gap")
def amortization(precision: float) -> Claims:
    r"""The gap of an encoder's ELBO is the KL divergence of the best q of its family plus its amortization gap.

    $$\log p(x) - \mathcal L_{enc} = \mathrm{KL}(q^*\|p(z|x)) + (\mathcal L_{q^*} - \mathcal L_{enc})$$
    q* is the best q for each x. With independent Gaussians it has the posterior's means and the diagonal of the
    posterior's precision P. An encoder that shifts the means by d and multiplies the standard deviations by c has the
    amortization gap sum(c^2/2 - 1/2 - log c) + d'Pd / 2.
    Source: Cremer et al. (2018), equation 2.
    Assumes: a linear-Gaussian model, q of independent Gaussians.
    """
    c, d = 1.1, 0.5 * PRECISION.diagonal().rsqrt()
    exact = 2 * (c**2 / 2 - 1 / 2 - math.log(c)) + float(d @ PRECISION @ d) / 2
    x, off = DATA[:12], partial(best, shift=0.5, widen=c)
    at = model(off)
    yield close("log p(x)", LOG_P[:12], at.log_prob(x), 1e-9)
    yield close("gap of the encoder's ELBO", FAMILY + exact, at.log_prob(x) - at.elbo(off(x), x), 1e-9)
    gap = amortization_gap(at, x, samples=draws(3000, precision), generator=generator(0))
    stderr = gap.stderr.square().sum().sqrt() / len(x)
    yield estimate_is("amortization gap", exact, gap.value.mean(), stderr, bias=3e-3)
    yield bounded(
        "amortization gap of each x plus 5 standard errors", gap.value + 5 * gap.stderr, 0.0, relation="at least"
    )


@law("errata/one-encoder")
def one_encoder(_: float) -> Claims:
    r"""The ELBO with the best q for each x is at least that of the best encoder, which may have to share one q.

    $$\sum_n\max_{\lambda_n}\mathcal L(x_n, \lambda_n) \ge \max_\phi\sum_n\mathcal L(x_n, e_\phi(x_n))$$
    The best q for each x is the posterior N(2x/3, 1/3), where the ELBO is log p(x). An encoder with the same N(m, s^2)
    for both x is best at m = 0, s^2 = 1/3, and loses (4/3)^2 3 / 2 = 8/3 nats for each.
    Source: Cremer et al. (2018), section 3.2.
    Assumes: x = +-2, z ~ N(0, 1), x|z ~ N(z, 1/2); the encoder gives the same q for both.
    """
    x, oracle = f64([[-2.0], [2.0]]), LinearGaussian(f64([[1.0]]), [0.0], 0.5)
    log_p = -(x.flatten() ** 2) / 3 - math.log(2 * math.pi * 1.5) / 2
    (fitted,) = fit_posterior(oracle, x, generator=generator(0))
    each = oracle.elbo(fitted, x)
    yield close("ELBO of the best q for each x, log p(x)", log_p, each, 2e-3)
    leaves = [f64([0.0]).requires_grad_() for _ in range(2)]
    for _step in range(100):
        q = Independent(Normal(leaves[0].expand(2, 1), leaves[1].exp().expand(2, 1)), 1)
        slopes = torch.autograd.grad(oracle.elbo(q, x).sum(), leaves)
        leaves = [(v + 0.1 * s).detach().requires_grad_() for v, s in zip(leaves, slopes, strict=True)]
    shared = oracle.elbo(q, x).sum().detach()
    yield close("ELBO of the best shared q, summed over x", log_p.sum() - 2 * 8 / 3, shared, 1e-4)
    yield bounded("loss of the shared q, nats", each.sum() - shared, 5.0, relation="at least")


@law("stochastic-vi/optimum")
def stochastic(precision: float) -> Claims:
    r"""Stochastic gradient ascent on batches finds the best factorised q for each x.

    $$\lambda_n \leftarrow \lambda_n + \eta\,\nabla_{\lambda_n}\tfrac NB\textstyle\sum_{b}\mathcal L_b$$
    N / B times the ELBO of a batch of B is unbiased for the sum over all N data, and the step size decreases to 0. The
    best factorised q has the posterior's means and the variances 1 / P_jj, with P the posterior's precision.
    Source: Hoffman et al. (2013), section 2.3; Ranganath et al. (2014), section 5.
    """
    x, table, rows = DATA, posterior_table(20, 2).double(), torch.arange(20)
    start = float(model().elbo(table(rows), x).mean().detach())
    still = stochastic_vi(model(), x, [table], steps=draws(200, precision), batch=5, rate=1e-12, generator=generator(0))
    epochs = still[: len(still) // 4 * 4].view(-1, 4).mean(1)  # each is one pass through the data
    yield mean_is("mean ELBO estimate of the batches before training", start, epochs)
    stochastic_vi(model(), x, [table], steps=300, batch=10, rate=0.15, samples=4, generator=generator(1))
    with torch.no_grad():
        q = table(rows)
        yield close("means of q", best(x).mean, q.mean, 0.1)
        yield close("log variances of q", best(x).variance.log(), q.variance.log(), 0.2)
        yield close("ELBO below that of the best factorised q, nats", 0.0, LOG_P - FAMILY - model().elbo(q, x), 0.02)


@law("mean-field/optimum")
def mean_field(_: float) -> Claims:
    r"""Each mean-field factor is optimal given the others; for a Gaussian the means are exact, the variances too small.

    $$q_j^* \propto \exp E_{-j}\log p,\quad \mathrm{KL} = \tfrac12(\sum_j\log\Lambda_{jj} - \log|\Lambda|)$$
    As a function of q_j the ELBO is minus the KL divergence of q_j from the normalised exponential, plus a constant, so
    no update lowers it. The KL is that of the best factorised q from a Gaussian of precision Lambda.
    Source: Bishop (2006), equations 10.9 and 10.12 to 10.15.
    """
    root, mean = f64([[1.0, 0, 0], [0.6, 0.9, 0], [-0.4, 0.5, 1.2]]), f64([0.5, -1.0, 2.0])
    precision = root @ root.T
    found = gaussian_mean_field(mean, precision)
    yield close("Gaussian: means", mean, found.state.mean, 1e-5)
    yield close("Gaussian: variances, 1 / Lambda_jj", 1 / precision.diagonal(), found.state.variance, 1e-9)
    marginal = torch.linalg.inv(precision).diagonal()
    yield bounded("Gaussian: variances, at most the marginal ones", found.state.variance, marginal, relation="at most")
    kl = (precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    yield close("Gaussian: KL at the optimum", kl, -found.elbo[-1], 1e-8)
    yield bounded("Gaussian: change of the ELBO at each update", found.elbo.diff(), -1e-12, relation="at least")
    log_joint = randn(0, 3, 2, 4)
    table = table_mean_field(log_joint)
    a, b, c = table.state
    q = torch.einsum("a,b,c->abc", a, b, c)
    for axis, (factor, others) in enumerate(((a, (1, 2)), (b, (0, 2)), (c, (0, 1)))):
        mean_log = (q / q.sum(others, keepdim=True) * log_joint).sum(others)
        yield close(f"table: factor {axis}, optimal given the others", torch.softmax(mean_log, 0), factor, 1e-5)
    yield close("table: ELBO", (q * (log_joint - q.log())).sum(), table.elbo[-1], 1e-9)
    yield bounded("table: ELBO, at most log p", table.elbo[-1], log_joint.logsumexp((0, 1, 2)), relation="at most")


VARIANCE = 0.25


def autoencoder() -> tuple[Autoencoder, Tensor, float, float]:
    """A linear autoencoder with encoder e, x, log p(x|e(x)), and |W|^2 / (2 v)."""
    weight = torch.tensor([[0.5, -0.3], [0.8, 0.2], [-0.1, 0.9]])
    encoder, decoder = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    encoder.weight.data, decoder.weight.data = weight.T.clone(), weight.clone()
    whole = Autoencoder(encoder, Conditional(decoder, IsotropicGaussian(VARIANCE**0.5)), FlatPrior(2)).double()
    x, w = f64([[1.0, -0.5, 0.7]]), weight.double()
    error = float((x - x @ w @ w.T).square().sum()) / (2 * VARIANCE)
    return whole, x, -error - 1.5 * math.log(2 * math.pi * VARIANCE), float(w.square().sum()) / (2 * VARIANCE)


def entropy(std: float) -> float:
    """The entropy of N(e, std^2 I) in two dimensions, nats."""
    return math.log(2 * math.pi * math.e * std**2)


def noisy_trace(whole: Autoencoder, x: Tensor, std: float, n: int) -> Trace:
    with torch.no_grad(), drawing(generator(0)):
        return whole.noisy(std).double().trace(x.expand(n, 3), analytic=True)


@law("autoencoder/limit")
def autoencoder_limit(precision: float) -> Claims:
    r"""An autoencoder is the limit of a VAE with a flat prior whose q(z|x) shrinks to a point, up to the entropy of q.

    $$\mathcal L - H(q) = \log p(x|e(x)) - \frac{\sigma^2|W|^2}{2v} \to \log p(x|e(x)),\quad H(q) \to -\infty$$
    The KL term is minus the entropy H(q), which does not depend on the encoder's weights. The rest of the ELBO tends to
    the autoencoder's squared error, since E |x - W z|^2 = |x - W e(x)|^2 + sigma^2 |W|^2; v is the decoder's variance.
    Source: Kingma & Welling (2014), section 2.3; Ghosh et al. (2020).
    Assumes: q = N(e(x), sigma^2 I), the flat prior p(z) = 1, a linear decoder.
    """
    whole, x, limit, excess = autoencoder()
    yield close("ELBO of the autoencoder, log p(x|e(x))", limit, elbo(whole.trace(x)), 1e-6)
    for std in (0.3, 1e-1, 1e-2, 1e-4):
        trace = noisy_trace(whole, x, std, draws(20_000, precision))
        yield close(f"KL to the flat prior, standard deviation {std}", -entropy(std), trace.kl[0][0, 0], 1e-5)
        value = elbo(trace) - entropy(std)
        yield mean_is(
            f"ELBO minus the entropy of q, standard deviation {std}", limit - std**2 * excess, value, bias=1e-5
        )


@autoencoder_limit.drawn
def _limit_plot() -> str:
    (whole, x, limit, excess), stds = autoencoder(), [1.0, 0.3, 0.1, 0.03]
    measured = [limit - float(elbo(noisy_trace(whole, x, s, 200_000)).mean() - entropy(s)) for s in stds]
    rows = {"sigma^2 |W|^2 / (2 v)": [s**2 * excess for s in stds], "measured": measured}
    return plots.curves(stds, rows, title="log p(x|e(x)) - ELBO + H(q)", xlabel="std of q", log=True)

"""Laws of inference: an encoder for all data, tables of factors, mean fields, and the limit without noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.check.evidence import Evidence, bounded, close, mean_is
from jensen.check.law import draws, law
from jensen.check.laws.likelihood import F64
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, FlatPrior, IsotropicGaussian
from jensen.models import Autoencoder
from jensen.report import plots
from jensen.variational import (
    LinearGaussian,
    amortization_gap,
    elbo,
    gaussian_mean_field,
    posterior_table,
    stochastic_vi,
    table_mean_field,
)

WEIGHT = torch.tensor([[1.0, 0.8], [0.6, -0.3], [0.2, 1.1]], dtype=F64)
NOISE = 0.4
PRECISION = torch.eye(2, dtype=F64) + WEIGHT.T @ WEIGHT / NOISE  # of p(z|x)
FAMILY = float(PRECISION.diagonal().log().sum() - torch.logdet(PRECISION)) / 2  # KL of the best factors
SHIFT, WIDEN = 0.5, 1.1
SHIFTED = SHIFT * PRECISION.diagonal().rsqrt()
AMORTIZED = 2 * (WIDEN**2 / 2 - 1 / 2 - math.log(WIDEN)) + float(SHIFTED @ PRECISION @ SHIFTED) / 2


def model(encoder: object = None) -> LinearGaussian:
    return LinearGaussian(WEIGHT, torch.zeros(3, dtype=F64), NOISE, encoder=encoder)  # type: ignore[arg-type]


def observed(n: int) -> Tensor:
    return torch.randn(n, 3, dtype=F64, generator=generator(3)) * torch.tensor([1.5, 0.8, 1.2], dtype=F64)


def log_p(x: Tensor) -> Tensor:
    """Log N(x; 0, W W' + v I), written out."""
    covariance = WEIGHT @ WEIGHT.T + NOISE * torch.eye(3, dtype=F64)
    energy = (x @ torch.linalg.inv(covariance) * x).sum(-1)
    return -(energy + torch.logdet(2 * math.pi * covariance)) / 2


def means(x: Tensor) -> Tensor:
    """Of p(z|x)."""
    return x @ WEIGHT @ torch.linalg.inv(PRECISION) / NOISE


def off(x: Tensor) -> Distribution:
    """An encoder that is half a standard deviation off the best factors, and a tenth too wide."""
    std = PRECISION.diagonal().rsqrt().expand(len(x), 2)
    return Independent(Normal(means(x) + SHIFT * std, WIDEN * std), 1)


@law(
    "amortization/gap",
    formula=r"\log p(x) - \mathcal L_{enc} = \mathrm{KL}(q^*\|p(z|x)) + (\mathcal L_{q^*} - \mathcal L_{enc})",
    source="Cremer et al. (2018), equation 2",
    assumptions="a linear-Gaussian model, q of independent Gaussians",
)
def amortization(precision: float) -> Iterator[Evidence]:
    """An encoder loses twice: what its family cannot say, and what it says worse than the best of its family.

    The best factors have the posterior's means and the diagonal of its precision. Shifted by half of their standard
    deviation and widened by a tenth they lose sum(c^2/2 - 1/2 - log c) + d'Pd / 2 more.
    """
    x = observed(12)
    at = model(off)
    samples = draws(3000, precision)
    yield close("log p(x)", log_p(x), at.log_prob(x), 1e-9)
    yield close("the encoder's whole loss", FAMILY + AMORTIZED, at.log_prob(x) - at.elbo(off(x), x), 1e-9)
    gap = amortization_gap(at, x, samples=samples, generator=generator(0))
    stderr = float(gap.stderr.square().sum().sqrt()) / len(x)
    mean = float(gap.value.mean())
    yield Evidence("what the encoder loses within its family", AMORTIZED, mean, 5 * stderr + 3e-3, stderr=stderr)
    claim = "it loses against the best q of each datum"
    yield bounded(claim, gap.value + 5 * gap.stderr, 0.0, relation="at least")


@law(
    "stochastic-vi/optimum",
    formula=r"\lambda_n \leftarrow \lambda_n + \eta\,\nabla_{\lambda_n}\tfrac NB\textstyle\sum_{b}\mathcal L_b",
    source="Hoffman et al. (2013), section 2.3; Ranganath et al. (2014), section 5",
)
def stochastic(precision: float) -> Iterator[Evidence]:
    """A table of factors, moved by noisy gradients of random batches, comes to each datum's best factors.

    Each step's N / B times the batch's bound is unbiased for the sum over the data; steps that fall to 0 average the
    noise away. The best factors have the posterior's means and variances 1 / P_jj.
    """
    x = observed(20)
    table = posterior_table(20, 2).double()
    start = float(model().elbo(table(torch.arange(20)), x).mean().detach())
    still = stochastic_vi(model(), x, [table], steps=draws(200, precision), batch=5, rate=1e-12, generator=generator(0))
    epochs = still[: len(still) // 4 * 4].view(-1, 4).mean(1)  # each goes once through the data
    yield mean_is("estimates of the sum where nothing moves", start, epochs)
    stochastic_vi(model(), x, [table], steps=300, batch=10, rate=0.15, samples=4, generator=generator(1))
    with torch.no_grad():
        q = table(torch.arange(20))
        yield close("means of the factors", means(x), q.mean, 0.1)
        yield close("log variances of the factors", -PRECISION.diagonal().log(), q.variance.log(), 0.2)
        left = log_p(x) - FAMILY - model().elbo(q, x)
    yield close("nats left to the best factors", 0.0, left, 0.02)


@law(
    "mean-field/optimum",
    formula=r"q_j^* \propto \exp E_{-j}\log p,\quad \mathrm{KL} = \tfrac12(\sum_j\log\Lambda_{jj} - \log|\Lambda|)",
    source="Bishop (2006), equations 10.9 and 10.12 to 10.15",
)
def mean_field(_: float) -> Iterator[Evidence]:
    """The best factor is the exponential of the mean log joint; of a Gaussian the means are right, variances too small.

    The bound as a function of one factor is minus its divergence from that exponential, so that no update lowers it.
    """
    root = torch.tensor([[1.0, 0, 0], [0.6, 0.9, 0], [-0.4, 0.5, 1.2]], dtype=F64)
    precision, mean = root @ root.T, torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    found = gaussian_mean_field(mean, precision)
    yield close("means of the factors", mean, found.state.mean, 1e-5)
    yield close("variances of the factors", 1 / precision.diagonal(), found.state.variance, 1e-9)
    marginal = torch.linalg.inv(precision).diagonal()
    yield bounded("and none is more than the marginal", found.state.variance, marginal, relation="at most")
    kl = (precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    yield close("the divergence that is left", kl, -found.elbo[-1], 1e-8)
    yield bounded("no update lowers the bound", found.elbo.diff(), -1e-12, relation="at least")
    log_joint = torch.randn(3, 2, 4, dtype=F64, generator=generator(0))
    table = table_mean_field(log_joint)
    a, b, c = table.state
    for factor, others in (
        (a, torch.einsum("abc,b,c->a", log_joint, b, c)),
        (b, torch.einsum("abc,a,c->b", log_joint, a, c)),
        (c, torch.einsum("abc,a,b->c", log_joint, a, b)),
    ):
        yield close("a factor of a table is its own optimum", torch.softmax(others, 0), factor, 1e-5)
    q = torch.einsum("a,b,c->abc", a, b, c)
    yield close("its bound", (q * (log_joint - q.log())).sum(), table.elbo[-1], 1e-9)
    yield bounded("under the log of the sum", table.elbo[-1], log_joint.logsumexp((0, 1, 2)), relation="at most")


def autoencoder() -> tuple[Autoencoder, Tensor, float, float]:
    """A linear one; a datum; log p(x | e(x)); and |W|^2 / (2 v), by which the bound falls short per std^2."""
    weight = torch.tensor([[0.5, -0.3], [0.8, 0.2], [-0.1, 0.9]])
    encoder, decoder = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(weight.T)
        decoder.weight.copy_(weight)
    whole = Autoencoder(encoder, Conditional(decoder, IsotropicGaussian(0.5)), FlatPrior(2)).double()
    x = torch.tensor([[1.0, -0.5, 0.7]], dtype=F64)
    w = weight.double()
    error = float((x - x @ w @ w.T).square().sum())
    return whole, x, -error / (2 * 0.25) - 1.5 * math.log(2 * math.pi * 0.25), float(w.square().sum()) / (2 * 0.25)


@law(
    "autoencoder/limit",
    formula=r"\mathcal L - H(q) = \log p(x|e(x)) - \frac{\sigma^2|W|^2}{2v} \to \log p(x|e(x)),\quad H(q) \to -\infty",
    source="Kingma & Welling (2014), section 2.3; Ghosh et al. (2020)",
    assumptions="q = N(e(x), sigma^2 I), the flat prior p(z) = 1, a linear decoder",
)
def autoencoder_limit(precision: float) -> Iterator[Evidence]:
    """An autoencoder is a VAE whose q shrinks to a point under a flat, improper prior, less an infinite constant.

    KL(q || 1) = -H(q) does not hang on the encoder, and grows like -d log sigma; what is left of the bound comes to
    the autoencoder's squared error as sigma^2. E |x - W z|^2 = |x - W e(x)|^2 + sigma^2 |W|^2.
    """
    whole, x, limit, excess = autoencoder()
    with torch.no_grad():
        yield close("the autoencoder's own bound", limit, elbo(whole.trace(x)), 1e-6)
        for std in (0.3, 1e-1, 1e-2, 1e-4):
            entropy = 2 * (math.log(2 * math.pi * math.e) / 2 + math.log(std))
            with drawing(generator(0)):
                noisy = whole.noisy(std).double()
                trace = noisy.trace(x.expand(draws(20_000, precision), 3), analytic=True)
            yield close(f"KL to the flat prior, std {std}", -entropy, trace.kl[0][0, 0], 1e-5)
            e = mean_is(f"bound less the entropy, std {std}", limit - std**2 * excess, elbo(trace) - entropy)
            yield Evidence(e.claim, e.expected, e.measured, e.tolerance + 1e-5, stderr=e.stderr)


@autoencoder_limit.drawn
def _limit_plot() -> str:
    whole, x, limit, excess = autoencoder()
    stds = [1.0, 0.3, 0.1, 0.03]
    measured = []
    with torch.no_grad(), drawing(generator(0)):
        for std in stds:
            entropy = 2 * (math.log(2 * math.pi * math.e) / 2 + math.log(std))
            noisy = whole.noisy(std).double()
            measured.append(limit - float((elbo(noisy.trace(x.expand(200_000, 3), analytic=True)) - entropy).mean()))
    rows: dict[str, Sequence[float]] = {"sigma^2 |W|^2 / (2 v)": [s**2 * excess for s in stds], "measured": measured}
    return plots.curves(stds, rows, title="log p(x|e(x)) less the bound without H(q)", xlabel="std of q", log=True)


LAWS = (amortization, stochastic, mean_field, autoencoder_limit)

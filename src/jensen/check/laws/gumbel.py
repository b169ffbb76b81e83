"""The Gumbel-max trick, the Gumbel-softmax, and gradients through it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as D

from jensen.check.evidence import Claims, Evidence, bounded, close, estimate_is, mean_is, means_are
from jensen.check.law import draws, law
from jensen.check.line import F64, f64
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, IsotropicGaussian, OneHotLogits, gumbel_softmax
from jensen.estimators import Relaxed, compare_estimators
from jensen.models import VAE
from jensen.report import plots
from jensen.variational import Relaxation

TWO = f64([0.6, 0.4])


def drawn(shares: Tensor, temperature: float, n: int, hard: bool = False) -> Tensor:
    """Relaxed samples, or with `hard` one-hot samples, (n, K)."""
    with drawing(generator(2)):
        return gumbel_softmax(shares.log().expand(n, -1), temperature, hard=hard)


@law("gumbel/max")
def gumbel_max(precision: float) -> Claims:
    r"""The index of the largest entry of log pi + Gumbel noise is an exact sample of pi, at every temperature.

    $$P\big(\arg\max_i(\log\pi_i + G_i) = j\big) = \pi_j$$
    -log of a unit exponential is a Gumbel variable, so i has the largest entry where an exponential of rate pi_i is the
    smallest, which has the probability pi_i. Division by a temperature keeps the order of the entries.
    Source: Gumbel (1954); Maddison et al. (2014); Jang et al. (2017), section 2.1.
    """
    n, shares = draws(40_000, precision), f64([0.05, 0.15, 0.2, 0.6])
    for temperature in (0.1, 1.0, 5.0):
        largest = F.one_hot(drawn(shares, temperature, n).argmax(-1), len(shares))
        yield means_are(f"probabilities of the largest entry, temperature {temperature}", shares, largest)
        hard = drawn(shares, temperature, n, hard=True)
        yield means_are(f"means of one-hot (hard) samples, temperature {temperature}", shares, hard)


@law("errata/temperature-of-the-logits-alone")
def temperature_alone(precision: float) -> Claims:
    r"""The temperature must divide the sum of noise and logits; dividing the logits alone changes the probabilities.

    $$\mathrm{softmax}\big((G + \log\pi)/\tau\big) \ne \mathrm{softmax}\big(G + (\log\pi)/\tau\big)$$
    log pi / tau are the logits of pi^(1/tau), normalised, which the Gumbel-max trick then samples: class 1 has the
    probability 1 / (1 + (2/3)^10) = 0.98 instead of 0.6.
    Source: Jang et al. (2017), equation 2; Maddison et al. (2017), equation 10.
    Assumes: pi = (.6, .4), tau = .1.
    """
    n = draws(40_000, precision)
    yield means_are("probabilities of the largest entry", TWO, F.one_hot(drawn(TWO, 0.1, n).argmax(-1), 2))
    wrong = (drawn(TWO ** (1 / 0.1), 1.0, n).argmax(-1) == 0).double()
    yield mean_is("probability of class 1 if only the logits are divided", 1 / (1 + (2 / 3) ** 10), wrong)
    yield bounded("error of this probability", wrong.mean() - 0.6, 0.35, relation="at least")


def distance(temperature: float) -> float:
    """E min(y, 1 - y) for pi = (.6, .4): y = sigmoid(v), tau v = log 1.5 + logistic noise; trapezoidal rule in v."""
    v = torch.linspace(-60, 60, 200_001, dtype=F64)
    s = torch.sigmoid(temperature * v - math.log(1.5))
    return float(torch.trapezoid(torch.sigmoid(-v.abs()) * s * (1 - s) * temperature, v))


@law("gumbel/softmax-limit")
def softmax_limit(precision: float) -> Claims:
    r"""As the temperature tau tends to 0 a relaxed sample y tends to a one-hot vector, with an error of order tau.

    $$\lim_{\tau\to0}\mathrm{softmax}\big((\log\pi + G)/\tau\big) = \mathrm{onehot}\,\arg\max(\log\pi + G)$$
    For two classes y = sigmoid(u / tau), where u - log(pi_1 / pi_2) is logistic. With p the density of u, the mean of
    min(y, 1 - y) is the integral of sigmoid(-|v|) tau p(tau v), about 2 log 2 p(0) tau with p(0) = pi_1 pi_2.
    Source: Jang et al. (2017), section 2.2; Maddison et al. (2017), proposition 1.
    Assumes: pi = (.6, .4).
    """
    for temperature in (1.0, 0.3, 0.1, 0.03):
        found = drawn(TWO, temperature, draws(40_000, precision)).min(-1).values
        yield mean_is(f"mean of min(y, 1 - y), temperature {temperature}", distance(temperature), found)
    yield close("mean of min(y, 1 - y) over tau, for small tau", 2 * math.log(2) * 0.24, distance(1e-3) / 1e-3, 1e-4)
    yield close("y at temperature 10,000", 0.5, drawn(TWO, 1e4, 1000), 1e-2)


@softmax_limit.drawn
def _limit_plot() -> str:
    at = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01]
    rows = {
        "exact": [distance(t) for t in at],
        "measured": [float(drawn(TWO, t, 20_000).min(-1).values.mean()) for t in at],
        "2 log 2 p(0) tau": [2 * math.log(2) * 0.24 * t for t in at],
    }
    return plots.curves(at, rows, title="mean of min(y, 1 - y), relaxed samples", xlabel="temperature", log=True)


LOGIT, CENTRE = 1.0, 0.3
S = 1 / (1 + math.exp(-LOGIT))
EXACT = S * (1 - S) * (1 - 2 * CENTRE)  # derivative of s (1 - t)^2 + (1 - s) t^2 in the logit


def relaxed_mean(temperature: float, hard: bool) -> float:
    """E[f'(z) dy/dl] for y = sigmoid(u / tau) and u = l + logistic noise; trapezoidal rule in v = u / tau."""
    v = torch.linspace(-40, 40, 400_001, dtype=F64)
    s, y = torch.sigmoid(temperature * v - LOGIT), torch.sigmoid(v)
    z = (v.sign() + 1) / 2 if hard else y
    return float(torch.trapezoid(2 * (z - CENTRE) * y * (1 - y) * s * (1 - s), v))


@law("relaxation/bias")
def relaxation_bias(precision: float) -> Claims:
    r"""The Gumbel-softmax gradient is biased, with a bias proportional to the temperature tau for small tau.

    $$\nabla E f(y_\tau) - \nabla E f(z) = \tau\, s(1-s)(2s-1)\,[1\ \mathrm{or}\ 2\log 2] + O(\tau^2)$$
    y = sigmoid((l + logistic noise) / tau) is near neither 0 nor 1 with a probability of order tau. The factor is 1 for
    the relaxed y, and 2 log 2 for the straight-through gradient.
    Source: Jang et al. (2017); Maddison et al. (2017); the factors by expansion of the logistic integral.
    Assumes: z is Bernoulli with mean s = sigmoid(l), and f(z) = (z - t)^2.
    """
    problem = (lambda logit: D.Bernoulli(logits=logit), lambda z: (z - CENTRE) ** 2, f64(LOGIT))
    n = draws(60_000, precision)
    for hard, name, factor in ((False, "relaxed", 1.0), (True, "straight-through", 2 * math.log(2))):
        for temperature in (0.5, 0.1):
            relaxed = {name: Relaxed(temperature, hard)}
            row = compare_estimators(*problem, relaxed, samples=2, repeats=n, generator=generator(0))[name]
            claim = f"mean gradient, {name} at temperature {temperature}"
            yield estimate_is(claim, relaxed_mean(temperature, hard), row.mean, row.stderr)
        rate, slope = S * (1 - S) * (2 * S - 1) * factor, (relaxed_mean(0.02, hard) - EXACT) / 0.02
        yield close(f"bias over tau for small tau, {name}", rate, slope, 0.1 * rate)


ODDS, PRIOR_ODDS = 1.1, -0.7


def divergence(temperature: float, prior: float) -> float:
    """KL of relaxed samples with the log-odds (odds + logistic noise) / temperature, by the trapezoidal rule."""
    v = torch.linspace(-80, 80, 400_001, dtype=F64)
    log_q, log_p = (
        math.log(t) + F.logsigmoid(t * v - odds) + F.logsigmoid(odds - t * v)
        for odds, t in ((ODDS, temperature), (PRIOR_ODDS, prior))
    )
    return float(torch.trapezoid(log_q.exp() * (log_q - log_p), v))


class Bit(nn.Module):
    """A categorical variable of two classes, independent of the input."""

    def __init__(self, odds: float):
        super().__init__()
        self.logits = f64([odds, 0.0])

    def forward(self, x: Tensor | None = None) -> D.Distribution:
        return OneHotLogits(1, 2)(self.logits if x is None else self.logits.expand(len(x), 2))


@law("gumbel/relaxed-kl")
def relaxed_kl(precision: float) -> Claims:
    r"""For relaxed samples the KL of the relaxed densities gives a bound; the smaller categorical KL does not.

    $$E_{q_\tau}\frac{p_{\tau'}}{q_\tau} = 1,\quad \mathrm{KL}(q_\tau \| p_\tau) > \mathrm{KL}(q \| p)$$
    The relaxed densities q_tau and p_tau are normalised. The largest entry of a relaxed sample is a sample of the
    categorical q or p, and by the data processing inequality the KL between these is at most the relaxed KL.
    Source: Maddison et al. (2017), section 3; Jang et al. (2017), section 2; Cover & Thomas (2006), section 2.8.
    Assumes: two classes, with the log-odds 1.1 under q and -0.7 under p.
    """
    model = VAE(Bit(ODDS), Conditional(nn.Flatten(2), IsotropicGaussian(1.0)), Bit(PRIOR_ODDS)).double()
    classes, zeros = float(D.kl_divergence(model.encoder(), model.prior())), torch.zeros(2, 2, dtype=F64)
    for temperature, prior in ((0.5, 0.5), (1.0, 0.8)):
        at, x = f"temperatures {temperature} and {prior}", zeros[:1].expand(draws(60_000, precision), 2)
        with torch.no_grad(), drawing(generator(0)):
            term = Relaxation(temperature, prior_temperature=prior).trace(model, x).kl[0][0]
            closed = Relaxation(temperature, "gumbel-softmax").trace(model, zeros).kl[0][0]
        yield mean_is(f"mean of log q/p, relaxed, {at}", divergence(temperature, prior), term)
        yield mean_is(f"mean of p/q, relaxed, {at}", 1.0, (-term).exp())
        yield close(f"categorical KL, {at}", classes, closed, 1e-12)
    yield Evidence("relaxed KL, above the categorical KL", classes, divergence(0.5, 0.5), 0.0, "at least")

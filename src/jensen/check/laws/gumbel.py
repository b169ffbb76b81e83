"""Gumbel's trick, its softmax, and gradients through it."""

from __future__ import annotations

import math
from functools import partial

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


def drawn(shares: Tensor, temperature: float, n: int, seed: int = 0) -> Tensor:
    """Relaxed draws, (n, K)."""
    with drawing(generator(seed)):
        return gumbel_softmax(shares.log().expand(n, -1), temperature)


@law("gumbel/max")
def gumbel_max(precision: float) -> Claims:
    r"""The largest of log pi + Gumbel noise is a draw of pi, exactly, whatever the temperature.

    $$P\big(\arg\max_i(\log\pi_i + G_i) = j\big) = \pi_j$$
    -log of a unit exponential is Gumbel, and the first of exponential clocks of rates pi_i to ring is i with
    probability pi_i.
    Source: Gumbel (1954); Maddison et al. (2014); Jang et al. (2017), section 2.1.
    """
    n, shares = draws(40_000, precision), f64([0.05, 0.15, 0.2, 0.6])
    for temperature in (0.1, 1.0, 5.0):
        with drawing(generator(0)):
            y = gumbel_softmax(shares.log().expand(n, -1), temperature)
            hard = gumbel_softmax(shares.log().expand(n, -1), temperature, hard=True)
        wins = F.one_hot(y.argmax(-1), len(shares)).double()
        yield means_are(f"shares of the largest entries, temperature {temperature}", shares, wins)
        yield means_are(f"shares of the one-hot vectors, temperature {temperature}", shares, hard)


@law("errata/temperature-of-the-logits-alone")
def temperature_alone(precision: float) -> Claims:
    r"""The temperature divides noise and logits: class 1 wins 60%; dividing the logits alone it wins 98%.

    $$\mathrm{softmax}\big((G + \log\pi)/\tau\big) \ne \mathrm{softmax}\big(G + (\log\pi)/\tau\big)$$
    log pi / tau are the logits of pi^(1/tau) normalised, which Gumbel's trick then samples: 1 / (1 + (2/3)^10).
    Source: Jang et al. (2017), equation 2; Maddison et al. (2017), equation 10.
    Assumes: pi = (.6, .4), tau = .1.
    """
    logits = TWO.log().expand(draws(40_000, precision), 2)
    with drawing(generator(0)):
        right = gumbel_softmax(logits, 0.1).argmax(-1)
        wrong = (gumbel_softmax(logits / 0.1, 1.0).argmax(-1) == 0).double()
    yield means_are("shares of the largest entry", TWO, F.one_hot(right, 2))
    yield mean_is("share of class 1 with the logits alone divided", 1 / (1 + (2 / 3) ** 10), wrong)
    yield bounded("its error", wrong.mean() - 0.6, 0.35, relation="at least")


def distance(temperature: float) -> float:
    """E min(y, 1 - y) for classes of (.6, .4), y = sigmoid(v), tau v = log 1.5 + logistic noise: trapezoids in v."""
    v = torch.linspace(-60, 60, 200_001, dtype=F64)
    s = torch.sigmoid(temperature * v - math.log(1.5))
    return float(torch.trapezoid(torch.sigmoid(-v.abs()) * s * (1 - s) * temperature, v))


@law("gumbel/softmax-limit")
def softmax_limit(precision: float) -> Claims:
    r"""As the temperature falls to 0 relaxed draws become one-hot, to first order; as it rises they become uniform.

    $$\lim_{\tau\to0}\mathrm{softmax}\big((\log\pi + G)/\tau\big) = \mathrm{onehot}\,\arg\max(\log\pi + G)$$
    With two classes y = sigmoid(u / tau), u = log(pi_1 / pi_2) + a logistic variable of density p: the mean distance
    from a corner is the integral of sigmoid(-|v|) tau p(tau v), which tends to 2 log 2 p(0) tau, p(0) = pi_1 pi_2.
    Source: Jang et al. (2017), section 2.2; Maddison et al. (2017), proposition 1.
    Assumes: pi = (.6, .4).
    """
    for temperature in (1.0, 0.3, 0.1, 0.03):
        found = drawn(TWO, temperature, draws(40_000, precision), 2).min(-1).values
        yield mean_is(f"mean distance from a corner, temperature {temperature}", distance(temperature), found)
    yield close("its rate", 2 * math.log(2) * 0.24, distance(1e-3) / 1e-3, 1e-4)
    yield close("shares at temperature 10,000", 0.5, drawn(TWO, 1e4, 1000), 1e-2)


@softmax_limit.drawn
def _limit_plot() -> str:
    at = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01]
    rows = {
        "exact": [distance(t) for t in at],
        "measured": [float(drawn(TWO, t, 20_000, 2).min(-1).values.mean()) for t in at],
        "2 log 2 p(0) tau": [2 * math.log(2) * 0.24 * t for t in at],
    }
    return plots.curves(at, rows, title="mean distance of a relaxed draw from one-hot", xlabel="temperature", log=True)


LOGIT, CENTRE = 1.0, 0.3
S = 1 / (1 + math.exp(-LOGIT))
EXACT = S * (1 - S) * (1 - 2 * CENTRE)  # of s (1 - t)^2 + (1 - s) t^2 in the logit


def bit(logit: Tensor) -> D.Distribution:
    return D.Bernoulli(logits=logit)


def relaxed_mean(temperature: float, hard: bool) -> float:
    """E[f'(z) dy/dl] over logistic noise, y = sigmoid(u / tau) and u = l + noise: trapezoids in v = u / tau."""
    v = torch.linspace(-40, 40, 400_001, dtype=F64)
    s, y = torch.sigmoid(temperature * v - LOGIT), torch.sigmoid(v)
    z = (v.sign() + 1) / 2 if hard else y
    return float(torch.trapezoid(2 * (z - CENTRE) * y * (1 - y) * s * (1 - s), v))


@law("relaxation/bias")
def relaxation_bias(precision: float) -> Claims:
    r"""A relaxed gradient is biased, and its bias falls with the temperature to first order.

    $$\nabla E f(y_\tau) - \nabla E f(z) = \tau\, s(1-s)(2s-1)\,[1\ \mathrm{or}\ 2\log 2] + O(\tau^2)$$
    y = sigmoid((l + logistic noise) / tau) is between the classes for a share of about tau of the noise.
    Source: Jang et al. (2017); Maddison et al. (2017); the rate by expansion of the logistic integral.
    Assumes: a bit with s = sigmoid(l), f(z) = (z - t)^2; 2 log 2 straight-through.
    """
    for hard, name, factor in ((False, "soft", 1.0), (True, "straight-through", 2 * math.log(2))):
        for temperature in (0.5, 0.1):
            estimators = {name: Relaxed(temperature, hard)}
            how = partial(compare_estimators, samples=2, repeats=draws(60_000, precision), generator=generator(0))
            row = how(bit, lambda z: (z - CENTRE) ** 2, f64(LOGIT), estimators)[name]
            claim = f"mean gradient, {name} at temperature {temperature}"
            yield estimate_is(claim, relaxed_mean(temperature, hard), row.mean, row.stderr)
        rate, slope = S * (1 - S) * (2 * S - 1) * factor, (relaxed_mean(0.02, hard) - EXACT) / 0.02
        yield close(f"bias over the temperature, {name}", rate, slope, 0.1 * rate)


ODDS, PRIOR_ODDS = 1.1, -0.7


def divergence(temperature: float, prior: float) -> float:
    """KL of relaxed draws of two classes, whose log-odds are (odds + logistic noise) / temperature: trapezoids."""
    v = torch.linspace(-80, 80, 400_001, dtype=F64)
    log_q, log_p = (
        math.log(t) + F.logsigmoid(t * v - odds) + F.logsigmoid(odds - t * v)
        for odds, t in ((ODDS, temperature), (PRIOR_ODDS, prior))
    )
    return float(torch.trapezoid(log_q.exp() * (log_q - log_p), v))


class Bit(nn.Module):
    """One of two classes, whatever its input."""

    logits: Tensor

    def __init__(self, odds: float):
        super().__init__()
        self.register_buffer("logits", f64([odds, 0.0]))

    def forward(self, x: Tensor | None = None) -> D.Distribution:
        return OneHotLogits(1, 2)(self.logits if x is None else self.logits.expand(len(x), 2))


@law("gumbel/relaxed-kl")
def relaxed_kl(precision: float) -> Claims:
    r"""A relaxed term is the log-ratio of normalised densities; with the KL of the classes instead it is no bound.

    $$E_{q_\tau}\frac{p_{\tau'}}{q_\tau} = 1,\quad \mathrm{KL}(q_\tau \| p_\tau) > \mathrm{KL}(q \| p)$$
    Rounding relaxed draws to their largest entry makes them draws of the classes, and a function of both variables
    never raises a divergence: so the categorical KL at relaxed draws leaves out nats.
    Source: Maddison et al. (2017), section 3; Jang et al. (2017), section 2; Cover & Thomas (2006), section 2.8.
    Assumes: two classes of log-odds 1.1 under q and -0.7 under p.
    """
    model = VAE(Bit(ODDS), Conditional(nn.Flatten(2), IsotropicGaussian(1.0)), Bit(PRIOR_ODDS)).double()
    classes, zeros = float(D.kl_divergence(model.encoder(), model.prior())), torch.zeros(2, 2, dtype=F64)
    for temperature, prior in ((0.5, 0.5), (1.0, 0.8)):
        at, x = f"temperatures {temperature} and {prior}", zeros[:1].expand(draws(60_000, precision), 2)
        with torch.no_grad(), drawing(generator(0)):
            term = Relaxation(temperature, prior_temperature=prior).trace(model, x).kl[0][0]
            told = Relaxation(temperature, "gumbel-softmax").trace(model, zeros).kl[0][0]
        yield mean_is(f"mean log-ratio, {at}", divergence(temperature, prior), term)
        yield mean_is(f"mean weight, {at}", 1.0, (-term).exp())
        yield close("the term of the categorical distributions", classes, told, 1e-12)
    yield Evidence("KL of the relaxed distributions, nats", classes, divergence(0.5, 0.5), 0.0, "at least")

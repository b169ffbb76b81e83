"""Laws of Gumbel's trick, of its softmax, and of gradients through it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as D

from jensen.check.evidence import Evidence, close, mean_is, means_are
from jensen.check.law import draws, law
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, IsotropicGaussian, OneHotLogits, gumbel_softmax
from jensen.estimators import Relaxed, compare_estimators
from jensen.models import VAE
from jensen.report import plots
from jensen.variational import Relaxation

F64 = torch.float64
SHARES = (0.05, 0.15, 0.2, 0.6)


@law(
    "gumbel/max",
    formula=r"P\big(\arg\max_i(\log\pi_i + G_i) = j\big) = \pi_j",
    source="Gumbel (1954); Maddison et al. (2014); Jang et al. (2017), section 2.1",
)
def gumbel_max(precision: float) -> Iterator[Evidence]:
    """The largest of log pi + Gumbel noise is a draw of pi, exactly, whatever the temperature.

    -log of a unit exponential is Gumbel, and the first of exponential clocks of rates pi_i to ring is i with
    probability pi_i.
    """
    n, shares = draws(40_000, precision), torch.tensor(SHARES, dtype=F64)
    for temperature in (0.1, 1.0, 5.0):
        with drawing(generator(0)):
            y = gumbel_softmax(shares.log().expand(n, -1), temperature)
            hard = gumbel_softmax(shares.log().expand(n, -1), temperature, hard=True)
        wins = F.one_hot(y.argmax(-1), len(SHARES)).double()
        yield means_are(f"shares of the largest entries, temperature {temperature}", shares, wins)
        yield means_are(f"shares of the one-hot vectors, temperature {temperature}", shares, hard)


def distance(temperature: float) -> float:
    """E min(y, 1 - y) for classes of (.6, .4), y = sigmoid(v), tau v = log 1.5 + logistic noise: trapezoids in v."""
    v = torch.linspace(-60, 60, 200_001, dtype=F64)
    s = torch.sigmoid(temperature * v - math.log(1.5))
    return float(torch.trapezoid(torch.sigmoid(-v.abs()) * s * (1 - s) * temperature, v))


def measured_distance(temperature: float, n: int) -> Tensor:
    with drawing(generator(2)):
        y = gumbel_softmax(torch.tensor([0.6, 0.4], dtype=F64).log().expand(n, -1), temperature)
    return y.min(-1).values


@law(
    "gumbel/softmax-limit",
    formula=r"\lim_{\tau\to0}\mathrm{softmax}\big((\log\pi + G)/\tau\big) = \mathrm{onehot}\,\arg\max(\log\pi + G)",
    source="Jang et al. (2017), section 2.2; Maddison et al. (2017), proposition 1",
    assumptions="pi = (.6, .4)",
)
def softmax_limit(precision: float) -> Iterator[Evidence]:
    """As the temperature falls to 0 relaxed draws become one-hot ones, to first order; as it rises they become equal.

    With two classes y = sigmoid(u / tau), u = log(pi_1 / pi_2) + a logistic variable of density p: the mean distance
    from a corner is the integral of sigmoid(-|v|) tau p(tau v), which tends to 2 log 2 p(0) tau, p(0) = pi_1 pi_2.
    """
    n = draws(40_000, precision)
    for temperature in (1.0, 0.3, 0.1, 0.03):
        yield mean_is(
            f"mean distance from a corner, temperature {temperature}",
            distance(temperature),
            measured_distance(temperature, n),
        )
    yield close("its rate", 2 * math.log(2) * 0.24, distance(1e-3) / 1e-3, 1e-4)
    with drawing(generator(0)):
        y = gumbel_softmax(torch.tensor([0.6, 0.4], dtype=F64).log().expand(1000, -1), 1e4)
    yield close("shares at temperature 10,000", 0.5, y, 1e-2)


@softmax_limit.drawn
def _limit_plot() -> str:
    at = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01]
    rows: dict[str, Sequence[float]] = {
        "exact": [distance(t) for t in at],
        "measured": [float(measured_distance(t, 20_000).mean()) for t in at],
        "2 log 2 p(0) tau": [2 * math.log(2) * 0.24 * t for t in at],
    }
    return plots.curves(at, rows, title="mean distance of a relaxed draw from one-hot", xlabel="temperature", log=True)


LOGIT, CENTRE = 1.0, 0.3
S = 1 / (1 + math.exp(-LOGIT))
EXACT = S * (1 - S) * (1 - 2 * CENTRE)  # of s (1 - t)^2 + (1 - s) t^2 in the logit


def quadratic(z: Tensor) -> Tensor:
    return (z - CENTRE) ** 2


def relaxed_mean(temperature: float, hard: bool) -> float:
    """E[f'(z) dy/dl] over logistic noise, y = sigmoid(u / tau) and u = l + noise: the midpoint rule in v = u / tau."""
    v = torch.linspace(-40, 40, 400_001, dtype=F64)
    s, y = torch.sigmoid(temperature * v - LOGIT), torch.sigmoid(v)
    z = (v > 0).double() + (v == 0).double() / 2 if hard else y
    integrand = 2 * (z - CENTRE) * y * (1 - y) * s * (1 - s)
    return float(torch.trapezoid(integrand, v))


@law(
    "relaxation/bias",
    formula=r"\nabla E f(y_\tau) - \nabla E f(z) = \tau\, s(1-s)(2s-1)\,[1\ \mathrm{or}\ 2\log 2] + O(\tau^2)",
    source="Jang et al. (2017); Maddison et al. (2017); the rate by expansion of the logistic integral",
    assumptions="a bit with s = sigmoid(l), f(z) = (z - t)^2; 2 log 2 straight-through",
)
def relaxation_bias(precision: float) -> Iterator[Evidence]:
    """A relaxed gradient is biased, and its bias falls with the temperature to first order.

    y = sigmoid((l + logistic noise) / tau) is between the classes for a share of about tau of the noise.
    """
    q = lambda logit: D.Bernoulli(logits=logit)  # noqa: E731
    repeats = draws(60_000, precision)
    for hard, name in ((False, "soft"), (True, "straight-through")):
        rate = S * (1 - S) * (2 * S - 1) * (2 * math.log(2) if hard else 1)
        for temperature in (0.5, 0.1):
            table = compare_estimators(
                q,
                quadratic,
                torch.tensor(LOGIT, dtype=F64),
                {name: Relaxed(temperature, hard)},
                samples=2,
                repeats=repeats,
                generator=generator(0),
            )
            row = table[name]
            stderr = float(row.stderr)
            mean = relaxed_mean(temperature, hard)
            claim = f"mean gradient, {name} at temperature {temperature}"
            yield Evidence(claim, mean, float(row.mean), 5 * stderr, stderr=stderr)
        slope = (relaxed_mean(0.02, hard) - EXACT) / 0.02
        yield close(f"bias over the temperature, {name}", rate, slope, 0.1 * rate)


ODDS, PRIOR_ODDS = 1.1, -0.7


def divergence(temperature: float, prior: float) -> float:
    """KL of the relaxed laws of two classes, whose log-odds are (odds + logistic noise) / temperature: trapezoids."""
    v = torch.linspace(-80, 80, 400_001, dtype=F64)
    log_q, log_p = (
        math.log(t) + F.logsigmoid(t * v - odds) + F.logsigmoid(odds - t * v)
        for odds, t in ((ODDS, temperature), (PRIOR_ODDS, prior))
    )
    return float(torch.trapezoid(log_q.exp() * (log_q - log_p), v))


class Bit(nn.Module):
    """One of two classes, whatever is given."""

    logits: Tensor

    def __init__(self, odds: float):
        super().__init__()
        self.register_buffer("logits", torch.tensor([odds, 0.0], dtype=F64))

    def forward(self, x: Tensor | None = None) -> D.Distribution:
        return OneHotLogits(1, 2)(self.logits if x is None else self.logits.expand(len(x), 2))


@law(
    "gumbel/relaxed-kl",
    formula=r"E_{q_\tau}\frac{p_{\tau'}}{q_\tau} = 1,\quad \mathrm{KL}(q_\tau \| p_\tau) > \mathrm{KL}(q \| p)",
    source="Maddison et al. (2017), section 3; Jang et al. (2017), section 2; Cover & Thomas (2006), section 2.8",
    assumptions="two classes of log-odds 1.1 under q and -0.7 under p",
)
def relaxed_kl(precision: float) -> Iterator[Evidence]:
    """A relaxed term is the log-ratio of normalised densities; the KL of the classes in its place claims too much.

    Rounding relaxed draws to their largest entry makes them draws of the classes, and a function of both variables
    never raises a divergence: so the categorical KL at relaxed draws leaves out nats, and what it gives is no bound.
    """
    n = draws(60_000, precision)
    model = VAE(Bit(ODDS), Conditional(nn.Flatten(2), IsotropicGaussian(1.0)), Bit(PRIOR_ODDS)).double()
    classes = float(D.kl_divergence(model.encoder(), model.prior()))
    for temperature, prior in ((0.5, 0.5), (1.0, 0.8)):
        with torch.no_grad(), drawing(generator(0)):
            how = Relaxation(temperature, prior_temperature=prior)
            term = how.trace(model, torch.zeros(n, 2, dtype=F64)).kl[0][0]
            told = Relaxation(temperature, "gumbel-softmax").trace(model, torch.zeros(2, 2, dtype=F64)).kl[0][0]
        at = f"temperatures {temperature} and {prior}"
        yield mean_is(f"mean log-ratio, {at}", divergence(temperature, prior), term)
        yield mean_is(f"mean weight, {at}", 1.0, (-term).exp())
        yield close("the term of the categorical laws", classes, told, 1e-12)
    yield Evidence("KL of the relaxed laws, nats", classes, divergence(0.5, 0.5), 0.0, "at least")


LAWS = (gumbel_max, softmax_limit, relaxation_bias, relaxed_kl)

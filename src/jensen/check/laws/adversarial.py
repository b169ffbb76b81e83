r"""What a margin loss measures: f, the best critic, the least risk, the four divergences.

Gaussians on a line; exact values by closed forms, by sums, and by the trapezoidal rule, which for smooth integrands
that vanish at both ends errs less than any power of its step. Nothing here uses jensen's own quadrature as a judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from jensen.adversarial import (
    MARGIN_LOSSES,
    MarginGame,
    MarginLoss,
    RelativisticGame,
    bayes_risk,
    critic_divergence,
    divergence,
    exponential,
    hinge,
    logistic,
    risk,
    squared,
    zero_one,
)
from jensen.adversarial import margin_loss as numerical
from jensen.check.evidence import Evidence, bounded, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.laws import critics, errata_adversarial, transport
from jensen.check.laws.naming import named
from jensen.check.margins import infimum, margin_loss

NGUYEN = "Nguyen, Wainwright & Jordan (2009)"
PAIRS = ((0.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 3.0), (-1.0, 0.5, 2.0, 2.0))
"""Mean and deviation of p, of q."""
DISJOINT = Categorical(torch.tensor([0.5, 0.5, 0.0, 0.0])), Categorical(torch.tensor([0.0, 0.0, 0.3, 0.7]))
TIGHT = 1e-8
TRAINABLE = (squared, logistic, exponential, hinge)


def normal(mean: float, std: float) -> Normal:
    return Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def trapezoid(
    integrand: Callable[[Tensor], Tensor], low: float = -30.0, high: float = 40.0, points: int = 20_001
) -> float:
    x = torch.linspace(low, high, points, dtype=torch.float64)
    return float(torch.trapezoid(integrand(x), x))


def _masses(measure: Callable[[Distribution, Distribution], object]) -> Callable[[Tensor, Tensor], float]:
    return lambda p, q: float(measure(Categorical(p), Categorical(q)))  # type: ignore[arg-type]


@law(
    "f-divergence/f",
    formula=r"f(u) = -\inf_d\,[u\,l(d) + l(-d)]",
    source=f"{NGUYEN}, section 3",
    assumptions=r"$l \ge 0$",
)
def f_of_losses(_: float) -> Iterator[Evidence]:
    """Each loss has the f that the table says: convex, never increasing, an infimum over all of d.

    An infimum of lines in u, turned round, is convex; their slopes are -l(d), at most 0, so it never increases.
    Zero-one: -min(u, 1). Squared: -4u/(u + 1). Logistic: u log u - (u + 1) log(u + 1). Exponential: -2 sqrt(u).
    Hinge: -2 min(u, 1).
    """
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "zero-one": lambda u: -u.clamp(max=1),
        "squared": lambda u: -4 * u / (u + 1),
        "logistic": lambda u: u * u.log() - (u + 1) * (u + 1).log(),
        "exponential": lambda u: -2 * u.sqrt(),
        "hinge": lambda u: -2 * u.clamp(max=1),
    }
    u = torch.tensor([0.01, 0.3, 1.0, 2.5, 40.0], dtype=torch.float64)
    for name, loss in MARGIN_LOSSES.items():
        yield close(f"{name}: f of the table", table[name](u), loss.f(u), 1e-12)
        yield close(f"{name}: f by numerical minimisation", table[name](u), numerical(loss.loss).f(u), 1e-9)
        yield from named(name, margin_loss(loss, f=loss.f))


@law("critic/optimal", formula=r"D^*(u) \in \arg\min_d\,[u\,l(d) + l(-d)]", source=f"{NGUYEN}, section 3")
def optimal_critics(_: float) -> Iterator[Evidence]:
    """The best critic of each loss, where p_d/p_g = u, attains the infimum.

    With no limit on D every point is a problem of its own. Squared: the derivative vanishes at (u - 1)/(u + 1).
    Logistic: at log u. Exponential: at (log u)/2. Zero-one and hinge: at the sign of u - 1.
    """
    u = torch.tensor([0.05, 0.5, 1.5, 20.0], dtype=torch.float64)
    table = {
        "zero-one": (u - 1).sign(),
        "squared": (u - 1) / (u + 1),
        "logistic": u.log(),
        "exponential": u.log() / 2,
        "hinge": (u - 1).sign(),
    }
    for name, loss in MARGIN_LOSSES.items():
        yield close(f"{name}: D* of the table", table[name], loss.optimal(u), 1e-12)
        yield from named(name, margin_loss(loss, critic=loss.optimal))


@law(
    "f-divergence/risk",
    formula=r"\inf_D E\,l(y D(x)) = -\tfrac12 I_f = -\tfrac12 \int f(p_d/p_g)\,p_g",
    source=f"{NGUYEN}, section 2, theorem 1",
    assumptions="y = +1 and -1 equally often; D is any function",
)
def risk_is_a_divergence(_: float) -> Iterator[Evidence]:
    r"""The least risk is minus half an f-divergence.

    $E\,l(yD) = \frac12 \int [p_d\, l(D) + p_g\, l(-D)]$, and with no limit on D the infimum enters the integral. It is
    the chance of guessing where p_d = p_g (1/2, 1, log 2, 1, 1: not 0), and 0 where they are disjoint.
    """
    chance = {"zero-one": 0.5, "squared": 1.0, "logistic": math.log(2), "exponential": 1.0, "hinge": 1.0}
    p, q = normal(0.0, 1.0), normal(1.0, 1.5)
    for name, loss in MARGIN_LOSSES.items():
        measured = _masses(lambda a, b, loss=loss: bayes_risk(loss, a, b))  # type: ignore[misc]
        yield from named(name, margin_loss(loss, risk=measured))
        yield close(f"{name}: at p = q", chance[name], float(bayes_risk(loss, p, p)), TIGHT)
        yield close(f"{name}: chance", chance[name], loss.chance, 1e-12)
    x = torch.linspace(-14, 16, 401, dtype=torch.float64)
    for loss in (squared, logistic, exponential):  # smooth: the rule converges
        a, b = p.log_prob(x).exp(), q.log_prob(x).exp()
        pointwise = b * infimum(loss, a / b)[1]
        yield close(
            f"{loss.name}: N(0, 1) and N(1, 1.5^2)",
            float(torch.trapezoid(pointwise, x)) / 2,
            float(bayes_risk(loss, p, q)),
            1e-7,
        )
        ratio = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
        conditional = infimum(loss, ratio)[1] / (1 + ratio)
        yield close(f"{loss.name}: conditional risk", conditional, loss.conditional_risk(ratio.log()), 1e-7)


def _against(name: str, exact: Callable[[float, float, float, float], float], most: float) -> Iterator[Evidence]:
    """One divergence on pairs of Gaussians, equal, and disjoint."""
    for m, s, n, t in PAIRS:
        p, q = normal(m, s), normal(n, t)
        claim = f"N({m:g}, {s:g}^2) and N({n:g}, {t:g}^2)"
        yield close(claim, exact(m, s, n, t), float(divergence(name, p, q)), TIGHT)
    turned = float(divergence(name, normal(*PAIRS[2][2:]), normal(*PAIRS[2][:2])))
    yield close("exchanged", exact(*PAIRS[2]), turned, TIGHT)
    yield close("p = q", 0.0, float(divergence(name, normal(0.3, 2.0), normal(0.3, 2.0))), TIGHT)
    yield close("disjoint supports", most, float(divergence(name, *DISJOINT)), TIGHT)


def _density(mean: float, std: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


@law(
    "f-divergence/total-variation",
    formula=r"TV = \tfrac12 \int |p - q| = 1 - 2 R_{0/1} = 1 - R_{\mathrm{hinge}}",
    source=f"{NGUYEN}, section 3",
)
def total_variation(_: float) -> Iterator[Evidence]:
    r"""Zero-one and hinge measure total variation.

    Their f is min(u, 1) times -1 and -2, and $\int \min(p, q) = 1 - TV$. Between Gaussians p = q at the roots of a
    quadratic; between them the difference of two error functions is what one gains.
    """

    def exact(m: float, s: float, n: float, t: float) -> float:
        a, b, c = 1 / t**2 - 1 / s**2, m / s**2 - n / t**2, n**2 / t**2 - m**2 / s**2 + 2 * math.log(t / s)
        root = math.sqrt(max(b * b - a * c, 0.0))
        roots = sorted([(-b - root) / a, (-b + root) / a]) if a else [-c / (2 * b)]

        def cdf(x: float, mean: float, std: float) -> float:
            return math.erfc((mean - x) / (std * math.sqrt(2))) / 2

        gains = [0.0, *(cdf(x, m, s) - cdf(x, n, t) for x in roots), 0.0]
        return sum(abs(v - w) for v, w in zip(gains[1:], gains[:-1], strict=True)) / 2

    yield from _against("total-variation", exact, 1.0)
    p, q = normal(0.0, 1.0), normal(1.0, 1.0)
    for loss, from_risk in ((zero_one, lambda r: 1 - 2 * r), (hinge, lambda r: 1 - r)):
        yield close(f"by the {loss.name} loss", exact(0, 1, 1, 1), from_risk(float(bayes_risk(loss, p, q))), TIGHT)


@law(
    "f-divergence/jensen-shannon",
    formula=r"JS = \tfrac12 KL(p|m) + \tfrac12 KL(q|m) = \log 2 - R_{\mathrm{logistic}}, \quad m = \tfrac{p+q}{2}",
    source="Goodfellow et al. (2014), theorem 1; Lin (1991)",
)
def jensen_shannon(_: float) -> Iterator[Evidence]:
    r"""The logistic loss measures the Jensen-Shannon divergence, in nats.

    At D* = log(p/q) the losses are -log(p/(p+q)) and -log(q/(p+q)); their mean is log 2 - JS. It is at most log 2.
    """

    def exact(m: float, s: float, n: float, t: float) -> float:
        p, q = _density(m, s), _density(n, t)

        def half_kl(x: Tensor) -> Tensor:
            a, b = p(x), q(x)
            middle = (a + b).clamp(min=1e-300) / 2
            return (torch.xlogy(a, (a / middle)) + torch.xlogy(b, (b / middle))) / 2

        return trapezoid(half_kl)

    yield from _against("jensen-shannon", exact, math.log(2))


@law(
    "f-divergence/le-cam",
    formula=r"LC = \int \frac{(p-q)^2}{p+q} = 2\,(1 - R_{\mathrm{squared}}), \quad R = 2\int\frac{pq}{p+q}",
    source="Le Cam (1986); Mao et al. (2017), section 3.2",
)
def le_cam(_: float) -> Iterator[Evidence]:
    r"""The squared loss measures Le Cam's divergence.

    At D* = (p - q)/(p + q) the risk is $2 \int pq/(p+q)$; and $(p-q)^2 = (p+q)^2 - 4pq$ gives LC = 2 - 2R, at most 2.
    """

    def exact(m: float, s: float, n: float, t: float) -> float:
        p, q = _density(m, s), _density(n, t)
        return trapezoid(lambda x: (p(x) - q(x)) ** 2 / (p(x) + q(x)).clamp(min=1e-300))

    yield from _against("le-cam", exact, 2.0)


@law(
    "f-divergence/hellinger",
    formula=r"H^2 = 1 - \int \sqrt{pq} = 1 - R_{\mathrm{exponential}}",
    source=f"{NGUYEN}, section 3",
)
def hellinger(_: float) -> Iterator[Evidence]:
    r"""The exponential loss measures the squared Hellinger distance.

    At D* = log(p/q)/2 both terms are $\sqrt{pq}$. Between Gaussians
    $\int\sqrt{pq} = \sqrt{2st/(s^2+t^2)}\,\exp(-(m-n)^2/(4(s^2+t^2)))$.
    """

    def exact(m: float, s: float, n: float, t: float) -> float:
        total = s * s + t * t
        return 1 - math.sqrt(2 * s * t / total) * math.exp(-((m - n) ** 2) / (4 * total))

    yield from _against("hellinger", exact, 1.0)


# what a critic that is not the best one risks, and what both sides descend ----------------------------------


@law(
    "critic/risk",
    formula=r"\tfrac12 E_p\,l(D) + \tfrac12 E_q\,l(-D) \ge -\tfrac12 I_f",
    source=f"{NGUYEN}, section 2",
)
def risk_of_a_critic(_: float) -> Iterator[Evidence]:
    """Any critic risks at least the least risk, the best one exactly that.

    Risks of smooth critics between N(0, 1) and N(1, 1.5^2) by the trapezoidal rule.
    """
    p, q = normal(0.0, 1.0), normal(1.0, 1.5)

    def best(loss: MarginLoss) -> Callable[[Tensor], Tensor]:
        return lambda x: loss.optimal((p.log_prob(x) - q.log_prob(x)).exp())

    def line(x: Tensor) -> Tensor:
        return 0.3 - x

    for loss in TRAINABLE:
        least = float(bayes_risk(loss, p, q))
        yield close(f"{loss.name}: the best critic", least, float(risk(loss, best(loss), p, q)), TIGHT)
        poor = float(risk(loss, line, p, q))
        yield bounded(f"{loss.name}: a line", poor, least, relation="at least")
        if loss is not hinge:

            def terms(x: Tensor, loss: MarginLoss = loss) -> Tensor:
                return (p.log_prob(x).exp() * loss(line(x)) + q.log_prob(x).exp() * loss(-line(x))) / 2

            both = trapezoid(terms, -25, 30)
            yield close(f"{loss.name}: a line, by the trapezoidal rule", both, poor, TIGHT)


@law(
    "critic/descent",
    formula=r"E\,[l(D(x)) + l(-D(G(z)))] = 2\,E\,l(y D(x))",
    source="Goodfellow et al. (2014), equation 1; Mao et al. (2017), equation 2",
)
def critics_descend_the_risk(_: float) -> Iterator[Evidence]:
    """What a critic descends is twice its risk; relativistic pairing sees only differences.

    Quantiles of N(0, 1) and N(1, 1.5^2) by Gauss-Hermite, 60 nodes each, and a critic that is not the best one.
    """
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    u, w = torch.from_numpy(nodes), torch.from_numpy(shares / shares.sum())
    x, y = 0.3 - u, 0.3 - (1 + 1.5 * u)
    for loss in (squared, logistic, exponential):
        game = MarginGame(loss, "linear")
        expected = float((w * loss(x)).sum() + (w * loss(-y)).sum())
        yield close(f"{loss.name}: the mean of its terms", expected, float((w * game.critic(x, y)).sum()), 1e-12)
        exact = 2 * float(risk(loss, lambda v: 0.3 - v, normal(0.0, 1.0), normal(1.0, 1.5)))
        yield close(f"{loss.name}: twice the risk", exact, float((w * game.critic(x, y)).sum()), 1e-7)
        paired = RelativisticGame(loss, "non-saturating")
        yield close(f"{loss.name}, relativistic: l(D(x) - D(G(z)))", loss(x - y), paired.critic(x, y), 1e-12)
        yield close(f"{loss.name}, relativistic: D + 7", paired.critic(x, y), paired.critic(x + 7, y + 7), 1e-9)
        turned = paired.generator(x, y)
        yield close(f"{loss.name}, relativistic: the generator's part", loss(y - x), turned, 1e-12)


@law(
    "critic/saturation",
    formula=r"\partial_t[-l(-t)] = l'(-t) \to 0, \quad \partial_t\,l(t) = l'(t), \quad \partial_t[-t] = -1",
    source="Goodfellow et al. (2014), section 3; Arjovsky & Bottou (2017), section 2.2",
)
def saturation(_: float) -> Iterator[Evidence]:
    """Where a critic is sure of a fake, the zero-sum generator learns nothing; the others do.

    With the logistic loss at t = D(G(z)) = -20 the slopes are -sigmoid(-20), -sigmoid(20) and -1. The saturating form
    is the critic's own term turned round: the game is zero-sum.
    """
    slopes = {"saturating": -1 / (1 + math.exp(20)), "non-saturating": -1 / (1 + math.exp(-20)), "linear": -1.0}
    for form, expected in slopes.items():
        t = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(MarginGame(logistic, form).generator(None, t).sum(), t)
        yield close(f"{form}: slope at -20, over the expected", 1.0, found / expected, 1e-9)
    for loss in TRAINABLE:
        t = torch.tensor([-1.3, -0.2, 0.4], dtype=torch.float64, requires_grad=True)
        game = MarginGame(loss, "saturating")
        ours, theirs = (
            torch.autograd.grad(v.sum(), t)[0] for v in (game.generator(None, t), game.critic(torch.zeros_like(t), t))
        )
        yield close(f"{loss.name}: the generator's gradient is the critic's, turned round", -theirs, ours, 1e-12)


@law(
    "critic/lower-bound",
    formula=r"c\,(\mathrm{chance} - \hat R) \le D_f(p, q)",
    source=f"{NGUYEN}, section 2; Nowozin et al. (2016), equation 4",
    assumptions="on samples that the critic was not trained with",
)
def critics_bound(precision: float) -> Iterator[Evidence]:
    """On held-out samples a critic gives a lower bound of the divergence, the best one the divergence itself.

    N(0, 1) and N(1, 1); the poor critic is -2(x - 1/2), whose own gain is known by the trapezoidal rule.
    """
    p, q = normal(0.0, 1.0), normal(1.0, 1.0)
    n = draws(40_000, precision)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, dtype=torch.float64, generator=rng) + torch.tensor([[0.0], [1.0]])
    for name, loss in (("jensen-shannon", logistic), ("hellinger", exponential), ("le-cam", squared)):
        exact = float(divergence(name, p, q))
        told = [loss.optimal((p.log_prob(v) - q.log_prob(v)).exp()) for v in (x, y)]
        best = critic_divergence(name, *told)
        gains = loss.scale * (loss.chance - (loss(told[0]) + loss(-told[1])) / 2)
        yield mean_is(f"{name}: the best critic", exact, gains)
        yield close(f"{name}: its mean", gains.mean(), best.value, 1e-12)
        yield close(f"{name}: its standard error", 1.0, best.stderr / float(gains.std() / n**0.5), 0.05)
    poor = [-2 * (v - 0.5) for v in (x, y)]
    own = trapezoid(
        lambda v: (p.log_prob(v).exp() * logistic(1 - 2 * v) + q.log_prob(v).exp() * logistic(2 * v - 1)) / 2, -12, 13
    )
    gains = logistic.chance - (logistic(poor[0]) + logistic(-poor[1])) / 2
    yield mean_is("jensen-shannon: a poor critic's own gain", logistic.chance - own, gains)
    found = critic_divergence("jensen-shannon", *poor).value
    yield bounded("jensen-shannon: a poor critic", found, float(divergence(logistic, p, q)), relation="at most")


LAWS: tuple[Law, ...] = (
    f_of_losses,
    optimal_critics,
    risk_is_a_divergence,
    total_variation,
    jensen_shannon,
    le_cam,
    hellinger,
    risk_of_a_critic,
    critics_descend_the_risk,
    saturation,
    critics_bound,
    *transport.LAWS,
    *critics.LAWS,
    *errata_adversarial.LAWS,
)

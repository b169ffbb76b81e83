r"""What a margin loss measures: f, the best critic, the minimal risk, the four divergences.

Gaussians on a line; exact values by closed forms, by sums, and by the trapezoidal rule, which for smooth integrands
that vanish at both ends has an error below any power of its step. No exact value uses jensen's own quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

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
from jensen.check.evidence import Claims, bounded, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.check.line import F64, f64, normal, normal_nodes
from jensen.check.margins import infimum, margin_loss

PAIRS = ((0.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 3.0), (-1.0, 0.5, 2.0, 2.0))
"""Mean and deviation of p, of q."""
DISJOINT = Categorical(torch.tensor([0.5, 0.5, 0.0, 0.0])), Categorical(torch.tensor([0.0, 0.0, 0.3, 0.7]))
TIGHT = 1e-8
TRAINABLE = (squared, logistic, exponential, hinge)
NEAR = normal(0.0), normal(1.0)
WIDE = normal(0.0), normal(1.0, 1.5)


def trapezoid(f: Callable[[Tensor], Tensor], low: float = -30.0, high: float = 40.0, points: int = 20_001) -> float:
    x = torch.linspace(low, high, points, dtype=F64)
    return float(torch.trapezoid(f(x), x))


@law("f-divergence/f")
def f_of_losses(_: float) -> Claims:
    r"""Each loss has the f of the table: convex, never increasing, an infimum over all of d.

    $$f(u) = -\inf_d\,[u\,l(d) + l(-d)]$$
    The negative of an infimum of lines in u is convex; their slopes are -l(d), at most 0, so it never increases.
    Zero-one: -min(u, 1). Squared: -4u/(u + 1). Logistic: u log u - (u + 1) log(u + 1). Exponential: -2 sqrt(u).
    Hinge: -2 min(u, 1).
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    Assumes: $l \ge 0$.
    """
    u = f64([0.01, 0.3, 1.0, 2.5, 40.0])
    table = {
        "zero-one": -u.clamp(max=1),
        "squared": -4 * u / (u + 1),
        "logistic": u * u.log() - (u + 1) * (u + 1).log(),
        "exponential": -2 * u.sqrt(),
        "hinge": -2 * u.clamp(max=1),
    }
    for name, loss in MARGIN_LOSSES.items():
        yield close(f"{name}: f of the table", table[name], loss.f(u), 1e-12)
        yield close(f"{name}: f by numerical minimisation", table[name], numerical(loss.loss).f(u), 1e-9)
        yield from margin_loss(loss, f=loss.f).named(name)


@law("errata/convex-f")
def convex_f(_: float) -> Claims:
    r"""The exponential loss's f is convex; that $f'' < 0$ is wrong.

    $$f(u) = -2\sqrt u, \quad f''(u) = \tfrac12 u^{-3/2} > 0$$
    $-2 u^{1/2}$ has the derivatives $-u^{-1/2}$ and $+\frac12 u^{-3/2}$. It is the root that is concave.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.1, 0.5, 1.0, 4.0]).requires_grad_()
    (first,) = torch.autograd.grad(exponential.f(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    yield close("f'' by two derivatives", u.detach() ** -1.5 / 2, second, 1e-9)
    yield bounded("f'' above 0", second, 0.05, relation="at least")
    left, right, middle = exponential.f(f64([0.5, 1.5, 1.0]))
    yield bounded("a chord above f at 1", (left + right) / 2 - middle, 0.03, relation="at least")


@law("critic/optimal")
def optimal_critics(_: float) -> Claims:
    r"""The best critic of each loss, where p_d/p_g = u, attains the infimum.

    $$D^*(u) \in \arg\min_d\,[u\,l(d) + l(-d)]$$
    With no restriction on D each point is a problem of its own. Squared: the derivative vanishes at (u - 1)/(u + 1).
    Logistic: at log u. Exponential: at (log u)/2. Zero-one and hinge: at the sign of u - 1.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.05, 0.5, 1.5, 20.0])
    sign, log_u = (u - 1).sign(), u.log()
    table = {"zero-one": sign, "squared": (u - 1) / (u + 1), "logistic": log_u, "exponential": log_u / 2, "hinge": sign}
    for name, loss in MARGIN_LOSSES.items():
        yield close(f"{name}: D* of the table", table[name], loss.optimal(u), 1e-12)
        yield from margin_loss(loss, critic=loss.optimal).named(name)


@law("errata/exponential-critic")
def exponential_critic(_: float) -> Claims:
    r"""At the exponential loss's best critic e^{D*} is the root of p/q and e^{-D*} that of q/p, not the reverse.

    $$D^* = \tfrac12\log\frac pq: \quad p\,e^{-D^*} = q\,e^{D^*} = \sqrt{pq}$$
    $u e^{-d} + e^{d}$ is minimal where $u e^{-d} = e^{d}$. Exchanged, both terms become $p\sqrt{p/q}$ and
    $q\sqrt{q/p}$: between N(0, 1) and N(1, 1) their half sum is $e^{3/8} = 1.45$ instead of $e^{-1/8} = 0.88$, above
    guessing.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.2, 1.0, 5.0])
    yield close("e^{D*}", u.sqrt(), exponential.optimal(u).exp(), 1e-12)
    right = float(risk(exponential, lambda x: (0.5 - x) / 2, *NEAR))
    wrong = float(risk(exponential, lambda x: (x - 0.5) / 2, *NEAR))
    yield close("the risk of D*", math.exp(-1 / 8), right, TIGHT)
    yield close("the minimal risk", right, float(bayes_risk(exponential, *NEAR)), TIGHT)
    yield close("the risk of the exchanged one", math.exp(3 / 8), wrong, 1e-7)
    yield bounded("more than that of guessing", wrong, 1.4, relation="at least")


@law("f-divergence/risk")
def risk_is_a_divergence(_: float) -> Claims:
    r"""The minimal risk is minus half an f-divergence.

    $$\inf_D E\,l(y D(x)) = -\tfrac12 I_f = -\tfrac12 \int f(p_d/p_g)\,p_g$$
    $E\,l(yD) = \frac12 \int [p_d\, l(D) + p_g\, l(-D)]$, and with no restriction on D the infimum enters the integral.
    It is the risk of guessing where p_d = p_g (1/2, 1, log 2, 1, 1: not 0), and 0 where they are disjoint.
    Source: Nguyen, Wainwright & Jordan (2009), section 2, theorem 1.
    Assumes: y = +1 and -1 equally often; D is any function.
    """
    chance = {"zero-one": 0.5, "squared": 1.0, "logistic": math.log(2), "exponential": 1.0, "hinge": 1.0}
    for name, loss in MARGIN_LOSSES.items():

        def measured(a: Tensor, b: Tensor, loss: MarginLoss = loss) -> float:
            return float(bayes_risk(loss, Categorical(a), Categorical(b)))

        yield from margin_loss(loss, risk=measured).named(name)
        yield close(f"{name}: at p = q", chance[name], float(bayes_risk(loss, WIDE[0], WIDE[0])), TIGHT)
        yield close(f"{name}: chance", chance[name], loss.chance, 1e-12)
    ratio = f64([0.3, 1.0, 4.0])
    for loss in (squared, logistic, exponential):  # smooth: the rule converges

        def pointwise(x: Tensor, loss: MarginLoss = loss) -> Tensor:
            a, b = (v.log_prob(x).exp() for v in WIDE)
            return b * infimum(loss, a / b)[1] / 2

        exact = trapezoid(pointwise, -14, 16, 401)
        yield close(f"{loss.name}: N(0, 1) and N(1, 1.5^2)", exact, float(bayes_risk(loss, *WIDE)), 1e-7)
        conditional = infimum(loss, ratio)[1] / (1 + ratio)
        yield close(f"{loss.name}: conditional risk", conditional, loss.conditional_risk(ratio.log()), 1e-7)


# the four divergences -----------------------------------------------------------------------------------------------

Exact = Callable[[float, float, float, float], float]


def by_trapezoids(integrand: Callable[[Tensor, Tensor], Tensor]) -> Exact:
    """An integral of two densities' values, as a function of the Gaussians' means and deviations."""
    return lambda m, s, n, t: trapezoid(
        lambda x: integrand(normal(m, s).log_prob(x).exp(), normal(n, t).log_prob(x).exp())
    )


def half_kl(p: Tensor, q: Tensor) -> Tensor:
    """The integrand of the Jensen-Shannon divergence."""
    middle = (p + q).clamp(min=1e-300) / 2
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)) / 2


def total_variation(m: float, s: float, n: float, t: float) -> float:
    """By differences of error functions between the roots of p = q."""
    a, b, c = 1 / t**2 - 1 / s**2, m / s**2 - n / t**2, n**2 / t**2 - m**2 / s**2 + 2 * math.log(t / s)
    root = math.sqrt(max(b * b - a * c, 0.0))
    roots = sorted([(-b - root) / a, (-b + root) / a]) if a else [-c / (2 * b)]
    gains = [0.0, *(float(normal(m, s).cdf(f64(x)) - normal(n, t).cdf(f64(x))) for x in roots), 0.0]
    return sum(abs(v - w) for v, w in zip(gains[1:], gains[:-1], strict=True)) / 2


def hellinger(m: float, s: float, n: float, t: float) -> float:
    total = s * s + t * t
    return 1 - math.sqrt(2 * s * t / total) * math.exp(-((m - n) ** 2) / (4 * total))


def _measured(name: str, exact: Exact, most: float, text: str) -> Law:
    """The law of a divergence on pairs of Gaussians, equal, exchanged, and disjoint."""

    def trial(_: float) -> Claims:
        for m, s, n, t in PAIRS:
            found = float(divergence(name, normal(m, s), normal(n, t)))
            yield close(f"N({m:g}, {s:g}^2) and N({n:g}, {t:g}^2)", exact(m, s, n, t), found, TIGHT)
        turned = float(divergence(name, normal(*PAIRS[2][2:]), normal(*PAIRS[2][:2])))
        yield close("exchanged", exact(*PAIRS[2]), turned, TIGHT)
        yield close("p = q", 0.0, float(divergence(name, normal(0.3, 2.0), normal(0.3, 2.0))), TIGHT)
        yield close("disjoint supports", most, float(divergence(name, *DISJOINT)), TIGHT)
        if name == "total-variation":
            for loss, from_risk in ((zero_one, lambda r: 1 - 2 * r), (hinge, lambda r: 1 - r)):
                found = from_risk(float(bayes_risk(loss, *NEAR)))
                yield close(f"by the {loss.name} loss", exact(0, 1, 1, 1), found, TIGHT)

    return law(f"f-divergence/{name}", text)(trial)


DIVERGENCES = [
    _measured(
        "total-variation",
        total_variation,
        1.0,
        r"""The zero-one and the hinge loss measure total variation.

        $$TV = \tfrac12 \int |p - q| = 1 - 2 R_{0/1} = 1 - R_{\mathrm{hinge}}$$
        Their f is min(u, 1) times -1 and -2, and $\int \min(p, q) = 1 - TV$. Between Gaussians p = q at the roots of a
        quadratic, and the integral between them is a difference of error functions.
        Source: Nguyen, Wainwright & Jordan (2009), section 3.
        """,
    ),
    _measured(
        "jensen-shannon",
        by_trapezoids(half_kl),
        math.log(2),
        r"""The logistic loss measures the Jensen-Shannon divergence, in nats.

        $$JS = \tfrac12 KL(p|m) + \tfrac12 KL(q|m) = \log 2 - R_{\mathrm{logistic}}, \quad m = \tfrac{p+q}{2}$$
        At D* = log(p/q) the losses are -log(p/(p+q)) and -log(q/(p+q)); their mean is log 2 - JS. It is at most log 2.
        Source: Goodfellow et al. (2014), theorem 1; Lin (1991).
        """,
    ),
    _measured(
        "le-cam",
        by_trapezoids(lambda p, q: (p - q) ** 2 / (p + q).clamp(min=1e-300)),
        2.0,
        r"""The squared loss measures Le Cam's divergence.

        $$LC = \int \frac{(p-q)^2}{p+q} = 2\,(1 - R_{\mathrm{squared}}), \quad R = 2\int\frac{pq}{p+q}$$
        At D* = (p - q)/(p + q) the risk is $2 \int pq/(p+q)$; and $(p-q)^2 = (p+q)^2 - 4pq$ gives LC = 2 - 2R, at most
        2.
        Source: Le Cam (1986); Mao et al. (2017), section 3.2.
        """,
    ),
    _measured(
        "hellinger",
        hellinger,
        1.0,
        r"""The exponential loss measures the squared Hellinger distance.

        $$H^2 = 1 - \int \sqrt{pq} = 1 - R_{\mathrm{exponential}}$$
        At D* = log(p/q)/2 both terms are $\sqrt{pq}$. Between Gaussians
        $\int\sqrt{pq} = \sqrt{2st/(s^2+t^2)}\,\exp(-(m-n)^2/(4(s^2+t^2)))$.
        Source: Nguyen, Wainwright & Jordan (2009), section 3.
        """,
    ),
]


def harmonic() -> float:
    r"""$\int pq/(p+q)$ of N(0, 1) and N(1, 1), by the trapezoidal rule."""
    p, q = NEAR
    return trapezoid(lambda x: 1 / (1 / p.log_prob(x).exp() + 1 / q.log_prob(x).exp()), -12, 13, 5001)


@law("errata/squared-risk-offset")
def squared_offset(_: float) -> Claims:
    r"""The squared loss's minimal risk is $-\frac12 I_g$ with g = -4t/(t+1), not 1 - I_g.

    $$R_{\mathrm{squared}} = -\tfrac12 I_f = 1 - \tfrac12 LC, \quad f(u) = -\frac{4u}{u+1}$$
    Between N(0, 1) and N(1, 1) it is 0.796; 1 - I_g would be 2.592, more than the risk 1 of guessing.
    Source: Le Cam (1986); Nguyen, Wainwright & Jordan (2009), section 3.
    """
    found, i_g = float(bayes_risk(squared, *NEAR)), -4 * harmonic()
    yield close("the minimal risk", -i_g / 2, found, TIGHT)
    yield close("to three places", 0.796, found, 5e-4)
    yield close("1 - LC / 2", 1 - float(divergence("le-cam", *NEAR)) / 2, found, TIGHT)
    yield close("what 1 - I_g says", 2.592, 1 - i_g, 5e-4)
    yield bounded("its error", 1 - i_g - found, 1.5, relation="at least")
    guess = float(risk(squared, lambda x: 0 * x, *NEAR))
    yield bounded("the minimal risk, under that of guessing", found, guess, relation="at most")


@law("errata/squared-risk-factor")
def squared_factor(_: float) -> Claims:
    r"""The squared loss's minimal risk is $2\int pq/(p+q)$, not half that integral.

    $$R_{\mathrm{squared}} = 2 \int \frac{pq}{p+q}$$
    At D* = (p-q)/(p+q): $\frac12 p (1 - D)^2 + \frac12 q (1 + D)^2 = 2 (pq^2 + qp^2)/(p+q)^2 = 2pq/(p+q)$. At p = q
    the integral is 1/2: the right formula gives the risk 1 of guessing, the wrong one 1/4.
    Source: Mao et al. (2017), section 3.2.
    """
    found, integral = float(bayes_risk(squared, *NEAR)), harmonic()
    yield close("the minimal risk", 2 * integral, found, TIGHT)
    yield bounded("the error of half the integral", found - integral / 2, 0.5, relation="at least")
    best = float(risk(squared, lambda x: torch.tanh((0.5 - x) / 2), *NEAR))  # (p - q) / (p + q)
    yield close("the risk of (p - q) / (p + q)", 2 * integral, best, TIGHT)


# critics that are not the best one, and what both players minimise ---------------------------------------------------


def line(x: Tensor) -> Tensor:
    """A critic that is not the best one."""
    return 0.3 - x


def risk_by_trapezoids(
    loss: MarginLoss, critic: Callable[[Tensor], Tensor], between: tuple[Normal, Normal], low: float, high: float
) -> float:
    p, q = between
    return trapezoid(
        lambda x: (p.log_prob(x).exp() * loss(critic(x)) + q.log_prob(x).exp() * loss(-critic(x))) / 2, low, high
    )


@law("critic/risk")
def risk_of_a_critic(_: float) -> Claims:
    r"""Any critic has at least the minimal risk, and the best one exactly the minimal risk.

    $$\tfrac12 E_p\,l(D) + \tfrac12 E_q\,l(-D) \ge -\tfrac12 I_f$$
    Risks of smooth critics between N(0, 1) and N(1, 1.5^2) by the trapezoidal rule.
    Source: Nguyen, Wainwright & Jordan (2009), section 2.
    """
    p, q = WIDE
    for loss in TRAINABLE:

        def best(x: Tensor, loss: MarginLoss = loss) -> Tensor:
            return loss.optimal((p.log_prob(x) - q.log_prob(x)).exp())

        least, poor = float(bayes_risk(loss, p, q)), float(risk(loss, line, p, q))
        yield close(f"{loss.name}: the best critic", least, float(risk(loss, best, p, q)), TIGHT)
        yield bounded(f"{loss.name}: a line", poor, least, relation="at least")
        if loss is not hinge:
            exact = risk_by_trapezoids(loss, line, WIDE, -25, 30)
            yield close(f"{loss.name}: a line, by the trapezoidal rule", exact, poor, TIGHT)


@law("critic/descent")
def critics_descend_the_risk(_: float) -> Claims:
    r"""The loss of a critic is twice its risk; relativistic pairing depends on differences alone.

    $$E\,[l(D(x)) + l(-D(G(z)))] = 2\,E\,l(y D(x))$$
    N(0, 1) and N(1, 1.5^2) by Gauss-Hermite, 60 nodes each, and a critic that is not the best one.
    Source: Goodfellow et al. (2014), equation 1; Mao et al. (2017), equation 2.
    """
    u, w = normal_nodes(60)
    x, y = line(u), line(1 + 1.5 * u)
    for loss in (squared, logistic, exponential):
        found = float(w @ MarginGame(loss, "linear").critic(x, y))
        yield close(f"{loss.name}: the mean of its terms", float(w @ loss(x) + w @ loss(-y)), found, 1e-12)
        yield close(f"{loss.name}: twice the risk", 2 * float(risk(loss, line, *WIDE)), found, 1e-7)
        paired = RelativisticGame(loss, "non-saturating")
        yield close(f"{loss.name}, relativistic: l(D(x) - D(G(z)))", loss(x - y), paired.critic(x, y), 1e-12)
        yield close(f"{loss.name}, relativistic: D + 7", paired.critic(x, y), paired.critic(x + 7, y + 7), 1e-9)
        yield close(f"{loss.name}, relativistic: the generator's part", loss(y - x), paired.generator(x, y), 1e-12)


@law("critic/saturation")
def saturation(_: float) -> Claims:
    r"""Where a critic is sure of a fake, the zero-sum generator has no gradient; the other forms have one.

    $$\partial_t[-l(-t)] = l'(-t) \to 0, \quad \partial_t\,l(t) = l'(t), \quad \partial_t[-t] = -1$$
    With the logistic loss at t = D(G(z)) = -20 the slopes are -sigmoid(-20), -sigmoid(20) and -1. The saturating form
    is the negative of the critic's own term: the game is zero-sum.
    Source: Goodfellow et al. (2014), section 3; Arjovsky & Bottou (2017), section 2.2.
    """
    slopes = {"saturating": -1 / (1 + math.exp(20)), "non-saturating": -1 / (1 + math.exp(-20)), "linear": -1.0}
    for form, expected in slopes.items():
        t = f64([-20.0]).requires_grad_()
        (found,) = torch.autograd.grad(MarginGame(logistic, form).generator(None, t).sum(), t)
        yield close(f"{form}: slope at -20, over the expected", 1.0, found / expected, 1e-9)
    for loss in TRAINABLE:
        t, game = f64([-1.3, -0.2, 0.4]).requires_grad_(), MarginGame(loss, "saturating")
        terms = game.generator(None, t), game.critic(torch.zeros_like(t), t)
        ours, theirs = (torch.autograd.grad(v.sum(), t)[0] for v in terms)
        yield close(f"{loss.name}: the generator's gradient is minus the critic's", -theirs, ours, 1e-12)


@law("critic/lower-bound")
def critics_bound(precision: float) -> Claims:
    r"""On held-out samples a critic gives a lower bound of the divergence, the best one the divergence itself.

    $$c\,(\mathrm{chance} - \hat R) \le D_f(p, q)$$
    N(0, 1) and N(1, 1); the poor critic is -2(x - 1/2), whose own gain is known by the trapezoidal rule.
    Source: Nguyen, Wainwright & Jordan (2009), section 2; Nowozin et al. (2016), equation 4.
    Assumes: samples that the critic was not trained on.
    """
    (p, q), n = NEAR, draws(40_000, precision)
    x, y = torch.randn(2, n, dtype=F64, generator=torch.Generator().manual_seed(0)) + f64([[0.0], [1.0]])
    for name, loss in (("jensen-shannon", logistic), ("hellinger", exponential), ("le-cam", squared)):
        told = [loss.optimal((p.log_prob(v) - q.log_prob(v)).exp()) for v in (x, y)]
        best, gains = critic_divergence(name, *told), loss.scale * (loss.chance - (loss(told[0]) + loss(-told[1])) / 2)
        yield mean_is(f"{name}: the best critic", float(divergence(name, p, q)), gains)
        yield close(f"{name}: its mean", gains.mean(), best.value, 1e-12)
        yield close(f"{name}: its standard error", 1.0, best.stderr / float(gains.std() / n**0.5), 0.05)
    poor = [-2 * (v - 0.5) for v in (x, y)]
    own = risk_by_trapezoids(logistic, lambda v: 1 - 2 * v, NEAR, -12, 13)
    gains = logistic.chance - (logistic(poor[0]) + logistic(-poor[1])) / 2
    yield mean_is("jensen-shannon: a poor critic's own gain", logistic.chance - own, gains)
    found = critic_divergence("jensen-shannon", *poor).value
    yield bounded("jensen-shannon: a poor critic", found, float(divergence(logistic, p, q)), relation="at most")

r"""Margin losses of a critic: their f, optimal critic and minimal risk, and the four divergences that they measure.

Exact values are closed forms, sums, or integrals by the trapezoidal rule, which is exact to rounding for a smooth
integrand that vanishes at both ends; none uses jensen's own quadrature.
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
from jensen.check.law import draws, law
from jensen.check.line import F64, f64, normal, normal_nodes, randn
from jensen.check.margins import infimum, margin_loss

Critic = Callable[[Tensor], Tensor]

PAIRS = ((0.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 3.0), (-1.0, 0.5, 2.0, 2.0))
"""Mean and standard deviation of p, and of q."""
DISJOINT = Categorical(torch.tensor([0.5, 0.5, 0.0, 0.0])), Categorical(torch.tensor([0.0, 0.0, 0.3, 0.7]))
TIGHT = 1e-8
TRAINABLE = (squared, logistic, exponential, hinge)
NEAR = normal(0.0), normal(1.0)
WIDE = normal(0.0), normal(1.0, 1.5)


def trapezoid(f: Critic, low: float = -30.0, high: float = 40.0, points: int = 20_001) -> float:
    x = torch.linspace(low, high, points, dtype=F64)
    return float(torch.trapezoid(f(x), x))


def optimal(loss: MarginLoss, p: Normal, q: Normal) -> Critic:
    return lambda x: loss.optimal((p.log_prob(x) - q.log_prob(x)).exp())


@law("f-divergence/f")
def f_of_losses(_: float) -> Claims:
    r"""Every margin loss l defines a function f that is convex and never increases.

    $$f(u) = -\inf_d\,[u\,l(d) + l(-d)]$$
    f is a supremum of linear functions of u, with slopes -l(d) of at most 0. Zero-one: -min(u, 1). Squared:
    -4u/(u + 1). Logistic: u log u - (u + 1) log(u + 1). Exponential: -2 sqrt(u). Hinge: -2 min(u, 1).
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
        yield close(f"{name}: f in closed form", table[name], loss.f(u), 1e-12)
        yield close(f"{name}: f by numerical minimisation", table[name], numerical(loss.loss).f(u), 1e-9)
        yield from margin_loss(loss, f=loss.f).named(name)


@law("errata/convex-f")
def convex_f(_: float) -> Claims:
    r"""The f of the exponential loss is convex: f'' is positive, not negative.

    $$f(u) = -2\sqrt u, \quad f''(u) = \tfrac12 u^{-3/2} > 0$$
    The first derivative is $-u^{-1/2}$. The square root is concave, and its negative is convex.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.1, 0.5, 1.0, 4.0]).requires_grad_()
    (first,) = torch.autograd.grad(exponential.f(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    yield close("f''", u.detach() ** -1.5 / 2, second, 1e-9)
    yield bounded("f'', which is positive", second, 0.05, relation="at least")
    left, right, middle = exponential.f(f64([0.5, 1.5, 1.0]))
    yield bounded("height of a chord above f", (left + right) / 2 - middle, 0.03, relation="at least")


@law("critic/optimal")
def optimal_critics(_: float) -> Claims:
    r"""Each loss has an optimal critic, which is a function of the density ratio u = p_d/p_g.

    $$D^*(u) \in \arg\min_d\,[u\,l(d) + l(-d)]$$
    A critic that may be any function minimises the risk at every x separately. Squared loss: (u - 1)/(u + 1), where the
    derivative vanishes. Logistic: log u. Exponential: (log u)/2. Zero-one and hinge: the sign of u - 1.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.05, 0.5, 1.5, 20.0])
    sign, log_u = (u - 1).sign(), u.log()
    table = {"zero-one": sign, "squared": (u - 1) / (u + 1), "logistic": log_u, "exponential": log_u / 2, "hinge": sign}
    for name, loss in MARGIN_LOSSES.items():
        yield close(f"{name}: D* in closed form", table[name], loss.optimal(u), 1e-12)
        yield from margin_loss(loss, critic=loss.optimal).named(name)


@law("errata/exponential-critic")
def exponential_critic(_: float) -> Claims:
    r"""For the optimal critic D* of the exponential loss, e^{D*} is sqrt(p/q), not sqrt(q/p).

    $$D^* = \tfrac12\log\frac pq: \quad p\,e^{-D^*} = q\,e^{D^*} = \sqrt{pq}$$
    $u e^{-d} + e^{d}$ is least where $u e^{-d} = e^{d}$, with u = p/q. Between N(0, 1) and N(1, 1) the risk of D* is
    $e^{-1/8} = 0.88$; the critic -D* has the risk $e^{3/8} = 1.45$, above the risk 1 of guessing.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    u = f64([0.2, 1.0, 5.0])
    yield close("e^{D*}", u.sqrt(), exponential.optimal(u).exp(), 1e-12)
    right = float(risk(exponential, lambda x: (0.5 - x) / 2, *NEAR))
    wrong = float(risk(exponential, lambda x: (x - 0.5) / 2, *NEAR))
    yield close("risk of D*", math.exp(-1 / 8), right, TIGHT)
    yield close("minimal risk", right, float(bayes_risk(exponential, *NEAR)), TIGHT)
    yield close("risk of -D*", math.exp(3 / 8), wrong, 1e-7)
    yield bounded("risk of -D*, above that of guessing", wrong, 1.4, relation="at least")


@law("f-divergence/risk")
def risk_is_a_divergence(_: float) -> Claims:
    r"""The minimal risk of a critic is minus half an f-divergence.

    $$\inf_D E\,l(y D(x)) = -\tfrac12 I_f = -\tfrac12 \int f(p_d/p_g)\,p_g$$
    $E\,l(yD) = \frac12 \int [p_d\, l(D) + p_g\, l(-D)]$, minimised at every x separately. For p_d = p_g it is the risk
    of guessing (1/2 for zero-one, log 2 for logistic, 1 for the others); for disjoint supports it is 0.
    Source: Nguyen, Wainwright & Jordan (2009), section 2, theorem 1.
    Assumes: y = +1 (x from p_d) and y = -1 (x from p_g) equally often; D is any function.
    """
    chance = {"zero-one": 0.5, "squared": 1.0, "logistic": math.log(2), "exponential": 1.0, "hinge": 1.0}
    for name, loss in MARGIN_LOSSES.items():

        def measured(a: Tensor, b: Tensor, loss: MarginLoss = loss) -> float:
            return float(bayes_risk(loss, Categorical(a), Categorical(b)))

        yield from margin_loss(loss, risk=measured).named(name)
        yield close(f"{name}: minimal risk for p = q", chance[name], float(bayes_risk(loss, WIDE[0], WIDE[0])), TIGHT)
        yield close(f"{name}: risk of guessing", chance[name], loss.chance, 1e-12)
    ratio = f64([0.3, 1.0, 4.0])
    for loss in (squared, logistic, exponential):  # their integrands are smooth

        def pointwise(x: Tensor, loss: MarginLoss = loss) -> Tensor:
            a, b = (v.log_prob(x).exp() for v in WIDE)
            return b * infimum(loss, a / b)[1] / 2

        exact = trapezoid(pointwise, -14, 16, 401)
        yield close(f"{loss.name}: N(0, 1) and N(1, 1.5^2)", exact, float(bayes_risk(loss, *WIDE)), 1e-7)
        conditional = infimum(loss, ratio)[1] / (1 + ratio)
        yield close(f"{loss.name}: minimal risk given x", conditional, loss.conditional_risk(ratio.log()), 1e-7)


Exact = Callable[[float, float, float, float], float]


def by_trapezoids(integrand: Callable[[Tensor, Tensor], Tensor]) -> Exact:
    """The integral of a function of two normal densities, given their means and standard deviations."""
    return lambda m, s, n, t: trapezoid(
        lambda x: integrand(normal(m, s).log_prob(x).exp(), normal(n, t).log_prob(x).exp())
    )


def half_kl(p: Tensor, q: Tensor) -> Tensor:
    """The integrand of the Jensen-Shannon divergence."""
    middle = (p + q).clamp(min=1e-300) / 2
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)) / 2


def total_variation(m: float, s: float, n: float, t: float) -> float:
    """By differences of distribution functions between the roots of p = q."""
    a, b, c = 1 / t**2 - 1 / s**2, m / s**2 - n / t**2, n**2 / t**2 - m**2 / s**2 + 2 * math.log(t / s)
    root = math.sqrt(max(b * b - a * c, 0.0))
    roots = sorted([(-b - root) / a, (-b + root) / a]) if a else [-c / (2 * b)]
    gains = f64([0.0, *(normal(m, s).cdf(f64(x)) - normal(n, t).cdf(f64(x)) for x in roots), 0.0])
    return float(gains.diff().abs().sum()) / 2


harmonic = by_trapezoids(lambda p, q: p * q / (p + q).clamp(min=1e-300))


def measured(name: str, exact: Exact, most: float) -> Claims:
    """A divergence between Gaussians, of p from itself, and between distributions with disjoint supports."""
    for m, s, n, t in PAIRS:
        found = float(divergence(name, normal(m, s), normal(n, t)))
        yield close(f"N({m:g}, {s:g}^2) and N({n:g}, {t:g}^2)", exact(m, s, n, t), found, TIGHT)
    exchanged = float(divergence(name, normal(*PAIRS[2][2:]), normal(*PAIRS[2][:2])))
    yield close("p and q exchanged", exact(*PAIRS[2]), exchanged, TIGHT)
    yield close("p = q", 0.0, float(divergence(name, normal(0.3, 2.0), normal(0.3, 2.0))), TIGHT)
    yield close("disjoint supports", most, float(divergence(name, *DISJOINT)), TIGHT)


@law("f-divergence/total-variation")
def total_variation_distance(_: float) -> Claims:
    r"""The zero-one and the hinge loss measure the total variation distance.

    $$TV = \tfrac12 \int |p - q| = 1 - 2 R_{0/1} = 1 - R_{\mathrm{hinge}}$$
    R is the minimal risk; f(u) = -min(u, 1) and -2 min(u, 1), and $\int \min(p, q) = 1 - TV$. For Gaussians p = q
    at the roots of a quadratic, between which the integral is a difference of distribution functions.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    yield from measured("total-variation", total_variation, 1.0)
    for loss, from_risk in ((zero_one, lambda r: 1 - 2 * r), (hinge, lambda r: 1 - r)):
        found = from_risk(float(bayes_risk(loss, *NEAR)))
        yield close(f"from the minimal risk of the {loss.name} loss", total_variation(0, 1, 1, 1), found, TIGHT)


@law("f-divergence/jensen-shannon")
def jensen_shannon(_: float) -> Claims:
    r"""The logistic loss measures the Jensen-Shannon divergence, in nats.

    $$JS = \tfrac12 KL(p|m) + \tfrac12 KL(q|m) = \log 2 - R_{\mathrm{logistic}}, \quad m = \tfrac{p+q}{2}$$
    R is the minimal risk. At D* = log(p/q) the losses are -log(p/(p+q)) and -log(q/(p+q)); their mean is log 2 - JS.
    Source: Goodfellow et al. (2014), theorem 1; Lin (1991).
    """
    yield from measured("jensen-shannon", by_trapezoids(half_kl), math.log(2))


@law("f-divergence/le-cam")
def le_cam_divergence(_: float) -> Claims:
    r"""The squared loss measures Le Cam's divergence.

    $$LC = \int \frac{(p-q)^2}{p+q} = 2\,(1 - R_{\mathrm{squared}}), \quad R = 2\int\frac{pq}{p+q}$$
    R is the minimal risk, at D* = (p - q)/(p + q). $(p-q)^2 = (p+q)^2 - 4pq$ gives LC = 2 - 2R.
    Source: Le Cam (1986); Mao et al. (2017), section 3.2.
    """
    yield from measured("le-cam", by_trapezoids(lambda p, q: (p - q) ** 2 / (p + q).clamp(min=1e-300)), 2.0)


@law("f-divergence/hellinger")
def hellinger_distance(_: float) -> Claims:
    r"""The exponential loss measures the squared Hellinger distance.

    $$H^2 = \tfrac12\int(\sqrt p - \sqrt q)^2 = 1 - \int \sqrt{pq} = 1 - R_{\mathrm{exponential}}$$
    R is the minimal risk: at D* = log(p/q)/2 both losses, p e^{-D} and q e^D, are $\sqrt{pq}$.
    Source: Nguyen, Wainwright & Jordan (2009), section 3.
    """
    yield from measured("hellinger", by_trapezoids(lambda p, q: (p.sqrt() - q.sqrt()) ** 2 / 2), 1.0)


@law("errata/squared-risk-offset")
def squared_offset(_: float) -> Claims:
    r"""The minimal risk of the squared loss is -I_g/2 with g(t) = -4t/(t+1), not 1 - I_g.

    $$R_{\mathrm{squared}} = -\tfrac12 I_g = 1 - \tfrac12 LC$$
    LC is Le Cam's divergence. Between N(0, 1) and N(1, 1) the risk is 0.796; 1 - I_g = 2.592, but guessing has risk 1.
    Source: Le Cam (1986); Nguyen, Wainwright & Jordan (2009), section 3.
    """
    found, i_g = float(bayes_risk(squared, *NEAR)), -4 * harmonic(0, 1, 1, 1)
    yield close("minimal risk", -i_g / 2, found, TIGHT)
    yield close("minimal risk to three places", 0.796, found, 5e-4)
    yield close("minimal risk from Le Cam's divergence", 1 - float(divergence("le-cam", *NEAR)) / 2, found, TIGHT)
    yield close("1 - I_g", 2.592, 1 - i_g, 5e-4)
    yield bounded("error of 1 - I_g", 1 - i_g - found, 1.5, relation="at least")
    guess = float(risk(squared, lambda x: 0 * x, *NEAR))
    yield bounded("minimal risk, below that of guessing", found, guess, relation="at most")


@law("errata/squared-risk-factor")
def squared_factor(_: float) -> Claims:
    r"""The minimal risk of the squared loss is twice the integral of pq/(p+q), not half of it.

    $$R_{\mathrm{squared}} = 2 \int \frac{pq}{p+q}$$
    At D* = (p-q)/(p+q): $\frac12 p (1 - D)^2 + \frac12 q (1 + D)^2 = 2 (pq^2 + qp^2)/(p+q)^2 = 2pq/(p+q)$. For p = q
    the integral is 1/2, which gives the risk 1 of guessing; half of it would give 1/4.
    Source: Mao et al. (2017), section 3.2.
    """
    found, integral = float(bayes_risk(squared, *NEAR)), harmonic(0, 1, 1, 1)
    yield close("minimal risk", 2 * integral, found, TIGHT)
    yield bounded("error of half the integral", found - integral / 2, 0.5, relation="at least")
    best = float(risk(squared, lambda x: torch.tanh((0.5 - x) / 2), *NEAR))  # (p - q) / (p + q)
    yield close("risk of the critic (p - q) / (p + q)", 2 * integral, best, TIGHT)


def line(x: Tensor) -> Tensor:
    """A critic that is not optimal."""
    return 0.3 - x


def risk_by_trapezoids(loss: MarginLoss, critic: Critic, p: Normal, q: Normal) -> float:
    return trapezoid(lambda x: (p.log_prob(x).exp() * loss(critic(x)) + q.log_prob(x).exp() * loss(-critic(x))) / 2)


@law("critic/risk")
def risk_of_a_critic(_: float) -> Claims:
    r"""The risk of a critic D is at least the minimal risk, which the optimal critic attains.

    $$\tfrac12 E_p\,l(D) + \tfrac12 E_q\,l(-D) \ge -\tfrac12 I_f$$
    p = N(0, 1) and q = N(1, 1.5^2); exact risks of D(x) = 0.3 - x by the trapezoidal rule.
    Source: Nguyen, Wainwright & Jordan (2009), section 2.
    """
    for loss in TRAINABLE:
        least, of_line = float(bayes_risk(loss, *WIDE)), float(risk(loss, line, *WIDE))
        best = float(risk(loss, optimal(loss, *WIDE), *WIDE))
        yield close(f"{loss.name}: risk of the optimal critic", least, best, TIGHT)
        yield bounded(f"{loss.name}: risk of 0.3 - x, above the minimal risk", of_line, least, relation="at least")
        if loss is not hinge:
            exact = risk_by_trapezoids(loss, line, *WIDE)
            yield close(f"{loss.name}: risk of 0.3 - x, exact", exact, of_line, TIGHT)


@law("critic/descent")
def critics_descend_the_risk(_: float) -> Claims:
    r"""A critic's loss is twice its risk, and a relativistic loss depends only on differences of the critic's outputs.

    $$E\,[l(D(x)) + l(-D(G(z)))] = 2\,E\,l(y D(x))$$
    x ~ N(0, 1) and G(z) ~ N(1, 1.5^2) by Gauss-Hermite quadrature with 60 nodes, D(x) = 0.3 - x.
    Source: Goodfellow et al. (2014), equation 1; Mao et al. (2017), equation 2.
    """
    u, w = normal_nodes(60)
    x, y = line(u), line(1 + 1.5 * u)
    for loss in (squared, logistic, exponential):
        found = float(w @ MarginGame(loss, "linear").critic(x, y))
        paired, claim = RelativisticGame(loss, "non-saturating"), f"{loss.name}, relativistic"
        yield close(f"{loss.name}: mean of l(D(x)) + l(-D(G(z)))", float(w @ loss(x) + w @ loss(-y)), found, 1e-12)
        yield close(f"{loss.name}: twice the risk", 2 * float(risk(loss, line, *WIDE)), found, 1e-7)
        yield close(f"{claim}: critic's loss l(D(x) - D(G(z)))", loss(x - y), paired.critic(x, y), 1e-12)
        yield close(f"{claim}: critic's loss of D + 7", paired.critic(x, y), paired.critic(x + 7, y + 7), 1e-9)
        yield close(f"{claim}: generator's loss l(D(G(z)) - D(x))", loss(y - x), paired.generator(x, y), 1e-12)


@law("critic/saturation")
def saturation(_: float) -> Claims:
    r"""Where the critic clearly rejects a generated example, the saturating generator loss has almost no gradient.

    $$\partial_t[-l(-t)] = l'(-t) \to 0, \quad \partial_t\,l(t) = l'(t), \quad \partial_t[-t] = -1$$
    The saturating, non-saturating and linear generator loss at t = D(G(z)). For the logistic l their derivatives at
    t = -20 are -sigmoid(-20), -sigmoid(20) and -1. The saturating loss is minus the critic's term in t.
    Source: Goodfellow et al. (2014), section 3; Arjovsky & Bottou (2017), section 2.2.
    """
    slopes = {"saturating": -1 / (1 + math.exp(20)), "non-saturating": -1 / (1 + math.exp(-20)), "linear": -1.0}
    for form, expected in slopes.items():
        t = f64([-20.0]).requires_grad_()
        (found,) = torch.autograd.grad(MarginGame(logistic, form).generator(None, t).sum(), t)
        yield close(f"{form}: slope at -20 over its exact value", 1.0, found / expected, 1e-9)
    for loss in TRAINABLE:
        t, game = f64([-1.3, -0.2, 0.4]).requires_grad_(), MarginGame(loss, "saturating")
        terms = game.generator(None, t), game.critic(torch.zeros_like(t), t)
        ours, theirs = (torch.autograd.grad(v.sum(), t)[0] for v in terms)
        yield close(f"{loss.name}, saturating: the generator's gradient is minus the critic's", -theirs, ours, 1e-12)


@law("critic/lower-bound")
def critics_bound(precision: float) -> Claims:
    r"""A critic's risk on held-out samples estimates a lower bound on a divergence; the optimal critic attains it.

    $$c\,(R_0 - \hat R) \le D_f(p, q)$$
    R_0 is the risk of guessing, c the scale of the divergence; p = N(0, 1) and q = N(1, 1). The exact value for the
    critic 1 - 2x, which is not optimal, is by the trapezoidal rule.
    Source: Nguyen, Wainwright & Jordan (2009), section 2; Nowozin et al. (2016), equation 4.
    Assumes: samples that the critic was not trained on.
    """
    n = draws(40_000, precision)
    x, y = randn(0, 2, n) + f64([[0.0], [1.0]])
    for name, loss in (("jensen-shannon", logistic), ("hellinger", exponential), ("le-cam", squared)):
        real, fake = (optimal(loss, *NEAR)(v) for v in (x, y))
        best, gains = critic_divergence(name, real, fake), loss.scale * (loss.chance - (loss(real) + loss(-fake)) / 2)
        yield mean_is(f"{name}: mean for the optimal critic", float(divergence(name, *NEAR)), gains)
        yield close(f"{name}: estimate, the mean of the samples", gains.mean(), best.value, 1e-12)
        yield close(f"{name}: ratio of standard errors", 1.0, best.stderr / float(gains.std() / n**0.5), 0.05)
    exact = logistic.chance - risk_by_trapezoids(logistic, lambda v: 1 - 2 * v, *NEAR)
    gains = logistic.chance - (logistic(1 - 2 * x) + logistic(2 * y - 1)) / 2
    yield mean_is("jensen-shannon: mean for the critic 1 - 2x", exact, gains)
    found, most = critic_divergence("jensen-shannon", 1 - 2 * x, 1 - 2 * y).value, float(divergence(logistic, *NEAR))
    yield bounded("jensen-shannon: estimate of the critic 1 - 2x, a lower bound", found, most, relation="at most")

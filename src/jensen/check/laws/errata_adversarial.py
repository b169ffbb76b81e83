"""Wrong statements about adversarial learning that circulate, each with the number that refutes it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from jensen.adversarial import MarginGame, bayes_risk, divergence, exponential, logistic, risk, squared
from jensen.check.evidence import Evidence, bounded, close
from jensen.check.law import Law, law
from jensen.check.laws.bilinear import started
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.report import plots
from jensen.training import train_step

F64 = torch.float64


def _gaussians() -> tuple[Normal, Normal]:
    """N(0, 1) and N(1, 1)."""
    p, q = (Normal(torch.tensor(m, dtype=F64), torch.tensor(1.0, dtype=F64)) for m in (0.0, 1.0))
    return p, q


def _harmonic() -> float:
    r"""Of both, $\int pq/(p+q)$, by the trapezoidal rule."""
    x = torch.linspace(-12, 13, 5001, dtype=F64)
    p, q = (v.log_prob(x).exp() for v in _gaussians())
    return float(torch.trapezoid(p * q / (p + q), x))


@law(
    "errata/convex-f",
    formula=r"f(u) = -2\sqrt u, \quad f''(u) = \tfrac12 u^{-3/2} > 0",
    source="Nguyen, Wainwright & Jordan (2009), section 3",
)
def convex_f(_: float) -> Iterator[Evidence]:
    r"""The exponential loss's f is convex; that $f'' < 0$ is wrong.

    $-2 u^{1/2}$ has the derivatives $-u^{-1/2}$ and $+\frac12 u^{-3/2}$. It is the root that is concave.
    """
    u = torch.tensor([0.1, 0.5, 1.0, 4.0], dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(exponential.f(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    yield close("f'' by two derivatives", u.detach() ** -1.5 / 2, second, 1e-9)
    yield bounded("f'' above 0", second, 0.05, relation="at least")
    middle = exponential.f(torch.tensor([0.5, 1.5, 1.0], dtype=F64))
    yield bounded("a chord above f at 1", (middle[0] + middle[1]) / 2 - middle[2], 0.03, relation="at least")


@law(
    "errata/squared-risk-offset",
    formula=r"R_{\mathrm{squared}} = -\tfrac12 I_f = 1 - \tfrac12 LC, \quad f(u) = -\frac{4u}{u+1}",
    source="Le Cam (1986); Nguyen, Wainwright & Jordan (2009), section 3",
)
def squared_offset(_: float) -> Iterator[Evidence]:
    r"""The squared loss's least risk is $-\frac12 I_g$ with g = -4t/(t+1), not 1 - I_g.

    Between N(0, 1) and N(1, 1) it is 0.796; 1 - I_g would be 2.592, more than the risk 1 of guessing.
    """
    p, q = _gaussians()
    found = float(bayes_risk(squared, p, q))
    i_g = -4 * _harmonic()
    yield close("the least risk", -i_g / 2, found, 1e-8)
    yield close("to three places", 0.796, found, 5e-4)
    yield close("1 - LC / 2", 1 - float(divergence("le-cam", p, q)) / 2, found, 1e-8)
    yield close("what 1 - I_g says", 2.592, 1 - i_g, 5e-4)
    yield bounded("its error", 1 - i_g - found, 1.5, relation="at least")
    guess = float(risk(squared, lambda x: 0 * x, p, q))
    yield bounded("the least risk, under that of guessing", found, guess, relation="at most")


@law(
    "errata/squared-risk-factor",
    formula=r"R_{\mathrm{squared}} = 2 \int \frac{pq}{p+q}",
    source="Mao et al. (2017), section 3.2",
)
def squared_factor(_: float) -> Iterator[Evidence]:
    r"""The squared loss's least risk is $2\int pq/(p+q)$, not half that integral.

    At D* = (p-q)/(p+q): $\frac12 p (1 - D)^2 + \frac12 q (1 + D)^2 = 2 (pq^2 + qp^2)/(p+q)^2 = 2pq/(p+q)$. At p = q
    the integral is 1/2: the right one gives the risk 1 of guessing, the wrong one 1/4.
    """
    p, q = _gaussians()
    found, integral = float(bayes_risk(squared, p, q)), _harmonic()
    yield close("the least risk", 2 * integral, found, 1e-8)
    yield bounded("the error of half the integral", found - integral / 2, 0.5, relation="at least")
    best = float(risk(squared, lambda x: torch.tanh((0.5 - x) / 2), p, q))  # (p - q) / (p + q)
    yield close("the risk of (p - q) / (p + q)", 2 * integral, best, 1e-8)


@law(
    "errata/exponential-critic",
    formula=r"D^* = \tfrac12\log\frac pq: \quad p\,e^{-D^*} = q\,e^{D^*} = \sqrt{pq}",
    source="Nguyen, Wainwright & Jordan (2009), section 3",
)
def exponential_critic(_: float) -> Iterator[Evidence]:
    r"""At the exponential loss's best critic e^{D*} is the root of p/q and e^{-D*} that of q/p, not the reverse.

    $u e^{-d} + e^{d}$ is least where $u e^{-d} = e^{d}$. Exchanged, both terms become $p\sqrt{p/q}$ and $q\sqrt{q/p}$:
    between N(0, 1) and N(1, 1) their half sum is $e^{3/8} = 1.45$ instead of $e^{-1/8} = 0.88$, above guessing.
    """
    p, q = _gaussians()
    u = torch.tensor([0.2, 1.0, 5.0], dtype=F64)
    yield close("e^{D*}", u.sqrt(), exponential.optimal(u).exp(), 1e-12)
    right = float(risk(exponential, lambda x: (0.5 - x) / 2, p, q))
    wrong = float(risk(exponential, lambda x: (x - 0.5) / 2, p, q))
    yield close("the risk of D*", math.exp(-1 / 8), right, 1e-8)
    yield close("the least risk", right, float(bayes_risk(exponential, p, q)), 1e-8)
    yield close("the risk of the exchanged one", math.exp(3 / 8), wrong, 1e-7)
    yield bounded("more than that of guessing", wrong, 1.4, relation="at least")


# mode collapse --------------------------------------------------------------------------------------------


class Modes(Objective):
    """A game over K modes in exact expectation: the generator's shares against a critic's value of each mode."""

    def __init__(self, data: Tensor, critic_steps: int):
        super().__init__()
        self.data = data
        start = 0.01 * torch.cos(torch.arange(len(data), dtype=data.dtype))  # all but even
        self.logits, self.model = nn.Parameter(start), nn.Module()
        self.model.logits = self.logits
        self.critic = nn.Parameter(torch.zeros_like(data))
        self.loss = MarginGame(logistic, "non-saturating")
        self.phases = (Phase(("critic",), repeats=critic_steps), Phase(("generator",)))

    @property
    def shares(self) -> Tensor:
        return torch.softmax(self.logits, 0)

    def players(self) -> Mapping[str, Any]:
        return {"critic": [self.critic], "generator": [self.logits]}

    def forward(self, players: tuple[str, ...], batch: Mapping[str, Tensor], step: int) -> Mapping[str, Loss]:
        shares, d = self.shares, self.critic
        critic = (self.data * self.loss.loss(d) + shares * self.loss.loss(-d)).sum()
        losses = {"critic": critic, "generator": (shares * self.loss.generator(None, d)).sum()}
        return {name: Loss.of(losses[name]) for name in players}


def play(data: Tensor, critic_steps: int, generator_rate: float, steps: int) -> Tensor:
    """Shares of the modes after each step, (steps, K)."""
    game = Modes(data, critic_steps)
    state, path = started(game, {"critic": 8.0, "generator": generator_rate}), []
    for _ in range(steps):
        train_step(state, itertools.repeat({}))
        path.append(game.shares.detach().clone())
    return torch.stack(path)


EVEN = torch.full((8,), 1 / 8, dtype=F64)
HASTY, PATIENT = (1, 200.0), (2, 8.0)  # the critic's moves a step, the generator's rate
UNEVEN = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05], dtype=F64)


@law(
    "errata/mode-collapse",
    formula=r"\arg\min_{p_g} E_{p_g}\,l(D) = \delta_{\arg\max D} \text{ for a fixed critic, whatever the data}",
    source="Goodfellow (2016), section 5.1.1; Metz et al. (2017), section 2.2",
)
def mode_collapse(_: float) -> Iterator[Evidence]:
    r"""Unbalanced data are not what makes modes collapse: a balanced ring of eight collapses too.

    Against a fixed critic the best generator puts all its mass where D is largest. So one that moves far between the
    critic's moves ends on a single mode, where its gradient vanishes, though all eight are equally likely; with a
    critic that is nearly at its best response the same game finds even and uneven data alike. In exact expectation,
    nothing drawn.
    """
    hasty = play(EVEN, *HASTY, 60)
    yield bounded("even data, a hasty generator: its largest share", hasty[-1].max(), 0.99, relation="at least")
    reached = divergence("total-variation", Categorical(EVEN), Categorical(hasty[-1]))
    yield close("even data, a hasty generator: total variation, 1 - 1/8", 7 / 8, float(reached), 0.01)
    for name, data in (("even", EVEN), ("uneven", UNEVEN)):
        patient = play(data, *PATIENT, 60)[-1]
        yield close(f"{name} data, a patient generator: its shares", data, patient, 1e-3)


@mode_collapse.drawn
def _collapse() -> str:
    steps = list(range(1, 31))
    rows: dict[str, Sequence[float]] = {
        "hasty generator": play(EVEN, *HASTY, 30).max(1).values.tolist(),
        "patient generator": play(EVEN, *PATIENT, 30).max(1).values.tolist(),
        "data": [1 / 8] * 30,
    }
    return plots.curves(steps, rows, title="Largest share of eight even modes", xlabel="steps", markers=False)


LAWS: tuple[Law, ...] = (convex_f, squared_offset, squared_factor, exponential_critic, mode_collapse)

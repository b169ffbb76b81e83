"""Distances of distributions with disjoint supports, and modes: transport, instance noise, packing, mode collapse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance, wasserstein_distance_nd
from torch import Tensor, nn
from torch.distributions import Categorical, Uniform

from jensen.adversarial import MarginGame, WassersteinGame, divergence, instance_noise, logistic, pack, wasserstein1
from jensen.check.evidence import Claims, bounded, close, mean_is
from jensen.check.law import draws, law
from jensen.check.laws.bilinear import started
from jensen.check.line import F64, f64, normal
from jensen.core.objective import Objective
from jensen.core.seeding import generator
from jensen.core.types import Loss, Phase
from jensen.report import plots
from jensen.training import train_step


@law("wasserstein/distance")
def distance(_: float) -> Claims:
    r"""The Wasserstein distance of two samples is the cost of the cheapest transport plan between them.

    $$W_1 = \min_\pi \sum_{ij} \pi_{ij}\,|x_i - y_j|$$
    pi has the row sums 1/n and column sums 1/m for samples of sizes n and m. Compared with scipy's linear programme, in
    one dimension and in two; the distance of a sample to itself shifted by d is |d|.
    Source: Peyre & Cuturi (2019), equation 2.11.
    """
    rng = generator(0)
    x, y, z = (torch.randn(n, 2, dtype=F64, generator=rng) for n in (15, 15, 11))
    for a, b in ((x, y), (x, z)):
        sizes, line = f"{len(a)} and {len(b)} points", wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
        yield close(f"W1 of {sizes} in one dimension", line, wasserstein1(a[:, 0], b[:, 0]), 1e-9)
        yield close(
            f"W1 of {sizes} in two dimensions",
            wasserstein_distance_nd(a.numpy(), b.numpy()),
            wasserstein1(a, b),
            1e-9,
        )
    yield close("W1 of a sample and itself shifted by (3, 4)", 5.0, wasserstein1(x, x + f64([3.0, 4.0])), 1e-9)


def strips(theta: float) -> tuple[Uniform, Uniform]:
    """Uniform on strips of width 0.1, theta apart."""
    return Uniform(f64(0.0), f64(0.1)), Uniform(f64(theta), f64(theta) + 0.1)


@law("wasserstein/parallel-lines")
def parallel_lines(_: float) -> Claims:
    r"""For disjoint supports every f-divergence is constant, but the Wasserstein distance decreases with their gap.

    $$W_1(\theta) = |\theta|, \quad JS(\theta) = \log 2 \text{ for every } \theta \ne 0$$
    Real data on the line x = 0, generated data on x = theta. A steep enough critic separates them completely, however
    near they are: JS = log 2, with derivative 0 in theta, and the saturating generator loss has no gradient. All mass
    is transported by |theta|: W1 has derivative 1.
    Source: Arjovsky et al. (2017), example 1.
    """
    height = torch.linspace(0, 1, 24, dtype=F64)[:, None]
    for theta in (2.0, 0.5, 0.11):
        at = f64(theta).requires_grad_()
        real, fake = torch.cat([0 * height, height], 1), torch.cat([at.expand(24, 1), height], 1)
        between = wasserstein1(real, fake)
        yield close(f"W1 at theta = {theta:g}", theta, between, 1e-9)
        yield close(f"derivative of W1 at theta = {theta:g}", 1.0, torch.autograd.grad(between, at)[0], 1e-9)
        for name, most in (("jensen-shannon", math.log(2)), ("total-variation", 1.0), ("le-cam", 2.0)):
            found = float(divergence(name, *strips(theta)))
            yield close(f"{name} of strips of width 0.1 at distance {theta:g}", most, found, 1e-8)
        logits = 200 / theta * (theta / 2 - fake[:, 0])  # a critic: 100 at real points, -100 at generated ones
        (left,) = torch.autograd.grad(MarginGame(logistic, "saturating").generator(None, logits).mean(), at)
        yield bounded(f"gradient of the generator at theta = {theta:g}", left.abs(), 1e-30, relation="at most")


@parallel_lines.drawn
def _separation() -> str:
    apart = np.linspace(0.0, 0.3, 31).tolist()
    rows = {
        "Jensen-Shannon / log 2": [float(divergence("jensen-shannon", *strips(v))) / math.log(2) for v in apart],
        "Hellinger, squared": [float(divergence("hellinger", *strips(v))) for v in apart],
        "Wasserstein / 0.3": [v / 0.3 for v in apart],
    }
    return plots.curves(apart, rows, title="Distances of strips of width 0.1", xlabel="separation", markers=False)


@law("wasserstein/lipschitz-critic")
def lipschitz_critic(_: float) -> Claims:
    r"""Over critics of Lipschitz constant 1, the minimum of the WGAN critic's loss is minus the Wasserstein distance.

    $$W_1 = \max_{|D'| \le 1} E\,D(x) - E\,D(G(z))$$
    In one dimension $W_1 = \int |F_p - F_q|$ for distribution functions F_p of the data and F_q of the generator, and
    the critic with derivative sign(F_q - F_p) attains the maximum. Without the constraint there is none: twice the
    critic has twice the value.
    Source: Villani (2009), equation 5.11 (Kantorovich-Rubinstein); Arjovsky et al. (2017), equation 2.
    """
    rng, game = generator(1), WassersteinGame()
    x, y = torch.randn(40, dtype=F64, generator=rng), 0.7 + 1.5 * torch.randn(40, dtype=F64, generator=rng)
    edges = torch.cat([x, y]).sort().values
    p, q = ((v[:, None] <= edges[:-1]).double().mean(0) for v in (x, y))
    exact = float(((p - q).abs() * edges.diff()).sum())
    height = torch.cat([edges.new_zeros(1), ((q - p).sign() * edges.diff()).cumsum(0)])
    best_x, best_y = (height[torch.searchsorted(edges, v)] for v in (x, y))
    yield close("W1 is the integral of |F_p - F_q|", exact, wasserstein1(x, y), 1e-9)
    yield close("loss of the optimal critic", -exact, game.critic(best_x, best_y).mean(), 1e-9)
    yield close("loss of twice that critic", -2 * exact, game.critic(2 * best_x, 2 * best_y).mean(), 1e-9)
    slope = game.generator(None, y.clone()).sum() / y.sum()
    yield close("derivative of the generator's loss with respect to the critic's output", -1.0, slope, 1e-9)
    critics: dict[str, Callable[[Tensor], Tensor]] = {"x": torch.clone, "sin x": torch.sin, "|x|": torch.abs}
    for name, critic in (critics | {"-x": torch.neg, "softplus x": nn.functional.softplus}).items():
        gain = -game.critic(critic(x), critic(y)).mean()
        yield bounded(f"minus the loss of the critic {name}, against W1", gain, exact, 1e-12, relation="at most")


@law("instance-noise/overlap")
def noise_overlaps(precision: float) -> Claims:
    r"""Instance noise on real and generated data makes their supports overlap, so that divergences have a gradient.

    $$\delta_0 * N(0, \sigma^2),\ \delta_\theta * N(0, \sigma^2):\quad H^2 = 1 - e^{-\theta^2/8\sigma^2}$$
    Points at 0 and theta become Gaussians, whose squared Hellinger distance H^2 is known.
    Source: Sonderby et al. (2017), section 3.2; Arjovsky & Bottou (2017), section 3.
    """
    n, sigma = draws(40_000, precision), 0.4
    noised = instance_noise(torch.full((n, 1), 3.0, dtype=F64), sigma, generator(0))[:, 0]
    yield mean_is("mean of the noised point 3", 3.0, noised)
    yield mean_is("variance of the noised point 3", sigma**2, (noised - 3) ** 2)
    for theta in (0.1, 1.0):
        exact = 1 - math.exp(-(theta**2) / (8 * sigma**2))
        found = float(divergence("hellinger", normal(0.0, sigma), normal(theta, sigma)))
        yield close(f"squared Hellinger distance for theta = {theta:g}", exact, found, 1e-9)


# modes ----------------------------------------------------------------------------------------------------------------


def packed(masses: Tensor, m: int) -> Categorical:
    """The distribution of packs of m values, by `pack`."""
    every = torch.tensor(list(itertools.product(range(len(masses)), repeat=m))).reshape(-1, 1)
    return Categorical(masses[pack(every.double(), m).long()].prod(1))


UNIFORM, LOST, TILTED = f64([[1 / 4] * 4, [1 / 3, 1 / 3, 1 / 3, 0.0], [1 / 2, 1 / 4, 1 / 8, 1 / 8]])


@law("packing/lost-mode")
def lost_mode(_: float) -> Claims:
    r"""A critic of packs of m examples compares p^m with q^m, in which a lost mode is easier to detect.

    $$TV(p^m, q^m) = 1 - (1 - 1/K)^m \text{ if } q \text{ lost one of } K \text{ modes}$$
    Let p be uniform over K modes and q over K - 1 of them. Packs without the lost mode have mass $(1 - 1/K)^m$ under
    p, and each of them has more under q: this is the common mass. All 4^m packs are counted. The affinity
    $\sum_x \sqrt{pq}$ of packs is the m-th power of that of examples.
    Source: Lin et al. (2018), section 2 and theorem 1.
    """
    for m in (1, 2, 3, 4):
        p, q, tilted = (packed(v, m) for v in (UNIFORM, LOST, TILTED))
        lost, hellinger = float(divergence("total-variation", p, q)), float(divergence("hellinger", p, tilted))
        yield close(f"total variation, one of 4 modes lost, packs of {m}", 1 - 0.75**m, lost, 1e-9)
        affinity = float((UNIFORM * TILTED).sqrt().sum()) ** m
        yield close(f"affinity of unequal with uniform modes, packs of {m}", affinity, 1 - hellinger, 1e-9)
    x = torch.arange(6 * 2 * 3.0).reshape(6, 2, 3)
    yield close("a pack concatenates neighbours along the channels", torch.cat([x[2], x[3]]), pack(x, 2)[1], 0.0)


@lost_mode.drawn
def _packs() -> str:
    sizes, modes = [1, 2, 3, 4, 5], {"one of four modes lost": LOST, "none lost, equally far from uniform": TILTED}
    rows = {
        name: [float(divergence("total-variation", packed(UNIFORM, m), packed(q, m))) for m in sizes]
        for name, q in modes.items()
    }
    return plots.curves(sizes, rows, title="Total variation seen by a critic of packs", xlabel="examples per pack")


class Modes(Objective):
    """A GAN over K modes in exact expectation: the generator has a probability, the critic a logit for each mode."""

    def __init__(self, data: Tensor, critic_steps: int):
        super().__init__()
        self.data, self.model = data, nn.Module()
        start = 0.01 * torch.cos(torch.arange(len(data), dtype=data.dtype))  # almost uniform
        self.logits, self.critic = nn.Parameter(start), nn.Parameter(torch.zeros_like(data))
        self.model.logits = self.logits
        self.loss = MarginGame(logistic, "non-saturating")
        self.phases = (Phase(("critic",), repeats=critic_steps), Phase(("generator",)))

    def players(self) -> Mapping[str, Any]:
        return {"critic": [self.critic], "generator": [self.logits]}

    def forward(self, players: tuple[str, ...], batch: Mapping[str, Tensor], step: int) -> Mapping[str, Loss]:
        shares, d = torch.softmax(self.logits, 0), self.critic
        critic = (self.data * self.loss.loss(d) + shares * self.loss.loss(-d)).sum()
        losses = {"critic": critic, "generator": (shares * self.loss.generator(None, d)).sum()}
        return {name: Loss.of(losses[name]) for name in players}


def play(data: Tensor, critic_steps: int, generator_rate: float, steps: int) -> Tensor:
    """Shares of the modes after each step, (steps, K)."""
    game = Modes(data, critic_steps)
    state, path = started(game, {"critic": 8.0, "generator": generator_rate}), []
    for _ in range(steps):
        train_step(state, itertools.repeat({}))
        path.append(torch.softmax(game.logits.detach(), 0))
    return torch.stack(path)


EVEN, UNEVEN = torch.full((8,), 1 / 8, dtype=F64), f64([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
FAST, SLOW = (1, 200.0), (2, 8.0)  # critic updates a step, the generator's learning rate


@law("errata/mode-collapse")
def mode_collapse(_: float) -> Claims:
    r"""Modes can collapse on balanced data: the cause is a generator that moves too far between the critic's updates.

    $$\arg\min_{p_g} E_{p_g}\,l(D) = \delta_{\arg\max D} \text{ for a fixed critic, whatever the data}$$
    Against a fixed critic D the best generator puts all its mass where D is largest. With a large learning rate it
    ends on one of eight equally likely modes, where its gradient vanishes. With a critic that is nearly optimal at
    every update the same game finds balanced and imbalanced data. In exact expectation, without sampling.
    Source: Goodfellow (2016), section 5.1.1; Metz et al. (2017), section 2.2.
    """
    fast = play(EVEN, *FAST, 60)[-1]
    yield bounded("fast generator, balanced data: largest mode probability", fast.max(), 0.99, relation="at least")
    reached = divergence("total-variation", Categorical(EVEN), Categorical(fast))
    yield close("fast generator, balanced data: total variation to the data", 7 / 8, float(reached), 0.01)
    for name, data in (("balanced", EVEN), ("imbalanced", UNEVEN)):
        yield close(f"slow generator, {name} data: mode probabilities", data, play(data, *SLOW, 60)[-1], 1e-3)


@mode_collapse.drawn
def _collapse() -> str:
    ways = {"fast generator": FAST, "slow generator": SLOW}
    rows = {n: play(EVEN, *how, 30).max(1).values.tolist() for n, how in ways.items()}
    title, steps = "Largest share of eight balanced modes", list(range(1, 31))
    return plots.curves(steps, rows | {"data": [1 / 8] * 30}, title=title, xlabel="steps", markers=False)

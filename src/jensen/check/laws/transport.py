"""What tells distributions of disjoint supports apart: transport, noise on both sides, critics of packs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.stats import wasserstein_distance, wasserstein_distance_nd
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, Uniform

from jensen.adversarial import (
    MarginGame,
    WassersteinGame,
    divergence,
    instance_noise,
    logistic,
    pack,
    wasserstein1,
)
from jensen.check.evidence import Evidence, bounded, close, mean_is
from jensen.check.law import Law, draws, law
from jensen.report import plots

F64 = torch.float64


@law(
    "wasserstein/distance",
    formula=r"W_1 = \min_\pi \sum_{ij} \pi_{ij}\,|x_i - y_j|",
    source="Peyre & Cuturi (2019), equation 2.11",
)
def distance(_: float) -> Iterator[Evidence]:
    """The distance between two samples is that of the cheapest plan, in one dimension and in two, of any sizes.

    Beside scipy's, which solves a linear programme; and a shift costs its length.
    """
    rng = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(n, 2, dtype=F64, generator=rng) for n in (15, 15, 11))
    for a, b in ((x, y), (x, z)):
        line = wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
        yield close(f"{len(a)} and {len(b)} points on a line", line, wasserstein1(a[:, 0], b[:, 0]), 1e-9)
        plane = wasserstein_distance_nd(a.numpy(), b.numpy())
        yield close(f"{len(a)} and {len(b)} points of the plane", plane, wasserstein1(a, b), 1e-9)
    shift = torch.tensor([3.0, 4.0], dtype=F64)
    yield close("a shift by (3, 4)", 5.0, wasserstein1(x, x + shift), 1e-9)


@law(
    "wasserstein/parallel-lines",
    formula=r"W_1(\theta) = |\theta|, \quad JS(\theta) = \log 2 \text{ for every } \theta \ne 0",
    source="Arjovsky et al. (2017), example 1",
)
def parallel_lines(_: float) -> Iterator[Evidence]:
    r"""Between disjoint supports every f-divergence is flat; Wasserstein's distance still falls on the way.

    Real on the line x = 0, generated on x = theta. A critic as steep as it takes parts them wholly: risk 0 however
    near they are, so that JS = log 2 and its slope in theta is 0. Every point must travel |theta|: W1 has slope 1.
    """
    height = torch.linspace(0, 1, 24, dtype=F64)[:, None]
    for theta in (2.0, 0.5, 0.11):
        at = torch.tensor(theta, dtype=F64, requires_grad=True)
        real, fake = torch.cat([0 * height, height], 1), torch.cat([at.expand(24, 1), height], 1)
        between = wasserstein1(real, fake)
        (slope,) = torch.autograd.grad(between, at)
        yield close(f"W1 at {theta:g}", theta, between, 1e-9)
        yield close(f"its slope at {theta:g}", 1.0, slope, 1e-9)
        for name, most in (("jensen-shannon", math.log(2)), ("total-variation", 1.0), ("le-cam", 2.0)):
            found = float(divergence(name, *_strips(theta)))
            yield close(f"{name} of strips of width 0.1, {theta:g} apart", most, found, 1e-8)
        steep = 200 / theta
        told = steep * (theta / 2 - fake[:, 0])  # the critic says -100 of every generated point
        (left,) = torch.autograd.grad(MarginGame(logistic, "saturating").generator(None, told).mean(), at)
        yield bounded(f"what such a critic leaves the generator at {theta:g}", left.abs(), 1e-30, relation="at most")


def _strips(theta: float) -> tuple[Uniform, Uniform]:
    low, high = (torch.tensor(v, dtype=F64) for v in (0.0, theta))
    return Uniform(low, low + 0.1), Uniform(high, high + 0.1)


@parallel_lines.drawn
def _separation() -> str:
    apart = np.linspace(0.0, 0.3, 31).tolist()
    rows: dict[str, Sequence[float]] = {
        "Jensen-Shannon / log 2": [float(divergence("jensen-shannon", *_strips(v))) / math.log(2) for v in apart],
        "Hellinger, squared": [float(divergence("hellinger", *_strips(v))) for v in apart],
        "Wasserstein / 0.3": [v / 0.3 for v in apart],
    }
    title = "Strips of width 0.1: what their distance tells"
    return plots.curves(apart, rows, title=title, xlabel="separation", markers=False)


@law(
    "wasserstein/lipschitz-critic",
    formula=r"W_1 = \max_{|D'| \le 1} E\,D(x) - E\,D(G(z))",
    source="Villani (2009), equation 5.11 (Kantorovich-Rubinstein); Arjovsky et al. (2017), equation 2",
)
def lipschitz_critic(_: float) -> Iterator[Evidence]:
    r"""Over critics of slope at most 1 the least critic's loss is minus the Wasserstein distance.

    On a line $W_1 = \int |F_p - F_q|$, and the critic of slope sign(F_q - F_p) attains it; no other of slope at most
    1 gains more, and over all critics there is no least loss: twice the critic, twice the gain.
    """
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, dtype=F64, generator=rng), 0.7 + 1.5 * torch.randn(40, dtype=F64, generator=rng)
    edges = torch.cat([x, y]).sort().values
    ahead = torch.stack([(v[:, None] <= edges[:-1]).double().mean(0) for v in (x, y)])
    exact = float(((ahead[0] - ahead[1]).abs() * edges.diff()).sum())
    height = torch.cat([edges.new_zeros(1), ((ahead[1] - ahead[0]).sign() * edges.diff()).cumsum(0)])

    def best(v: Tensor) -> Tensor:
        return height[torch.searchsorted(edges, v)]

    game = WassersteinGame()
    yield close("W1 by distribution functions", exact, wasserstein1(x, y), 1e-9)
    yield close("the best critic's loss", -exact, game.critic(best(x), best(y)).mean(), 1e-9)
    yield close("twice that critic's", -2 * exact, game.critic(2 * best(x), 2 * best(y)).mean(), 1e-9)
    yield close("the generator's slope in its logit", -1.0, game.generator(None, y.clone()).sum() / y.sum(), 1e-9)
    others = {
        "x": lambda v: v,
        "-x": lambda v: -v,
        "sin": torch.sin,
        "|x|": torch.abs,
        "softplus": nn.functional.softplus,
    }
    for name, critic in others.items():
        gain = -game.critic(critic(x), critic(y)).mean()
        yield bounded(f"the gain of {name}", gain, exact, 1e-12, relation="at most")


@law(
    "instance-noise/overlap",
    formula=r"\delta_0 * N(0, \sigma^2),\ \delta_\theta * N(0, \sigma^2):\quad H^2 = 1 - e^{-\theta^2/8\sigma^2}",
    source="Sonderby et al. (2017), section 3.2; Arjovsky & Bottou (2017), section 3",
)
def noise_overlaps(precision: float) -> Iterator[Evidence]:
    """Noise on both sides makes supports overlap, and the divergence has a slope again.

    Points at 0 and theta become Gaussians; the affinity of Gaussians of one spread is known.
    """
    n, sigma = draws(40_000, precision), 0.4
    noised = instance_noise(torch.full((n, 1), 3.0, dtype=F64), sigma, torch.Generator().manual_seed(0))[:, 0]
    yield mean_is("its mean", 3.0, noised)
    yield mean_is("its variance", sigma**2, (noised - 3) ** 2)
    for theta in (0.1, 1.0):
        p, q = (Normal(torch.tensor(m, dtype=F64), torch.tensor(sigma, dtype=F64)) for m in (0.0, theta))
        exact = 1 - math.exp(-(theta**2) / (8 * sigma**2))
        yield close(f"Hellinger, {theta:g} apart", exact, float(divergence("hellinger", p, q)), 1e-9)


# packs ----------------------------------------------------------------------------------------------------


def _packed(masses: Tensor, m: int) -> Categorical:
    """Of every pack of m values, by `pack`."""
    every = torch.tensor(list(itertools.product(range(len(masses)), repeat=m))).reshape(-1, 1)
    return Categorical(masses[pack(every.double(), m).long()].prod(1))


UNIFORM = torch.full((4,), 0.25, dtype=F64)
LOST = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0], dtype=F64)
TILTED = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=F64)


@law(
    "packing/lost-mode",
    formula=r"TV(p^m, q^m) = 1 - (1 - 1/K)^m \text{ if } q \text{ lost one of } K \text{ modes}",
    source="Lin et al. (2018), section 2 and theorem 1",
)
def lost_mode(_: float) -> Iterator[Evidence]:
    r"""A critic of packs tells p^m from q^m: a mode that one example hardly betrays shows in m of them.

    Let p be even over K modes and q over K - 1 of them. Packs without the lost mode have mass $(1 - 1/K)^m$ under p,
    less than under q everywhere: that is what they share. All 4^m packs are counted. Affinities multiply.
    """
    for m in (1, 2, 3, 4):
        p, q, tilted = (_packed(v, m) for v in (UNIFORM, LOST, TILTED))
        exact = 1 - 0.75**m
        yield close(f"lost mode, packs of {m}", exact, float(divergence("total-variation", p, q)), 1e-9)
        affinity = float((UNIFORM * TILTED).sqrt().sum()) ** m
        yield close(f"tilted, affinity of packs of {m}", affinity, 1 - float(divergence("hellinger", p, tilted)), 1e-9)
    x = torch.arange(6 * 2 * 3.0).reshape(6, 2, 3)
    yield close("neighbours, along channels", torch.cat([x[2], x[3]]), pack(x, 2)[1], 0.0)


@lost_mode.drawn
def _packs() -> str:
    sizes = [1, 2, 3, 4, 5]
    rows: dict[str, Sequence[float]] = {
        name: [float(divergence("total-variation", _packed(UNIFORM, m), _packed(q, m))) for m in sizes]
        for name, q in (("one of four modes lost", LOST), ("none lost, as far from even", TILTED))
    }
    return plots.curves(sizes, rows, title="Total variation that a critic of packs sees", xlabel="examples a pack")


LAWS: tuple[Law, ...] = (distance, parallel_lines, lipschitz_critic, noise_overlaps, lost_mode)

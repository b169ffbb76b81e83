"""Log p(x) by annealed importance sampling from the prior to the posterior, with Hamiltonian Monte Carlo moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.modes import evaluating
from jensen.core.seeding import drawing
from jensen.core.shapes import check_count, checked
from jensen.variational.importance import MEMORY, Estimate, LogMean, bytes_made, check_data, fits
from jensen.variational.posterior import as_layers, as_vector, latent_events, need_paths
from jensen.variational.trace import LatentModel

ACCEPTED = 0.65  # target acceptance rate, the best cost per independent draw (Neal 2011, section 5.4.4)
PILOTS = 8  # chains of the pilot run
START = 0.5  # initial step size of the pilot run
GAIN = 0.2  # gain of the adaptation of log step sizes
JITTER = 0.2  # relative variation of the step size, so that no trajectory is periodic


@checked
def ais_log_likelihood(
    model: LatentModel,
    x: Float[Tensor, "b ..."],
    steps: int = 500,
    chains: int = 16,
    leapfrog: int = 5,
    generator: torch.Generator | None = None,
    memory: float = MEMORY,
) -> Estimate:
    r"""Log p(x) per datum by annealed importance sampling, in nats, for models without a good proposal.

    Chains start at draws from the prior and pass through $\pi_t(z) \propto p(z)\, p(x|z)^{\beta_t}$,
    $0 = \beta_0 < \dots < \beta_T = 1$, with one Hamiltonian move that leaves $\pi_t$ invariant at each. The weight of
    a chain is $\prod_t p(x|z_{t-1})^{\beta_t - \beta_{t-1}}$, and $E w = p(x)$ exactly, however badly the chains mix. A
    pilot run of 8 chains chooses step sizes per datum and temperature for an acceptance rate of 65%; the final chains
    are new and keep these step sizes, so that the adaptation causes no bias. The model is in evaluation mode.

    Args:
        model: model with reparameterized latents on all of $R^d$.
        x: data, (B, ...); all data of a chunk and all chains are processed at once.
        steps: number T of temperatures after the prior, at least 1 (which is importance sampling from the prior).
        chains: number of weights per datum, at least 1; at least 2 for a standard error.
        leapfrog: number of leapfrog steps per move, at least 1; a run costs about (chains + 8) T leapfrog gradients per
            datum.
        generator: random generator of all draws; None for torch's global one.
        memory: MiB for the tensors of one move of a chunk, counted as if none were freed; a chunk has at least one
            datum.

    Returns:
        value, standard error, effective number of chains and, with at least 100 chains, the Pareto k of their weights,
        per datum.

    Raises:
        ValueError: for steps, chains or leapfrog below 1, no data, latents without a gradient, or a prior that cannot
            be sampled.

    Source: Neal (2001), equations 3 to 11; Wu et al. (2017) for the sigmoid temperatures and the use with decoders
        (they adapt step sizes within the final chains, which this function does not).

    >>> from jensen.core.seeding import generator
    >>> from jensen.variational import LinearGaussian
    >>> model, x = LinearGaussian([[1.0]], [0.0], 0.01), torch.tensor([[0.0], [2.0]])
    >>> estimate = ais_log_likelihood(model, x, steps=50, generator=generator(0))
    >>> bool(((estimate.value - model.log_prob(x)).abs() < 3 * estimate.stderr).all())
    True
    """
    check_count(steps=steps, chains=chains, leapfrog=leapfrog)
    check_data(x)
    need_paths("annealed importance sampling", model, x[:1])
    betas = temperatures(steps).tolist()
    most = max(chains, PILOTS)
    pieces = []
    with evaluating(model):
        size = bytes_made(lambda: _one_move(model, x[:1], most), x)
        for part in x.split(fits(memory * 2**20, size)):
            with drawing(generator):
                tempered = _Tempered(model, part)
                sizes = _pilot(tempered, betas, leapfrog)
                log_w = _anneal(tempered, betas, sizes, chains, leapfrog)
            pieces.append(LogMean.of(log_w).estimate(model.measure))
    return Estimate.joined(pieces, like=x)


def temperatures(steps: int) -> Float[Tensor, " t"]:
    r"""$\beta_0 = 0, \dots, \beta_T = 1$, float64, dense at both ends: a sigmoid from -4 to 4, rescaled.

    Source: Wu et al. (2017), section 4 and appendix.

    >>> temperatures(2)
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    s = torch.sigmoid(torch.linspace(-4, 4, steps + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


@dataclass(frozen=True)
class _State:
    """Positions of the chains (K, B, M), with both log densities (K, B) and their gradients (K, B, M)."""

    z: Tensor
    log_prior: Tensor
    log_px: Tensor
    slope_prior: Tensor
    slope_px: Tensor

    def log_density(self, beta: float) -> Tensor:
        return self.log_prior + beta * self.log_px

    def slope(self, beta: float) -> Tensor:
        return self.slope_prior + beta * self.slope_px

    def where(self, accepted: Tensor, other: _State) -> _State:
        """Per chain, this state if it was accepted, otherwise the other state."""
        flat = accepted[..., None]
        return _State(
            torch.where(flat, self.z, other.z),
            torch.where(accepted, self.log_prior, other.log_prior),
            torch.where(accepted, self.log_px, other.log_px),
            torch.where(flat, self.slope_prior, other.slope_prior),
            torch.where(flat, self.slope_px, other.slope_px),
        )


class _Tempered:
    """The model given x, as a function of all latents in one vector."""

    def __init__(self, model: LatentModel, x: Tensor):
        self.model, self.x, self.events = model, x, latent_events(model)

    def start(self, chains: int) -> _State:
        return self.at(as_vector(self.model.prior_sample((chains, len(self.x)))))

    def at(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            layers = as_layers(z, self.events)
            log_prior, log_px = self.model.log_prior(layers), self.model.log_px(self.x, layers)
            (slope_prior,) = torch.autograd.grad(log_prior.sum(), z, retain_graph=True)
            (slope_px,) = torch.autograd.grad(log_px.sum(), z)
        return _State(z.detach(), log_prior.detach(), log_px.detach(), slope_prior, slope_px)


def _move(tempered: _Tempered, state: _State, beta: float, size: Tensor, leapfrog: int) -> tuple[_State, Tensor]:
    """One Metropolis-adjusted Hamiltonian move of every chain, and the probability (K, B) of accepting it.

    Source: Neal (2011), section 5.3.2.
    """
    size = (size * (1 + JITTER * (2 * torch.rand_like(state.log_px) - 1)))[..., None]
    momentum = torch.randn_like(state.z)
    new, p = state, momentum
    for _ in range(leapfrog):
        p = p + size / 2 * new.slope(beta)
        new = tempered.at(new.z + size * p)
        p = p + size / 2 * new.slope(beta)
    kinetic = (momentum.square() - p.square()).sum(-1) / 2
    ratio = new.log_density(beta) - state.log_density(beta) + kinetic
    ratio = torch.where(ratio.isnan(), -math.inf, ratio)  # reject trajectories that diverged
    return new.where(torch.rand_like(ratio).log() < ratio, state), ratio.clamp_max(0).exp()


def _pilot(tempered: _Tempered, betas: list[float], leapfrog: int) -> list[Tensor]:
    """Step sizes (B,) for each inner temperature, adapted to the target acceptance rate."""
    state, sizes = tempered.start(PILOTS), []
    size = state.log_px.new_full((len(tempered.x),), START)
    for beta in betas[1:-1]:
        state, accepted = _move(tempered, state, beta, size, leapfrog)
        size = size * (GAIN * (accepted.mean(0) - ACCEPTED)).exp()
        sizes.append(size)
    return sizes


def _anneal(
    tempered: _Tempered, betas: list[float], sizes: list[Tensor], chains: int, leapfrog: int
) -> Float[Tensor, "k b"]:
    """Log weights of new chains, float64."""
    state = tempered.start(chains)
    rises = [after - before for before, after in pairwise(betas)]
    log_w = rises[0] * state.log_px.double()
    for beta, rise, size in zip(betas[1:-1], rises[1:], sizes, strict=True):
        state, _ = _move(tempered, state, beta, size, leapfrog)
        log_w += rise * state.log_px
    return log_w


def _one_move(model: LatentModel, x: Tensor, chains: int) -> None:
    """One move with a single leapfrog step, to measure its memory; later steps reuse it."""
    tempered = _Tempered(model, x)
    state = tempered.start(chains)
    _move(tempered, state, 1.0, torch.ones_like(state.log_px[0]), leapfrog=1)

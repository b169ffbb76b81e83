"""Laws of diffusion that mutations asked for: what the others let escape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, close, means_are
from jensen.check.law import Law, draws, law
from jensen.diffusion import CosineSchedule, Denoiser, GaussianOracle, ImplicitProcess, Prediction, Process
from jensen.diffusion.samplers import Ancestral, AnnealedLangevin

F64 = torch.float64


@law(
    "process/implicit-forward",
    formula=r"q_\sigma(z_t | z_s, x)\, q(z_s | x) = q_\sigma(z_s | z_t, x)\, q(z_t | x)",
    source="Song et al., DDIM (2021), equation 8",
)
def implicit_forward(_: float) -> Iterator[Evidence]:
    """DDIM's processes run forwards by Bayes' rule, and their marginals are those of the Markov chain.

    Both sides are the joint density of two neighbouring levels given x, whatever the deviation of the way down.
    """
    rng = torch.Generator().manual_seed(0)
    x, low, high = torch.randn(3, 5, 1, dtype=F64, generator=rng)
    times = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    for eta in (0.3, 1.0):
        family = ImplicitProcess.of_eta(CosineSchedule(), times, eta)
        for level in (1, 2):
            down = family.backward(high, x, level).log_prob(low) + family.marginal(x, level).log_prob(high)
            up = family.forward(low, x, level).log_prob(high) + family.marginal(x, level - 1).log_prob(low)
            yield close(f"joint density at level {level}, eta = {eta}", down, up, 1e-9)


class _Sure(Denoiser):
    """The exact denoiser, with a fraction of the way between two variances."""

    def __init__(self, fraction: float):
        super().__init__()
        self.oracle = GaussianOracle(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64), CosineSchedule())
        self.schedule, self.null, self.fraction = self.oracle.schedule, None, fraction

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        found: Prediction = self.oracle(z_t, t, cond)
        return replace(found, fraction=torch.full_like(z_t, self.fraction))


@law(
    "samplers/learned-variance",
    formula=r"\log d^2 = f \log \sigma_{t|s}^2 + (1 - f) \log \tilde\sigma^2",
    source="Nichol & Dhariwal (2021), equation 15",
)
def learned_variance(precision: float) -> Iterator[Evidence]:
    """A learned variance lies between the posterior's and the forward one's, on a scale of logarithms.

    The fraction f is 0 at the posterior's and 1 at the forward one's; draws of one step from one point.
    """
    t, s = torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64)
    n = draws(20_000, precision)
    for f in (0.0, 0.3, 1.0):
        denoiser, z = _Sure(f), torch.full((n, 1), 0.8, dtype=F64)
        rng = torch.Generator().manual_seed(0)
        low, _ = Ancestral("learned").step(denoiser, z, t, s, None, generator=rng)
        process = Process(denoiser.schedule)
        known = process.posterior(z[:1], denoiser(z[:1], t.expand(1)).x, s, t)
        forward = process.transition(s, t)[1]
        square = forward ** (2 * f) * known.stddev[0, 0] ** (2 * (1 - f))
        yield means_are(f"variance of a step, f = {f}", square.reshape(1), (low - known.mean).square())


@law(
    "samplers/annealed-carry",
    formula=r"z_s = \frac{\alpha_s}{\alpha_t}\,z_t \text{ and Langevin moves at } s",
    source="Song & Ermon (2019), algorithm 1, where alpha = 1",
)
def annealed_carry(_: float) -> Iterator[Evidence]:
    """Annealed Langevin carries a sample to the next level by the factor of its data, and only then moves it.

    With a step size that moves nothing what is left is the factor, which is not 1 where variance is preserved.
    """
    denoiser, z = _Sure(0.0), torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    for first, second in ((0.7, 0.4), (0.3, 0.1)):
        t, s = (torch.tensor(v, dtype=F64) for v in (first, second))
        moved, _ = AnnealedLangevin(moves=1, step_size=1e-24).step(denoiser, z, t, s, None)
        factor = math.cos(math.pi * second / 2) / math.cos(math.pi * first / 2)
        yield close(f"from t = {first} to {second}", factor * z, moved, 1e-9)


LAWS: tuple[Law, ...] = (implicit_forward, learned_variance, annealed_carry)

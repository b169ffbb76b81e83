"""Langevin dynamics on many chains at once: unadjusted, without noise, adjusted, annealed. Each row is a chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count, checked, right_pad
from jensen.score.matching import NoisyScore, Score, score_at

OnStep = Callable[[int, Tensor], None]
LogProb = Callable[[Tensor], Tensor]
"""Maps x (B, ...) to log p(x) + constant, (B,); each output row depends on that row of x alone."""


def score_of(log_prob: LogProb) -> Score:
    """The gradient of `log_prob` with respect to its argument, by autograd; the result carries no gradient.

    The argument need not be data: for a log-likelihood as a function of parameters (one set per row) it is the gradient
    with respect to the parameters, and `langevin` then samples or optimises parameters.

    >>> score_of(lambda x: -x.square().sum(1) / 2)(torch.tensor([[3.0, 1.0]]))
    tensor([[-3., -1.]])
    """

    @checked
    def score(x: Float[Tensor, "b ..."]) -> Tensor:
        return _value_and_score(log_prob, x)[1]

    return score


@torch.no_grad()
@checked
def langevin(
    score: Score,
    x: Float[Tensor, "b ..."],
    step_size: float,
    steps: int,
    noise: bool = True,
    *,
    generator: Rng = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b ..."]:
    r"""Unadjusted Langevin, $x \leftarrow x + \delta\, \nabla \log p(x) + \sqrt{2\delta}\, n$.

    After k steps the diffusion's time is $k\delta$. The stationary law is p up to order delta: for N(0, v) it is a
    Gaussian of variance $v / (1 - \delta / 2v)$, and for $\delta \ge 2v$ the chain diverges. Without noise this is
    gradient ascent to the mode of p in whose basin x starts: it maximises log p over x for a fixed density, as maximum
    likelihood maximises it over the parameters for fixed data.

    Args:
        score: the gradient of log p.
        x: (B, ...), where the B chains start.
        step_size: step size delta, positive.
        steps: number of steps, at least 1.
        noise: False for gradient ascent.
        generator: None, one, or one per row: then a row is a function of its generator and its start alone.
        on_step: called with (steps done, x) after each.

    Returns:
        (B, ...), their final positions, without a gradient.

    Raises:
        ValueError: for a step size that is not positive, steps < 1, or a score whose shape is not that of x.

    Source: Roberts & Tweedie (1996), equation 2 (ULA); Welling & Teh (2011) for parameters.

    An example with log N(x; m, 1), maximised over x from two starts, and over m for the data 1, 2 and 6:

    >>> in_x = score_of(lambda x: -(x[:, 0] - 5.0) ** 2 / 2)
    >>> langevin(in_x, torch.tensor([[0.0], [9.0]]), 0.5, 60, noise=False).tolist()
    [[5.0], [5.0]]
    >>> data = torch.tensor([1.0, 2.0, 6.0])
    >>> in_m = score_of(lambda m: -(data - m).square().mean(1) / 2)
    >>> langevin(in_m, torch.zeros(1, 1), 0.5, 60, noise=False).tolist()
    [[3.0]]
    """
    _check(step_size, steps)
    for k in range(steps):
        x = x + step_size * score_at(score, x)
        if noise:
            x = x + math.sqrt(2 * step_size) * normal(x.shape, generator, like=x)
        if on_step is not None:
            on_step(k + 1, x)
    return x


@torch.no_grad()
@checked
def annealed_langevin(
    score: NoisyScore,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " levels"],
    step_size: float,
    steps: int,
    *,
    generator: Rng = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b ..."]:
    r"""Langevin dynamics at one noise level after another, with step sizes $\delta_i = \mathrm{step\_size} \cdot
    \sigma_i^2$.

    `annealed_variance` gives in closed form how far from equilibrium it ends for Gaussian data with the exact score.

    Args:
        score: s(x, sigma) of noise levels (B,).
        x: (B, ...), drawn at about the first noise level.
        sigmas: (levels,), positive and decreasing; see `geometric`.
        step_size: step size in units of sigma^2, positive. (In terms of Song & Ermon's epsilon, $\epsilon /
            2\sigma_L^2$.)
        steps: number of steps at each level, at least 1.
        generator: None, one, or one per row.
        on_step: called with (steps done in all, x) after each.

    Returns:
        (B, ...): draws of the density noised by the last sigma; `tweedie` removes that noise.

    Raises:
        ValueError: for levels that are not positive and decreasing, a step size that is not positive, or steps < 1.

    Source: Song & Ermon (2019), algorithm 1.

    >>> x = torch.zeros(4, 1, dtype=torch.float64)
    >>> law = lambda x, sigma: (7.0 - x) / (0.01 + sigma[:, None] ** 2)  # of N(7, 0.01)
    >>> x = annealed_langevin(law, x, geometric(10.0, 0.01, 9), 0.1, 50, generator=torch.Generator().manual_seed(0))
    >>> bool(((x - 7).abs() < 0.5).all())
    True
    """
    _check_sigmas(sigmas)
    _check(step_size, steps)
    for level, sigma in enumerate(sigmas.to(x)):

        def report(k: int, x: Tensor, level: int = level) -> None:
            if on_step is not None:
                on_step(level * steps + k, x)

        rows = sigma.expand(len(x))
        x = langevin(
            lambda x, rows=rows: score(x, rows),  # type: ignore[misc]
            x,
            step_size * float(sigma) ** 2,
            steps,
            generator=generator,
            on_step=report,
        )
    return x


@checked
def annealed_variance(
    variance: Float[Tensor, "*s"],
    sigmas: Float[Tensor, " levels"],
    step_size: float,
    steps: int,
    *,
    start: float | None = None,
    denoise: bool = True,
) -> Float[Tensor, "*s"]:
    r"""The exact variance of samples of `annealed_langevin` for N(0, v) with the exact score: the sampler's error.

    At a level of variance $u = \sigma^2$, with a = step_size and T = steps, $V \leftarrow V^* + r^{2T} (V - V^*)$, $r =
    1 - a u / (v + u)$, $V^* = (v + u) / (1 - a u / 2(v + u))$; `tweedie` at the end multiplies it by $v^2 / (v +
    \sigma_L^2)^2$. The equilibrium is $v^2 / (v + \sigma_L^2)$, or $v + \sigma_L^2$ without `tweedie`. Directions that
    are wide compared with the level converge slowly: the remainder of earlier levels makes V too large by a fraction of
    about $\log(\sigma_1 / \sigma_L) / (a L T)$ of v, for every v, so what matters is the product of step size and
    evaluations. A larger a makes the variance of directions narrower than the level too large.

    Args:
        variance: v, the variance of the data in each direction, positive.
        sigmas: (levels,), positive and decreasing.
        step_size: step size a in units of sigma^2, below 2, where chains begin to diverge.
        steps: number T of steps at each level, at least 1.
        start: variance at the start; None: $1 + \sigma_1^2$.
        denoise: whether sampling ends with `tweedie`.

    Returns:
        with the shape of `variance`, float64.

    Raises:
        ValueError: for variances that are not positive, levels that are not positive and decreasing, a step size that
            is not positive, or steps < 1.

    Source: the linear recursion of Roberts & Tweedie (1996), section 1.4.1, level after level.

    >>> ladder = geometric(20.0, 0.1, 16)  # equilibrium is 0.99
    >>> one = torch.ones((), dtype=torch.float64)
    >>> [round(float(annealed_variance(one, ladder, a, steps)), 3) for a, steps in ((0.1, 10), (0.5, 20))]
    [1.556, 1.036]
    """
    _check_sigmas(sigmas)
    _check(step_size, steps)
    v = variance.double()
    if not bool((v > 0).all() & v.isfinite().all()):
        raise ValueError(f"variance must be positive, got {float(v.min()):g}")
    levels = sigmas.double().square()
    found = torch.full_like(v, 1 + float(levels[0]) if start is None else start)
    for u in levels.to(v):
        share = step_size * u / (v + u)
        settled = (v + u) / (1 - share / 2)
        found = settled + (1 - share) ** (2 * steps) * (found - settled)
    return found * (v / (v + levels[-1].to(v))) ** 2 if denoise else found


def geometric(largest: float, smallest: float, levels: int) -> Float[Tensor, " levels"]:
    r"""Noise levels that decrease by equal ratios, (levels,), float64.

    Args:
        largest, smallest: 0 < smallest < largest; they may be equal for one level.
        levels: number of levels, at least 1; a single level is `smallest`.

    Raises:
        ValueError: for a number out of its range.

    Source: Song & Ermon (2019), section 4.2.

    >>> geometric(4.0, 1.0, 3).tolist()
    [4.0, 2.0, 1.0]
    """
    check_count(levels=levels)
    if not 0 < smallest < largest and not (levels == 1 and 0 < smallest == largest):
        raise ValueError(f"sigmas must satisfy 0 < smallest < largest, got {smallest} and {largest}")
    share = torch.linspace(0, 1, levels, dtype=torch.float64) if levels > 1 else torch.ones(1, dtype=torch.float64)
    return largest * (smallest / largest) ** share


@checked
def tweedie(score: Score, x: Float[Tensor, "b ..."], sigma: float) -> Float[Tensor, "b ..."]:
    r"""The mean of the clean data point given the noised one, $x + \sigma^2 \nabla \log q_\sigma(x)$.

    Source: Efron (2011), equation 1.3; Jolicoeur-Martineau et al. (2021), section 3.1, as the last step of sampling.

    >>> tweedie(lambda x: -x / 2, torch.tensor([[3.0]]), 1.0)  # N(0, 1) noised by 1
    tensor([[1.5000]])
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    return x + sigma**2 * score_at(score, x)


@dataclass(frozen=True)
class Chains:
    """The final state of Metropolis-adjusted chains.

    Attributes:
        x: (B, ...), their final positions.
        acceptance: (B,), the fraction of accepted moves after the warm-up.
        step_size: (B,), step size of each chain after the warm-up.
    """

    x: Tensor
    acceptance: Float[Tensor, " b"]
    step_size: Float[Tensor, " b"]


@torch.no_grad()
@checked
def mala(
    log_prob: LogProb,
    x: Float[Tensor, "b ..."],
    step_size: float | Tensor,
    steps: int,
    *,
    warmup: int = 0,
    target: float = 0.574,
    generator: Rng = None,
    on_step: OnStep | None = None,
) -> Chains:
    r"""Metropolis-adjusted Langevin: a step of `langevin` is a proposal, accepted with a probability that keeps p
    invariant.

    $\log a = \log p(y) - \log p(x) + \log q(x|y) - \log q(y|x)$, $q(y|x) = N(x + \delta \nabla\log p(x), 2\delta I)$.
    During the warm-up each chain adapts its step size, by stochastic approximation, towards the acceptance rate
    `target`; the draws of the warm-up are discarded.

    Args:
        log_prob: log p up to a constant, differentiable in x; proposals where it is not finite are rejected.
        x: (B, ...), where the B chains start.
        step_size: step size delta, positive, a number or one per chain, (B,); with a warm-up, its initial value.
        steps: number of steps after the warm-up, at least 1.
        warmup: number of steps of the warm-up, at least 0.
        target: acceptance rate, in (0, 1); 0.574 is optimal in high dimensions.
        generator: None, one, or one per row: then a row is a function of its generator and its start alone.
        on_step: called with (steps done, x) after each step that is kept.

    Returns:
        position, acceptance rate and step size of each chain.

    Raises:
        ValueError: for a number out of its range, log_prob values that are not (B,), or a start where they are not
            finite.

    Source: Roberts & Tweedie (1996), section 1.4.2; Roberts & Rosenthal (1998) for 0.574; Robbins & Monro (1951) and
    Andrieu & Thoms (2008), section 4.2, for the adaptation.

    >>> rng, x = torch.Generator().manual_seed(0), torch.zeros(500, 1)
    >>> chains = mala(lambda x: -x.square().sum(1) / 2, x, 0.1, 50, warmup=200, generator=rng)
    >>> abs(float(chains.acceptance.mean()) - 0.574) < 0.02
    True
    """
    sizes = torch.as_tensor(step_size, dtype=x.dtype, device=x.device)
    if sizes.shape not in ((), x.shape[:1]):
        raise ValueError(f"step_size must be a number or one per chain, {len(x)}, got {tuple(sizes.shape)}")
    _check(float(sizes.min()), steps)
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0, got {warmup}")
    if not 0 < target < 1:
        raise ValueError(f"target must be in (0, 1), got {target}")
    value, s = _value_and_score(log_prob, x)
    if not bool(torch.isfinite(value).all()):
        raise ValueError("every chain must start where log_prob is finite")
    delta, accepted = sizes.expand(len(x)), torch.zeros_like(value)
    adapted = _Adapted(delta, target, warmup)
    for k in range(warmup + steps):
        d = right_pad(delta, x)
        y = x + d * s + torch.sqrt(2 * d) * normal(x.shape, generator, like=x)
        value_y, s_y = _value_and_score(log_prob, y)
        forth, back = (
            ((b - a - d * s_a).square() / (4 * d)).flatten(1).sum(1) for a, b, s_a in ((x, y, s), (y, x, s_y))
        )
        log_ratio = value_y - value + forth - back
        log_ratio = torch.where(torch.isfinite(log_ratio), log_ratio, -math.inf)
        log_uniform = torch.special.log_ndtr(normal(value.shape, generator, like=value))
        lead = log_ratio - log_uniform
        taken, rows = lead > 0, right_pad(lead, x) > 0
        x, s = torch.where(rows, y, x), torch.where(rows, s_y, s)
        value = torch.where(taken, value_y, value)
        if k < warmup:
            delta = adapted.update(log_ratio.clamp(max=0).exp())
            continue
        accepted += taken
        if on_step is not None:
            on_step(k + 1 - warmup, x)
    return Chains(x, accepted / steps, delta)


class _Adapted:
    r"""Step sizes with the acceptance rate `target`, per chain: $\log\delta$ moves by $3\, t^{-0.6} (a_t - target)$.

    The result is the mean of log delta over the second half. (For a target of 0.574, Hoffman & Gelman's dual averaging
    was measured to give rates of 0.60 to 0.67 after a few hundred moves; this gives 0.58 from any start.)
    """

    RATE, DECAY = 3.0, 0.6

    def __init__(self, start: Tensor, target: float, steps: int):
        self.target, self.steps, self.t = target, steps, 0
        self.log_step, self.sum = start.log(), torch.zeros_like(start)

    def update(self, acceptance: Tensor) -> Tensor:
        """The next step size, given the acceptance probability of the last move; at the end, the mean."""
        self.t += 1
        self.log_step = self.log_step + self.RATE * self.t**-self.DECAY * (acceptance - self.target)
        half = self.steps // 2
        if self.t > half:
            self.sum = self.sum + self.log_step
        return (self.sum / (self.steps - half) if self.t == self.steps else self.log_step).exp()


def _value_and_score(log_prob: LogProb, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = log_prob(x)
        if value.shape != x.shape[:1]:
            raise ValueError(f"log_prob must give one number per row, {(len(x),)}, got {tuple(value.shape)}")
        (score,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), score


def _check_sigmas(sigmas: Tensor) -> None:
    if not len(sigmas) or not bool((sigmas > 0).all()) or not bool((sigmas.diff() < 0).all()):
        raise ValueError("sigmas must be positive and decreasing")


def _check(step_size: float, steps: int) -> None:
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive, got {step_size}")
    check_count(steps=steps)

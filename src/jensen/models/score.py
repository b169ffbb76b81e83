"""A score model: the score of data noised at a ladder of levels, sampled by annealed Langevin or as a diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng
from jensen.core.shapes import checked, right_pad
from jensen.diffusion import SAMPLERS, Denoiser, Prediction, VarianceExploding
from jensen.models.chunks import Chunk, chunks
from jensen.models.diffusion import MOST_STEPS, Diffusion, Sampling
from jensen.score import annealed_langevin, tweedie

LANGEVIN = "langevin"


class NoiseConditional(nn.Module):
    r"""A network as the score of noised data, $s(x, \sigma) = -F(x / \sqrt{1 + \sigma^2}, c)\, /\, \sigma$.

    For data of unit variance the network's input and its target, the noise, have unit variance at every level;
    $c \in [0, 1]$ is the level's place on the ladder, $\log(\sigma/\sigma_{min}) / \log(\sigma_{max}/\sigma_{min})$.

    Args:
        net: called with (B, ...), (B,) and, if there is one, the condition.
        largest, smallest: noise levels, 0 < smallest <= largest.

    Raises:
        ValueError: for levels not in order.

    Source: Song & Ermon (2020), technique 3.

    >>> score = NoiseConditional(lambda z, c: torch.ones_like(z), 4.0, 1.0)
    >>> score(torch.zeros(2, 1), torch.tensor([1.0, 4.0])).tolist()
    [[-1.0], [-0.25]]
    """

    def __init__(self, net: Callable[..., Tensor], largest: float, smallest: float):
        super().__init__()
        if not 0 < smallest <= largest < math.inf:
            raise ValueError(f"sigmas must satisfy 0 < smallest <= largest, got {smallest} and {largest}")
        self.net, self.largest, self.smallest = net, largest, smallest

    @checked
    def forward(
        self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"], cond: Tensor | None = None
    ) -> Float[Tensor, "b ..."]:
        span = math.log(self.largest / self.smallest) or 1.0
        place, level = torch.log(sigma / self.smallest) / span, right_pad(sigma, x)
        inputs = (x / torch.sqrt(1 + level**2), place, *(() if cond is None else (cond,)))
        return -self.net(*inputs).to(x.dtype) / level


@dataclass(frozen=True)
class Annealing:
    """Sampling settings of a score model.

    The defaults come within 5 percent of equilibrium on ladders such as 12 levels from 8 to 0.05 or 16 from 20 to 0.1
    (360 and 480 evaluations): with the exact score of Gaussian data, the variance along every direction wider than the
    last level is that of equilibrium to 5 percent. `jensen.score.annealed_variance` computes this for other settings.

    With any sampler other than Langevin the network is the denoiser of the variance-exploding process (`as_diffusion`)
    whose noise levels at t = 1 and t = 0 are the ends of the ladder.

    Attributes:
        step_size: step size of a Langevin move, in units of its level's sigma^2, below 2. The variance along directions
            that are narrow compared with a level is too large by 1 / (1 - step_size / 2), and wide ones converge in
            proportion to step_size times steps.
        steps: Langevin moves at each level; for other samplers, the total number of steps, see `Sampling`.
        denoise: end with the mean of the clean data point given the noised one.
        chunk: rows that go through the network together; fixed, so that the last bits of a row never depend on the
            number of samples.
        sampler: "langevin", or a name in `jensen.diffusion.SAMPLERS`.
        eta: for sampler "ddim", see `Sampling`.
    """

    step_size: float = 0.5
    steps: int = 30
    denoise: bool = True
    chunk: int = 256
    sampler: str = LANGEVIN
    eta: float | None = None

    def __post_init__(self) -> None:
        if self.sampler not in (LANGEVIN, *SAMPLERS):
            raise ValueError(f"sampler must be one of {', '.join((LANGEVIN, *SAMPLERS))}, got {self.sampler!r}")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        for name, number in (("steps", self.steps), ("chunk", self.chunk)):
            if not 1 <= number <= MOST_STEPS:
                raise ValueError(f"{name} must be from 1 to {MOST_STEPS}, got {number}")
        if self.sampler != LANGEVIN:
            self.as_sampling()
        elif self.eta is not None:
            raise ValueError(f"eta is a setting of sampler 'ddim', got sampler {self.sampler!r}")

    def as_sampling(self) -> Sampling:
        """The same settings for `as_diffusion`."""
        return Sampling(self.sampler, self.steps, denoise=self.denoise, chunk=self.chunk, eta=self.eta)

    def changed(self, **changes: Any) -> Annealing:
        """These settings with changes; a new sampler resets `eta` unless it is given."""
        if changes.get("sampler", self.sampler) != self.sampler:
            changes = {"eta": None, **changes}
        return replace(self, **changes)


class ScoreModel(nn.Module):
    """Draws x along the scores of noised data: by annealed Langevin, or by any sampler of diffusion models.

    The network works on (x - centre) / scale, which has zero mean and unit variance over the data, and the noise levels
    are on that scale; `sample` and `score` are for x.

    Args:
        network: maps (z, sigma) or (z, sigma, cond) to the score of standardised data noised by sigma; see
            `NoiseConditional`.
        shape: shape of one x.
        sigmas: noise levels, positive and decreasing, at least one; see `jensen.score.geometric`.
        sampling: default sampling settings.

    Raises:
        ValueError: for levels that are not positive and decreasing.

    Source: Song & Ermon (2019).
    """

    centre: Tensor
    scale: Tensor
    sigmas: Tensor

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        sigmas: Sequence[float] | Float[Tensor, " levels"],
        sampling: Annealing | None = None,
    ):
        super().__init__()
        levels = torch.as_tensor(sigmas, dtype=torch.get_default_dtype())
        if levels.ndim != 1 or not len(levels) or not bool((levels > 0).all() & (levels.diff() < 0).all()):
            raise ValueError("sigmas must be (L,) positive, decreasing numbers, at least one")
        self.network, self.shape, self.sampling = network, tuple(shape), sampling or Annealing()
        self.register_buffer("sigmas", levels)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @checked
    def standardize(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Data on the scale of the network."""
        return (x - self.centre) / self.scale

    @checked
    def restore(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The inverse of `standardize`."""
        return x * self.scale + self.centre

    def score(
        self, x: Float[Tensor, "b ..."], level: int = -1, *, cond: Tensor | None = None
    ) -> Float[Tensor, "b ..."]:
        """The score, grad log p(x), of data noised by `scale` times the sigma of a level, in evaluation mode.

        Args:
            x: (B, *shape), on the scale of the data.
            level: index of the noise level; the last is the smallest.
            cond: (B, ...) conditions, or None.
        """
        with evaluating(self):
            return self._score(cond)(self.standardize(x), self.sigmas[level].expand(len(x))) / self.scale

    def _score(self, cond: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        extra = () if cond is None else (cond,)
        return lambda z, sigma: self.network(z, sigma, *extra)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        cond: Tensor | None = None,
        generator: Rng = None,
        on_step: Callable[[int, Tensor], None] | None = None,
        on_chunk: Callable[[int], None] | None = None,
        **changes: Any,
    ) -> Float[Tensor, "n ..."]:
        """Draw n samples.

        Args:
            n: number of samples, at least 1.
            cond: (n, ...) conditions, or None.
            generator: None, one, or n of them, one per row: then a row is a function of its generator alone.
            on_step: called with (moves or steps done, x so far (n or fewer, ...)) in each chunk.
            on_chunk: called with the number of rows just finished.
            changes: changes to the default `Annealing`: steps=5, sampler="dpm++", ...

        Returns:
            (n, *shape), on the scale of the data.

        Raises:
            ValueError: for n < 1, a number of conditions or generators other than n, a setting out of its range, or a
                sampler other than Langevin for a model with one level.
        """
        settings = self.sampling.changed(**changes)
        if settings.sampler != LANGEVIN:
            return as_diffusion(self, settings.as_sampling()).sample(
                n, cond=cond, generator=generator, on_step=on_step, on_chunk=on_chunk
            )
        with evaluating(self):
            made = []
            for chunk in chunks(n, settings.chunk, cond=cond, generator=generator):
                made.append(self._anneal(chunk, settings, on_step))
                if on_chunk is not None:
                    on_chunk(chunk.n)
            return torch.cat(made)

    def _anneal(self, chunk: Chunk, settings: Annealing, on_step: Callable[[int, Tensor], None] | None) -> Tensor:
        """The rows of one chunk by annealed Langevin, without the padding."""
        score = self._score(None if chunk.cond is None else chunk.cond.to(self.centre.device))

        def report(step: int, z: Tensor) -> None:
            if on_step is not None:
                on_step(step, self.restore(z[: chunk.n]))

        z = torch.sqrt(1 + self.sigmas[0] ** 2) * chunk.normal(self.shape, like=self.centre)
        z = annealed_langevin(
            score, z, self.sigmas, settings.step_size, settings.steps, generator=chunk.generator, on_step=report
        )
        if settings.denoise:
            last = self.sigmas[-1]
            z = tweedie(lambda z: score(z, last.expand(len(z))), z, float(last))
        return self.restore(z[: chunk.n])


class ScoreDenoiser(Denoiser):
    r"""$\hat\epsilon = -\sigma\, s(z, \sigma)$ on the variance-exploding schedule: Tweedie's formula.

    Args:
        network: maps (z, sigma (B,)) or (z, sigma, cond) to the score of data noised by sigma.
        schedule: schedule with the sigmas of the network.
    """

    def __init__(self, network: nn.Module, schedule: VarianceExploding):
        super().__init__()
        self.network, self.schedule, self.null = network, schedule, None

    def forward(self, z_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Tensor | None = None) -> Prediction:
        alpha, sigma = self.levels(t, z_t)
        score = self.network(z_t, sigma.flatten().to(z_t), *(() if cond is None else (cond,)))
        return Prediction.of_eps(-sigma * score, z_t, alpha, sigma)


def as_diffusion(model: ScoreModel, sampling: Sampling | None = None) -> Diffusion:
    """The diffusion model of a score model with more than one level: it shares the network and the scale.

    Args:
        model: model with a ladder of levels; the largest becomes t = 1, the smallest t = 0.
        sampling: default sampling settings.

    Raises:
        ValueError: for a model with one level.

    Source: Song et al. (2021), section 3.4: annealed Langevin's ladder as the variance-exploding process.

    >>> model = ScoreModel(NoiseConditional(lambda z, c: torch.zeros_like(z), 9.0, 0.1), (2,), [9.0, 1.0, 0.1])
    >>> as_diffusion(model).sample(3).shape
    torch.Size([3, 2])
    """
    if len(model.sigmas) < 2:
        raise ValueError("a diffusion needs a ladder of at least two noise levels, got a model with one")
    schedule = VarianceExploding(float(model.sigmas[-1]), float(model.sigmas[0]))
    found = Diffusion(ScoreDenoiser(model.network, schedule), model.shape, sampling)
    found.centre, found.scale = model.centre, model.scale
    return found.to(model.centre.device)

"""A diffusion model: a denoiser, the scale of its data, and how it is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.core.seeding import Rng, normal
from jensen.diffusion import SAMPLERS, Clipped, Denoiser, Guided, Sampler, integrate, time_grid


@dataclass(frozen=True)
class Sampling:
    """How a diffusion model is sampled.

    Attributes:
        sampler: a step, or its name in `jensen.diffusion.SAMPLERS`: "ancestral", "ddim", "dpm++", ...
        steps: evaluations of the (guided) denoiser, for all samplers but heun (two each) and predictor-corrector;
            guidance doubles the batch of each.
        guidance: w of classifier-free guidance; 1 is off.
        clip: keep the predicted x in [-1, 1].
        shift: times are t' = shift t / (1 + (shift - 1) t) of a uniform grid; above 1 it spends more
            steps where noise is high, which is where a picture's layout is decided.
        start: the first time; below 1 for a network that predicts eps on a schedule with alpha = 0 at t = 1.
        precision: "bfloat16" for autocast, or "float32".
        chunk: rows that go through the network together; fixed, so that a row's last bits never
            depend on how many others were asked for.
    """

    sampler: str | Sampler = "dpm++"
    steps: int = 16
    guidance: float = 1.0
    clip: bool = False
    shift: float = 1.0
    start: float = 1.0
    precision: str = "float32"
    chunk: int = 32

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str) and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be at least 0, got {self.guidance}")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be in (0, 1], got {self.start}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")

    @property
    def step(self) -> Sampler:
        return SAMPLERS[self.sampler] if isinstance(self.sampler, str) else self.sampler


class Diffusion(nn.Module):
    """Draws x by carrying noise back to data.

    The denoiser works on (x - centre) / scale, which has zero mean and unit variance over the data;
    `sample` gives x.

    Args:
        denoiser: of standardised data.
        shape: of one x.
        sampling: how to sample by default.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, denoiser: Denoiser, shape: Sequence[int], sampling: Sampling | None = None):
        super().__init__()
        self.denoiser, self.shape, self.sampling = denoiser, tuple(shape), sampling or Sampling()
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def standardize(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Data as the denoiser sees it."""
        return (x - self.centre) / self.scale

    def restore(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The inverse of `standardize`."""
        return x * self.scale + self.centre

    def times(self, settings: Sampling) -> Float[Tensor, " steps_and_one"]:
        """Decreasing times from `start` to 0, uniform but for the shift."""
        uniform = time_grid("uniform", settings.steps, self.denoiser.schedule)
        return settings.start * settings.shift * uniform / (1 + (settings.shift - 1) * uniform)

    def guided(self, settings: Sampling) -> Denoiser:
        """The denoiser as the sampler sees it: guided, then clipped."""
        denoiser = self.denoiser
        if settings.guidance != 1:
            denoiser = Guided(denoiser, settings.guidance)
        if settings.clip:
            low, high = self.standardize(torch.tensor([-1.0, 1.0], device=self.centre.device)).tolist()
            denoiser = Clipped(denoiser, low, high)
        return denoiser

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
        """Draw n.

        Args:
            n: at least 1.
            cond: (n, ...) conditions, or None to draw without.
            generator: None, one, or n of them, one a row: then a row is a function of its generator alone.
            on_step: called with (steps done, x so far (n or fewer, ...)) in each chunk.
            on_chunk: called with the number of rows just finished.
            changes: to the default `Sampling`: steps=8, guidance=2.0, ...

        Returns:
            (n, *shape), of the scale of the data.

        Raises:
            ValueError: for n < 1, conditions that are not n, or a setting out of its range.
        """
        settings = replace(self.sampling, **changes)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if cond is not None and len(cond) != n:
            raise ValueError(f"conditions must be {n}, one a row, got {len(cond)}")
        if isinstance(generator, Sequence) and len(generator) != n:
            raise ValueError(f"generators must be {n}, one a row, got {len(generator)}")
        was_training = self.training
        self.eval()
        try:
            chunks = []
            for first in range(0, n, settings.chunk):
                rows = slice(first, min(first + settings.chunk, n))
                rng = generator[rows] if isinstance(generator, Sequence) else generator
                chunks.append(self._chunk(rows, None if cond is None else cond[rows], rng, settings, on_step))
                if on_chunk is not None:
                    on_chunk(len(chunks[-1]))
            return torch.cat(chunks)
        finally:
            self.train(was_training)

    def _chunk(
        self,
        rows: slice,
        cond: Tensor | None,
        rng: Rng,
        settings: Sampling,
        on_step: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        """One chunk, padded to its full size."""
        n, size, device = rows.stop - rows.start, settings.chunk, self.centre.device
        padded = _Padded(n, size, rng)
        times = self.times(settings)
        alpha, sigma = self.denoiser.schedule.alpha_sigma(times[:1])
        spread = torch.sqrt(alpha**2 + sigma**2).to(self.centre)  # of z at the first time, for data of unit variance
        z = spread * padded.normal(self.shape, like=self.centre)
        if cond is not None:
            cond = cond.to(device)
            cond = torch.cat([cond, cond[:1].expand(size - n, *cond.shape[1:])])
        denoiser = self.guided(settings)

        def report(step: int, z: Tensor) -> None:
            if on_step is not None:
                on_step(step, self.restore(z[:n]))

        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            z = integrate(
                settings.step,
                denoiser,
                z,
                times,
                cond=cond,
                generator=padded.generators,
                on_step=report,
            )
        return self.restore(z[:n])


class _Padded:
    """Generators for a chunk whose last rows are padding, which draws from a generator of its own."""

    def __init__(self, n: int, size: int, rng: Rng):
        self.size = size
        if isinstance(rng, Sequence):
            spare = torch.Generator(rng[0].device).manual_seed(0)
            self.generators: Rng = [*rng, *[spare] * (size - n)]
        else:
            self.generators = rng

    def normal(self, shape: Sequence[int], *, like: Tensor) -> Tensor:
        return normal((self.size, *shape), self.generators, like=like)

"""A Gaussian kernel density as a model: exact draws, Langevin chains along its score, ascent to its modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from jensen.core.seeding import Rng
from jensen.core.types import Likelihood
from jensen.models.chunks import Chunk, chunks, refuse_condition
from jensen.score import KernelDensity, langevin, leave_one_out, mala, scott, silverman

BANDWIDTHS: dict[str, Callable[[Tensor], float]] = {
    "silverman": silverman,
    "scott": scott,
    "leave-one-out": leave_one_out,
}
KERNEL_SAMPLERS = ("exact", "langevin", "mala", "ascent")


@dataclass(frozen=True)
class KernelSampling:
    """Sampling settings of a kernel density.

    The chains of the last three samplers start from N(m, v I) with the mean m and the mean variance v of the points.

    Attributes:
        sampler: "exact", a point at random plus noise; "langevin", unadjusted; "mala", Metropolis-adjusted; or
            "ascent", gradient ascent on log p without noise, which ends in modes.
        steps: number of steps of a chain; "mala" first makes the same number of warm-up steps, in which each chain
            adapts its step size.
        step_size: step size in units of h^2, below 2; for "mala" the initial one.
        chunk: number of rows computed together; fixed, so that the last bits of a row never depend on the number of
    samples.
    """

    sampler: str = "exact"
    steps: int = 1000
    step_size: float = 0.2
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.sampler not in KERNEL_SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(KERNEL_SAMPLERS)}, got {self.sampler!r}")
        for name, number in (("steps", self.steps), ("chunk", self.chunk)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not 0 < self.step_size < 2:
            raise ValueError(f"step_size must be in (0, 2), got {self.step_size}")

    def changed(self, **changes: Any) -> KernelSampling:
        """These settings with changes."""
        return replace(self, **changes)


class KernelDensityModel(nn.Module):
    r"""$p(x) = \frac1M \sum_i N(x; x_i, h^2 \mathrm{diag}(s^2))$ with points $x_i$ and $\log h$ as a parameter.

    In u = x / s all kernels have the covariance $h^2 I$; the density of x is that of u divided by $\prod_d s_d$.

    Args:
        points: (M, ...).
        bandwidth: h, or a rule of `BANDWIDTHS` for the points u: "silverman", "scott" or "leave-one-out".
        sampling: default sampling settings.
        scale: s, positive: a number, or one for each column of points (M, D) whose columns have different scales.

    Raises:
        ValueError: for an unknown rule, a scale that is not positive and finite, and as in `jensen.score.KernelDensity`
            and the rules.

    Source: Parzen (1962).

    >>> model = KernelDensityModel(torch.tensor([[-1.0], [1.0]]), 0.5)
    >>> model.score(torch.tensor([[0.0], [3.0]])).tolist()
    [[0.0], [-8.0]]
    >>> model.sample(3, sampler="ascent", steps=200, generator=torch.Generator().manual_seed(0)).abs().round(decimals=3)
    tensor([[0.9990],
            [0.9990],
            [0.9990]])
    """

    points: Tensor
    scale: Tensor

    def __init__(
        self,
        points: Float[Tensor, "m ..."],
        bandwidth: float | str = "silverman",
        sampling: KernelSampling | None = None,
        scale: float | Tensor = 1.0,
    ):
        super().__init__()
        self.sampling = sampling or KernelSampling()
        self.register_buffer("points", points.clone())
        self.register_buffer("scale", torch.as_tensor(scale).to(points).expand(points.shape[1:]).clone())
        if not bool(((self.scale > 0) & self.scale.isfinite()).all()):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.log_bandwidth = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.fit(points, bandwidth)

    @torch.no_grad()
    def fit(self, points: Float[Tensor, "m ..."], bandwidth: float | str = "silverman") -> None:
        """Replace the points by others, of the same number and shape, and set the bandwidth.

        Raises:
            ValueError: for points of another shape, and as in the constructor.
        """
        if points.shape != self.points.shape:
            raise ValueError(f"points must have the shape {tuple(self.points.shape)}, got {tuple(points.shape)}")
        if isinstance(bandwidth, str) and bandwidth not in BANDWIDTHS:
            raise ValueError(f"bandwidth must be a number or one of {', '.join(BANDWIDTHS)}, got {bandwidth!r}")
        u = points / self.scale
        h = BANDWIDTHS[bandwidth](u) if isinstance(bandwidth, str) else bandwidth
        KernelDensity(u, h)  # raises for invalid points or bandwidth
        self.points.copy_(points)
        self.log_bandwidth.fill_(math.log(h))

    @property
    def units(self) -> Float[Tensor, "m ..."]:
        """The points u = x / s."""
        return self.points / self.scale

    @property
    def log_volume(self) -> Float[Tensor, ""]:
        r"""$\sum_d \log s_d$, the log density of u minus that of x."""
        return self.scale.double().log().sum()

    @property
    def density(self) -> KernelDensity:
        """The current density of u = x / s, with `log_prob` and `score`."""
        return KernelDensity(self.units, math.exp(self.log_bandwidth.item()))

    def score(self, x: Num[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The gradient of log p(x), (B, ...)."""
        return self.density.score(x / self.scale) / self.scale

    def log_prob(self, x: Num[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Log p(x) in nats, (B,)."""
        log_u = self.density.log_prob(x / self.scale)
        return log_u - self.log_volume.to(log_u)

    def log_likelihood(
        self, x: Num[Tensor, "b ..."], *, cond: Tensor | None = None, generator: Rng = None
    ) -> Likelihood:
        """Log p(x) in nats, exactly.

        Raises:
            ValueError: for a condition, since the model has none.
        """
        refuse_condition(cond)
        return Likelihood(self.log_prob(x), "exact", "density")

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
            cond: None: there are no conditions.
            generator: None, one, or n of them, one per row: then a row is a function of its generator alone.
            on_step: called with (steps done, x so far (n or fewer, ...)) in each chunk, by all samplers but "exact".
            on_chunk: called with the number of rows just finished.
            changes: changes to the default `KernelSampling`: sampler="mala", ...

        Raises:
            ValueError: for n < 1, a condition, a number of generators other than n, or a setting out of its range.
        """
        refuse_condition(cond)
        settings, made = self.sampling.changed(**changes), []
        for chunk in chunks(n, settings.chunk, generator=generator):
            made.append(self._chunk(chunk, settings, on_step)[: chunk.n])
            if on_chunk is not None:
                on_chunk(chunk.n)
        return torch.cat(made)

    def _chunk(self, chunk: Chunk, settings: KernelSampling, on_step: Callable[[int, Tensor], None] | None) -> Tensor:
        density, steps, rng = self.density, settings.steps, chunk.generator
        if settings.sampler == "exact":
            return density.sample(chunk.size, generator=rng) * self.scale

        def report(step: int, x: Tensor) -> None:
            if on_step is not None:
                on_step(step, x[: chunk.n] * self.scale)

        spread = density.data.var(0, correction=0).mean().sqrt()
        u = density.data.mean(0) + spread * chunk.normal(self.points.shape[1:], like=self.points)
        delta = settings.step_size * density.bandwidth**2
        if settings.sampler == "mala":
            chain = mala(density.log_prob, u, delta, steps, warmup=steps, generator=rng, on_step=report)
            return chain.x * self.scale
        noise = settings.sampler == "langevin"
        return langevin(density.score, u, delta, steps, noise=noise, generator=rng, on_step=report) * self.scale

"""A diffusion model: a denoiser and the scale of its data, with sampling, encoding and likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jensen.core.modes import evaluating
from jensen.core.precision import Precision, mixed
from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count, checked, mean_per_example
from jensen.core.types import Likelihood
from jensen.diffusion import (
    SAMPLERS,
    Bound,
    Clipped,
    Denoiser,
    FlowLikelihood,
    Guided,
    Reconstruction,
    Sampler,
    Span,
    bound,
    integrate,
    ode_log_likelihood,
    slerp,
    time_grid,
)
from jensen.diffusion.guidance import interval_of
from jensen.diffusion.likelihood import check_rows
from jensen.diffusion.samplers.base import levels, rows_at
from jensen.models.chunks import Chunk, chunks

MOST_STEPS, MOST_GUIDANCE = 1_000_000, 1_000_000
OWN = ("eta", "variance")  # settings that only some samplers have


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a diffusion model.

    Attributes:
        sampler: a step, or its name in `jensen.diffusion.SAMPLERS`: "ancestral", "ddim", "dpm++", ...
        steps: number of sampling steps, each one evaluation of the denoiser (two for heun and predictor-corrector);
            guidance doubles the batch of an evaluation.
        guidance: scale w of classifier-free guidance; 1: none.
        guidance_interval: (low, high), the times between which guidance is active; elsewhere the conditional model is
            used, which costs less.
        style_guidance: scale of the named styles of a text, while `guidance` is that of the text itself; None: the same
            scale for both. The batch of an evaluation is then tripled.
        clip: clip the predicted x to [-1, 1].
        grid: "uniform" times, or those of EDM, "karras": uniform in (sigma / alpha)^(1/7), for finite log-SNRs.
        shift: maps the times t of a uniform grid to shift t / (1 + (shift - 1) t); above 1, more steps are at high
            noise, where the layout of a picture is decided.
        start: the first time; below 1 for a network that predicts eps on a schedule with alpha = 0 at t = 1.
        end: the last time, below start; above 0 to encode with a network that predicts x, which has no eps at t = 0.
        denoise: remove the noise that is left at `end`: z is replaced by its denoised mean, for one more evaluation; no
            effect if sigma is 0 there.
        precision: "bfloat16" for autocast, "float32", or "auto": bfloat16 on a device that has arithmetic in it.
        chunk: number of rows that are evaluated together; fixed, so that the last bits of a row never depend on the
            number of samples.
        eta: for "ddim": 0 is deterministic, 1 is ancestral sampling with the posterior's variance. None: the sampler's
            default.
        variance: for "ancestral": "posterior", "forward", or "learned" with a denoiser that learns variances. None: the
            sampler's default.
    """

    sampler: str | Sampler = "dpm++"
    steps: int = 16
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    style_guidance: float | None = None
    clip: bool = False
    shift: float = 1.0
    grid: Literal["uniform", "karras"] = "uniform"
    start: float = 1.0
    end: float = 0.0
    denoise: bool = False
    precision: str = "float32"
    chunk: int = 32
    eta: float | None = None
    variance: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str) and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        found = self.step  # raises for a setting of the sampler that is out of range
        if isinstance(found, type) or not hasattr(found, "step"):
            raise ValueError(f"sampler must be a name, or have a method step, as DDIM() has, got {found!r}")
        whole = " and whole" * (not isinstance(self.steps, Integral))
        if whole or self.steps < 1:
            raise ValueError(f"steps must be at least 1{whole}, got {self.steps}")
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS}, got {self.steps}")
        style = self.guidance if self.style_guidance is None else self.style_guidance
        for name, scale in (("guidance", self.guidance), ("style_guidance", style)):
            if not isinstance(scale, Real) or not 0 <= scale < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {scale}")
            if scale > MOST_GUIDANCE:
                raise ValueError(f"{name} must be at most {MOST_GUIDANCE}, got {scale}")
        object.__setattr__(self, "guidance_interval", interval_of(self.guidance_interval, "guidance_interval"))
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if self.grid not in ("uniform", "karras") or (self.grid != "uniform" and self.shift != 1):
            raise ValueError(f"grid must be uniform, or karras with shift 1, got {self.grid!r} and shift {self.shift}")
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be in (0, 1], got {self.start}")
        if not 0 <= self.end < self.start:
            raise ValueError(f"end must be in [0, start), got {self.end} with start {self.start}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be auto, bfloat16 or float32, got {self.precision!r}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")

    @property
    def guided(self) -> bool:
        """Whether there is guidance, of the condition or of its styles."""
        return self.guidance != 1 or self.style_guidance not in (None, 1)

    @property
    def step(self) -> Sampler:
        """The sampler, with `eta` and `variance` if they are given.

        Raises:
            ValueError: for a setting that the sampler does not have, or that is out of range.
        """
        step = SAMPLERS[self.sampler] if isinstance(self.sampler, str) else self.sampler
        own = {name: value for name in OWN if (value := getattr(self, name)) is not None}
        for name in own:
            if not _has(step, name):
                able = ", ".join(repr(k) for k, v in SAMPLERS.items() if _has(v, name))
                raise ValueError(f"{name} is a setting of sampler {able}, got sampler {self.sampler!r}")
        return replace(cast(Any, step), **own) if own else step

    def changed(self, **changes: Any) -> Sampling:
        """These settings with changes; a new sampler resets `eta` and `variance` unless they are given.

        >>> half = Sampling("ddim", eta=0.5)
        >>> half.changed(steps=8).eta, half.changed(sampler="dpm++").eta
        (0.5, None)
        """
        if changes.get("sampler", self.sampler) != self.sampler:
            changes = {**dict.fromkeys(OWN), **changes}
        return replace(self, **changes)


def _has(sampler: Sampler, name: str) -> bool:
    return is_dataclass(sampler) and name in (field.name for field in fields(sampler))


class Diffusion(nn.Module):
    """Draws x by transforming noise into data.

    The denoiser works on (x - centre) / scale, which has zero mean and unit variance over the data; `sample` returns x,
    and likelihoods are those of x.

    Args:
        denoiser: denoiser of standardised data.
        shape: shape of one x.
        sampling: default sampling settings.
        unstyled: for texts with named styles, a function from conditions to conditions without the styles.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        denoiser: Denoiser,
        shape: Sequence[int],
        sampling: Sampling | None = None,
        unstyled: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        check_count(**{f"axis {k} of shape": n for k, n in enumerate(shape)})
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"denoiser must be a Denoiser, such as NetworkDenoiser(net, ...), got {type(denoiser).__name__}"
            )
        self.denoiser, self.shape, self.sampling = denoiser, tuple(shape), sampling or Sampling()
        self.unstyled = unstyled
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @checked
    def standardize(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Data on the scale of the denoiser."""
        return (x - self.centre) / self.scale

    @checked
    def restore(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The inverse of `standardize`."""
        return x * self.scale + self.centre

    def score(
        self, x: Float[Tensor, "b ..."], t: Float[Tensor, ""], *, cond: Tensor | None = None
    ) -> Float[Tensor, "b ..."]:
        r"""The gradient with respect to x of the log density of noised data, $-\hat\epsilon / \sigma_x$.

        Args:
            x: (B, *shape), on the scale of the data, with noise of standard deviation $\sigma_x = \mathrm{scale}\,
                \sigma_t / \alpha_t$ added.
            t: time of this noise level.
            cond: (B, ...) conditions, or None.
        """
        alpha, sigma = (v.to(self.centre) for v in self.denoiser.schedule.alpha_sigma(t))
        z = alpha * self.standardize(x)
        eps: Tensor = self.denoiser(z, t.to(z).expand(len(z)), cond).eps
        return -eps * alpha / (sigma * self.scale)

    def times(self, settings: Sampling) -> Float[Tensor, " steps_and_one"]:
        """Decreasing times from `start` to `end`, uniform except for the shift, or EDM's."""
        if settings.grid != "uniform":
            schedule = self.denoiser.schedule
            return time_grid(settings.grid, settings.steps, schedule, start=settings.start, end=settings.end)
        uniform = time_grid("uniform", settings.steps, self.denoiser.schedule)
        shifted = settings.shift * uniform / (1 + (settings.shift - 1) * uniform)
        return settings.end + (settings.start - settings.end) * shifted

    def _rows(self, x: Tensor) -> Tensor:
        """Returns x if its rows are finite and have the model's shape."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"rows must have the shape {self.shape}, got {tuple(x.shape[1:])}")
        wrong = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        if wrong:
            raise ValueError(f"rows must be finite, got {wrong} of {len(x)} that are not")
        return x

    def guided(self, settings: Sampling) -> Denoiser:
        """The denoiser that the sampler calls: guided, then clipped.

        Raises:
            ValueError: for a guidance of styles if there are none.
        """
        denoiser = self.denoiser
        if settings.guided:
            rest = None
            if settings.style_guidance is not None:
                if self.unstyled is None:
                    raise ValueError("style_guidance needs a model of texts with named styles")
                rest = settings.style_guidance, self.unstyled
            denoiser = Guided(denoiser, settings.guidance, settings.guidance_interval, rest)
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
        """Draw n samples.

        Args:
            n: number of samples, at least 1.
            cond: (n, ...) conditions, or None to sample without conditions.
            generator: None, one, or n of them, one per row: then a row is a function of its generator alone.
            on_step: called with (steps done, x so far (n or fewer, ...)) in each chunk.
            on_chunk: called with the number of rows just finished.
            changes: changes to the default `Sampling`: steps=8, guidance=2.0, ...

        Returns:
            (n, *shape), on the scale of the data.

        Raises:
            ValueError: for n < 1, a number of conditions other than n, or a setting out of its range.
        """
        settings = self.sampling.changed(**changes)

        def latents(chunk: Chunk) -> Tensor:
            return self._spread(settings) * chunk.normal(self.shape, like=self.centre)

        times = self.times(settings)
        z = self._carry(latents, n, times, settings, cond, generator, on_step=on_step, on_chunk=on_chunk)
        return self.restore(z / self._alpha(times[-1]))

    # encoding ----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, "n ..."], *, cond: Tensor | None = None, **changes: Any
    ) -> Float[Tensor, "n ..."]:
        """The latents of x: a deterministic sampler run backwards, from `end` to `start`.

        Args:
            x: (n, *shape), on the scale of the data.
            cond: (n, ...) or None.
            changes: changes to the default `Sampling`: sampler="ddim", steps=64, ...

        Raises:
            ValueError: for a stochastic sampler, a number of conditions other than n, or a setting out of its range.

        Source: Song et al., DDIM (2021), section 4.3 and equation 14.
        """
        settings = self.deterministic(**changes)
        times = self.times(settings).flip(0)
        start = self._alpha(times[0]) * self.standardize(self._rows(x).to(self.centre))
        return self._carry(lambda chunk: chunk.take(start), len(x), times, settings, cond, None)

    @torch.no_grad()
    def decode(
        self, z: Float[Tensor, "n ..."], *, cond: Tensor | None = None, **changes: Any
    ) -> Float[Tensor, "n ..."]:
        """Samples from latents z, (n, *shape), by a deterministic sampler: inverts `encode` up to discretisation.

        Raises:
            ValueError: for a stochastic sampler, a number of conditions other than n, or a setting out of its range.
        """
        settings, z = self.deterministic(**changes), self._rows(z).to(self.centre)
        times = self.times(settings)
        made = self._carry(lambda chunk: chunk.take(z), len(z), times, settings, cond, None)
        return self.restore(made / self._alpha(times[-1]))

    def interpolate(
        self,
        first: Tensor | torch.Generator,
        second: Tensor | torch.Generator,
        n: int,
        *,
        cond: Tensor | None = None,
        **changes: Any,
    ) -> Float[Tensor, "n ..."]:
        """Samples from n latents along the spherical path from one to another, including both ends.

        Args:
            first, second: a latent with the shape of one x (from `encode`), or a generator that draws it.
            n: number of samples, at least 2.
            cond: one condition, (1, ...), for the whole path, or None: conditions are not interpolated.
            changes: changes to the default `Sampling`, which must be deterministic.

        Returns:
            (n, *shape), on the scale of the data.

        Raises:
            ValueError: for n < 2, several conditions, latents of another shape, or a sampler that draws noise.

        Source: Song et al., DDIM (2021), section 5.3 and appendix D.5.
        """
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        if cond is not None and len(cond) != 1:
            raise ValueError(f"cond must be one condition, (1, ...), since it is not interpolated, got {len(cond)}")
        settings = self.deterministic(**changes)
        a, b = (self._latent(end, settings) for end in (first, second))
        way = slerp(a, b, torch.linspace(0, 1, n, device=a.device))
        return self.decode(way, cond=None if cond is None else cond.expand(n, *cond.shape[1:]), **changes)

    def _latent(self, end: Tensor | torch.Generator, settings: Sampling) -> Tensor:
        if isinstance(end, torch.Generator):
            return self._spread(settings) * normal((1, *self.shape), end, like=self.centre)[0]
        if tuple(end.shape) != self.shape:
            raise ValueError(f"a latent must have the shape {self.shape}, got {tuple(end.shape)}")
        return end.to(self.centre)

    def deterministic(self, **changes: Any) -> Sampling:
        """The default `Sampling` with changes; a ValueError for a sampler that draws noise, which cannot encode."""
        settings = self.sampling.changed(**changes)
        if not getattr(settings.step, "deterministic", True):
            able = ", ".join(name for name, step in SAMPLERS.items() if getattr(step, "deterministic", True))
            raise ValueError(
                f"{type(settings.step).__name__} draws noise, so it cannot encode or decode: choose one of {able}"
            )
        return settings

    # likelihood --------------------------------------------------------------------------

    @torch.no_grad()
    def bound(
        self,
        x: Shaped[Tensor, "b ..."],
        *,
        steps: int | None = None,
        strata: int = 64,
        samples: int = 2,
        span: Span | None = None,
        reconstruction: Reconstruction = Reconstruction(),
        cond: Tensor | None = None,
        generator: Rng = None,
    ) -> Bound:
        """`jensen.diffusion.bound` for data on its original scale; standardising adds a term to the reconstruction.

        Args:
            x: (B, *shape), on the scale of the data.
            steps, strata, samples, span, cond, generator: as for `jensen.diffusion.bound`.
            reconstruction: p(x | z) at the first level, with bins of the data's own values, if any.
        """
        check_rows(self._rows(x), cond)
        found = bound(
            self.denoiser,
            self.standardize(x),
            steps=steps,
            strata=strata,
            samples=samples,
            span=span,
            reconstruction=self.standardized(reconstruction),
            cond=cond,
            generator=generator,
        )
        if found.measure == "mass":  # a mass is the same on every scale
            return found
        return replace(found, reconstruction=found.reconstruction + self.log_scale())

    @torch.no_grad()
    def ode_log_likelihood(
        self,
        x: Shaped[Tensor, "b ..."],
        *,
        trace: str = "exact",
        probes: int = 8,
        span: Span | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        cond: Tensor | None = None,
        generator: Rng = None,
    ) -> FlowLikelihood:
        """`jensen.diffusion.ode_log_likelihood` for data on its original scale; `scale` includes the term for it."""
        check_rows(self._rows(x), cond)
        found = ode_log_likelihood(
            self.denoiser,
            self.standardize(x),
            trace=trace,
            probes=probes,
            span=span,
            rtol=rtol,
            atol=atol,
            cond=cond,
            generator=generator,
        )
        return replace(found, scale=found.scale - self.log_scale())

    def log_likelihood(
        self, x: Float[Tensor, "b ..."], *, cond: Tensor | None = None, generator: Rng = None
    ) -> Likelihood:
        """The bound in continuous time on the log density of x, in nats, with its standard error."""
        return self.bound(x, cond=cond, generator=generator).likelihood

    def standardized(self, reconstruction: Reconstruction) -> Reconstruction:
        """The reconstruction on the scale of the denoiser: its bins, if any, are standardised like the data."""
        bins = reconstruction.bins
        if bins is None:
            return reconstruction
        low, high = (self.standardize(torch.as_tensor(v).to(self.centre)[None])[0] for v in (bins.low, bins.high))
        return replace(reconstruction, bins=replace(bins, low=low, high=high))

    def log_scale(self) -> Float[Tensor, ""]:
        """The log of the factor by which standardising shrinks volumes, in nats: the change of a log density."""
        return self.scale.log().expand(self.shape).sum()

    # the loop over chunks ----------------------------------------------------------------

    def _spread(self, settings: Sampling) -> Tensor:
        """Standard deviation of z at the first time, for data of unit variance."""
        alpha, sigma = self.denoiser.schedule.alpha_sigma(self.times(settings)[:1].to(self.centre.device))
        return torch.sqrt(alpha**2 + sigma**2).to(self.centre)

    def _alpha(self, t: Tensor) -> Tensor:
        return self.denoiser.schedule.alpha_sigma(t.to(self.centre.device))[0].to(self.centre)

    def _carry(
        self,
        latents: Callable[[Chunk], Tensor],
        n: int,
        times: Tensor,
        settings: Sampling,
        cond: Tensor | None,
        generator: Rng,
        *,
        on_step: Callable[[int, Tensor], None] | None = None,
        on_chunk: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Integrate n rows along `times`, chunk by chunk; `latents` returns z of a chunk at the first time."""
        with evaluating(self):
            made = []
            for chunk in chunks(n, settings.chunk, cond=cond, generator=generator):
                made.append(self._chunk(latents(chunk), chunk, times, settings, on_step))
                if on_chunk is not None:
                    on_chunk(chunk.n)
            return torch.cat(made)

    def _chunk(
        self,
        z: Tensor,
        chunk: Chunk,
        times: Tensor,
        settings: Sampling,
        on_step: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        """The rows of one chunk, without the padding."""
        device, denoiser = self.centre.device, self.guided(settings)
        cond = None if chunk.cond is None else chunk.cond.to(device)

        def report(step: int, z: Tensor) -> None:
            if on_step is not None:
                on_step(step, self.restore(z[: chunk.n]))

        half = mixed(settings.precision, device)
        with torch.autocast(device.type, half, enabled=half is not None):
            z = integrate(settings.step, denoiser, z, times, cond=cond, generator=chunk.generator, on_step=report)
            if settings.denoise and bool(times[-1] < times[0]) and bool(levels(denoiser, times[-1], z)[1] > 0):
                z = (self._alpha(times[-1]) * denoiser(z, rows_at(times[-1], z), cond).x).to(z)
        return z[: chunk.n]


def round_trip(
    model: Diffusion,
    x: Float[Tensor, "b ..."],
    steps: Sequence[int],
    *,
    cond: Tensor | None = None,
    scale: float | Tensor = 1.0,
    **changes: Any,
) -> Float[Tensor, "k b"]:
    """Round-trip error: the root mean square error per dimension of x after encoding and decoding.

    Args:
        model: model with a deterministic sampler, by default or in the changes.
        x: (B, *shape), on the scale of the data.
        steps: K numbers of steps in each direction.
        cond: (B, ...) or None.
        scale: unit of the error: one number, or one for each dimension.
        changes: changes to the model's `Sampling`.

    Returns:
        (K, B), in units of `scale`.

    Source: Song et al., DDIM (2021), table 2.
    """
    errors = []
    for count in steps:
        z = model.encode(x, cond=cond, steps=count, **changes)
        back = model.decode(z, cond=cond, steps=count, **changes)
        errors.append(mean_per_example(((back - x.to(back)) / scale) ** 2).sqrt())
    return torch.stack(errors)

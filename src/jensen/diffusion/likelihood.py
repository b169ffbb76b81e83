"""The variational bound on log p(x), term by term, with T steps or in continuous time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_broadcast, check_count, checked, sum_per_example
from jensen.core.types import Likelihood, Measure
from jensen.diffusion.denoiser import Denoiser, Prediction
from jensen.diffusion.losses import edm, step_kl
from jensen.diffusion.samplers.base import rows_at
from jensen.diffusion.schedule import Schedule
from jensen.diffusion.times import rounded_down
from jensen.distributions import DiscretizedGaussian

Span = tuple[float, float]
"""The time of the first level, where x is reconstructed, and of the last level, which is compared with the prior."""


@dataclass(frozen=True)
class Bins:
    """Equal bins of discrete data: `count` values from `low` to `high`, bin centres; the two outer bins are unbounded.

    Args:
        count: number of values, at least 2.
        low, high: the smallest and the largest value; numbers, or tensors that broadcast against x.

    Source: Ho et al. (2020), equation 13, with 256 values in [-1, 1].
    """

    count: int
    low: float | Tensor = -1.0
    high: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count must be at least 2, got {self.count}")
        if not bool(torch.as_tensor(self.low < self.high).all()):
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    @property
    def width(self) -> float | Tensor:
        return (self.high - self.low) / (self.count - 1)

    def log_mass(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        r"""$\log \int_{bin(x)} N(u; \mu, s^2)\, du$, elementwise.

        Raises:
            ValueError: if x is not one of the values.
        """
        check_broadcast(x=x, mean=mean, deviation=deviation)
        index = (x - self.low) / self.width
        near = index.round()
        index = torch.where((index - near).abs() < 1e-2, near, index)  # undo rounding by standardisation
        unit = 2 / (self.high - self.low)  # on [-1, 1], the range of the discretized law
        law = DiscretizedGaussian((mean - self.low) * unit - 1, deviation * unit, self.count, validate_args=False)
        return law.log_prob(2 * index / (self.count - 1) - 1)


@dataclass(frozen=True)
class Reconstruction:
    r"""$p(x | z) = N(\mu, \mathrm{SNR}^{-1})$ at the first level, as a density or as the mass of x's bin.

    Args:
        mean: "denoised", $\mu = \hat x(z)$, which costs an evaluation (DDPM); or "observed", $\mu = z / \alpha$, which
            costs none (VDM).
        bins: bins of discrete data; None for a density.

    Source: Ho et al. (2020), section 3.3; Kingma et al., VDM (2021), section 3.3.
    """

    mean: str = "denoised"
    bins: Bins | None = None

    def __post_init__(self) -> None:
        if self.mean not in ("denoised", "observed"):
            raise ValueError(f"mean must be 'denoised' or 'observed', got {self.mean!r}")

    @property
    def measure(self) -> Measure:
        return "density" if self.bins is None else "mass"

    def log_prob(
        self, denoiser: Denoiser, z: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], t: Tensor, cond: Tensor | None
    ) -> Float[Tensor, " b"]:
        """Log p(x | z) in nats at the first level's time t, ()."""
        alpha, sigma = (v.to(x) for v in denoiser.schedule.alpha_sigma(t))
        mean = denoiser(z, rows_at(t, x), cond).x if self.mean == "denoised" else z / alpha
        deviation = sigma / alpha
        if self.bins is not None:
            return sum_per_example(self.bins.log_mass(x, mean, deviation))
        log_density: Tensor = torch.distributions.Normal(mean, deviation, validate_args=False).log_prob(x)
        return sum_per_example(log_density)


@dataclass(frozen=True)
class Bound:
    r"""The negative bound $L_T + \sum_t L_{t-1} + L_0 \ge -\log p(x)$, nats per example.

    Attributes:
        prior: (B,) $L_T = KL(q(z_1 | x) \| p(z_1))$, exact.
        steps: (B, T) $L_{t-1} = KL(q(z_s | z_t, x) \| p(z_s | z_t))$ of each step, the one nearest to the data first;
            in continuous time the integral of the diffusion term over each of the equal strata of log(1 + SNR).
        reconstruction: (B,) $L_0 = -E \log p(x | z_0)$.
        measure: whether it bounds a probability mass or a density of x.
        stderr: (B,) standard error of the total, or None if it was not measured. Its square is unbiased, so that the
            error of a mean over rows is correct. For a single row it is unreliable where rare draws dominate: for
            one-dimensional data with two values, whose exact denoiser errs only in a narrow range of SNRs, intervals of
            +-2 standard errors cover 75 percent; with 17 values, 90 percent.
    """

    prior: Float[Tensor, " b"]
    steps: Float[Tensor, "b t"]
    reconstruction: Float[Tensor, " b"]
    measure: Measure
    stderr: Float[Tensor, " b"] | None = None

    @property
    def diffusion(self) -> Float[Tensor, " b"]:
        """The sum of the steps, (B,)."""
        return self.steps.sum(1)

    @property
    def likelihood(self) -> Likelihood:
        """The lower bound on log p(x) itself."""
        value = -(self.prior + self.diffusion + self.reconstruction)
        return Likelihood(value, "lower bound", self.measure, self.stderr)

    def means(self) -> dict[str, float]:
        """The mean of each term over the rows, in nats."""
        terms = {"prior": self.prior, "diffusion": self.diffusion, "reconstruction": self.reconstruction}
        return {name: float(term.mean()) for name, term in terms.items()}

    @classmethod
    def joined(cls, parts: Sequence[Bound]) -> Bound:
        """Concatenate the bounds of several batches."""
        errors = [part.stderr for part in parts if part.stderr is not None]
        prior, steps, last = (torch.cat([getattr(p, k) for p in parts]) for k in ("prior", "steps", "reconstruction"))
        return cls(prior, steps, last, parts[0].measure, torch.cat(errors) if errors else None)


def default_span(schedule: Schedule) -> Span:
    """The times 0 and 1, or 0.001 and 1 if the SNR at 0 is infinite, where z has no density."""
    at_zero = schedule.log_snr(torch.zeros((), dtype=torch.float64))
    return (0.0, 1.0) if bool(torch.isfinite(at_zero)) else (0.001, 1.0)


def whole_span(denoiser: Denoiser) -> Span:
    """`default_span` of its schedule, up to t = 0.999 if the denoiser is not defined at 1."""
    first, last = default_span(denoiser.schedule)
    return first, last if denoiser.defined(torch.tensor(last)) else 0.999


def level_times(schedule: Schedule, span: Span | None, steps: int) -> Tensor:
    """The times of steps + 1 levels, increasing, float64; checks the arguments.

    Raises:
        ValueError: for steps < 1, a span that is not two increasing times, an infinite SNR at the first, or an SNR that
            increases with t.
    """
    first, last = span or default_span(schedule)
    check_count(steps=steps)
    if not 0 <= first < last <= 1:
        raise ValueError(f"span must be two times, 0 <= first < last <= 1, got {first} and {last}")
    times = torch.linspace(first, last, steps + 1, dtype=torch.float64)
    log_snr = schedule.log_snr(times)
    if not bool(torch.isfinite(log_snr[0])):
        raise ValueError(f"log-SNR must be finite at the first level, t = {first}: start the span later")
    if bool((log_snr.diff() > 0).any()):
        raise ValueError("log-SNR must fall with t, and this schedule's rises")
    return times


@checked
def prior_kl(schedule: Schedule, x: Float[Tensor, "b ..."], t: Tensor) -> Float[Tensor, " b"]:
    r"""$KL(q(z_t | x) \,\|\, N(0, \alpha_t^2 + \sigma_t^2))$ in nats, which is L_T at the last level.

    $\frac12 \sum [S(\lambda)(x^2 - 1) + \log(1 + e^\lambda)]$, S the logistic function; it is 0 if z_t is independent
    of x. The prior's variance is that of z for data of unit variance: 1 if the schedule is variance preserving.

    Args:
        schedule: noise schedule.
        x: (B, ...).
        t: time, ().

    Source: Kingma et al., VDM (2021), section 3.3.
    """
    log_snr = schedule.log_snr(t.double()).to(x)
    return sum_per_example(torch.sigmoid(log_snr) * (x**2 - 1) + F.softplus(log_snr)) / 2


def check_rows(x: Tensor, cond: Tensor | None) -> None:
    """Raise for rows whose likelihood cannot be computed.

    Raises:
        ValueError: for x that is not float32 or float64, is empty or not finite, or for conditions that are not one per
            row.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be float32 or float64, got {str(x.dtype).removeprefix('torch.')}")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be (B, ...) with at least one row, got shape {tuple(x.shape)}")
    wrong = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if wrong:
        raise ValueError(f"x must be finite, got {wrong} of {len(x)} rows that are not")
    if cond is not None and (cond.ndim == 0 or len(cond) != len(x)):
        raise ValueError(f"cond must be {len(x)}, one per row, got shape {tuple(cond.shape)}")


def snr_times(
    schedule: Schedule, ends: Float[Tensor, " k"], place: Float[Tensor, "*b"]
) -> tuple[Float[Tensor, "*b"], Float[Tensor, ""]]:
    r"""Times at which $y = \log(1 + \mathrm{SNR})$ is the fraction `place` of the way from the last level to the first.

    In y the diffusion term is $\frac12 \int E[|\hat x - x|^2 + |\hat\epsilon - \epsilon|^2]\, dy$ for every
    schedule, and for data N(0, I) the integrand is the same at every y: D / 2. An infinite range of log-SNRs, as for
    alpha = 0, is a finite range of y.

    Args:
        schedule: noise schedule.
        ends: times, of which only the first and the last are used; the SNR must be finite at the first.
        place: fraction in [0, 1]; 0 is the last level.

    Returns:
        the times, and the length of the whole range of y. They carry no gradient to the schedule.

    Source: Kingma et al., VDM (2021), equation 18 and section 5.1, in y.
    """
    with torch.no_grad():
        first, last = schedule.log_snr(ends[[0, -1]])
        high, low = (torch.logaddexp(v, torch.zeros_like(v)) for v in (first, last))
        y = low + (high - low) * place
        return schedule.time(y + torch.log(-torch.expm1(-y))), high - low


def snr_rate(prediction: Prediction, x: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    r"""$\frac12 (|\hat x - x|^2 + |\hat\epsilon - \epsilon|^2)$: nats per unit of $\log(1 + \mathrm{SNR})$."""
    return edm(prediction, x, eps) * (x[0].numel() / 2)


def bound(
    denoiser: Denoiser,
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
    r"""The variational bound on log p(x) and its terms.

    With `steps` = T the model is $p(z_1) \prod_t q(z_s | z_t, x = \hat x(z_t))\, p(x | z_0)$ on T + 1 equally spaced
    levels, and the KL of every step is estimated; the variance is the posterior's or, if the denoiser learns variances,
    the learned one. With None, T is infinite: the diffusion term is
    $-\frac12 E \int \mathrm{SNR}'(t)\, |\hat x - x|^2 dt$, which depends on the schedule only through the SNR at both
    ends. The error of its estimate also does: times are drawn in equal strata of log(1 + SNR) (`snr_times`), over which
    the integrand is nearly constant for data of unit variance. DDPM with N betas is `BetaSchedule`, steps = N - 1, span
    = (1 / N, 1).

    Each step or stratum gets `samples` draws of the noise (and of the time, in continuous time), and so does the
    reconstruction; with at least two, their spread gives the standard error without bias. For densities, the control
    variate $\frac12 (|\epsilon|^2 - D)$, whose mean is 0, is subtracted from the reconstruction: it removes most of the
    noise at a high SNR, and all of it if the mean is "observed". The denoiser is evaluated in evaluation mode on
    batches of B rows, `samples` times for each term.

    Args:
        denoiser: denoiser of data on the scale of x.
        x: (B, ...), data.
        steps: number of steps T, at least 1, or None.
        strata: number of strata of log(1 + SNR) if `steps` is None; at least 1.
        samples: number of draws per term, at least 1.
        span: times of the first level and the last; by default 0 (or 0.001, where SNR is infinite at 0) and 1.
        reconstruction: p(x | z) at the first level.
        cond: (B, ...) or None.
        generator: None, one, or B, one per row.

    Raises:
        ValueError: for counts < 1, an invalid span, an infinite SNR at its first time, an increasing SNR, a network
            that predicts eps where alpha = 0 at the last level (the bound is infinite), x that is not float32 or
            float64, empty or not finite, or conditions that are not one per row.

    Source: Ho et al. (2020), equation 5; Kingma et al., VDM (2021), equations 11, 13 and 15.

    >>> from jensen.diffusion import GaussianOracle, VariancePreserving
    >>> oracle = GaussianOracle(torch.zeros(1), torch.ones(1), VariancePreserving())
    >>> found = bound(oracle, torch.zeros(1, 1), steps=4).likelihood
    >>> found.kind, bool(found.value < -0.9189)  # log N(0; 0, 1)
    ('lower bound', True)
    """
    check_count(samples=samples)
    check_count(strata=strata)
    check_rows(x, cond)
    schedule = denoiser.schedule
    times = level_times(schedule, span, strata if steps is None else steps).to(x.device)
    denoiser.check_times(times)

    def noised(t: Tensor) -> tuple[Tensor, Tensor]:
        eps = normal(x.shape, generator, like=x)
        alpha, sigma = (v.to(x) for v in denoiser.levels(t, x))
        return alpha * x + sigma * eps, eps

    def step(k: int) -> Tensor:
        """The KL of step k, or the integral of the diffusion term over stratum k, from one draw."""
        if steps is not None:
            s, t = (v.expand(len(x)) for v in times[k : k + 2])
            z, eps = noised(t)
            return step_kl(denoiser(z, t.to(x), cond), x, eps, schedule, s, t)
        draw = torch.special.ndtr(normal((len(x), 1), generator, like=times))[:, 0]  # uniform on (0, 1], per row
        at, width = snr_times(schedule, times, (strata - 1 - k + draw) / strata)
        at = rounded_down(at, x.dtype)
        z, eps = noised(at.to(times))
        rate = snr_rate(denoiser(z, at, cond), x, eps)
        return rate * (width / strata).to(rate)

    def read() -> Tensor:
        z, eps = noised(times[0].expand(len(x)))
        value = -reconstruction.log_prob(denoiser, z, x, times[0], cond)
        if reconstruction.measure == "mass":
            return value
        return value - sum_per_example(eps**2 - 1) / 2

    with evaluating(denoiser):
        draws = [torch.stack([read() for _ in range(samples)])]
        draws += [torch.stack([step(k) for _ in range(samples)]) for k in range(len(times) - 1)]
    terms = torch.stack(draws, dim=2)  # (samples, B, 1 + steps)
    error = None if samples == 1 else (terms.var(dim=0).sum(1) / samples).sqrt()
    means = terms.mean(0)
    return Bound(prior_kl(schedule, x, times[-1]), means[:, 1:], means[:, 0], reconstruction.measure, error)


@checked
def dequantize(x: Float[Tensor, "b ..."], width: float | Tensor, generator: Rng = None) -> Float[Tensor, "b ..."]:
    r"""Discrete data spread uniformly over their bins: $x + w (u - \frac12)$, u uniform on [0, 1].

    A density p of such data gives $\log P(x) \ge E_u \log p(x + w(u - \frac12)) + D \log w$ (`as_mass`).

    Args:
        x: (B, ...), bin centres.
        width: width w of a bin, positive.
        generator: None, one, or B, one per row.

    Source: Theis et al. (2016), section 3.1.
    """
    if not bool(torch.as_tensor(width > 0).all()):
        raise ValueError(f"width must be positive, got {width}")
    draw = torch.special.ndtr(normal(x.shape, generator, like=x.new_zeros((), dtype=torch.float64))).to(x)
    spread: Tensor = width * (draw - 0.5)
    return x + spread


def as_mass(density: Likelihood, log_volume: float | Tensor) -> Likelihood:
    r"""The lower bound on a log mass from the log density of dequantized data: add $\log$ of the volume of x's bin.

    Args:
        density: the likelihood of data that went through `dequantize`.
        log_volume: $D \log w$ for bins of width w in D dimensions, or (B,).

    Raises:
        ValueError: if density is already a mass.
    """
    if density.measure != "density":
        raise ValueError("density must be a likelihood of dequantized data, got a mass")
    return replace(density, value=density.value + log_volume, kind="lower bound", measure="mass")

"""Noise schedules: both ends, monotonicity, variance, and whether they define one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, bounded, close
from jensen.check.line import F64

Levels = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps times (B,) to alpha and sigma, (B,) each."""


FALL = 1e-9  # least decrease of the log-SNR from one time to the next: less is rounding
HALVINGS = 40
FEWEST = 3  # times with data and noise that transitions need


class HasLevels(Protocol):
    """A schedule as an object; its `log_snr` and `time` are checked too, where it has them."""

    def alpha_sigma(self, t: Tensor, /) -> tuple[Tensor, Tensor]: ...


def schedule(
    schedule: HasLevels | Levels,
    *,
    variance_preserving: bool = True,
    log_snr: Callable[[Tensor], Tensor] | None = None,
    time: Callable[[Tensor], Tensor] | None = None,
    transition: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    posterior: Callable[[Tensor, Tensor, Tensor, Tensor], Any] | None = None,
    times: Tensor | None = None,
    clean: float = 0.05,
    noise: float = 0.1,
    tolerance: float = 1e-6,
) -> Report:
    r"""Whether a function is a noise schedule, and whether its transitions and posterior form one process.

    The process is $q(z_t|x) = N(\alpha_t x, \sigma_t^2)$ at every time.

    - ends: $\sigma/\alpha$ is small at the first time, and $\alpha/\sqrt{\alpha^2+\sigma^2}$ at the last;
    - the SNR decreases from each time to the next, without a jump: the change of the angle $\arctan(\sigma/\alpha)$
      vanishes when the interval between two times is halved 40 times;
    - $\alpha^2 + \sigma^2 = 1$ where that is claimed;
    - `log_snr` is $\log(\alpha^2/\sigma^2)$, and `time` its inverse;
    - `transition` gives $(a_{t|s}, \sigma_{t|s})$ with $a_{t|s}\alpha_s = \alpha_t$ and
      $a_{t|s}^2\sigma_s^2 + \sigma_{t|s}^2 = \sigma_t^2$, and two of them compose to one (Chapman-Kolmogorov);
    - `posterior` is $q(z_s|z_t,x)$ by Bayes' rule: its precision is $\sigma_s^{-2} + a^2\sigma_{t|s}^{-2}$, and its
      mean weights x and $z_t$ by their precisions.

    Args:
        schedule: maps times (B,) to (alpha, sigma), or is an object with `alpha_sigma`; its `log_snr` and `time` are
            checked too, unless they are given here.
        variance_preserving: whether $\alpha^2 + \sigma^2 = 1$ is claimed.
        log_snr: maps times (B,) to log-SNRs (B,).
        time: maps log-SNRs (B,) to times (B,).
        transition: maps (s, t), each (B,) and s < t, to (a, standard deviation) of q(z_t | z_s).
        posterior: maps (z_t, x, s, t), of shapes (B, 1) and (B,), to (mean, standard deviation), or to an object with
            `mean` and `stddev`.
        times: (N,), increasing: the schedule is evaluated only there, and jumps between them are not tested; by default
            1,001 equally spaced times in [0, 1], where a plateau shorter than two intervals may be missed.
        clean: the largest $\sigma/\alpha$ at the first time.
        noise: the largest $\alpha/\sqrt{\alpha^2+\sigma^2}$ at the last time.
        tolerance: relative tolerance of all equalities.

    Raises:
        ValueError: for times that do not increase, fewer than 8 times, or levels that are not one per time.

    Source: Kingma et al., VDM (2021), section 3.1 and appendix A; Ho et al. (2020), equation 7.

    >>> cosine = lambda t: (torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2))
    >>> schedule(cosine).holds
    True

    Ten levels instead of a curve:

    >>> [e.claim.partition(":")[0] for e in schedule(lambda t: cosine((10 * t).ceil() / 10)).failed]
    ['log-SNR decreases from each of 1001 times to the next', 'no jump']

    A log_snr that uses alpha / sigma^2 as the SNR:

    >>> wrong = lambda t: torch.log(cosine(t)[0] / cosine(t)[1] ** 2)
    >>> [e.claim for e in schedule(cosine, log_snr=wrong).failed]
    ['log_snr is log(alpha^2 / sigma^2)']

    The levels of a diffusers scheduler, at its own times:

    >>> def levels(t, scheduler):
    ...     alpha_square = scheduler.alphas_cumprod.double()[(t * 1000 - 1).round().long()]
    ...     return alpha_square.sqrt(), (1 - alpha_square).sqrt()
    >>> from types import SimpleNamespace
    >>> ddpm = SimpleNamespace(alphas_cumprod=(1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0))
    >>> schedule(lambda t: levels(t, ddpm), times=torch.arange(1, 1001) / 1000).holds
    True
    """
    levels = schedule.alpha_sigma if hasattr(schedule, "alpha_sigma") else schedule
    log_snr = log_snr or getattr(schedule, "log_snr", None)
    time = time or getattr(schedule, "time", None)
    t = torch.linspace(0, 1, 1001, dtype=F64) if times is None else torch.as_tensor(times, dtype=F64)
    if t.ndim != 1 or len(t) < 8 or not bool((t.diff() > 0).all()):
        raise ValueError("times must be (N,) with at least eight increasing times")
    alpha, sigma = (v.detach().double() for v in levels(t))
    if alpha.shape != t.shape or sigma.shape != t.shape:
        raise ValueError(
            f"levels must be one per time, {tuple(t.shape)}, got {tuple(alpha.shape)} and {tuple(sigma.shape)}"
        )
    out = list(_level_evidence(alpha, sigma, variance_preserving, clean, noise, tolerance))
    if times is None:
        out.append(_jump(levels, t, torch.atan2(sigma, alpha), tolerance))
    inside = (alpha > 0) & (sigma > 0)
    inside[[0, -1]] = False
    inner = len(t) - 2
    out.append(
        Evidence(
            "number of inner times with alpha > 0 and sigma > 0",
            float(inner),
            float(inside.sum()),
            0.0,
            "at least",
        )
    )
    if int(inside.sum()) < FEWEST:
        return Report.of(out)
    t, alpha, sigma = t[inside], alpha[inside], sigma[inside]
    exact = 2 * (alpha.log() - sigma.log())
    scale = float(exact.abs().max())
    if log_snr is not None:
        out.append(close("log_snr is log(alpha^2 / sigma^2)", exact, log_snr(t), 10 * tolerance * scale))
    if time is not None:
        out.append(close("time is the inverse of log_snr", t, time(exact), 10 * tolerance))
    picked = torch.linspace(0, len(t) - 1, 12).long().unique()
    pairs = [(i, j) for n, i in enumerate(picked.tolist()) for j in picked.tolist()[n + 1 :]]
    s, u = (torch.tensor(side) for side in zip(*pairs, strict=True))
    if transition is not None:
        out += _transition_evidence(transition, t, alpha, sigma, s, u, tolerance)
    if posterior is not None:
        out += _posterior_evidence(posterior, t, alpha, sigma, s, u, tolerance)
    return Report.of(out)


def _level_evidence(
    alpha: Tensor, sigma: Tensor, preserving: bool, clean: float, noise: float, tolerance: float
) -> Iterator[Evidence]:
    total = torch.sqrt(alpha**2 + sigma**2)
    yield bounded("alpha and sigma are at least 0", torch.minimum(alpha, sigma), 0.0, relation="at least")
    yield bounded("sigma / alpha at the first time", sigma[0] / alpha[0], clean, relation="at most")
    yield bounded("alpha / sqrt(alpha^2 + sigma^2) at the last time", alpha[-1] / total[-1], noise, relation="at most")
    fall = 2 * (sigma / alpha).log().diff()
    claim = f"log-SNR decreases from each of {len(alpha)} times to the next: smallest decrease"
    yield bounded(claim, fall, FALL, relation="at least")
    if preserving:
        yield close("variance is preserved: alpha^2 + sigma^2 = 1", 1.0, total**2, tolerance)


def _jump(levels: Levels, t: Tensor, angle: Tensor, tolerance: float) -> Evidence:
    """The change of the angle after bisecting each interval towards the larger change: 0 for a continuous function."""
    (start, end), (low, high) = ((v[:-1], v[1:]) for v in (t, angle))
    for _ in range(HALVINGS):
        middle = (start + end) / 2
        alpha, sigma = (v.detach().double() for v in levels(middle))
        at = torch.atan2(sigma, alpha)
        first = (at - low).abs() > (high - at).abs()
        start, low = torch.where(first, start, middle), torch.where(first, low, at)
        end, high = torch.where(first, middle, end), torch.where(first, at, high)
    rest = (high - low).abs()
    return bounded(
        "no jump: change of arctan(sigma/alpha) over an interval halved 40 times",
        rest,
        0.0,
        max(tolerance, 1e-6),
        relation="at most",
    )


def _transition_evidence(
    transition: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    s: Tensor,
    u: Tensor,
    tolerance: float,
) -> Iterator[Evidence]:
    a, spread = transition(t[s], t[u])
    yield close("transition: a alpha_s = alpha_t", 1.0, a * alpha[s] / alpha[u], tolerance)
    variance = (a**2 * sigma[s] ** 2 + spread**2) / sigma[u] ** 2
    yield close("transition: a^2 sigma_s^2 + sigma_{t|s}^2 = sigma_t^2", 1.0, variance, tolerance)
    middle = (s + u) // 2
    two = (middle > s) & (middle < u)
    s, u, middle = s[two], u[two], middle[two]
    (a, d), (a_1, d_1), (a_2, d_2) = (transition(t[p], t[q]) for p, q in ((s, u), (s, middle), (middle, u)))
    yield close("two transitions compose: their factors multiply", 1.0, a_1 * a_2 / a, tolerance)
    yield close("two transitions compose: their variances add", 1.0, ((a_2 * d_1) ** 2 + d_2**2) / d**2, tolerance)


def _posterior_evidence(
    posterior: Callable[[Tensor, Tensor, Tensor, Tensor], Any],
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    s: Tensor,
    u: Tensor,
    tolerance: float,
) -> Iterator[Evidence]:
    z, x = (torch.linspace(*ends, len(s), dtype=F64)[:, None] for ends in ((-2.0, 3.0), (1.5, -0.5)))
    found = posterior(z, x, t[s], t[u])
    mean, deviation = found if isinstance(found, tuple) else (found.mean, found.stddev)
    a = alpha[u] / alpha[s]
    forward = (sigma[u] ** 2 - a**2 * sigma[s] ** 2)[:, None]
    alpha_s, sigma_s, a = (v[:, None] for v in (alpha[s], sigma[s], a))
    precision = sigma_s**-2 + a**2 / forward
    exact = (alpha_s * x / sigma_s**2 + a * z / forward) / precision
    yield close("posterior: its mean is that of Bayes' rule", exact, mean, tolerance * float(exact.abs().max()))
    ratio = torch.as_tensor(deviation).double().expand_as(exact) ** 2 * precision
    yield close("posterior: its variance over that of Bayes' rule", 1.0, ratio, tolerance)

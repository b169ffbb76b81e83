"""The forward process and its exact conditionals, from the schedule alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from jensen.core.shapes import check_broadcast, checked, right_pad
from jensen.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Process:
    r"""$q(z_t | x)$, $q(z_t | z_s)$ and $q(z_s | z_t, x)$ for $0 \le s < t \le 1$.

    Source: Kingma et al. (2021), equations 1, 2 and appendix A.2.

    >>> from jensen.diffusion import CosineSchedule
    >>> q = Process(CosineSchedule()).marginal(torch.ones(1, 2), torch.tensor([1.0]))
    >>> q.mean.abs().max().item() < 1e-6, q.stddev.tolist()
    (True, [[1.0, 1.0]])
    """

    schedule: Schedule

    @checked
    def marginal(self, x: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Normal:
        """q(z_t | x) = N(alpha_t x, sigma_t^2), elementwise, of the shape of x."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return Normal(right_pad(alpha, x) * x, right_pad(sigma, x).expand_as(x), validate_args=False)

    def transition(
        self, s: Float[Tensor, "*b"], t: Float[Tensor, "*b"]
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        r"""$a_{t|s} = \alpha_t/\alpha_s$ and $\sigma_{t|s} = (\sigma_t^2 - a_{t|s}^2 \sigma_s^2)^{1/2}$.

        The factor and the standard deviation of $q(z_t | z_s)$.

        Raises:
            ValueError: unless s < t everywhere, and the SNR falls from s to t.
        """
        if not bool((s < t).all()):
            raise ValueError("s must be below t: a transition goes from s to a later t")
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.schedule.alpha_sigma(s), self.schedule.alpha_sigma(t)
        a = alpha_t / alpha_s
        square = sigma_t**2 - a**2 * sigma_s**2
        if bool((square < -1e-4 * sigma_t**2).any()):  # slightly negative values are rounding errors
            raise ValueError("SNR must fall from s to t, and this schedule's rises")
        return a, torch.sqrt(square.clamp_min(0))

    @checked
    def posterior(self, z_t: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], s: Tensor, t: Tensor) -> Normal:
        r"""$q(z_s | z_t, x)$: mean $\frac{a\sigma_s^2}{\sigma_t^2} z_t + \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} x$,
        standard deviation $\sigma_{t|s}\sigma_s/\sigma_t$; s and t are (B,) or ().
        """
        check_broadcast(s=s, t=t, rows=z_t.flatten(1)[:, 0])
        a, spread = self.transition(s, t)
        (alpha_s, sigma_s), (_, sigma_t) = self.schedule.alpha_sigma(s), self.schedule.alpha_sigma(t)
        of_z, of_x, deviation = (
            right_pad(v.to(x), x)
            for v in (a * sigma_s**2 / sigma_t**2, alpha_s * spread**2 / sigma_t**2, spread * sigma_s / sigma_t)
        )
        return Normal(of_z * z_t + of_x * x, deviation.expand_as(x), validate_args=False)


@dataclass(frozen=True, eq=False)
class ImplicitProcess:
    r"""The family $q_\sigma$ of DDIM: processes with the marginals of `Process` that are Markovian only given x.

    Between neighbouring levels $s < t$, with any standard deviation $d_t$, $q_\sigma(z_s | z_t, x) = N(\alpha_s x +
    \sqrt{\sigma_s^2 - d_t^2}\, (z_t - \alpha_t x) / \sigma_t,\ d_t^2)$, which makes every $q_\sigma(z_t |
    x)$ equal $N(\alpha_t x, \sigma_t^2)$ by induction from the last level down. d = 0 is deterministic given x, and the
    d of `Process.posterior` is the Markov chain. The model replaces x by its prediction $f(z_t)$; its last step, from
    the first level to data, is $N(f(z_{t_1}), d_1^2)$.

    The paper's $x_t, \bar\alpha_t, \sigma_t$ are $z_t, \alpha_t^2, d_t$ here.

    Args:
        schedule: noise schedule, which gives the marginals.
        times: (T,), the levels, increasing, T at least 2.
        deviations: (T,), standard deviations: $d_1$ of the last step, from the first level to the data, then $d_t$ of
            the step from each later level to the level below.

    Raises:
        ValueError: for times that do not increase in [0, 1], deviations that are not one per time and at least 0, and
            for $d_t^2 > \sigma_s^2$, which is $1 - \bar\alpha_{t-1}$ for a variance-preserving schedule.

    Source: Song et al., DDIM (2021), equations 6, 7 and 10; lemma 1 for the marginals.

    >>> from jensen.diffusion import CosineSchedule
    >>> family = ImplicitProcess.of_eta(CosineSchedule(), torch.tensor([0.25, 0.5, 0.75]), eta=0.0)
    >>> family.backward(torch.zeros(1, 2), torch.zeros(1, 2), 1).stddev.tolist()
    [[0.0, 0.0]]
    """

    schedule: Schedule
    times: Tensor
    deviations: Tensor

    def __post_init__(self) -> None:
        times, deviations = self.times, self.deviations
        if times.ndim != 1 or len(times) < 2 or not bool((times.diff() > 0).all()):
            raise ValueError("times must be one row of at least two, increasing")
        if not bool(((times >= 0) & (times <= 1)).all()):
            raise ValueError(f"times must lie in [0, 1], got {times.min().item():g} to {times.max().item():g}")
        if deviations.shape != times.shape or not bool((deviations >= 0).all()):
            raise ValueError(f"deviations must be {len(times)}, one per time, each at least 0")
        _, sigma = self.schedule.alpha_sigma(times)
        excess = deviations[1:] ** 2 > sigma[:-1] ** 2 * (1 + 1e-6)
        if bool(excess.any()):
            k = int(excess.nonzero()[0]) + 1
            raise ValueError(
                f"sigma_t^2 must be at most 1 - abar_(t-1), got {float(deviations[k]) ** 2:.4g} "
                f"above {float(sigma[k - 1]) ** 2:.4g} at level {k}"
            )

    @classmethod
    @checked
    def of_eta(cls, schedule: Schedule, times: Float[Tensor, " t"], eta: float) -> ImplicitProcess:
        """The members between deterministic (eta = 0) and Markov (eta = 1); the last step, to the data, adds no noise.

        Source: Song et al., DDIM (2021), equation 16.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        _, spread = Process(schedule).transition(times[:-1], times[1:])
        _, sigma = schedule.alpha_sigma(times)
        return cls(schedule, times, eta * torch.cat([torch.zeros_like(sigma[:1]), spread * sigma[:-1] / sigma[1:]]))

    def _levels(self, level: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """alpha_s, sigma_s, alpha_t, sigma_t, d_t and sqrt(sigma_s^2 - d_t^2), at t = times[level]."""
        if not 1 <= level < len(self.times):
            raise ValueError(f"level must be from 1 to {len(self.times) - 1}, got {level}")
        alpha, sigma = self.schedule.alpha_sigma(self.times[level - 1 : level + 1])
        kept = torch.sqrt((sigma[0] ** 2 - self.deviations[level] ** 2).clamp_min(0))
        alpha_s, sigma_s, alpha_t, sigma_t, deviation, kept = (
            v.to(x) for v in (alpha[0], sigma[0], alpha[1], sigma[1], self.deviations[level], kept)
        )
        return alpha_s, sigma_s, alpha_t, sigma_t, deviation, kept

    @checked
    def marginal(self, x: Float[Tensor, "b ..."], level: int) -> Normal:
        """q(z_t | x) at t = times[level], the same for the whole family."""
        return Process(self.schedule).marginal(x, self.times[level].to(x).expand(len(x)))

    @checked
    def backward(self, z_t: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], level: int) -> Normal:
        """q(z_s | z_t, x) from t = times[level], level at least 1, to the level below."""
        alpha_s, _, alpha_t, sigma_t, deviation, kept = self._levels(level, x)
        mean = alpha_s * x + kept / sigma_t * (z_t - alpha_t * x)
        return Normal(mean, deviation.expand_as(x), validate_args=False)

    @checked
    def forward(self, z_s: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], level: int) -> Normal:
        r"""q(z_t | z_s, x) up to t = times[level] from the level below, by Bayes' rule.

        Mean $\alpha_t x + \frac{\sigma_t}{\sigma_s^2} \sqrt{\sigma_s^2 - d_t^2}\, (z_s - \alpha_s x)$, deviation
        $\sigma_t d_t / \sigma_s$. It depends on x, so the process is not a Markov chain, except for one choice of d. If
        $\sigma_s = 0$, $z_s = \alpha_s x$ adds nothing to x, and it is $N(\alpha_t x, \sigma_t^2)$.
        """
        alpha_s, sigma_s, alpha_t, sigma_t, deviation, kept = self._levels(level, x)
        if bool(sigma_s == 0):
            return Normal(alpha_t * x, sigma_t.expand_as(x), validate_args=False)
        mean = alpha_t * x + sigma_t * kept / sigma_s**2 * (z_s - alpha_s * x)
        return Normal(mean, (sigma_t * deviation / sigma_s).expand_as(x), validate_args=False)

    @checked
    def last(self, x: Float[Tensor, "b ..."]) -> Normal:
        """The model's step from the first level to data, N(f(z), d_1^2), for its prediction x = f(z) there."""
        return Normal(x, self.deviations[0].to(x).expand_as(x), validate_args=False)

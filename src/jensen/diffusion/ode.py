"""The log-likelihood of the probability-flow ODE, by the instantaneous change of variables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torchdiffeq import odeint

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng, normal
from jensen.core.shapes import sum_per_example
from jensen.core.types import Likelihood
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.likelihood import Span, check_rows, level_times
from jensen.diffusion.samplers.probability_flow import velocity


@dataclass(frozen=True)
class FlowLikelihood:
    r"""The terms of $\log p(x) = \log p(z_1) + \int \nabla\cdot\dot z\, dt + D \log \alpha$, nats per example.

    Attributes:
        prior: (B,) $\log N(z; 0, \alpha^2 + \sigma^2)$ where the path ends, at the last time.
        divergence: (B,) divergence of the velocity, integrated along the path from x.
        scale: (B,) $D \log \alpha$ at the first time: the path starts at $\alpha x$.
        latent: (B, ...) the end of the path.
        evaluations: number of evaluations of the denoiser.
        stderr: (B,) standard error of Hutchinson's estimate; None for the exact trace.
    """

    prior: Float[Tensor, " b"]
    divergence: Float[Tensor, " b"]
    scale: Float[Tensor, " b"]
    latent: Float[Tensor, "b ..."]
    evaluations: int
    stderr: Float[Tensor, " b"] | None = None

    @property
    def likelihood(self) -> Likelihood:
        """Log p(x) under the ODE's model; an estimate if the trace is estimated."""
        value = self.prior + self.divergence + self.scale
        return Likelihood(value, "exact" if self.stderr is None else "estimate", "density", self.stderr)


def _row_norm(state: tuple[Tensor, ...]) -> Tensor:
    """The largest root mean square over rows and parts: every row is solved as accurately as it would be alone."""
    return torch.stack([part.flatten(1).square().mean(1).max() for part in state]).max().sqrt()


@torch.no_grad()
def ode_log_likelihood(
    denoiser: Denoiser,
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
    r"""Log-density of x, in nats, under the model that the probability-flow ODE samples.

    That model is a draw of $N(0, \alpha^2 + \sigma^2)$ at the last time, carried by
    $\dot z = \dot\alpha \hat x + \dot\sigma \hat\epsilon$ to the first, where $x = z / \alpha$. With the exact denoiser
    it is the density of the data up to two approximations: the prior is not exactly the marginal at the last time, and
    the marginal at the first time still has a little noise. It may be above or below the variational bound of the same
    denoiser: the two belong to different models.

    The trace of the velocity's Jacobian is computed exactly by D vector-Jacobian products, or estimated by Hutchinson's
    $v^\top J v$ with `probes` random sign vectors, drawn once for the whole path; their spread gives the standard
    error. The result carries no gradient; the denoiser is evaluated in evaluation mode.

    Args:
        denoiser: denoiser of data on the scale of x, differentiable in z.
        x: (B, ...), data.
        trace: "exact" or "hutchinson".
        probes: number of Hutchinson's random vectors, at least 2.
        span: times of the ends of the path; by default 0 (or 0.001, where SNR is infinite at 0) and 1.
        rtol, atol: tolerances of the Dormand-Prince solver, met by every row; all rows of the batch share the steps.
        cond: (B, ...) or None.
        generator: random generator for Hutchinson's signs: None, one, or B, one per row.

    Raises:
        ValueError: for an unknown trace, fewer than 2 probes, tolerances that are not positive, an invalid span, a
            network whose output is singular at one of its ends, rows that `bound` refuses, or a velocity that is not
            finite.

    Source: Song et al. (2021), appendix D.2, equation 39; Grathwohl et al. (2019), section 3.1.

    >>> from jensen.diffusion import GaussianOracle, VariancePreserving
    >>> oracle = GaussianOracle(torch.zeros(1), torch.ones(1), VariancePreserving())
    >>> round(float(ode_log_likelihood(oracle, torch.zeros(1, 1).double()).likelihood.value), 3)  # log N(0; 0, 1)
    -0.919
    """
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace must be 'exact' or 'hutchinson', got {trace!r}")
    if trace == "hutchinson" and probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol must be positive, got {rtol} and {atol}")
    check_rows(x, cond)
    ends = level_times(denoiser.schedule, span, 1).to(x)
    denoiser.check_times(ends)
    dims = x[0].numel()
    directions = _signs(x, probes, generator) if trace == "hutchinson" else _axes(x)
    evaluations = 0

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            speed = velocity(
                denoiser, z, t.clamp(ends[0], ends[1]), cond
            )  # the solver's first trial step may go too far
            traces = [_quadratic(speed, z, v, keep=k < len(directions) - 1) for k, v in enumerate(directions)]
        return speed.detach(), torch.stack(traces, dim=1)

    alpha, _ = denoiser.schedule.alpha_sigma(ends[0])
    start = (alpha * x, x.new_zeros(len(x), len(directions)))
    options = {"norm": _row_norm, "step_t": ends[1:]}  # the last step ends exactly at the end of the path
    with evaluating(denoiser):
        try:
            path = odeint(slope, start, ends, rtol=rtol, atol=atol, method="dopri5", options=options)
        except AssertionError as stuck:  # torchdiffeq's error for a step size of 0
            raise ValueError(
                f"the velocity must be finite along the path from x, got a step size of 0: {stuck}"
            ) from stuck
    latent, traces = (part[-1].detach() for part in path)
    spread = torch.stack(denoiser.schedule.alpha_sigma(ends[1])).norm()
    log_prior = torch.distributions.Normal(torch.zeros_like(spread), spread).log_prob(latent)
    prior = sum_per_example(log_prior)
    scale = (dims * alpha.log()).expand(len(x))
    if trace == "exact":
        return FlowLikelihood(prior, traces.sum(1), scale, latent, evaluations)
    stderr = traces.std(1) / probes**0.5
    return FlowLikelihood(prior, traces.mean(1), scale, latent, evaluations, stderr)


def _quadratic(speed: Tensor, z: Tensor, v: Tensor, *, keep: bool) -> Tensor:
    r"""$v^\top J v$ of each row, (B,), with J the Jacobian of the velocity at z."""
    (product,) = torch.autograd.grad(speed, z, v, retain_graph=keep)
    return sum_per_example(product * v)


def _axes(x: Tensor) -> Tensor:
    """The unit vectors of the event space, each for every row: (D, B, ...)."""
    dims = x[0].numel()
    return torch.eye(dims).to(x).reshape(dims, 1, *x.shape[1:]).expand(dims, *x.shape)


def _signs(x: Tensor, probes: int, generator: Rng) -> Tensor:
    """Vectors of independent signs: (probes, B, ...)."""
    draws = normal((len(x), probes, *x.shape[1:]), generator, like=x)
    return torch.where(draws < 0, -1.0, 1.0).to(x).transpose(0, 1)

r"""The best mean-field Gaussian of each datum, by quasi-Newton ascent with a line search per datum.

Each q is a row of means m and log standard deviations $\rho$, (B, 2M). The bound is a mean over draws
$z = m + e^\rho \epsilon$ of fixed noise plus the entropy in closed form, a deterministic function of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

MEMORY = 12  # latest steps that determine the curvature
HALVINGS = 30  # of a step before the ascent of that datum stops
RISE = 1e-4  # fraction of the increase predicted by the gradient that a step must achieve (Armijo)
STILL = 1e-9  # predicted increase in nats below which a datum has converged
STRATA = 64  # number of consecutive sorted radii averaged to one

Objective = Callable[[Tensor], Tensor]
"""Maps latents (S, B, M) to log p(x, z), (S, B)."""


def noise(samples: int, dims: int, like: Tensor) -> Float[Tensor, "s m"]:
    r"""Standard normal draws with exact first two moments, so that the mean of a quadratic function is exact.

    Pairs $\pm r \sqrt{M / E r^2}\, u$ with directions u of random orthogonal bases and radii r from equal strata of the
    distribution of the radius of a normal draw. The number of draws is rounded up to whole bases, a multiple of 2 M.

    >>> e = noise(8, 3, torch.zeros(()))
    >>> len(e), bool(e.mean(0).abs().max() < 1e-6), bool((e.T @ e / len(e) - torch.eye(3)).abs().max() < 1e-6)
    (12, True, True)
    """
    bases = -(-samples // (2 * dims))
    normals = torch.randn(bases, STRATA, dims, dtype=torch.float64, device=like.device)
    radii = normals.square().sum(-1).flatten().sort().values.view(bases, STRATA).mean(1)
    radii = (radii / radii.mean() * dims).sqrt()
    directions, _ = torch.linalg.qr(torch.randn(bases, dims, dims, dtype=torch.float64, device=like.device))
    half = (radii[:, None, None] * directions).flatten(0, 1)
    return torch.cat([half, -half]).to(like)


@torch.enable_grad()
def climb(log_joint: Objective, at: Float[Tensor, "b p"], eps: Float[Tensor, "s m"]) -> tuple[Tensor, Tensor]:
    """The bound up to a constant, (B,) float64, and its gradient, (B, 2M)."""
    at = at.detach().requires_grad_()
    mean, log_std = at.chunk(2, dim=1)
    value = log_joint(mean + log_std.exp() * eps[:, None]).double().mean(0) + log_std.double().sum(1)
    (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope


def newton_like(at: Float[Tensor, "b p"], slope: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
    r"""A positive diagonal preconditioner: the natural gradient with the curvature that the gradient implies.

    With $g = \partial_\rho \mathcal L$ the mean curvature of $-\log p$ is $(1 - g) / s^2$ in each coordinate. Where
    that is more than $1 / s^2$ the mean's step is $s^2 / (1 - g)$ times its gradient and $s^2$ becomes $s^2 / (1 - g)$:
    the optimum of a Gaussian model with independent coordinates. Elsewhere $s^2$ grows by at most $1 + g$.
    """
    log_std, g = at.chunk(2, dim=1)[1], slope.chunk(2, dim=1)[1]
    size = g.abs()
    of_mean = (2 * log_std).exp() / (1 + (-g).clamp_min(0))
    of_log_std = torch.where(size > 1e-3, torch.log1p(size) / size, 1 - size / 2) / 2
    return torch.cat([of_mean, of_log_std], 1)


@dataclass
class _Curvature:
    """Latest steps and gradient changes of each datum; changes of positive curvature are ignored.

    Source: Nocedal & Wright (2006), algorithm 7.4.
    """

    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def learn(self, step: Tensor, change: Tensor) -> None:
        bend = (step * change).sum(1)
        known = bend > torch.finfo(step.dtype).eps * step.norm(dim=1) * change.norm(dim=1)
        self.steps.append(step)
        self.changes.append(change)
        self.weights.append(torch.where(known, 1 / torch.where(known, bend, 1), 0))
        for history in (self.steps, self.changes, self.weights):
            del history[:-MEMORY]

    def step(self, slope: Tensor, diagonal: Tensor) -> Tensor:
        """The quasi-Newton step, by the two loops of L-BFGS."""
        past = list(zip(self.steps, self.changes, self.weights, strict=True))
        shares = []
        for step, change, weight in reversed(past):
            shares.append(weight * (step * slope).sum(1))
            slope = slope - shares[-1][:, None] * change
        out = diagonal * slope
        for (step, change, weight), share in zip(past, reversed(shares), strict=True):
            out = out + (share - weight * (change * out).sum(1))[:, None] * step
        return out


def ascend(
    log_joint: Objective, start: Float[Tensor, "b p"], eps: Float[Tensor, "s m"], steps: int, rate: float
) -> Float[Tensor, "b p"]:
    """Maximise the bound of each row until it has converged, no step increases it, or `steps` steps were made.

    Args:
        log_joint: log p(x, z) of latents (S, B, M).
        start: initial rows.
        eps: noise of the draws.
        steps: maximum number of steps.
        rate: size of the first step that is tried, relative to a full step.
    """
    at, (value, slope) = start, climb(log_joint, start, eps)
    moving, curvature = torch.ones(len(at), dtype=torch.bool, device=at.device), _Curvature()
    seen = torch.finfo(at.dtype).eps  # relative increase that rounding hides
    for _ in range(steps):
        step = curvature.step(slope, newton_like(at, slope))
        promise = (step * slope).double().sum(1)
        moving = moving & (promise > STILL + seen * value.abs())  # false for nan
        if not bool(moving.any()):
            break
        new, new_value, new_slope, moving = _search(log_joint, at, value, slope, rate * step, promise, moving, eps)
        curvature.learn(new - at, slope - new_slope)
        at, value, slope = new, new_value, new_slope
    return at


def _search(
    log_joint: Objective,
    at: Tensor,
    value: Tensor,
    slope: Tensor,
    step: Tensor,
    promise: Tensor,
    moving: Tensor,
    eps: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take, for each datum that has not converged, the longest halved step with a sufficient increase; returns which
    data moved.
    """
    found, found_value, found_slope = at, value, slope
    searching, share = moving, 1.0
    for _ in range(HALVINGS):
        trial = torch.where(searching[:, None], at + share * step, at)
        trial_value, trial_slope = climb(log_joint, trial, eps)
        risen = trial_value - value > RISE * share * promise
        taken = searching & risen & trial_slope.isfinite().all(1)
        found = torch.where(taken[:, None], trial, found)
        found_slope = torch.where(taken[:, None], trial_slope, found_slope)
        found_value = torch.where(taken, trial_value, found_value)
        searching, share = searching & ~taken, share / 2
        if not bool(searching.any()):
            break
    return found, found_value, found_slope, moving & ~searching


def left_to_win(slopes: tuple[Tensor, Tensor], at: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
    r"""Nats that one more natural-gradient step would gain, $\frac12 g^\top F^{-1} g$ for Fisher information F of q.

    $\frac12 \sum (s^2 g_m^2 + g_\rho^2 / 2)$, to second order the distance from the optimum if p's coordinates are
    independent given x. Two independent estimates of the gradient make it unbiased; noise may make it negative.
    """
    std = at.chunk(2, dim=1)[1].exp()
    first, second = (torch.cat([std * g.chunk(2, 1)[0], g.chunk(2, 1)[1] / 2**0.5], 1).double() for g in slopes)
    return (first * second).sum(1) / 2

"""Denoising losses: minimal at the exact denoiser, and a weight times |x_hat - x|^2 for every parameterization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, bounded, close
from jensen.check.line import F64, Line, mixture, rows_alone
from jensen.check.samplers import two_modes
from jensen.core.shapes import right_pad
from jensen.diffusion import Denoiser, MixtureOracle, Prediction

Loss = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]
"""Maps (denoiser, x, t, eps) to one number per row, (B,)."""

SMALL = 1e-6
VIEWS: dict[str, Callable[..., Prediction]] = {
    "x": Prediction.of_x,
    "eps": Prediction.of_eps,
    "v": Prediction.of_v,
    "flow": Prediction.of_flow,
}
DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "1": torch.ones_like,
    "z": lambda z: z,
    "sin 2z": lambda z: torch.sin(2 * z),
}


class Moved(Denoiser):
    """An oracle whose prediction of x is moved by h g(z), expressed in one parameterization."""

    def __init__(self, oracle: Denoiser, g: Callable[[Tensor], Tensor], h: float | Tensor, view: str = "x"):
        super().__init__()
        self.oracle, self.g, self.h, self.view = oracle, g, h, view
        self.schedule, self.null = oracle.schedule, None

    def forward(self, z_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        p = self.oracle(z_t, t)
        moved = Prediction.of_x(p.x + self.h * self.g(z_t), z_t, p.alpha, p.sigma)
        return VIEWS[self.view](getattr(moved, self.view), z_t, p.alpha, p.sigma)


def of_prediction(loss: Callable[[Prediction, Tensor, Tensor], Tensor]) -> Loss:
    """Convert a loss of (prediction, x, eps), such as jensen's, into one of (denoiser, x, t, eps), which noises x."""

    def full(denoiser: Denoiser, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        alpha, sigma = (right_pad(v, x) for v in denoiser.schedule.alpha_sigma(t))
        return loss(denoiser(alpha * x + sigma * eps, t), x, eps)

    return full


def denoising_loss(
    loss: Loss,
    oracle: MixtureOracle | None = None,
    *,
    weight: Callable[[Tensor], Tensor] | None = None,
    times: tuple[float, ...] = (0.2, 0.5, 0.8),
) -> Report:
    r"""Whether a denoising loss is minimal at the exact denoiser, and a weight $w(t)$ on $|\hat x - x|^2$.

    At each time its mean over x and $\epsilon$ is taken by quadrature, for the oracle and for the oracle moved by
    $h g(z_t)$ with three functions g. It must be minimal at h = 0, and its gradient by autograd must be that of its
    value (no term is detached). Every quadratic loss of x, $\epsilon$, v, the flow or the score is
    $w(t)\,|\hat x - x|^2$ with one w for all predictions, for example
    $|\hat\epsilon - \epsilon|^2 = \mathrm{SNR}\,|\hat x - x|^2$: this is checked row by row, and the loss must be the
    same in whichever parameterization the prediction is given.

    Args:
        loss: (denoiser, x, t, eps) -> (B,): it noises x (B, 1) to t (B,) with eps (B, 1) and calls
            `denoiser(z_t, t)`, which returns `.x`, `.eps`, `.v`, `.flow` and `.score`. `of_prediction` converts a loss
            of (prediction, x, eps).
        oracle: exact denoiser in one dimension; two unequal modes under the cosine schedule by default.
        weight: the claimed w, a function of times (B,), or None.
        times: the times of the test, inside (0, 1).

    Raises:
        ValueError: for an oracle of more than one dimension, a time of 0 or 1, or a loss that is not one number per
            row.

    Source: Ho et al. (2020), equation 14; Kingma et al., VDM (2021), equation 13; Salimans & Ho (2022), section 4.

    >>> def mine(denoiser, x, t, eps):
    ...     alpha, sigma = denoiser.schedule.alpha_sigma(t)
    ...     z = alpha[:, None] * x + sigma[:, None] * eps
    ...     return (denoiser(z, t).eps - eps).square().mean(1)
    >>> snr = lambda t: 1 / torch.tan(t * torch.pi / 2) ** 2
    >>> denoising_loss(mine, weight=snr).holds
    True

    With the sign of v reversed:

    >>> def wrong(denoiser, x, t, eps):
    ...     alpha, sigma = (v[:, None] for v in denoiser.schedule.alpha_sigma(t))
    ...     return (denoiser(alpha * x + sigma * eps, t).v - (sigma * x - alpha * eps)).square().mean(1)
    >>> denoising_loss(wrong).failed[0].claim
    'the mean loss is minimal at the exact denoiser, t = 0.2'
    """
    oracle = oracle or two_modes()
    if oracle.means.shape[1] != 1:
        raise ValueError(f"the oracle must have one dimension, got {oracle.means.shape[1]}")
    if not all(0 < t < 1 for t in times) or not times:
        raise ValueError(f"times must lie inside (0, 1), got {times}")
    reach = 12 * float(oracle.variances.max().sqrt())
    span = (float(oracle.means.min()) - reach, float(oracle.means.max()) + reach)
    data = Line.of(_density(oracle), span, 161)
    noise = Line.of(lambda e: -e.square() / 2, (-10.0, 10.0), 81)
    mass = (data.mass[:, None] * noise.mass).reshape(-1)
    live = mass > 1e-15 * mass.max()
    x, eps = data.x.repeat_interleave(81, 0)[live], noise.x.repeat(161, 1)[live]
    return Report.of(e for t in times for e in _evidence(loss, oracle, weight, x, eps, mass[live], t))


def _density(oracle: MixtureOracle) -> Callable[[Tensor], Tensor]:
    return mixture(oracle.weights, oracle.means[:, 0], oracle.variances[:, 0].sqrt())


def _evidence(
    loss: Loss,
    oracle: MixtureOracle,
    weight: Callable[[Tensor], Tensor] | None,
    x: Tensor,
    eps: Tensor,
    mass: Tensor,
    time: float,
) -> Iterator[Evidence]:
    t, at = torch.full((len(x),), time, dtype=F64), f"t = {time:g}"
    alpha, sigma = (float(v) for v in oracle.schedule.alpha_sigma(t[:1]))
    z = alpha * x + sigma * eps

    def rows(denoiser: Denoiser) -> Tensor:
        values: Any = loss(denoiser, x, t, eps)
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"a loss must be one number per row, ({len(x)},), got {shape}")
        return values

    least = rows(Moved(oracle, torch.ones_like, 0.0)).detach()
    both = [[mass @ rows(Moved(oracle, g, h)).detach() for h in (0.3, -0.3)] for g in DIRECTIONS.values()]
    up, down = torch.tensor(both, dtype=F64).T
    gap = torch.minimum(up, down) - mass @ least
    size = float((up + down).max())
    yield bounded(f"the mean loss is minimal at the exact denoiser, {at}", gap, SMALL * size, relation="at least")
    yield close(f"at the exact denoiser the losses for +h g and -h g are equal, {at}", up, down, 1e-5 * size)
    moved = Moved(oracle, torch.sin, 0.5)
    values = rows(moved).detach()
    error = (moved(z, t).x - x)[:, 0] ** 2
    found = float((mass @ values) / (mass @ error))
    of = f"the loss is w |x_hat - x|^2 with the same w for every row, {at}"
    small = SMALL * float(values.max())
    yield close(of, found * error, values, small)
    if weight is not None:
        wanted = float(weight(t[:1])[0])
        yield close(f"weight w(t), {at}", wanted, found, SMALL * abs(wanted))
    for view in VIEWS:
        other = rows(Moved(oracle, torch.sin, 0.5, view)).detach()
        yield close(f"the loss is the same for a prediction given as {view}, {at}", values, other, small)
    h = torch.tensor(0.4, dtype=F64, requires_grad=True)
    value = mass @ rows(Moved(oracle, torch.sin, h))
    slope = torch.autograd.grad(value, h)[0] if value.requires_grad else torch.zeros(())
    ahead, behind = (mass @ rows(Moved(oracle, torch.sin, 0.4 + d)).detach() for d in (1e-3, -1e-3))
    yield close(
        f"the loss's gradient by autograd is its numerical derivative, {at}",
        (ahead - behind) / 2e-3,
        slope,
        SMALL * size,
    )
    picked = torch.linspace(0, len(x) - 1, 8).long()

    def alone(index: Tensor) -> Tensor:
        r = picked[index]
        return loss(moved, x[r], t[r], eps[r])

    yield rows_alone(f"a row's loss does not depend on the other rows, {at}", alone)

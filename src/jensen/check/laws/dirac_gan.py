r"""The Dirac-GAN: the orbits of the smallest adversarial game under each update rule and each regulariser.

Every trial takes `make`, called as `jensen.adversarial.DiracGAN` is: an `Objective` of players "generator" (theta) and
"critic" (psi), in this order. Eigenvalues are measured through autograd and through the real `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jensen.adversarial import DiracGAN, change_along_flow, eigenvalues, logistic, stability, trajectory, vector_field
from jensen.adversarial.dirac import (
    alternating_eigenvalues,
    consensus_eigenvalues,
    consensus_step_limit,
    extragradient_eigenvalues,
    flow_eigenvalues,
    optimistic_eigenvalues,
    penalty_step_limit,
    simultaneous_eigenvalues,
)
from jensen.check.evidence import Claims, Evidence, bounded, close
from jensen.check.law import Law, law
from jensen.check.line import F64, f64
from jensen.core.objective import Objective
from jensen.core.types import Phase
from jensen.training import consensus

Make = Callable[..., Objective]


@dataclass(frozen=True)
class Payoff:
    """F as `make` takes it, |f'(0)| = -f'(0), f''(0), and f' itself."""

    name: str
    f: Any
    speed: float
    curvature: float
    derivative: Callable[[Tensor], Tensor]

    @property
    def flow(self) -> tuple[complex, complex]:
        return flow_eigenvalues(-self.speed)


PAYOFFS = (
    Payoff("logistic", logistic, 0.5, -0.25, lambda t: -torch.sigmoid(t)),
    Payoff("Wasserstein", "wasserstein", 1.0, 0.0, lambda t: -torch.ones_like(t)),
)
STEPS = (0.1, 0.4, 1.0)
START = (1.0, 0.6)
TIGHT = 1e-6


def _pair(claim: str, expected: Sequence[complex], found: Tensor) -> Claims:
    """Eigenvalues, real and imaginary parts apart."""
    e, m = (
        torch.tensor(sorted(values, key=lambda v: (round(v.real, 5), v.imag)), dtype=torch.complex128)
        for values in (expected, found.tolist())
    )
    yield close(f"{claim}: real part", e.real, m.real, TIGHT)
    yield close(f"{claim}: imaginary part", e.imag, m.imag, TIGHT)


def _norms(path: Tensor) -> Tensor:
    return path.norm(dim=1)


def _comes_in(claim: str, path: Tensor, limit: float = TIGHT) -> Iterator[Evidence]:
    """The orbit ends within a distance of the equilibrium."""
    yield bounded(f"{claim}: norm after {len(path) - 1} steps", _norms(path)[-1], limit, relation="at most")


@law("dirac-gan/equilibrium")
def equilibrium(_: float, make: Make = DiracGAN) -> Claims:
    r"""The field rotates every point about the only equilibrium, (0, 0).

    $$v(\theta, \psi) = f'(\theta\psi)\,(\psi, -\theta)$$
    L = f(theta psi) + f(0), descended by theta and ascended by psi. So |v| = |f'(theta psi)| |w|, zero at 0 alone;
    v is orthogonal to w, and a critic that says real on the right (psi > 0) draws theta to the right.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.2.
    Assumes: f' is not 0 anywhere.
    """
    points = torch.cartesian_prod(*[torch.linspace(-2, 2, 5, dtype=F64)] * 2)
    away = _norms(points) > 0
    for payoff in PAYOFFS:
        v = torch.stack([vector_field(make(payoff.f), at=w) for w in points])
        turn = payoff.derivative(points.prod(1))[:, None]
        expected = turn * torch.stack([points[:, 1], -points[:, 0]], 1)
        yield close(f"{payoff.name}: the field on 25 points", expected, v, TIGHT)
        speed, least = _norms(v)[away] / _norms(points)[away], turn.abs()[away].min()
        yield bounded(f"{payoff.name}: |v|/|w| off (0, 0)", speed, least, TIGHT, relation="at least")
        yield close(f"{payoff.name}: |v| at (0, 0)", 0.0, _norms(v)[~away], TIGHT)


@law("dirac-gan/flow")
def flow(_: float, make: Make = DiracGAN) -> Claims:
    r"""The flow runs in circles: its eigenvalues are imaginary and its distance from the equilibrium is conserved.

    $$\lambda = \pm i f'(0), \quad \frac{d}{dt}(\theta^2 + \psi^2) = 0$$
    The field is orthogonal to w. With the Wasserstein f its angular speed is 1 everywhere, so the orbit is known:
    w(t) is w(0) rotated by t.
    Source: Mescheder, Geiger & Nowozin (2018), lemmas 2.2 and 2.3.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        yield from _pair(f"{payoff.name}: eigenvalues", payoff.flow, eigenvalues(game))
        change = [change_along_flow(game, lambda w: w.square().sum(), at=w) for w in (START, (-2.0, 0.3), (0.1, 3.0))]
        yield close(f"{payoff.name}: d/dt of the squared norm", 0.0, f64(change), TIGHT)
        path = trajectory(game, None, 0.5, 20, start=START)
        yield close(f"{payoff.name}: norm until t = 10", math.hypot(*START), _norms(path), TIGHT)
    t, (theta, psi) = 0.5 * torch.arange(21, dtype=F64), START
    turned = torch.stack([theta * t.cos() + psi * t.sin(), psi * t.cos() - theta * t.sin()], 1)
    yield close("Wasserstein: the orbit until t = 10", turned, path, TIGHT)


@law("dirac-gan/simultaneous")
def simultaneous(_: float, make: Make = DiracGAN) -> Claims:
    r"""Simultaneous descent spirals out: the norm grows at every step, of any size.

    $$|w_{k+1}|^2 = (1 + h^2 f'(\theta_k\psi_k)^2)\,|w_k|^2, \quad \lambda = 1 \pm i h f'(0)$$
    The step -h v is orthogonal to w, so Pythagoras adds h^2 |v|^2 to |w|^2.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.3.
    """
    for payoff in PAYOFFS:
        for h in STEPS:
            game, claim = make(payoff.f), f"{payoff.name}, h = {h}"
            found = eigenvalues(game, "simultaneous", step_size=h)
            yield from _pair(claim, simultaneous_eigenvalues(payoff.flow, h), found)
            path = trajectory(game, "simultaneous", h, 30, start=START)
            growth = _norms(path[1:]) / _norms(path[:-1])
            expected = (1 + (h * payoff.derivative(path[:-1].prod(1))).square()).sqrt()
            yield close(f"{claim}: growth at each of 30 steps", expected, growth, TIGHT)
            yield bounded(f"{claim}: least growth", growth, 1.0, relation="at least")


@law("dirac-gan/alternating")
def alternating(_: float, make: Make = DiracGAN) -> Claims:
    r"""Alternating descent stays on the unit circle for h |f'(0)| < 2 and leaves it beyond.

    $$\lambda = 1 - \tfrac{\alpha^2}{2} \pm \sqrt{(1 - \tfrac{\alpha^2}{2})^2 - 1},
    \quad \alpha^2 = n_g n_d h^2 f'(0)^2$$
    One player's move shears the plane, two shears have determinant 1 and trace 2 - alpha^2. With the Wasserstein f
    the step is linear and keeps theta^2 + psi^2 + h theta psi.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.4.
    """
    five = (Phase(("critic",), repeats=5), Phase(("generator",)))
    for payoff in PAYOFFS:
        game = make(payoff.f)
        for share in (0.2, 1.0, 1.9, 2.2):
            h, claim = share / payoff.speed, f"{payoff.name}, h |f'(0)| = {share}"
            found = eigenvalues(game, "alternating", step_size=h)
            yield from _pair(claim, alternating_eigenvalues(-payoff.speed, h), found)
            if share < 2:
                yield close(f"{claim}: modulus", 1.0, found.abs(), TIGHT)
            else:
                yield bounded(f"{claim}: modulus", found.abs().max(), 1.5, relation="at least")
        h = 0.5 / payoff.speed
        theory = alternating_eigenvalues(-payoff.speed, h, moves=(1, 5))
        yield from _pair(f"{payoff.name}, 5:1, h |f'(0)| = 0.5", theory, eigenvalues(game, five, step_size=h))
    for h in STEPS:
        theta, psi = trajectory(make("wasserstein"), "alternating", h, 50, start=START).unbind(1)
        kept = theta**2 + psi**2 + h * theta * psi
        yield close(f"Wasserstein, h = {h}: the ellipse of 50 steps", kept[0], kept, TIGHT)


@law("dirac-gan/rules")
def rules(_: float, make: Make = DiracGAN) -> Claims:
    r"""Extragradient converges for h |f'(0)| < 1, optimistic descent for h |f'(0)| < 1/sqrt(3).

    $$\lambda_{EG} = 1 + h\lambda + h^2\lambda^2, \quad
    \lambda_{O} = \tfrac12(1 + 2h\lambda \pm \sqrt{1 + 4h^2\lambda^2})$$
    With lambda = i b: |1 + i h b - h^2 b^2|^2 = 1 - h^2 b^2 + h^4 b^4; of the two roots of the optimistic step the
    larger has modulus 1 at h b = 1/sqrt(3).
    Source: Gidel et al. (2019), equation 10; Daskalakis et al. (2018), equation 4.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        for rule, theory, limit in (
            ("extragradient", extragradient_eigenvalues, 1.0 / payoff.speed),
            ("optimistic", optimistic_eigenvalues, 1 / math.sqrt(3) / payoff.speed),
        ):
            for share in (0.3, 0.95, 1.05):
                found = eigenvalues(game, rule, step_size=share * limit)
                claim = f"{payoff.name}, {rule} at {share} of its limit"
                yield from _pair(claim, theory(payoff.flow, share * limit), found)
                side = "at most" if share < 1 else "at least"
                yield bounded(f"{claim}: modulus", found.abs().max(), 1.0, relation=side)  # type: ignore[arg-type]
            yield from _comes_in(f"{payoff.name}, {rule}", trajectory(game, rule, 0.6 * limit, 120, start=START), 0.1)


@law("dirac-gan/instance-noise")
def noise(_: float, make: Make = DiracGAN) -> Claims:
    r"""Instance noise makes the logistic game converge, and has no effect on the Wasserstein one.

    $$\lambda = f''(0)\sigma^2 \pm \sqrt{f''(0)^2\sigma^4 - f'(0)^2}$$
    Noise on both sides adds 2 f''(0) sigma^2 to the critic's own derivative. The logistic f is concave,
    f''(0) = -1/4; the Wasserstein f is linear, so its orbit remains the circle.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 3.2.
    """
    for payoff in PAYOFFS:
        for sigma in (0.3, 0.7, 1.2):
            game = make(payoff.f, instance_noise=sigma)
            theory = flow_eigenvalues(-payoff.speed, payoff.curvature, instance_noise=sigma)
            yield from _pair(f"{payoff.name}, sigma = {sigma}", theory, eigenvalues(game))
        path = trajectory(game, None, 0.5, 10, start=(1e-3, 1e-3))
        matrix = f64([[0, payoff.speed], [-payoff.speed, 2 * payoff.curvature * sigma**2]])
        linear = torch.stack([torch.linalg.matrix_exp(0.5 * k * matrix) @ path[0] for k in range(11)])
        yield close(f"{payoff.name}, sigma = 1.2: the linear orbit from 0.001", linear, path, 1e-8)
        norms = _norms(trajectory(game, None, 2.5, 6 if payoff.curvature else 2, start=START))
        if payoff.curvature:
            yield bounded(f"{payoff.name}, sigma = 1.2: norm at t = 15", norms[-1], 0.02, relation="at most")
        else:
            yield close(f"{payoff.name}, sigma = 1.2: norm until t = 5", norms[0], norms, TIGHT)


@law("dirac-gan/gradient-penalty")
def penalties(_: float, make: Make = DiracGAN) -> Claims:
    r"""R1 and R2 converge, with simultaneous steps for h < gamma / f'(0)^2.

    $$\lambda = -\tfrac\gamma2 \pm \sqrt{\tfrac{\gamma^2}{4} - f'(0)^2}$$
    The critic's slope is psi at every x, so both penalties are gamma/2 psi^2 and damp the critic by gamma. For
    complex eigenvalues 2 |Re lambda| / |lambda|^2 = gamma / f'(0)^2.
    Source: Mescheder, Geiger & Nowozin (2018), section 3.1 and theorem 4.1.
    Assumes: gamma at most 2 |f'(0)|, for the step limit gamma / f'(0)^2; beyond, the limit is smaller.
    """
    for payoff in PAYOFFS:
        for gamma in (0.1, 0.5, 0.9):
            damped, limit = flow_eigenvalues(-payoff.speed, gamma=gamma), gamma / payoff.speed**2
            for which in ("r1", "r2"):
                judged = stability(make(payoff.f, **{which: gamma}))
                claim = f"{payoff.name}, {which}, gamma = {gamma}"
                yield from _pair(claim, damped, judged.eigenvalues)
                yield close(f"{claim}: limit of simultaneous steps", limit, judged.step_size_below or math.nan, TIGHT)
        for share in (0.5, 1.0, 1.1):
            found = eigenvalues(make(payoff.f, r1=gamma), "simultaneous", step_size=share * limit)
            expected = max(abs(v) for v in simultaneous_eigenvalues(damped, share * limit))
            yield close(f"{payoff.name}: modulus at {share} of the limit", expected, found.abs().max(), TIGHT)
        strong, exact = stability(make(payoff.f, r1=3.0)).step_size_below, penalty_step_limit(-payoff.speed, 3.0)
        yield close(f"{payoff.name}, gamma = 3, real eigenvalues: limit", exact, strong or math.nan, TIGHT)
        half = trajectory(make(payoff.f, r1=payoff.speed), "simultaneous", 0.5 / payoff.speed, 120, start=START)
        yield from _comes_in(f"{payoff.name}, half the limit", half)


@law("dirac-gan/consensus")
def agreement(_: float, make: Make = DiracGAN) -> Claims:
    r"""Consensus converges for h < 2 gamma / (1 + gamma^2 f'(0)^2), with the logistic f 1 + gamma^2 / 4.

    $$\lambda = 1 - h\gamma f'(0)^2 \pm i h f'(0), \quad h < 2\gamma / (1 + \gamma^2 f'(0)^2)$$
    |v|^2 = f'(theta psi)^2 |w|^2 has the Hessian 2 f'(0)^2 I at (0, 0), so every eigenvalue moves left by
    gamma f'(0)^2.
    Source: Mescheder, Nowozin & Geiger (2017), equation 6 and lemma 9.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        for gamma in (0.2, 0.7, 2.0):
            limit = consensus_step_limit(-payoff.speed, gamma)
            for share in (0.5, 1.0, 1.2):
                found = eigenvalues(game, consensus(gamma), step_size=share * limit)
                claim = f"{payoff.name}, gamma = {gamma}, {share} of the limit"
                yield from _pair(claim, consensus_eigenvalues(-payoff.speed, share * limit, gamma), found)
                if share == 1:
                    yield close(f"{claim}: modulus", 1.0, found.abs(), TIGHT)
        yield from _comes_in(payoff.name, trajectory(game, consensus(2.0), 0.5 * limit, 200, start=START))


@law("dirac-gan/wgan")
def wgan(_: float, make: Make = DiracGAN) -> Claims:
    r"""WGAN does not converge, at any step size: from any start simultaneous steps end outside the circle of the clip.

    $$|\theta_k|^2 + |\psi_k|^2 \ge c^2 \text{ once } |\psi_k| = c$$
    Within the clip c the norm grows at every step, so sooner or later the clip is active; there the norm is at least
    c, and each step until it is active again only adds to it.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.5.
    Assumes: the weight is clipped after the critic's move.
    """
    for h in STEPS:
        path = trajectory(make("wasserstein", clip=1.0), "simultaneous", h, 400, start=(0.3, 0.0))
        norms, binds = _norms(path), path[:, 1].abs() >= 1
        first = int(binds.to(torch.int).argmax()) if bool(binds.any()) else len(path) - 1
        yield bounded(f"h = {h}: |psi| within the clip", path[:, 1].abs(), 1.0, relation="at most")
        growth = norms[1:first] / norms[: first - 1]
        yield close(f"h = {h}: growth until the clip is active", math.sqrt(1 + h * h), growth, TIGHT)
        yield bounded(f"h = {h}: norm after that", norms[first:], 1.0, relation="at least")
        swing = path[200:, 0].max() - path[200:, 0].min()
        yield bounded(f"h = {h}: theta's range in the last 200 steps", swing, 1.0, relation="at least")


@law("dirac-gan/wgan-gp")
def wgan_gp(_: float, make: Make = DiracGAN) -> Claims:
    r"""WGAN-GP does not converge: its field jumps at psi = 0 and drives psi away wherever |theta| < 2 lambda.

    $$v_\psi(\theta, 0+) - v_\psi(\theta, 0-) = -4\lambda$$
    The penalty lambda (|psi| - 1)^2 has the slopes -+2 lambda on the two sides. A step from psi > 0 to psi < 0 needs
    h theta > psi + 2 lambda h (1 - psi) >= 2 lambda h, so each passage happens at |theta| > 2 lambda, and away from
    psi = 0 theta moves by h |psi|: nothing comes to rest.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.5.
    Assumes: 2 lambda h at most 1.
    """
    weight = 0.25
    game = make("wasserstein", gradient_penalty=weight)
    for place in (0.0, 0.7, -2.0):
        right, left = (vector_field(game, at=[place, side])[1] for side in (1e-9, -1e-9))
        yield close(f"jump at theta = {place}", -4 * weight, right - left, TIGHT)
    for rule in ("simultaneous", "alternating"):
        for h in STEPS:
            theta, psi = trajectory(game, rule, h, 180, start=(0.1, 0.1)).unbind(1)
            crossing = psi[1:] * psi[:-1] < 0
            seen = theta[:-1] if rule == "simultaneous" else theta[1:]  # theta at the critic's move
            where = seen[crossing].abs() if bool(crossing.any()) else theta.new_zeros(1)
            yield bounded(f"{rule}, h = {h}: |theta| where psi changes sign", where, 2 * weight, relation="at least")
            turns = float(crossing[80:].sum())
            yield bounded(f"{rule}, h = {h}: changes in the last 100 steps", turns, 2, relation="at least")


def _portrait(k: int) -> str:
    """The orbits of panel number k."""
    from jensen.check.portrait import dirac_panels, phase_portrait_svg  # draws: not for every trial's process

    return phase_portrait_svg(dirac_panels()[k : k + 1])


def _draw(laws: Sequence[Law]) -> None:
    """Each law by its own panel."""
    for k, each in enumerate(laws):
        each.drawn(partial(_portrait, k))


_draw((flow, simultaneous, alternating, rules, noise, penalties, agreement, wgan_gp))

r"""The Dirac-GAN: the dynamics of the smallest GAN under each update rule and each regulariser.

The generator is a point theta, the critic D(x) = psi x, and the data are the point 0. Every trial takes `make`, which
is called like `DiracGAN` and returns an `Objective` with the players "generator" (theta) and "critic" (psi), in this
order. Eigenvalues are measured through autograd and through the real `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jensen.adversarial import change_along_flow, dirac, eigenvalues, logistic, stability, trajectory, vector_field
from jensen.check.evidence import Claims, Evidence, Relation, bounded, close
from jensen.check.law import law
from jensen.check.line import F64, f64
from jensen.core.objective import Objective
from jensen.core.types import Phase
from jensen.training import consensus

Make = Callable[..., Objective]


@dataclass(frozen=True)
class Payoff:
    """The argument of `make` for f; |f'(0)| = -f'(0); f''(0); and f' as a function."""

    name: str
    f: Any
    speed: float
    curvature: float
    derivative: Callable[[Tensor], Tensor]

    @property
    def flow(self) -> tuple[complex, complex]:
        return dirac.flow_eigenvalues(-self.speed)


PAYOFFS = (
    Payoff("logistic", logistic, 0.5, -0.25, lambda t: -torch.sigmoid(t)),
    Payoff("Wasserstein", "wasserstein", 1.0, 0.0, lambda t: -torch.ones_like(t)),
)
STEPS = (0.1, 0.4, 1.0)
START = (1.0, 0.6)
TIGHT = 1e-6


def _spectrum(
    claim: str, theory: Sequence[complex], game: Objective, rule: Any = None, h: float | None = None
) -> Generator[Evidence, None, Tensor]:
    """Claims on the eigenvalues of the flow or of an update rule with step size h; returns the measured eigenvalues."""
    found = eigenvalues(game, rule, step_size=h)
    pair = (sorted(v, key=lambda z: (round(z.real, 5), z.imag)) for v in (theory, found.tolist()))
    e, m = (torch.tensor(v, dtype=torch.complex128) for v in pair)
    yield close(f"{claim}: real part of the eigenvalues", e.real, m.real, TIGHT)
    yield close(f"{claim}: imaginary part of the eigenvalues", e.imag, m.imag, TIGHT)
    return found


def _converges(claim: str, path: Tensor, limit: float = TIGHT) -> Evidence:
    return bounded(f"{claim}: norm after {len(path) - 1} steps", path.norm(dim=1)[-1], limit, relation="at most")


@law("dirac-gan/equilibrium")
def equilibrium(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""The vector field of the Dirac-GAN rotates about its only equilibrium, (0, 0).

    $$v(\theta, \psi) = f'(\theta\psi)\,(\psi, -\theta)$$
    The generator descends L = f(theta psi) + f(0), and the critic ascends it. So v is orthogonal to w = (theta, psi),
    and |v| = |f'(theta psi)| |w| is zero only at w = 0.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.2.
    Assumes: f' has no zero.
    """
    points = torch.cartesian_prod(*[torch.linspace(-2, 2, 5, dtype=F64)] * 2)
    away = points.norm(dim=1) > 0
    for payoff in PAYOFFS:
        v = torch.stack([vector_field(make(payoff.f), at=w) for w in points])
        turn = payoff.derivative(points.prod(1))[:, None]
        expected = turn * torch.stack([points[:, 1], -points[:, 0]], 1)
        yield close(f"{payoff.name}: the field at 25 points", expected, v, TIGHT)
        speed, least = v.norm(dim=1)[away] / points.norm(dim=1)[away], turn.abs()[away].min()
        yield bounded(f"{payoff.name}: |v|/|w| at the points other than 0", speed, least, TIGHT, relation="at least")
        yield close(f"{payoff.name}: |v| at 0", 0.0, v.norm(dim=1)[~away], TIGHT)


@law("dirac-gan/flow")
def flow(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""The gradient flow runs in circles: its eigenvalues are imaginary, and the norm of w = (theta, psi) is constant.

    $$\lambda = \pm i f'(0), \quad \frac{d}{dt}(\theta^2 + \psi^2) = 0$$
    The field is orthogonal to w. With the Wasserstein f its angular speed is 1: w(t) is w(0) rotated by the angle t.
    Source: Mescheder, Geiger & Nowozin (2018), lemmas 2.2 and 2.3.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        yield from _spectrum(payoff.name, payoff.flow, game)
        change = [change_along_flow(game, lambda w: w.square().sum(), at=w) for w in (START, (-2.0, 0.3), (0.1, 3.0))]
        yield close(f"{payoff.name}: time derivative of |w|^2", 0.0, f64(change), TIGHT)
        path = trajectory(game, None, 0.5, 20, start=START)
        yield close(f"{payoff.name}: |w| until t = 10", math.hypot(*START), path.norm(dim=1), TIGHT)
    t, (theta, psi) = 0.5 * torch.arange(21, dtype=F64), START
    turned = torch.stack([theta * t.cos() + psi * t.sin(), psi * t.cos() - theta * t.sin()], 1)
    yield close("Wasserstein: w until t = 10", turned, path, TIGHT)


@law("dirac-gan/simultaneous")
def simultaneous(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""Simultaneous gradient steps diverge: |w| grows at every step, whatever the step size h.

    $$|w_{k+1}|^2 = (1 + h^2 f'(\theta_k\psi_k)^2)\,|w_k|^2, \quad \lambda = 1 \pm i h f'(0)$$
    The step -h v is orthogonal to w = (theta, psi), so by Pythagoras it adds h^2 |v|^2 to |w|^2.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.3.
    """
    for payoff in PAYOFFS:
        for h in STEPS:
            game, claim = make(payoff.f), f"{payoff.name}, h = {h}"
            yield from _spectrum(claim, dirac.simultaneous_eigenvalues(payoff.flow, h), game, "simultaneous", h)
            path = trajectory(game, "simultaneous", h, 30, start=START)
            growth = path[1:].norm(dim=1) / path[:-1].norm(dim=1)
            expected = (1 + (h * payoff.derivative(path[:-1].prod(1))) ** 2).sqrt()
            yield close(f"{claim}: growth of |w| at each of 30 steps", expected, growth, TIGHT)
            yield bounded(f"{claim}: smallest growth of |w|", growth, 1.0, relation="at least")


@law("dirac-gan/alternating")
def alternating(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""The eigenvalues of alternating gradient steps have modulus 1 for h |f'(0)| < 2, and one is larger beyond.

    $$\lambda = 1 - \tfrac{\alpha^2}{2} \pm \sqrt{(1 - \tfrac{\alpha^2}{2})^2 - 1},
    \quad \alpha^2 = n_g n_d h^2 f'(0)^2$$
    n_g generator steps and n_d critic steps alternate. Each is a shear of the plane, and the product of two shears has
    determinant 1 and trace 2 - alpha^2. With the Wasserstein f the steps conserve theta^2 + psi^2 + h theta psi.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.4.
    """
    five = (Phase(("critic",), repeats=5), Phase(("generator",)))
    for payoff in PAYOFFS:
        game = make(payoff.f)
        for share in (0.2, 1.0, 1.9, 2.2):
            h, claim = share / payoff.speed, f"{payoff.name}, h |f'(0)| = {share}"
            theory = dirac.alternating_eigenvalues(-payoff.speed, h)
            found = yield from _spectrum(claim, theory, game, "alternating", h)
            if share < 2:
                yield close(f"{claim}: modulus", 1.0, found.abs(), TIGHT)
            else:
                yield bounded(f"{claim}: largest modulus", found.abs().max(), 1.5, relation="at least")
        h = 0.5 / payoff.speed
        theory = dirac.alternating_eigenvalues(-payoff.speed, h, moves=(1, 5))
        yield from _spectrum(f"{payoff.name}, five critic steps, h |f'(0)| = 0.5", theory, game, five, h)
    for h in STEPS:
        theta, psi = trajectory(make("wasserstein"), "alternating", h, 50, start=START).unbind(1)
        kept = theta**2 + psi**2 + h * theta * psi
        yield close(f"Wasserstein, h = {h}: theta^2 + psi^2 + h theta psi over 50 steps", kept[0], kept, TIGHT)


@law("dirac-gan/rules")
def rules(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""Extragradient converges for h |f'(0)| < 1, and optimistic descent for h |f'(0)| < 1/sqrt(3).

    $$\lambda_{EG} = 1 + h\lambda + h^2\lambda^2, \quad
    \lambda_{O} = \tfrac12(1 + 2h\lambda \pm \sqrt{1 + 4h^2\lambda^2})$$
    lambda = i b are the eigenvalues of the flow. |1 + i h b - h^2 b^2|^2 = 1 - h^2 b^2 + h^4 b^4, and the larger of the
    two optimistic eigenvalues has modulus 1 at h b = 1/sqrt(3).
    Source: Gidel et al. (2019), equation 10; Daskalakis et al. (2018), equation 4.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        theories = {"extragradient": dirac.extragradient_eigenvalues, "optimistic": dirac.optimistic_eigenvalues}
        for (rule, theory), limit in zip(theories.items(), (1 / payoff.speed, 3**-0.5 / payoff.speed), strict=True):
            for share in (0.3, 0.95, 1.05):
                h, claim = share * limit, f"{payoff.name}, {rule} at {share} of the largest stable step size"
                found = yield from _spectrum(claim, theory(payoff.flow, h), game, rule, h)
                side: Relation = "at most" if share < 1 else "at least"
                yield bounded(f"{claim}: largest modulus", found.abs().max(), 1.0, relation=side)
            yield _converges(f"{payoff.name}, {rule}", trajectory(game, rule, 0.6 * limit, 120, start=START), 0.1)


@law("dirac-gan/instance-noise")
def noise(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""Instance noise makes the logistic game converge, and has no effect on the Wasserstein game.

    $$\lambda = f''(0)\sigma^2 \pm \sqrt{f''(0)^2\sigma^4 - f'(0)^2}$$
    Noise of variance sigma^2 on real and generated examples adds 2 f''(0) sigma^2 to the critic's own derivative. The
    logistic f has f''(0) = -1/4. The Wasserstein f is linear, so the flow still runs in circles.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 3.2.
    """
    for payoff in PAYOFFS:
        for sigma in (0.3, 0.7, 1.2):
            game = make(payoff.f, instance_noise=sigma)
            theory = dirac.flow_eigenvalues(-payoff.speed, payoff.curvature, instance_noise=sigma)
            yield from _spectrum(f"{payoff.name}, sigma = {sigma}", theory, game)
        claim, path = f"{payoff.name}, sigma = 1.2", trajectory(game, None, 0.5, 10, start=(1e-3, 1e-3))
        matrix = f64([[0, payoff.speed], [-payoff.speed, 2 * payoff.curvature * sigma**2]])
        linear = torch.stack([torch.linalg.matrix_exp(0.5 * k * matrix) @ path[0] for k in range(11)])
        yield close(f"{claim}: w from (0.001, 0.001), against the linear system", linear, path, 1e-8)
        norms = trajectory(game, None, 2.5, 6 if payoff.curvature else 2, start=START).norm(dim=1)
        if payoff.curvature:
            yield bounded(f"{claim}: |w| at t = 15", norms[-1], 0.02, relation="at most")
        else:
            yield close(f"{claim}: |w| until t = 5", norms[0], norms, TIGHT)


@law("dirac-gan/gradient-penalty")
def penalties(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""With an R1 or R2 penalty the game converges; simultaneous steps converge for h < gamma / f'(0)^2.

    $$\lambda = -\tfrac\gamma2 \pm \sqrt{\tfrac{\gamma^2}{4} - f'(0)^2}$$
    The critic's slope is psi at every x, so both penalties are gamma/2 psi^2, which damps the critic by gamma. Step
    sizes h are stable up to 2 |Re lambda| / |lambda|^2, which is gamma / f'(0)^2 for complex eigenvalues.
    Source: Mescheder, Geiger & Nowozin (2018), section 3.1 and theorem 4.1.
    Assumes: gamma at most 2 |f'(0)|; a larger gamma has real eigenvalues and a smaller limit.
    """
    for payoff in PAYOFFS:
        for gamma in (0.1, 0.5, 0.9):
            damped, limit = dirac.flow_eigenvalues(-payoff.speed, gamma=gamma), gamma / payoff.speed**2
            for which in ("r1", "r2"):
                game, claim = make(payoff.f, **{which: gamma}), f"{payoff.name}, {which}, gamma = {gamma}"
                yield from _spectrum(claim, damped, game)
                found = stability(game).step_size_below or math.nan
                yield close(f"{claim}: largest stable step size", limit, found, TIGHT)
        for share in (0.5, 1.0, 1.1):
            modulus = eigenvalues(make(payoff.f, r1=gamma), "simultaneous", step_size=share * limit).abs().max()
            expected = max(abs(v) for v in dirac.simultaneous_eigenvalues(damped, share * limit))
            yield close(f"{payoff.name}: largest modulus at {share} of this step size", expected, modulus, TIGHT)
        found = stability(make(payoff.f, r1=3.0)).step_size_below or math.nan
        exact = dirac.penalty_step_limit(-payoff.speed, 3.0)
        yield close(f"{payoff.name}, gamma = 3: largest stable step size", exact, found, TIGHT)
        half = trajectory(make(payoff.f, r1=payoff.speed), "simultaneous", 0.5 / payoff.speed, 120, start=START)
        yield _converges(f"{payoff.name}, half the largest stable step size", half)


@law("dirac-gan/consensus")
def agreement(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""Consensus optimisation converges for step sizes h < 2 gamma / (1 + gamma^2 f'(0)^2).

    $$\lambda = 1 - h\gamma f'(0)^2 \pm i h f'(0), \quad h < 2\gamma / (1 + \gamma^2 f'(0)^2)$$
    It adds the gradient of gamma/2 |v|^2 to the field v. |v|^2 = f'(theta psi)^2 |w|^2 has the Hessian 2 f'(0)^2 I at
    w = (0, 0), so every eigenvalue of the flow moves left by gamma f'(0)^2.
    Source: Mescheder, Nowozin & Geiger (2017), equation 6 and lemma 9.
    """
    for payoff in PAYOFFS:
        game = make(payoff.f)
        for gamma in (0.2, 0.7, 2.0):
            limit = dirac.consensus_step_limit(-payoff.speed, gamma)
            for share in (0.5, 1.0, 1.2):
                h, claim = share * limit, f"{payoff.name}, gamma = {gamma}, {share} of the largest stable step size"
                theory = dirac.consensus_eigenvalues(-payoff.speed, h, gamma)
                found = yield from _spectrum(claim, theory, game, consensus(gamma), h)
                if share == 1:
                    yield close(f"{claim}: modulus", 1.0, found.abs(), TIGHT)
        yield _converges(payoff.name, trajectory(game, consensus(2.0), 0.5 * limit, 200, start=START))


@law("dirac-gan/wgan")
def wgan(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""WGAN with weight clipping does not converge: once |psi| has reached the clip c, |w| stays at least c.

    $$|\theta_k|^2 + |\psi_k|^2 \ge c^2 \text{ after the first } k \text{ with } |\psi_k| = c$$
    |w| grows at each step where psi is not clipped, so at some step |psi| = c. From then on |w| >= c.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.5.
    Assumes: the weight is clipped after the critic's step.
    """
    for h in STEPS:
        path = trajectory(make("wasserstein", clip=1.0), "simultaneous", h, 400, start=(0.3, 0.0))
        norms, clipped = path.norm(dim=1), path[:, 1].abs() >= 1
        first = int(clipped.to(torch.int).argmax()) if bool(clipped.any()) else len(path) - 1
        yield bounded(f"h = {h}: |psi|, at most the clip", path[:, 1].abs(), 1.0, relation="at most")
        growth = norms[1:first] / norms[: first - 1]
        yield close(f"h = {h}: growth of |w| at each step before the first clip", math.sqrt(1 + h * h), growth, TIGHT)
        yield bounded(f"h = {h}: |w| after the first clip", norms[first:], 1.0, relation="at least")
        swing = path[200:, 0].max() - path[200:, 0].min()
        yield bounded(f"h = {h}: range of theta in the last 200 steps", swing, 1.0, relation="at least")


@law("dirac-gan/wgan-gp")
def wgan_gp(_: float, make: Make = dirac.DiracGAN) -> Claims:
    r"""WGAN-GP does not converge: its field jumps at psi = 0, and psi changes sign only where |theta| > 2 lambda.

    $$v_\psi(\theta, 0+) - v_\psi(\theta, 0-) = -4\lambda$$
    The penalty lambda (|psi| - 1)^2 has the slopes -2 lambda and 2 lambda on the two sides of psi = 0. A step from
    psi > 0 to psi < 0 needs h theta > psi + 2 lambda h (1 - psi) >= 2 lambda h. Away from psi = 0 theta moves by
    h |psi| at each step, so no point is at rest.
    Source: Mescheder, Geiger & Nowozin (2018), lemma 2.5.
    Assumes: 2 lambda h at most 1.
    """
    weight = 0.25
    game = make("wasserstein", gradient_penalty=weight)
    for place in (0.0, 0.7, -2.0):
        right, left = (vector_field(game, at=[place, side])[1] for side in (1e-9, -1e-9))
        yield close(f"jump of the field at theta = {place}", -4 * weight, right - left, TIGHT)
    for rule in ("simultaneous", "alternating"):
        for h in STEPS:
            theta, psi = trajectory(game, rule, h, 180, start=(0.1, 0.1)).unbind(1)
            crossing = psi[1:] * psi[:-1] < 0
            seen = theta[:-1] if rule == "simultaneous" else theta[1:]  # theta at the critic's step
            where = seen[crossing].abs() if bool(crossing.any()) else theta.new_zeros(1)
            yield bounded(f"{rule}, h = {h}: |theta| where psi changes sign", where, 2 * weight, relation="at least")
            turns = float(crossing[80:].sum())
            yield bounded(f"{rule}, h = {h}: sign changes in the last 100 steps", turns, 2, relation="at least")


def _portrait(k: int) -> str:
    """The orbits of panel number k."""
    from jensen.check.portrait import dirac_panels, phase_portrait_svg  # imports matplotlib, which trials do not need

    return phase_portrait_svg(dirac_panels()[k : k + 1])


_PLOTS = [
    each.drawn(partial(_portrait, k))
    for k, each in enumerate((flow, simultaneous, alternating, rules, noise, penalties, agreement, wgan_gp))
]

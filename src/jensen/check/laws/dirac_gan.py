r"""The Dirac-GAN: what each way of playing the smallest adversarial game does to its orbits.

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
from jensen.check.evidence import Evidence, Relation, bounded, close
from jensen.check.law import Law, law
from jensen.core.objective import Objective
from jensen.core.types import Phase
from jensen.training import consensus

Make = Callable[..., Objective]


@dataclass(frozen=True)
class Payoff:
    """F as `make` takes it, f'(0), f''(0), and f' itself."""

    f: Any
    slope: float
    curvature: float
    derivative: Callable[[Tensor], Tensor]


GAMES = {
    "logistic": Payoff(logistic, -0.5, -0.25, lambda t: -torch.sigmoid(t)),
    "Wasserstein": Payoff("wasserstein", -1.0, 0.0, lambda t: -torch.ones_like(t)),
}
STEPS = (0.1, 0.4, 1.0)
START = (1.0, 0.6)
TIGHT = 1e-6
MESCHEDER = "Mescheder, Geiger & Nowozin (2018)"


def _pair(claim: str, expected: Sequence[complex], found: Tensor) -> Iterator[Evidence]:
    """Eigenvalues, real and imaginary parts apart."""
    e = torch.tensor(sorted(expected, key=_place), dtype=torch.complex128)
    m = torch.tensor(sorted(found.tolist(), key=_place), dtype=torch.complex128)
    yield close(f"{claim}: real part", e.real, m.real, TIGHT)
    yield close(f"{claim}: imaginary part", e.imag, m.imag, TIGHT)


def _place(value: complex) -> tuple[float, float]:
    return round(value.real, 5), value.imag


def _norms(path: Tensor) -> Tensor:
    return path.norm(dim=1)


@law(
    "dirac-gan/equilibrium",
    formula=r"v(\theta, \psi) = f'(\theta\psi)\,(\psi, -\theta)",
    source=f"{MESCHEDER}, lemma 2.2",
    assumptions="f' is not 0 anywhere",
)
def equilibrium(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """The field turns every point about the only equilibrium, (0, 0).

    L = f(theta psi) + f(0), descended by theta and ascended by psi. So |v| = |f'(theta psi)| |w|, zero at 0 alone;
    v is orthogonal to w, and a critic that says real on the right (psi > 0) draws theta to the right.
    """
    line = torch.linspace(-2, 2, 5, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    for name, payoff in GAMES.items():
        game = make(payoff.f)
        v = torch.stack([vector_field(game, at=w) for w in points])
        turn = payoff.derivative(points.prod(1))[:, None]
        expected = turn * torch.stack([points[:, 1], -points[:, 0]], 1)
        yield close(f"{name}: the field on 25 points", expected, v, TIGHT)
        away = points.norm(dim=1) > 0
        least = turn.abs()[away].min()
        yield bounded(
            f"{name}: |v|/|w| off (0, 0)", _norms(v)[away] / _norms(points)[away], least, TIGHT, relation="at least"
        )
        yield close(f"{name}: |v| at (0, 0)", 0.0, _norms(v)[~away], TIGHT)


@law(
    "dirac-gan/flow",
    formula=r"\lambda = \pm i f'(0), \quad \frac{d}{dt}(\theta^2 + \psi^2) = 0",
    source=f"{MESCHEDER}, lemmas 2.2 and 2.3",
)
def flow(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """The flow runs in circles: its eigenvalues are imaginary and its distance from the equilibrium is conserved.

    The field is orthogonal to w. With the Wasserstein f its angular speed is 1 everywhere, so the orbit is known:
    w(t) is w(0) turned by t.
    """
    for name, payoff in GAMES.items():
        game = make(payoff.f)
        yield from _pair(f"{name}: eigenvalues", flow_eigenvalues(payoff.slope), eigenvalues(game))
        change = [change_along_flow(game, lambda w: w.square().sum(), at=w) for w in (START, (-2.0, 0.3), (0.1, 3.0))]
        yield close(f"{name}: d/dt of the squared norm", 0.0, torch.tensor(change), TIGHT)
        path = trajectory(game, None, 0.5, 20, start=START)
        yield close(f"{name}: norm until t = 10", math.hypot(*START), _norms(path), TIGHT)
    yield close("Wasserstein: the orbit until t = 10", turned(START, 0.5, 20), path, TIGHT)


def turned(start: tuple[float, float], step_size: float, steps: int) -> Tensor:
    """The orbit of the Wasserstein game's flow, (steps + 1, 2)."""
    t = step_size * torch.arange(steps + 1, dtype=torch.float64)
    theta, psi = start
    return torch.stack([theta * t.cos() + psi * t.sin(), psi * t.cos() - theta * t.sin()], 1)


@law(
    "dirac-gan/simultaneous",
    formula=r"|w_{k+1}|^2 = (1 + h^2 f'(\theta_k\psi_k)^2)\,|w_k|^2, \quad \lambda = 1 \pm i h f'(0)",
    source=f"{MESCHEDER}, lemma 2.3",
)
def simultaneous(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """Simultaneous descent spirals out: the norm grows at every step, of any size.

    The step -h v is orthogonal to w, so Pythagoras adds h^2 |v|^2 to |w|^2.
    """
    for name, payoff in GAMES.items():
        game = make(payoff.f)
        for h in STEPS:
            found = eigenvalues(game, "simultaneous", step_size=h)
            yield from _pair(f"{name}, h = {h}", simultaneous_eigenvalues(flow_eigenvalues(payoff.slope), h), found)
            path = trajectory(game, "simultaneous", h, 30, start=START)
            growth = _norms(path[1:]) / _norms(path[:-1])
            expected = (1 + (h * payoff.derivative(path[:-1].prod(1))).square()).sqrt()
            yield close(f"{name}, h = {h}: growth at each of 30 steps", expected, growth, TIGHT)
            yield bounded(f"{name}, h = {h}: least growth", growth, 1.0, relation="at least")


@law(
    "dirac-gan/alternating",
    formula=r"\lambda = 1 - \tfrac{\alpha^2}{2} \pm \sqrt{(1 - \tfrac{\alpha^2}{2})^2 - 1},"
    r" \quad \alpha^2 = n_g n_d h^2 f'(0)^2",
    source=f"{MESCHEDER}, lemma 2.4",
)
def alternating(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """Alternating descent stays on the unit circle for h |f'(0)| < 2 and leaves it beyond.

    One player's move shears the plane, two shears have determinant 1 and trace 2 - alpha^2. With the Wasserstein f
    the step is linear and keeps theta^2 + psi^2 + h theta psi.
    """
    for name, payoff in GAMES.items():
        game = make(payoff.f)
        for share in (0.2, 1.0, 1.9, 2.2):
            h = share / abs(payoff.slope)
            found = eigenvalues(game, "alternating", step_size=h)
            yield from _pair(f"{name}, h |f'(0)| = {share}", alternating_eigenvalues(payoff.slope, h), found)
            if share < 2:
                yield close(f"{name}, h |f'(0)| = {share}: modulus", 1.0, found.abs(), TIGHT)
            else:
                largest = found.abs().max()
                yield bounded(f"{name}, h |f'(0)| = {share}: modulus", largest, 1.5, relation="at least")
        five = (Phase(("critic",), repeats=5), Phase(("generator",)))
        h = 0.5 / abs(payoff.slope)
        theory = alternating_eigenvalues(payoff.slope, h, moves=(1, 5))
        yield from _pair(f"{name}, 5:1, h |f'(0)| = 0.5", theory, eigenvalues(game, five, step_size=h))
    for h in STEPS:
        theta, psi = trajectory(make("wasserstein"), "alternating", h, 50, start=START).unbind(1)
        kept = theta**2 + psi**2 + h * theta * psi
        yield close(f"Wasserstein, h = {h}: the ellipse of 50 steps", kept[0], kept, TIGHT)


@law(
    "dirac-gan/rules",
    formula=r"\lambda_{EG} = 1 + h\lambda + h^2\lambda^2, \quad"
    r" \lambda_{O} = \tfrac12(1 + 2h\lambda \pm \sqrt{1 + 4h^2\lambda^2})",
    source="Gidel et al. (2019), equation 10; Daskalakis et al. (2018), equation 4",
)
def rules(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """Extragradient converges for h |f'(0)| < 1, optimistic descent for h |f'(0)| < 1/sqrt(3).

    With lambda = i b: |1 + i h b - h^2 b^2|^2 = 1 - h^2 b^2 + h^4 b^4; of the two roots of the optimistic step the
    larger has modulus 1 at h b = 1/sqrt(3).
    """
    for name, payoff in GAMES.items():
        game, flows = make(payoff.f), flow_eigenvalues(payoff.slope)
        for rule, theory, limit in (
            ("extragradient", extragradient_eigenvalues, 1.0),
            ("optimistic", optimistic_eigenvalues, 1 / math.sqrt(3)),
        ):
            for share in (0.3, 0.95, 1.05):
                h = share * limit / abs(payoff.slope)
                found = eigenvalues(game, rule, step_size=h)
                claim = f"{name}, {rule} at {share} of its limit"
                yield from _pair(claim, theory(flows, h), found)
                side: Relation = "at most" if share < 1 else "at least"
                yield bounded(f"{claim}: modulus", found.abs().max(), 1.0, relation=side)
            path = trajectory(game, rule, 0.6 * limit / abs(payoff.slope), 120, start=START)
            yield bounded(f"{name}, {rule}: norm after 120 steps", _norms(path)[-1], 0.1, relation="at most")


@law(
    "dirac-gan/instance-noise",
    formula=r"\lambda = f''(0)\sigma^2 \pm \sqrt{f''(0)^2\sigma^4 - f'(0)^2}",
    source=f"{MESCHEDER}, lemma 3.2",
)
def noise(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """Instance noise makes the logistic game converge, and does nothing to the Wasserstein one.

    Noise on both sides adds 2 f''(0) sigma^2 to the critic's own derivative. The logistic f bends down,
    f''(0) = -1/4; the Wasserstein f is straight, so its orbit stays the circle it was.
    """
    for name, payoff in GAMES.items():
        for sigma in (0.3, 0.7, 1.2):
            game = make(payoff.f, instance_noise=sigma)
            theory = flow_eigenvalues(payoff.slope, payoff.curvature, instance_noise=sigma)
            yield from _pair(f"{name}, sigma = {sigma}", theory, eigenvalues(game))
        path = trajectory(game, None, 0.5, 10, start=(1e-3, 1e-3))
        matrix = torch.tensor(
            [[0, -payoff.slope], [payoff.slope, 2 * payoff.curvature * sigma**2]], dtype=torch.float64
        )
        linear = torch.stack([torch.linalg.matrix_exp(0.5 * k * matrix) @ path[0] for k in range(11)])
        yield close(f"{name}, sigma = 1.2: the linear orbit from 0.001", linear, path, 1e-8)
        norms = _norms(trajectory(game, None, 2.5, 6 if payoff.curvature else 2, start=START))
        if payoff.curvature:
            yield bounded(f"{name}, sigma = 1.2: norm at t = 15", norms[-1], 0.02, relation="at most")
        else:
            yield close(f"{name}, sigma = 1.2: norm until t = 5", norms[0], norms, TIGHT)


@law(
    "dirac-gan/gradient-penalty",
    formula=r"\lambda = -\tfrac\gamma2 \pm \sqrt{\tfrac{\gamma^2}{4} - f'(0)^2}",
    source=f"{MESCHEDER}, section 3.1 and theorem 4.1",
    assumptions="the step limit gamma / f'(0)^2 holds for gamma at most 2 |f'(0)|; beyond, it is smaller",
)
def penalties(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """R1 and R2 converge, with simultaneous steps for h < gamma / f'(0)^2.

    The critic's slope is psi at every x, so both penalties are gamma/2 psi^2 and damp the critic by gamma. For
    complex eigenvalues 2 |Re lambda| / |lambda|^2 = gamma / f'(0)^2.
    """
    for name, payoff in GAMES.items():
        for gamma in (0.1, 0.5, 0.9):
            for which in ("r1", "r2"):
                judged = stability(make(payoff.f, **{which: gamma}))
                claim = f"{name}, {which}, gamma = {gamma}"
                yield from _pair(claim, flow_eigenvalues(payoff.slope, gamma=gamma), judged.eigenvalues)
                limit = gamma / payoff.slope**2
                yield close(f"{claim}: limit of simultaneous steps", limit, judged.step_size_below or math.nan, TIGHT)
        game = make(payoff.f, r1=gamma)
        for share in (0.5, 1.0, 1.1):
            found = eigenvalues(game, "simultaneous", step_size=share * limit)
            expected = [
                abs(v) for v in simultaneous_eigenvalues(flow_eigenvalues(payoff.slope, gamma=gamma), share * limit)
            ]
            yield close(f"{name}: modulus at {share} of the limit", max(expected), found.abs().max(), TIGHT)
        strong = stability(make(payoff.f, r1=3.0)).step_size_below or math.nan
        yield close(f"{name}, gamma = 3, real eigenvalues: limit", penalty_step_limit(payoff.slope, 3.0), strong, TIGHT)
        path = trajectory(
            make(payoff.f, r1=abs(payoff.slope)), "simultaneous", 0.5 / abs(payoff.slope), 120, start=START
        )
        yield bounded(f"{name}: norm after 120 steps at half the limit", _norms(path)[-1], TIGHT, relation="at most")


@law(
    "dirac-gan/consensus",
    formula=r"\lambda = 1 - h\gamma f'(0)^2 \pm i h f'(0), \quad h < 2\gamma / (1 + \gamma^2 f'(0)^2)",
    source="Mescheder, Nowozin & Geiger (2017), equation 6 and lemma 9",
)
def agreement(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """Consensus converges for h < 2 gamma / (1 + gamma^2 f'(0)^2), with the logistic f 1 + gamma^2 / 4.

    |v|^2 = f'(theta psi)^2 |w|^2 has the Hessian 2 f'(0)^2 I at (0, 0), so every eigenvalue moves left by
    gamma f'(0)^2.
    """
    for name, payoff in GAMES.items():
        game = make(payoff.f)
        for gamma in (0.2, 0.7, 2.0):
            for share in (0.5, 1.0, 1.2):
                h = share * consensus_step_limit(payoff.slope, gamma)
                theory = consensus_eigenvalues(payoff.slope, h, gamma)
                found = eigenvalues(game, consensus(gamma), step_size=h)
                claim = f"{name}, gamma = {gamma}, {share} of the limit"
                yield from _pair(claim, theory, found)
                if share == 1:
                    yield close(f"{claim}: modulus", 1.0, found.abs(), TIGHT)
        path = trajectory(game, consensus(2.0), 0.5 * h / share, 200, start=START)
        yield bounded(f"{name}: norm after 200 steps", _norms(path)[-1], TIGHT, relation="at most")


@law(
    "dirac-gan/wgan",
    formula=r"|\theta_k|^2 + |\psi_k|^2 \ge c^2 \text{ once } |\psi_k| = c",
    source=f"{MESCHEDER}, lemma 2.5",
    assumptions="the weight is clipped after the critic's move",
)
def wgan(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """WGAN does not converge, at any step size: from anywhere simultaneous steps end outside the circle of the clip.

    Within the clip c the norm grows at every step, so sooner or later the clip binds; there the norm is at least c,
    and each step until it binds again only adds to it.
    """
    for h in STEPS:
        path = trajectory(make("wasserstein", clip=1.0), "simultaneous", h, 400, start=(0.3, 0.0))
        norms, binds = _norms(path), path[:, 1].abs() >= 1
        first = int(binds.to(torch.int).argmax()) if bool(binds.any()) else len(path) - 1
        yield bounded(f"h = {h}: |psi| within the clip", path[:, 1].abs(), 1.0, relation="at most")
        growth = norms[1:first] / norms[: first - 1]
        yield close(f"h = {h}: growth until the clip binds", math.sqrt(1 + h * h), growth, TIGHT)
        yield bounded(f"h = {h}: norm after that", norms[first:], 1.0, relation="at least")
        swing = path[200:, 0].max() - path[200:, 0].min()
        yield bounded(f"h = {h}: theta's swing in the last 200 steps", swing, 1.0, relation="at least")


@law(
    "dirac-gan/wgan-gp",
    formula=r"v_\psi(\theta, 0+) - v_\psi(\theta, 0-) = -4\lambda",
    source=f"{MESCHEDER}, lemma 2.5",
    assumptions="2 lambda h at most 1",
)
def wgan_gp(_: float, make: Make = DiracGAN) -> Iterator[Evidence]:
    """WGAN-GP does not converge: its field jumps at psi = 0 and drives psi away wherever |theta| < 2 lambda.

    The penalty lambda (|psi| - 1)^2 has the slopes -+2 lambda on the two sides. A step from psi > 0 to psi < 0 needs
    h theta > psi + 2 lambda h (1 - psi) >= 2 lambda h, so each passage happens at |theta| > 2 lambda, and away from
    psi = 0 theta moves by h |psi|: nothing comes to rest.
    """
    weight = 0.25
    game = make("wasserstein", gradient_penalty=weight)
    for place in (0.0, 0.7, -2.0):
        sides = [vector_field(game, at=[place, side])[1] for side in (1e-9, -1e-9)]
        yield close(f"jump at theta = {place}", -4 * weight, sides[0] - sides[1], TIGHT)
    for rule in ("simultaneous", "alternating"):
        for h in STEPS:
            path = trajectory(game, rule, h, 180, start=(0.1, 0.1))
            theta, psi = path[:, 0], path[:, 1]
            crossing = (psi[1:] * psi[:-1]) < 0
            seen = theta[:-1] if rule == "simultaneous" else theta[1:]  # what the critic's move saw
            where = seen[crossing].abs() if bool(crossing.any()) else theta.new_zeros(1)
            yield bounded(f"{rule}, h = {h}: |theta| where psi changes sign", where, 2 * weight, relation="at least")
            yield bounded(f"{rule}, h = {h}: changes in the last 100 steps", _turns(psi[80:]), 2, relation="at least")


def _turns(values: Tensor) -> float:
    """How often the sign changes."""
    return float((values[1:] * values[:-1] < 0).sum())


def _portrait(k: int) -> str:
    """The orbits of panel number k."""
    from jensen.check.portrait import dirac_panels, phase_portrait_svg  # draws: not for every trial's process

    return phase_portrait_svg(dirac_panels()[k : k + 1])


for _k, _law in enumerate((flow, simultaneous, alternating, rules, noise, penalties, agreement, wgan_gp)):
    _law.drawn(partial(_portrait, _k))

LAWS: tuple[Law, ...] = (
    equilibrium,
    flow,
    simultaneous,
    alternating,
    rules,
    noise,
    penalties,
    agreement,
    wgan,
    wgan_gp,
)

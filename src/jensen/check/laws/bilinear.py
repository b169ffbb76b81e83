r"""Update rules on the bilinear game $x^\top A y$, where every iterate is a power of a known matrix times the start."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jensen.check.evidence import Claims, bounded, close
from jensen.check.law import law
from jensen.check.line import F64, f64
from jensen.core.objective import Objective, partition
from jensen.core.types import Batch, Loss, Phase
from jensen.report import plots
from jensen.training import Player, TrainState, Update, consensus, descend, extragradient, optimistic, train_step

MATRIX = f64([[1.0, 0.4], [-0.3, 0.8], [0.5, 0.2]])
START = f64([1.0, -0.5, 0.3, 0.8, -1.2])
H, GAMMA, STEPS = 0.2, 0.3, 25
TOGETHER, IN_TURN = (Phase(("x", "y")),), (Phase(("x",)), Phase(("y",)))
EYE, M = torch.eye(5, dtype=F64), torch.zeros(5, 5, dtype=F64)
M[:3, 3:], M[3:, :3] = MATRIX, -MATRIX.T  # the field is v(w) = M w


class Bilinear(Objective):
    """X descends x' A y, y ascends it."""

    def __init__(self, phases: tuple[Phase, ...]):
        super().__init__()
        self.x, self.y = nn.Parameter(START[:3].clone()), nn.Parameter(START[3:].clone())
        self.model, self.phases = nn.Identity(), phases

    def players(self) -> Mapping[str, Any]:
        return {"x": [self.x], "y": [self.y]}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        value = self.x @ MATRIX @ self.y
        return {name: Loss.of({"x": value, "y": -value}[name]) for name in players}


def started(
    objective: Objective,
    rate: float | Mapping[str, float],
    *,
    clip: Mapping[str, float | None] | None = None,
    decay: Callable[[int], float] = lambda _: 0.0,
) -> TrainState:
    """The state of plain gradient descent before its first step."""

    def player(name: str, parameters: list[nn.Parameter]) -> Player:
        own = rate[name] if isinstance(rate, Mapping) else rate
        return Player(parameters, torch.optim.SGD(parameters, lr=own), lambda _: own, clip=(clip or {}).get(name))

    return TrainState(objective, {name: player(name, p) for name, p in partition(objective).items()}, decay=decay)


def played(update: Update, phases: tuple[Phase, ...] = TOGETHER) -> Tensor:
    """The weights of the bilinear game at the start and after each step, (STEPS + 1, 5)."""
    objective = Bilinear(phases)
    state, path = started(objective, H), [START]
    for _ in range(STEPS):
        train_step(state, itertools.repeat({}), update=update)
        path.append(torch.cat([objective.x.detach(), objective.y.detach()]))
    return torch.stack(path)


def powers(step: Tensor) -> Tensor:
    """The start times each power of a matrix, (STEPS + 1, 5)."""
    return torch.stack([torch.linalg.matrix_power(step, k) @ START for k in range(STEPS + 1)])


@law("bilinear/descent")
def descent(_: float) -> Claims:
    r"""On a bilinear game simultaneous gradient steps diverge, and alternating gradient steps stay bounded.

    $$w_{k+1} = (I - hM)\,w_k, \quad |w_{k+1}|^2 = |w_k|^2 + h^2 |M w_k|^2$$
    Mw = (Ay, -A'x) is the gradient field of x'Ay at w = (x, y), and h the step size. M is antisymmetric, so Mw is
    orthogonal to w. An alternating step is a product of two shears: in the plane of each singular value sigma of A its
    determinant is 1, and its powers are bounded for h sigma < 2.
    Source: Mescheder et al. (2017), section 3; Gidel et al. (2019), proposition 1.
    """
    path = played(descend)
    yield close("simultaneous iterates", powers(EYE - H * M), path, 1e-10)
    growth = path.square().sum(1).diff()
    yield close("growth of |w|^2 at each step", H**2 * (path[:-1] @ M.T).square().sum(1), growth, 1e-10)
    first, second = EYE.clone(), EYE.clone()
    first[:3], second[3:] = (EYE - H * M)[:3], (EYE - H * M)[3:]
    yield close("alternating iterates", powers(second @ first), played(descend, IN_TURN), 1e-10)


@law("bilinear/extragradient")
def extragradient_iterates(_: float) -> Claims:
    r"""Extragradient takes the field v at w - h v(w), and converges on a bilinear game.

    $$w_{k+1} = (I - hM + h^2M^2)\,w_k$$
    $v(w - hMw) = Mw - hM^2w$. In the plane of a singular value $\sigma$ of A, $M^2 = -\sigma^2$, and the eigenvalues
    have the modulus $\sqrt{1 - h^2\sigma^2 + h^4\sigma^4} < 1$ for $h\sigma < 1$.
    Source: Korpelevich (1976); Gidel et al. (2019), equation 10.
    """
    path, step = played(extragradient), EYE - H * M + H**2 * M @ M
    yield close("iterates", powers(step), path, 1e-10)
    moduli, planes = torch.linalg.eigvals(step).abs().sort().values, H * torch.linalg.svdvals(MATRIX)
    yield close("largest modulus, in the null space of M", 1.0, moduli[-1], 1e-9)
    exact = (1 - planes**2 + planes**4).sqrt().sort().values
    yield close("moduli in the planes of the singular values", exact.repeat_interleave(2), moduli[:4], 1e-9)
    yield bounded("change of |Mw| at each step", (path @ M.T).norm(dim=1).diff(), 0.0, relation="at most")


@law("bilinear/optimistic")
def optimistic_iterates(_: float) -> Claims:
    r"""Optimistic descent extrapolates from the previous gradient, and converges on a bilinear game.

    $$w_{k+1} = w_k - h\,(2 M w_k - M w_{k-1}), \quad w_1 = w_0 - h M w_0$$
    The step is linear in (w_k, w_{k-1}), and converges for h sigma < 1/sqrt(3), with sigma the singular values of A.
    Source: Daskalakis et al. (2018), equation 4; Gidel et al. (2019), section 3.2.
    """
    path, found = [START, START - H * M @ START], played(optimistic)
    for _step in range(STEPS - 1):
        path.append(path[-1] - H * M @ (2 * path[-1] - path[-2]))
    yield close("iterates", torch.stack(path), found, 1e-10)
    speed = (found @ M.T).norm(dim=1)
    yield bounded("|Mw| at the end over |Mw| at the start", speed[-1] / speed[0], 0.9, relation="at most")


@law("bilinear/consensus")
def consensus_iterates(_: float) -> Claims:
    r"""Consensus optimisation adds the gradient of gamma |v|^2 / 2 to the field v, and converges on a bilinear game.

    $$w_{k+1} = (I - hM - h\gamma M^\top M)\,w_k$$
    $\frac12|Mw|^2$ has the gradient $M^\top M w$, which is $\sigma^2 w$ in the plane of a singular value $\sigma$ of A.
    Source: Mescheder et al. (2017), equation 6.
    """
    found = played(consensus(GAMMA))
    yield close("iterates", powers(EYE - H * M - H * GAMMA * M.T @ M), found, 1e-10)
    yield close("gamma = 0: iterates of plain descent", played(descend), played(consensus(0.0)), 0.0)
    yield bounded("change of |Mw| at each step", (found @ M.T).norm(dim=1).diff(), 0.0, relation="at most")


@descent.drawn
def _norms_of_the_field() -> str:
    paths = {"simultaneous": played(descend), "alternating": played(descend, IN_TURN)}
    paths |= {f.__name__: played(f) for f in (extragradient, optimistic)} | {"consensus": played(consensus(GAMMA))}
    rows = {name: (path @ M.T).norm(dim=1).tolist() for name, path in paths.items()}
    title = "norm of the field of a bilinear game"
    return plots.curves(list(range(STEPS + 1)), rows, title=title, xlabel="steps", markers=False)

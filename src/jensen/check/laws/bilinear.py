r"""Update rules on a bilinear game, $x^\top A y$: every iterate is a power of a known matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jensen.check.evidence import Evidence, bounded, close
from jensen.check.law import Law, law
from jensen.core.objective import Objective, partition
from jensen.core.types import Batch, Loss, Phase
from jensen.report import plots
from jensen.training import Player, TrainState, Update, consensus, descend, extragradient, optimistic, train_step

F64 = torch.float64
MATRIX = torch.tensor([[1.0, 0.4], [-0.3, 0.8], [0.5, 0.2]], dtype=F64)
START = torch.tensor([1.0, -0.5, 0.3, 0.8, -1.2], dtype=F64)
H, GAMMA, STEPS = 0.2, 0.3, 25
TOGETHER = (Phase(("x", "y")),)


class Bilinear(Objective):
    """X descends x' A y, y ascends it."""

    def __init__(self, phases: tuple[Phase, ...] = TOGETHER):
        super().__init__()
        self.x, self.model = nn.Parameter(START[:3].clone()), nn.Module()
        self.model.x = self.x
        self.y = nn.Parameter(START[3:].clone())
        self.phases = phases

    def players(self) -> Mapping[str, Any]:
        return {"x": [self.x], "y": [self.y]}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        value = self.x @ MATRIX @ self.y
        losses = {"x": value, "y": -value}
        return {name: Loss.of(losses[name]) for name in players}


def started(
    objective: Objective,
    rate: float | Mapping[str, float],
    *,
    clip: Mapping[str, float | None] | None = None,
    decay: Callable[[int], float] = lambda _: 0.0,
) -> TrainState:
    """A state of plain descent."""

    def player(name: str, parameters: list[nn.Parameter]) -> Player:
        own = rate[name] if isinstance(rate, Mapping) else rate
        return Player(parameters, torch.optim.SGD(parameters, lr=own), lambda _: own, clip=(clip or {}).get(name))

    return TrainState(objective, {name: player(name, p) for name, p in partition(objective).items()}, decay=decay)


def played(update: Update, phases: tuple[Phase, ...] = TOGETHER) -> Tensor:
    """The weights of the bilinear game after each step, the start first: (STEPS + 1, 5)."""
    objective = Bilinear(phases)
    state, path = started(objective, H), [START]
    for _ in range(STEPS):
        train_step(state, itertools.repeat({}), update=update)
        path.append(torch.cat([objective.x.detach(), objective.y.detach()]))
    return torch.stack(path)


def powers(step: Tensor) -> Tensor:
    """Iterates of a matrix from the start."""
    path = [START]
    for _ in range(STEPS):
        path.append(step @ path[-1])
    return torch.stack(path)


def _field() -> Tensor:
    """V(w) = M w, with M = (0, A; -A', 0)."""
    m = torch.zeros(5, 5, dtype=F64)
    m[:3, 3:], m[3:, :3] = MATRIX, -MATRIX.T
    return m


EYE = torch.eye(5, dtype=F64)


@law(
    "bilinear/descent",
    formula=r"w \leftarrow (I - hM)\,w, \quad |w_{k+1}|^2 = |w_k|^2 + h^2 |M w_k|^2",
    source="Mescheder et al. (2017), section 3; Gidel et al. (2019), proposition 1",
)
def descent(_: float) -> Iterator[Evidence]:
    """Simultaneous descent spirals out of every bilinear game; alternating descent stays bounded.

    M is antisymmetric, so |w - hMw|^2 = |w|^2 + h^2 |Mw|^2. Alternating steps are a product of two shears, of
    determinant 1 in the plane of each singular pair, and bounded for h sigma < 2.
    """
    m = _field()
    path = played(descend)
    yield close("simultaneous iterates", powers(EYE - H * m), path, 1e-10)
    grown = path[1:].square().sum(1) - path[:-1].square().sum(1)
    yield close("growth of |w|^2 a step", H**2 * (path[:-1] @ m.T).square().sum(1), grown, 1e-10)
    first, second = EYE.clone(), EYE.clone()
    first[:3], second[3:] = (EYE - H * m)[:3], (EYE - H * m)[3:]
    turns = (Phase(("x",)), Phase(("y",)))
    yield close("alternating iterates", powers(second @ first), played(descend, turns), 1e-10)


@law(
    "bilinear/extragradient",
    formula=r"w \leftarrow (I - hM + h^2M^2)\,w",
    source="Korpelevich (1976); Gidel et al. (2019), equation 10",
)
def looked_ahead(_: float) -> Iterator[Evidence]:
    r"""Extragradient takes the field at w - hv(w), and converges on a bilinear game.

    $v(w - hMw) = Mw - hM^2w$. With $M^2 = -\sigma^2$ in a singular plane the modulus is
    $\sqrt{1 - h^2\sigma^2 + h^4\sigma^4} < 1$ for $h\sigma < 1$.
    """
    m = _field()
    path = played(extragradient)
    yield close("iterates", powers(EYE - H * m + H**2 * m @ m), path, 1e-10)
    _, singular, _ = torch.linalg.svd(MATRIX)
    yield close(
        "slowest modulus, of the null space", 1.0, torch.linalg.eigvals(EYE - H * m + H**2 * m @ m).abs().max(), 1e-9
    )
    exact = (1 - (H * singular) ** 2 + (H * singular) ** 4).sqrt().sort().values
    seen = torch.linalg.eigvals(EYE - H * m + H**2 * m @ m).abs().sort().values
    yield close("moduli of the singular planes", exact.repeat_interleave(2), seen[:4], 1e-9)
    yield bounded("|Mw| shrinks", (path @ m.T).norm(dim=1).diff(), 0.0, relation="at most")


@law(
    "bilinear/optimistic",
    formula=r"w_{k+1} = w_k - h\,(2 M w_k - M w_{k-1})",
    source="Daskalakis et al. (2018), equation 4; Gidel et al. (2019), section 3.2",
)
def remembered(_: float) -> Iterator[Evidence]:
    """Optimistic descent extrapolates from the last gradient; the first step is plain.

    One step of a matrix of twice the size, on (w_k, w_{k-1}); it converges for h sigma < 1/sqrt 3.
    """
    m = _field()
    path = [START, START - H * m @ START]
    for _step in range(STEPS - 1):
        path.append(path[-1] - H * m @ (2 * path[-1] - path[-2]))
    found = played(optimistic)
    yield close("iterates", torch.stack(path), found, 1e-10)
    speed = (found @ m.T).norm(dim=1)
    yield bounded("|Mw| at the end, over the start", speed[-1] / speed[0], 0.9, relation="at most")


@law(
    "bilinear/consensus",
    formula=r"w \leftarrow (I - hM - h\gamma M^\top M)\,w",
    source="Mescheder et al. (2017), equation 6",
)
def agreed(_: float) -> Iterator[Evidence]:
    r"""Consensus descends $v + \gamma\nabla\frac12|v|^2$: the regulariser pulls the spiral in.

    $\frac12|Mw|^2$ has the gradient $M^\top M w$, which is $\sigma^2 w$ in a singular plane.
    """
    m = _field()
    found = played(consensus(GAMMA))
    yield close("iterates", powers(EYE - H * m - H * GAMMA * m.T @ m), found, 1e-10)
    yield close("gamma = 0 is plain descent", played(descend), played(consensus(0.0)), 0.0)
    yield bounded("|Mw| shrinks", (found @ m.T).norm(dim=1).diff(), 0.0, relation="at most")


@descent.drawn
def _spirals() -> str:
    m = _field()
    rules: dict[str, tuple[Update, tuple[Phase, ...]]] = {
        "simultaneous": (descend, TOGETHER),
        "alternating": (descend, (Phase(("x",)), Phase(("y",)))),
        "extragradient": (extragradient, TOGETHER),
        "optimistic": (optimistic, TOGETHER),
        "consensus": (consensus(GAMMA), TOGETHER),
    }
    rows = {name: (played(*how) @ m.T).norm(dim=1).tolist() for name, how in rules.items()}
    steps = list(range(STEPS + 1))
    return plots.curves(steps, rows, title="A bilinear game: size of the field", xlabel="steps", markers=False)


LAWS: tuple[Law, ...] = (descent, looked_ahead, remembered, agreed)

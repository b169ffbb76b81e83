"""A game as a vector field: the players' gradients as a function of all their weights, with fixed random draws."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective, copied, partition
from jensen.core.seeding import begin, generator
from jensen.core.shapes import check_finite
from jensen.core.types import Batch, Loss, Phase

Product = Callable[[Tensor], Tensor]
"""Maps a direction (n,) to the derivative along it (m,)."""
Point = Sequence[float] | Tensor


class Frozen(Objective):
    """A copy of a game in double precision, on one batch, with the same draws of torch's generators every time.

    Its losses are then functions of the weights: the sample-average game. The weights are one vector, player after
    player in the order in which the game names them. The game itself is not changed.

    Args:
        game: an objective.
        batch: the batch for all phases; empty by default.
        at: the weights; by default those of the game.
        seed: random seed of the draws.
        step: training step passed to the losses, which may be annealed.
        phases: order of the updates; by default that of the game.

    Raises:
        ValueError: if the game is not an objective, `at` is not one vector of all weights, or a phase names an unknown
            player; in evaluation, if a loss reads an entry that the batch does not have.
    """

    def __init__(
        self,
        game: Objective,
        batch: Batch | None = None,
        *,
        at: Point | None = None,
        seed: int = 0,
        step: int = 0,
        phases: tuple[Phase, ...] | None = None,
    ):
        super().__init__()
        if not isinstance(game, Objective):
            raise ValueError(f"game must be an Objective, got {type(game).__name__}")
        self.game = copied(game).double().train()
        self.model = self.game.model
        self.phases = game.phases if phases is None else phases
        self.owned = partition(self)
        for name, x in (batch or {}).items():
            check_finite(**{f"the batch's {name}": x})
        self.batch = _Given({k: x.double() if x.is_floating_point() else x for k, x in (batch or {}).items()})
        self.seed, self.when = seed, step
        self.at_start = {name: b.clone() for name, b in self.game.named_buffers()}
        if at is not None:
            self.put(torch.as_tensor(at, dtype=torch.float64))

    @property
    def flat(self) -> list[nn.Parameter]:
        """All parameters, player after player."""
        return [p for parameters in self.owned.values() for p in parameters]

    @property
    def weights(self) -> Tensor:
        """The weights, (n,), as a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.flat])

    @torch.no_grad()
    def put(self, weights: Tensor) -> None:
        """Set all weights, and reset every buffer to its initial value."""
        total = sum(p.numel() for p in self.flat)
        if weights.shape != (total,):
            raise ValueError(f"the weights of {', '.join(self.owned)} must be ({total},), got {tuple(weights.shape)}")
        for p, part in zip(self.flat, split(weights, self.flat), strict=True):
            p.copy_(part)
        for name, value in self.at_start.items():
            self.game.get_buffer(name).copy_(value)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.game.players()

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        with self._still():
            losses: Mapping[str, Loss] = self.game(players, self.batch, self.when)
        return losses

    def after(self, player: str, loss: Loss, step: int) -> None:
        with self._still():
            self.game.after(player, loss, self.when)

    def gradients(self, create_graph: bool = False) -> list[Tensor]:
        """The gradient of each player's loss with respect to its own parameters, all from one forward pass."""
        with torch.enable_grad():
            losses = self(tuple(self.owned), self.batch, self.when)
            return [
                g
                for name, parameters in self.owned.items()
                for g in torch.autograd.grad(
                    losses[name].total,
                    parameters,
                    create_graph=create_graph,
                    retain_graph=True,
                    materialize_grads=True,
                )
            ]

    def field(self, weights: Tensor) -> Tensor:
        """v, (n,), at these weights."""
        self.put(weights)
        return torch.cat([g.reshape(-1) for g in self.gradients()])

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Fix the seed and make double the default dtype; both are restored afterwards."""
        dtype, device = torch.get_default_dtype(), self.flat[0].device
        sources = [torch.default_generator]
        if device.type == "cuda":
            sources.append(torch.cuda.default_generators[device.index])
        states = [source.get_state() for source in sources]
        torch.set_default_dtype(torch.float64)
        try:
            for source in sources:
                begin(source, self.seed)
            yield
        finally:
            torch.set_default_dtype(dtype)
            for source, state in zip(sources, states, strict=True):
                source.set_state(state)


class _Given(dict[str, Tensor]):
    """A batch whose missing entries raise an explicit error."""

    def __missing__(self, key: str) -> Tensor:
        raise ValueError(f"the game needs a batch with {key!r}, got {sorted(self) if self else 'none'}")


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The vector split into parts of these shapes."""
    return [part.view_as(x) for part, x in zip(vector.split([x.numel() for x in like]), like, strict=True)]


def vector_field(
    game: Objective, batch: Batch | None = None, *, at: Point | None = None, seed: int = 0, step: int = 0
) -> Tensor:
    r"""$v(w) = (\nabla_{w_i} L_i)_i$, each player's gradient of its own loss, stacked; the flow is $w' = -v$.

    Args:
        game: an objective with any number of players.
        batch: batch on which the losses are evaluated.
        at: (n,), the players' weights one after another in the order of `game.players()`; by default its own.
        seed: random seed of the draws inside the losses.
        step: training step passed to the losses.

    Returns:
        (n,), double precision.

    Raises:
        ValueError: if `at` is not one vector of all weights.

    Source: Mescheder et al. (2017), equation 2.

    >>> from jensen.adversarial import DiracGAN
    >>> vector_field(DiracGAN("wasserstein"), at=[2.0, 3.0])  # L = -theta psi, which the critic ascends
    tensor([-3.,  2.], dtype=torch.float64)
    """
    frozen = Frozen(game, batch, at=at, seed=seed, step=step)
    return frozen.field(frozen.weights)


def derivative(function: Callable[[Tensor], Tensor], at: Tensor, size: float) -> Product:
    """Directional derivatives of a function from (n,) to (m,), by four differences with an error of order size^4."""

    def product(direction: Tensor) -> Tensor:
        length = direction.norm()
        unit = size * direction / length if length > 0 else direction

        def ahead(k: int) -> Tensor:
            return function(at + k * unit)

        found: Tensor = (8 * (ahead(1) - ahead(-1)) - (ahead(2) - ahead(-2))) * (length / (12 * size))
        return found

    return product


def exact_product(game: Frozen) -> Product:
    """Directional derivatives of v at the current weights: $u \\mapsto J^T u$ is differentiated; it is linear.

    The graph is built once; each product is one backward pass. The game's weights must not change meanwhile. Detached
    parts of a loss count as constant, as in autograd.
    """
    parameters = game.flat
    found = game.gradients(create_graph=True)
    moving = [k for k, g in enumerate(found) if g.requires_grad]
    if not moving:
        return torch.zeros_like
    weights = [torch.zeros_like(found[k], requires_grad=True) for k in moving]
    back = torch.autograd.grad(
        [found[k] for k in moving], parameters, weights, create_graph=True, materialize_grads=True
    )
    used = [k for k, b in enumerate(back) if b.requires_grad]

    def product(direction: Tensor) -> Tensor:
        out = [torch.zeros_like(p) for p in parameters]
        if used:
            parts = split(direction, parameters)
            rows = torch.autograd.grad(
                [back[k] for k in used],
                weights,
                [parts[k] for k in used],
                retain_graph=True,
                materialize_grads=True,
            )
            for k, row in zip(moving, rows, strict=True):
                out[k] = row.detach()
        return torch.cat([x.reshape(-1) for x in out])

    return product


AGREE = 1e-4  # relative difference of derivatives computed in two ways
CLOSE, NEAR = 1e-3, 1e-8  # step sizes of differences: for smooth functions, and with kinks nearby
SIZES = (CLOSE, 1e-4, 1e-5, 1e-6, 1e-7, NEAR)


def difference_step(function: Callable[[Tensor], Tensor], at: Tensor, seed: int) -> float:
    """The step size for differences: the largest, and most precise, of `SIZES` that agrees with all smaller ones.

    A larger step fails if it crosses a kink; the probe moves as far along every axis as the differences for the matrix
    will.

    Raises:
        ValueError: if the function is discontinuous here (differences grow as the step shrinks) or has a kink here.
    """
    probe = _probe(at, seed)
    length, reach = float(probe.norm()), 2 * math.sqrt(len(at))
    tried = [NEAR if size == NEAR else reach * size for size in SIZES]
    found = [derivative(function, at, size)(probe) for size in tried]
    if float(found[-1].norm()) > 100 * float(found[0].norm()) + (AGREE + _rounding(at, NEAR)) * length:
        raise ValueError("the vector field is discontinuous here and has no linearisation: use trajectories")
    if kinked(function, at, seed):
        raise ValueError("the vector field has a kink here and no linearisation: use trajectories")

    def agree(wide: int, close: int) -> bool:
        return _agree(found[wide], found[close], _rounding(at, tried[close]), length)

    return next(size for k, size in enumerate(SIZES) if all(agree(k, j) for j in range(k + 1, len(SIZES))))


def kinked(function: Callable[[Tensor], Tensor], at: Tensor, seed: int) -> bool:
    r"""Whether the function has a kink here: $\sum_k f(w + s d_k) - f(w)$ is not $o(s)$, though $\sum_k d_k = 0$.

    If f is linear near w, the sum over these three directions is 0. Curvature leaves order $s^2$, rounding leaves a
    constant, a kink leaves order s. Every row of f is scaled by its own size, so that a stiff row does not hide
    another.

    >>> kinked(torch.relu, torch.zeros(2, dtype=torch.float64), 0), kinked(torch.relu, torch.ones(2).double(), 0)
    (True, False)
    """
    first, second = (_direction(at, seed + k) for k in (0, 1))
    triangle = torch.stack([first, second, -first - second])
    triangle, middle = triangle / triangle.norm(dim=1).max(), function(at)

    def gap(size: float) -> tuple[Tensor, Tensor]:
        sides = torch.stack([function(at + size * d) - middle for d in triangle]) / size
        found = sides.sum(0).abs()
        return found, found > AGREE * sides.abs().sum(0) + _rounding(at, size) * (1 + sides.norm())

    (close, seen), (wide, still) = gap(NEAR), gap(100 * NEAR)
    return bool((seen & still & (wide < 10 * close)).any())


def difference_error(function: Callable[[Tensor], Tensor], at: Tensor, size: float, seed: int) -> float:
    """The error of a matrix of differences: rounding, plus the change along a random direction at half the step."""
    probe = _direction(at, seed)
    found, half = (derivative(function, at, s)(probe) for s in (size, size / 2))
    measured, scale = (float(x.norm() / probe.norm()) for x in (found - half, found))
    return max(4 * measured, _rounding(at, size) * scale)


def _rounding(at: Tensor, size: float) -> float:
    """Rounding error of differences of this size in double precision, relative to the function's derivative."""
    return 4 * torch.finfo(torch.float64).eps * (1 + float(at.norm())) / size


def _agree(found: Tensor, other: Tensor, rounding: float, length: float) -> bool:
    """Whether two derivatives along a direction of this length agree up to rounding, row by row."""
    floor = rounding * (float(other.norm()) + length)
    return bool(((found - other).abs() <= AGREE * other.abs() + floor).all())


def field_product(game: Frozen, size: float) -> tuple[Product, bool]:
    """Directional derivatives of v, and whether they are exact: whether differences along a random direction agree.

    They disagree if a loss detaches something it depends on: autograd then does not differentiate the field that the
    players follow, and the differences are returned. Every weight's row is scaled by its own size.
    """
    at = game.weights
    probe = _probe(at, game.seed)
    rough = derivative(game.field, at, size)
    seen = rough(probe)
    game.put(at)
    exact = exact_product(game)
    if _agree(exact(probe), seen, _rounding(at, size), float(probe.norm())):
        return exact, True
    return rough, False


def _probe(like: Tensor, seed: int) -> Tensor:
    """A random direction with no coordinate below half the root mean square."""
    direction = _direction(like, seed)
    return direction + direction.sign()


def _direction(like: Tensor, seed: int) -> Tensor:
    return torch.randn(len(like), dtype=torch.float64, generator=generator(seed)).to(like)

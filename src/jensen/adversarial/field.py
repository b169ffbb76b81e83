"""A game as a vector field: the players' gradients as a function of all their weights, with chance held still."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective, copied, partition
from jensen.core.seeding import begin, generator
from jensen.core.types import Batch, Loss, Phase

Product = Callable[[Tensor], Tensor]
"""A direction (n,) to the derivative along it (m,)."""
Point = Sequence[float] | Tensor


class Frozen(Objective):
    """A copy of a game in double precision, on one batch, with the same draws of torch's generators every time.

    Its losses are then functions of the weights: the sample-average game. The weights are one vector, the players'
    one after another in the order in which the game names them. The game itself is left as it is.

    Args:
        game: any.
        batch: what every phase sees; nothing by default.
        at: the weights; the game's own by default.
        seed: of the draws.
        step: what the game is told, for whatever is annealed.
        phases: who moves when; the game's own by default.

    Raises:
        ValueError: if the game is no objective, `at` is not one vector of all weights, or a phase names an unknown
            player; from its losses, if they read what the batch has not.
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
        """(n,), a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.flat])

    @torch.no_grad()
    def put(self, weights: Tensor) -> None:
        """Set all weights, and every buffer as it was at first."""
        total = sum(p.numel() for p in self.flat)
        if weights.shape != (total,):
            raise ValueError(f"the weights of {', '.join(self.owned)} are ({total},), got {tuple(weights.shape)}")
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
        """Of each player's own loss by its own parameters, all from one forward pass."""
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
        """Draws that begin at the seed, and what is drawn without a dtype in double; both put back afterwards."""
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
    """A batch that says what it lacks."""

    def __missing__(self, key: str) -> Tensor:
        raise ValueError(f"the game needs a batch with {key!r}, got {sorted(self) if self else 'none'}")


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The vector in parts of these shapes."""
    return [part.view_as(x) for part, x in zip(vector.split([x.numel() for x in like]), like, strict=True)]


def vector_field(
    game: Objective, batch: Batch | None = None, *, at: Point | None = None, seed: int = 0, step: int = 0
) -> Tensor:
    r"""$v(w) = (\nabla_{w_i} L_i)_i$, each player's gradient of its own loss, stacked; the flow is $w' = -v$.

    Args:
        game: any, of any number of players.
        batch: what the losses are of.
        at: (n,), the players' weights one after another in the order of `game.players()`; by default its own.
        seed: of the draws inside the losses.
        step: what the game is told.

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
    """Derivatives of a function from (n,) to (m,) along any direction, by four differences: an error of size^4."""

    def product(direction: Tensor) -> Tensor:
        length = direction.norm()
        unit = size * direction / length if length > 0 else direction

        def ahead(k: int) -> Tensor:
            return function(at + k * unit)

        found: Tensor = (8 * (ahead(1) - ahead(-1)) - (ahead(2) - ahead(-2))) * (length / (12 * size))
        return found

    return product


def exact_product(game: Frozen) -> Product:
    """Derivatives of v along any direction, where the game stands: $u \\mapsto J^T u$ is linear, and differentiated.

    The graph is made once; a product is one backward pass. The game's weights must stay as they are. What a loss
    detaches is taken for constant, as autograd does.
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


AGREE = 1e-4  # of derivatives found in two ways, relative
CLOSE, NEAR = 1e-3, 1e-8  # steps of differences: where all is smooth, and where kinks may be near
SIZES = (CLOSE, 1e-4, 1e-5, 1e-6, 1e-7, NEAR)


def difference_step(function: Callable[[Tensor], Tensor], at: Tensor, seed: int) -> float:
    """How wide to take differences: the widest of `SIZES`, the most precise, that agrees with all closer ones.

    A wider one is wrong where kinks are within it; its probe reaches as far along every axis as a column will.

    Raises:
        ValueError: if the function jumps here: its differences grow as they are taken closer; or has a kink here.
    """
    probe = _probe(at, seed)
    length, reach = float(probe.norm()), 2 * math.sqrt(len(at))
    tried = [NEAR if size == NEAR else reach * size for size in SIZES]
    found = [derivative(function, at, size)(probe) for size in tried]
    if float(found[-1].norm()) > 100 * float(found[0].norm()) + (AGREE + _rounding(at, NEAR)) * length:
        raise ValueError("the vector field jumps here and has no linearisation: look at trajectories")
    if kinked(function, at, seed):
        raise ValueError("the vector field has a kink here and no linearisation: look at trajectories")

    def agree(wide: int, close: int) -> bool:
        return _agree(found[wide], found[close], _rounding(at, tried[close]), length)

    return next(size for k, size in enumerate(SIZES) if all(agree(k, j) for j in range(k + 1, len(SIZES))))


def kinked(function: Callable[[Tensor], Tensor], at: Tensor, seed: int) -> bool:
    r"""Whether the function has a kink here: $\sum_k f(w + s d_k) - f(w)$ is not $o(s)$, though $\sum_k d_k = 0$.

    Where f is linear near w the sum over these three directions is 0. A bend leaves $s^2$, rounding the same at every
    s; a kink leaves s. Every row of f counts by its own size, so that no stiff one hides another.

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
    """How wrong a matrix of differences may be: by rounding, and by what half the size changes along a random one."""
    probe = _direction(at, seed)
    found, half = (derivative(function, at, s)(probe) for s in (size, size / 2))
    measured, scale = (float(x.norm() / probe.norm()) for x in (found - half, found))
    return max(4 * measured, _rounding(at, size) * scale)


def _rounding(at: Tensor, size: float) -> float:
    """Error of differences of this size in double precision, relative to the function's own derivative."""
    return 4 * torch.finfo(torch.float64).eps * (1 + float(at.norm())) / size


def _agree(found: Tensor, other: Tensor, rounding: float, length: float) -> bool:
    """Whether two derivatives along a direction of this length are the same but for rounding, each row by itself."""
    floor = rounding * (float(other.norm()) + length)
    return bool(((found - other).abs() <= AGREE * other.abs() + floor).all())


def field_product(game: Frozen, size: float) -> tuple[Product, bool]:
    """Derivatives of v along any direction, and whether they are exact: where differences along a random one agree.

    They disagree where a loss detaches what it depends on: there autograd differentiates something else than the
    field that players follow, and differences are what is given. Every weight's row counts by its own size.
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

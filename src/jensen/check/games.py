"""Whether a game is trained by its losses: its vector field, the loss that moves each player, its eigenvalues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from jensen.adversarial.field import Frozen, split
from jensen.check.evidence import Evidence, Report, close
from jensen.core.objective import Objective, partition
from jensen.core.seeding import begin_globally, generator
from jensen.core.types import Batch, Loss, Phase
from jensen.training import Player, TrainState, Update, consensus, descend, extragradient, optimistic, train_step

Losses = Callable[[], Mapping[str, Tensor]]
Players = Mapping[str, Iterable[nn.Parameter]]
SIZE, DIRECTIONS = 1e-3, 4  # of differences; random directions a player
RULES: dict[str, Callable[[float], Update]] = {  # of gamma
    "descend": lambda _: descend,
    "extragradient": lambda _: extragradient,
    "optimistic": lambda _: optimistic,
    "consensus": consensus,
}


def game(
    game: Objective | Losses,
    batch: Batch | None = None,
    *,
    players: Players | None = None,
    step: Callable[[], object] | None = None,
    phases: tuple[Phase, ...] | None = None,
    update: str = "descend",
    gamma: float = 0.1,
    rate: float = 0.1,
    eigenvalues: Sequence[complex] | Tensor | None = None,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> Report:
    r"""Whether a game, and a step of its training, follow from its losses.

    With weights $w = (w_1, ..., w_n)$ and losses $L_i$: the losses are functions of the weights (two calls agree); the
    field $v_i = \nabla_{w_i} L_i$ is the numerical derivative of $L_i$ in $w_i$ (this detects a detached term); a
    step of plain gradient descent moves $w_i$ by $-h v_i$ and by nothing else, phase after phase (this detects a
    gradient that leaks from another player's loss), or by the rule of `update`; the eigenvalues of the flow
    $w' = -v(w)$ are those of the field's numerical Jacobian.

    Args:
        game: a `jensen.core.Objective`, copied in double precision and trained by `jensen.training`; or a function that
            returns each player's loss, a scalar, at the current weights.
        batch: the data of an objective's losses.
        players: for a function: the weights of each player, in double precision.
        step: for a function: one step of gradient descent in place, with learning rate `rate`; the weights are restored
            afterwards. Random numbers in the losses of such a game must be the same at every call.
        phases: which players move when; by default an objective's own phases, or all players at once.
        update: the update rule: "descend"; or, for all players at once, "extragradient", $w - h v(w - h v(w))$;
            "optimistic", whose second step is $-h(2 v(w_1) - v(w_0))$, so two steps are made; "consensus",
            $w - h (v + \gamma v'^T v)$.
        gamma: the weight of consensus.
        rate: h, the learning rate.
        eigenvalues: claimed eigenvalues of $-v'(w)$ at these weights, in any order; for games of up to a few hundred
            weights.
        seed: random seed of the draws inside the losses.
        tolerance: relative to the size of the compared values.

    Raises:
        ValueError: for a function without players, players that are not in double precision, or an unknown rule.

    Source: Mescheder et al. (2017), equation 2.

    >>> x, y = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.0, 2.0))
    >>> def step():  # forgets that y's loss also depends on x
    ...     for p in (x, y):
    ...         p.grad = None
    ...     (x * y).backward(); (-x * y).backward()
    ...     with torch.no_grad():
    ...         x.sub_(0.1 * x.grad); y.sub_(0.1 * y.grad)
    >>> report = game(lambda: {"x": x * y, "y": -x * y}, players={"x": [x], "y": [y]}, step=step, eigenvalues=(1j, -1j))
    >>> [e.claim for e in report.failed]
    ['a step moves x by the gradient of its loss alone', 'a step moves y by the gradient of its loss alone']
    """
    if update not in RULES:
        raise ValueError(f"update must be one of {', '.join(RULES)}, got {update!r}")
    if isinstance(game, Objective):
        if update != "descend":
            phases = (Phase(tuple(game.players())),)
        frozen = Frozen(game, batch, seed=seed, phases=phases)
        step = _trained(frozen, rate, RULES[update](gamma))
        return Report.of(_evidence(frozen, step, update, gamma, rate, eigenvalues, seed, tolerance))
    if players is None:
        raise ValueError("a game that is a function needs its players: a name and parameters for each")
    plain = _Plain(game, players, phases, seed)
    return Report.of(_evidence(plain, step, update, gamma, rate, eigenvalues, seed, tolerance))


class _Plain(Objective):
    """An objective made from a function of losses."""

    def __init__(self, losses: Losses, players: Players, phases: tuple[Phase, ...] | None, seed: int):
        super().__init__()
        self.losses, self.owned, self.seed = losses, {name: list(p) for name, p in players.items()}, seed
        self.phases = (Phase(tuple(self.owned)),) if phases is None else phases
        if any(p.dtype != torch.float64 for parameters in self.owned.values() for p in parameters):
            raise ValueError("players must be in double precision: call .double() on their modules")

    def players(self) -> Players:
        return self.owned

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        with torch.random.fork_rng(devices=[]):
            begin_globally(self.seed)
            return {name: Loss.of(total) for name, total in self.losses().items()}


def _trained(frozen: Frozen, rate: float, update: Update) -> Callable[[], object]:
    players = {name: Player(p, torch.optim.SGD(p, lr=rate), lambda _: rate) for name, p in frozen.owned.items()}
    state = TrainState(frozen, players)
    return lambda: train_step(state, itertools.repeat(frozen.batch), update=update)


def _evidence(
    game: Objective,
    step: Callable[[], object] | None,
    update: str,
    gamma: float,
    rate: float,
    eigenvalues: Sequence[complex] | Tensor | None,
    seed: int,
    tolerance: float,
) -> Iterator[Evidence]:
    owned = partition(game)
    start = _weights(owned)
    first, again = (_totals(game) for _ in range(2))
    for name in owned:
        yield close(f"the loss of {name} is the same in two calls", first[name].total, again[name].total, 0.0)
    rng = generator(seed)
    for name, parameters in owned.items():
        exact, found = _slopes(game, name, parameters, rng)
        size = 1 + float(exact.abs().max())
        yield close(f"the field of {name} is the numerical gradient of its loss", exact, found, tolerance * size)
    if step is not None:
        expected = _stepped(game, owned, rate) if update == "descend" else _ruled(game, owned, update, gamma, rate)
        _put(owned, start)
        for _ in range(2 if update == "optimistic" else 1):
            with torch.random.fork_rng(devices=[]):
                begin_globally(seed)
                step()
        moves = [_parts(owned, w - start) for w in (expected, _weights(owned))]
        _put(owned, start)
        for name, exact, found in zip(owned, *moves, strict=True):
            allowed = tolerance * (rate + float(exact.abs().max()))
            claim = "the gradient of its loss alone" if update == "descend" else f"the rule of {update}"
            yield close(f"a step moves {name} by {claim}", exact, found, allowed)
    if eigenvalues is not None:
        found = torch.linalg.eigvals(-_jacobian(game, owned))
        _put(owned, start)
        yield _matched(torch.as_tensor(eigenvalues, dtype=torch.complex128), found, tolerance)


def _totals(game: Objective) -> Mapping[str, Loss]:
    losses: Mapping[str, Loss] = game(tuple(game.players()), getattr(game, "batch", {}), 0)
    return losses


def _gradient(game: Objective, name: str, parameters: list[nn.Parameter]) -> Tensor:
    with torch.enable_grad():
        total = _totals(game)[name].total
        if not total.requires_grad:
            return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
        found = torch.autograd.grad(total, parameters, materialize_grads=True, allow_unused=True)
    return torch.cat([g.reshape(-1) for g in found])


def _slopes(game: Objective, name: str, parameters: list[nn.Parameter], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Directional derivatives of a player's loss in its weights, by finite differences and by autograd."""
    own = {name: parameters}
    start = _weights(own)
    field = _gradient(game, name, parameters)

    @torch.no_grad()
    def at(weights: Tensor) -> Tensor:
        _put(own, weights)
        return _totals(game)[name].total

    exact, found = [], []
    for _ in range(DIRECTIONS):
        r = torch.randn(len(start), dtype=torch.float64, generator=rng).to(start)
        r = r / r.norm()
        ahead = [at(start + k * SIZE * r) for k in (1, -1, 2, -2)]
        exact.append((8 * (ahead[0] - ahead[1]) - (ahead[2] - ahead[3])) / (12 * SIZE))
        found.append(field @ r)
    _put(own, start)
    return torch.stack(exact).detach(), torch.stack(found)


def _stepped(game: Objective, owned: Mapping[str, list[nn.Parameter]], rate: float) -> Tensor:
    """The weights after all phases, in which each player descends the gradient of its loss."""
    for phase in game.phases:
        for _ in range(phase.repeats):
            moves = {name: _gradient(game, name, owned[name]) for name in phase.players}
            losses = _totals(game)
            for name, v in moves.items():
                own = {name: owned[name]}
                _put(own, _weights(own) - rate * v)
            for name in phase.players:
                game.after(name, losses[name], 0)
    return _weights(owned)


def _ruled(game: Objective, owned: Mapping[str, list[nn.Parameter]], update: str, gamma: float, rate: float) -> Tensor:
    """The weights after one step of an update rule, or two of a rule that uses the previous gradient."""
    start = _weights(owned)
    v = _field(game, owned, start)
    if update == "extragradient":
        return start - rate * _field(game, owned, start - rate * v)
    if update == "optimistic":
        first = start - rate * v
        return first - rate * (2 * _field(game, owned, first) - v)
    return start - rate * (v + gamma * _jacobian(game, owned).T @ v)


def _field(game: Objective, owned: Mapping[str, list[nn.Parameter]], weights: Tensor) -> Tensor:
    _put(owned, weights)
    return torch.cat([_gradient(game, name, parameters) for name, parameters in owned.items()])


def _jacobian(game: Objective, owned: Mapping[str, list[nn.Parameter]]) -> Tensor:
    start = _weights(owned)
    columns = []
    for e in torch.eye(len(start), dtype=start.dtype, device=start.device):
        ahead = [_field(game, owned, start + k * SIZE * e) for k in (1, -1, 2, -2)]
        columns.append((8 * (ahead[0] - ahead[1]) - (ahead[2] - ahead[3])) / (12 * SIZE))
    return torch.stack(columns, 1)


def _matched(claimed: Tensor, found: Tensor, tolerance: float) -> Evidence:
    claim = "the eigenvalues of the flow are those of the field's numerical Jacobian: largest distance"
    if len(claimed) != len(found):
        raise ValueError(f"eigenvalues must be {len(found)}, one per weight, got {len(claimed)}")
    apart = (claimed.cpu()[:, None] - found.cpu()).abs()
    rows, columns = linear_sum_assignment(apart.numpy())
    return close(claim, 0.0, apart[rows, columns].max(), tolerance * (1 + float(found.abs().max())))


def _weights(owned: Mapping[str, list[nn.Parameter]]) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for parameters in owned.values() for p in parameters])


@torch.no_grad()
def _put(owned: Mapping[str, list[nn.Parameter]], weights: Tensor) -> None:
    flat = [p for parameters in owned.values() for p in parameters]
    for p, part in zip(flat, split(weights, flat), strict=True):
        p.copy_(part)


def _parts(owned: Mapping[str, list[nn.Parameter]], weights: Tensor) -> tuple[Tensor, ...]:
    return weights.split([sum(p.numel() for p in parameters) for parameters in owned.values()])

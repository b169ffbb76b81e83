"""Dynamics of a game: one step of the real trainer as a map of the weights, and trajectories of it and of the flow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

from jensen.adversarial.field import Frozen, Point, split
from jensen.core.objective import Objective
from jensen.core.shapes import check_count
from jensen.core.types import Batch, Loss, Phase
from jensen.training import Player, TrainState, descend, extragradient, optimistic, train_step

Rule = str | tuple[Phase, ...] | Callable[..., Mapping[str, Loss]]
"""How players are updated: "simultaneous", "alternating" (in the game's order of players), "extragradient",
"optimistic", "phases" (the game's own); phases of plain steps, such as 5:1; or an update of `jensen.training` for all
players together, such as `consensus(0.1)`."""
Rates = float | Mapping[str, float]
WHOLE: dict[str, Callable[..., Mapping[str, Loss]]] = {
    "simultaneous": descend,
    "extragradient": extragradient,
    "optimistic": optimistic,
}
NAMES = (*WHOLE, "alternating", "phases")


def rule(game: Objective, update: Rule) -> tuple[tuple[Phase, ...], Callable[..., Mapping[str, Loss]]]:
    """The phases and the update that `train_step` is to use.

    Raises:
        ValueError: for a game that is not an objective, an unknown update, or an empty tuple of phases.
    """
    if not isinstance(game, Objective):
        raise ValueError(f"game must be an Objective, got {type(game).__name__}")
    together = (Phase(tuple(game.players())),)
    if isinstance(update, tuple) and update and all(isinstance(phase, Phase) for phase in update):
        return update, descend
    if callable(update):
        return together, update
    if isinstance(update, str) and update in WHOLE:
        return together, WHOLE[update]
    if update == "alternating":
        return tuple(Phase((player,)) for player in game.players()), descend
    if update == "phases":
        return game.phases, descend
    raise ValueError(
        f"update must be one of {', '.join(NAMES)}; a tuple of one Phase or more; or an update of jensen.training, "
        f"got {update!r}"
    )


class Step:
    """One `train_step` of plain gradient descent as a map from vector to vector.

    The vector holds the weights, followed by the update's memory.

    Args:
        game: the objective.
        update: update rule of `jensen.training`.
        step_size: step size of all players, or a mapping from player to step size.

    Raises:
        ValueError: for a step size that is not positive, or step sizes that are not one for each player.
    """

    def __init__(self, game: Frozen, update: Callable[..., Mapping[str, Loss]], step_size: Rates):
        self.game, self.update = game, update
        unknown = sorted(set(step_size) - set(game.owned)) if isinstance(step_size, Mapping) else []
        if unknown:
            raise ValueError(f"step_size must name the players {sorted(game.owned)}, got {unknown}")
        self.state = TrainState(game, {name: _player(name, p, step_size) for name, p in game.owned.items()})
        weights = game.weights
        self.play()
        self.remembered = dict(self.state.memory)
        self.start = torch.cat([weights, *(m.reshape(-1) for m in self.remembered.values())])
        self.state.memory = {}
        game.put(weights)

    def play(self) -> None:
        """One step from the current weights."""
        train_step(self.state, itertools.repeat(self.game.batch), update=self.update)

    def __call__(self, vector: Tensor) -> Tensor:
        """The vector (n + m,) one step later."""
        n = len(self.start) - sum(m.numel() for m in self.remembered.values())
        self.game.put(vector[:n])
        memory = split(vector[n:], list(self.remembered.values())) if self.remembered else []
        self.state.memory = {k: m.clone() for k, m in zip(self.remembered, memory, strict=True)}
        self.play()
        return torch.cat([self.game.weights, *(self.state.memory[k].reshape(-1) for k in self.remembered)])


def _player(name: str, parameters: list[Any], step_size: Rates) -> Player:
    if isinstance(step_size, Mapping) and name not in step_size:
        raise ValueError(f"step_size must include player {name!r}, got {sorted(step_size)}")
    rate = float(step_size[name] if isinstance(step_size, Mapping) else step_size)
    if not rate > 0:
        raise ValueError(f"step_size must be positive, got {rate:g}")
    return Player(parameters, torch.optim.SGD(parameters, lr=rate), lambda _: rate)


def trajectory(
    game: Objective,
    update: Rule | None = None,
    step_size: Rates = 0.1,
    steps: int = 100,
    *,
    start: Point | None = None,
    batch: Batch | None = None,
    seed: int = 0,
) -> Tensor:
    r"""The path of the weights: by `train_step` with plain gradient descent, or along the flow $w' = -v(w)$.

    Random draws inside the losses and the batch are the same at every step, as in the sample-average game.

    Args:
        game: the game, which is not changed.
        update: None for the flow (Dormand-Prince, relative error 1e-10), or how players are updated.
        step_size: step size of all players, or a mapping from player to step size; for the flow, the time between
            points.
        steps: number of steps, at least 1.
        start: (n,); the game's own weights by default.
        batch: batch on which the losses are evaluated.
        seed: random seed of the draws.

    Returns:
        (steps + 1, n), beginning with the start.

    Raises:
        ValueError: for a step size that is not positive, fewer than 1 step, an unknown update, or a start of the wrong
            shape.

    >>> from jensen.adversarial import DiracGAN
    >>> trajectory(DiracGAN("wasserstein"), "simultaneous", 0.5, 2, start=[1.0, 0.0])
    tensor([[ 1.0000,  0.0000],
            [ 1.0000, -0.5000],
            [ 0.7500, -1.0000]], dtype=torch.float64)
    """
    check_count(steps=steps)
    if update is None:
        if isinstance(step_size, Mapping) or not step_size > 0:
            raise ValueError(f"step_size must be one positive time between points of the flow, got {step_size}")
        frozen = Frozen(game, batch, at=start, seed=seed)
        times = step_size * torch.arange(steps + 1, dtype=torch.float64, device=frozen.flat[0].device)
        found: Tensor = odeint(lambda _, w: -frozen.field(w), frozen.weights, times, rtol=1e-10, atol=1e-12)
        return found
    phases, how = rule(game, update)
    step = Step(Frozen(game, batch, at=start, seed=seed, phases=phases), how, step_size)
    path = [step.game.weights]
    for _ in range(steps):
        step.play()
        path.append(step.game.weights)
    return torch.stack(path)


def change_along_flow(
    game: Objective,
    quantity: Callable[[Tensor], Tensor],
    *,
    at: Point | None = None,
    batch: Batch | None = None,
    seed: int = 0,
) -> float:
    r"""$\frac{d}{dt} Q(w) = -\nabla Q(w) \cdot v(w)$: zero wherever Q is conserved.

    Args:
        game: the game, which is not changed.
        quantity: Q, which maps (n,) to a scalar.
        at: (n,); the game's own weights by default.
        batch: batch on which the losses are evaluated.
        seed: random seed of the draws.

    >>> from jensen.adversarial import DiracGAN
    >>> change_along_flow(DiracGAN("wasserstein"), lambda w: w.square().sum(), at=[2.0, 3.0]) == 0
    True
    """
    frozen = Frozen(game, batch, at=at, seed=seed)
    w = frozen.weights.requires_grad_()
    (slope,) = torch.autograd.grad(quantity(w), w)
    return -float(slope @ frozen.field(w.detach()))

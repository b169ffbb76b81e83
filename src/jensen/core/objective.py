"""How a model is trained: a game in which each player minimises its own loss."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from jensen.core.types import Batch, Loss, Phase


class Objective(nn.Module, ABC):
    """A way to train a model, as a game.

    The model is the result of training: it is averaged, sampled and exported. Everything else with parameters (a
    critic, a baseline, a multiplier) belongs to the objective. A subclass implements `forward`, and with more than one
    player also `players` and `phases`.

    Attributes:
        model: the trained model.
        phases: the order in which players are updated within one step.
    """

    model: nn.Module
    phases: tuple[Phase, ...] = (Phase(("model",)),)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Each player's parameters; together a partition of all parameters that require a gradient."""
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    @abstractmethod
    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        """The losses of `players` on one batch, from one forward pass; must not change state."""

    def after(self, player: str, loss: Loss, step: int) -> None:
        """Called after `player` was updated; only here may state change (pools, adaptive augmentation, clipping)."""


def partition(objective: Objective) -> dict[str, list[nn.Parameter]]:
    """Each player's parameters as lists, checked to be a partition of the trainable parameters.

    Raises:
        ValueError: if a player has no parameters or the same one twice; if two players share a parameter; if a
            trainable parameter has no player, or a player has a frozen one; if a phase names an unknown player.
    """
    names = {p: name for name, p in objective.named_parameters()}
    players = {player: list(parameters) for player, parameters in objective.players().items()}
    owner: dict[nn.Parameter, str] = {}
    for player, parameters in players.items():
        if not parameters:
            raise ValueError(f"player {player!r} has no parameters")
        for p in parameters:
            name = names.get(p, "a parameter outside the objective")
            if p in owner:
                raise ValueError(f"{name} belongs to player {owner[p]!r} and to player {player!r}")
            if not p.requires_grad:
                raise ValueError(f"{name} of player {player!r} is frozen: leave it out of the player")
            owner[p] = player
    for p, name in names.items():
        if p.requires_grad and p not in owner:
            raise ValueError(f"{name} requires a gradient but belongs to no player")
    for phase in objective.phases:
        for player in phase.players:
            if player not in players:
                raise ValueError(f"a phase names player {player!r}, which is not one of {sorted(players)}")
    return players


Net = TypeVar("Net", bound=nn.Module)


def copied(module: Net) -> Net:
    """A deep copy that also works if hooks (`nn.utils.weight_norm`, ...) have replaced weights by non-leaf tensors.

    >>> net = nn.utils.spectral_norm(nn.Linear(2, 1))
    >>> _ = net(net.weight)
    >>> copied(net).weight.requires_grad
    False
    """
    computed = [v for part in module.modules() for v in vars(part).values() if isinstance(v, Tensor)]
    return copy.deepcopy(module, {id(v): v.detach().clone() for v in computed})

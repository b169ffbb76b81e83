"""The loss of held-out data during training, with averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import torch

from jensen.core.objective import Objective
from jensen.core.seeding import begin_globally, derived
from jensen.core.types import Batch, Draws
from jensen.data.dataset import Data
from jensen.recipes.recipe import Recipe
from jensen.training import TrainState
from jensen.training.sharding import is_divided, put_back
from jensen.training.step import random_state, set_random_state

BATCHES = 4  # of the training's batch size, each in as many parts as in training


def held_out_loss(state: TrainState, recipe: Recipe, data: Data) -> dict[str, float]:
    """The loss of each player on held-out rows, for the journal.

    The same rows and random numbers are used at each step, so that differences between steps are due to the weights.
    """
    if not recipe.family.held_out_loss:
        return {}
    device = next(state.objective.parameters(), torch.zeros(())).device
    losses: dict[str, list[float]] = {}
    with averaged(state) as objective:
        begin_globally(derived(recipe.seed, "held-out loss"))
        for batch in _batches(recipe, data):
            there = {name: v.to(device) for name, v in batch.items()}
            for phase in objective.phases:
                with state.autocast():
                    evaluate = objective if is_divided(objective) else objective.forward
                    found = evaluate(phase.players, there, state.step)
                for player in phase.players:
                    losses.setdefault(player, []).append(float(found[player].total.detach()))
    names = {player: f"{player}/" * (len(losses) > 1) for player in losses}
    return {f"held_out/{names[player]}loss": sum(found) / len(found) for player, found in losses.items()}


@contextmanager
def averaged(state: TrainState) -> Iterator[Objective]:
    """Context manager: the objective with averaged weights, in evaluation mode; it and torch's generator are restored.

    The weights are written into the objective itself, not into a copy: a user's loss may refer to the model without
    holding it.
    """
    objective, rng = state.objective, random_state()
    modes = [(module, module.training) for module in objective.modules()]
    weights = [(p, p.detach().clone()) for p in objective.parameters()]
    buffers = [
        (module, name, v, v.detach().clone())
        for module in objective.modules()
        for name, v in module._buffers.items()
        if v is not None
    ]
    try:
        _copy(state.average, objective.model)
        yield objective.eval()
    finally:
        put_back(objective)
        with torch.no_grad():
            for p, value in weights:
                p.copy_(value)
            for module, name, v, value in buffers:
                module._buffers[name] = v.copy_(value)
        for module, training in modes:
            module.training = training
        set_random_state(rng)


@torch.no_grad()
def _copy(source: torch.nn.Module, target: torch.nn.Module) -> None:
    for (_, value), (_, own) in zip(_tensors(source), _tensors(target), strict=True):
        own.copy_(value)


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _batches(recipe: Recipe, data: Data) -> Iterator[Batch]:
    """Batches of held-out rows in order, repeated if there are too few for a batch, in the form that the family trains
    on.
    """
    size, sides = recipe.training.rows(), {"a": data, "b": data.b}
    parts = recipe.training.batch_size // size

    def draw(n: int, rows: slice) -> Batch:
        index = torch.arange(n * size, (n + 1) * size)[rows]
        if data.b is None:
            return data.test[index % len(data.test)]
        return {name: side.test[index % len(side.test)]["x"] for name, side in sides.items() if side is not None}

    stream = recipe.family.stream(replace(data, streams=lambda size, _seed: Draws(draw, size)), size, recipe.seed)
    most = max(len(side.test) for side in sides.values() if side is not None)
    return islice(stream(0), min(BATCHES * parts, -(-most // size)))

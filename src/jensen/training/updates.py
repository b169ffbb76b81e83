"""Update rules that move all players together; `descend` is in step.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from jensen.core.shapes import check_at_least_zero
from jensen.core.types import Loss
from jensen.training.distributed import average_over_processes
from jensen.training.sharding import like, put_back
from jensen.training.step import Evaluate, TrainState, gradients, leaves, refuse_infinite, refuse_unused


def _require_all(rule: str, state: TrainState, players: tuple[str, ...]) -> None:
    if set(players) != set(state.players):
        raise ValueError(f"{rule} must update all players {sorted(state.players)} in one phase, got {sorted(players)}")


def extragradient(state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> Mapping[str, Loss]:
    """Take a look-ahead step of each player, then step from the original weights with the gradients at the look-ahead
    point.

    Plain gradient descent looks ahead to w - h v(w). An optimizer with momentum or moments updates them with both
    gradients, one after the other: with Adam this is ExtraAdam, on one batch.

    Raises:
        ValueError: unless the phase holds every player.

    Source: Korpelevich (1976); Gidel et al. (2019), equation 10 and algorithm 4.

    >>> from jensen.adversarial import DiracGAN, stability
    >>> stability(DiracGAN(), update=extragradient, step_size=0.5).verdict
    'converges linearly'
    """
    _require_all("extragradient", state, players)
    gradients(state, players, evaluate)
    before = [(p, p.detach().clone()) for name in players for p in state.players[name].parameters]
    for name in players:
        state.players[name].move(state.step)
    try:
        losses = gradients(state, players, evaluate)
    finally:
        with torch.no_grad():
            for moved, start in before:
                moved.copy_(start)
    for name in players:
        state.players[name].move(state.step)
    return losses


def optimistic(state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> Mapping[str, Loss]:
    """Descend along 2 v_k - v_{k-1} with v_k the gradient of step k; v_{k-1} is kept in `state.memory`, v_{-1} = v_0.

    Each player's optimizer gets the extrapolated gradient: with Adam this is not Optimistic Adam, which extrapolates
    the step instead.

    Raises:
        ValueError: unless the phase holds every player.

    Source: Daskalakis et al. (2018), equation 4.

    >>> from jensen.adversarial import DiracGAN, stability
    >>> round(stability(DiracGAN(), update=optimistic, step_size=0.5).leading, 4)
    0.9659
    """
    _require_all("optimistic", state, players)
    losses = gradients(state, players, evaluate)
    for name in players:
        for k, p in enumerate(state.players[name].parameters):
            assert p.grad is not None
            key, now = f"optimistic/{name}/{k}", p.grad.clone()
            p.grad.mul_(2).sub_(state.memory.get(key, now).to(now))
            state.memory[key] = now
    for name in players:
        state.players[name].move(state.step)
    return losses


def consensus(gamma: float) -> Callable[..., Mapping[str, Loss]]:
    r"""Descend $v + \gamma \nabla \tfrac12 |v|^2$, where v stacks the gradients of all players.

    This needs the second derivative of every loss. The gradient of the regulariser is $J^T v$ with the Jacobian J of v:
    $\frac1n \sum_i J_i^T v$ if v is the mean of the $v_i$ of n parts of a batch, in all processes. The graphs of a
    process's parts are kept until v is known.

    Args:
        gamma: weight of the regulariser, at least 0.

    Raises:
        ValueError: for a gamma that is negative or not finite, a phase that does not hold every player, or a parameter
            that its player's loss does not use.
        NonFiniteLoss: for a gradient that is not finite, before any weight changes.

    Source: Mescheder et al. (2017), equation 6.

    >>> from jensen.adversarial import DiracGAN, stability
    >>> round(stability(DiracGAN(), update=consensus(0.5), step_size=0.5).leading, 4)
    0.9703
    """
    check_at_least_zero(gamma=gamma)

    def update(state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> Mapping[str, Loss]:
        _require_all("consensus", state, players)
        every = list(evaluate())
        owned = [p for name in players for p in state.players[name].parameters]
        used = leaves(state)
        whole = [p for name in players for p in used[name]]
        fields = [_field(state, {name: used[name] for name in players}, losses) for losses in every]
        v = [torch.stack([part.detach() for part in parts]).mean(0) for parts in zip(*fields, strict=True)]
        average_over_processes(v)
        slopes = [_transposed(field, v, whole) for field in fields]
        slope = [torch.stack(parts).mean(0) for parts in zip(*slopes, strict=True)]
        average_over_processes(slope)
        put_back(state.objective)
        for p, along, down in zip(owned, v, slope, strict=True):
            p.grad = like(along + gamma * down, p)
        for name in players:
            refuse_infinite(state, name)
        for name in players:
            state.players[name].move(state.step)
        return {name: Loss.mean([losses[name] for losses in every]) for name in players}

    return update


def _field(state: TrainState, owned: Mapping[str, Sequence[Tensor]], losses: Mapping[str, Loss]) -> list[Tensor]:
    """The gradient of each player's loss, player after player, with its graph."""
    field: list[Tensor] = []
    for name, parameters in owned.items():
        found = torch.autograd.grad(losses[name].total, parameters, create_graph=True, allow_unused=True)
        refuse_unused(state, name, found)
        field += found
    return field


def _transposed(field: Sequence[Tensor], v: Sequence[Tensor], owned: Sequence[Tensor]) -> Sequence[Tensor]:
    """J^T v with J the Jacobian of the field; zeros for a linear game, whose field is constant."""
    energy = sum(((own * along).sum() for own, along in zip(field, v, strict=True)), start=torch.zeros(()))
    if not energy.requires_grad:
        return [torch.zeros_like(p) for p in owned]
    return torch.autograd.grad(energy, owned, allow_unused=True, materialize_grads=True)

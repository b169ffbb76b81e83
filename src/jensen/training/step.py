"""One step of training, for every game."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jensen.core.objective import Objective, partition
from jensen.core.shapes import check_count
from jensen.core.types import Batch, Loss, NonFiniteLoss, first_non_finite
from jensen.training.distributed import anyone, average_gradients, lost
from jensen.training.ema import begin_average, update_average
from jensen.training.finite import overflow
from jensen.training.sharding import is_divided, is_share, like, loaded, loaded_moments, put_back, share, total_norm


@dataclass
class Player:
    """One player's parameters and how they are updated.

    Attributes:
        parameters: its parameters.
        optimizer: an optimizer of exactly these parameters.
        rate: learning rate as a function of the step.
        clip: norm to which its gradient is clipped, above 0, or None.

    Raises:
        TypeError: for a rate that is no function. ValueError: for a clip that is not positive.

    >>> net = nn.Linear(2, 1)
    >>> parameters = list(net.parameters())
    >>> player = Player(parameters, torch.optim.Adam(parameters), rate=lambda step: 1e-3 / (1 + step), clip=1.0)
    """

    parameters: list[nn.Parameter]
    optimizer: Optimizer
    rate: Callable[[int], float]
    clip: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.rate):
            raise TypeError(f"rate must be a function of the step, got {self.rate!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None, got {self.clip}")

    def move(self, step: int) -> None:
        """One optimizer step with the current gradients, clipped."""
        if self.clip is not None:
            norm = total_norm(numbers(self.parameters))
            for divided in (True, False):
                part = [p for p in self.parameters if is_share(p) == divided]
                nn.utils.clip_grads_with_norm_(part, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()


class TrainState:
    """Everything that a step changes, which is everything that a bit-exact resume needs.

    Attributes:
        objective: the objective.
        players: one `Player` per player of the objective.
        averages: averaged copies of `objective.model`, in float32 or above, see `update_average`; one for each decay.
        average: the first of them, which is sampled and exported.
        decays: their decays, as functions of the step.
        precision: torch.bfloat16 for autocast, or None for the precision of the parameters.
        accumulate: number of equal parts of a batch, whose gradients are computed one after the other and averaged.
        memory: tensors that an update rule keeps between steps, by name.
        step, draws: number of steps done, and number of batches drawn.
    """

    def __init__(
        self,
        objective: Objective,
        players: Mapping[str, Player],
        *,
        decay: Callable[[int], float] | Sequence[Callable[[int], float]] = lambda _: 0.0,
        precision: torch.dtype | None = None,
        accumulate: int = 1,
    ):
        check_count(accumulate=accumulate)
        decays = (decay,) if callable(decay) else tuple(decay) if isinstance(decay, Sequence) else ()
        if not (decays and all(map(callable, decays))):
            raise TypeError(f"decay must be a function of the step, or a list of at least one, got {decay!r}")
        owned = partition(objective)
        if set(owned) != set(players):
            raise ValueError(f"players must be {sorted(owned)}, got {sorted(players)}")
        for name, parameters in owned.items():
            theirs, moved = players[name].parameters, players[name].optimizer.param_groups
            if not set(parameters) == set(theirs) == {p for group in moved for p in group["params"]}:
                raise ValueError(f"player {name!r} and its optimizer must hold the parameters the objective gives it")
        self.objective = objective
        self.players = dict(players)
        self.decays = decays
        self.averages = [begin_average(objective.model) for _ in self.decays]
        self.precision, self.accumulate = precision, accumulate
        self.memory: dict[str, Tensor] = {}
        self.step = 0
        self.draws = 0

    @property
    def average(self) -> nn.Module:
        return self.averages[0]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is None:
            return contextlib.nullcontext()
        device = next(self.objective.parameters()).device.type
        return torch.autocast(device, self.precision)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that `torch.load(weights_only=True)` can read it; tensors that are divided
        among the processes stay so.
        """
        return {
            "objective": self.objective.state_dict(),
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "averages": [average.state_dict() for average in self.averages],
            "memory": dict(self.memory),
            "step": self.step,
            "draws": self.draws,
            "rng": random_state(),
        }

    def divided(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict's whole tensors, divided among the processes as this state's are."""
        moved = {name: player.optimizer for name, player in self.players.items()}
        saved = zip(self.averages, state["averages"], strict=True)
        return {
            **state,
            "objective": loaded(self.objective, state["objective"]),
            "optimizers": {name: loaded_moments(own, state["optimizers"][name]) for name, own in moved.items()},
            "averages": [loaded(average, kept) for average, kept in saved],
            "memory": {key: like(value, self._remembered(key)) for key, value in state["memory"].items()},
        }

    def _remembered(self, key: str) -> Tensor | None:
        """The parameter that a tensor of the memory belongs to: its key is RULE/PLAYER/NUMBER."""
        player, _, number = key.partition("/")[2].rpartition("/")
        return self.players[player].parameters[int(number)] if player in self.players else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = self.divided(state)
        self.objective.load_state_dict(state["objective"])
        for name, player in self.players.items():
            player.optimizer.load_state_dict(state["optimizers"][name])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(saved)
        self.memory = dict(state["memory"])
        self.step, self.draws = state["step"], state["draws"]
        set_random_state(state["rng"])


def random_state() -> Tensor:
    """The states of this process's global generators, for the CPU and its CUDA device, as one vector of bytes."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def set_random_state(state: Tensor) -> None:
    """Restore the state from `random_state`; a CUDA device that had no state then keeps its own."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if torch.cuda.is_available() and len(state) > size:
        torch.cuda.set_rng_state(state[size:])


Evaluate = Callable[[], Iterator[Mapping[str, Loss]]]
"""Yields the losses of a phase's players on each part of the batch, at the current parameters."""


class Update(Protocol):
    """Updates `players` once; `evaluate` yields their losses on the parts of one batch; returns those of the batch."""

    def __call__(self, state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> Mapping[str, Loss]: ...


def gradients(state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> dict[str, Loss]:
    r"""Set each player's gradients to those of its own loss only, averaged over parts of the batch and processes.

    $\frac1{MN} \sum_{r=1}^{N} \sum_{m=1}^{M} g(x_{rm})$ with N processes and M parts: the gradient of the whole batch
    if the loss is a mean over rows and each row has the same draws.

    Returns: the losses of this process's rows, detached.

    Raises:
        ValueError: if a parameter gets no gradient: its player's loss does not depend on it.
        NonFiniteLoss: if a gradient is not finite although the loss is; no parameter has changed.
    """
    owned = {name: state.players[name].parameters for name in players}
    for p in chain(*owned.values()):
        p.grad = None
    found: dict[str, list[Loss]] = {name: [] for name in players}
    for losses in evaluate():
        used = leaves(state)
        for name in players:
            keep = name != players[-1]  # the graph is shared; the last backward pass frees it
            torch.autograd.backward(losses[name].total / state.accumulate, inputs=used[name], retain_graph=keep)
            found[name].append(replace(losses[name], total=losses[name].total.detach()))
    put_back(state.objective)
    for name, parameters in owned.items():
        refuse_unused(state, name, [p.grad for p in parameters])
        average_gradients([p for p in parameters if not is_share(p)])
        refuse_infinite(state, name)
    return {name: Loss.mean(parts) for name, parts in found.items()}


def leaves(state: TrainState) -> Mapping[str, list[nn.Parameter]]:
    """Each player's parameters in the graph of a forward pass: whole ones, if they are divided among processes."""
    if is_divided(state.objective):
        return partition(state.objective)
    return {name: player.parameters for name, player in state.players.items()}


def refuse_unused(state: TrainState, name: str, found: Sequence[Tensor | None]) -> None:
    """Raise a ValueError if a parameter of the player got no gradient: the loss does not depend on it."""
    if any(gradient is None for gradient in found):
        names = {p: n for n, p in state.objective.named_parameters()}
        owned = state.players[name].parameters
        unused = next(names[p] for p, gradient in zip(owned, found, strict=True) if gradient is None)
        raise ValueError(f"{unused} of player {name!r} gets no gradient from its loss: freeze it or use it")


def refuse_infinite(state: TrainState, name: str) -> None:
    """Raise a NonFiniteLoss unless the player's gradient is finite, with one synchronisation with the device."""
    norms = torch._foreach_norm([share(grad) for grad in numbers(state.players[name].parameters)])
    finite = math.isfinite(torch.stack([norm.to(norms[0].device) for norm in norms]).sum())
    if anyone(not finite) if is_divided(state.objective) else not finite:
        raise NonFiniteLoss(state.step, name, "gradient")


def numbers(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that are not None; of a sparse one (from an embedding), the stored rows."""
    grads = (p.grad for p in parameters if p.grad is not None)
    return [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]


def descend(state: TrainState, players: tuple[str, ...], evaluate: Evaluate) -> Mapping[str, Loss]:
    """Every player of the phase descends its own gradient; all gradients are computed before any player is updated.

    >>> from jensen.adversarial import DiracGAN, stability
    >>> stability(DiracGAN(), update=descend, step_size=0.5).verdict
    'diverges'
    """
    losses = gradients(state, players, evaluate)
    for name in players:
        state.players[name].move(state.step)
    return losses


def train_step(state: TrainState, batches: Iterator[Batch], *, update: Update = descend) -> dict[str, Tensor]:
    """Carry out every phase of the objective once, update the averaged weights, and increase the step count.

    Args:
        state: the training state, changed in place.
        batches: iterator over the batches.
        update: update rule of the players.

    Returns:
        the terms of each player's last loss, named "name" if there is one player and "player/name" otherwise.

    Raises:
        NonFiniteLoss: if a loss or gradient is not finite, before that player is updated.
        ValueError: if the stream of batches ends.

    >>> from jensen.models import GAN
    >>> from jensen.objectives import Adversarial
    >>> game = Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1))
    >>> players = {
    ...     name: Player(parameters, torch.optim.Adam(parameters), lambda step: 1e-3)
    ...     for name, parameters in partition(game).items()
    ... }
    >>> state = TrainState(game, players)
    >>> sorted(train_step(state, iter([{"x": torch.zeros(4, 2)}])))
    ['critic/fake', 'critic/loss', 'critic/real', 'generator/loss']
    """
    terms: dict[str, Tensor] = {}
    batch: Batch | None = None
    objective = state.objective
    if not objective.training:
        objective.train()
    for phase in objective.phases:
        for _ in range(phase.repeats):
            if batch is None or phase.fresh:
                batch = _next(batches, state.draws)
                state.draws += 1
            losses = update(state, phase.players, _evaluation(state, phase.players, batch))
            for name in phase.players:
                objective.after(name, losses[name], state.step)
                prefix = f"{name}/" if len(state.players) > 1 else ""
                terms.update({prefix + k: v for k, v in losses[name].terms.items()})
    for average, decay in zip(state.averages, state.decays, strict=True):
        update_average(average, objective.model, decay(state.step))
    state.step += 1
    return terms


def _next(batches: Iterator[Batch], draws: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"the stream ended after {draws} draws: a stream must be endless") from None


def _losses(state: TrainState, players: tuple[str, ...], batch: Batch) -> Mapping[str, Loss]:
    """The objective's losses; an error that comes from numbers that are not finite is a NonFiniteLoss."""
    with state.autocast():
        try:
            losses: Mapping[str, Loss] = state.objective(players, batch, state.step)
        except (ValueError, RuntimeError) as error:
            if lost(error):
                raise
            term = overflow(lambda: state.objective.forward(players, batch, state.step)) if state.draws > 1 else ""
            if term:
                raise NonFiniteLoss(state.step, players[0], term) from error
            raise
        return losses


def _evaluation(state: TrainState, players: tuple[str, ...], batch: Batch) -> Evaluate:
    def evaluate() -> Iterator[Mapping[str, Loss]]:
        for rows in parts(batch, state.accumulate):
            losses = _losses(state, players, rows)
            for name in players:
                total = losses[name].total
                if not total.requires_grad or not total.is_floating_point():
                    raise ValueError(f"the loss of player {name!r} must be a differentiable real number, and is not")
                term = first_non_finite(losses[name])
                if term is not None:
                    raise NonFiniteLoss(state.step, name, term)
            yield losses

    return evaluate


def parts(batch: Batch, number: int) -> Iterator[Batch]:
    """The batch in equal parts, each with every `number`-th row, as `shard` divides it among processes.

    Raises:
        ValueError: if the number of rows is not a multiple of the number of parts.

    >>> [part["x"].tolist() for part in parts({"x": torch.arange(6)}, 2)]
    [[0, 2, 4], [1, 3, 5]]
    """
    if number == 1:
        return iter([batch])
    for name, value in batch.items():
        if len(value) % number:
            raise ValueError(f"rows of {name!r} must be a multiple of {number}, the parts of a batch, got {len(value)}")
    return ({name: value[k::number] for name, value in batch.items()} for k in range(number))

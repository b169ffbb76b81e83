"""The trainer: whose gradient moves which player, what a resume restores, several processes, weight averages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from jensen.adversarial import AdaptiveAugment, Brightness, ImagePool, gradient_penalty, r1
from jensen.check.evidence import Claims, bounded, close
from jensen.check.games import game
from jensen.check.law import law
from jensen.check.laws.bilinear import started
from jensen.check.line import F64, f64
from jensen.check.runs import data_parallel, resume
from jensen.core.objective import Objective
from jensen.core.seeding import generator
from jensen.core.types import Batch, Loss, Phase
from jensen.data.pool import pool_stream
from jensen.models.cyclegan import CycleGAN
from jensen.models.gan import GAN
from jensen.nn.mlp import mlp
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, alternating
from jensen.objectives.cycle import CycleConsistent
from jensen.training import Budget, begin_average, optimistic, train_step, update_average, warm_decay, warm_then_decay
from jensen.training.distributed import shard


def _batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


class _Noted(Adversarial):
    """Records which player has moved."""

    def __init__(self, *parts: Any, **settings: Any):
        super().__init__(*parts, **settings)
        self.moves: list[str] = []

    def after(self, player: str, loss: Loss, step: int) -> None:
        super().after(player, loss, step)
        self.moves.append(player)


def _gan(**settings: Any) -> _Noted:
    torch.manual_seed(0)
    return _Noted(GAN(mlp(2, 6, 2), [2]), mlp(2, 6, 1), **settings)


def _translation(**settings: Any) -> CycleConsistent:
    torch.manual_seed(0)
    small = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)]
    return CycleConsistent(CycleGAN(small[0], small[1]), small[2], small[3], **settings)


@law("training/own-players")
def own_players(_: float) -> Claims:
    r"""A step moves the players of each phase, each by the gradient of its own loss and of nothing else.

    $$w_i \leftarrow w_i - h\,\nabla_{w_i} L_i \quad (i \in \text{phase})$$
    The generator's loss depends on the critic's weights and the reverse; neither gradient may enter the other's move.
    Compared with differences of each loss, and with a step taken by hand, for one phase, two, and three moves to one.
    Source: Mescheder et al. (2017), equation 2; Goodfellow et al. (2014), algorithm 1.
    """
    x = {"x": _batch(8, 2)}
    for name, objective in (
        ("simultaneous", _gan(phases=SIMULTANEOUS)),
        ("alternating, R1", _gan(loss="least-squares", penalty=lambda c, x, _: r1(c, x, 2.0))),
        ("three to one, clipped", _gan(loss="wasserstein", phases=alternating(3), clip=0.05)),
        ("relativistic, gradient penalty", _gan(loss="relativistic", penalty=gradient_penalty)),
    ):
        yield from game(objective, x).named(name)
    sides = {"a": _batch(3, 1, 4, 4, seed=1), "b": _batch(3, 1, 4, 4, seed=2)}
    yield from game(_translation(), sides).named("translators and critics")


@law("training/phases")
def phases(_: float) -> Claims:
    r"""Phases say which player moves how often, and on which batch; learning rates and clips are each player's own.

    $$(\mathrm{critic} \times 5, \mathrm{generator}): \text{5 draws, 6 moves a step}$$
    Plain descent with clipped gradients moves a player by at most h times its clip a move. A warm-up rises as
    (k + 1)/w, and the rate then falls to 0 over the last share of the budget.
    Source: Goodfellow et al. (2014), algorithm 1; Arjovsky et al. (2017), algorithm 1.
    """
    for steps in (1, 5):
        objective, claim = _gan(phases=alternating(steps)), f"{steps} to 1"
        state = started(objective, 0.1, clip={"critic": 1e-3, "generator": None})
        before = nn.utils.parameters_to_vector(objective.critic.parameters()).detach().clone()
        train_step(state, itertools.repeat({"x": _batch(8, 2)}))
        yield close(f"{claim}: batches drawn", steps, state.draws, 0.0)
        yield close(f"{claim}: moves of the critic", steps, objective.moves.count("critic"), 0.0)
        yield close(f"{claim}: the generator moves last", 1.0, float(objective.moves[-1] == "generator"), 0.0)
        moved = (nn.utils.parameters_to_vector(objective.critic.parameters()) - before).norm()
        yield bounded(f"{claim}: the critic's clipped distance", moved, steps * 0.1 * 1e-3, 1e-7, relation="at most")
        if steps == 1:
            yield close("1 to 1: that distance is the clip", 1e-4, moved, 1e-7)
    rate = warm_then_decay(2.0, Budget(steps=100), warmup=10, decay=0.5)
    rates = torch.tensor([rate(step) for step in (0, 4, 9, 50, 75, 100)])
    yield close("rates at steps 0, 4, 9, 50, 75, 100", torch.tensor([0.2, 1.0, 2.0, 2.0, 1.0, 0.0]), rates, 1e-6)


@law("training/resume")
def resumes(_: float) -> Claims:
    r"""A run that is interrupted and resumed is bitwise equal to the uninterrupted one.

    $$S_{n+m} = T^m(T^n(S_0)) = T^{n+m}(S_0)$$
    A step is a function of weights, buffers, optimizers, averages, memory, the number of draws, and the generators'
    state; all of these are in the state that is saved. Also for games with pools and adaptive augmentation.
    Source: an identity: a step is a function of the state.
    Assumes: the stream is a function of (seed, number of the draw).
    """

    def augmented() -> Objective:
        torch.manual_seed(0)
        adaptive = AdaptiveAugment([Brightness()], target=0.1, ramp=40, interval=8)
        model = GAN(nn.Sequential(mlp(2, 4), nn.Unflatten(1, (1, 2, 2))), [2])
        critic = nn.Sequential(nn.Flatten(), mlp(4, 6, 1))
        return Adversarial(model, critic, augmentation=adaptive, noise=lambda k: 0.1 / (1 + k))

    def pooled() -> Objective:
        return _translation(pools=(ImagePool(4, (1, 4, 4)), ImagePool(4, (1, 4, 4))))

    points, pictures = (pool_stream(8, seed=0, x=_batch(64, *shape)) for shape in ((2,), (1, 2, 2)))
    sides = pool_stream(3, seed=0, a=_batch(32, 1, 4, 4, seed=1), b=_batch(32, 1, 4, 4, seed=2))
    yield from resume(lambda: _gan(phases=alternating(5)), points).named("five to one")
    yield from resume(augmented, pictures).named("adaptive augmentation")
    yield from resume(pooled, sides).named("pools of pictures")
    yield from resume(lambda: _gan(phases=SIMULTANEOUS), points, update=optimistic).named("optimistic")


class _Rows(Objective):
    """Two players, no draws, means over rows."""

    phases = (Phase(("a", "b")),)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.b = mlp(2, 3), mlp(3, 1)

    def players(self) -> Mapping[str, Any]:
        return {"a": self.model.parameters(), "b": self.b.parameters()}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        told = self.b(self.model(batch["x"]).tanh())
        losses = {"a": told.square().mean(), "b": (1 - told).square().mean()}
        return {name: Loss.of(losses[name]) for name in players}


@law("training/data-parallel")
def processes(_: float) -> Claims:
    r"""Two processes that share a batch compute the gradient of one that has all of it, and both end with it.

    $$\frac1n \sum_{r=1}^n g(x_r, x_{r+n}, \ldots) = g(x_1, x_2, \ldots)$$
    Two gloo processes on the CPU, each on every second row; `shard` gives each row to one of them.
    Source: linearity of a mean over rows.
    Assumes: the loss is a mean over independent rows, shares are of equal size.
    """
    yield from data_parallel(_Rows(), {"x": _batch(12, 2)}).evidence
    stream = pool_stream(6, seed=0, x=torch.arange(60.0))
    parts = torch.stack([next(shard(stream, rank, 3)(2))["x"] for rank in range(3)], 1)
    yield close("three shards, interleaved, are the batch", next(stream(2))["x"], parts.reshape(-1), 0.0)


class _Sum(Objective):
    """The sum of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Linear = nn.Linear(2, 1, bias=False).double()

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        return {"model": Loss.of(self.model.weight.sum())}


@law("training/average")
def average(_: float) -> Claims:
    r"""Averaged weights follow $a \leftarrow \beta a + (1 - \beta) w$, after every step.

    $$a_n = w_n + h\,\frac{\beta(1 - \beta^n)}{1 - \beta} \text{ for } w_n = w_0 - hn$$
    On the loss $\sum w$ every step subtracts h. The lag $e = a - w$ obeys $e \leftarrow \beta(e + h)$ from 0, hence
    the sum of a geometric series. Buffers are state, and are copied. Between 1 and 2 in bfloat16 the average is
    $2 - \beta^n$: it is kept in float32, where $(1 - \beta)$ is not lost. A rotating weight divided by its norm is a
    rotation; the average of the weights is one too, times a number, which the singular vectors must follow.
    Source: Polyak & Juditsky (1992); Karras et al. (2018), section 6.3 (exponential).
    """
    h, beta, n, objective = 0.1, 0.8, 12, _Sum()
    start = objective.model.weight.detach().clone()
    state = started(objective, h, decay=lambda _: beta)
    for _step in range(n):
        train_step(state, itertools.repeat({}))
    exact = start - h * n + h * beta * (1 - beta**n) / (1 - beta)
    yield close(f"after {n} steps, beta = {beta}", exact, next(iter(state.average.parameters())), 1e-12)
    ours, theirs = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    changed = {"running_mean": torch.ones(2), "num_batches_tracked": torch.tensor(7)}
    theirs.load_state_dict(theirs.state_dict() | changed)
    update_average(ours, theirs, 0.75)
    yield close("a buffer, beta = 3/4", 1.0, ours.state_dict()["running_mean"], 1e-7)
    yield close("a whole number", 7.0, ours.state_dict()["num_batches_tracked"], 0.0)
    low = nn.Linear(1, 1, bias=False).bfloat16()
    low.weight.data.fill_(1.0)
    raised = begin_average(low)
    low.weight.data.fill_(2.0)
    turning = parametrizations.spectral_norm(nn.Linear(2, 2, bias=False).double())
    turning.weight = torch.eye(2, dtype=F64)
    turned = begin_average(turning)
    for k in range(200):
        update_average(raised, low, 0.999)
        c, s = math.cos(0.05 * k), math.sin(0.05 * k)
        turning.weight = f64([[c, -s], [s, c]])
        update_average(turned, turning, 0.99)
    yield close("bfloat16 weights, 200 updates", 2 - 0.999**200, next(raised.parameters()), 1e-5)
    singular = torch.linalg.svdvals(turned(torch.eye(2, dtype=F64)))
    yield close("spectral norm, averaged over a rotation", 1.0, singular, 1e-12)
    decays = f64([warm_decay(0.9)(step) for step in (0, 8, 10_000)])
    yield close("min(0.9, (1 + k)/(10 + k)) at 0, 8, 10,000", f64([0.1, 0.5, 0.9]), decays, 1e-12)

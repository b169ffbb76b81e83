"""The trainer: which gradient moves which player, phases, resuming, data parallelism, weight averages."""

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
from jensen.core.types import Batch, Loss
from jensen.data.pool import pool_stream
from jensen.models.cyclegan import CycleGAN
from jensen.models.gan import GAN
from jensen.nn.mlp import mlp
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, alternating
from jensen.objectives.cycle import CycleConsistent
from jensen.training import (
    Budget,
    Profile,
    begin_average,
    exponent,
    optimistic,
    power_decay,
    reconstruct,
    reconstruction,
    train_step,
    update_average,
    warm_decay,
    warm_then_decay,
)
from jensen.training.distributed import shard


def _batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


class Recorded(Adversarial):
    """Records which player has been updated."""

    def __init__(self, *parts: Any, **settings: Any):
        super().__init__(*parts, **settings)
        self.moves: list[str] = []

    def after(self, player: str, loss: Loss, step: int) -> None:
        super().after(player, loss, step)
        self.moves.append(player)


def _gan(**settings: Any) -> Recorded:
    torch.manual_seed(0)
    return Recorded(GAN(mlp(2, 6, 2), [2]), mlp(2, 6, 1), **settings)


def _translation(**settings: Any) -> CycleConsistent:
    torch.manual_seed(0)
    small = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)]
    return CycleConsistent(CycleGAN(small[0], small[1]), small[2], small[3], **settings)


@law("training/own-players")
def own_players(_: float) -> Claims:
    r"""A training step updates each player by the gradient of that player's loss, and by no other gradient.

    $$w_i \leftarrow w_i - h\,\nabla_{w_i} L_i \quad (i \in \text{phase})$$
    The generator's loss L_1 depends on the critic's weights w_2 and the critic's loss L_2 on the generator's w_1, but
    those gradients must not enter the updates. `jensen.check.game` compares gradients with numerical derivatives of
    each loss, and steps with steps computed by hand.
    Source: Mescheder et al. (2017), equation 2; Goodfellow et al. (2014), algorithm 1.
    """
    x = {"x": _batch(8, 2)}
    for name, objective in (
        ("simultaneous", _gan(phases=SIMULTANEOUS)),
        ("alternating with R1", _gan(loss="least-squares", penalty=lambda c, x, _: r1(c, x, 2.0))),
        ("3 critic updates per step with clipping", _gan(loss="wasserstein", phases=alternating(3), clip=0.05)),
        ("relativistic with gradient penalty", _gan(loss="relativistic", penalty=gradient_penalty)),
    ):
        yield from game(objective, x).named(f"{name} GAN")
    sides = {"a": _batch(3, 1, 4, 4, seed=1), "b": _batch(3, 1, 4, 4, seed=2)}
    yield from game(_translation(), sides).named("CycleGAN")


@law("training/phases")
def phases(_: float) -> Claims:
    r"""Phases set how often each player is updated, and on which batch; each has its own learning rate and clipping.

    $$(\mathrm{critic} \times 5, \mathrm{generator}): \text{5 batches, 6 updates a step}$$
    Gradient descent of learning rate h with gradients clipped at norm c moves a player by at most h c an update. During
    a warm-up of w steps the rate is proportional to (k + 1)/w, and it falls to 0 over the last share of the budget.
    Source: Goodfellow et al. (2014), algorithm 1; Arjovsky et al. (2017), algorithm 1.
    """
    for steps in (1, 5):
        objective, claim = _gan(phases=alternating(steps)), f"{steps} critic updates per step"
        state = started(objective, 0.1, clip={"critic": 1e-3, "generator": None})
        before = nn.utils.parameters_to_vector(objective.critic.parameters()).detach().clone()
        train_step(state, itertools.repeat({"x": _batch(8, 2)}))
        yield close(f"{claim}: number of batches drawn", steps, state.draws, 0.0)
        yield close(f"{claim}: number of critic updates", steps, objective.moves.count("critic"), 0.0)
        last = float(objective.moves[-1] == "generator")
        yield close(f"{claim}: the generator is updated last (1: yes)", 1.0, last, 0.0)
        moved = (nn.utils.parameters_to_vector(objective.critic.parameters()) - before).norm()
        yield bounded(f"{claim}: distance moved by the critic", moved, steps * 0.1 * 1e-3, 1e-7, relation="at most")
        if steps == 1:
            yield close(f"{claim}: distance moved by the critic is h c", 1e-4, moved, 1e-7)
    rate = warm_then_decay(2.0, Budget(steps=100), warmup=10, decay=0.5)
    rates = torch.tensor([rate(step) for step in (0, 4, 9, 50, 75, 100)])
    yield close(
        "learning rates at steps 0, 4, 9, 50, 75, 100 of 100", torch.tensor([0.2, 1.0, 2.0, 2.0, 1.0, 0.0]), rates, 1e-6
    )


@law("training/resume")
def resumes(_: float) -> Claims:
    r"""A training run that is interrupted and resumed ends bitwise equal to the uninterrupted one.

    $$S_{n+m} = T^m(T^n(S_0)) = T^{n+m}(S_0)$$
    A step T is a function of the state S: weights, buffers, optimizers, averages, memory, the number of batches drawn
    and the states of random generators. All of S is saved. Also with image pools and adaptive augmentation.
    Source: an identity: a step is a function of the state.
    Assumes: the batches are a function of the seed and of the number of the draw.
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
    yield from resume(lambda: _gan(phases=alternating(5)), points).named("5 critic updates per step")
    yield from resume(augmented, pictures).named("adaptive augmentation, noise")
    yield from resume(pooled, sides).named("image pools")
    yield from resume(lambda: _gan(phases=SIMULTANEOUS), points, update=optimistic).named("optimistic updates")


@law("training/data-parallel")
def processes(_: float) -> Claims:
    r"""Processes that share the rows of a batch all obtain the gradient of one process that has the whole batch.

    $$\frac1n \sum_{r=1}^n g(x_r, x_{r+n}, \ldots) = g(x_1, x_2, \ldots)$$
    g is the gradient of a mean over rows, and n the number of processes: here two gloo processes on the CPU, each with
    every second row, and the CycleGAN objective. `shard` assigns each row of a data stream to one process, also if the
    stream is a user's function. A process that computes its gradient in parts, one after the other, obtains the same.
    Source: linearity of a mean over rows.
    Assumes: the loss is a mean over independent rows, and all processes have the same number of rows.
    """
    sides = {"a": _batch(6, 1, 4, 4, seed=1), "b": _batch(6, 1, 4, 4, seed=2)}
    yield from data_parallel(_translation(), sides).evidence
    whole = _change(sides, 1)
    for number in (2, 3):
        yield close(f"the gradient of a batch in {number} parts", whole, _change(sides, number), 1e-12)
    stream = pool_stream(6, seed=0, x=torch.arange(60.0))
    for name, given in (("a batch", stream), ("a batch of a user's stream", lambda start: stream(start))):
        parts = torch.stack([next(shard(given, rank, 3)(2))["x"] for rank in range(3)], 1)
        yield close(f"three interleaved shards are {name}", next(stream(2))["x"], parts.reshape(-1), 0.0)


def _change(sides: Batch, parts: int) -> Tensor:
    """The change of all weights by one step of gradient descent with learning rate 1."""
    state = started(_translation().double(), 1.0)
    state.accumulate = parts
    before = [p.detach().clone() for p in state.objective.parameters()]
    train_step(state, itertools.repeat({name: x.double() for name, x in sides.items()}))
    after = state.objective.parameters()
    return torch.cat([(old - new.detach()).reshape(-1) for old, new in zip(before, after, strict=True)])


class SumOfWeights(Objective):
    """The loss is the sum of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Linear = nn.Linear(2, 1, bias=False).double()

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        return {"model": Loss.of(self.model.weight.sum())}


@law("training/average")
def average(_: float) -> Claims:
    r"""After every training step the averaged weights are updated by $a \leftarrow \beta a + (1 - \beta) w$.

    $$a_n = w_n + h\,\frac{\beta(1 - \beta^n)}{1 - \beta} \text{ for } w_n = w_0 - hn$$
    If the loss is $\sum w$ every step subtracts h. The lag $e = a - w$ obeys $e \leftarrow \beta(e + h)$ from 0: a
    geometric series. Buffers are copied. With bfloat16 weights that jump from 1 to 2 the average is $2 - \beta^n$; it
    is kept in float32, where $1 - \beta$ is not lost. The average of weights that rotate is a multiple of a rotation,
    so that with spectral norm its singular values are 1 if the singular vectors are recomputed.
    Source: Polyak & Juditsky (1992); Karras et al. (2018), section 6.3 (exponential).
    """
    h, beta, n, objective = 0.1, 0.8, 12, SumOfWeights()
    start = objective.model.weight.detach().clone()
    state = started(objective, h, decay=lambda _: beta)
    for _step in range(n):
        train_step(state, itertools.repeat({}))
    exact = start - h * n + h * beta * (1 - beta**n) / (1 - beta)
    yield close(
        f"averaged weights after {n} steps, beta = {beta}", exact, next(iter(state.average.parameters())), 1e-12
    )
    ours, theirs = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    changed = {"running_mean": torch.ones(2), "num_batches_tracked": torch.tensor(7)}
    theirs.load_state_dict(theirs.state_dict() | changed)
    update_average(ours, theirs, 0.75)
    yield close("a floating-point buffer is copied", 1.0, ours.state_dict()["running_mean"], 1e-7)
    yield close("an integer buffer is copied", 7.0, ours.state_dict()["num_batches_tracked"], 0.0)
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
    yield close("average of bfloat16 weights after 200 updates", 2 - 0.999**200, next(raised.parameters()), 1e-5)
    singular = torch.linalg.svdvals(turned(torch.eye(2, dtype=F64)))
    yield close("singular values of the average of rotations, with spectral norm", 1.0, singular, 1e-12)
    decays = f64([warm_decay(0.9)(step) for step in (0, 8, 10_000)])
    yield close("warm-up of beta: min(0.9, (1 + k)/(10 + k)) at k = 0, 8, 10,000", f64([0.1, 0.5, 0.9]), decays, 1e-12)


def _averaged(path: Tensor, width: float) -> Tensor:
    """The average with a power profile of a path of weights (T, d), after every step, (T, d), by its updates."""
    model, found = nn.Linear(path.shape[1], 1, bias=False).double(), []
    average = begin_average(model)
    for step, weights in enumerate(path):
        model.weight.data.copy_(weights)
        update_average(average, model, power_decay(width)(step))
        found.append(next(average.parameters())[0].clone())
    return torch.stack(found)


@law("training/power-average")
def power_average(_: float) -> Claims:
    r"""A power-function average weighs the weights of each step by the integral of its profile over that step.

    $$a_t = \sum_{k=1}^t \frac{k^{\gamma+1} - (k-1)^{\gamma+1}}{t^{\gamma+1}} w_k,\qquad
    p(\tau) = (\gamma + 1)\, \frac{\tau^\gamma}{t^{\gamma+1}}$$
    The decay at step s is $((s - 1)/s)^{\gamma + 1}$, so that the weight of step k is a telescoping product. The
    profile p is a density on [0, t] with mean $t(\gamma+1)/(\gamma+2)$, and its standard deviation over t is the
    relative width, from which $\gamma$ is found. Integrals here are sums over 100,000 midpoints.
    Source: Karras et al. (2024), section 3.1 and appendix C.1.
    """
    steps, tau = torch.arange(1, 31, dtype=F64), (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    for width, gamma in ((0.05, 16.97), (0.1, 6.94), (12**-0.5, 0.0)):
        yield close(f"exponent of width {width:.4g}, as published", gamma, exponent(width), 5e-3)
        power, at = exponent(width) + 1, f"width {width:.4g}"
        mean, square = (float((power * tau ** (power - 1) * tau**k).mean()) for k in (1, 2))
        yield close(f"{at}: standard deviation of the profile over t", width, (square - mean**2) ** 0.5, 1e-7)
        weights = _averaged(torch.eye(30, dtype=F64), width)[-1]
        exact = (steps / 30) ** power - ((steps - 1) / 30) ** power
        yield close(f"{at}: weights of 30 steps", exact, weights, 1e-13)
        profile = torch.from_numpy(Profile.of(width, 3.0)(3 * tau.numpy()))
        yield close(f"{at}: the profile", power * tau ** (power - 1) / 3, profile, 1e-9)


@law("training/reconstructed-average")
def reconstructed_average(_: float) -> Claims:
    r"""Stored averages, combined to come nearest to another width, differ from its average as far as the profiles do.

    $$x = \mathrm{arg\,min}_{\sum x_i = 1} \|{\sum_i x_i p_i - p}\|_2,\qquad
    |{\sum_i x_i a_i - a}| \le \|{\sum_i x_i p_i - p}\|_2\, \|w - c\|_2$$
    An average is the inner product of its profile with the path of the weights, so that the bound is that of Cauchy and
    Schwarz, for every constant c. Coefficients are compared with those of least squares on 20,000 points of time, and
    reconstructions with the average that was never stored, for a line, a wave and a random walk of 240 steps.
    Source: Karras et al. (2024), section 3.2; the sum of 1 is added, which keeps constant weights constant.
    """
    n, tau = 240, (torch.arange(20_000, dtype=F64) + 0.5) * (240 / 20_000)
    time = torch.arange(1, n + 1, dtype=F64) / n
    walk = torch.randn(n, generator=generator(3), dtype=F64).cumsum(0) / n**0.5
    path = torch.stack([torch.full_like(time, 5.0), time, (20 * time).cos(), walk], 1)
    kept = [(t, width) for t in range(n // 6, n + 1, n // 6) for width in (0.05, 0.1)]
    averages = {width: _averaged(path, width) for width in (0.05, 0.1)}
    states = [{"weight": averages[width][t - 1][None]} for t, width in kept]

    def density(t: float, width: float) -> Tensor:
        power = exponent(width) + 1
        return (power * tau ** (power - 1) / t**power) * (tau <= t)

    profiles = torch.stack([density(t, width) for t, width in kept], 1)
    for width in (0.07, 0.2):
        wanted, at = density(n, width), f"width {width}"
        x, error = reconstruction([Profile.of(w, t) for t, w in kept], Profile.of(width, n))
        rest = profiles[:, :-1] - profiles[:, -1:]
        best = torch.linalg.lstsq(rest, (wanted - profiles[:, -1])[:, None]).solution[:, 0]
        yield close(f"{at}: coefficients of least squares", torch.cat([best, 1 - best.sum().reshape(1)]), x, 5e-3)
        off = (profiles @ x - wanted).norm()
        yield close(f"{at}: relative error of the profile", off / wanted.norm(), error, 1e-3 * error)
        made = nn.Linear(4, 1, bias=False).double()
        reconstruct(made, states, x)
        gap = (made.weight.detach()[0] - _averaged(path, width)[-1]).abs()
        spread = (path - path.mean(0)).square().sum(0).sqrt()
        limit = off * (n / 20_000) ** 0.5 * spread
        claim = f"{at}: error of reconstructed weights, within the bound"
        yield bounded(claim, gap[1:], limit[1:], 1e-9, relation="at most")
        yield close(f"{at}: constant weights", 5.0, made.weight[0, 0], 1e-9)

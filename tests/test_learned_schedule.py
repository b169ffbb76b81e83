"""A learned noise schedule as a player: its gradients, the variance of the loss, training with a network."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.core.objective import partition
from jensen.core.seeding import generator
from jensen.data.pool import pool_stream
from jensen.diffusion import (
    CosineSchedule,
    GaussianOracle,
    LearnedSchedule,
    MixtureOracle,
    NetworkDenoiser,
    Schedule,
    VariancePreserving,
)
from jensen.models import Diffusion
from jensen.objectives import VariationalDiffusion
from jensen.training import Budget, Player, TrainState, fit
from test_bound import Net

F64 = torch.float64


def moved(seed: int, highest: float, lowest: float, **settings) -> LearnedSchedule:
    """A partly trained learned schedule: all interior parameters are changed by a normal draw."""
    schedule = LearnedSchedule(highest, lowest, **settings)
    rng = generator(seed)
    with torch.no_grad():
        for p in schedule.interior():
            p.add_(torch.randn(p.shape, generator=rng))
    return schedule


def test_gradients_of_the_bound_know_the_ends_alone():
    """n = 60,000 single draws: the gradient with respect to the end points is that of the closed form, and that with
    respect to each interior parameter is 0, within 4.5 standard errors each (from batches of 600).
    """
    schedule = moved(6, 1.0, -1.0, hidden=3, learn_ends=True)
    oracle = GaussianOracle(torch.tensor([0.3]), torch.tensor([0.5]), schedule)
    objective = VariationalDiffusion(Diffusion(oracle, (1,)), interior="bound")
    assert list(objective.players()) == ["model"]
    x = torch.full((600, 1), 3.0, dtype=F64)
    parameters = [*schedule.ends(), *schedule.interior()]
    torch.manual_seed(0)
    draws = []
    for _ in range(100):
        loss = objective(("model",), {"x": x}, 0)["model"].total
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    found = torch.stack(draws).double()
    mean, error = found.mean(0), 4.5 * found.std(0) / 10
    exact = oracle.bound(x[:1], mean="observed").likelihood.value
    ends = torch.stack(torch.autograd.grad(-exact.sum(), schedule.ends()))
    assert bool(((mean[:2] - ends).abs() < error[:2]).all())
    assert float(ends.abs().min()) > 3 * float(error[:2].max())  # and it is significant
    assert bool((mean[2:].abs() < error[2:]).all())


def test_ends_that_learn_descend_the_bound():
    """From an SNR that is far too low at the first level, 100 steps raise it, and raise the closed form of the bound
    by more than 1 nat; the interior belongs to the other player.
    """
    schedule = LearnedSchedule(1.0, -1.0, hidden=3, learn_ends=True)
    oracle = GaussianOracle(torch.tensor([0.3]), torch.tensor([0.05]), schedule)
    objective = VariationalDiffusion(Diffusion(oracle, (1,)))
    assert {name: [id(p) for p in owned] for name, owned in objective.players().items()} == {
        "model": [id(p) for p in schedule.ends()],
        "schedule": [id(p) for p in schedule.interior()],
    }
    x = oracle.sample(4096, generator(0)).float()

    def value():
        return oracle.bound(x, mean="observed").likelihood.value.mean().item()

    before, first = value(), schedule.log_snr(torch.tensor([0.0, 1.0]))
    torch.manual_seed(0)
    play(objective, pool_stream(512, seed=0, x=x), steps=100, rate=0.05)
    last = schedule.log_snr(torch.tensor([0.0, 1.0]))
    assert value() - before > 1
    assert bool(last[0] > first[0] + 1)


@torch.no_grad()
def second_moment(schedule: Schedule, variance: float, dims: int) -> float:
    """E of the squared diffusion term for N(0, variance) data in closed form: the integral over t of
    (lambda')^2 c^2 (D^2 + 2 D) / 4, where c = u v / (1 + u v) is the variance of the error of eps."""
    t = torch.linspace(0, 1, 20001, dtype=F64)
    uv = schedule.log_snr(t).exp() * variance
    rate = schedule.log_snr_slope(t) * uv / (1 + uv)
    return float(torch.trapezoid((dims**2 + 2 * dims) / 4 * rate**2, t))


def play(objective, stream, steps, rate):
    players = {
        name: Player(parameters, torch.optim.Adam(parameters), lambda step: rate * (1 - step / steps) + 1e-4)
        for name, parameters in partition(objective).items()
    }
    state = TrainState(objective, players)
    fit(state, stream, Budget(steps=steps))
    return state


def test_the_learned_schedule_lowers_the_variance_of_the_loss():
    """16 dimensions of N(0, 0.1^2), the exact denoiser, 300 steps of the schedule alone. In closed form the variance
    of the loss falls from 1,721 nats^2 by at least a factor of fifteen, to within 15 percent of its minimum by the
    Cauchy-Schwarz inequality, (integral of sqrt(second moment) d lambda)^2 - mean^2; the ends do not change.
    """
    dims, variance = 16, 0.01
    schedule = LearnedSchedule(8.0, -6.0)
    oracle = GaussianOracle(torch.zeros(dims), torch.full((dims,), variance), schedule)
    log_snr = torch.linspace(-6, 8, 20001, dtype=F64)
    uv = log_snr.exp() * variance
    mean = float(torch.trapezoid(dims * uv / (1 + uv) / 2, log_snr))
    least = float(torch.trapezoid((dims**2 + 2 * dims) ** 0.5 / 2 * uv / (1 + uv), log_snr)) ** 2 - mean**2
    before = second_moment(schedule, variance, dims) - mean**2
    objective = VariationalDiffusion(Diffusion(oracle, (dims,)))
    assert list(objective.players()) == ["schedule"]
    torch.manual_seed(0)
    x = variance**0.5 * torch.randn(20_000, dims)
    play(objective, pool_stream(512, seed=0, x=x), steps=300, rate=0.05)
    after = second_moment(schedule, variance, dims) - mean**2
    assert before / after > 15
    assert least <= after < 1.15 * least
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(ends, torch.tensor([8.0, -6.0]).double(), rtol=1e-6, atol=0)
    # the variance in the journal, on 20,000 new rows, is within 10 percent of it
    x = variance**0.5 * torch.randn(20_000, dims)
    terms = objective(("schedule",), {"x": x}, 0)["schedule"].terms
    assert terms["deviation"].item() ** 2 == pytest.approx(after, rel=0.1)


class Straight(VariancePreserving):
    """Linear between the ends of a learned schedule, with the same clock: the network gets the same log-SNR. It has
    trainable parameters, so that its times are also stratified.
    """

    def __init__(self, learned):
        super().__init__(*learned.log_snr(torch.tensor([0.0, 1.0])).tolist())
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.reference = learned.reference

    def clock(self, t):
        return LearnedSchedule.clock(self, t)


def test_network_and_schedule_play_together():
    """Two Gaussians in the plane, an MLP, 300 steps: the network descends the bound, the interior of the schedule
    the squared loss. The bound stays below the exact mean log-likelihood, by less than 0.4 nats; the variance of the
    loss is less than 0.6 of that on the linear schedule between the same ends.
    """
    law = MixtureOracle([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[0.05], [0.05]], CosineSchedule())
    rng = generator(1)
    x, fresh = law.sample(20_000, rng).float(), law.sample(8000, rng).float()
    torch.manual_seed(0)
    schedule = LearnedSchedule(7.0, -10.0, hidden=16)
    model = Diffusion(NetworkDenoiser(Net(), schedule, output="edm"), (2,))
    objective = VariationalDiffusion(model)
    assert set(objective.players()) == {"model", "schedule"}
    assert [phase.players for phase in objective.phases] == [("model", "schedule")]
    play(objective, pool_stream(256, seed=0, x=x), steps=300, rate=2e-2)
    gap = law.log_prob(fresh, torch.zeros(8000)) - model.bound(fresh, strata=16, samples=1).likelihood.value
    error = 4 * gap.std().item() / 8000**0.5
    assert -error < gap.mean().item() < 0.4
    torch.manual_seed(1)
    learned = objective(("schedule",), {"x": fresh}, 0)["schedule"].terms["deviation"]
    model.denoiser.schedule = Straight(schedule)
    torch.manual_seed(1)
    linear = objective(("schedule",), {"x": fresh}, 0)["schedule"].terms["deviation"]
    assert learned.item() ** 2 < 0.6 * linear.item() ** 2


def test_the_objective_is_the_bound():
    """The mean over 60 batches of 1,000 draws against the closed form of the bound, in nats of the unstandardised
    data: within 4 standard errors, for finite T and continuous time, density and mass.
    """
    schedule = VariancePreserving(8.0, -4.0)
    model = Diffusion(GaussianOracle(torch.zeros(2), torch.ones(2), schedule), (2,))
    model.centre.fill_(0.5)
    model.scale.fill_(0.25)
    x = torch.tensor([[0.7, 0.1]], dtype=F64).expand(1000, 2)
    standard = model.standardize(x[:1].float()).double()
    for steps in (None, 6):
        objective = VariationalDiffusion(model, steps=steps)
        torch.manual_seed(2)
        losses = torch.stack(
            [objective._diffusion(model.standardize(x), _edges(schedule, steps), None) for _ in range(60)]
        )
        exact = model.denoiser.bound(standard, steps=steps, mean="observed")
        error = 4 * losses.mean(1).std().item() / 60**0.5
        assert losses.mean().item() == pytest.approx(exact.diffusion.item(), abs=error)
    torch.manual_seed(3)
    draws = torch.stack([VariationalDiffusion(model)(("model",), {"x": x}, 0)["model"].total for _ in range(60)])
    expected = -model.denoiser.bound(standard, mean="observed").likelihood.value.item() + 2 * math.log(0.25)
    assert draws.mean().item() == pytest.approx(expected, abs=4 * draws.std().item() / 60**0.5)


def _edges(schedule, steps):
    return torch.linspace(0, 1, (steps or 1) + 1, dtype=F64)

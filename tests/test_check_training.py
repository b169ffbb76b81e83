"""Checks of games, resuming and data parallelism: correct code passes, subtly wrong code fails the claim that names
the error.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from games import GAMES, Adversarial, mlp, ring, ring_stream
from jensen import check, objectives
from jensen.adversarial import DiracGAN, eigenvalues, spectral_norm
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.models import GAN
from jensen.objectives import SIMULTANEOUS, alternating
from jensen.training import TrainState, consensus, extragradient, optimistic

F64 = torch.float64


def failed(report):
    return [e.claim for e in report.failed]


# -- games ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GAMES)
def test_the_games_of_every_family_are_what_they_say(name):
    report = check.game(GAMES[name](), {"x": ring(16)})
    report.require()
    players = 2 if "gan" in name else 1
    assert len(report.evidence) == 3 * players


def test_eigenvalues_of_the_dirac_gan():
    game = DiracGAN(r1=0.3)
    check.game(game, eigenvalues=eigenvalues(game)).require()
    wrong = check.game(game, eigenvalues=eigenvalues(game).conj() + 0.01)
    assert failed(wrong) == [
        "the eigenvalues of the flow are those of the field's numerical Jacobian: largest distance"
    ]
    with pytest.raises(ValueError, match="eigenvalues must be 2, one per weight, got 1"):
        check.game(game, eigenvalues=[0j])


def dirac():
    """Away from the equilibrium, where all update rules would stand still."""
    game = DiracGAN(r1=0.3)
    game.model.theta.data.fill_(0.7)
    game.critic.psi.data.fill_(0.4)
    return game


@pytest.mark.parametrize("update", ["descend", "extragradient", "optimistic", "consensus"])
def test_every_rule_moves_as_it_says(update):
    report = check.game(dirac(), update=update, gamma=0.5)
    report.require()
    assert len(report.evidence) == 6


@pytest.mark.parametrize("update", ["extragradient", "optimistic", "consensus"])
def test_a_rule_that_is_plain_descent_is_caught(update):
    x, y = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in (1.0, 2.0))

    def step():
        u, v = y.item(), -x.item()
        with torch.no_grad():
            x.sub_(0.1 * u)
            y.sub_(0.1 * v)

    losses = lambda: {"x": x * y, "y": -x * y}  # noqa: E731
    players = {"x": [x], "y": [y]}
    check.game(losses, players=players, step=step).require()
    report = check.game(losses, players=players, step=step, update=update)
    assert failed(report) == [f"a step moves {name} by the rule of {update}" for name in players]
    with pytest.raises(ValueError, match="update must be one of descend, extragradient, optimistic, consensus"):
        check.game(losses, players=players, update="newton")


def loop(leak=False, simultaneous=False):
    """A GAN training loop by hand: losses, players, and a step of the critic followed by one of the generator."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 2).double(), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, z = torch.randn(2, 8, 2, dtype=F64)
    players = {"critic": list(critic.parameters()), "generator": list(generator.parameters())}

    def losses():
        fake = generator(z)
        return {
            "critic": (F.softplus(-critic(x)) + F.softplus(critic(fake))).mean(),
            "generator": F.softplus(-critic(fake)).mean(),
        }

    def move(name):
        with torch.no_grad():
            for p in players[name]:
                p -= 0.1 * p.grad

    def clear(name):
        for p in players[name]:
            p.grad = None

    def step():
        clear("critic")
        clear("generator")
        losses()["critic"].backward()
        if simultaneous:
            losses()["generator"].backward()
        move("critic")
        if not leak:  # the critic's loss has left a gradient in the generator
            clear("generator")
        if not simultaneous:
            losses()["generator"].backward()
        move("generator")

    return losses, players, step


ALTERNATING = (Phase(("critic",)), Phase(("generator",)))


def test_a_loop_of_ones_own():
    losses, players, step = loop()
    before = copy.deepcopy([p.detach() for ps in players.values() for p in ps])
    check.game(losses, players=players, step=step, phases=ALTERNATING).require()
    after = [p.detach() for ps in players.values() for p in ps]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradients_that_leak_are_caught():
    losses, players, step = loop(leak=True)
    report = check.game(losses, players=players, step=step, phases=ALTERNATING)
    assert failed(report) == ["a step moves generator by the gradient of its loss alone"]
    losses, players, step = loop(leak=True, simultaneous=True)  # both backward passes without clearing gradients
    report = check.game(losses, players=players, step=step)
    assert failed(report) == [f"a step moves {name} by the gradient of its loss alone" for name in players]


def test_the_wrong_order_of_moves_is_caught():
    losses, players, step = loop()
    report = check.game(losses, players=players, step=step)  # stated to be simultaneous
    assert failed(report) == ["a step moves generator by the gradient of its loss alone"]


def test_a_detached_term_is_caught():
    """A penalty whose gradient was computed without a graph: its value is right, its derivative is missing."""
    losses, players, _ = loop()
    x = torch.randn(8, 2, dtype=F64)
    critic_of = players["critic"]

    def penalised():
        found = losses()
        weight = critic_of[0]
        slope = (weight * (1 - torch.tanh(x @ weight.T)[:, :, None] ** 2)).sum(1)
        return found | {"critic": found["critic"] + slope.square().sum(1).mean().detach()}

    report = check.game(penalised, players=players)
    assert failed(report) == ["the field of critic is the numerical gradient of its loss"]


def test_losses_that_change_a_state_are_caught():
    losses, players, _ = loop()
    calls = []

    def counted():
        calls.append(None)
        return {name: value * (1 + 0.1 * len(calls)) for name, value in losses().items()}

    claims = failed(check.game(counted, players=players))
    assert claims[:2] == [
        "the loss of critic is the same in two calls",
        "the loss of generator is the same in two calls",
    ]


def test_what_is_no_game_is_refused():
    with pytest.raises(ValueError, match="a game that is a function needs its players"):
        check.game(dict)
    with pytest.raises(ValueError, match="players must be in double precision"):
        check.game(dict, players={"a": [nn.Parameter(torch.zeros(1))]})


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GAMES)
def test_every_family_resumes_bit_for_bit(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check.resume(GAMES[name], ring_stream()).require()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("phases", [SIMULTANEOUS, alternating(5)])
def test_a_game_with_spectral_norms_resumes_bit_for_bit(phases):
    def make():
        generator, critic = spectral_norm(mlp(3, 8, 2)), spectral_norm(mlp(2, 8, 1))
        return objectives.Adversarial(GAN(generator, [3]), critic, phases=phases)

    check.resume(make, ring_stream()).require()


@pytest.mark.parametrize("update", [extragradient, optimistic, consensus(0.1)])
def test_update_rules_resume_bit_for_bit(update):
    check.resume(lambda: Adversarial(Adversarial.SIMULTANEOUS), ring_stream(), update=update).require()


class Loop:
    """A training loop by hand; parts of its state can be left out of its checkpoint."""

    def __init__(self, forget=()):
        self.forget = forget
        self.net = nn.Linear(2, 1)
        self.average = copy.deepcopy(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.count = 0

    def step(self):
        x = torch.randn(4, 2) + self.count
        self.optimizer.zero_grad()
        self.net(x).square().mean().backward()
        self.optimizer.step()
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.net.parameters(), strict=True):
                a.lerp_(p, 0.1)
        self.count += 1

    def parts(self):
        return {"net": self.net, "average": self.average, "optimizer": self.optimizer}

    def state_dict(self):
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"count": self.count, "rng": torch.get_rng_state()}
        return {name: part for name, part in state.items() if name not in self.forget}

    def load_state_dict(self, state):
        for name, part in self.parts().items():
            if name in state:
                part.load_state_dict(state[name])
        self.count = state.get("count", 0)
        if "rng" in state:
            torch.set_rng_state(state["rng"])


def test_a_loop_that_keeps_all_its_state_resumes():
    check.resume(Loop).require()


RESUMED = [f"{what} that differ: resumed and uninterrupted run" for what in ("state entries", "tensors")]


@pytest.mark.parametrize("forgotten", ["optimizer", "count", "rng"])
def test_what_a_state_forgets_is_caught(forgotten):
    assert failed(check.resume(lambda: Loop((forgotten,)))) == RESUMED


def test_an_average_that_a_state_forgets_is_caught_although_no_step_depends_on_it():
    """As an attribute, or in a container, closure, partial or slot; the report names the weights that only the
    average holds.
    """
    assert failed(check.resume(lambda: Loop(("average",)))) == RESUMED[1:]

    averages = {}  # found only through the code under test

    @dataclass(slots=True)
    class Slotted:
        average: list

    class Aside(Loop):
        def __init__(self, how):
            super().__init__()
            average = averages[self] = [p.detach().clone() for p in self.net.parameters()]
            ways = {"closure": lambda: average, "container": {"average": average}, "partial": partial(len, average)}
            self.aside = (ways | {"slots": Slotted(average), "nowhere": None})[how]

        def step(self):
            super().step()
            torch._foreach_lerp_(averages[self], [p.detach() for p in self.net.parameters()], 0.1)

    check.resume(lambda: Aside("nowhere")).require()
    for how in ("closure", "container", "partial", "slots"):
        assert failed(check.resume(lambda how=how: Aside(how))) == RESUMED[1:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.default_rng(0).normal,
        lambda: np.random.RandomState(0).normal,
        lambda: random.Random(0).random,
    ],
)
def test_a_generator_that_a_state_forgets_is_caught(make):
    """Generators of NumPy and Python, found through the method that draws."""

    class Also(Loop):
        def __init__(self):
            super().__init__()
            self.also = make()

        def step(self):
            super().step()
            self.also()

    assert failed(check.resume(Also)) == RESUMED[1:]


def test_an_objective_whose_average_is_lost_is_caught(monkeypatch):
    """The trainer's own state without its average, which a resumed run then starts again."""
    load, save = TrainState.load_state_dict, TrainState.state_dict
    monkeypatch.setattr(TrainState, "state_dict", lambda s: {k: v for k, v in save(s).items() if k != "averages"})
    monkeypatch.setattr(
        TrainState,
        "load_state_dict",
        lambda s, saved: load(s, {**saved, "averages": [average.state_dict() for average in s.averages]}),
    )
    assert failed(check.resume(GAMES["vae"], ring_stream())) == RESUMED[1:]


def test_what_is_saved_and_not_loaded_is_caught():
    class Half(Loop):
        def load_state_dict(self, state):
            super().load_state_dict({k: v for k, v in state.items() if k != "average"})

    assert "state entries that differ: saved and loaded" in failed(check.resume(Half))


def test_a_run_that_no_seed_repeats_and_one_that_stands_still_are_caught():
    chance = torch.Generator()

    class Unseeded(Loop):
        def step(self):
            with torch.no_grad():
                self.net.bias += torch.randn(1, generator=chance)

    class Still(Loop):
        def step(self):
            pass

    assert failed(check.resume(Unseeded))[0] == "state entries that differ: two uninterrupted runs"
    assert failed(check.resume(Still)) == ["state entries that later steps change"]
    with pytest.raises(ValueError, match="before and after must be at least 1 step, got 0 and 4"):
        check.resume(Loop, before=0)


# -- processes --------------------------------------------------------------------------------------------------------


class Rows(Objective):
    """Two players, no random draws, a mean over rows."""

    phases = (Phase(("a", "b")),)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.b = nn.Linear(2, 3), nn.Linear(3, 1)

    def players(self):
        return {"a": self.model.parameters(), "b": self.b.parameters()}

    def forward(self, players, batch, step):
        total = self.b(self.model(batch["x"]).tanh()).square().mean()
        return {name: Loss.of(total) for name in players}


class Coupled(Rows):
    """Centred over the batch, so that the loss of a row depends on the other rows."""

    def forward(self, players, batch, step):
        x = batch["x"] - batch["x"].mean(0)
        return super().forward(players, {"x": x}, step)


ROWS = {"x": torch.randn(12, 2, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_find_the_gradient_of_one(processes):
    report = check.data_parallel(Rows(), ROWS, processes=processes)
    report.require()
    assert len(report.evidence) == 1 + processes


def test_a_loss_that_couples_rows_is_caught():
    claims = failed(check.data_parallel(Coupled(), ROWS))
    assert claims[0] == "the mean gradient of the shares is the gradient of all rows"


def by_hand(reduce):
    w = nn.Parameter(torch.tensor([1.0, -0.5]))

    def gradient(rows):
        (g,) = torch.autograd.grad((rows["x"] @ w).square().mean(), w)
        if dist.is_initialized():
            reduce(g)
        return g

    return gradient


def mean(g):
    dist.all_reduce(g)
    g /= dist.get_world_size()


def first_alone(g):
    if dist.get_rank() == 0:
        total = [torch.empty_like(g) for _ in range(dist.get_world_size())]
        dist.gather(g, total)
        g.copy_(torch.stack(total).mean(0))
    else:
        dist.gather(g)


def test_gradients_that_are_summed_kept_or_reach_one_process_are_caught():
    check.data_parallel(by_hand(mean), ROWS).require()
    ends = [f"process {k} of 2 ends with the gradient of all rows" for k in (0, 1)]
    assert failed(check.data_parallel(by_hand(dist.all_reduce), ROWS)) == ends
    assert failed(check.data_parallel(by_hand(lambda g: None), ROWS)) == ends
    assert failed(check.data_parallel(by_hand(first_alone), ROWS)) == ends[1:]


def test_what_cannot_be_shared_is_refused_and_a_process_that_fails_is_told():
    with pytest.raises(ValueError, match="'x' of 12 rows does not divide by 5 processes"):
        check.data_parallel(Rows(), ROWS, processes=5)
    with pytest.raises(ValueError, match="processes must be at least 2, got 1"):
        check.data_parallel(Rows(), ROWS, processes=1)

    def broken(g):
        raise ArithmeticError("nothing to add")

    with pytest.raises(RuntimeError, match="process 0 failed: ArithmeticError: nothing to add"):
        check.data_parallel(by_hand(broken), ROWS)

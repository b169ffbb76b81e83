"""Linearisations of games: autograd, differences, dense and Arnoldi methods agree; nothing is changed or random."""

from __future__ import annotations

import copy
import json
import math

import jaxtyping
import pytest
import torch
from torch import nn

from jensen.adversarial import (
    DiracGAN,
    Stability,
    change_along_flow,
    eigenvalues,
    gradient_penalty,
    r1,
    r2,
    stability,
    trajectory,
    vector_field,
)
from jensen.adversarial.dynamics import Step
from jensen.adversarial.field import Frozen, derivative, exact_product
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.models.gan import GAN
from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, alternating
from jensen.training import Player, TrainState, consensus, descend, train_step

F64 = torch.float64
PENALTIES = {
    "none": None,
    "r1": lambda critic, real, fake: r1(critic, real, 2.0),
    "r2": lambda critic, real, fake: r2(critic, fake, 2.0),
    "wgan-gp": lambda critic, real, fake: gradient_penalty(critic, real, fake, 0.5),
}


def net(*layers):
    return nn.Sequential(*layers)


def gan(act=nn.Tanh, width=4, **words):
    """A GAN in the plane with 9 width + 3 weights, noise z and instance noise."""
    torch.manual_seed(1)
    generator = net(nn.Linear(2, width), act(), nn.Linear(width, 2))
    critic = net(nn.Linear(2, width), act(), nn.Linear(width, 1), nn.Flatten(0))
    return Adversarial(GAN(generator, [2]), critic, noise=lambda step: 0.3, **words)


def data(n=24):
    return {"x": torch.randn(n, 2, generator=torch.Generator().manual_seed(5))}


def weights(game):
    return Frozen(game).weights


def matrix(product, n):
    return torch.stack([product(e) for e in torch.eye(n, dtype=F64)], 1)


def nearest(found, among):
    return max(float((among - value).abs().min()) for value in found)


class Quadratic(Objective):
    """Players a and b with two weights each and quadratic losses: the field is K w for any K."""

    phases = (Phase(("a",)), Phase(("b",)))

    def __init__(self, k):
        super().__init__()
        self.register_buffer("k", k)
        self.model = nn.Module()
        self.model.a = nn.Parameter(torch.zeros(2, dtype=F64))
        self.b = nn.Parameter(torch.zeros(2, dtype=F64))

    def players(self):
        return {"a": [self.model.a], "b": [self.b]}

    def forward(self, players, batch, step):
        a, b = self.model.a, self.b
        k = self.k
        losses = {
            "a": a @ k[:2, :2] @ a / 2 + a @ k[:2, 2:] @ b,
            "b": b @ k[2:, 2:] @ b / 2 + b @ k[2:, :2] @ a,
        }
        return {name: Loss.of(losses[name]) for name in players}


class Small(Objective):
    """Players p0, p1, ..., each one vector, initially 0, with arbitrary losses of all of them."""

    def __init__(self, sizes, losses):
        super().__init__()
        self.model = nn.ParameterList([nn.Parameter(torch.zeros(n, dtype=F64)) for n in sizes])
        self.losses = {f"p{k}": loss for k, loss in enumerate(losses)}
        self.phases = (Phase(tuple(self.losses)),)

    def players(self):
        return {name: [p] for name, p in zip(self.losses, self.model, strict=True)}

    def forward(self, players, batch, step):
        return {name: Loss.of(self.losses[name](*self.model).sum()) for name in players}


def bilinear():
    return Small([1, 1], [lambda x, y: x * y, lambda x, y: -x * y])


def linear(k):
    """One weight per player, and the field K w."""

    def loss(i):
        return lambda *w: sum(k[i, j] * w[i] * w[j] / (1 + (i == j)) for j in range(len(k)))

    return Small([1] * len(k), [loss(i) for i in range(len(k))])


def symmetric_blocks(seed):
    k = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(seed))
    k[:2, :2] = k[:2, :2] @ k[:2, :2].T
    k[2:, 2:] = k[2:, 2:] @ k[2:, 2:].T
    return k


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_linear_field_of_two_players(seed):
    """All operators of a quadratic game against their matrices by hand, to 1e-10."""
    k, h = symmetric_blocks(seed), 0.2
    game, eye = Quadratic(k), torch.eye(4, dtype=F64)
    w = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=F64)
    torch.testing.assert_close(vector_field(game, at=w), k @ w)
    first, second = torch.diag(torch.tensor([h, h, 0, 0], dtype=F64)), torch.diag(torch.tensor([0, 0, h, h], dtype=F64))
    alternating_step = (eye - second @ k) @ (eye - first @ k)
    own = {"a": 0.1, "b": 0.4}
    rates = torch.diag(torch.tensor([0.1, 0.1, 0.4, 0.4], dtype=F64))
    optimistic = torch.cat([torch.cat([eye - 2 * h * k, h * eye], 1), torch.cat([k, 0 * eye], 1)])
    cases = (
        (None, None, -k),
        ("simultaneous", h, eye - h * k),
        ("simultaneous", own, eye - rates @ k),
        ("alternating", h, alternating_step),
        ("phases", h, alternating_step),
        ((Phase(("b",)), Phase(("a",), repeats=2)), h, (eye - first @ k) @ (eye - first @ k) @ (eye - second @ k)),
        ("extragradient", h, eye - h * k @ (eye - h * k)),
        ("optimistic", h, optimistic),
        (consensus(0.3), h, eye - h * (k + 0.3 * k.T @ k)),
    )
    for update, size, expected in cases:
        found = eigenvalues(game, update, step_size=size)
        exact = torch.linalg.eigvals(expected)
        assert len(found) == len(exact)
        assert nearest(exact, found) < 1e-9, update
        assert nearest(found, exact) < 1e-9, update


def test_verdicts_of_known_spectra():
    """A sink, a source, a centre, a saddle: for the flow, and for simultaneous steps below and above the limit of
    the step size.
    """

    def spiral(real, imaginary):
        return torch.tensor(
            [[-real, 0, -imaginary, 0], [0, 1, 0, 0], [imaginary, 0, -real, 0], [0, 0, 0, 2]], dtype=F64
        )

    found = stability(Quadratic(spiral(-0.5, 2.0)))  # eigenvalues -0.5 +- 2i, -1, -2
    assert found.verdict == "converges linearly"
    assert found.leading == pytest.approx(-0.5)
    limit = min(2 * 0.5 / (0.25 + 4), 2.0, 1.0)
    assert found.step_size_below == pytest.approx(limit)
    for share, verdict in ((0.99, "converges linearly"), (1.0, "undecided"), (1.01, "diverges")):
        step = stability(Quadratic(spiral(-0.5, 2.0)), update="simultaneous", step_size=share * limit)
        assert step.verdict == verdict
    for real, verdict in ((0.1, "diverges"), (0.0, "undecided")):
        found = stability(Quadratic(spiral(real, 2.0)))
        assert found.verdict == verdict
        assert found.step_size_below is None
    assert stability(Quadratic(torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=F64)))).verdict == "undecided"


@pytest.mark.parametrize("update", ["simultaneous", "alternating", "phases", "extragradient", "optimistic"])
def test_a_steps_jacobian_is_the_product_of_its_players_moves(update):
    """For a network GAN away from equilibrium, through second derivatives by autograd."""
    game, batch, h = gan(phases=alternating(2)), data(), 0.3
    found = eigenvalues(game, update, step_size=h, batch=batch)
    frozen = Frozen(game, batch)
    at, m = frozen.weights, sum(p.numel() for p in frozen.owned["critic"])
    eye = torch.eye(len(at), dtype=F64)
    critic, generator = eye.clone(), eye.clone()
    critic[m:], generator[:m] = 0, 0

    def jacobian(w):
        frozen.put(w)
        return matrix(exact_product(frozen), len(w)), frozen.field(w)

    def move(state, who):
        w, total = state
        j, v = jacobian(w)
        return w - h * who @ v, (eye - h * who @ j) @ total

    state = (at, eye)
    if update == "simultaneous":
        _, total = move(state, eye)
    elif update in ("alternating", "phases"):
        for who in (critic, *([critic] if update == "phases" else []), generator):
            state = move(state, who)
        total = state[1]
    elif update == "extragradient":
        ahead, inner = move(state, eye)
        total = eye - h * jacobian(ahead)[0] @ inner
    else:
        j = jacobian(at)[0]
        total = torch.cat([torch.cat([eye - 2 * h * j, h * eye], 1), torch.cat([j, 0 * eye], 1)])
    exact = torch.linalg.eigvals(total)
    assert len(found) == len(exact)
    large = exact[exact.abs() > 1e-3]  # an eigenvalue 0 of many is known to the root of the rounding only
    assert nearest(large, found) < 1e-6


def test_the_consensus_field_is_a_numerical_derivative():
    """A consensus step is -h (v + gamma grad |v|^2 / 2), with the gradient by differences."""
    game, batch, gamma, h = gan(phases=SIMULTANEOUS), data(), 0.7, 0.1
    frozen = Frozen(game, batch)
    at = frozen.weights
    energy = matrix(derivative(lambda w: frozen.field(w).square().sum()[None] / 2, at, 1e-3), len(at))[0]
    expected = frozen.field(at) + gamma * energy
    frozen.put(at)
    after = Step(frozen, consensus(gamma), h)(at)
    torch.testing.assert_close((at - after) / h, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("update", "h", "penalty"),
    [(None, None, "none"), (None, None, "r2"), ("alternating", 0.5, "none"), ("optimistic", 0.5, "none")],
)
def test_krylov_equals_dense(update, h, penalty):
    """For a GAN with 57 weights: Arnoldi's results are eigenvalues, and include those that determine the verdict."""
    game, batch = gan(width=6, penalty=PENALTIES[penalty]), data()
    whole = stability(game, batch, update, step_size=h)
    some = stability(game, batch, update, step_size=h, top=3, dense=0)
    assert whole.complete
    assert not some.complete
    assert some.converged
    assert some.weights == whole.weights == (57 if update != "optimistic" else 2 * 57)
    assert nearest(some.eigenvalues, whole.eigenvalues) < 1e-6
    assert some.leading == pytest.approx(whole.leading, abs=1e-6)
    assert some.verdict == whole.verdict
    largest = whole.eigenvalues[whole.eigenvalues.abs().argmax()]
    assert nearest([largest], torch.cat([some.eigenvalues, some.eigenvalues.conj()])) < 1e-6
    assert len(some.eigenvalues) < 12
    assert some.speed == whole.speed > 0


@pytest.mark.parametrize("dense", [0, 1, 2])
def test_two_weights_are_too_few_for_arnoldi(dense):
    found = stability(DiracGAN(r1=0.6), dense=dense)
    assert found.complete
    assert torch.equal(found.eigenvalues, eigenvalues(DiracGAN(r1=0.6)))
    assert len(eigenvalues(DiracGAN(), "optimistic", step_size=0.1, dense=dense)) in (2, 4)


def test_arnoldi_that_runs_out_says_so():
    found = stability(gan(width=40), data(), dense=0, products=1)
    assert not found.converged
    assert found.linearised in ("diverges", "undecided")


def damped_and_stiff():
    """Eigenvalues -0.001 (ten times), -5 +- 3i (eight times), -0.01 +- 0.9i, and -0.0015 +- 0.4i, which limits the
    step size.
    """
    damping = torch.tensor([0.001] * 10 + [5.0] * 8 + [0.01, 0.0015], dtype=F64)
    turning = torch.tensor([0.0] * 10 + [3.0] * 8 + [0.9, 0.4], dtype=F64)
    return Small(
        [20, 20],
        [
            lambda x, y: damping * x**2 / 2 + turning * x * y,
            lambda x, y: damping * y**2 / 2 - turning * x * y,
        ],
    )


@pytest.mark.parametrize("top", [1, 6])
def test_the_step_limit_of_a_large_game_is_set_by_eigenvalues_that_do_not_lead(top):
    """2 |Re| / |lambda|^2 of -0.0015 +- 0.4i: Arnoldi finds this pair only with step sizes at which it grows. If one
    eigenvalue is added per round this takes two rounds, because -0.01 +- 0.9i grows faster and is found first.
    """
    limit = 2 * 0.0015 / (0.0015**2 + 0.4**2)
    some = stability(damped_and_stiff(), dense=0, top=top, products=600)
    assert not some.complete
    assert some.confirmed
    assert some.step_size_below == pytest.approx(limit, rel=1e-6)
    assert nearest([complex(-0.0015, 0.4)], torch.cat([some.eigenvalues, some.eigenvalues.conj()])) < 1e-8
    for share, verdict in ((0.99, "converges linearly"), (1.01, "diverges")):
        step = stability(damped_and_stiff(), update="simultaneous", step_size=share * some.step_size_below)
        assert step.verdict == verdict
    short = stability(
        damped_and_stiff(), dense=0, top=top, products=some.products // 3
    )  # sufficient for the verdict only
    assert short.verdict == "converges linearly"
    assert (short.confirmed, short.step_size_below, short.as_dict()["step_size_below"]) == (False, None, None)


def test_the_step_limit_of_a_small_game_is_set_by_all_eigenvalues():
    assert stability(damped_and_stiff()).step_size_below == pytest.approx(2 * 0.0015 / (0.0015**2 + 0.4**2), rel=1e-9)


@pytest.mark.parametrize("update", [None, "simultaneous"])
@pytest.mark.parametrize("dense", [0, 400])
def test_where_nothing_moves_nothing_is_decided(dense, update):
    """A constant field with derivative 0: the report first says that this is no equilibrium."""
    game = Small([2, 3], [lambda x, y: x, lambda x, y: y])
    found = stability(game, update=update, step_size=update and 0.1, dense=dense)
    assert found.verdict == "not an equilibrium; linearised: undecided"
    assert found.leading == pytest.approx(float(update is not None))


def test_away_from_an_equilibrium_no_verdict_stands_alone():
    """The field is w - 1 and 2 (w - 1): its norm is sqrt(5) at w = 0 and 0 at w = 1."""
    game = Small([1, 1], [lambda x, y: (x - 1) ** 2 / 2, lambda x, y: (y - 1) ** 2])
    for update, h in ((None, None), ("simultaneous", 0.1)):
        start = stability(game, update=update, step_size=h)
        there = stability(game, update=update, step_size=h, at=(1.0, 1.0))
        near = stability(game, update=update, step_size=h, at=(1.0, 1.001))
        assert start.speed == pytest.approx(math.sqrt(5))
        assert (start.verdict, start.linearised) == (
            "not an equilibrium; linearised: converges linearly",
            "converges linearly",
        )
        assert (start.equilibrium, near.equilibrium, there.equilibrium) == (False, False, True)
        assert near.verdict.startswith("not an equilibrium")
        assert there.verdict == "converges linearly"
        assert start.as_dict()["verdict"] == start.verdict
        assert start.as_dict()["equilibrium"] is False


FIVE_TO_ONE = (Phase(("p1",), repeats=5), Phase(("p0",), fresh=False))


@pytest.mark.parametrize(("update", "h"), [("alternating", 2.0), (FIVE_TO_ONE, 2 / math.sqrt(5))])
def test_a_double_eigenvalue_on_the_circle_is_undecided(update, h):
    """Both eigenvalues are -1, in one Jordan block: rounding of size e moves one outside by sqrt(e)."""
    found = stability(bilinear(), update=update, step_size=h)
    assert found.verdict == "undecided"
    assert abs(found.leading - 1) < found.tolerance < 1e-3
    assert stability(bilinear(), update=update, step_size=1.01 * h).verdict == "diverges"


@pytest.mark.parametrize("n", [2, 3, 4])
def test_rounding_of_a_nilpotent_jacobian_is_undecided(n):
    """All eigenvalues are 0, in a rotated basis in which they are computed as the n-th root of rounding errors."""
    turn = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    shift = torch.diag(torch.ones(n - 1, dtype=F64), 1)
    for scale in (1.0, 1e-3, 1e3):
        game = linear(scale * turn @ shift @ turn.T)
        for update in (None, "simultaneous"):
            found = stability(game, update=update, step_size=update and 0.1 / scale)
            assert found.verdict == "undecided", (found.leading, found.tolerance)
    shifted = stability(linear(turn @ (shift + torch.eye(n, dtype=F64)) @ turn.T))
    assert shifted.verdict == "converges linearly"  # -1, n times
    assert stability(linear(turn @ (shift - torch.eye(n, dtype=F64)) @ turn.T)).verdict == "diverges"


def test_products_are_told_and_time_is_a_bound(monkeypatch):
    told = []
    whole = stability(gan(), data(), advance=told.append)
    assert told == [1] * whole.products == [1] * whole.weights
    told.clear()
    some = stability(gan(), data(), dense=0, advance=told.append)
    assert told == [1] * some.products

    now = [0.0]
    monkeypatch.setattr("jensen.adversarial.spectrum.time.monotonic", lambda: now[0])

    def tick(done):
        now[0] += done

    stopped = stability(gan(), data(), dense=0, products=1000, advance=tick, seconds=some.products / 2)
    assert some.products / 2 < stopped.products <= some.products / 2 + 1
    assert not stopped.converged
    assert stopped.linearised in ("diverges", "undecided")
    assert 0 < len(stopped.eigenvalues) < len(some.eigenvalues)
    assert nearest(stopped.eigenvalues, some.eigenvalues) < 1e-9  # the eigenvalues found so far
    now[0] = 0.0
    nothing = stability(gan(), data(), dense=0, advance=tick, seconds=3.5)
    assert (nothing.products, len(nothing.eigenvalues), nothing.linearised) == (4, 0, "undecided")


def test_nothing_is_random_and_nothing_is_moved():
    """The game, its buffers and torch's generator do not change; results depend on the seed; single precision works."""
    game, batch = gan(width=2, penalty=PENALTIES["wgan-gp"]), data()
    before, state = copy.deepcopy(game.state_dict()), torch.get_rng_state()
    first = eigenvalues(game, "alternating", step_size=0.1, batch=batch, seed=1)
    torch.randn(3)
    again = eigenvalues(game, "alternating", step_size=0.1, batch=batch, seed=1)
    other = eigenvalues(game, "alternating", step_size=0.1, batch=batch, seed=2)
    torch.set_rng_state(state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    stability(game, batch)
    trajectory(game, "optimistic", 0.1, 2, batch=batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(value, before[key]) for key, value in game.state_dict().items())
    assert next(game.parameters()).dtype == torch.float32
    double = eigenvalues(copy.deepcopy(game).double(), "alternating", step_size=0.1, batch=batch, seed=1)
    assert torch.equal(first, double)


def test_buffers_that_a_forward_changes_begin_anew():
    """Batch norm and spectral norm update buffers in forward: all evaluations must start from the same buffers."""
    torch.manual_seed(0)
    critic = net(
        nn.utils.parametrizations.spectral_norm(nn.Linear(2, 4)), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)
    )
    game = Adversarial(GAN(nn.Linear(2, 2), [2]), net(*critic, nn.Flatten(0)))
    frozen = Frozen(game, data())
    at = frozen.weights
    v = frozen.field(at)
    for _ in range(3):
        frozen.field(at + 0.1)
    assert torch.equal(frozen.field(at), v)
    step = Step(Frozen(game, data()), descend, 0.1)
    assert torch.equal(step(at), step(at))


def test_no_gradient_leaks_between_players():
    """Scaling the loss of one player scales only its part of the field."""

    class Louder(Adversarial):
        def forward(self, players, batch, step):
            losses = super().forward(players, batch, step)
            return {k: Loss.of(3 * v.total) if k == "critic" else v for k, v in losses.items()}

    game, batch = gan(), data()
    loud = Louder(game.model, game.critic, noise=game.noise)
    v, louder = vector_field(game, batch), vector_field(loud, batch)
    m = sum(p.numel() for p in game.critic.parameters())
    torch.testing.assert_close(louder[:m], 3 * v[:m])
    assert torch.equal(louder[m:], v[m:])


def test_a_trajectory_is_training():
    """Against `train_step` in a game without noise; and the flow against small steps."""
    game = Quadratic(symmetric_blocks(4))
    start = torch.tensor([1.0, -0.5, 0.2, 0.8], dtype=F64)
    path = trajectory(game, "phases", {"a": 0.1, "b": 0.2}, 5, start=start)
    by_hand = copy.deepcopy(game)
    by_hand.model.a.data.copy_(start[:2])
    by_hand.b.data.copy_(start[2:])
    players = {
        name: Player(list(p), torch.optim.SGD(p, lr=rate), lambda _, rate=rate: rate)
        for (name, p), rate in zip(by_hand.players().items(), (0.1, 0.2), strict=True)
    }
    state = TrainState(by_hand, players)
    for k in range(1, 6):
        train_step(state, iter(dict, None))
        assert torch.equal(path[k], torch.cat([by_hand.model.a, by_hand.b]).detach())
    assert torch.equal(path[0], start)
    flow = trajectory(game, None, 0.3, 4, start=start)
    exact = torch.stack([torch.linalg.matrix_exp(-0.3 * k * game.k) @ start for k in range(5)])
    torch.testing.assert_close(flow, exact, rtol=0, atol=1e-9)


def test_change_along_the_flow_is_a_derivative_of_the_trajectory():
    game, start = DiracGAN(r1=0.5), [1.0, 0.4]
    quantity = lambda w: w[0] ** 3 + w[0] * w[1]  # noqa: E731
    path = trajectory(game, None, 1e-3, 2, start=start)
    slope = (quantity(path[2]) - quantity(path[0])) / 2e-3
    assert change_along_flow(game, quantity, at=path[1]) == pytest.approx(slope.item(), abs=1e-6)


def test_what_is_said_about_a_run_is_plain_values():
    found = stability(gan(), data(), "alternating", step_size={"critic": 0.1, "generator": 0.2})
    assert found.eigenvalues.abs().diff().max() <= 1e-12  # the decisive eigenvalues come first
    assert found.eigenvalues.abs()[0] == found.leading
    assert stability(gan(), data()).eigenvalues.real.diff().max() <= 0
    words = json.loads(json.dumps(found.as_dict()))
    assert words["verdict"] == found.verdict
    assert words["eigenvalues"][0] == [found.eigenvalues[0].real.item(), found.eigenvalues[0].imag.item()]
    assert words["step_size"] == {"critic": 0.1, "generator": 0.2}
    assert (words["weights"], words["complete"], words["update"]) == (39, True, "alternating")
    nothing = Stability(
        "flow", None, torch.zeros(0, dtype=torch.complex128), 9, False, False, False, 0.0, True, 1e-5, 3
    )
    assert nothing.verdict == "undecided"
    assert json.loads(json.dumps(nothing.as_dict()))["leading"] is None


def test_what_is_refused():
    game = DiracGAN()
    for call, message in (
        (lambda: eigenvalues(game, "simultaneous"), "step_size must be given with an update"),
        (lambda: eigenvalues(game, step_size=0.1), "the flow, update=None, has none"),
        (lambda: eigenvalues(game, "sideways", step_size=0.1), "update must be one of simultaneous, .*got 'sideways'"),
        (lambda: eigenvalues(game, "simultaneous", step_size=0.0), "step_size must be positive, got 0"),
        (
            lambda: eigenvalues(game, "simultaneous", step_size={"critic": 1.0}),
            "step_size must include player 'generator'",
        ),
        (lambda: eigenvalues(game, (Phase(("x",)),), step_size=1.0), "a phase names player 'x'"),
        (
            lambda: eigenvalues(game, (), step_size=0.1),
            r"alternating, phases; a tuple of one Phase or more; .*got \(\)",
        ),
        (
            lambda: eigenvalues(game, "simultaneous", step_size={"critic": 1.0, "generator": 1.0, "foo": 3.0}),
            r"step_size must name the players \['critic', 'generator'\], got \['foo'\]",
        ),
        (lambda: stability(gan()), "the game needs a batch with 'x', got none"),
        (lambda: trajectory(gan(), batch={"y": torch.ones(2)}), r"the game needs a batch with 'x', got \['y'\]"),
        (lambda: stability(game, top=0), "top and products must be at least 1, got 0 and 400"),
        (lambda: stability(game, seconds=0.0), "seconds must be positive, got 0.0"),
        (lambda: stability(game, at=[1.0]), r"the weights of generator, critic must be \(2,\), got \(1,\)"),
        (lambda: trajectory(game, None, 0.1, 0), "steps must be at least 1, got 0"),
        (lambda: trajectory(game, None, -0.1, 5), "one positive time between points of the flow, got -0.1"),
        (lambda: trajectory(game, None, {"critic": 1.0}, 5), "one positive time"),
        (lambda: trajectory(game, "simultaneous", math.nan, 5), "step_size must be positive, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_of_another_type_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production, without type checks
    other, game = nn.Linear(2, 2), DiracGAN()
    for call, message in (
        (lambda: eigenvalues(other), "game must be an Objective, got Linear"),
        (lambda: eigenvalues(other, "simultaneous", step_size=0.1), "game must be an Objective, got Linear"),
        (lambda: eigenvalues(game, ("critic",), step_size=0.1), r"a tuple of one Phase or more; .*got \('critic',\)"),
        (lambda: eigenvalues(game, 3, step_size=0.1), "update must be one of simultaneous, .*got 3"),
        (lambda: DiracGAN(3), "f must be a margin loss, 'wasserstein' or a function, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

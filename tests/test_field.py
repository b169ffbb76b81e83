"""A game as a vector field: derivatives by autograd and by finite differences, near kinks and under rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.adversarial import (
    eigenvalues,
    r2,
    stability,
    trajectory,
    vector_field,
)
from jensen.adversarial.field import CLOSE, NEAR, Frozen, derivative, difference_step, exact_product, field_product
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from test_stability import PENALTIES, Small, data, gan, matrix, nearest

F64 = torch.float64


class Kinked(Objective):
    """x descends (x - a)(y - a), y ascends it; both losses have kinks at distance `near` from a, and x's loss may
    hide y from autograd.
    """

    phases = (Phase(("x",)), Phase(("y",)))

    def __init__(self, a, near=2e-4, hidden=False):
        super().__init__()
        self.a, self.near, self.hidden = a, near, hidden
        self.model = nn.Module()
        self.model.x = nn.Parameter(torch.tensor(a, dtype=F64))
        self.y = nn.Parameter(torch.tensor(a, dtype=F64))

    def players(self):
        return {"x": [self.model.x], "y": [self.y]}

    def forward(self, players, batch, step):
        x, y = self.model.x - self.a, self.y - self.a
        beside = y.detach() if self.hidden else y
        losses = {"x": x * beside + (x.abs() - self.near).relu(), "y": -x * y + (y.abs() - self.near).relu()}
        return {name: Loss.of(losses[name]) for name in players}


@pytest.mark.parametrize("near", [2e-4, 2e-6, 5e-8])
@pytest.mark.parametrize("a", [0.0, 33.3, -777.7, 1e6])
def test_rounding_beside_a_kink_proves_nothing(a, near):
    """For L = xy, eigenvalues of alternating steps lie on the unit circle and those of the flow on the imaginary
    axis: the verdict is undecided for any size of rounding errors.
    """
    found = stability(Kinked(a, near), update="alternating", step_size=0.1)
    assert found.verdict == "undecided", (found.leading - 1, found.tolerance)
    assert abs(found.leading - 1) < found.tolerance < 1e-6 * (1 + abs(a))
    if near == 2e-4 and abs(a) < 1e6:
        assert found.tolerance < 1e-9 * (1 + abs(a)) + 2e-8  # wider differences are more precise
        assert stability(Kinked(a, near), update="simultaneous", step_size=0.1).verdict == "diverges"
    for hidden in (False, True):  # by autograd, and by differences
        flow = stability(Kinked(a, near, hidden))
        assert flow.verdict == "undecided"
        if not hidden and abs(a) < 1e6:
            assert flow.tolerance == pytest.approx(1e-8)


def test_differences_are_as_wide_as_kinks_allow():
    """The step size of finite differences is the largest with which no coordinate crosses a kink, in 40 dimensions."""
    w = torch.linspace(-1, 1, 40, dtype=F64)
    for kink, expected in ((1e-2, CLOSE), (1.9e-3, 1e-4), (1.1e-3, 1e-4), (1.9e-5, 1e-6), (5e-8, NEAR)):

        def field(v, kink=kink):
            return v + (v - w - kink).relu()

        size = difference_step(field, w, 0)
        assert size == expected
        torch.testing.assert_close(matrix(derivative(field, w, size), 40), torch.eye(40, dtype=F64), rtol=0, atol=1e-5)


def test_differences_of_a_field_that_bends_prove_less():
    """A step of exactly 2 on a curvature of 1 maps x to -x: the modulus is 1, but differences give one below 1."""

    class Wave(Kinked):
        def forward(self, players, batch, step):
            losses = {"x": -(40 * self.model.x).cos() / 1600, "y": self.y.square() / 4}
            return {name: Loss.of(losses[name]) for name in players}

    found = stability(Wave(0.0), update="simultaneous", step_size=2.0)
    assert 1e-8 < 1 - found.leading < found.tolerance < 1e-5
    assert found.verdict == "undecided"


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("act", [nn.Tanh, nn.LeakyReLU])
def test_the_field_is_the_numerical_derivative_of_each_players_own_loss(act, penalty):
    game, batch = gan(act, penalty=PENALTIES[penalty]), data()
    frozen = Frozen(game, batch, seed=3)
    at = frozen.weights

    def loss(player):
        def value(w):
            frozen.put(w)
            return frozen((player,), {}, 0)[player].total.detach()[None]

        return value

    n = {name: sum(p.numel() for p in parameters) for name, parameters in frozen.owned.items()}
    gradients = {name: matrix(derivative(loss(name), at, 1e-7), len(at))[0] for name in n}
    expected = torch.cat([gradients["critic"][: n["critic"]], gradients["generator"][n["critic"] :]])
    torch.testing.assert_close(vector_field(game, batch, seed=3), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("act", [nn.Tanh, nn.LeakyReLU])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_jacobian_is_the_numerical_derivative_of_the_field(act, penalty):
    """By autograd only: a penalty at generated examples depends on the generator."""
    game, batch = gan(act, penalty=PENALTIES[penalty]), data()
    frozen = Frozen(game, batch)
    at = frozen.weights
    expected = matrix(derivative(frozen.field, at, 1e-7), len(at))
    product, exact = field_product(frozen, NEAR)
    assert exact
    torch.testing.assert_close(matrix(product, len(at)), expected, rtol=1e-5, atol=2e-6)
    assert nearest(torch.linalg.eigvals(-expected), eigenvalues(game, batch=batch)) < 2e-3


def test_what_a_loss_detaches_is_found_by_differences():
    """A penalty whose generated examples are detached: autograd treats them as constant, although the field depends
    on them.
    """
    game, batch = gan(penalty=lambda critic, real, fake: r2(critic, fake.detach(), 2.0)), data()
    frozen = Frozen(game, batch)
    at = frozen.weights
    expected = matrix(derivative(frozen.field, at, 1e-7), len(at))
    frozen.put(at)
    product, exact = field_product(frozen, CLOSE)
    assert not exact
    torch.testing.assert_close(matrix(product, len(at)), expected, rtol=1e-5, atol=2e-6)
    frozen.put(at)
    assert (matrix(exact_product(frozen), len(at)) - expected).abs().max() > 1e-2
    whole = gan(penalty=PENALTIES["r2"])  # the same field without detaching
    torch.testing.assert_close(eigenvalues(game, batch=batch), eigenvalues(whole, batch=batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stiff", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("apart", [True, False])
def test_what_is_detached_is_found_beside_a_stiff_player(stiff, apart):
    """a and b drive each other apart, v = (0.1 a + b, 0.1 b + a), through terms that autograd does not see, together
    with a stiff y.
    """
    first, second, third = (
        lambda a, b: 0.05 * a**2 + a * b.detach(),
        lambda a, b: 0.05 * b**2 + b * a.detach(),
        lambda y: stiff / 2 * y**2,
    )
    if apart:
        game = Small([1, 1, 1], [lambda a, b, y: first(a, b), lambda a, b, y: second(a, b), lambda a, b, y: third(y)])
    else:  # y is b's second weight
        game = Small([1, 2], [lambda a, b: first(a, b[:1]), lambda a, b: second(a, b[:1]) + third(b[1:])])
    found = stability(game)
    assert found.verdict == "diverges"
    assert found.leading == pytest.approx(0.9, abs=1e-6)


def _dirac(slope):
    """A damped Wasserstein Dirac-GAN with the critic psi leaky_relu(x)."""
    critic = lambda x, psi: psi * nn.functional.leaky_relu(x, slope)  # noqa: E731
    return Small([1, 1], [lambda x, psi: -critic(x, psi), lambda x, psi: critic(x, psi) + psi**2 / 2])


def _bent(x):
    """A loss with gradient -x for positive x and 3x for negative x."""
    return -(x.relu() ** 2) / 2 + 3 * (-x).relu() ** 2 / 2


KINKS = {
    "one weight": lambda: Small([1], [_bent]),
    "of many": lambda: Small([5], [lambda x: torch.tensor([1.0, 0, 0, 0, 0], dtype=F64) * _bent(x) + x**2]),
    "one of two players": lambda: Small([1, 1], [lambda x, y: _bent(x) + x * y, lambda x, y: y**2 / 2 - x * y]),
    "beside a stiff one": lambda: Small([1, 1], [lambda x, y: _bent(x), lambda x, y: 5e5 * y**2]),
    "relu critic": lambda: _dirac(0.0),
    "leaky critic": lambda: _dirac(0.2),
    "the same from both sides": lambda: Small([1, 1], [lambda x, y: (x * y).abs(), lambda x, y: y**2]),
}


@pytest.mark.parametrize("update", [None, "simultaneous"])
@pytest.mark.parametrize("dense", [0, 400])
@pytest.mark.parametrize("name", KINKS)
def test_a_kink_on_the_point_has_no_linearisation(name, dense, update):
    """At a nearby point there is one."""
    game = KINKS[name]()
    with pytest.raises(ValueError, match="has a kink here and no linearisation: use trajectories"):
        stability(game, update=update, step_size=update and 0.1, dense=dense)
    n = sum(p.numel() for p in game.parameters())
    stability(game, at=torch.linspace(0.1, 0.2, n, dtype=F64), update=update, step_size=update and 0.1, dense=dense)


def test_beside_a_kink_each_side_has_its_own_eigenvalue():
    game = KINKS["one weight"]()
    for at, expected in ((1e-5, 1.0), (-1e-5, -3.0)):
        assert eigenvalues(game, at=[at]).item().real == pytest.approx(expected, rel=1e-6)
    assert trajectory(game, None, 0.5, 10, start=[0.01])[-1].item() == pytest.approx(0.01 * math.exp(5), rel=1e-6)


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("penalty", ["none", "r1"])
@pytest.mark.parametrize("seed", range(4))
def test_networks_with_kinks_are_linear_between_them(act, penalty, seed):
    """No unit of a trained network is exactly at its kink: the flow is differentiable, and autograd is right."""
    game, batch = gan(act, width=24, penalty=PENALTIES[penalty]), data()
    with torch.no_grad():
        for p in game.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) / 2)
    frozen = Frozen(game, batch, seed=seed)
    at = frozen.weights
    size = difference_step(frozen.field, at, seed)
    frozen.put(at)
    assert field_product(frozen, size)[1]


@pytest.mark.parametrize("update", [None, "simultaneous"])
@pytest.mark.parametrize("dense", [0, 400])
def test_a_jump_has_no_linearisation(dense, update):
    with pytest.raises(
        ValueError, match="the vector field is discontinuous here and has no linearisation: use trajectories"
    ):
        stability(Small([3], [torch.abs]), update=update, step_size=update and 0.1, dense=dense)

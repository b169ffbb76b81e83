"""A game as a vector field: its derivatives by autograd and by differences, beside kinks and rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.adversarial import (
    eigenvalues,
    stability,
    vector_field,
)
from jensen.adversarial.field import CLOSE, NEAR, Frozen, derivative, difference_step, exact_product, field_product
from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from test_stability import PENALTIES, data, gan, matrix, nearest

F64 = torch.float64


class Kinked(Objective):
    """x descends (x - a)(y - a), y ascends it; both with kinks `near` a, and x's loss may hide y from autograd."""

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
@pytest.mark.parametrize("a", [0.0, 11.1, 33.3, -777.7, 3333.3, 1e6])
def test_rounding_beside_a_kink_proves_nothing(a, near):
    """Alternating steps of xy stay on the circle, its flow on the axis, however coarse the numbers around a."""
    found = stability(Kinked(a, near), update="alternating", step_size=0.1)
    assert found.verdict == "undecided", (found.leading - 1, found.tolerance)
    assert abs(found.leading - 1) < found.tolerance < 1e-6 * (1 + abs(a))
    if near == 2e-4 and abs(a) < 1e6:
        assert found.tolerance < 1e-9 * (1 + abs(a)) + 2e-8  # wider differences than the closest are more precise
        assert stability(Kinked(a, near), update="simultaneous", step_size=0.1).verdict == "diverges"
    for hidden in (False, True):  # by autograd, and by differences
        flow = stability(Kinked(a, near, hidden))
        assert flow.verdict == "undecided"
        if not hidden and abs(a) < 1e6:
            assert flow.tolerance == pytest.approx(1e-8)


def test_differences_are_as_wide_as_kinks_allow():
    """No column may reach a kink that the probe did not, in any of 40 directions."""
    w = torch.linspace(-1, 1, 40, dtype=F64)
    for kink, expected in ((1e-2, CLOSE), (1.9e-3, 1e-4), (1.1e-3, 1e-4), (1.9e-5, 1e-6), (5e-8, NEAR)):

        def field(v, kink=kink):
            return v + (v - w - kink).relu()

        size = difference_step(field, w, 0)
        assert size == expected
        torch.testing.assert_close(matrix(derivative(field, w, size), 40), torch.eye(40, dtype=F64), rtol=0, atol=1e-5)


def test_differences_of_a_field_that_bends_prove_less():
    """A step of exactly 2 on a curvature of 1 flips x: on the circle, where differences see a modulus below 1."""

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
    """Also where a penalty detaches the generated examples it is taken at, which autograd alone gets wrong."""
    game, batch = gan(act, penalty=PENALTIES[penalty]), data()
    frozen = Frozen(game, batch)
    at = frozen.weights
    expected = matrix(derivative(frozen.field, at, 1e-7), len(at))
    frozen.put(at)
    found = matrix(field_product(frozen, NEAR)[0], len(at))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    frozen.put(at)
    alone = matrix(exact_product(frozen), len(at))
    straight = act is nn.LeakyReLU  # the critic's slope is then the same on either side of where it is taken
    assert ((alone - expected).abs().max() < 1e-4) == (straight or penalty in ("none", "r1"))
    assert nearest(torch.linalg.eigvals(-expected), eigenvalues(game, batch=batch)) < 2e-3

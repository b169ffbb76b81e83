"""Margin losses: f and its critic against the infimum, closed forms and their limits."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from jensen.adversarial import (
    MARGIN_LOSSES,
    check_f,
    exponential,
    hinge,
    logistic,
    margin_loss,
    squared,
    zero_one,
)

F64 = torch.float64
LOSSES = list(MARGIN_LOSSES.values())
RATIOS = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-8, 8, 161, dtype=F64)])


# -- losses -----------------------------------------------------------------------------------------------------------


def test_the_values_at_a_few_margins_and_the_tie():
    m = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    expected = {
        "zero-one": [1, 0.5, 0, 0],
        "squared": [4, 1, 0.25, 1],
        "logistic": [1.313262, 0.693147, 0.474077, 0.126928],
        "exponential": [math.e, 1, 0.606531, 0.135335],
        "hinge": [2, 1, 0.5, 0],
    }
    for loss in LOSSES:
        torch.testing.assert_close(loss(m), torch.tensor(expected[loss.name], dtype=torch.float32), atol=1e-6, rtol=0)
    assert zero_one.optimal(torch.tensor([0.99, 1.0])).tolist() == [-1.0, 1.0]
    assert [loss.name for loss in LOSSES if not loss.trainable] == ["zero-one"]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_a_numerical_f_is_the_closed_one(loss):
    found = margin_loss(loss.loss)
    torch.testing.assert_close(found.f(RATIOS), loss.f(RATIOS), atol=1e-13, rtol=1e-13)
    assert found.trainable == loss.trainable
    d = found.optimal(RATIOS[1:])
    if loss in (squared, logistic, exponential):
        torch.testing.assert_close(d, loss.optimal(RATIOS[1:]), atol=1e-6, rtol=0)
    else:  # at u = 1 all critics in [-1, 1] are optimal for hinge, and all critics for zero-one
        apart = RATIOS[1:] != 1
        assert bool(((d > 0) == (RATIOS[1:] >= 1))[apart].all())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda v: v.name)
def test_f_is_convex_falls_and_is_its_own_mirror(loss):
    check_f(loss.f)
    torch.testing.assert_close(loss.f(RATIOS[1:]), RATIOS[1:] * loss.f(1 / RATIOS[1:]))
    log_ratio = RATIOS[1:].log()
    torch.testing.assert_close(loss.conditional_risk(log_ratio), -loss.f(RATIOS[1:]) / (1 + RATIOS[1:]))


def test_the_slope_of_a_numerical_f_is_the_loss_at_the_critic():
    u = torch.tensor([0.2, 1.0, 5.0], dtype=F64, requires_grad=True)
    found, exact = (torch.autograd.grad(loss.f(u).sum(), u)[0] for loss in (margin_loss(logistic.loss), logistic))
    torch.testing.assert_close(found, exact, atol=1e-7, rtol=0)
    torch.testing.assert_close(found, -torch.log1p(1 / u.detach()), atol=1e-7, rtol=0)


def dented(m):
    """Hinge with a dip at -3 that gradient descent from 0 does not find, deep enough to be the minimum."""
    return torch.relu(torch.relu(1 - m) - 3.9 * torch.exp(-20 * (m + 3) ** 2))


def test_the_minimum_is_global():
    """Against brute force, for losses that are not convex."""
    d = torch.linspace(-12, 12, 600_001, dtype=F64)
    u = torch.tensor([0.01, 0.3, 0.9, 1.0, 1.7], dtype=F64)
    for loss in (dented, lambda m: torch.sigmoid(-m), lambda m: 1 + torch.sin(3 * m) * torch.exp(-(m**2) / 8)):
        lowest = torch.stack([(v * loss(d) + loss(-d)).min() for v in u])
        torch.testing.assert_close(-margin_loss(loss).f(u), lowest, atol=2e-5, rtol=0)
    local = margin_loss(hinge.loss).f(u)  # the result of gradient descent from 0 for the dented loss
    assert float((margin_loss(dented).f(u) - local).max()) > 0.05


def test_what_is_no_margin_loss_is_refused():
    with pytest.raises(ValueError, match=r"at least 0, got -0.5 at margin 2.4"):
        margin_loss(lambda m: torch.exp(-m) - 0.5)
    with pytest.raises(ValueError, match="at least 0, got nan"):
        margin_loss(lambda m: m * math.nan)
    with pytest.raises(ValueError, match="with the shape"):
        margin_loss(lambda m: m.square().sum())
    with pytest.raises(ValueError, match=r"never increase, but f\(1.023\)"):
        check_f(lambda u: (u - 1) ** 2)
    with pytest.raises(ValueError, match=r"convex, but f\(.*\) lies"):
        check_f(lambda u: -(u**1.5))
    with pytest.raises(ValueError, match="convex"):  # a local minimisation: one basin of two
        check_f(lambda u: torch.where(u < 2, -u.clamp(max=1), -0.9 - 0.1 * u))
    with pytest.raises(ValueError, match="ratio must be at least 0, got -1"):
        logistic.f(torch.tensor([2.0, -1.0]))
    with pytest.raises(ValueError, match="ratio must be at least 0"):
        hinge.optimal(torch.tensor([math.nan]))


@pytest.mark.parametrize(
    "loss",
    [lambda m: (m <= 0).float(), lambda m: (m <= 0) * 1.0, lambda m: m <= 0, lambda m: (m <= 0).long()],
    ids=["float", "times 1", "bool", "long"],
)
def test_a_loss_of_any_dtype(loss):
    found = margin_loss(loss)
    torch.testing.assert_close(found.f(RATIOS), zero_one.f(RATIOS), atol=1e-13, rtol=0)
    assert found(torch.tensor([-1.0, 1.0], dtype=F64)).dtype == F64
    assert not found.trainable


def test_a_loss_in_single_precision_keeps_its_graph():
    found = margin_loss(lambda m: torch.exp(-m.float()))
    torch.testing.assert_close(found.f(RATIOS), exponential.f(RATIOS), atol=0, rtol=1e-6)
    assert found.trainable
    assert margin_loss(lambda m: torch.ones(m.shape)).f(RATIOS).tolist() == (-1 - RATIOS).tolist()


def test_of_several_minimisers_the_nearest_to_0_then_the_positive():
    def best(loss, *u):
        return margin_loss(loss).optimal(torch.tensor(u, dtype=F64)).tolist()

    def half(m):
        return torch.where(m == 0, 0.5, (m < 0).to(m))

    for loss in (lambda m: ((1 - m) / 2).clamp(0, 1), lambda m: torch.sigmoid(-m), half, hinge.loss):
        assert best(loss, 1.0) == [0]
    assert best(lambda m: 1 + torch.sin(m), 0.5, 1.0, 2.0) == pytest.approx([math.pi / 2, 0, -math.pi / 2], abs=1e-6)
    assert best(lambda m: (m.abs() - 1).square(), 0.3, 1.0, 7.0) == pytest.approx([1, 1, 1], abs=1e-6)  # not -1
    assert best(hinge.loss, 0.0, 0.5, 2.0) == pytest.approx([-1, -1, 1], abs=0.03)
    far = best(logistic.loss, 0.0, math.inf)  # an infimum at infinity
    assert -math.inf < far[0] < -20
    assert 20 < far[1] < math.inf


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_closed_forms_at_both_ends(dtype):
    """Values and slopes at 0 and infinity (the slope of logistic and exponential at 0 is infinite)."""
    ends = {
        "zero-one": ([0, -1], [-1, 0], [-1, 1]),
        "squared": ([0, -4], [-4, 0], [-1, 1]),
        "logistic": ([0, -math.inf], [None, 0], [-math.inf, math.inf]),
        "exponential": ([0, -math.inf], [None, 0], [-math.inf, math.inf]),
        "hinge": ([0, -2], [-2, 0], [-1, 1]),
    }
    for loss in LOSSES:
        values, slopes, critics = ends[loss.name]
        u = torch.tensor([0.0, math.inf], dtype=dtype, requires_grad=True)
        f = loss.f(u)
        assert f.tolist() == values, loss.name
        found = torch.autograd.grad(f.sum(), u)[0].tolist()
        assert all(a == b for a, b in zip(found, slopes, strict=True) if b is not None), loss.name
        assert loss.optimal(u).tolist() == critics, loss.name
    assert margin_loss(zero_one.loss).f(u).tolist() == [0, -1]


def test_ratios_may_be_numbers_and_whole():
    for loss in (*LOSSES, margin_loss(logistic.loss)):
        for of in (loss.f, loss.optimal):
            expected = of(torch.tensor([1.0, 2.0]))
            assert of(torch.tensor([1, 2])).tolist() == expected.tolist()
            assert [of(1).item(), of(2.0).item()] == expected.tolist()
    with pytest.raises(ValueError, match="ratio must be at least 0, got -1"):
        squared.f(-1)


def test_margins_may_be_numbers():
    for loss in LOSSES:
        assert [loss(0.5).item(), loss(1).item()] == loss(torch.tensor([0.5, 1.0])).tolist()


def test_a_loss_that_falls_beyond_the_grid_is_refused():
    """Its f would be wrong; a loss that is flat there, or decreases very slowly, is accepted."""
    with pytest.raises(ValueError, match=r"minima at margins up to 2\.43e\+08, but it decreases beyond"):
        margin_loss(lambda m: torch.relu(1 - m / 1e9))
    near = margin_loss(lambda m: torch.relu(1 - m / 1e7))
    assert near.f(torch.tensor([0.5, 1.0, 2.0])).tolist() == pytest.approx([-1, -2, -2], abs=1e-6)
    margin_loss(lambda m: 1 / (1 + torch.relu(m)))


WRONG = """
from torch.distributions import Independent, Normal
from jensen.adversarial import bayes_risk, divergence, margin_loss, r1, risk

p = Normal(0.0, 1.0)
for call in (
    lambda: margin_loss("hinge"),
    lambda: margin_loss(lambda m: 1.0),
    lambda: bayes_risk(lambda m: m.exp(), p, p),
    lambda: risk(lambda m: m.exp(), lambda x: x, p, p),
    lambda: divergence(lambda m: m.exp(), p, p),
    lambda: divergence("hellinger", p.sample((5,)), p),
    lambda: divergence("hellinger", Independent(p.expand((2,)), 1), Independent(p.expand((2,)), 1), samples=1e4),
    lambda: r1(lambda x: x[:, 0], p.sample((4, 2)), p.sample((4, 2))),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_wrong_types_are_refused_in_a_sentence():
    """In a separate process, in which the types of signatures are not checked."""
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, timeout=300, check=True)
    wrap = "must be a name or a margin loss, got a function: wrap it with margin_loss"
    assert done.stdout.splitlines() == [
        "a margin loss must be a function from margins to a tensor of their shape, got 'hinge'",
        "a margin loss must give a tensor with the shape of its margins, (2001,), got float",
        f"loss {wrap}",
        f"loss {wrap}",
        f"divergence {wrap}",
        "p must be a distribution, got Tensor: from samples, see critic_divergence",
        "samples must be a whole number of at least 4, got 10000.0",
        "gamma must be one number, got a tensor (4, 2): "
        "as the penalty of a game, pass lambda critic, real, fake: r1(critic, real, gamma)",
    ]

"""Kernel distance: brute force, torchmetrics, an exact expectation, and an error that is also valid at equality."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from jensen.metrics import kernel_distance


def test_it_is_torchmetrics_with_as_many_of_each():
    x, y = torch.randn(60, 10).double(), 0.5 + 1.5 * torch.randn(60, 10).double()
    assert kernel_distance(x, y).value == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_by_hand_with_more_of_one():
    x, y = torch.randn(9, 2).double(), torch.randn(5, 2).double() + 1
    k = lambda a, b: (float(a @ b) / 2 + 1) ** 3  # noqa: E731
    within = [
        sum(k(a, b) for i, a in enumerate(v) for j, b in enumerate(v) if i != j) / (len(v) * (len(v) - 1))
        for v in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / 45
    for chunk in (4, 1024):
        assert kernel_distance(x, y, chunk=chunk).value == pytest.approx(sum(within) - 2 * between, abs=1e-12)
        assert kernel_distance(y, x, chunk=chunk).value == pytest.approx(sum(within) - 2 * between, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 1.0])
def test_it_is_unbiased(shift):
    """Uniform on [-1, 1] and the same shifted, n = 60 and 90, 300 repetitions: the mean is the exact distance within
    4 standard errors.
    """
    z, _ = repeated(1, shift)
    assert float(z.mean()) == pytest.approx(uniform(1, shift), abs=4 * float(z.std()) / math.sqrt(300))
    assert shift == 1 or float(z.min()) < 0


@pytest.mark.parametrize(
    ("dims", "shift", "most"),
    [(1, 0.0, 3.0), (1, 0.15, 2.0), (1, 0.2, 1.75), (1, 1.0, 1.25), (20, 0.0, 1.5), (20, 0.1, 1.5)],
)
def test_two_errors_cover_at_equality_far_from_it_and_between(dims, shift, most):
    """300 repetitions: intervals of two standard errors contain the exact distance in at least 90 percent, 95 less 3
    standard errors of this share; and they are not wider than `most` standard deviations.
    """
    z, errors = repeated(dims, shift)
    assert float(((z - uniform(dims, shift)).abs() < 2 * errors).double().mean()) > 0.91
    assert 0.9 < float(errors.square().mean().sqrt() / z.std()) < most


def test_its_error_is_the_jackknifes_and_the_longer_arm_of_the_root():
    """n = 150 and 120, far from equality: the jackknife's variance J differs from that of the value by terms of
    order 1/n. The error is sqrt(J) + J / 2W, where W is the distance with the pairs of a row with itself: half the
    distance to the upper end of the interval sqrt(W) plus or minus two standard errors, squared.
    """
    rng = torch.Generator().manual_seed(0)
    x, y = 2 * torch.rand(150, 2, generator=rng).double(), 1 + torch.rand(120, 2, generator=rng).double()
    jackknife = 0.0
    for rows, value in ((x, lambda v: kernel_distance(v, y).value), (y, lambda v: kernel_distance(x, v).value)):
        found = [value(torch.cat([rows[:i], rows[i + 1 :]])) for i in range(len(rows))]
        jackknife += float(torch.tensor(found, dtype=torch.float64).var(correction=0)) * (len(rows) - 1)
    k = lambda a, b: float((a @ b.T / 2 + 1).pow(3).mean())  # noqa: E731
    whole = k(x, x) + k(y, y) - 2 * k(x, y)
    longer = ((math.sqrt(whole) + 2 * math.sqrt(jackknife / (4 * whole))) ** 2 - whole) / 2
    assert kernel_distance(x, y).stderr == pytest.approx(longer, rel=0.015)


def uniform(dims, shift):
    """The exact distance: E (x.y / d + 1)^3 for uniform distributions on [-1, 1]^d and the same shifted along (1,
    ..., 1).
    """
    total = 0.0
    for a, b, sign in ((0.0, 0.0, 1), (shift, shift, 1), (0.0, shift, -2)):
        one = [1.0, a * b, (a * a + 1 / 3) * (b * b + 1 / 3), (a**3 + a) * (b**3 + b)]  # E (x_1 y_1)^k
        second = dims * one[2] + dims * (dims - 1) * one[1] ** 2
        third = dims * one[3] + 3 * dims * (dims - 1) * one[2] * one[1]
        third += dims * (dims - 1) * (dims - 2) * one[1] ** 3
        total += sign * (1 + 3 * one[1] + 3 * second / dims**2 + third / dims**3)
    return total


def repeated(dims, shift):
    """Values and errors for 300 pairs of uniform samples, one of them shifted."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        x, y = (2 * torch.rand(n, dims, dtype=torch.float64, generator=rng) - 1 for n in (60, 90))
        found.append(kernel_distance(x, y + shift))
    return torch.tensor([f.value for f in found]), torch.tensor([f.stderr for f in found])


def test_degenerate_samples_have_numbers():
    for x, y in (
        (torch.ones(5, 3), torch.ones(4, 3)),
        (torch.zeros(5, 3), torch.randn(1, 3).repeat(8, 1)),
        (torch.randn(4, 50), torch.randn(3, 50)),
    ):
        found = kernel_distance(x, y)
        assert math.isfinite(found.value)
        assert 0 <= found.stderr < math.inf
    same = torch.ones(5, 3)
    assert (kernel_distance(same, same).value, kernel_distance(same, same).stderr) == (0, 0)


def test_refusals():
    with pytest.raises(ValueError, match="fake features must have at least 3 rows, got 2"):
        kernel_distance(torch.randn(5, 2), torch.randn(2, 2))
    with pytest.raises(ValueError, match="the same width, got 2 and 3"):
        kernel_distance(torch.randn(5, 2), torch.randn(5, 3))
    with pytest.raises(ValueError, match="real features must be floating-point, got uint8"):
        kernel_distance(torch.zeros(5, 2, dtype=torch.uint8), torch.randn(5, 2))

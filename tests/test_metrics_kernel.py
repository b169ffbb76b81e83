"""Kernel distance: brute force, torchmetrics, an exact expectation, and an error that holds at equality too."""

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
    """Uniform on [-1, 1] and the same shifted, n = 60 and 90, 300 times. The exact value is E (xx' + 1)^3 +
    E (yy' + 1)^3 - 2 E (xy + 1)^3 by the moments 1, m, m^2 + 1/3, m^3 + m; the mean is within 4 standard errors."""
    p, q = ([1, m, m * m + 1 / 3, m**3 + m] for m in (0.0, shift))
    between = lambda a, b: sum(math.comb(3, k) * a[k] * b[k] for k in range(4))  # noqa: E731
    z, _ = repeated(1, shift)
    exact = between(p, p) + between(q, q) - 2 * between(p, q)
    assert float(z.mean()) == pytest.approx(exact, abs=4 * float(z.std()) / math.sqrt(300))
    assert shift == 1 or float(z.min()) < 0


@pytest.mark.parametrize(("dims", "shift", "most"), [(1, 1.0, 1), (1, 0.0, 2), (20, 0.0, 1.1), (20, 0.05, 1.1)])
def test_its_error_far_from_equality_and_at_it(dims, shift, most):
    """300 times: the variance found over that of the values is 1, or up to `most` at equality, within 4 of its
    standard errors, by the fourth moment that is found."""
    z, variances = repeated(dims, shift)
    centred = (z - z.mean()) / z.std()
    ratio = variances.mean() / z.var()
    error = math.sqrt(float(centred.pow(4).mean() - 1 + (variances.std() / z.var()) ** 2) / 300)
    assert 1 - 4 * error < float(ratio) < most + 4 * error
    assert error < 0.21


def test_far_from_equality_its_error_is_the_jackknifes():
    """Each row left out in turn, n = 150 and 120: the two variances differ by terms of order 1/n."""
    rng = torch.Generator().manual_seed(0)
    x, y = 2 * torch.rand(150, 2, generator=rng).double(), 1 + torch.rand(120, 2, generator=rng).double()
    jackknife = 0.0
    for rows, value in ((x, lambda v: kernel_distance(v, y).value), (y, lambda v: kernel_distance(x, v).value)):
        found = [value(torch.cat([rows[:i], rows[i + 1 :]])) for i in range(len(rows))]
        jackknife += float(torch.tensor(found, dtype=torch.float64).var(correction=0)) * (len(rows) - 1)
    assert kernel_distance(x, y).stderr ** 2 == pytest.approx(jackknife, rel=0.03)


def repeated(dims, shift):
    """Values and squared errors of 300 pairs of uniform samples, one of them shifted."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        x, y = (2 * torch.rand(n, dims, dtype=torch.float64, generator=rng) - 1 for n in (60, 90))
        found.append(kernel_distance(x, y + shift))
    return torch.tensor([f.value for f in found]), torch.tensor([f.stderr**2 for f in found])


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
    with pytest.raises(ValueError, match="of one width, got 2 and 3"):
        kernel_distance(torch.randn(5, 2), torch.randn(5, 3))
    with pytest.raises(ValueError, match="real features must be floating-point, got uint8"):
        kernel_distance(torch.zeros(5, 2, dtype=torch.uint8), torch.randn(5, 2))

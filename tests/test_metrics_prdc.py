"""Precision, recall, density and coverage: the reference implementation, brute force, exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.metrics import expected_coverage, prdc, wilson
from prdc import compute_prdc


def by_brute_force(x, y, k):
    """From the definitions, one pair at a time."""
    d = lambda a, b: float((a - b).square().sum())  # noqa: E731
    radius = lambda rows, i: sorted(d(rows[i], r) for j, r in enumerate(rows) if j != i)[k - 1]  # noqa: E731
    ours, theirs = ([radius(rows, i) for i in range(len(rows))] for rows in (x, y))
    inside = [[d(a, b) < r for b in y] for a, r in zip(x, ours, strict=True)]
    recalled = [any(d(a, b) < r for b, r in zip(y, theirs, strict=True)) for a in x]
    return (
        sum(any(row[j] for row in inside) for j in range(len(y))) / len(y),
        sum(recalled) / len(x),
        sum(map(sum, inside)) / (k * len(y)),
        sum(map(any, inside)) / len(x),
    )


def four(found):
    return found.precision, found.recall, found.density, found.coverage


@pytest.mark.parametrize(("n", "m", "d", "k"), [(300, 200, 16, 5), (80, 150, 64, 1), (40, 40, 2, 9)])
def test_it_is_the_reference_implementation(n, m, d, k, capsys):
    x, y = torch.randn(n, d).double(), 0.3 + 0.9 * torch.randn(m, d).double()
    theirs = compute_prdc(x.numpy(), y.numpy(), nearest_k=k)
    for chunk in (7, 256):
        found = prdc(x, y, k, chunk=chunk)
        assert four(found) == pytest.approx(tuple(theirs[n] for n in ("precision", "recall", "density", "coverage")))
    assert (found.real, found.fake, found.k) == (n, m, k)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_ties_are_decided_exactly(offset):
    """Grid points, some of them repeated, far from the origin: many distances equal radii."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(5, (60, 2), generator=rng).double() + offset
    y = torch.randint(5, (50, 2), generator=rng).double() + offset
    for k in (1, 4):
        assert four(prdc(x, y, k, chunk=16)) == pytest.approx(by_brute_force(x, y, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ties_are_the_published_packages(k, capsys):
    """Integers with many repeated rows: a row at distance equal to the radius is outside, as in the package."""
    rng = torch.Generator().manual_seed(k)
    x, y = (torch.randint(4, (n, 3), generator=rng).double() for n in (90, 70))
    theirs = compute_prdc(x.numpy(), y.numpy(), nearest_k=k)
    assert four(prdc(x, y, k)) == pytest.approx(
        tuple(theirs[n] for n in ("precision", "recall", "density", "coverage"))
    )


def test_a_copy_of_the_data():
    """Each ball contains its centre and the k - 1 rows that are strictly nearer than the k-th: density is 1."""
    x = torch.randn(200, 30) * 100
    assert four(prdc(x, x.clone(), 5)) == (1.0, 1.0, 1.0, 1.0)


def test_real_against_real():
    """N = 60, M = 40, k = 3, 400 repetitions, in float32: the means of coverage and density equal their expectations
    within 4 standard errors, and the mean stated error of density equals its standard deviation over fake rows.
    """
    rng = torch.Generator().manual_seed(1)
    found = [prdc(torch.randn(60, 2, generator=rng), torch.randn(40, 2, generator=rng), 3) for _ in range(400)]
    for values, exact in (
        ([f.coverage for f in found], 1 - 59 * 58 * 57 / (99 * 98 * 97)),
        ([f.density for f in found], 1.0),
    ):
        z = torch.tensor(values)
        assert float(z.mean()) == pytest.approx(exact, abs=4 * float(z.std()) / 20)
    assert expected_coverage(60, 40, 3) == pytest.approx(1 - 59 * 58 * 57 / (99 * 98 * 97), abs=1e-14)
    x = torch.randn(60, 2, generator=rng)
    again = [prdc(x, torch.randn(40, 2, generator=rng), 3) for _ in range(400)]
    spread = torch.tensor([f.density for f in again]).var() / torch.tensor([f.density_stderr**2 for f in again]).mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 399))


def test_what_is_missed_and_what_is_made_up():
    """Half of the modes: full precision, half coverage. The data plus the same number of rows elsewhere: full
    coverage, half precision.
    """
    rng = torch.Generator().manual_seed(0)
    left, right = (torch.randn(300, 2, generator=rng) + at for at in (0.0, 100.0))
    half = prdc(torch.cat([left, right]), torch.randn(300, 2, generator=rng), 5)
    assert half.coverage == pytest.approx(half.recall, abs=0.05)
    assert half.recall < 0.51
    assert half.precision > 0.9
    more = prdc(left, torch.cat([torch.randn(300, 2, generator=rng), right]), 5)
    assert more.precision < 0.51
    assert more.coverage > 0.9
    assert half.precision_interval == wilson(round(half.precision * 300), 300)
    assert half.recall_interval.n == half.coverage_interval.n == 600


def test_degenerate_samples_have_numbers():
    same = torch.ones(9, 4)
    assert four(prdc(same, same)) == (0, 0, 0, 0)  # no row is strictly inside a ball of radius 0
    assert four(prdc(torch.randn(7, 100), torch.randn(6, 100)))[0] >= 0
    assert four(prdc(same, torch.randn(9, 4))) == pytest.approx(by_brute_force(same, torch.randn(9, 4), 5), abs=1)


def test_refusals():
    x = torch.randn(10, 2)
    for k in (0, 10):
        with pytest.raises(ValueError, match=f"below the numbers of rows, got k = {k} of 10 and 12"):
            prdc(x, torch.randn(12, 2), k)
    with pytest.raises(ValueError, match="the same width, got 2 and 3"):
        prdc(x, torch.randn(10, 3))
    with pytest.raises(ValueError, match="fake features must be floating-point, got bool"):
        prdc(x, torch.ones(10, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="k must be at least 1"):
        expected_coverage(10, 10, 0)

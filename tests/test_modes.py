"""Recovered modes, against counts by hand and exact expectations."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from jensen.metrics import class_coverage, mode_coverage, wilson

GRID = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) * 2 - 4
RING = 2 * torch.stack([torch.cos(torch.arange(8) * math.pi / 4), torch.sin(torch.arange(8) * math.pi / 4)], 1)


def drawn(modes, n, std, weights=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(modes)) if weights is None else weights
    k = torch.multinomial(weights, n, replacement=True, generator=rng)
    return modes[k] + std * torch.randn(n, modes.shape[1], generator=rng)


def test_by_hand():
    """Mode 0 has 3 near samples, mode 1 one just inside 3 std, mode 2 only one outside: assigned but not recovered."""
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    samples = torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.2, -0.2], [10.0, 0.299], [0.3, 10.01]])
    found = mode_coverage(samples, modes, std=0.1)
    assert (found.recovered, found.of, found.n, found.high_quality) == (2, 4, 5, 0.8)
    shares = [0.6, 0.2, 0.2]
    assert found.reverse_kl == pytest.approx(sum(s * math.log(s / 0.25) for s in shares), abs=1e-12)
    assert found.high_quality_interval == wilson(4, 5)
    weighed = mode_coverage(samples, modes, 0.1, weights=torch.tensor([6.0, 2.0, 2.0, 10.0]))
    assert weighed.reverse_kl == pytest.approx(
        sum(s * math.log(s / w) for s, w in zip(shares, (0.3, 0.1, 0.1), strict=True))
    )


def test_within_three_deviations_in_every_direction():
    """Distance is Euclidean: (2.5, 2.5) std is too far, although neither coordinate is."""
    modes = torch.zeros(1, 2)
    assert mode_coverage(torch.tensor([[2.5, 2.5]]), modes, 1.0).high_quality == 0
    assert mode_coverage(torch.tensor([[2.1, 2.1]]), modes, 1.0).high_quality == 1


def test_modes_of_different_widths():
    """A narrow mode beside a wide one, four samples. One, 2 std from the narrow mode, belongs to it although it is
    fewer std from the wide one. One, 10 std from the narrow mode, belongs to the wide one although it is closer to
    the narrow one. Two more belong to the wide mode, one within 3 std of it and one not.
    """
    modes, std = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), [0.1, 2.0]
    samples = torch.tensor([[0.0, 0.2], [0.0, 1.0], [-2.9, 0.0], [-3.1, 0.0]])
    found = mode_coverage(samples, modes, std)
    assert (found.recovered, found.high_quality) == (2, 0.75)
    assert found.reverse_kl == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5), abs=1e-12)
    assert mode_coverage(samples, modes, torch.tensor([0.1, 0.1])) == mode_coverage(samples, modes, 0.1)
    for bad, words in (([0.1, 0.0], "std must be positive"), ([0.1], r"one for each of 2 modes, got \(1,\)")):
        with pytest.raises(ValueError, match=words):
            mode_coverage(samples, modes, bad)
    with pytest.raises(ValueError, match="integers, at least one, got float32"):
        class_coverage(torch.zeros(3), 2)


@pytest.mark.parametrize("modes", [RING, GRID], ids=["ring", "grid"])
@pytest.mark.parametrize("balanced", [True, False])
def test_the_data_themselves(modes, balanced):
    """n = 20,000: the share 1 - exp(-9/2) within 4 standard errors, all modes, and reverse KL near its floor: 2 n KL
    is chi-squared with K - 1 degrees of freedom, within 4 of its standard deviations.
    """
    n, k = 20_000, len(modes)
    weights = None if balanced else torch.arange(1.0, k + 1)
    found = mode_coverage(drawn(modes, n, 0.05, weights), modes, 0.05, weights)
    share = 1 - math.exp(-4.5)
    assert found.recovered == found.of == k
    assert found.high_quality == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))
    assert found.floor == pytest.approx((k - 1) / (2 * n), rel=0.05)
    assert abs(2 * n * (found.reverse_kl - found.floor)) < 4 * math.sqrt(2 * (k - 1))


def test_unbalanced_shares_are_seen():
    """Uniform samples for unequal weights and vice versa: the KL between the two, n = 40,000."""
    weights = torch.tensor([0.5, 0.3, 0.1, 0.1])
    modes, even = torch.arange(4.0)[:, None] * 10, torch.full((4,), 0.25)
    for drawn_by, judged_by in ((even, weights), (weights, even)):
        found = mode_coverage(drawn(modes, 40_000, 0.1, drawn_by), modes, 0.1, judged_by)
        exact = float((drawn_by * (drawn_by / judged_by).log()).sum())
        deviation = float((drawn_by * (drawn_by / judged_by).log().square()).sum() - exact**2) ** 0.5
        assert found.reverse_kl == pytest.approx(exact, abs=4 * deviation / 200 + found.floor)


def test_collapse():
    found = mode_coverage(GRID[7].expand(500, 2), GRID, 0.05)
    assert (found.recovered, found.high_quality) == (1, 1.0)
    assert found.reverse_kl == pytest.approx(math.log(25))


def test_the_floor_is_the_mean_over_every_outcome():
    """All 3^4 sequences of 4 draws with unequal weights, each with its probability; and by simulation of 25 modes."""
    w = torch.tensor([0.6, 0.3, 0.1])
    exact = 0.0
    for outcome in product(range(3), repeat=4):
        chance = math.prod(w[k].item() for k in outcome)
        exact += chance * class_coverage(torch.tensor(outcome), 3, w).reverse_kl
    assert class_coverage(torch.tensor([0, 1, 2, 0]), 3, w).floor == pytest.approx(exact, abs=1e-7)
    rng = torch.Generator().manual_seed(1)
    runs = torch.tensor([class_coverage(torch.randint(25, (100,), generator=rng), 25).reverse_kl for _ in range(300)])
    floor = class_coverage(torch.zeros(100, dtype=torch.long), 25).floor
    assert runs.mean().item() == pytest.approx(floor, abs=4 * runs.std().item() / math.sqrt(300))


def test_a_thousand_classes():
    labels = torch.arange(1000).repeat(3)
    full = class_coverage(labels, 1000)
    assert (full.recovered, full.of, full.n) == (1000, 1000, 3000)
    assert full.reverse_kl == pytest.approx(0, abs=1e-12)
    half = class_coverage(labels[labels < 500], 1000)
    assert (half.recovered, half.reverse_kl) == (500, pytest.approx(math.log(2)))


def test_whole_numbers_are_no_grid_for_the_modes():
    modes, samples = torch.tensor([[0.5, 0.0], [10.0, 0.0]]), torch.tensor([[0, 0], [10, 0]])
    assert mode_coverage(samples, modes, 0.1) == mode_coverage(samples.double(), modes, 0.1)
    assert mode_coverage(samples, modes, 0.1).recovered == 1


def test_what_does_not_fit_is_refused():
    modes = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"must agree and N and K be at least 1, got \(4, 3\) and \(3, 2\)"):
        mode_coverage(torch.zeros(4, 3), modes, 1.0)
    with pytest.raises(ValueError, match="N and K be at least 1"):
        mode_coverage(torch.zeros(0, 2), modes, 1.0)
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        mode_coverage(torch.zeros(4, 2), modes, 0.0)
    with pytest.raises(ValueError, match="samples must be finite"):
        mode_coverage(torch.full((4, 2), math.nan), modes, 1.0)
    with pytest.raises(ValueError, match="modes must be finite"):
        mode_coverage(torch.zeros(4, 2), modes / 0, 1.0)
    with pytest.raises(ValueError, match=r"N and K be at least 1, got \(4, 2\) and \(0, 2\)"):
        mode_coverage(torch.zeros(4, 2), modes[:0], 1.0)
    for weights in (torch.ones(2), torch.tensor([1.0, 0.0, 1.0]), [1.0, math.inf, 1.0]):
        with pytest.raises(ValueError, match="weights must be 3 positive numbers"):
            mode_coverage(torch.zeros(4, 2), modes, 1.0, weights)
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got 0 to 3"):
        class_coverage(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="integers, at least one"):
        class_coverage(torch.zeros(0, dtype=torch.long), 3)

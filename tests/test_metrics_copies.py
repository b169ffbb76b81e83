"""Copies: nearest training data for data at any distance from the origin, and whether samples are nearer than fresh
data.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import mannwhitneyu

from jensen.core.seeding import generator
from jensen.metrics import mean_pairwise_distance, memorisation, nearest_distance

# the nearest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "offset"), [(2, 0.0), (2, 1e4), (64, 0.0), (64, 1e4), (64, -1e6)])
def test_copies_are_found_wherever_the_data_lie(dims, offset):
    """All 500 float32 rows of N(offset, 1) are found at distance exactly 0; rows moved by one unit in the last place
    are found at that distance.
    """
    x = offset + torch.randn(500, dims, generator=generator(0))
    distance, index = nearest_distance(x, x, chunk=128)
    assert torch.equal(index, torch.arange(500))
    assert not bool(distance.any())
    moved = x.clone()
    moved[:250, 0] = torch.nextafter(moved[:250, 0], torch.tensor(math.inf))
    distance, index = nearest_distance(moved, x)
    assert torch.equal(index, torch.arange(500))
    step = ((moved - x).double().square().mean(1).sqrt()).float()
    torch.testing.assert_close(distance, step, rtol=1e-6, atol=0)


def test_the_nearest_is_that_of_brute_force_across_clusters_far_apart():
    """Clusters at 0, 1e6 and 1e9 with standard deviation 1, 40 numbers per row, float64: against all pairwise
    differences.
    """
    at = torch.tensor([0.0, 1e6, 1e9], dtype=torch.float64).repeat(30)[:, None]
    y, x = (at + torch.randn(90, 40, dtype=torch.float64, generator=generator(k)) for k in range(2))
    exact = (x[:, None] - y).square().mean(2).sqrt().min(1)
    distance, index = nearest_distance(x, y, chunk=37)
    assert torch.equal(index, exact.indices)
    torch.testing.assert_close(distance, exact.values, rtol=1e-12, atol=0)


def test_whole_numbers_are_not_cut_off():
    x, y = torch.tensor([[0, 3], [255, 1]]), torch.tensor([[0, 0], [255, 2]])
    for kind in (torch.uint8, torch.int16, torch.long):
        distance, index = nearest_distance(x.to(kind), y.to(kind))
        assert index.tolist() == [0, 1]
        assert distance.tolist() == pytest.approx([3 / math.sqrt(2), 1 / math.sqrt(2)], rel=1e-6)
    assert mean_pairwise_distance(torch.tensor([[[0], [255]]], dtype=torch.uint8)).tolist() == [255]
    assert mean_pairwise_distance(torch.tensor([[0.0, 3.0]])).tolist() == [3]
    assert nearest_distance(torch.tensor([0.0, 5.0]), torch.tensor([1.0]))[0].tolist() == [1, 4]


def test_what_has_no_distance_is_refused():
    x = torch.zeros(3, 2)
    for refs, words in (
        (torch.zeros(0, 2), r"at least one of shape \(2,\), not empty, got shape \(0, 2\)"),
        (torch.zeros(3), r"of shape \(2,\), not empty, got shape \(3,\)"),
        (x / 0, "references must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            nearest_distance(x, refs)
    with pytest.raises(ValueError, match="not empty, got shape"):
        nearest_distance(torch.zeros(3, 0), torch.zeros(3, 0))
    for groups, words in ((torch.zeros(2, 1, 3), "M at least 2"), (torch.full((1, 2, 1), math.nan), "must be finite")):
        with pytest.raises(ValueError, match=words):
            mean_pairwise_distance(groups)


# nearer than fresh data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_exact_copies_are_all_copies(offset):
    """Copies of 1e4 + N(0, 1) in 64 dimensions, float32; and of bytes."""
    train, fresh = offset + torch.randn(2, 300, 64, generator=generator(0))
    found = memorisation(train[:100], train, fresh)
    assert (found.nearer, found.copied.value, found.drawn) == (1, 1, 0)
    train, fresh = torch.randint(256, (2, 200, 64), generator=generator(1)).to(torch.uint8)
    found = memorisation(train[:100], train, fresh)
    assert (found.nearer, found.copied.value, found.drawn) == (1, 1, 0)
    assert abs(memorisation(fresh[:100], train, fresh[100:]).nearer - 0.5) < 0.2


def test_concentrated_samples_are_nearer_without_a_copy():
    train, fresh, samples = torch.randn(3, 300, 4, generator=generator(2))
    found = memorisation(samples / 2, train, fresh)
    assert found.nearer - 4 * found.stderr > 0.5
    assert found.drawn > 0.1


def test_an_overfitted_model_is_found_and_a_good_one_is_not():
    """A kernel density estimate 100 times too narrow is detected; for new data of the same distribution the share of
    samples that are nearer to the training data than fresh data is 1/2 within 4 standard errors; a distribution twice
    as wide is farther away than fresh data.
    """
    rng = generator(0)
    training, fresh, good = torch.randn(3, 400, 4, generator=rng)
    chosen = training[torch.randint(400, (400,), generator=rng)]
    overfitted = chosen + 0.01 * torch.randn(400, 4, generator=rng)
    found = memorisation(overfitted, training, fresh)
    assert found.nearer > 0.98
    assert found.p_value < 1e-12
    assert found.copied.low > 0.9
    assert found.drawn < 0.1 * found.fresh
    fair = memorisation(good, training, fresh)
    assert abs(fair.nearer - 0.5) < 4 * fair.stderr
    assert fair.p_value > 1e-3
    assert fair.copied.low < 0.05 < fair.copied.high
    assert memorisation(2 * good, training, fresh).p_value > 0.999


def test_it_is_mann_and_whitneys():
    training, fresh, samples = torch.zeros(1, 1), torch.randn(50, 1).double(), 0.8 * torch.randn(70, 1).double()
    samples[:20] = fresh[:20]  # ties
    found = memorisation(samples, training.double(), fresh)
    theirs = mannwhitneyu(fresh.abs().flatten().numpy(), samples.abs().flatten().numpy())
    assert found.nearer == pytest.approx(theirs.statistic / (50 * 70), abs=1e-12)


def test_its_error_is_that_of_repetition():
    """200 repetitions, n = 60 and m = 40, with fixed training data: the variance over the stated variance is 1
    within 4 standard errors.
    """
    rng = generator(2)
    training = torch.randn(100, 2, generator=rng)
    found = [
        memorisation(1.3 * torch.randn(60, 2, generator=rng), training, torch.randn(40, 2, generator=rng))
        for _ in range(200)
    ]
    spread = torch.tensor([f.nearer for f in found]).var() / torch.tensor([f.stderr**2 for f in found]).mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 199))


def test_copies_and_constants_have_numbers():
    training, fresh = torch.randn(30, 2), torch.randn(30, 2)
    exact = memorisation(training, training, fresh)
    assert (exact.nearer, exact.stderr, exact.drawn) == (1.0, 0.0, 0.0)
    # Newcombe: (1 - t)^2 = z^2 t (1 - t) (1 + 29 (1 - t) / (2 - t) + 29 t / (1 + t)) / 900
    low, z = exact.interval.low, 1.959963984540054
    variance = low * (1 - low) * (1 + 29 * (1 - low) / (2 - low) + 29 * low / (1 + low)) / 900
    assert 1 - low == pytest.approx(z * math.sqrt(variance), rel=1e-9)
    assert exact.interval.high == 1 > low > 0.8
    assert exact.p_value < 1e-12
    same = memorisation(torch.ones(5, 2), torch.ones(5, 2), torch.ones(20, 2))
    assert (same.nearer, same.p_value) == (0.5, 1)
    with pytest.raises(ValueError, match=r"fresh data at least 20, got shapes \(30, 2\) and \(19, 2\)"):
        memorisation(training, training, fresh[:19])
    with pytest.raises(ValueError, match="fresh data must be finite"):
        memorisation(training, training, fresh * math.inf)

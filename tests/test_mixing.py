"""Whether chains have mixed: ArviZ, autoregressions with known effective sample size, and stuck chains."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.score import effective_sample_size, mean_error, r_hat

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=rng(seed))


def autoregressive(rho, steps, chains, seed=0):
    """x' = rho x + sqrt(1 - rho^2) n, stationary, with variance 1."""
    noise = randn(steps, chains, seed=seed)
    x = [noise[0]]
    for n in noise[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * n)
    return torch.stack(x)


@pytest.mark.parametrize("kind", ["bulk", "mean"])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(rho, kind):
    """N (1 - rho) / (1 + rho): the mean of 24 runs with four chains of 2,000 steps is within 4 standard errors, plus
    2% for truncating the sum.
    """
    x = autoregressive(rho, 2000, 4 * 24).view(2000, 24, 4).transpose(1, 2)
    sizes = effective_sample_size(x, kind)
    exact = 8000 * (1 - rho) / (1 + rho)
    assert sizes.shape == (24,)
    assert sizes.mean().item() == pytest.approx(exact, abs=4 * sizes.std().item() / 24**0.5 + 0.02 * exact)
    error = mean_error(x)
    torch.testing.assert_close(error, x.flatten(0, 1).std(0) / effective_sample_size(x, "mean").sqrt())


def fixed_draws():
    """101 steps of three autocorrelated chains with two coordinates, rounded so that ties occur; from an explicit
    generator (Park & Miller 1988), so that they are the same on all platforms.
    """
    state, noise = 1, []
    for _ in range(101 * 6):
        state = 16807 * state % (2**31 - 1)
        noise.append(state / 2**31 - 0.5)
    noise = torch.tensor(noise, dtype=F64).view(101, 3, 2)
    x = [noise[0]]
    for n in noise[1:]:
        x.append(0.4 * x[-1] + n)
    return (torch.stack(x) * 20).round() / 20


def test_diagnostics_are_those_of_arviz():
    """Values of arviz 0.23.4 (rhat; ess bulk, tail, mean; mcse) on the same draws, to 1e-8."""
    x = fixed_draws()
    expected = {
        "r_hat": [1.0126282652045575, 1.0353456818351934],
        "mcse": [0.025667264733920444, 0.026065154662222506],
        "bulk": [133.57047882580167, 136.24829826679937],
        "tail": [179.84203064875433, 189.02057849564093],
        "mean": [135.6490781381079, 139.73779484902866],
    }
    found = {"r_hat": r_hat(x), "mcse": mean_error(x)}
    found |= {kind: effective_sample_size(x, kind) for kind in ("bulk", "tail", "mean")}
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values, rel=1e-8), name


def test_r_hat_sees_chains_in_different_places_and_of_different_spread():
    """1 if chains agree; above 1 if a chain has another mean or another width, or drifts."""
    x = randn(1000, 4)
    assert r_hat(x).item() == pytest.approx(1, abs=0.005)
    assert r_hat(x + torch.tensor([0.0, 0.0, 0.0, 1.0])) > 1.05
    assert r_hat(x * torch.tensor([1.0, 1.0, 1.0, 3.0])) > 1.05  # equal means: detected only by the folded draws
    assert (
        r_hat(x + torch.linspace(0, 2, 1000, dtype=F64)[:, None]) > 1.05
    )  # equal chains: detected only by their halves
    heavy = (torch.pi * (torch.rand(1000, 4, dtype=F64, generator=rng(7)) - 0.5)).tan()
    assert r_hat(heavy).item() == pytest.approx(1, abs=0.01)  # Cauchy: only ranks have finite moments
    assert r_hat(heavy + torch.tensor([0.0, 0.0, 0.0, 3.0])) > 1.05


def test_diagnostics_of_each_coordinate_and_of_constants():
    x = randn(50, 3, 2, 2)
    for f in (r_hat, effective_sample_size, mean_error, lambda x: effective_sample_size(x, "tail")):
        torch.testing.assert_close(f(x)[1, 0], f(x[:, :, 1, 0]))
    assert effective_sample_size(torch.ones(10, 2)).item() == 20
    assert effective_sample_size(torch.arange(8.0)[:, None].expand(8, 2)).item() > 0
    assert r_hat(x.float()).dtype == torch.float32


def test_refusals_of_the_diagnostics():
    for bad in (torch.zeros(3, 2), torch.zeros(10), torch.zeros(9, 0), torch.zeros(9, 2, dtype=torch.cfloat)):
        for f in (r_hat, effective_sample_size):
            with pytest.raises(ValueError, match="at least 4 steps"):
                f(bad)
    with pytest.raises(ValueError, match="bulk, tail or mean, got 'median'"):
        effective_sample_size(torch.zeros(9, 2), "median")
    with pytest.raises(ValueError, match="draws must be finite"):
        r_hat(torch.full((9, 2), math.nan))


def test_whole_numbers_are_not_cut_off():
    """Integer draws from 0 to 9, one chain 2 higher: equal to the result for the same numbers in float64, not 1."""
    draws = torch.randint(10, (100, 4), generator=rng(3)) + torch.tensor([0, 0, 0, 2])
    exact = draws.double()
    assert 1.02 < r_hat(exact).item() < 1.5
    for kind in (torch.long, torch.uint8):
        assert torch.equal(r_hat(draws.to(kind)), r_hat(exact))
        assert torch.equal(mean_error(draws.to(kind)), mean_error(exact))
        for size in ("bulk", "tail", "mean"):
            assert torch.equal(effective_sample_size(draws.to(kind), size), effective_sample_size(exact, size))
    assert r_hat(exact.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("places", [(0.0, 1.0), (0.1, 0.1, 0.3), (0.1, 0.7, 0.9, 0.9)])
def test_chains_stuck_in_different_places_have_not_mixed_at_all(places):
    """W = 0 < B: R-hat is infinite, and the effective number of draws is at most that of the 2 C perfectly
    correlated half-chains.
    """
    draws = torch.tensor(places, dtype=F64).expand(50, len(places))
    assert r_hat(draws).item() == math.inf
    both = torch.stack([draws, torch.full_like(draws, 0.1)], 2)
    assert r_hat(both).isnan().tolist() == [False, True]
    for kind in ("bulk", "mean"):
        assert effective_sample_size(draws, kind).item() <= 2 * len(places) + 1


def test_draws_whose_distances_to_the_median_are_all_alike_are_judged_by_their_places():
    half = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(50, 2)  # median 0
    assert r_hat(half).item() == pytest.approx(math.sqrt(49 / 50), abs=1e-6)

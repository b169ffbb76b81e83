"""Langevin dynamics against exact answers: stationary distributions, acceptance, passage times."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from jensen.core.seeding import generators
from jensen.diffusion import AnnealedLangevin, MixtureOracle, VarianceExploding, integrate, time_grid
from jensen.score import (
    annealed_langevin,
    basin,
    exit_times,
    first_passage_time,
    geometric,
    kramers_time,
    langevin,
    mala,
    mean_exit_time,
    occupancy,
    score_of,
    tweedie,
    two_modes,
)

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=rng(seed))


def normal_log_prob(x):
    return -x.square().flatten(1).sum(1) / 2


def pair(left, right, s, w):
    """log of an equal mixture of N(left, s^2) and N(right, w^2) on the line."""
    both = torch.distributions.Normal(torch.tensor([left, right], dtype=F64), torch.tensor([s, w], dtype=F64))
    return lambda x: both.log_prob(x).logsumexp(1) - math.log(2)


# moves -----------------------------------------------------------------------------------


def test_adjusted_langevin_leaves_a_skew_law_as_it_is():
    """x = log of a Gamma(3) draw in two dimensions, with large steps: mean and variance remain digamma(3) and
    trigamma(3). n = 40,000, 50 steps, 4 standard errors (with the fourth moment of the draws).
    """
    n = 40_000
    x = torch.distributions.Gamma(torch.tensor(3.0, dtype=F64), 1.0).sample((n, 2)).log()
    chains = mala(lambda x: (3 * x - x.exp()).sum(1), x, 0.4, 50, generator=rng(2))
    three = torch.tensor(3.0, dtype=F64)
    mean, variance = torch.digamma(three).item(), torch.polygamma(1, three).item()
    assert 0.3 < chains.acceptance.mean() < 0.9
    for column in chains.x.T:
        assert column.mean().item() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
        square = (column - mean) ** 2
        assert square.mean().item() == pytest.approx(variance, abs=4 * square.std().item() / n**0.5)


@pytest.mark.parametrize("target", [0.574, 0.8])
@pytest.mark.parametrize("start", [1e-3, 30.0])
def test_steps_adapt_to_the_share_to_be_accepted(start, target):
    """Eight dimensions with two scales, 300 chains, initial steps far too small and far too large: the mean
    acceptance rate is within 0.02 of its target after 200 moves, and all chains have the same step size.
    """
    scale = torch.tensor([1.0] * 4 + [2.0] * 4, dtype=F64)
    x = scale * randn(300, 8)
    chains = mala(lambda x: normal_log_prob(x / scale), x, start, 200, warmup=200, target=target, generator=rng(3))
    assert chains.acceptance.mean().item() == pytest.approx(target, abs=0.02)
    assert chains.step_size.std() < 0.15 * chains.step_size.mean()


def test_adaptation_ends_with_the_warm_up():
    """A run that is stopped one step after the warm-up and continued with its step sizes equals the uninterrupted
    run.
    """
    x, one, two = randn(6, 2), rng(4), rng(4)
    kept = []
    whole = mala(normal_log_prob, x, 0.1, 40, warmup=30, generator=one, on_step=lambda k, x: kept.append((k, x)))
    first = mala(normal_log_prob, x, 0.1, 1, warmup=30, generator=two)
    rest = mala(normal_log_prob, first.x, first.step_size, 39, generator=two)
    assert [k for k, _ in kept] == list(range(1, 41))
    assert torch.equal(kept[0][1], first.x)
    assert torch.equal(rest.x, whole.x)
    assert torch.equal(kept[-1][1], whole.x)
    torch.testing.assert_close(whole.acceptance * 40, first.acceptance + 39 * rest.acceptance)
    assert not torch.allclose(first.step_size, torch.tensor(0.1, dtype=F64))


def test_proposals_outside_the_support_are_refused():
    """An exponential distribution: chains stay positive and keep mean 1. n = 20,000, 5 standard errors."""
    n = 20_000
    x = torch.distributions.Exponential(torch.tensor(1.0, dtype=F64)).sample((n, 1))
    law = mala(lambda x: torch.where(x > 0, -x, -math.inf)[:, 0], x, 0.5, 30, generator=rng(5))
    assert bool((law.x > 0).all())
    assert law.x.mean().item() == pytest.approx(1, abs=5 / n**0.5)


def test_rows_are_chains_of_their_own():
    x = randn(4, 2)
    score = score_of(normal_log_prob)
    for run in (
        lambda x, g: langevin(score, x, 0.1, 9, generator=g),
        lambda x, g: mala(normal_log_prob, x, 0.1, 9, warmup=9, generator=g).x,
        lambda x, g: annealed_langevin(
            lambda x, s: -x / (1 + s[:, None] ** 2), x, geometric(2.0, 1.0, 3), 0.1, 3, generator=g
        ),
    ):
        together, alone = run(x, generators(0, range(4))), run(x[2:3], generators(0, range(4))[2:3])
        torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=1e-12)
        assert not torch.equal(together, run(x, generators(1, range(4))))


def test_annealed_langevin_is_that_of_the_denoisers():
    """For the mixture oracle, with the noise levels of the variance-exploding schedule and the same noise: equal to
    1e-9.
    """
    schedule = VarianceExploding(0.05, 20.0)
    oracle = MixtureOracle([0.3, 0.7], [[-1.2, 0.4], [0.8, -0.6]], [[0.3, 0.5], [0.4, 0.2]], schedule)
    times = time_grid("log_snr", 12, schedule)
    theirs = integrate(AnnealedLangevin(5, step_size=0.2), oracle, 20 * randn(7, 2), times, generator=rng(6))
    sigmas = schedule.alpha_sigma(times[1:])[1]

    def score(x, sigma):
        return oracle(x, schedule.time(-2 * sigma.log())).score

    seen = []
    ours = annealed_langevin(
        score, 20 * randn(7, 2), sigmas, 0.2, 5, generator=rng(6), on_step=lambda k, x: seen.append(k)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert seen == list(range(1, 61))
    torch.testing.assert_close(geometric(20.0, 0.05, 13)[1:], sigmas)
    noised = oracle(ours, times[-1:].expand(7))
    torch.testing.assert_close(tweedie(lambda x: noised.score, ours, 0.05), noised.x)


# without noise ---------------------------------------------------------------------------


def test_it_climbs_in_x_where_maximum_likelihood_climbs_in_the_parameters():
    """One function ascends log p(x; m) of a mixture with means m. In x with fixed m it reaches a mode of p,
    independent of the data. In m with fixed data it reaches means that fit the data, a fixed point of EM; the
    likelihood increases, and x does not change.
    """
    deviation = torch.tensor([0.5, 0.8], dtype=F64)

    def log_density(x, means):
        """The log densities (B, N) of x (B, N) or (N,) under means (B, 2)."""
        z = (x[..., None] - means[:, None]) / deviation
        return (-z.square() / 2 - deviation.log()).logsumexp(-1)

    true = torch.tensor([[-1.5, 1.5]], dtype=F64)
    data = torch.cat([-1.5 + 0.5 * randn(300), 1.5 + 0.8 * randn(300, seed=1)])

    means = torch.tensor([[-1.0, 0.5]], dtype=F64)
    in_x = score_of(lambda x: log_density(x, means)[:, 0])
    modes = langevin(in_x, data[:50, None], 0.05, 2000, noise=False)
    assert float(in_x(modes).abs().max()) < 1e-10  # modes of p(. ; m), not of the data

    in_means = score_of(lambda m: log_density(data, m).mean(1))
    fitted = langevin(in_means, means, 0.5, 2000, noise=False)
    z = (data[:, None] - fitted) / deviation
    share = torch.softmax(-z.square() / 2 - deviation.log(), 1)
    em = (share * data[:, None]).sum(0) / share.sum(0)
    torch.testing.assert_close(fitted[0], em, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(fitted, true, rtol=0, atol=5 * 0.8 / 300**0.5)
    assert log_density(data, fitted).mean() > log_density(data, true).mean() > log_density(data, means).mean()
    assert float((modes - fitted[0]).abs().min()) > 0.1


def test_refusals_of_the_moves():
    x = torch.zeros(2, 1)
    for step in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="step_size must be positive"):
            langevin(torch.neg, x, step, 1)
        with pytest.raises(ValueError, match="step_size must be positive"):
            mala(normal_log_prob, x, step, 1)
        with pytest.raises(ValueError, match="step_size must be positive"):
            annealed_langevin(lambda x, s: x, x, torch.ones(1), step, 1)
    for run in (
        lambda: langevin(torch.neg, x, 0.1, 0),
        lambda: mala(normal_log_prob, x, 0.1, 0),
        lambda: annealed_langevin(lambda x, s: x, x, torch.ones(1), 0.1, 0),
    ):
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            run()
    with pytest.raises(ValueError, match=r"shape of x, \(2, 1\), got \(2,\)"):
        langevin(lambda x: x[:, 0], x, 0.1, 1)
    with pytest.raises(ValueError, match="one number per row"):
        mala(lambda x: -x.square(), x, 0.1, 1)
    with pytest.raises(ValueError, match="one per chain, 2"):
        mala(normal_log_prob, x, torch.ones(3), 1)
    with pytest.raises(ValueError, match="warmup must be"):
        mala(normal_log_prob, x, 0.1, 1, warmup=-1)
    for target in (0.0, 1.0):
        with pytest.raises(ValueError, match="target must be"):
            mala(normal_log_prob, x, 0.1, 1, target=target)
    with pytest.raises(ValueError, match="must start where log_prob is finite"):
        mala(lambda x: x[:, 0].log(), x, 0.1, 1)
    for sigmas in (torch.ones(0), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="positive and decreasing"):
            annealed_langevin(lambda x, s: x, x, sigmas, 0.1, 1)
    with pytest.raises(ValueError, match="levels must be"):
        geometric(2.0, 1.0, 0)
    for largest, smallest, levels in ((1.0, 2.0, 3), (1.0, 0.0, 3), (1.0, 1.0, 2)):
        with pytest.raises(ValueError, match="0 < smallest < largest"):
            geometric(largest, smallest, levels)
    assert geometric(1.0, 1.0, 1).tolist() == [1.0]
    assert geometric(2.0, 1.0, 1).tolist() == [1.0]


# modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "target"), [(0.0, 1.5), (-1.0, 2.0), (0.5, -1.5)])
def test_passage_times_of_a_gaussian(start, target):
    """sqrt(2 pi) times the integral of Phi(y) exp(y^2 / 2), mirrored if the target is on the left."""
    sign = 1 if target > start else -1
    exact = quad(lambda y: math.sqrt(2 * math.pi) * ndtr(y) * math.exp(y**2 / 2), sign * start, sign * target)[0]
    found = first_passage_time(normal_log_prob, start, target, edge=-sign * 10.0)
    assert found == pytest.approx(exact, rel=1e-6)
    assert first_passage_time(lambda x: normal_log_prob(x) - 700, start, target, edge=-sign * 10.0) == pytest.approx(
        found
    )


def test_there_and_back_takes_the_integral_of_one_over_p():
    """Exactly, for any two points; so two modes of equal mass have equal escape times, up to terms that Kramers'
    formula neglects.
    """
    log_prob = pair(-2.0, 2.0, 0.3, 1.0)
    there = first_passage_time(log_prob, -2.0, 2.0, edge=-8.0)
    back = first_passage_time(log_prob, 2.0, -2.0, edge=10.0)
    both = quad(lambda y: math.exp(-log_prob(torch.tensor([[y]], dtype=F64)).item()), -2, 2)[0]
    assert there + back == pytest.approx(both, rel=1e-6)
    assert there == pytest.approx(back, rel=0.05)


def test_kramers_time_is_the_limit_of_high_barriers():
    """U = b (x^2 - 1)^2: the relative error with respect to the exact time falls as 1/b, here by a factor of four
    from b = 24 to 96.
    """

    def error(b):
        def log_prob(x):
            return -b * (x[:, 0] ** 2 - 1) ** 2

        exact = first_passage_time(log_prob, -1.0, 1.0, edge=-3.0)
        assert kramers_time(log_prob, -1.0, 0.0) == pytest.approx(math.pi / (2 * math.sqrt(2) * b) * math.exp(b))
        return kramers_time(log_prob, -1.0, 0.0) / exact - 1

    assert abs(error(24.0)) < 0.02
    assert error(24.0) / error(96.0) == pytest.approx(4, rel=0.1)


def test_times_count_from_the_first_move():
    """A drift of 10 and noise with standard deviation 0.14 per move: 5 is passed in the first move, 25 and 28 in the
    third.
    """
    for place, moves in ((5.0, 1), (25.0, 3), (28.0, 3)):
        times = exit_times(
            lambda x: torch.full_like(x, 1000.0),
            torch.zeros(50, 1, dtype=F64),
            lambda x, place=place: x[:, 0] > place,
            0.01,
            9,
            generator=rng(),
        )
        torch.testing.assert_close(times, torch.full((50,), 0.01 * moves, dtype=F64))


def test_the_mean_of_times_not_all_seen():
    """Exponential times with mean 2, censored at 1.5: n = 40,000, 4 of the stated errors; without censoring, the
    plain mean.
    """
    times = 2 * torch.distributions.Exponential(torch.tensor(1.0, dtype=F64)).sample((40_000,))
    cut = mean_exit_time(torch.where(times <= 1.5, times, math.inf), 1.5)
    assert cut.mean == pytest.approx(2, abs=4 * cut.stderr)
    assert cut.stderr == pytest.approx(2 / math.sqrt(40_000 * -math.expm1(-0.75)), rel=0.02)
    assert cut.share == pytest.approx(-math.expm1(-0.75), abs=0.01)
    assert mean_exit_time(times, 1e9).mean == pytest.approx(times.mean().item())
    assert mean_exit_time(torch.full((3,), math.inf), 1.0).mean == math.inf


def test_occupancy_and_its_error():
    """Shares of independent chains: each of 400 chains stays in mode 1 with probability 0.3. The stated error is the
    binomial one for 400 chains, not that of 400 x 50 draws.
    """
    sits = (torch.rand(400, generator=rng(9)) < 0.3).long().expand(50, 400)
    found = occupancy(sits, 2)
    assert found.share.sum().item() == pytest.approx(1)
    assert found.share[1].item() == pytest.approx(0.3, abs=4 * found.stderr[1].item())
    assert found.stderr[1].item() == pytest.approx((0.3 * 0.7 / 400) ** 0.5, rel=0.05)


def test_basins_in_the_plane():
    """Four modes on a square: all chains end in the mode of their initial quadrant."""
    corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=F64)

    def log_prob(x):
        return (-(x[:, None] - corners).square().sum(2) / 0.18).logsumexp(1)

    x = randn(200, 2)
    ends = basin(score_of(log_prob), x, corners, step_size=0.02, steps=600)
    quadrant = torch.where(x[:, 1] > 0, torch.where(x[:, 0] > 0, 0, 1), torch.where(x[:, 0] > 0, 3, 2))
    assert torch.equal(ends, quadrant)


def test_a_sharp_and_a_flat_mode_of_equal_mass():
    """N(-1.2, 0.35^2) and N(1.4, 0.8^2) with weight one half each. With noise both modes are occupied equally (4
    standard errors), although the sharp one is higher, and escape times are equal within 15%, measured (4 standard
    errors, and 5% for the step size) and by Kramers' formula up to a factor of 3. Without noise the flat mode, whose
    basin is wider, gets more of the same initial points: exactly those on its side of the saddle.
    """
    log_prob, low, high = pair(-1.2, 1.4, 0.35, 0.8), -4.0, 5.0
    report = two_modes(log_prob, -1.0, 1.0, (low, high), step_size=0.01, steps=3000, chains=300, generator=rng(10))
    sharp, flat = report.left, report.right
    assert sharp.height > flat.height + 0.5
    assert sharp.mass + flat.mass == pytest.approx(1)
    assert sharp.mass == pytest.approx(0.5, abs=0.02)
    for mode in (sharp, flat):
        assert mode.occupancy == pytest.approx(mode.mass, abs=4 * mode.occupancy_stderr + 0.01)
        assert mode.occupancy_stderr < 0.02
        assert mode.escape.share > 0.9
        assert mode.escape.mean == pytest.approx(mode.exact, abs=4 * mode.escape.stderr + 0.05 * mode.exact)
        assert 1 / 3 < mode.kramers / mode.exact < 3
        assert abs(score_of(log_prob)(torch.tensor([[mode.place]], dtype=F64)).item()) < 0.01
    assert sharp.exact == pytest.approx(flat.exact, rel=0.15)
    assert sharp.basin == pytest.approx((report.saddle - low) / (high - low), abs=1 / 299)
    assert flat.basin == pytest.approx(1 - sharp.basin)
    assert flat.basin > flat.occupancy + 4 * flat.occupancy_stderr
    assert report.r_hat < 2


def test_chains_too_short_to_mix_are_seen():
    """Two deep modes: chains stay in their initial mode, so occupancy is that of the initial points, and R-hat
    detects it.
    """
    report = two_modes(pair(-3.0, 3.0, 0.4, 0.4), -3.0, 3.0, (-5.0, 9.0), step_size=0.02, steps=100, chains=50)
    assert report.r_hat > 2
    assert report.left.escape.mean == math.inf
    assert report.left.escape.share == 0
    assert report.left.occupancy == pytest.approx(5 / 14, abs=0.06)


def test_refusals_of_modes():
    flat = normal_log_prob
    for arguments in ((0.0, 0.0), (1.0, 2.0)):
        with pytest.raises(ValueError, match="must come in this order"):
            first_passage_time(flat, *arguments, edge=1.5)
    with pytest.raises(ValueError, match="points must be"):
        first_passage_time(flat, 0.0, 1.0, edge=-5.0, points=2)
    with pytest.raises(ValueError, match="concave at the mode"):
        kramers_time(flat, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least two chains"):
        occupancy(torch.zeros(5, 1, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="modes must be from 0 to 1, got 0 to 2"):
        occupancy(torch.tensor([[0, 2]]), 2)
    for times, horizon in ((torch.zeros(0), 1.0), (torch.ones(1), 0.0)):
        with pytest.raises(ValueError, match=r"times must be \(B,\), B at least 1, not nan, and horizon positive"):
            mean_exit_time(times, horizon)
    with pytest.raises(ValueError, match="step_size must be"):
        exit_times(torch.neg, torch.zeros(1, 1), lambda x: x[:, 0] > 1, 0.0, 5)
    settings = {"step_size": 0.1, "steps": 10}
    with pytest.raises(ValueError, match="must be in order"):
        two_modes(flat, 1.0, -1.0, (-5.0, 5.0), **settings)
    with pytest.raises(ValueError, match="chains must be at least 2"):
        two_modes(flat, -1.0, 1.0, (-5.0, 5.0), chains=1, **settings)

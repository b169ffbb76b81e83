"""Stacked digits: labels of the channels, mode shares, streams that can start at any draw."""

from __future__ import annotations

import pytest
import torch

from jensen.core.seeding import generator
from jensen.data.stacked import digit_shares, expected_modes, mode_shares, stacked, stacked_stream

BALANCE = 0.125


def pool():
    """Pictures that encode digit and index: the value 100 k + i in all pixels, k + 1 pictures of digit k, shuffled."""
    labels = torch.arange(10).repeat_interleave(torch.arange(1, 11))
    order = torch.randperm(len(labels), generator=generator(5))
    number = torch.cat([torch.arange(k + 1) for k in range(10)])
    values = (100 * labels + number)[order].float()
    return values[:, None, None, None].expand(-1, 1, 2, 3), labels[order]


def test_channels_are_what_the_mode_says():
    x, modes = stacked(*pool(), 2000, generator=generator(0))
    assert x.shape == (2000, 3, 2, 3)
    digits = x[:, :, 0, 0].long() // 100
    assert torch.equal(modes, 100 * digits[:, 0] + 10 * digits[:, 1] + digits[:, 2])
    assert torch.equal(x, x[:, :, :1, :1].expand_as(x))  # no picture is mixed with another


@pytest.mark.parametrize("balance", [1.0, BALANCE])
def test_modes_come_as_often_as_they_should(balance):
    n, shares = 200_000, mode_shares(balance)
    modes = stacked(*pool(), n, balance=balance, generator=generator(1))[1]
    counts = modes.bincount(minlength=1000).double()
    error = (counts - n * shares) / (n * shares * (1 - shares)).sqrt()
    assert error.abs().max() < 6  # the rarest mode of balance 1/8 is expected 4.7 times: its tail is a Poisson's
    # the thousand squared errors, of mean 1 and variance about 2: the mean within 4 standard errors
    assert abs(float(error.square().mean()) - 1) < 4 * (2 / 1000) ** 0.5
    if balance == 1:
        assert bool((counts > 0).all())


def test_channels_are_independent_and_their_digits_of_the_shares():
    n = 100_000
    modes = stacked(*pool(), n, balance=BALANCE, generator=generator(2))[1]
    digits = torch.stack([modes // 100, modes // 10 % 10, modes % 10], 1)
    shares = digit_shares(BALANCE)
    for channel in digits.T:
        found = channel.bincount(minlength=10) / n
        assert bool(((found - shares).abs() < 4 * (shares * (1 - shares) / n).sqrt()).all())
    correlation = torch.corrcoef(digits.T.double())
    assert bool((correlation - torch.eye(3)).abs().max() < 4 * n**-0.5)


def test_every_picture_of_a_digit_is_drawn_alike():
    n = 100_000
    x, _ = stacked(*pool(), n, generator=generator(3))
    for k in (0, 4, 9):
        values = x[:, 1, 0, 0].long()
        number = values[values // 100 == k] % 100
        found = number.bincount(minlength=k + 1) / len(number)
        share = 1 / (k + 1)
        assert len(found) == k + 1
        assert bool(((found - share).abs() <= 4 * (share * (1 - share) / len(number)) ** 0.5).all())


def test_shares_fall_by_a_constant_factor():
    assert torch.allclose(digit_shares(), torch.full((10,), 0.1, dtype=torch.float64), rtol=1e-12)
    s = digit_shares(BALANCE)
    assert torch.allclose(s[1:] / s[:-1], torch.tensor(BALANCE ** (1 / 9), dtype=torch.float64), rtol=1e-6)
    assert float(s.sum()) == pytest.approx(1, abs=1e-12)
    w = mode_shares(BALANCE)
    assert float(w.sum()) == pytest.approx(1, abs=1e-12)
    assert float(w[297]) == pytest.approx(float(s[2] * s[9] * s[7]), rel=1e-12)
    assert float(w.min() / w.max()) == pytest.approx(BALANCE**3, rel=1e-6)


def test_modes_that_draws_of_the_data_reach():
    n, trials, w = 3000, 40, mode_shares(BALANCE)
    reached = torch.tensor(
        [len(torch.multinomial(w, n, replacement=True, generator=generator(k)).unique()) for k in range(trials)]
    ).double()
    assert abs(float(reached.mean()) - expected_modes(n, w)) < 4 * float(reached.std()) / trials**0.5
    assert expected_modes(1, w) == pytest.approx(1)


def test_a_stream_opens_anywhere_and_each_draw_is_new():
    first = [batch["x"] for batch, _ in zip(stacked_stream(*pool(), 8, seed=3)(0), range(4), strict=False)]
    again = next(stacked_stream(*pool(), 8, seed=3)(2))["x"]
    assert torch.equal(first[2], again)
    assert not torch.equal(first[1], first[2])
    assert not torch.equal(first[0], next(stacked_stream(*pool(), 8, seed=4)(0))["x"])
    rare = [next(stacked_stream(*pool(), 4000, seed=0, balance=b)(0))["x"] // 100 == 9 for b in (1.0, BALANCE)]
    assert float(rare[0].float().mean()) > 2 * float(rare[1].float().mean())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"balance": 0.0}, "balance must be above 0 and at most 1, got 0.0"),
        ({"balance": 1.5}, "balance must be above 0 and at most 1, got 1.5"),
        ({"pictures": torch.zeros(55, 3, 2, 3)}, r"\(N, 1, H, W\) with one label each, got \(55, 3, 2, 3\)"),
        ({"labels": torch.zeros(54, dtype=torch.long)}, r"with one label each, .* and \(54,\)"),
        ({"labels": torch.arange(55) % 9}, "got none of 9"),
        ({"labels": torch.arange(55) % 11}, "labels must be from 0 to 9, got 0 to 10"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    pictures, labels = pool()
    with pytest.raises(ValueError, match=message):
        stacked(**({"pictures": pictures, "labels": labels, "n": 5} | wrong))


def test_streams_and_expectations_refuse_nothing_too():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        stacked_stream(*pool(), 0, seed=0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        expected_modes(0, mode_shares())

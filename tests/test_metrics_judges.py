"""Two-sample tests, sharpness, floors, rows from several processes."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest, norm

from jensen.core.seeding import generator
from jensen.metrics import (
    c2st,
    floor,
    frechet_distance,
    high_frequency_power,
    kernel_distance,
    prdc,
    sharpness,
)

# telling apart --------------------------------------------------------------------------------------------------------


def test_two_gaussians_one_apart():
    """The best classifier is right with probability Phi(1/2) = 0.6915. n = 8,000 test rows: within 4 standard errors
    and half a percent for the network.
    """
    rng = generator(0)
    x, y = torch.randn(8000, 1, generator=rng), 1 + torch.randn(8000, 1, generator=rng)
    found = c2st(x, y, generator=rng)
    best = norm.cdf(0.5)
    assert found.n == 8000
    assert found.accuracy == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / found.n) + 0.005)
    assert found.low < best < found.high
    assert found.interval.value == found.accuracy
    assert found.p_value < 1e-12


class Guess:
    """Classifies everything as fake."""

    def fit(self, x, labels):
        self.seen = np.bincount(labels)

    def predict(self, x):
        return np.ones(len(x), dtype=int)


class Edge:
    """A threshold midway between the means of its training rows in the first feature."""

    def fit(self, x, labels):
        low, high = (x[labels == k, 0].mean() for k in (0, 1))
        self.middle, self.sign = (low + high) / 2, np.sign(high - low)

    def predict(self, x):
        return (self.sign * (x[:, 0] - self.middle) > 0).astype(int)


def test_between_equal_distributions_p_values_are_no_smaller_than_uniform():
    """300 repetitions, n = 100 and 80: p-values are not smaller than uniform ones, by a Kolmogorov-Smirnov test of
    size 1e-3.
    """
    rng = generator(1)
    found = [
        c2st(torch.randn(100, 3, generator=rng), torch.randn(80, 3, generator=rng), rng, Edge()) for _ in range(300)
    ]
    assert {f.n for f in found} == {80}
    assert kstest([f.p_value for f in found], "uniform", alternative="greater").pvalue > 1e-3
    assert np.mean([f.accuracy for f in found]) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 80 / 300))


def test_the_p_value_counts_this_outcome_too():
    found = c2st(torch.randn(20, 2), torch.randn(30, 2), generator(0), Guess())
    assert (found.accuracy, found.n) == (0.5, 20)
    assert found.p_value == pytest.approx(binom(20, 0.5).pmf(np.arange(10, 21)).sum())


def test_held_out_rows_are_not_trained_on():
    """A classifier that memorises its training rows has an accuracy of one half on other rows."""

    class ByHeart:
        def fit(self, x, labels):
            self.known = {row.tobytes(): label for row, label in zip(x, labels, strict=True)}

        def predict(self, x):
            assert not any(row.tobytes() in self.known for row in x)
            return np.array([self.known.get(row.tobytes(), 0) for row in x])

    assert c2st(torch.randn(50, 2), torch.randn(50, 2), generator(0), ByHeart()).accuracy == 0.5


def test_the_seed_decides():
    x, y = torch.randn(60, 2), torch.randn(60, 2) + 1
    assert c2st(x, y, generator(3)) == c2st(x, y, generator(3))
    constant = c2st(torch.ones(30, 2), torch.ones(30, 2), generator(0))
    assert constant.accuracy == 0.5
    assert 0 <= constant.p_value <= 1


def test_c2st_refusals():
    with pytest.raises(ValueError, match="fake features must have at least 20 rows, got 19"):
        c2st(torch.randn(20, 2), torch.randn(19, 2))
    with pytest.raises(ValueError, match="the same width"):
        c2st(torch.randn(20, 2), torch.randn(20, 3))


# sharpness ------------------------------------------------------------------------------------------------------------


def test_white_noise_has_power_one_everywhere():
    """n = 400 pictures with 2 channels, 8 by 8: the mean power is 1 within 4 standard errors, for all cutoffs."""
    for cutoff in (0.1, 0.25, 0.45):
        power = high_frequency_power(torch.randn(400, 2, 8, 8), cutoff)
        assert float(power.mean()) == pytest.approx(1, abs=4 * float(power.std()) / 20)


def test_a_wave_has_its_power_on_its_side_of_the_cutoff():
    wave = torch.cos(math.pi * torch.arange(16).double() / 4).expand(1, 1, 16, 16)  # 1/8 cycles a pixel
    assert float(high_frequency_power(wave, 0.13)) == pytest.approx(0, abs=1e-20)
    frequency = torch.fft.fftfreq(16)
    above = int((torch.hypot(frequency[:, None], frequency[None]) >= 0.125).sum())
    assert float(high_frequency_power(wave, 0.125)) == pytest.approx(wave.square().sum().item() / above)


def test_blur_takes_what_its_filter_takes():
    """The mean of a pixel and its right neighbour, with periodic edges: |H|^2 = cos^2(pi f); white noise keeps the
    mean of this over the high frequencies. With the same noise the only sampling error is in the weights of the
    ratio.
    """
    x = torch.randn(3000, 1, 8, 8).double()
    blurred = (x + x.roll(-1, 3)) / 2
    f = torch.fft.fftfreq(8)
    high = torch.hypot(f[:, None], f[None]) >= 0.25
    kept = torch.cos(math.pi * f).square().expand(8, 8)[high].mean()
    found = sharpness(x, blurred)
    assert found.value == pytest.approx(float(kept), abs=4 * found.stderr)
    assert sharpness(x, 1.5 * x).value == pytest.approx(2.25)


def test_its_error_too():
    rng = generator(4)
    real = lambda: torch.randn(40, 1, 4, 4, generator=rng)  # noqa: E731
    found = [sharpness(real(), 0.8 * real()) for _ in range(300)]
    spread = torch.tensor([f.value for f in found]).var() / torch.tensor([f.stderr**2 for f in found]).mean()
    assert float(spread) == pytest.approx(1, abs=4 * math.sqrt(2 / 299) + 0.05)  # to first order


def test_sharpness_refusals():
    x = torch.randn(4, 1, 8, 8)
    for bad, words in (
        (torch.randn(4, 1, 8, 6), "of the same size"),
        (torch.randn(1, 1, 8, 8), "at least two pictures"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "floating-point and finite, got uint8"),
    ):
        with pytest.raises(ValueError, match=words):
            sharpness(x, bad)
    for constant in (1.0, 0.1, 1 / 3, 1e8):
        for size in (8, 7):  # rounding errors of the transform are no power
            pictures = torch.full((4, 1, size, size), constant)
            with pytest.raises(ValueError, match=r"power at 0.25 cycles per pixel"):
                sharpness(pictures, torch.randn(4, 1, size, size))
    assert sharpness(x, torch.full_like(x, 0.1)).value < 1e-25
    with pytest.raises(ValueError, match=r"cutoff must be above 0 and at most 0.5, got 0"):
        high_frequency_power(x, 0.0)
    with pytest.raises(ValueError, match=r"2 by 2 or more, got shape \(4, 64\)"):
        high_frequency_power(x.flatten(1))
    for empty in (x[:0], x[:, :0]):
        with pytest.raises(ValueError, match="pictures must be"):
            high_frequency_power(empty)


# floors and shards ----------------------------------------------------------------------------------------------------


def test_the_floor_splits_the_real_data_in_two():
    real = torch.arange(50.0)[:, None]
    a, b = floor(lambda a, b: (a, b), real, 20, generator(0))
    assert (len(a), len(b)) == (30, 20)
    assert torch.equal(torch.cat([a, b]).sort(0).values, real)
    for metric in (frechet_distance, kernel_distance, prdc):
        floor(metric, torch.randn(50, 2), 20, generator(0))
    for n in (0, 50):
        with pytest.raises(ValueError, match=f"n must be from 1 to 49, fewer than the real samples, got {n}"):
            floor(kernel_distance, real, n)


PROGRAM = """
import os
import sys
import torch
import torch.distributed as dist
from jensen.metrics import FeatureStatistics, gathered, frechet_distance, kernel_distance, prdc
torch.set_num_threads(1)
mine = int(os.fork() == 0)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}.store", rank=mine, world_size=2)
rng = torch.Generator().manual_seed(0)
x = 50 + torch.randn(31, 4, dtype=torch.float64, generator=rng)
y = 50 + 2 * torch.randn(20, 4, dtype=torch.float64, generator=rng)
cut = lambda v: (v[:len(v) // 3], v[len(v) // 3:])[mine]
p, q = (FeatureStatistics.of(cut(v)).reduced() for v in (x, y))
assert p.count == 31
a, b = gathered(cut(x)), gathered(cut(y))
assert torch.equal(a, x) and torch.equal(b, y)
alone = FeatureStatistics.of(x), FeatureStatistics.of(y)
torch.testing.assert_close([p.scatter, q.scatter], [s.scatter for s in alone], rtol=1e-12, atol=1e-12)
assert abs(frechet_distance(p, q).value / frechet_distance(x, y).value - 1) < 1e-10
dist.barrier()
dist.destroy_process_group()
if mine == 0:
    assert os.waitpid(-1, 0)[1] == 0
    print("equal")
"""


def test_two_processes_find_what_one_finds(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"

"""Annealed Langevin dynamics with the exact score: its distance from equilibrium at the end."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.score import annealed_variance, geometric

F64 = torch.float64


def test_annealing_comes_to_equilibrium_by_step_size_times_evaluations():
    """The variance of wide directions keeps a relative error near log(sigma_1 / sigma_L) / (a L T), which vanishes
    with many small steps. The largest stable step for the narrowest direction makes its variance too large by the
    factor 1 / (1 - a / 2).
    """
    sigmas, v = geometric(8.0, 0.01, 200), torch.tensor([0.5, 1.0, 5.0], dtype=F64)
    for a, steps in ((0.1, 5), (0.2, 5), (0.1, 20)):
        left = annealed_variance(v, sigmas, a, steps, denoise=False) / (v + 0.01**2) - 1
        torch.testing.assert_close(left, torch.full_like(v, math.log(800) / (a * 200 * steps)), rtol=0.15, atol=0)
    point = annealed_variance(torch.tensor(1e-12, dtype=F64), sigmas, 0.5, 50, denoise=False)
    assert point.item() == pytest.approx(0.01**2 / (1 - 0.5 / 2), rel=1e-6)
    for bad, words in ((torch.tensor([1.0, 0.0]), "variance must be positive, got 0"), (v * math.nan, "positive")):
        with pytest.raises(ValueError, match=words):
            annealed_variance(bad, sigmas, 0.1, 5)

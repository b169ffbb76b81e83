"""Annealed Langevin with the exact score: how far from equilibrium it ends, and how a run shows it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.data.moons import moons_log_prob
from jensen.models import Annealing, ScoreModel
from jensen.recipes.base import silent
from jensen.recipes.score import DigitsScore, MoonsScore
from jensen.recipes.score_judging import Judge, share_of_variance
from jensen.score import annealed_variance, geometric, score_of

F64 = torch.float64


@pytest.mark.parametrize(
    ("recipe", "evaluations"), [(MoonsScore(), 360), (DigitsScore(), 320)], ids=lambda v: getattr(v, "recipe", v)
)
def test_the_default_annealing_reaches_equilibrium(recipe, evaluations):
    """Along every direction of the data from 5 times as wide as the last level (where only a share of 4 percent of the
    variance is below it) to 3 deviations of all numbers: variance v^2 / (v + sigma^2) to 5 percent, with the exact
    score, in as many evaluations as stated. With step size 0.1 and 10 moves it is up to 57 percent off."""
    model, sampling = recipe.model(), recipe.model().sampling
    assert len(model.sigmas) * sampling.steps == evaluations
    last = model.sigmas[-1].item()
    v = torch.logspace(math.log10(25 * last**2), math.log10(9), 50, dtype=F64)
    for settings in (sampling, Annealing()):
        found = annealed_variance(v, model.sigmas, settings.step_size, settings.steps)
        assert float((found / (v**2 / (v + last**2)) - 1).abs().max()) < 0.05
    short = annealed_variance(v, model.sigmas, 0.1, 10)
    assert float((short / (v**2 / (v + last**2)) - 1).abs().max()) > 0.5


def test_annealing_comes_to_equilibrium_by_step_size_times_evaluations():
    """What is left is a share near log(sigma_1 / sigma_L) / (a L T) of wide directions; with many small steps, none. A
    step as long as the narrowest direction allows keeps it 1 / (1 - a / 2) times too wide."""
    sigmas, v = geometric(8.0, 0.01, 200), torch.tensor([0.5, 1.0, 5.0], dtype=F64)
    for a, steps in ((0.1, 5), (0.2, 5), (0.1, 20)):
        left = annealed_variance(v, sigmas, a, steps, denoise=False) / (v + 0.01**2) - 1
        torch.testing.assert_close(left, torch.full_like(v, math.log(800) / (a * 200 * steps)), rtol=0.15, atol=0)
    point = annealed_variance(torch.tensor(1e-12, dtype=F64), sigmas, 0.5, 50, denoise=False)
    assert point.item() == pytest.approx(0.01**2 / (1 - 0.5 / 2), rel=1e-6)
    for bad, words in ((torch.tensor([1.0, 0.0]), "variance must be positive, got 0"), (v * math.nan, "positive")):
        with pytest.raises(ValueError, match=words):
            annealed_variance(bad, sigmas, 0.1, 5)


def test_what_the_samplers_error_is_shown_by_is_exact(tmp_path):
    """The network of a judge's exact model is the score of the moons noised by sigma, standardised; and on Gaussian
    data of known covariance the total variance of 20,000 draws along the exact score is the closed form's."""
    recipe = MoonsScore()
    model = recipe.model()
    model.centre.fill_(0.4)
    model.scale.fill_(0.7)
    exact = Judge(recipe, model, tmp_path, silent)._exact(5)
    z, sigma = torch.randn(5, 2), 0.3
    score = exact.network(z, torch.full((5,), sigma))
    noise = math.hypot(recipe.data.noise, 0.7 * sigma)
    torch.testing.assert_close(score, 0.7 * score_of(lambda x: moons_log_prob(x, noise=noise))(0.7 * z + 0.4))
    assert share_of_variance(2 * z, z)["variance"] == pytest.approx(4)

    class Law(nn.Module):
        def forward(self, z, sigma):
            return -z / (torch.tensor([0.2, 2.0]) + sigma[:, None] ** 2)

    drawn = ScoreModel(Law(), (2,), model.sigmas, Annealing(steps=10, chunk=20_000))
    x = drawn.sample(20_000, generator=torch.Generator().manual_seed(0))
    found = share_of_variance(x, math.sqrt(1.1) * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1)))
    total = annealed_variance(torch.tensor([0.2, 2.0]), model.sigmas, 0.5, 10).sum().item()
    assert found["variance"] == pytest.approx(total / 2.2, abs=4 * found["variance_stderr"])

"""A score model as a diffusion model: exact scores give the exact denoiser, and the ODE's exact likelihood."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.diffusion import GaussianOracle, VarianceExploding
from jensen.models.score import NoiseConditional, ScoreModel
from jensen.models.score_diffusion import as_diffusion


class GaussianScore(nn.Module):
    """Of data N(0, 0.49) noised by sigma."""

    def forward(self, z, sigma):
        return -z / (0.49 + sigma[:, None] ** 2)


def model():
    found = ScoreModel(GaussianScore(), (3,), [30.0, 1.0, 0.01])
    found.centre.copy_(torch.tensor(1.5))
    found.scale.copy_(torch.tensor(2.0))
    return found


def test_exact_scores_are_the_exact_denoiser():
    denoiser = as_diffusion(model()).denoiser
    oracle = GaussianOracle(torch.zeros(3), torch.full((3,), 0.49), VarianceExploding(0.01, 30.0))
    z, t = 3 * torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    ours, exact = denoiser(z, t), oracle(z, t)
    assert torch.allclose(ours.x, exact.x, atol=1e-12)
    assert torch.allclose(ours.score, exact.score, atol=1e-12)


def test_its_likelihood_is_that_of_the_data_on_their_own_scale():
    x = 1.5 + 1.4 * torch.randn(6, 3)
    found = as_diffusion(model()).ode_log_likelihood(x, span=(0.001, 1.0)).likelihood.value
    # the prior N(0, 1 + 30^2) for N(0, 0.49 + 30^2), and a noise of 0.01: below 1e-3 in three dimensions
    exact = torch.distributions.Normal(1.5, 1.4).log_prob(x).sum(1)
    assert torch.allclose(found, exact, atol=2e-3)


def test_one_level_is_no_diffusion():
    lonely = ScoreModel(NoiseConditional(nn.Identity(), 1.0, 1.0), (3,), [1.0])
    with pytest.raises(ValueError, match="at least two noise levels"):
        as_diffusion(lonely)

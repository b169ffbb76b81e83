"""A score model as a diffusion model: exact scores give the exact denoiser and the exact likelihood of the ODE."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.core.seeding import generators
from jensen.diffusion import DDIM, GaussianOracle, VarianceExploding
from jensen.models import Annealing, NoiseConditional, ScoreModel, as_diffusion
from jensen.score import annealed_variance, geometric


class GaussianScore(nn.Module):
    """The score of data N(0, 0.49) with noise of standard deviation sigma."""

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


def test_a_diffusions_samplers_draw_from_a_score_model():
    """A score model draws bit for bit as its diffusion model does; each row depends on its own generator only, and
    conditions reach the network.
    """
    ours, settings = model(), {"sampler": "ddim", "steps": 8, "denoise": True}
    ours.sampling, seen = Annealing(chunk=4), []
    made = ours.sample(6, generator=generators(0, range(6)), on_chunk=seen.append, **settings)
    diffusion = as_diffusion(ours)
    assert torch.equal(made, diffusion.sample(6, generator=generators(0, range(6)), chunk=4, **settings))
    assert seen == [4, 2]
    assert torch.equal(made[4:], ours.sample(2, generator=generators(0, range(6))[4:], **settings))
    noisy = ours.sample(6, generator=generators(0, range(6)), eta=0.5, **settings)
    assert not torch.equal(noisy, made)
    assert torch.equal(
        noisy, diffusion.sample(6, generator=generators(0, range(6)), chunk=4, **{**settings, "sampler": DDIM(0.5)})
    )

    class Shifted(nn.Module):
        def forward(self, z, sigma, cond):
            return (cond - z) / (1e-8 + sigma[:, None] ** 2)

    cond = torch.randn(5, 3)
    told = ScoreModel(Shifted(), (3,), [30.0, 1.0, 0.01], Annealing(sampler="dpm++", steps=16))
    torch.testing.assert_close(told.sample(5, cond=cond), cond, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["dpm++", "dpm++3", "unipc", "adams"])
def test_the_odes_samplers_beat_langevin_at_a_quarter_of_the_evaluations(sampler):
    """Data N(0, v) with the exact score: a linear sampler multiplies the initial variance, 1 + 20^2, by the square
    of its gain, which is its output for the input 1. With 80 evaluations its error is below a quarter of Langevin's
    with 320.
    """
    ladder, evaluations = geometric(20.0, 0.1, 16), 320

    class Law(nn.Module):
        def forward(self, z, sigma):
            return -z / (v + sigma[:, None] ** 2)

    for v in (0.25, 1.0, 4.0):
        exact = v**2 / (v + 0.1**2)  # of the denoised mean of data noised by the last level
        langevin = float(annealed_variance(torch.tensor(v), ladder, 0.5, evaluations // len(ladder)))
        diffusion = as_diffusion(ScoreModel(Law(), (1,), ladder)).double()
        one = torch.ones(1, 1, dtype=torch.float64)
        gain = float(diffusion.decode(one, sampler=sampler, steps=evaluations // 4 - 1, denoise=True))
        assert abs((1 + 20**2) * gain**2 / exact - 1) < abs(langevin / exact - 1) / 4


def test_settings_of_a_score_models_sampling():
    with pytest.raises(ValueError, match="sampler must be one of langevin, dpm"):
        Annealing(sampler="euclid")
    with pytest.raises(ValueError, match="eta is a setting of sampler 'ddim', got sampler 'langevin'"):
        Annealing(eta=0.5)
    with pytest.raises(ValueError, match="eta is a setting of sampler 'ddim', got sampler 'dpm"):
        Annealing(sampler="dpm++", eta=0.5)
    half = Annealing(sampler="ddim", eta=0.5)
    assert (half.changed(steps=7).eta, half.changed(sampler="langevin").eta) == (0.5, None)
    lonely = ScoreModel(GaussianScore(), (3,), [1.0])
    with pytest.raises(ValueError, match="at least two noise levels"):
        lonely.sample(2, sampler="ddim")

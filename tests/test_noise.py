"""A decoder's learned noise against its closed form, and against scikit-learn's factor analysis."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch import nn

from jensen.core.seeding import generator
from jensen.distributions import Conditional, DiagonalGaussian, DiagonalNoise, DiscretizedLogistic, GaussianPrior
from jensen.models import VAE
from jensen.recipes.words import configure
from jensen.variational import Layer, Trace, elbo

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def maximised(value, parameters, most=60):
    """Maximise by L-BFGS."""
    best = torch.optim.LBFGS(
        parameters, max_iter=most, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        best.zero_grad()
        loss = -value()
        loss.backward()
        return loss

    best.step(closure)
    return float(value().detach())


def test_the_best_noise_is_the_mean_squared_residual():
    """Over rows and draws, to 1e-6 per coordinate; for a coordinate with zero error it is the lower bound."""
    x, means = randn(50, 4) * torch.tensor([0.3, 1.0, 5.0, 0.0], dtype=F64), randn(8, 50, 4, seed=1)
    means[..., 3] = x[:, 3] = 7.0
    noise = DiagonalNoise(4, min_std=0.01).double()
    found = maximised(lambda: noise(means).log_prob(x).mean(), list(noise.parameters()))
    residual = (x - means).square().mean((0, 1))
    torch.testing.assert_close(noise.std.detach().square()[:3], residual[:3], rtol=1e-6, atol=0)
    assert float(noise.std[3].detach()) == pytest.approx(0.01, rel=1e-3)
    best = torch.cat([residual[:3], torch.tensor([1e-4], dtype=F64)])
    exact = -0.5 * float((best.log() + math.log(2 * math.pi)).sum() + 3)
    assert found == pytest.approx(exact, abs=1e-3)
    assert found <= exact


def test_a_linear_vae_with_learned_noise_is_factor_analysis():
    """One latent, whose posterior is in the encoder's family: the bound is scikit-learn's likelihood, and s its
    noise. Two draws at plus and minus one standard deviation give the exact mean of a quadratic.
    """
    spread = torch.tensor([0.5, 0.6, 0.9, 0.4], dtype=F64)
    x = randn(100, 1) @ torch.tensor([[1.0, -0.8, 0.9, 0.7]], dtype=F64) + spread * randn(100, 4, seed=1)
    known = FactorAnalysis(n_components=1, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    encoder, decoder = Conditional(nn.Linear(4, 2), DiagonalGaussian()), Conditional(nn.Linear(1, 4), DiagonalNoise(4))
    model, signs = VAE(encoder, decoder, GaussianPrior(1)).double(), torch.tensor([-1.0, 1.0], dtype=F64).view(2, 1, 1)

    def bound():
        q = model.encoder(x)
        layer = Layer(q.mean + q.stddev * signs, q, model.prior(), q, divergence=True)
        kl, _ = layer.term(analytic=True)
        kl = kl.expand(2, -1)
        return elbo(Trace(model.log_px(x, (layer.z,)), (kl,), (kl,), (True,), (True,))).mean()

    found = maximised(bound, list(model.parameters()), 100)
    assert found == pytest.approx(known.score(x.numpy()), abs=1e-6)
    torch.testing.assert_close(
        decoder.family.std.detach().square(), torch.from_numpy(known.noise_variance_), rtol=1e-3, atol=0
    )


def test_another_law_and_shape():
    """For pictures with 17 levels: probabilities that sum to one."""
    noise = DiagonalNoise((1, 2, 2), 0.4, min_std=0.02, law=partial(DiscretizedLogistic, levels=17))
    law = noise(torch.zeros(5, 3, 1, 2, 2))
    assert (law.batch_shape, law.event_shape) == ((5, 3), (1, 2, 2))
    values = law.base_dist.enumerate_support()
    torch.testing.assert_close(
        law.base_dist.log_prob(values).logsumexp(0), torch.zeros(5, 3, 1, 2, 2), rtol=0, atol=1e-5
    )


def test_the_grey_recipe_learns_its_noise():
    """The decoder outputs one number per pixel; the 64 noise scales are the same for all pictures."""

    def model_of(*words):
        recipe = configure("digits-grey-vae", ["network.hidden=8", *words])
        return recipe.family.model(recipe.data.known())

    model = model_of("network.noise=learned")
    law = model.decoder(torch.randn(3, 2, 16))
    assert tuple(model.decoder.family.raw.shape) == (1, 8, 8)
    assert bool((law.base_dist.scale == law.base_dist.scale[0, 0]).all())
    assert model.measure == "mass"
    predicted = model_of().decoder(torch.randn(3, 2, 16))
    assert not bool((predicted.base_dist.scale.std(0) == 0).any())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiagonalNoise(3, 0.0), "0 < min_std < std < inf, got 0.001 and 0.0"),
        (lambda: DiagonalNoise(3, min_std=0.0), "0 < min_std < std < inf"),
        (lambda: DiagonalNoise(3, math.inf), "0 < min_std < std < inf"),
        (lambda: DiagonalNoise(3)(torch.zeros(2, 4)), r"means must end in \(3,\), got shape \(2, 4\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

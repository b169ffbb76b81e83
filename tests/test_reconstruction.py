"""Training of the deterministic autoencoder against linear optima: principal components, the Wiener filter, the
score.
"""

from __future__ import annotations

import math
from itertools import repeat

import pytest
import torch
from torch import nn

from gaussians import draws
from jensen.core.objective import partition
from jensen.core.seeding import drawing, generator
from jensen.distributions import Conditional, DiagonalGaussian, FlatPrior, GaussianPrior, IsotropicGaussian
from jensen.models import VAE, Autoencoder
from jensen.objectives import AddedNoise, Masked, Reconstruction, Variational
from jensen.training import Budget, Player, TrainState, fit, warm_then_decay
from jensen.variational import LinearGaussian

F64 = torch.float64
MIX = torch.tensor([[1.5, 0.4], [-0.3, 0.8]], dtype=F64)


def trained(objective, x, steps, rate):
    """The autoencoder after training with full batches."""
    budget = Budget(steps=steps)
    players = {
        name: Player(p, torch.optim.Adam(p, lr=rate), warm_then_decay(rate, budget, warmup=20, decay=0.9))
        for name, p in partition(objective).items()
    }
    fit(TrainState(objective, players), lambda _: repeat({"x": x}), budget)


def autoencoder(dims, latents, family=None, prior=None):
    torch.manual_seed(0)
    decoder = Conditional(nn.Linear(latents, dims), family or IsotropicGaussian(0.5))
    return Autoencoder(nn.Linear(dims, latents), decoder, prior or FlatPrior(latents)).double()


def test_the_loss_is_a_squared_error():
    """For a Gaussian with standard deviation 0.5: 2 |x - d(e(x))|^2 plus a constant; equal to the ELBO's."""
    ours, x = autoencoder(3, 2), draws(5, 3)
    loss = Reconstruction(ours)(("model",), {"x": x}, 0)["model"]
    error = (x - ours.reconstruct(x)).square().sum(1)
    torch.testing.assert_close(loss.total, (2 * error + 1.5 * math.log(math.pi / 2)).mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.total, Variational(ours)(("model",), {"x": x}, 0)["model"].total)
    assert set(loss.terms) == {"loss", "log_px"}


def test_linear_autoencoders_find_the_principal_components():
    """With a one-dimensional code the least error is the sum of the smaller eigenvalues, as in PCA: to 1e-4."""
    x = draws(100, 1) @ torch.tensor([[1.5, -1.0, 0.5]], dtype=F64) + 0.5 * draws(100, 3, seed=1)
    ours = autoencoder(3, 1)
    trained(Reconstruction(ours), x, steps=600, rate=0.03)
    error = (x - ours.reconstruct(x)).detach().square().sum(1).mean()
    torch.testing.assert_close(error, 2 * LinearGaussian.fit(x, 1).noise[0], rtol=1e-4, atol=0)


def test_denoising_learns_the_score_of_the_noisy_density():
    """x = A u, u standard normal: E[x | x~] - x~ = s^2 times the score -(A A' + s^2 I)^-1 x~, within 0.05. The 4,096
    rows of u have mean exactly 0 and covariance exactly I, and new noise in each of 400 steps.
    """
    u = draws(4096, 2)
    u = u - u.mean(0)
    x = u @ torch.linalg.inv(torch.linalg.cholesky(u.T @ u / len(u))).T @ MIX.T
    ours, std = autoencoder(2, 2, IsotropicGaussian(1.0)), 0.7
    trained(Reconstruction(ours, AddedNoise(std)), x, steps=400, rate=0.05)
    noisy = draws(50, 2, seed=3)
    score = -noisy @ torch.linalg.inv(MIX @ MIX.T + std**2 * torch.eye(2, dtype=F64))
    found = (ours.reconstruct(noisy) - noisy).detach() / std**2
    assert float((found - score).abs().max()) < 0.05


def test_corruptions():
    """n = 100,000 numbers: the standard deviation of the noise and the share of masked entries within 4 standard
    errors.
    """
    x, n = torch.full((1000, 100), 3.0, dtype=F64), 100_000
    with drawing(generator(0)):
        noise, masked = AddedNoise(0.2)(x) - x, Masked(0.3)(x)
    assert abs(float(noise.std()) - 0.2) < 4 * 0.2 / math.sqrt(2 * n)
    assert abs(float(noise.mean())) < 4 * 0.2 / math.sqrt(n)
    assert set(masked.unique().tolist()) == {0.0, 3.0}
    assert abs(float((masked == 0).double().mean()) - 0.3) < 4 * math.sqrt(0.21 / n)


def test_a_learned_prior_fits_the_codes_and_moves_no_encoder():
    """Its mean is that of the codes, its single variance their mean square about it; the encoder's gradient does not
    change.
    """
    x = draws(100, 3)
    ours = autoencoder(3, 2, prior=GaussianPrior(2, learned=True))
    loss = Reconstruction(ours)(("model",), {"x": x}, 0)["model"]
    plain = Variational(ours)(("model",), {"x": x}, 0)["model"]
    weight = ours.encoder.weight
    torch.testing.assert_close(*(torch.autograd.grad(v.total, weight)[0] for v in (loss, plain)))
    ours.encoder.requires_grad_(False)
    trained(Reconstruction(ours), x, steps=800, rate=0.03)
    codes = ours.encoder(x)
    torch.testing.assert_close(ours.prior.mean.detach(), codes.mean(0), rtol=0, atol=1e-4)
    spread = (codes - codes.mean(0)).square().mean().log() / 2
    torch.testing.assert_close(ours.prior.log_std.detach(), spread, rtol=0, atol=1e-4)
    assert ours.sample(3, generator=generator(0)).shape == (3, 3)


class Side(nn.Module):
    """An encoder that returns the sign of the first number."""

    def forward(self, x):
        return x[:, :1].sign()


def test_a_decoders_variance_of_each_datum():
    """Two groups: the decoder finds mean and variance of each number per group, subject to a least variance. A
    number that is constant in a group would have an unbounded density; here it is at most N(0; 0, 0.1^2).
    """
    x = torch.cat([draws(50, 2) * torch.tensor([0.3, 2.0]) - 5, draws(50, 2, seed=1) * torch.tensor([0.6, 0.0]) + 5])
    decoder = Conditional(nn.Linear(1, 4), DiagonalGaussian(min_std=0.1))
    ours = Autoencoder(Side(), decoder, FlatPrior(1)).double()
    trained(Reconstruction(ours), x, steps=2000, rate=0.05)
    for side, rows in ((-1.0, x[:50]), (1.0, x[50:])):
        law = decoder(torch.tensor([[side]], dtype=F64))
        torch.testing.assert_close(law.mean[0].detach(), rows.mean(0), rtol=0, atol=1e-3)
        free = rows.std(0, correction=0) > 0.1
        torch.testing.assert_close(law.stddev[0, free].detach(), rows.std(0, correction=0)[free], rtol=1e-3, atol=0)
        assert bool((law.stddev[0, ~free] < 0.11).all())
        bound = -math.log(0.1) - math.log(2 * math.pi) / 2
        assert bool((law.base_dist.log_prob(rows) < bound).all())
    assert int(free.sum()) == 1


def test_bad_input():
    vae = VAE(Conditional(nn.Linear(3, 4), DiagonalGaussian()), autoencoder(3, 2).float().decoder, GaussianPrior(2))
    for call, message in (
        (lambda: Reconstruction(vae), "model must be an Autoencoder, got a VAE"),
        (lambda: AddedNoise(0.0), "std must be positive, got 0.0"),
        (lambda: Masked(1.0), r"share must be in \(0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

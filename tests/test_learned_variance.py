"""Improved DDPM: its named betas, learned variances of the included networks, and removal of the last noise."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from jensen.core.seeding import generator
from jensen.data.pool import pool_stream
from jensen.diffusion import (
    DDIM,
    SCHEDULES,
    Ancestral,
    CosineSchedule,
    Denoiser,
    GaussianOracle,
    ImprovedCosineSchedule,
    NetworkDenoiser,
    Process,
    VarianceExploding,
)
from jensen.models import Diffusion, Sampling
from jensen.nn import TimeMLP, UNet
from jensen.objectives import Hybrid
from jensen.training import Budget, fit
from test_training import new_state

F64 = torch.float64


@pytest.mark.parametrize("steps", [10, 1000, 4000])
def test_the_improved_cosine_is_its_closed_form(steps):
    """alpha-bar is f(t) / f(0) at all levels except the last, where beta is 0.999; at t = 0 it is 1."""
    schedule = ImprovedCosineSchedule(steps)
    t = torch.arange(steps + 1, dtype=F64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha[:-1] ** 2, f[:-1] / f[0], rtol=1e-9, atol=0)
    torch.testing.assert_close((alpha[-1] / alpha[-2]) ** 2, torch.tensor(1e-3, dtype=F64), rtol=1e-9, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=1e-12, atol=0)
    assert float(alpha[0]) == 1
    betas = 1 - (alpha[1:] / alpha[:-1]) ** 2
    torch.testing.assert_close(betas, (1 - f[1:] / f[:-1]).clamp(max=0.999), rtol=1e-9, atol=1e-12)


def test_it_has_a_name_and_refuses():
    assert isinstance(SCHEDULES["improved-cosine"](), ImprovedCosineSchedule)
    assert len(SCHEDULES["improved-cosine"]().log_alpha_square) == 1001
    for settings, message in (
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"offset": -0.1}, "offset must be at least 0"),
        ({"largest": 1.0}, r"largest must be in \(0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ImprovedCosineSchedule(**settings)


def test_variances_are_learned_by_the_network_that_is_shipped():
    """Data N(0, 0.3) with 4 levels, a TimeMLP with two outputs, 250 steps of the hybrid loss. z_s given z_t is
    Gaussian with a variance in closed form, the optimum: the learned variance is within 6 percent of it at both
    middle levels, where beta-tilde is 0.47 and 0.81 of it, and beta 1.6 and 1.4.
    """
    torch.manual_seed(0)
    schedule, v, steps = CosineSchedule(), 0.3, 4
    net = TimeMLP((1,), width=32, blocks=1, highest=4.0, outputs=2)
    model = Diffusion(NetworkDenoiser(net, schedule, output="v", learned_variance=True), (1,))
    x = v**0.5 * torch.randn(20_000, 1)
    state = new_state(Hybrid(model, steps=steps, weight=0.1), rate=1e-2)
    fit(state, pool_stream(512, seed=0, x=x), Budget(steps=250))
    for i, fixed in ((2, (0.473, 1.615)), (3, (0.809, 1.381))):
        s, t = (torch.tensor(k / steps, dtype=F64) for k in (i - 1, i))
        (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
        a, forward = Process(schedule).transition(s, t)
        before, after = alpha_s**2 * v + sigma_s**2, alpha_t**2 * v + sigma_t**2
        true, tilde = before - (a * before) ** 2 / after, (forward * sigma_s / sigma_t) ** 2
        assert [float(tilde / true), float(forward**2 / true)] == pytest.approx(fixed, abs=1e-3)
        z = after.sqrt().float() * torch.randn(2000, 1)
        with torch.no_grad():
            fraction = state.average.denoiser(z, t.float().expand(2000)).fraction.mean()
        assert float(forward ** (2 * fraction) * tilde ** (1 - fraction) / true) == pytest.approx(1, abs=0.06)


def test_the_discrete_bound_judges_the_learned_variances():
    """Data N(0, v), the exact mean: the KL of a step, averaged over data, is (r - 1) / 2 with beta-tilde and log(r)
    / 2 with the true variance r beta-tilde. The bounds differ by exactly the sum of these differences, within 4
    standard errors of n = 20,000 rows.
    """
    schedule, v, steps = CosineSchedule(), 0.3, 4
    oracle = GaussianOracle(torch.zeros(1), torch.tensor([v]), schedule)
    edges = torch.linspace(1 / steps, 1, steps, dtype=F64)
    alpha, sigma = schedule.alpha_sigma(edges)
    variance = alpha**2 * v + sigma**2
    process = [Process(schedule).transition(s, t) for s, t in pairwise(edges)]
    a, forward = (torch.stack(part) for part in zip(*process, strict=True))
    true, tilde = variance[:-1] - (a * variance[:-1]) ** 2 / variance[1:], (forward * sigma[:-1] / sigma[1:]) ** 2
    best = torch.log(true / tilde) / torch.log(forward**2 / tilde)

    class Learned(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.null = schedule, None

        def forward(self, z_t, t, cond=None):
            place = (t * steps).round().long()[:, None] - 2
            return replace(oracle(z_t, t), fraction=best[place.clamp_min(0)])

    x = oracle.sample(20_000, generator=generator(0)).double()
    bounds = [
        Diffusion(denoiser, (1,)).double().bound(x, steps=steps - 1, span=(1 / steps, 1.0), generator=generator(1))
        for denoiser in (oracle, Learned())
    ]
    gain, r = bounds[0].diffusion - bounds[1].diffusion, true / tilde
    error = 4 * gain.std().item() / len(x) ** 0.5
    assert gain.mean().item() == pytest.approx(float((r - 1 - r.log()).sum() / 2), abs=error)
    assert error < 0.02


@pytest.mark.parametrize("shape", [(1, 16, 32), (3, 16, 32)])
def test_the_unet_of_two_outputs_trains_and_samples(shape):
    net = UNet(shape[0], shape[1:], alphabet=5, length=3, widths=(8,), blocks=1, text_channels=8, outputs=2)
    text = torch.randint(0, 5, (4, 3))
    assert net(torch.zeros(4, *shape), torch.zeros(4), text).shape == (4, 2 * shape[0], 16, 32)
    denoiser = NetworkDenoiser(net, ImprovedCosineSchedule(8), output="eps", null=torch.full((3,), 5))
    denoiser.learned_variance = True
    model = Diffusion(denoiser, shape, Sampling(Ancestral("learned"), steps=8, chunk=4))
    state = new_state(Hybrid(model, steps=8), rate=1e-3)
    fit(state, pool_stream(4, seed=0, x=torch.randn(4, *shape), cond=text), Budget(steps=3))
    variances = net.head.bias[shape[0] * 16 :]  # the second half of the head's channels, before patches unfold
    assert bool((variances != 0).all())  # all were 0
    made = state.average.sample(4, cond=text, generator=generator(0))
    assert made.shape == (4, *shape)
    assert bool(made.isfinite().all())


@pytest.mark.parametrize("sampler", ["dpm++", "ancestral"])
def test_the_last_noise_can_be_taken_away(sampler):
    """Data at one point have only the noise of the last level: without it all samples are the point. For data N(m,
    v) the denoised mean of a sample is m + gain (z / alpha - m), gain = alpha^2 v / (alpha^2 v + sigma^2).
    """
    schedule = VarianceExploding(0.5, 20.0)
    point = Diffusion(GaussianOracle(torch.tensor([0.75]), torch.zeros(1), schedule), (1,), Sampling(sampler, 8))
    noisy, clean = (point.sample(50, generator=generator(0), denoise=on) for on in (False, True))
    assert float((noisy - 0.75).abs().max()) > 0.5
    assert torch.equal(clean, torch.full((50, 1), 0.75))
    model = Diffusion(GaussianOracle(torch.tensor([0.75]), torch.tensor([0.3]), schedule), (1,), Sampling(sampler, 8))
    model.centre.fill_(2.0)
    model.scale.fill_(3.0)
    noisy, clean = (model.standardize(model.sample(50, generator=generator(0), denoise=on)) for on in (False, True))
    torch.testing.assert_close(clean, 0.75 + 0.3 / (0.3 + 0.25) * (noisy - 0.75), rtol=1e-5, atol=1e-5)


def test_taking_the_noise_away_changes_nothing_where_there_is_none():
    """At sigma = 0 it also needs no evaluation; encoding goes towards the noise and keeps it."""
    model = Diffusion(GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule()), (1,), Sampling("ddim", 8))
    calls = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(model.sample(4, generator=generator(0)), model.sample(4, generator=generator(0), denoise=True))
    assert len(calls) == 16
    x = torch.randn(4, 1)
    assert torch.equal(model.encode(x, end=0.1), model.encode(x, end=0.1, denoise=True))
    decoded = model.decode(x, end=0.1), model.decode(x, end=0.1, denoise=True)
    torch.testing.assert_close(decoded[1], math.cos(0.05 * math.pi) ** 2 * decoded[0])  # alpha^2, the gain for v = 1


def test_eta_and_variance_are_settings_of_the_samplers_that_have_them():
    """DDIM with eta = 1 is ancestral sampling with the posterior's variance, eta = 0 is plain DDIM; other samplers
    refuse them.
    """
    oracle = GaussianOracle(torch.tensor([0.3]), torch.tensor([0.5]), CosineSchedule())
    model = Diffusion(oracle, (1,), Sampling("ddim", steps=6)).double()

    def draw(**changes):
        return model.sample(5, generator=generator(0), **changes)

    torch.testing.assert_close(draw(eta=1.0), draw(sampler="ancestral", variance="posterior"), rtol=1e-9, atol=1e-12)
    assert torch.equal(draw(eta=0.0), draw())
    assert torch.equal(draw(eta=0.5), draw(sampler=DDIM(0.5)))
    assert torch.equal(draw(sampler="ancestral", variance="forward"), draw(sampler=Ancestral("forward")))
    assert not torch.equal(draw(eta=0.5), draw())
    for settings, message in (
        ({"sampler": "dpm++", "eta": 0.0}, "eta is a setting of sampler 'ddim', got sampler 'dpm"),
        (
            {"sampler": "ddim", "variance": "forward"},
            "variance is a setting of sampler 'ancestral', got sampler 'ddim'",
        ),
        ({"sampler": "ddim", "eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
        ({"sampler": "ancestral", "variance": "none"}, "variance must be 'posterior', 'forward' or 'learned'"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampling(**settings)
    with pytest.raises(ValueError, match="draws noise, so it cannot encode"):
        model.encode(torch.zeros(1, 1), eta=0.5)
    model.sampling = Sampling("ddim", steps=6, eta=0.5)
    assert torch.equal(draw(sampler="dpm++"), draw(sampler="dpm++", eta=None))  # another sampler ignores the run's eta


def test_a_network_with_too_few_outputs_is_told():
    model = Diffusion(NetworkDenoiser(TimeMLP((2,)), CosineSchedule(), learned_variance=True), (2,))
    with pytest.raises(ValueError, match="two outputs per channel"):
        Hybrid(model, steps=4)(("model",), {"x": torch.zeros(2, 2)}, 0)
    assert isinstance(TimeMLP((2,), outputs=2).exit, nn.Linear)

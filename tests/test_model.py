"""A diffusion model as its user sees it: scale, chunks, determinism, settings; and training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.core.protocols import Sampleable
from jensen.core.seeding import generators, normal
from jensen.diffusion import CosineSchedule, GaussianOracle, NetworkDenoiser, RectifiedSchedule, logit_normal_times
from jensen.diffusion.times import uniform_times
from jensen.models import Diffusion, Sampling
from jensen.nn import UNet
from jensen.objectives import Denoising
from jensen.objectives.denoising import drop_conditions
from jensen.training import Budget, fit
from test_training import new_state


def small_unet(**settings):
    return UNet(1, (16, 32), alphabet=5, length=3, widths=(8, 16), blocks=1, text_channels=8, **settings)


def unet_model(**sampling):
    net = small_unet()
    for p in net.parameters():  # no parameter is zero, so that all paths contribute
        nn.init.normal_(p, std=0.1)
    denoiser = NetworkDenoiser(net, RectifiedSchedule(), output="flow", null=torch.full((3,), 5))
    return Diffusion(denoiser, (1, 16, 32), Sampling(steps=3, **sampling))


def test_samples_of_the_gaussian_oracle_have_its_moments():
    """n = 20,000, 64 steps, standardised data N(0.5, 0.2^2): mean and standard deviation within 4 standard errors
    and the known shrinkage cos^64(pi/128).
    """
    model = Diffusion(GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule()), (1,), Sampling("ddim", 64))
    model.centre.fill_(0.5)
    model.scale.fill_(0.2)
    n = 20_000
    x = model.sample(n, generator=torch.Generator().manual_seed(0), chunk=4096)
    deviation = 0.2 * math.cos(math.pi / 128) ** 64
    assert isinstance(model, Sampleable)
    assert x.mean().item() == pytest.approx(0.5, abs=4 * deviation / n**0.5)
    assert x.std().item() == pytest.approx(deviation, abs=4 * deviation / (2 * n) ** 0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("sampler", ["ancestral", "dpm++"])
def test_a_row_is_bit_for_bit_a_function_of_its_generator(precision, sampler):
    model = unet_model(precision=precision, sampler=sampler, guidance=3.0, clip=True, chunk=4)
    cond = torch.randint(0, 5, (7, 3))
    whole = model.sample(7, cond=cond, generator=generators(0, range(7)))
    for rows in (slice(2, 3), slice(3, 7), slice(6, 7)):
        part = model.sample(len(cond[rows]), cond=cond[rows], generator=generators(0, range(7))[rows])
        assert torch.equal(part, whole[rows])


def test_one_generator_gives_one_result():
    model = unet_model()
    runs = [model.sample(3, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_sampling_changes_nothing_in_the_model():
    model = unet_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model.sample(2, generator=generators(0, range(2)))
    assert torch.equal(torch.rand(2), expected)  # nor in the global generator
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_steps_are_reported_and_count_evaluations():
    model, calls, steps = unet_model(guidance=2.0), [], []
    model.denoiser.net.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
    model.sample(2, cond=torch.zeros(2, 3, dtype=torch.long), on_step=lambda k, x: steps.append((k, len(x))), chunk=2)
    assert steps == [(1, 2), (2, 2), (3, 2)]
    assert calls == [4, 4, 4]  # one call per step, on a doubled batch


def test_guidance_is_active_in_its_interval():
    """Guided from t = 1 to 1/2 and unguided from there: equal to the two halves drawn one after the other."""
    model, calls = unet_model(sampler="ddim", start=1.0), []
    model.denoiser.net.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
    z, cond = torch.randn(2, *model.shape), torch.zeros(2, 3, dtype=torch.long)
    limited = model.decode(z, cond=cond, steps=4, guidance=3.0, guidance_interval=(0.6, 1.0), chunk=2)
    assert calls == [4, 4, 2, 2]  # batches are doubled at t = 1 and 3/4, not at 1/2 and 1/4
    half = 0.5 * model.decode(z, cond=cond, steps=2, end=0.5, guidance=3.0)  # z at t = 1/2, where alpha is 1/2
    torch.testing.assert_close(limited, model.decode(half, cond=cond, steps=2, start=0.5, guidance=1.0))


def test_times_are_shifted_towards_noise():
    model = unet_model()
    uniform, shifted = model.times(Sampling(steps=4)), model.times(Sampling(steps=4, shift=3.0))
    assert uniform.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "magic"}, "sampler must be one of"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"guidance_interval": (0.6, 0.2)}, "guidance_interval must be two times, 0 <= low <= high <= 1"),
        ({"guidance_interval": (0.5, math.nan)}, "guidance_interval must be two times"),
        ({"style_guidance": -1.0}, "style_guidance must be at least 0 and finite, got -1"),
        ({"start": 0.0}, "start"),
        ({"shift": 0.0}, "shift"),
        ({"precision": "half"}, "precision"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_refusals():
    model = unet_model()
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0)
    with pytest.raises(ValueError, match="generators must be 2, one per row, got 3"):
        model.sample(2, generator=generators(0, range(3)))
    with pytest.raises(ValueError, match="conditions must be 2"):
        model.sample(2, cond=torch.zeros(3, 3, dtype=torch.long))
    plain = Diffusion(GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule()), (1,))
    with pytest.raises(ValueError, match="with a null condition"):
        plain.sample(1, guidance=2.0)
    with pytest.raises(ValueError, match="null condition"):
        Denoising(plain, drop=0.1)


def test_conditions_are_dropped_as_often_as_asked():
    """n = 20,000 rows at rate 0.3: within 4 standard errors; whole rows are replaced by the null condition."""
    model = unet_model()
    cond = torch.randint(0, 5, (20_000, 3))
    dropped = drop_conditions(model.denoiser, cond, 0.3)
    null = (dropped == 5).all(1)
    assert null.float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)
    assert torch.equal(dropped[~null], cond[~null])


def test_training_times_are_stratified():
    n = 64
    times = uniform_times(n)
    assert sorted((times * n).floor().int().tolist()) == list(range(n))
    logit = torch.logit(logit_normal_times(0.5, 2.0)(20_000))
    assert logit.median().item() == pytest.approx(0.5, abs=0.01)
    assert (logit.quantile(0.8413) - logit.quantile(0.1587)).item() == pytest.approx(4.0, abs=0.02)
    with pytest.raises(ValueError, match="std"):
        logit_normal_times(0.0, 0.0)


class Toy(nn.Module):
    """A network for two numbers of data and one of two conditions."""

    def __init__(self):
        super().__init__()
        self.cond = nn.Embedding(3, 16)
        self.body = nn.Sequential(nn.Linear(20, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, z, t, cond):
        return self.body(torch.cat([z, t[:, None], (4 * t[:, None]).sin(), self.cond(cond)], 1))


def test_a_trained_denoiser_comes_near_the_oracle_and_obeys_its_condition():
    """Data N(+-2, 0.5^2) depending on the condition. After 800 steps the mean squared distance to the exact
    conditional prediction of x, at training times, is below 0.05 (0.23 for predicting the mean), and the mean of
    samples of a condition is within 0.15 of the exact one.
    """
    means = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])

    def stream(start):
        while True:
            cond = torch.randint(0, 2, (256,))
            yield {"x": means[cond] + 0.5 * torch.randn(256, 2), "cond": cond}

    denoiser = NetworkDenoiser(Toy(), RectifiedSchedule(), output="flow", null=torch.tensor(2))
    model = Diffusion(denoiser, (2,), Sampling("dpm++", 16))
    state = new_state(Denoising(model, loss=lambda p, x, e: (p.flow - (e - x)).square().mean(1), drop=0.1), rate=3e-3)
    fit(state, stream, Budget(steps=800))
    cond = torch.arange(512) % 2
    x, eps, t = means[cond] + 0.5 * torch.randn(512, 2), torch.randn(512, 2), uniform_times(512) * 0.9 + 0.05
    z = (1 - t[:, None]) * x + t[:, None] * eps
    exact = torch.stack(
        [
            GaussianOracle(means[int(c)], torch.full((2,), 0.25), RectifiedSchedule())(z[i : i + 1], t[i : i + 1]).x[0]
            for i, c in enumerate(cond)
        ]
    )
    with torch.no_grad():
        found = state.average.denoiser(z, t, cond).x
    assert (found - exact).square().mean().item() < 0.05
    made = state.average.sample(512, cond=cond, generator=torch.Generator().manual_seed(0))
    for c in (0, 1):
        torch.testing.assert_close(made[cond == c].mean(0), means[c], rtol=0, atol=0.15)


def test_the_unet_uses_its_text_its_noise_level_and_every_parameter():
    net = small_unet()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    x, t, text = torch.randn(2, 1, 16, 32), torch.tensor([0.3, 0.3]), torch.tensor([[0, 1, 2], [0, 1, 2]])
    out = net(x, t, text)
    assert not torch.allclose(net(x, t, torch.tensor([[0, 1, 3], [0, 1, 2]]))[0], out[0])
    assert not torch.allclose(net(x, torch.tensor([0.4, 0.3]), text)[0], out[0])
    assert not torch.allclose(net(x, t, text.flip(1))[0], out[0])  # the order of characters matters
    out.square().mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


def test_the_unet_grows():
    """Three levels after patches of 2: each level halves the resolution, and the gradient reaches all parameters."""
    net = UNet(3, (16, 32), alphabet=5, length=3, widths=(8, 16, 24), blocks=3, patch=2, text_channels=8)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    sizes = []
    for level in net.down:
        level.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    out = net(torch.randn(2, 3, 16, 32), torch.rand(2), torch.randint(0, 6, (2, 3)))
    assert out.shape == (2, 3, 16, 32)
    assert sizes == [(8, 8, 16), (16, 4, 8), (24, 2, 4)]
    out.square().mean().backward()
    assert all(bool((p.grad != 0).any()) for p in net.parameters())


def test_normal_draws_a_row_from_its_generator():
    like = torch.zeros((), dtype=torch.float64)
    rows = normal((3, 4), generators(1, "abc"), like=like)
    assert rows.dtype == torch.float64
    assert torch.equal(normal((1, 4), generators(1, "b"), like=like)[0], rows[1])

"""Encoding pictures as latents and decoding them, and interpolation between two latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from jensen.core.seeding import generator
from jensen.diffusion import (
    SAMPLERS,
    Ancestral,
    CosineSchedule,
    GaussianOracle,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
    RectifiedSchedule,
    VariancePreserving,
    slerp,
)
from jensen.models import Diffusion, Sampling
from jensen.models.diffusion import round_trip

F64 = torch.float64
DETERMINISTIC = [name for name, step in SAMPLERS.items() if step.deterministic]


def mixture(schedule) -> MixtureOracle:
    return MixtureOracle([0.3, 0.7], [[-1.2, 0.4], [0.8, -0.6]], [[0.3, 0.5], [0.4, 0.2]], schedule)


def model(denoiser, shape=(2,), **sampling) -> Diffusion:
    """A model in float64 with its own centre and scale."""
    made = Diffusion(denoiser, shape, Sampling(**{"sampler": "dpm++", "steps": 64, "chunk": 4, **sampling})).double()
    made.centre.fill_(0.7)
    made.scale.fill_(0.25)
    return made


class Turned(nn.Module):
    """A nonlinear network that treats rows independently; the condition shifts its input."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, z, t, cond):
        return self.mix(z + t[:, None] + cond[:, None]).tanh()


def conditional(**sampling) -> Diffusion:
    torch.manual_seed(1)
    return model(
        NetworkDenoiser(Turned(), RectifiedSchedule(), output="flow", null=torch.tensor(0.0)), (3,), **sampling
    )


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("schedule", [CosineSchedule(), VariancePreserving(9.0, -7.0)], ids=["cosine", "vdm"])
def test_a_picture_comes_back(sampler, schedule):
    """The error per dimension falls at least in proportion to the step size, to below a percent of the data's scale."""
    made = model(mixture(schedule), chunk=6)
    x = made.restore(mixture(schedule).sample(6, generator(0)))
    span = {"start": 0.95, "end": 0.01} if isinstance(schedule, CosineSchedule) else {}
    errors = round_trip(made, x, (32, 128), sampler=sampler, **span)
    assert errors.shape == (2, 6)
    assert errors[1].mean().item() < errors[0].mean().item() / 3
    assert errors[1].mean().item() < 0.01 * 0.25


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedSchedule()], ids=["cosine", "rectified"])
def test_a_picture_comes_back_from_the_very_end(sampler, schedule):
    """From t = 0 (sigma = 0) to t = 1 (alpha = 0) and back, with infinite log-SNR at both ends: the error falls to 2
    percent.
    """
    made = model(mixture(schedule), sampler=sampler, chunk=6)
    x = made.restore(mixture(schedule).sample(6, generator(0)))
    errors = round_trip(made, x, (16, 128)).mean(1)
    assert errors[1].item() < errors[0].item() / 2
    assert errors[1].item() < 0.02 * 0.25


def test_the_error_of_ddims_round_trip_is_of_first_order():
    made = model(mixture(CosineSchedule()), sampler="ddim", start=0.95, end=0.01, chunk=32)
    x = made.restore(mixture(CosineSchedule()).sample(32, generator(0)))
    steps = (32, 64, 128, 256)
    errors = round_trip(made, x, steps).mean(1)
    assert np.polyfit(np.log(steps), errors.log().numpy(), 1)[0] == pytest.approx(-1, abs=0.1)


def test_a_gaussians_latent_is_the_picture_whitened():
    """Against the exact flow on the data's scale; and the round-trip error is the root mean square per dimension."""
    oracle = GaussianOracle(torch.tensor([0.2, -0.1]), torch.tensor([0.5, 1.5]), CosineSchedule())
    made = model(oracle, steps=400, start=0.95, end=0.01)
    x = torch.tensor([[0.9, 0.4], [0.5, 0.8]], dtype=F64)
    z = made.encode(x)
    first, last = (torch.full((2,), t, dtype=F64) for t in (0.01, 0.95))
    alpha = oracle.schedule.alpha_sigma(first)[0][:, None]
    torch.testing.assert_close(z, oracle.flow(alpha * (x - 0.7) / 0.25, first, last), rtol=0, atol=1e-3)
    coarse = {"steps": 12, "sampler": "ddim"}
    back = made.decode(made.encode(x, **coarse), **coarse)
    found = round_trip(made, x, [12], sampler="ddim")[0]
    torch.testing.assert_close(found, (back - x).square().mean(1).sqrt())
    assert float(found.min()) > 1e-3


def test_decoding_is_sampling_from_given_noise():
    """Decoding a latent equals, bit for bit, sampling with this latent as the initial noise, also with conditions and
    guidance."""
    made, cond = conditional(guidance=2.0, steps=5), torch.arange(6, dtype=F64) / 6
    x = made.sample(6, cond=cond, generator=generator(3))
    rng = generator(3)
    noise = torch.cat([torch.randn(4, 3, dtype=F64, generator=rng) for _ in range(2)])[:6]
    assert torch.equal(made.decode(noise, cond=cond), x)
    # a row does not depend on the others
    assert torch.equal(made.decode(noise[4:5], cond=cond[4:5]), x[4:5])
    z = made.encode(x, cond=cond)
    assert torch.equal(made.encode(x[4:5], cond=cond[4:5]), z[4:5])
    assert float((made.encode(x, cond=cond + 1) - z).abs().max()) > 1e-2


def test_a_network_that_predicts_x_encodes_from_above_zero():
    torch.manual_seed(1)
    made = model(NetworkDenoiser(Turned(), CosineSchedule(), output="x", null=torch.tensor(0.0)), (3,))
    x = 0.7 + 0.25 * torch.randn(3, 3, dtype=F64)
    with pytest.raises(ValueError, match="no finite eps at sigma = 0: choose times above 0"):
        made.encode(x)
    assert round_trip(made, x, [128], end=0.02, start=0.99).max().item() < 0.05


def test_samplers_that_draw_noise_neither_encode_nor_decode():
    x = torch.zeros(1, 2)
    for sampler in ("ancestral", "dpm++sde", "predictor-corrector", Ancestral()):
        made = model(mixture(CosineSchedule()), sampler=sampler)
        for act in (made.encode, made.decode):
            with pytest.raises(ValueError, match=r"draws noise, so it cannot encode or decode: choose one of .*ddim"):
                act(x)
    with pytest.raises(ValueError, match="draws noise"):
        made.interpolate(generator(0), generator(1), 3)


def test_end_is_a_time_below_start():
    assert model(mixture(LinearSchedule())).times(Sampling(steps=4, start=0.9, end=0.1)).tolist() == pytest.approx(
        [0.9, 0.7, 0.5, 0.3, 0.1]
    )
    for end in (-0.1, 0.9, 1.0):
        with pytest.raises(ValueError, match="end must be in"):
            Sampling(start=0.9, end=end)


# between two ---------------------------------------------------------------------------


def test_slerp_goes_round_the_circle_at_an_even_pace():
    angle, share = 1.3, torch.linspace(0, 1, 7, dtype=F64)
    a = torch.tensor([[2.0, 0.0]], dtype=F64)
    b = 2 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=F64)
    exact = 2 * torch.stack([(angle * share).cos(), (angle * share).sin()], dim=1)[:, None]
    torch.testing.assert_close(slerp(a, b, share), exact, rtol=1e-12, atol=1e-12)
    near = a + torch.tensor([[0.0, 1e-9]], dtype=F64)  # almost parallel: the straight line
    torch.testing.assert_close(slerp(a, near, share), a + share[:, None, None] * (near - a), rtol=0, atol=1e-15)


def test_slerp_keeps_the_length_that_noise_has():
    """In 4,096 dimensions: within 2 percent along the whole path, where the straight line loses 29 percent."""
    a, b = torch.randn(2, 64, 64, generator=generator(0))
    lengths = slerp(a, b, torch.linspace(0, 1, 5)).flatten(1).norm(dim=1) / 64
    assert float((lengths - 1).abs().max()) < 0.02
    assert ((a + b) / 2).norm().item() / 64 == pytest.approx(2**-0.5, abs=0.02)


def test_slerp_refusals():
    a, share = torch.ones(2), torch.tensor([0.5])
    for b, message in (
        (torch.ones(3), "the same shape"),
        (torch.zeros(2), "must not be zero"),
        (-a, "opposite directions"),
    ):
        with pytest.raises(ValueError, match=message):
            slerp(a, b, share)


def test_interpolation_joins_two_latents_by_the_sphere():
    made = conditional(steps=5)
    cond = torch.tensor([0.4], dtype=F64)
    way = made.interpolate(generator(1), generator(2), 5, cond=cond)
    a, b = (torch.randn(1, 3, dtype=F64, generator=generator(seed))[0] for seed in (1, 2))
    exact = made.decode(slerp(a, b, torch.linspace(0, 1, 5, dtype=F64)), cond=cond.expand(5))
    torch.testing.assert_close(way, exact, rtol=0, atol=1e-7)
    for k, seed in ((0, 1), (4, 2)):
        torch.testing.assert_close(
            way[k : k + 1], made.sample(1, cond=cond, generator=generator(seed)), rtol=0, atol=1e-9
        )
    # between two pictures: their encodings are its ends
    z = made.encode(way[[0, 4]], cond=cond.expand(2), steps=128)
    between = made.interpolate(z[0], z[1], 3, cond=cond, steps=128)
    torch.testing.assert_close(between[[0, 2]], way[[0, 4]], rtol=0, atol=1e-3)


def test_interpolation_refusals():
    made = conditional()
    with pytest.raises(ValueError, match="n must be at least 2"):
        made.interpolate(generator(0), generator(1), 1)
    with pytest.raises(ValueError, match="since it is not interpolated"):
        made.interpolate(generator(0), generator(1), 3, cond=torch.zeros(2))
    with pytest.raises(ValueError, match=r"must have the shape \(3,\), got \(1, 3\)"):
        made.interpolate(generator(0), torch.zeros(1, 3), 3)

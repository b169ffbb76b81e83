"""Generators and critics of small pictures: all inputs have an effect, and rows are independent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.adversarial import r1
from jensen.nn import ChannelNorm, PictureCritic, PictureGenerator

SHAPES = [((1, 8, 8), 1), ((3, 8, 8), 1), ((2, 8, 12), 2)]


def generator_of(shape, doublings):
    return PictureGenerator(5, shape, width=4, doublings=doublings).double()


@pytest.mark.parametrize(("shape", "doublings"), SHAPES)
def test_every_latent_moves_every_pixel_and_rows_do_not_meet(shape, doublings):
    net = generator_of(shape, doublings)
    z = torch.randn(3, 5, dtype=torch.float64)
    x = net(z)
    assert x.shape == (3, *shape)
    assert bool((x.abs() < 1).all())
    assert torch.allclose(x, torch.cat([net(z[k : k + 1]) for k in range(3)]), atol=1e-12)
    slopes = torch.autograd.functional.jacobian(lambda row: net(row[None])[0], z[0])
    assert bool((slopes != 0).all())


@pytest.mark.parametrize(("shape", "doublings"), SHAPES)
def test_features_are_twice_as_fine_a_doubling(shape, doublings):
    net = generator_of(shape, doublings)
    seen = []
    for layer in net.modules():
        if isinstance(layer, ChannelNorm):
            layer.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    net(torch.zeros(1, 5, dtype=torch.float64))
    _, height, width = shape
    sizes = [(4 * 2**d, height // 2**d, width // 2**d) for d in reversed(range(doublings + 1))]
    assert seen == [sizes[0], *sizes]


def test_a_channel_norm_leaves_unit_mean_squares_and_forgets_size():
    h = torch.randn(2, 6, 3, 4, dtype=torch.float64) * 50
    out = ChannelNorm()(h)
    assert torch.allclose(out.square().mean(1), torch.ones(2, 3, 4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(ChannelNorm()(3 * h), out, atol=1e-6)
    assert bool(ChannelNorm()(torch.zeros(1, 2, 1, 1)).isfinite().all())


@pytest.mark.parametrize(("shape", "layers"), [((1, 8, 8), 2), ((6, 8, 8), 1), ((1, 3, 5), 3)])
def test_a_critic_sees_every_pixel_and_judges_each_picture_by_itself(shape, layers):
    critic = PictureCritic(shape, width=16, layers=layers).double()
    assert sum(isinstance(m, nn.Linear) for m in critic.modules()) == layers + 1
    x = torch.randn(4, *shape, dtype=torch.float64, requires_grad=True)
    logits = critic(x)
    assert logits.shape == (4,)
    assert torch.allclose(logits, torch.cat([critic(x[k : k + 1]) for k in range(4)]), atol=1e-12)
    (slopes,) = torch.autograd.grad(logits[1], x)
    assert bool((slopes[1] != 0).all())
    assert not slopes[[0, 2, 3]].any()


def test_a_critics_penalty_is_that_of_its_linear_piece():
    critic = PictureCritic((1, 2, 2), width=8, layers=1).double()
    enter, leave = (m for m in critic.modules() if isinstance(m, nn.Linear))
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    hidden = x.flatten(1) @ enter.weight.T + enter.bias
    slope = torch.where(hidden > 0, 1.0, 0.2).double()
    gradient = (leave.weight * slope) @ enter.weight
    assert torch.allclose(r1(critic, x, 2.0), gradient.square().sum(1), atol=1e-12)


@pytest.mark.parametrize(("shape", "doublings"), [((1, 8, 9), 1), ((1, 6, 8), 2), ((1, 8, 8), 0)])
def test_what_does_not_divide_is_refused(shape, doublings):
    with pytest.raises(ValueError, match=f"got {doublings} for {shape[1]} x {shape[2]}"):
        PictureGenerator(5, shape, doublings=doublings)

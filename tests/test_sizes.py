"""Named sizes of networks: they fit pictures of any shape and grow as promised; what a network costs is counted."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from jensen.nn import (
    PictureDecoder,
    PictureEncoder,
    ResidualCritic,
    ResidualGenerator,
    UNet,
    operations,
    parameters,
    sized,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 48, 64), (2, 33, 17)]


def built(role, size, shape):
    """A network of a size, an input of one row, and the shape of its output."""
    channels, height, width = shape
    settings = sized(role, size, shape)
    if role == "denoiser":
        return UNet(channels, (height, width), **settings), (torch.zeros(1, *shape), torch.zeros(1)), shape
    if role == "encoder":
        return PictureEncoder(shape, 6, **settings), (torch.zeros(1, *shape),), (6,)
    if role == "critic":
        return ResidualCritic(shape, **settings), (torch.zeros(1, *shape),), ()
    make = PictureDecoder if role == "decoder" else ResidualGenerator
    return make(16, shape, **settings), (torch.zeros(1, 16),), shape


ROLES = ["denoiser", "encoder", "decoder", "generator", "critic"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size_fits_and_costs_what_it_promises(role, shape):
    """Small, base and large networks have about 4, 16 and 64 times the operations of tiny: from 0.8 times this to 1
    (small) or 1.75 times this (base, large, whose finer patches add a grid). They are counted on the meta device."""
    costs = {}
    for size in ("tiny", "small", "base", "large"):
        with torch.device("meta"):
            net, inputs, expected = built(role, size, shape)
            assert net(*inputs).shape == (1, *expected)
            costs[size] = operations(net, *inputs)
    low, high = 0.8, 1.75
    for size, ratio in {"small": 4, "base": 16, "large": 64}.items():
        assert low * ratio <= costs[size] / costs["tiny"] <= (high if size != "small" else 1) * ratio


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tiny_networks_run_on_a_cpu(role, shape):
    net, inputs, expected = built(role, "tiny", shape)
    out = net(*inputs)
    assert out.shape == (1, *expected)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize(
    ("side", "plain", "fine"), [(8, 1, 1), (20, 1, 1), (21, 2, 1), (40, 2, 1), (41, 4, 2), (80, 4, 2), (81, 8, 4)]
)
def test_patches_keep_grids_small(side, plain, fine):
    for size, patch, growth in (("tiny", plain, 1), ("small", plain, 2), ("base", fine, 4), ("large", fine, 8)):
        settings = sized("critic", size, (1, side, side))
        assert settings["patch"] == patch
        assert settings["width"] * plain == 32 * growth * patch
        assert sized("points", size, (2,)) == {"width": 128 * growth, "layers": 3}


def test_operations_are_multiply_adds():
    """A 3 x 3 convolution without padding from 2 to 5 channels on 7 x 9 pixels: 5 x 7 positions of 18 inputs each."""
    conv = nn.Conv2d(2, 5, 3)
    assert operations(conv, torch.zeros(4, 2, 7, 9)) == 4 * 5 * (5 * 7) * (2 * 9)
    assert parameters(conv) == 5 * (2 * 9 + 1)
    conv.bias.requires_grad_(False)
    assert parameters(conv) == 5 * 2 * 9
    attention = UNet(1, (8, 8), widths=(8,), blocks=1, patch=2, attention=4)
    plain = UNet(1, (8, 8), widths=(8,), blocks=1, patch=2)
    x, t = torch.zeros(3, 1, 8, 8), torch.zeros(3)
    positions, width = 16, 8  # q, k, v and out; then q k and its product with v, over all heads
    added = 3 * (positions * 4 * width**2 + 2 * positions**2 * width)
    assert operations(attention, x, t) - operations(plain, x, t) == added


def test_counting_changes_nothing():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    operations(net, torch.randn(3, 1, 5, 5))
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("painter", "tiny", (1, 8, 8)), "role must be denoiser, encoder, .* critic or points, got 'painter'"),
        (("critic", "huge", (1, 8, 8)), "size must be tiny, small, base or large, got 'huge'"),
        (("critic", "tiny", (2,)), r"shape must be \(C, H, W\), got \(2,\)"),
        (("critic", "tiny", (1, 0, 8)), r"shape must be \(C, H, W\), got \(1, 0, 8\)"),
    ],
)
def test_unknown_names_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(sized)(*given)  # past the check of types, which runs in tests alone

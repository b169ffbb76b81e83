"""Encoders, decoders, generators and critics of pictures of any size: padding, initial values, derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from jensen.adversarial import r1
from jensen.nn import PictureDecoder, PictureEncoder, ResidualCritic, ResidualGenerator, parameters
from jensen.nn.grids import Pyramid, pad

F64 = torch.float64
SHAPES = [(1, 8, 8), (2, 13, 18), (3, 3, 5), (1, 2, 1)]


def random(net, std=0.2):
    """A network in which nothing is zero, so that every path takes part."""
    for p in net.parameters():
        nn.init.normal_(p, std=std)
    return net.double()


def networks(shape):
    """Each network, its input shape and its output shape."""
    channels = shape[0]
    return [
        (PictureEncoder(shape, 3, width=8), shape, (3,)),
        (PictureDecoder(5, shape, channels_out=2 * channels, width=8), (5,), (2 * channels, *shape[1:])),
        (ResidualGenerator(5, shape, width=8), (5,), shape),
        (ResidualCritic(shape, width=8), shape, ()),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", range(4))
def test_rows_do_not_meet_and_everything_counts(shape, which):
    net, inside, outside = networks(shape)[which]
    random(net)
    x = torch.randn(3, *inside, dtype=F64)
    out = net(x)
    assert out.shape == (3, *outside)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order]), out[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(net(x[1:2]), out[1:2], rtol=0, atol=1e-12)
    slopes = torch.autograd.functional.jacobian(lambda row: net(row[None])[0], x[0])
    assert bool((slopes.flatten(len(outside)) != 0).any(0).all())  # every input moves some output
    assert bool((slopes.reshape(*outside, -1) != 0).any(-1).all())  # every output is moved by some input
    (out - torch.randn_like(out)).square().mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


@pytest.mark.parametrize(("size", "patch", "padded"), [((33, 17), 2, (36, 20)), ((13, 18), 1, (14, 18))])
def test_an_odd_picture_is_its_border_repeated(size, patch, padded):
    """A network gives the same result as with the same weights on a picture that NumPy pads; generated padding is
    cropped."""
    assert Pyramid(size, patch).coarsest == Pyramid(padded, patch).coarsest
    margins = [((b - a) // 2, b - a - (b - a) // 2) for a, b in zip(size, padded, strict=True)]
    x = torch.randn(2, 2, *size, dtype=F64)
    around = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *margins], mode="edge"))
    (top, _), (left, _) = margins
    inner = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    z = torch.randn(2, 5, dtype=F64)
    settings = {"width": 8, "patch": patch}
    for make, given, same in [
        (lambda s: PictureEncoder((2, *s), 3, **settings), (x, around), (...,)),
        (lambda s: ResidualCritic((2, *s), **settings), (x, around), (...,)),
        (lambda s: PictureDecoder(5, (2, *s), **settings), (z, z), inner),
        (lambda s: ResidualGenerator(5, (2, *s), **settings), (z, z), inner),
    ]:
        odd, even = random(make(size)), make(padded).double()
        even.load_state_dict(odd.state_dict())
        assert torch.equal(odd(given[0]), even(given[1])[same])


def test_grids_halve_to_a_smaller_side_of_four_to_seven():
    halved = {(8, 8): 1, (7, 9): 0, (28, 28): 2, (32, 32): 3, (48, 64): 3, (33, 17): 2, (4, 400): 0}
    for size, halvings in halved.items():
        pyramid = Pyramid(size)
        assert pyramid.halvings == halvings
        assert pyramid.coarsest == tuple(math.ceil(side / 2**halvings) for side in size)
        assert pad(torch.zeros(1, 1, *size), pyramid.factor).shape[2:] == tuple(
            side * pyramid.factor for side in pyramid.coarsest
        )
    assert Pyramid((64, 64)).widths(8) == [8, 16, 32, 32, 32]


def test_parameters_are_those_of_the_formula():
    """16 x 16 pixels: grids of 16, 8 and 4 with 8, 16 and 32 channels, two blocks each."""

    def conv(a, b, side, bias=True):
        return a * b * side**2 + bias * b

    widths, channels, blocks = (8, 16, 32), 2, 2
    residuals = sum(blocks * 2 * (2 * w + conv(w, w, 3)) for w in widths)
    shared = residuals + 2 * 8  # and, for 8 channels, one more norm
    down = conv(8, 16, 2) + conv(16, 32, 2)
    up = conv(32, 64, 1) + conv(16, 32, 1)
    encoder = conv(channels, 8, 3) + residuals + 2 * 32 + down + (32 * 16 + 1) * 3
    decoder = (5 + 1) * 32 * 16 + shared + up + conv(8, 7, 3)
    assert parameters(PictureEncoder((2, 16, 16), 3, width=8, blocks=2)) == encoder
    assert parameters(PictureDecoder(5, (2, 16, 16), channels_out=7, width=8, blocks=2)) == decoder
    plain = sum(blocks * (conv(w, w, 1) + conv(w, w, 3) + conv(w, w, 1, bias=False)) for w in widths)
    mixed = conv(8, 16, 1, bias=False) + conv(16, 32, 1, bias=False)
    critic = conv(channels, 8, 3) + plain + mixed + 32 * 16 + 32
    generator = 5 * 32 + 32 * 16 + plain + mixed + conv(8, channels, 3)
    assert parameters(ResidualCritic((2, 16, 16), width=8, blocks=2)) == critic
    assert parameters(ResidualGenerator(5, (2, 16, 16), width=8, blocks=2)) == generator


def test_a_fresh_decoder_is_zero_and_its_two_parameters_are_halves_of_the_channels():
    net = PictureDecoder(4, (3, 9, 7), channels_out=6, width=8, patch=2)
    assert not net(torch.randn(2, 4)).any()
    head = net.body[-2]
    with torch.no_grad():
        head.bias[: head.bias.numel() // 2] = 1.0
    mean, scale = net(torch.randn(2, 4)).chunk(2, dim=1)
    assert bool((mean == 1).all())
    assert not scale.any()


def test_a_fresh_game_is_one_without_blocks():
    """Initially the blocks add zero, so a generator is conv(upsampled(noise times grid)), and a critic is linear."""
    generator = ResidualGenerator(5, (2, 16, 16), width=8, blocks=3).double()
    z = torch.randn(4, 5, dtype=F64)
    h = torch.einsum("bc,chw->bchw", z @ generator.enter.weight.T, generator.basis)
    for a in (16, 8):
        (mix,) = [m for m in generator.body if isinstance(m, nn.Conv2d) and m.weight.shape[:2] == (a, 2 * a)]
        h = F.interpolate(F.conv2d(h, mix.weight), scale_factor=2, mode="bilinear")
    head = generator.body[-2]
    torch.testing.assert_close(generator(z), F.conv2d(h, head.weight, padding=1))
    critic = ResidualCritic((2, 16, 16), width=8, blocks=3).double()
    x, y = torch.randn(2, 4, 2, 16, 16, dtype=F64)
    torch.testing.assert_close(critic(2 * x - 3 * y), 2 * critic(x) - 3 * critic(y))


def test_a_fresh_generator_draws_no_checkerboard():
    """Patches of 4 x 4 equal pixels that differ from one another, so that no pixel of a patch is brighter in all."""
    x = ResidualGenerator(5, (3, 32, 32), width=8, patch=4)(torch.randn(6, 5)).detach()
    patches = F.pixel_unshuffle(x, 4).unflatten(1, (3, 16))
    torch.testing.assert_close(patches, patches.mean(2, keepdim=True).expand_as(patches))
    assert float(patches.std((3, 4)).min()) > 0.01


def test_weights_have_fixups_scale():
    """L = 3 blocks, gain sqrt(2 / 1.04) L^(-1/4) over sqrt(fan-in): within 4 standard errors of the deviation."""
    critic = ResidualCritic((1, 16, 16), width=32)
    gain = math.sqrt(2 / 1.04) * 3**-0.25
    for block in (m for m in critic.body if hasattr(m, "body")):
        first, second, last = (m for m in block.body if isinstance(m, nn.Conv2d))
        assert not last.weight.any()
        for layer in (first, second):
            weights = layer.weight.flatten(1)
            expected, n = gain / math.sqrt(weights.shape[1]), weights.numel()
            assert weights.std().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(2 * n))
            assert not layer.bias.any()


def test_a_critics_penalty_has_the_derivative_of_differences():
    """R1 in every parameter, through padding, folding, averages and kinks: its gradient against finite differences."""
    critic = random(ResidualCritic((2, 9, 17), width=8, patch=1), 0.3)
    x = torch.randn(2, 2, 9, 17, dtype=F64)
    names, values = zip(*critic.named_parameters(), strict=True)

    def penalty(*changed):
        return r1(lambda y: functional_call(critic, dict(zip(names, changed, strict=True)), y), x, 2.0)

    seen = [i for i, name in enumerate(names) if not name.endswith("bias")]
    assert torch.autograd.gradcheck(penalty, tuple(v.detach().requires_grad_() for v in values), fast_mode=True)
    slopes = torch.autograd.grad(penalty(*values).sum(), [values[i] for i in seen])
    assert all(bool((slope != 0).any()) for slope in slopes)


def test_a_generator_has_second_derivatives():
    """In the noise and all parameters, through bilinear upsampling and cropping: against finite differences."""
    generator = random(ResidualGenerator(3, (1, 9, 8), width=8), 0.3)
    names, values = zip(*generator.named_parameters(), strict=True)

    def pictures(z, *changed):
        return functional_call(generator, dict(zip(names, changed, strict=True)), z)

    given = (torch.randn(2, 3, dtype=F64), *values)
    assert torch.autograd.gradgradcheck(pictures, tuple(v.detach().requires_grad_() for v in given), fast_mode=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PictureEncoder((1, 8, 8), 2, width=12), "width must be a multiple of 8, got 12"),
        (lambda: PictureEncoder((1, 8, 8), 0), "outputs must be at least 1, got 0"),
        (lambda: PictureEncoder((1, 8, 0), 2), r"height, width and patch must be at least 1, got \(8, 0\) and 1"),
        (lambda: PictureDecoder(0, (1, 8, 8)), "latents must be at least 1, got 0"),
        (lambda: PictureDecoder(2, (1, 8, 8), channels_out=0), "channels_out must be at least 1, got 0"),
        (lambda: ResidualGenerator(2, (1, 8, 8), blocks=0), "blocks must be at least 1, got 0"),
        (lambda: ResidualCritic((0, 8, 8)), "channels must be at least 1, got 0"),
        (lambda: ResidualCritic((1, 8, 8), patch=0), r"got \(8, 8\) and 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

"""A U-Net on pictures of any size, with attention at low resolutions, and given captions or classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jensen.nn import UNet
from jensen.nn.embeddings import TextContext
from jensen.nn.unet import SelfAttention, TextAttention

F64 = torch.float64


def unet(size, channels=1, **settings):
    net = UNet(channels, size, **{"widths": (8, 16), "blocks": 1, "patch": 2, "text_channels": 8, **settings})
    for p in net.parameters():  # nothing is zero, so that every path takes part
        nn.init.normal_(p, std=0.2)
    return net.double()


@pytest.mark.parametrize("condition", [{}, {"alphabet": 5, "length": 3}, {"alphabet": 5, "length": 3, "written": 0}])
@pytest.mark.parametrize(("size", "padded"), [((13, 30), (16, 32)), ((1, 2), (4, 4))])
def test_an_odd_picture_is_its_border_repeated(size, padded, condition):
    """A network gives the same result as with the same weights on a picture that NumPy pads; the added border is
    cropped."""
    odd, even = unet(size, attention=8, **condition), unet(padded, attention=8, **condition)
    even.load_state_dict(odd.state_dict())
    margins = [((b - a) // 2, b - a - (b - a) // 2) for a, b in zip(size, padded, strict=True)]
    x, t = torch.randn(2, 1, *size, dtype=F64), torch.rand(2, dtype=F64)
    around = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *margins], mode="edge"))
    cond = torch.tensor([[0, 1, 2], [4, 5, 0]]) if condition else None
    (top, _), (left, _) = margins
    whole = even(around, t, cond)[..., top : top + size[0], left : left + size[1]]
    assert torch.equal(odd(x, t, cond), whole)


@pytest.mark.parametrize("condition", [{}, {"alphabet": 5}, {"alphabet": 5, "length": 9, "written": 0}])
def test_gradients_reach_everything_and_rows_do_not_meet(condition):
    net = unet((9, 12), channels=2, attention=6, outputs=2, blocks=2, **condition)
    x, t = torch.randn(3, 2, 9, 12, dtype=F64), torch.rand(3, dtype=F64)
    cond = torch.randint(0, 6, (3, condition.get("length", 1))) if condition else None
    out = net(x, t, cond)
    assert out.shape == (3, 4, 9, 12)
    order = torch.tensor([2, 0, 1])
    shuffled = net(x[order], t[order], None if cond is None else cond[order])
    torch.testing.assert_close(shuffled, out[order], rtol=0, atol=1e-12)
    out.square().mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


@pytest.mark.parametrize(("attention", "levels"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (16, 3)])
def test_attention_is_on_levels_small_enough(attention, levels):
    """Levels of 4 x 16, 2 x 8 and 1 x 4 positions; all but the last are on the way down and on the way up."""
    net = UNet(1, (8, 32), widths=(8, 8, 8), patch=2, blocks=1, attention=attention)
    attending = sum(isinstance(m, SelfAttention) for m in net.modules())
    assert attending == max(0, 2 * levels - 1)


def test_self_attention_is_the_formula():
    """Four heads of torch's scaled_dot_product_attention, query and key and value from the normed features."""
    layer = SelfAttention(8).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 8, 3, 5, dtype=F64)
    each = F.conv2d(F.group_norm(x, 8, layer.norm.weight, layer.norm.bias), *layer.query_key_value.parameters())
    query, key, value = each.reshape(2, 3, 4, 2, 15).transpose(3, 4).unbind(1)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(2, 8, 3, 5)
    expected = x + F.conv2d(attended, *layer.out.parameters())
    torch.testing.assert_close(layer(x), expected)
    order = torch.randperm(15)
    moved = layer(x.flatten(2)[..., order].reshape(2, 8, 3, 5))
    torch.testing.assert_close(moved.flatten(2), expected.flatten(2)[..., order])  # no position is special
    fresh = SelfAttention(8).double()
    assert torch.equal(fresh(x), x)
    assert torch.autograd.gradgradcheck(layer, x[:1].requires_grad_(), fast_mode=True)


def test_captions_have_no_place_in_the_picture():
    layer = TextAttention(8, 6, length=4, written=0, columns=5).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x, text = torch.randn(2, 8, 3, 5, dtype=F64), torch.randn(2, 4, 6, dtype=F64)
    out = layer(x, text)
    torch.testing.assert_close(layer(x, text.flip(1)), out)  # a set of vectors
    torch.testing.assert_close(layer(x.flip(3), text), out.flip(3))
    written = TextAttention(8, 6, length=4, written=4, columns=5).double()
    written.load_state_dict(layer.state_dict(), strict=False)
    assert not torch.allclose(written(x, text), out)
    nn.init.zeros_(written.prior)
    torch.testing.assert_close(written(x, text), out)  # no prior is one that is zero
    names = unet((8, 8), alphabet=5, length=3, written=0).state_dict()
    assert not any("prior" in name for name in names)


def test_styles_have_no_place_in_the_picture():
    """The prior of columns is that of the written characters alone; nothing is preferred among what follows them."""
    alone, styled = (TextAttention(8, 6, length=length, written=4, columns=5) for length in (4, 6))
    torch.testing.assert_close(styled.prior[..., :4], alone.prior)
    assert not styled.prior[..., 4:].any()
    with pytest.raises(ValueError, match="written must be from 0 to 3, the length of the text, got 4"):
        UNet(1, (8, 8), alphabet=5, length=3, written=4)


def test_a_caption_modulates_by_the_mean_of_its_characters():
    """Without attention, context and places, a caption is a set, and each of its characters counts the same."""
    net = unet((8, 8), alphabet=5, length=12, written=0)
    for m in net.modules():
        if isinstance(m, TextAttention):
            nn.init.zeros_(m.out.weight)
            nn.init.zeros_(m.out.bias)
    for p in [net.text.place, *net.context.parameters()]:
        nn.init.zeros_(p)
    x, t = torch.randn(1, 1, 8, 8, dtype=F64), torch.rand(1, dtype=F64)
    caption = torch.zeros(12, 12, dtype=torch.long) + 3 * torch.eye(12, dtype=torch.long)  # one 3 in each place
    outs = [net(x, t, row[None]) for row in caption]
    for out in outs:
        torch.testing.assert_close(out, outs[0])
    assert not torch.allclose(net(x, t, torch.zeros_like(caption[:1])), outs[0])


def test_a_characters_context_is_eight_characters_wide():
    context = TextContext(4).double()
    text = torch.randn(1, 40, 4, dtype=F64)
    assert torch.equal(context(text), text)  # zero at initialisation
    for p in context.parameters():
        nn.init.normal_(p)
    text.requires_grad_()
    (slopes,) = torch.autograd.grad(context(text)[0, 20].sum(), text)
    seen = (slopes[0] != 0).any(1).nonzero()[:, 0]
    assert seen.tolist() == list(range(12, 29))


def test_a_class_acts_through_its_vector_alone():
    net = unet((9, 12), alphabet=5)
    x, t = torch.randn(2, 1, 9, 12, dtype=F64), torch.rand(2, dtype=F64)
    first, second = (net(x, t, torch.tensor([[0], [k]])) for k in (1, 2))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    with torch.no_grad():
        net.text.character.weight[2] = net.text.character.weight[1]
    assert torch.equal(net(x, t, torch.tensor([[0], [2]])), first)


def test_a_fresh_network_predicts_nothing():
    net = UNet(1, (9, 12), alphabet=5, length=3, widths=(8, 16), patch=2, attention=8, written=0)
    assert not net(torch.randn(2, 1, 9, 12), torch.rand(2), torch.zeros(2, 3, dtype=torch.long)).any()

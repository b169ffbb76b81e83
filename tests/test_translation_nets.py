"""Networks that translate pictures, and critics that judge them patch by patch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jensen.nn import PatchCritic, Translator

F64 = torch.float64


@pytest.mark.parametrize(("widths", "seen"), [((3,), 8), ((3, 4), 18), ((3, 4, 5), 38)])
def test_a_logit_sees_its_patch_and_no_more(widths, seen):
    critic = PatchCritic(2, widths=widths).double()
    assert critic.receptive_field == seen
    x = torch.randn(1, 2, 96, 96, dtype=F64, requires_grad=True)
    logits = critic(x)
    stride = 2 ** len(widths)
    assert logits.shape == (1, 1, 96 // stride, 96 // stride)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    touched = gradient[0].abs().sum(0) > 0
    rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
    for places in (rows, columns):
        assert int(places[-1] - places[0]) + 1 == len(places) == seen
    moved = critic(x.detach().roll((stride, 2 * stride), (2, 3)))
    inner = slice(middle - 1, middle + 2)
    expected = logits[0, 0, middle - 2 : middle + 1, middle - 3 : middle].detach()
    assert torch.allclose(moved[0, 0, inner, inner], expected)  # equal logits at all places


def test_pictures_of_a_batch_do_not_meet():
    x = torch.randn(3, 1, 16, 16, dtype=F64)
    translator = Translator(1, width=8, blocks=2).double()
    nn.init.normal_(translator.leave.weight)
    for net in (translator, PatchCritic(1, widths=(4, 4)).double()):
        one, all_ = net(x[:1]), net(x * torch.tensor([1.0, 50.0, -3.0], dtype=F64).view(3, 1, 1, 1))
        assert torch.allclose(one, all_[:1], atol=1e-12)
        assert not torch.allclose(net(x[1:2]), all_[1:2])


def test_a_translator_starts_as_the_identity_and_sees_far():
    translator = Translator(2, width=16, blocks=2, patch=4).double()
    x = torch.randn(2, 2, 16, 16, dtype=F64, requires_grad=True)
    assert torch.equal(translator(x), x)
    nn.init.normal_(translator.leave.weight)
    (gradient,) = torch.autograd.grad(translator(x)[0, 0, 0, 0], x)
    assert bool((gradient[0].abs().sum(0) > 0).all())  # a corner depends on the whole picture
    assert float(gradient[1].abs().sum()) == 0
    narrow = x.detach()[..., :10]
    around = F.pad(narrow, (1, 1, 0, 0), mode="replicate")
    assert torch.equal(translator(narrow), narrow + (translator(around) - around)[..., 1:-1])
    with pytest.raises(ValueError, match="width must be a multiple of 8, got 12"):
        Translator(1, width=12)
    with pytest.raises(ValueError, match="widths must be at least one"):
        PatchCritic(1, widths=())

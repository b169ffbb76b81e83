"""Activation checkpointing and compilation change no gradient; what cannot be compiled is refused."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from jensen.cli.main import main
from jensen.nn import UNet
from jensen.recipes.words import configure
from jensen.training import recompute
from test_cli import refused
from test_resume import same, words
from tiny import tiny


def unet():
    torch.manual_seed(0)
    net = UNet(1, (8, 8), widths=(8, 16), blocks=2, patch=1, attention=8)
    for p in net.parameters():
        p.data.normal_(0, 0.2)
    return net


def plain_loss(net):
    return net(torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8), torch.tensor([0.1, 0.5])).square().mean()


def stored(loss, net):
    """Loss, gradients, and bytes of the activations that are stored for the backward pass."""
    held = {}

    def pack(x):
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = loss(net)
    size = sum(bytes_ for place, bytes_ in held.items() if place not in own)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()), materialize_grads=True)], size


def test_recomputed_gradients_are_the_same_bits_from_a_fraction_of_the_activations():
    net = unet()
    exact, before = stored(plain_loss, net)
    assert recompute(net) == 3
    found, after = stored(plain_loss, net)
    assert all(torch.equal(a, b) for a, b in zip(exact, found, strict=True))
    assert after < 0.2 * before


def test_a_copy_of_a_recomputed_network_uses_its_own_weights():
    net = unet()
    recompute(net)
    twin = copy.deepcopy(net)
    for p in net.parameters():
        p.data.zero_()
    assert plain_loss(net) == 0
    assert plain_loss(twin) != 0


def test_blocks_that_change_their_state_are_left_as_they_are():
    block = lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))  # noqa: E731
    normed = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert recompute(nn.Sequential(block(), block(), normed, nn.Linear(1, 1))) == 0


def test_a_recomputed_run_has_the_same_weights(capsys, tmp_path):
    weights = []
    for name, more in (("plain", {}), ("less", {"training__recompute": True})):
        given = ["train", "digits-ddpm", "--out", str(tmp_path / name), "--no-evaluate", "--steps", "3"]
        assert main([*given, *tiny("digits-ddpm", training__previews=0, **more)]) == 0
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert same(*weights)
    said = "training.recompute must be false for networks without blocks of layers, got true"
    refused(capsys, words(tmp_path / "new", "--set", "training.recompute=true"), said)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("recipe", "word", "why"),
    [
        ("ring-gan", "game.penalty=r1", "game.penalty r1"),
        ("ring-gan", "game.update=consensus", "game.update consensus"),
        ("digits-wgan", "", "game.penalty wgan-gp"),
        ("moons-score", "network.loss=sliced", "network.loss sliced"),
        ("digits-cyclegan", "shown.penalty=0.5", "shown.penalty 0.5"),
    ],
)
def test_what_differentiates_a_gradient_is_neither_compiled_nor_recomputed(recipe, word, why):
    more = [*filter(None, [word]), *(["game.order=simultaneous"] if "consensus" in word else [])]
    for setting in ("compile", "recompute"):
        with pytest.raises(ValueError, match=re.escape(f"training.{setting} must be false with {why}, wh")):
            configure(recipe, [f"training.{setting}=true", *more])
    assert configure(recipe, more)

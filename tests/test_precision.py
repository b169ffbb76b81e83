"""Activation checkpointing and compilation change no gradient, bfloat16 little; what cannot be compiled is refused."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import jensen
from jensen.cli.main import main
from jensen.core.precision import mixed, native
from jensen.nn import UNet
from jensen.recipes.words import configure
from jensen.training import recompute
from stepping import begun, gradients_of, options, small, stepped
from test_cli import refused
from test_resume import same, words
from tiny import COMMON, TINY, tiny


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


@pytest.mark.parametrize("name", TINY)
def test_a_family_says_what_differentiates_a_gradient(monkeypatch, name):
    """A step that builds the graph of a gradient is one that the family says takes second derivatives."""
    plain = torch.autograd.grad

    for more in options()[name]:
        twice = []

        def grad(*args, twice=twice, create_graph=False, **settings):
            twice.append(create_graph)
            return plain(*args, create_graph=create_graph, **settings)

        monkeypatch.setattr(torch.autograd, "grad", grad)
        recipe = small(name, *more)
        stepped(recipe, steps=1)
        assert any(twice) == bool(recipe.family.second_derivatives), more


COMPILED = ("moons-vae", "digits-autoencoder", "moons-diffusion", "moons-score", "ring-gan", "digits-pix2pix")


def compiled(backend, *names):
    """The findings of `compiled.py`, by name."""
    script = Path(__file__).parent / "compiled.py"
    made = subprocess.run([sys.executable, script, backend, *names], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def test_what_is_traced_for_compilation_has_the_same_bits():
    """torch.compile's trace of a step, carried out operation by operation; the first is a reader's step.

    The trace is interrupted by LSTMs, by torch's `kl_divergence`, by a drawn shift, and where a class is `checked`.
    """
    breaks = {"captcha-reader": 3, "moons-vae": 2, "digits-autoencoder": 5}
    for name, found in compiled("eager", "captcha-reader", *COMPILED).items():
        assert (found["traced"] > 0, found["breaks"]) == (True, breaks.get(name, 0))
        assert all(off == 0 for pair in found["players"].values() for off in pair)


@pytest.mark.long
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_step_has_the_gradients_of_the_plain_one(name):
    """To 1e-5, a hundred roundings: compiled sums are in another order."""
    [found] = compiled("inductor", name).values()
    assert found["traced"] > 0
    assert all(off <= 1e-5 for pair in found["players"].values() for off in pair)


ROUGH = ("gan", "translation", "reader")
TRAINED = [name for name in TINY if name not in ("moons-kernel", "moons-mixture")]  # those have no network


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_in_bfloat16_are_those_of_float32_up_to_rounding(name):
    """Relative to its norm a gradient is off by some roundings of 2^-9 = 0.2%: 1% is allowed. Where ReLUs change sign,
    and in games, whose gradients are differences of means that nearly cancel at the start, 16% are.
    Losses and their terms are in float32, as weights and gradients are.
    """
    for more in options()[name]:
        full, half = (small(name, *more, training__precision=kind) for kind in ("float32", "bfloat16"))
        (state, batches), (rounded, _) = begun(full), begun(half)
        batch = next(batches)
        exact, found = gradients_of(state, batch), gradients_of(rounded, batch)
        assert any(not torch.equal(exact[player][0], found[player][0]) for player in exact), more
        for player, (gradient, loss) in exact.items():
            off = (found[player][0] - gradient).norm() / gradient.norm()
            assert off < (0.16 if full.family.kind in ROUGH else 0.01), (more, player)
            terms = (found[player][1].total, *found[player][1].terms.values())
            assert {v.dtype for v in terms if v.is_floating_point()} <= {torch.float32, torch.float64}, more
            torch.testing.assert_close(found[player][1].total, loss.total, rtol=0.02, atol=0.01)


ABLE = {
    "Zen 3": ({"architecture": "x86_64", "avx2": True, "avx512_f": False, "avx512_bf16": False}, False),
    "Skylake": ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "amx_bf16": False}, False),
    "Zen 4": ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
    "Sapphire Rapids": ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, True),
    "Neoverse N1": ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
    "Neoverse V1": ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
}


def on(monkeypatch, processor):
    able, half = ABLE[processor]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    return half


@pytest.mark.parametrize("processor", ABLE)
def test_auto_is_bfloat16_where_the_processor_has_arithmetic_in_it(monkeypatch, processor):
    half, here = on(monkeypatch, processor), torch.device("cpu")
    assert native(here) == half
    assert mixed("auto", here) == (torch.bfloat16 if half else None)
    assert mixed("bfloat16", here) == torch.bfloat16
    assert mixed("float32", here) is None


@pytest.mark.parametrize("half", [False, True])
def test_on_a_gpu_it_is_that_of_the_gpu_without_emulation(monkeypatch, half):
    """Of the device that is asked for, not of the current one."""
    asked = []

    @contextlib.contextmanager
    def device(index):
        asked.append(index)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or half)
    assert native(torch.device("cuda", 1)) == half
    assert asked == [torch.device("cuda", 1)]


@pytest.mark.parametrize("processor", ["Zen 3", "Zen 4"])
def test_a_run_that_chooses_its_precision_is_bit_for_bit_one_in_that_precision(tmp_path, monkeypatch, processor):
    """It trains, is recorded, and draws like it."""
    chosen = "bfloat16" if on(monkeypatch, processor) else "float32"
    weights, drawn = [], []
    for kind in ("auto", "float32", "bfloat16"):
        out = tmp_path / kind
        settings = COMMON | TINY["digits-ddpm"] | {"training.previews": 0, "training.precision": kind}
        settings["sampling.precision"] = kind
        run = jensen.train("digits-ddpm", out, steps=2, settings=settings)
        weights.append(b"".join(p.numpy().tobytes() for p in run.model.parameters()))
        drawn.append(run.sample(2, seed=0).x)
        notes = [json.loads(line).get("note") for line in (out / "journal.jsonl").read_text().splitlines()]
        assert (f"training.precision auto: {chosen}" in notes) == (kind == "auto")
    expected = [kind == chosen for kind in ("float32", "bfloat16")]
    assert [weights[0] == w for w in weights[1:]] == [torch.equal(drawn[0], x) for x in drawn[1:]] == expected


@pytest.mark.parametrize("processor", ["Zen 3", "Zen 4"])
def test_who_asks_for_an_emulated_precision_is_told(tmp_path, monkeypatch, capsys, processor):
    """When training, and whenever samples are drawn."""
    half, run = on(monkeypatch, processor), tmp_path / "run"
    given = tiny("moons-diffusion", training__precision="bfloat16", sampling__precision="bfloat16")
    slow = "=bfloat16 is emulated on this device, which takes longer than float32: use auto"
    for command, key in (
        (
            ["train", "moons-diffusion", "--out", str(run), "--steps", "2", "--no-evaluate", *given],
            "training.precision",
        ),
        (["sample", str(run), "-n", "2"], f"{run / 'config.json'}: sampling.precision"),
        (["evaluate", str(run)], f"{run / 'config.json'}: sampling.precision"),
    ):
        assert main(command) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "emulated" in line]
        assert said == ([] if half else [f"jensen: {key}{slow}"])


@pytest.mark.parametrize("name", ["moons-vae", "digits-ddpm"])
def test_a_run_in_bfloat16_is_judged_in_float32(tmp_path, name):
    """What trains in mixed precision has weights and log-likelihoods in float32."""
    settings = COMMON | TINY[name] | {"training.previews": 0, "training.precision": "bfloat16"}
    run = jensen.train(name, tmp_path / "run", steps=2, settings=settings)
    seen = set()
    for layer in run.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _layer, _given, made: seen.add(made.dtype))
    rows = run.open_data().test[torch.arange(2)]
    cond = {"cond": [run.space.cond.names[k] for k in rows["cond"][:, 0].tolist()]} if name == "digits-ddpm" else {}
    assert run.log_likelihood(rows["x"], **cond).value.isfinite().all()
    assert seen == {torch.float32} == {p.dtype for p in run.model.parameters()}

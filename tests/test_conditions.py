"""Invalid conditions, times and settings of diffusion models raise a one-line error before anything is computed."""

from __future__ import annotations

import math

import pytest
import torch

from jensen.diffusion import CosineSchedule, GaussianOracle, NetworkDenoiser, VariancePreserving
from jensen.models import Diffusion
from jensen.nn import TimeMLP, UNet
from jensen.objectives import Denoising, VariationalDiffusion

UNIT = GaussianOracle(torch.zeros(2), torch.ones(2), VariancePreserving())


def unet(**changes):
    settings = {"alphabet": 5, "length": 3, "widths": (8, 16), "blocks": 1, "text_channels": 8}
    return UNet(1, (16, 32), **{**settings, **changes})


@pytest.mark.parametrize("ask", ["bound", "ode_log_likelihood"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.tensor([[0.0, math.nan], [1.0, 1.0], [math.inf, 0.0]]),
            "must be finite, got 2 of 3",
        ),
        (torch.tensor([[0.0, -math.inf]]), "must be finite, got 1 of 1"),
        (torch.zeros(0, 2), r"x must be \(B, ...\) with at least one row, got shape \(0, 2\)"),
        (torch.zeros(3, 2, dtype=torch.long), "x must be float32 or float64, got int64"),
        (torch.zeros(3, 2, dtype=torch.uint8), "x must be float32 or float64, got uint8"),
        (torch.zeros(3, 2).half(), "x must be float32 or float64, got float16"),
        (torch.zeros(3, 2).bfloat16(), "x must be float32 or float64, got bfloat16"),
        (torch.zeros(3, 3), r"rows must have the shape \(2,\), got \(3,\)"),
    ],
)
def test_rows_without_a_likelihood(ask, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(Diffusion(UNIT, (2,)), ask)(x)


@pytest.mark.parametrize("ask", ["bound", "ode_log_likelihood"])
@pytest.mark.parametrize("cond", [torch.zeros(3, 1, dtype=torch.long), torch.tensor(1)])
def test_conditions_are_one_a_row(ask, cond):
    model, x = Diffusion(UNIT, (2,)), torch.zeros(4, 2)
    with pytest.raises(ValueError, match="cond must be 4, one per row, got shape"):
        getattr(model, ask)(x, cond=cond)
    for carry in (lambda: model.sample(4, cond=cond), lambda: model.encode(x, cond=cond)):
        with pytest.raises(ValueError, match="conditions must be 4, one per row, got shape"):
            carry()
    for wrong in (lambda: model.encode(x[:, :1]), lambda: model.decode(x[:, :1])):
        with pytest.raises(ValueError, match=r"rows must have the shape \(2,\), got \(1,\)"):
            wrong()


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (torch.tensor([0, 4]), "conditions must be from 0 to 3, which stands for none, got 0 to 4"),
        (torch.tensor([-1, 2]), "conditions must be from 0 to 3, which stands for none, got -1 to 2"),
        (torch.tensor([[0, 1], [1, 2]]), r"conditions must have the shape \(2,\) or \(2, 1\), got \(2, 2\)"),
        (torch.tensor([0]), r"conditions must have the shape \(2,\) or \(2, 1\), got \(1,\)"),
        (torch.tensor(0), r"conditions must have the shape \(2,\) or \(2, 1\), got \(\)"),
        (torch.tensor([0.0, 1.0]), "conditions must be integers, got float32"),
        (torch.tensor([True, False]), "conditions must be integers, got bool"),
    ],
)
def test_classes_that_are_none(cond, message):
    net = TimeMLP((2,), width=8, blocks=1, classes=3)
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(2, 2), torch.zeros(2), cond)
    model = Diffusion(NetworkDenoiser(net, CosineSchedule(), null=torch.tensor([3])), (2,))
    if cond.ndim and len(cond) == 2:
        with pytest.raises(ValueError, match=message.split(" or ")[0].replace(r"\(2,\)", "")):
            model.sample(2, cond=cond, steps=2, chunk=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (torch.full((2, 3), 6), "conditions must be from 0 to 5, which stands for none, got 6 to 6"),
        (torch.full((2, 4), 1), r"conditions must have the shape \(2, 3\), got \(2, 4\)"),
        (torch.tensor([1, 2]), r"conditions must have the shape \(2, 3\), got \(2,\)"),
        (torch.full((3, 3), 1), r"conditions must have the shape \(2, 3\), got \(3, 3\)"),
        (torch.full((2, 3), 1.0), "conditions must be integers, got float32"),
    ],
)
def test_texts_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        unet()(torch.zeros(2, 1, 16, 32), torch.zeros(2), text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unet(blocks=0), "blocks, patch and outputs must be at least 1, got 1, 0, 4 and 1"),
        (lambda: unet(patch=0), "blocks, patch and outputs must be at least 1, got 1, 1, 0 and 1"),
        (lambda: unet(outputs=0), "outputs must be at least 1"),
        (lambda: unet(widths=()), r"widths must be at least one, each a multiple of 8, got \(\)"),
        (lambda: unet(widths=(8, 12)), r"widths must be at least one, each a multiple of 8, got \(8, 12\)"),
        (lambda: unet(widths=(0,)), r"widths must be at least one, each a multiple of 8, got \(0,\)"),
        (lambda: UNet(1, (0, 32), alphabet=5, length=3), r"a height and a width, .* got \(0, 32\) and 0"),
        (lambda: unet(attention=-1), "attention at least 0, got .* and -1"),
        (lambda: TimeMLP((2,), dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: unet(length=0), "alphabet, length and channels must be at least 1, got 5, 0 and 8"),
        (lambda: TimeMLP((2,), blocks=0), r"must be at least 1, got \(2,\), 256, 0, None and 1"),
        (lambda: TimeMLP((2, 0)), r"must be at least 1, got \(2, 0\), 256, 3, None and 1"),
        (lambda: TimeMLP((2,), classes=0), "must be at least 1"),
    ],
)
def test_networks_of_nothing(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("null", [torch.tensor(3), torch.tensor([3])])
def test_guidance_takes_the_conditions_that_its_network_takes(null):
    """Classes of shape (B,) and (B, 1) give equal draws, also with guidance; conditions of another shape than the
    null condition raise an error.
    """
    net = TimeMLP((2,), width=8, blocks=1, classes=3)
    torch.nn.init.normal_(net.exit.weight)
    model, labels = Diffusion(NetworkDenoiser(net, CosineSchedule(), null=null), (2,)), torch.tensor([0, 1, 3])

    def drawn(cond):
        rng = torch.Generator().manual_seed(0)
        return model.sample(3, cond=cond, steps=2, guidance=2.0, chunk=3, generator=rng)

    torch.testing.assert_close(drawn(labels), drawn(labels[:, None]), rtol=0, atol=0)
    for wrong in (labels[:, None].expand(3, 2), labels[:, None, None].expand(3, 1, 2)):
        with pytest.raises(ValueError, match="conditions must have the shape"):
            drawn(wrong)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_whole_dtype(dtype):
    net, z, t = TimeMLP((2,), width=8, blocks=1, classes=3), torch.randn(2, 2), torch.rand(2)
    labels, text = torch.tensor([0, 3]), torch.tensor([[0, 1, 5], [2, 2, 2]])
    assert torch.equal(net(z, t, labels.to(dtype)), net(z, t, labels))
    picture, unit = torch.randn(2, 1, 16, 32), unet()
    assert torch.equal(unit(picture, t, text.to(dtype)), unit(picture, t, text))


def test_an_ode_that_cannot_be_solved():
    with pytest.raises(ValueError, match="the velocity must be finite along the path from x, got a step size of 0"):
        Diffusion(UNIT, (2,)).ode_log_likelihood(torch.full((1, 2), 3e38))


@pytest.mark.parametrize("ask", ["encode", "decode"])
def test_only_finite_rows_are_carried(ask):
    with pytest.raises(ValueError, match="rows must be finite, got 1 of 2 that are not"):
        getattr(Diffusion(UNIT, (2,)), ask)(torch.tensor([[0.0, math.nan], [1.0, 2.0]]), sampler="ddim")


def test_no_condition_and_the_last_index_are_allowed():
    net, z, t = TimeMLP((2,), width=8, blocks=1, classes=3), torch.randn(2, 2), torch.rand(2)
    assert torch.equal(net(z, t), net(z, t, torch.tensor([[3], [3]])))
    assert unet()(torch.zeros(2, 1, 16, 32), torch.zeros(2), torch.full((2, 3), 5)).shape == (2, 1, 16, 32)


@pytest.mark.parametrize(("outputs", "learned"), [(1, False), (3, False), (2, True), (1, True)])
def test_a_network_of_another_shape_is_not_broadcast(outputs, learned):
    """An output with one column would broadcast against z_t with two, and train and sample without an error."""

    class Net(torch.nn.Module):
        def forward(self, z, t):
            return z.new_zeros(len(z), outputs)

    denoiser = NetworkDenoiser(Net(), CosineSchedule(), learned_variance=learned)
    wanted = rf"the network's output must be \(5, {4 if learned else 2}\), .*, got \(5, {outputs}\)"
    with pytest.raises(ValueError, match=wanted):
        denoiser(torch.zeros(5, 2), torch.full((5,), 0.5))


@pytest.mark.parametrize("objective", [Denoising, VariationalDiffusion])
def test_with_drop_1_every_row_is_trained_without_its_condition(objective):
    """The loss is that of a batch without conditions, and only the class "no class" gets a gradient."""
    net = TimeMLP((2,), width=8, blocks=1, classes=3)
    for block in net.blocks:
        torch.nn.init.normal_(block.modulate.weight)
    torch.nn.init.normal_(net.exit.weight)
    model = Diffusion(NetworkDenoiser(net, CosineSchedule(), null=torch.tensor([3])), (2,))
    x, cond, losses = torch.randn(8, 2), torch.arange(8)[:, None] % 3, []
    for drop, batch in ((1.0, {"x": x, "cond": cond}), (0.0, {"x": x}), (0.0, {"x": x, "cond": cond})):
        torch.manual_seed(0)
        losses.append(objective(model, drop=drop)(("model",), batch, 0)["model"].total)
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert net.label.weight.grad.abs().sum(1).gt(0).tolist() == [False, False, False, True]
    plain = Diffusion(NetworkDenoiser(TimeMLP((2,), width=8), CosineSchedule()), (2,))
    objective(plain, drop=1.0)(("model",), {"x": x, "cond": cond}, 0)
    with pytest.raises(ValueError, match="drop must be 0 or 1 for a denoiser without a null condition"):
        objective(plain, drop=0.9)

"""Gradient penalties of critics whose gradient is known in closed form."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from jensen.adversarial import clip_weights, dragan, gradient_penalty, power_iteration, r1, r2, spectral_norm
from jensen.core.seeding import generator

F64 = torch.float64


class Linear(nn.Module):
    """D(x) = w . x + 1 for events of any shape: the gradient is w at all points."""

    def __init__(self, *event):
        super().__init__()
        self.w = nn.Parameter(torch.randn(event, dtype=F64))

    def forward(self, x):
        return (self.w * x).reshape(len(x), -1).sum(1) + 1


class Quadratic(nn.Module):
    """D(x) = x' A x / 2 with A symmetric: the gradient is A x, and the gradient of |A x|^2 / 2 in A is known."""

    def __init__(self, d):
        super().__init__()
        self.a = nn.Parameter(torch.randn(d, d, dtype=F64))

    def matrix(self):
        return (self.a + self.a.T) / 2

    def forward(self, x):
        return ((x @ self.matrix()) * x).sum(1) / 2


def every(critic, real, fake):
    """All penalties by name, with draws that depend only on the seed."""
    return {
        "r1": r1(critic, real, 3.0),
        "r2": r2(critic, fake, 3.0),
        "two-sided": gradient_penalty(critic, real, fake, generator=generator(1)),
        "one-sided": gradient_penalty(critic, real, fake, sides=1, generator=generator(1)),
        "dragan": dragan(critic, real, 0.3, generator=generator(1)),
    }


@pytest.mark.parametrize("event", [(), (3,), (2, 4, 5), (1, 3, 3), (7, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("size", [0.2, 3.0])
def test_a_linear_critic_of_any_shape(event, size):
    """The norm is over all axes but the batch; over one axis the result would differ."""
    critic = Linear(*event)
    critic.w.data *= size / critic.w.norm().item()
    found = every(critic, torch.randn(4, *event, dtype=F64), torch.randn(4, *event, dtype=F64))
    exact = {
        "r1": 1.5 * size**2,
        "r2": 1.5 * size**2,
        "two-sided": 10 * (size - 1) ** 2,
        "one-sided": 10 * max(size - 1, 0) ** 2,
        "dragan": 10 * (size - 1) ** 2,
    }
    for name, value in exact.items():
        torch.testing.assert_close(found[name], torch.full((4,), value, dtype=F64), msg=name)


def test_double_backward_is_a_numerical_derivative():
    """The gradient of each penalty with respect to the critic's parameters; for R1 and the quadratic critic it is
    gamma A x x', symmetrised.
    """
    torch.manual_seed(3)
    real, fake = torch.randn(4, 3, dtype=F64), torch.randn(4, 3, dtype=F64)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    names, start = zip(*((n, p.detach()) for n, p in net.named_parameters()), strict=True)
    for name in every(net, real, fake):

        def total(*values, name=name):
            def critic(x):
                return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

            return every(critic, real, fake)[name].sum()

        assert torch.autograd.gradcheck(total, tuple(v.clone().requires_grad_() for v in start)), name
    critic = Quadratic(3)
    r1(critic, real, 3.0).sum().backward()
    moments = (real.T @ real) @ critic.matrix().detach()
    torch.testing.assert_close(critic.a.grad, 3.0 * (moments + moments.T) / 2)


def test_a_batch_of_one_equals_the_same_example_inside_a_batch():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)).double()
    real, fake = torch.randn(6, 2, 4, 4, dtype=F64), torch.randn(6, 2, 4, 4, dtype=F64)
    whole = every(net, real, fake)
    assert len({round(v, 12) for v in whole["r1"].tolist()}) == 6
    alone = every(net, real[:1], fake[:1])
    for name in ("r1", "r2", "two-sided", "one-sided"):  # the first draw belongs to the first example
        torch.testing.assert_close(alone[name], whole[name][:1])
    for k in range(6):
        torch.testing.assert_close(r1(net, real[k : k + 1]), r1(net, real)[k : k + 1])


class Flat(nn.Module):
    """D(x) = w |x|^2 / 2: no gradient at 0, and none anywhere while w = 0."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))

    def forward(self, x):
        return self.w * x.square().flatten(1).sum(1) / 2


@pytest.mark.parametrize(("critic", "x"), [(Flat(2.0), 0.0), (Flat(0.0), 1.0)], ids=["at 0", "w = 0"])
def test_safe_where_the_gradient_is_zero(critic, x):
    """Values by hand; finite first and second derivatives, also of the square root at 0."""
    real = torch.full((2, 3), x, dtype=F64)
    for name, value in {"r1": 0.0, "r2": 0.0, "two-sided": 10.0, "one-sided": 0.0}.items():
        found = every(critic, real, real)[name]
        assert found.tolist() == [value] * 2
        (first,) = torch.autograd.grad(found.sum(), critic.w, create_graph=True)
        assert bool(first.isfinite())
        (second,) = torch.autograd.grad(first, critic.w, allow_unused=True, materialize_grads=True)
        assert bool(second.isfinite())


def test_a_constant_critic_and_no_grad():
    x = torch.randn(3, 2)
    assert r1(lambda v: torch.ones(len(v)), x).tolist() == [0, 0, 0]
    with torch.no_grad():
        found = r1(lambda v: 2 * v[:, 0], x, 1.0)
    assert found.tolist() == [2, 2, 2]
    assert not found.requires_grad


def test_single_precision_under_autocast():
    """Equal to the result without autocast, which would run the critic's layers in bfloat16."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    real, fake = torch.randn(5, 8), torch.randn(5, 8)
    plain = every(net, real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(real).dtype == torch.bfloat16
        cast = every(net, real, fake)
        half = every(net, real.bfloat16(), fake.bfloat16())
    for name, value in plain.items():
        assert cast[name].dtype == half[name].dtype == torch.float32
        assert torch.equal(cast[name], value)
        torch.testing.assert_close(half[name], value, rtol=0.1, atol=0.02)
    rounded = every(net, real.bfloat16().float(), fake.bfloat16().float())
    assert torch.equal(half["two-sided"], rounded["two-sided"])


def test_penalties_are_functions_of_the_examples_too():
    """By numerical derivatives; detaching the examples does not change the critic's gradient."""
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real, fake = (torch.randn(3, 2, dtype=F64, requires_grad=True) for _ in range(2))
    kinds = {
        "r1": lambda x, y: r1(net, x, 3.0),
        "r2": lambda x, y: r2(net, y, 3.0),
        "wgan-gp": lambda x, y: gradient_penalty(net, x, y, generator=generator(5)),
        "dragan": lambda x, y: dragan(net, x, 0.1, generator=generator(5)),
    }
    for name, penalty in kinds.items():
        assert torch.autograd.gradcheck(penalty, (real, fake)), name
        attached, detached = penalty(real, fake), penalty(real.detach(), fake.detach())
        assert torch.equal(attached, detached)
        moves = [torch.autograd.grad(p.sum(), net[0].weight)[0] for p in (attached, detached)]
        torch.testing.assert_close(*moves, rtol=1e-12, atol=1e-14)


def test_between_real_and_generated():
    """One uniform epsilon per example: on the line from 0 to 1 the gradient of D = x^2 / 2 has norm epsilon. The
    mean of (eps - 1)^2 is 1/3, n = 20,000, 4 standard errors.
    """
    zeros, ones = torch.zeros(20_000, 1, dtype=F64), torch.ones(20_000, 1, dtype=F64)
    found = gradient_penalty(lambda x: x[:, 0] ** 2 / 2, ones, zeros, 1.0, generator=generator(5))
    assert found.mean().item() == pytest.approx(1 / 3, abs=4 * math.sqrt(4 / 45 / 20_000))
    noise = dragan(lambda x: x[:, 0] ** 2 / 2 + x[:, 0], zeros, 0.5, 1.0, generator=generator(5))  # |1 + delta| - 1
    exact = torch.randn(20_000, 1, dtype=F64, generator=generator(5)) * 0.5
    torch.testing.assert_close(noise, ((1 + exact).abs() - 1).square()[:, 0])


def test_no_examples_are_no_penalty():
    critic = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    x = torch.zeros(0, 3)
    for found in (r1(critic, x), r2(critic, x), gradient_penalty(critic, x, x), dragan(critic, x, 0.1)):
        assert found.shape == (0,)


def test_dragan_of_one_side_pushes_down_only():
    flat = dragan(lambda x: x @ torch.tensor([0.3, 0.4]), torch.zeros(2, 2), 0.1, sides=1)
    steep = dragan(lambda x: x @ torch.tensor([3.0, 4.0]), torch.zeros(2, 2), 0.1, sides=1)
    assert flat.tolist() == [0, 0]
    assert steep.tolist() == [160, 160]


def test_power_iterations_are_those_asked_for():
    """From a poor start, more iterations come closer to the largest singular value."""
    layer = nn.Linear(8, 8, bias=False)
    assert spectral_norm(nn.Sequential(layer), iterations=7)[0].parametrizations.weight[0].n_power_iterations == 7
    with pytest.raises(ValueError, match="none of them normalised yet"):
        spectral_norm(nn.utils.spectral_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        spectral_norm(nn.Linear(2, 2), iterations=0)


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)])
def test_spectral_norm_is_torchs_with_the_iterations_taken_out_of_forward(layer):
    """From the same vectors, a power iteration followed by forward gives torch's weight and gradient; forward alone
    changes no buffer, even in training mode.
    """
    theirs = nn.utils.parametrizations.spectral_norm(copy.deepcopy(layer).double())
    ours = spectral_norm(layer.double())
    ours.load_state_dict(theirs.state_dict())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    for _ in range(2):
        ours.weight.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    ours.zero_grad()
    power_iteration(ours)
    (ours.weight**2).sum().backward()
    (theirs.weight**2).sum().backward()
    torch.testing.assert_close(ours.weight, theirs.eval().weight, rtol=1e-12, atol=0)
    found, exact = (net.parametrizations.weight.original.grad for net in (ours, theirs))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


def test_what_is_no_penalty_is_refused():
    x, critic = torch.zeros(2, 3), Flat(1.0)
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        r1(critic, x, -1.0)
    with pytest.raises(ValueError, match="gamma must be at least 0, got nan"):
        r2(critic, x, math.nan)
    with pytest.raises(ValueError, match="weight must be at least 0, got -2"):
        gradient_penalty(critic, x, x, -2.0)
    with pytest.raises(ValueError, match=r"std must be at least 0, got -0\.1"):
        dragan(critic, x, -0.1)
    with pytest.raises(ValueError, match="sides must be 1 or 2, got 3"):
        gradient_penalty(critic, x, x, sides=3)
    with pytest.raises(ValueError, match=r"the same shape, got \(2, 3\) and \(1, 3\)"):
        gradient_penalty(critic, x, x[:1])
    with pytest.raises(ValueError, match=r"one logit per example, \(2,\), got \(2, 3\)"):
        r1(lambda v: v, x)
    with pytest.raises(ValueError, match="one logit per example"):
        r1(lambda v: v.sum(), x)
    r1(lambda v: v[:, :1], x)  # (B, 1) is one each


# -- spectral norm, clipping ------------------------------------------------------------------------------------------


def test_spectral_norm_bounds_every_layer_and_the_critic():
    """After some steps the largest singular value of each weight is 1, by SVD; the slope of the critic is at most 1."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    nn.init.normal_(net[2].weight, std=3)
    x = torch.randn(200, 4)
    assert r1(net, x, 2.0).max().item() > 1
    assert spectral_norm(net) is net
    for _ in range(200):
        power_iteration(net)
    for layer in (net[0], net[2], net[4]):
        assert torch.linalg.svdvals(layer.weight.detach())[0].item() == pytest.approx(1, abs=1e-4)
    assert r1(net, x, 2.0).max().item() <= 1 + 1e-3
    conv = spectral_norm(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), iterations=50)
    power_iteration(conv)
    assert torch.linalg.svdvals(conv[0].weight.detach().flatten(1))[0].item() == pytest.approx(1, abs=1e-4)
    for wrong in (nn.ReLU(), net):
        with pytest.raises(ValueError, match="none of them normalised yet"):
            spectral_norm(wrong)


def test_clipping():
    net = nn.Linear(3, 2)
    net.weight.data = torch.tensor([[0.5, -0.5, 0.001], [0.02, -0.003, 0.0]])
    clip_weights(net, 0.01)
    torch.testing.assert_close(net.weight.data, torch.tensor([[0.01, -0.01, 0.001], [0.01, -0.003, 0.0]]))
    assert net.weight.requires_grad
    assert net.bias.abs().max().item() <= 0.01
    with pytest.raises(ValueError, match="bound must be positive, got 0"):
        clip_weights(net, 0.0)

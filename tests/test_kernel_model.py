"""A kernel density as a model: exact values of its mixture, its samplers, and its bandwidth by gradient descent."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from jensen import check
from jensen.core.protocols import Bounded, Sampleable
from jensen.core.seeding import generator, generators
from jensen.data.pool import pool_stream
from jensen.models import KernelDensityModel, KernelSampling
from jensen.objectives import LeaveOneOut
from jensen.score import leave_one_out, leave_one_out_log_prob, scott, silverman
from jensen.training import Budget, fit
from test_training import new_state

F64 = torch.float64


def points(n=50, seed=0):
    return torch.randn(n, 2, generator=generator(seed), dtype=F64) * torch.tensor([1.0, 2.0]) + 3


@pytest.mark.parametrize(
    ("rule", "exact"), [("silverman", silverman), ("scott", scott), ("leave-one-out", leave_one_out)]
)
def test_the_bandwidth_is_the_rules(rule, exact):
    model = KernelDensityModel(points(), rule)
    assert model.density.bandwidth == pytest.approx(exact(points()), rel=1e-12)
    again = KernelDensityModel(torch.zeros(50, 2, dtype=F64), 1.0)
    again.load_state_dict(model.state_dict())
    x = points(7, seed=1)
    assert torch.equal(again.score(x), model.score(x))
    again.fit(points(seed=2), rule)
    assert again.density.bandwidth == pytest.approx(exact(points(seed=2)), rel=1e-12)


def test_its_likelihood_and_score_are_torchs_mixture():
    model = KernelDensityModel(points(), 0.4)
    x = points(9, seed=1).requires_grad_()
    law = MixtureSameFamily(
        Categorical(torch.ones(50, dtype=F64)), torch.distributions.Independent(Normal(points(), 0.4), 1)
    )
    log_p = law.log_prob(x)
    found = model.log_likelihood(x.detach())
    torch.testing.assert_close(found.value, log_p.detach())
    assert (found.kind, found.measure, found.stderr) == ("exact", "density", None)
    torch.testing.assert_close(model.score(x.detach()), torch.autograd.grad(log_p.sum(), x)[0])
    assert isinstance(model, Sampleable)
    assert isinstance(model, Bounded)


@pytest.mark.parametrize(("sampler", "factor"), [("exact", 1.0), ("langevin", 1 / (1 - 0.2 / 2)), ("mala", 1.0)])
def test_samplers_draw_a_single_kernel(sampler, factor):
    """One kernel N(3, h^2 I), h = 0.5, has variance h^2; Langevin dynamics with step size a h^2 has h^2 / (1 - a /
    2), up to the factor 0.8^400 of the initial state. n = 4,000 rows of 2 numbers, 4 standard errors.
    """
    model = KernelDensityModel(torch.full((1, 2), 3.0), 0.5, KernelSampling(chunk=1000))
    x = model.sample(4000, sampler=sampler, steps=200, generator=generator(0)) - 3
    variance = 0.25 * factor
    assert x.mean().item() == pytest.approx(0, abs=4 * (variance / 8000) ** 0.5)
    assert x.square().mean().item() == pytest.approx(variance, abs=4 * variance * (2 / 8000) ** 0.5)


def test_chains_cross_between_kernels_and_ascent_ends_in_the_modes():
    """Two kernels at -1 and 1, h = 0.6: the modes solve x = tanh(x / h^2); chains spend half of the time on either
    side. n = 1,000 chains, 4 standard errors.
    """
    model = KernelDensityModel(torch.tensor([[-1.0], [1.0]], dtype=F64), 0.6, KernelSampling(steps=300, chunk=1000))
    ends = model.sample(1000, sampler="ascent", generator=generator(0))
    mode = 1.0
    for _ in range(200):
        mode = math.tanh(mode / 0.36)
    torch.testing.assert_close(ends.abs(), torch.full_like(ends, mode), atol=1e-9, rtol=0)
    for sampler in ("langevin", "mala"):
        made = model.sample(1000, sampler=sampler, generator=generator(1))
        assert made.gt(0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    exact = model.density.sample(100_000, generator=generator(2)).square()
    made = model.sample(1000, sampler="mala", generator=generator(1)).square()
    assert made.mean().item() == pytest.approx(1.36, abs=4 * exact.std().item() / 1000**0.5)


@pytest.mark.parametrize("sampler", ["exact", "langevin", "mala", "ascent"])
def test_a_row_is_a_function_of_its_generator(sampler):
    model = KernelDensityModel(points().float(), 0.4, KernelSampling(sampler, steps=5, chunk=4))
    seen, done = [], []
    whole = model.sample(
        7, generator=generators(0, range(7)), on_step=lambda k, x: seen.append((k, len(x))), on_chunk=done.append
    )
    assert torch.equal(whole[4:6], model.sample(2, generator=generators(0, range(7))[4:6]))
    assert done == [4, 3]
    assert seen == ([] if sampler == "exact" else [(k, n) for n in (4, 3) for k in range(1, 6)])


def test_descent_finds_the_bandwidth_of_the_largest_leave_one_out_likelihood():
    """The loss over all rows and its slope in h are exact; 150 steps of Adam from h = 2, which costs over
    0.1 nats, come within 0.001 nats of the best."""
    model = KernelDensityModel(points(200), 2.0)
    h = torch.tensor(0.7, dtype=F64, requires_grad=True)
    value = leave_one_out_log_prob(points(), h)
    torch.testing.assert_close(value.detach(), leave_one_out_log_prob(points(), 0.7))
    torch.testing.assert_close(
        leave_one_out_log_prob(points(), 0.7, torch.tensor([3, 1, 3])), value[[3, 1, 3]].detach()
    )
    (slope,) = torch.autograd.grad(value.mean(), h)
    ahead, back = (leave_one_out_log_prob(points(), 0.7 + d).mean() for d in (1e-5, -1e-5))
    assert slope.item() == pytest.approx(float(ahead - back) / 2e-5, rel=1e-6)
    state = new_state(LeaveOneOut(model), rate=3e-2)
    fit(state, pool_stream(200, seed=0, x=points(200)), Budget(steps=150))
    best, found, start = (
        leave_one_out_log_prob(points(200), h).mean().item()
        for h in (leave_one_out(points(200)), state.average.density.bandwidth, 2.0)
    )
    assert best - start > 0.1
    assert 0 <= best - found < 1e-3
    check.resume(lambda: LeaveOneOut(KernelDensityModel(points(), 1.0)), pool_stream(8, seed=0, x=points())).require()


def test_what_a_kernel_density_refuses():
    with pytest.raises(
        ValueError, match="bandwidth must be a number or one of silverman, scott, leave-one-out, got 'x'"
    ):
        KernelDensityModel(points(), "x")
    with pytest.raises(ValueError, match="bandwidth and its square must be positive"):
        KernelDensityModel(points(), 0.0)
    model = KernelDensityModel(points())
    with pytest.raises(ValueError, match=r"points must have the shape \(50, 2\), got \(49, 2\)"):
        model.fit(points(49))
    for changes, message in (
        ({"sampler": "ddim"}, "sampler must be one of exact, langevin, mala, ascent, got 'ddim'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 2.0}, r"step_size must be in \(0, 2\), got 2.0"),
        ({"cond": torch.zeros(2, 1)}, "cond must be None for a model without conditions"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(2, **changes)

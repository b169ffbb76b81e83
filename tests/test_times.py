"""Training times lie inside (0, 1) for all draws; singular end points are refused or replaced by their limit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.diffusion import (
    BetaSchedule,
    Clipped,
    CosineSchedule,
    EmpiricalOracle,
    GaussianOracle,
    Guided,
    ImplicitProcess,
    LinearSchedule,
    MixtureOracle,
    NetworkDenoiser,
    Reconstruction,
    RectifiedSchedule,
    Schedule,
    bound,
    discrete_times,
    logit_normal_times,
    ode_log_likelihood,
    uniform_times,
)
from jensen.diffusion.times import rounded_down
from jensen.models import Diffusion
from jensen.objectives import Denoising, Hybrid, VariationalDiffusion

F64 = torch.float64
HIGHEST = 1 - 2.0**-24  # the largest number that torch draws in single precision


class Net(nn.Module):
    """A network that returns one number per view and records the times it is called with."""

    def __init__(self, outputs=1):
        super().__init__()
        self.weight, self.outputs, self.told = nn.Parameter(torch.tensor(0.1)), outputs, []

    def forward(self, z, t):
        self.told.append(t)
        return self.weight * torch.cat([z] * self.outputs, 1)


def model(output, schedule=None, **settings):
    denoiser = NetworkDenoiser(Net(**settings), schedule or CosineSchedule(), output=output)
    denoiser.learned_variance = denoiser.net.outputs == 2
    return Diffusion(denoiser, (2,))


@pytest.mark.parametrize("u", [0.0, 0.5, HIGHEST])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 256, 1000, 4096, 100_003])
def test_no_draw_is_an_end_and_each_stays_in_its_stratum(monkeypatch, n, u):
    monkeypatch.setattr(torch, "rand", lambda n, dtype: torch.full((n,), u, dtype=dtype))
    times = uniform_times(n)
    assert times.dtype == torch.float32
    assert bool(((times > 0) & (times < 1)).all())
    assert float(times.max()) <= 1 - (1 - u) / n / 2
    edges = torch.arange(n + 1).double() / n
    slack = 2.0**-24  # of float32 below 1
    assert bool(((times.sort().values >= edges[:-1] - slack) & (times.sort().values < edges[1:])).all())
    levels = discrete_times(n)(n).sort().values  # each level once
    torch.testing.assert_close(levels, edges[1:].float(), rtol=0, atol=0)
    assert bool(((logit_normal_times()(n) > 0) & (logit_normal_times()(n) < 1)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_changes_no_draw_but_its_precision(monkeypatch, dtype):
    """T levels i / T, all of them distinct in half precision; a draw of 1 - 2^-53 is not rounded to 1 in double
    precision.
    """
    n, single = 1000, [times(1000) for times in (discrete_times(1000), uniform_times, logit_normal_times(2.0, 3.0))]
    monkeypatch.setattr(torch, "rand", lambda n, dtype: torch.full((n,), HIGHEST, dtype=dtype))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = [times(n) for times in (discrete_times(n), uniform_times, logit_normal_times(2.0, 3.0))]
    finally:
        torch.set_default_dtype(before)
    for t, as_before in zip(made, single, strict=True):
        assert t.dtype == torch.promote_types(dtype, torch.float32)
        assert bool((t > 0).all())
        assert len(t.unique()) == len(as_before.unique())
    torch.testing.assert_close(made[0].sort().values, (torch.arange(n) + 1).to(made[0]) / n, rtol=1e-7, atol=0)
    assert bool((made[1] < 1).all())


def test_rounding_down():
    """Never above the number, while the next one is; representable numbers do not change."""
    t = torch.rand(2000, dtype=F64)
    down = rounded_down(t, torch.float32)
    assert bool((down <= t).all())
    assert bool((torch.nextafter(down, torch.ones_like(down)) > t).all())
    assert torch.equal(rounded_down(down.double(), torch.float32), down)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("u", [0.0, HIGHEST])
@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedSchedule()])
@pytest.mark.parametrize("output", ["x", "eps", "v", "flow", "edm"])
def test_every_view_trains_at_the_outermost_draws(monkeypatch, output, schedule, u, dtype):
    """All parametrizations have a finite loss and gradient at the smallest and largest times that can be drawn."""
    objective, x = Denoising(model(output, schedule).to(dtype)), torch.randn(256, 2)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), u))
    loss = objective(("model",), {"x": x.to(dtype)}, 0)["model"].total
    loss.backward()
    assert math.isfinite(loss.detach())
    assert math.isfinite(objective.model.denoiser.net.weight.grad)


def test_the_bound_never_draws_its_last_level(monkeypatch):
    """The draws nearest to it in double precision are not rounded to t = 1 in single precision."""
    diffusion, x = model("v"), torch.randn(64, 2)
    monkeypatch.setattr(torch.special, "ndtr", lambda z: torch.full_like(z, 1e-15))
    bound(diffusion.denoiser, x, strata=2, samples=1)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), HIGHEST))
    VariationalDiffusion(diffusion)(("model",), {"x": x}, 0)
    told = torch.cat(diffusion.denoiser.net.told)
    assert 0.999999 < float(told.max()) < 1


@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedSchedule()])
def test_objectives_say_at_once_what_a_view_cannot_do(schedule):
    """Levels at t = 1, where alpha = 0, with a network of eps; at t = 0, where sigma = 0, with one of x."""
    eps, x = model("eps", schedule), model("x", schedule)
    late = "finite x and eps, got t = 1, where alpha = 0"
    for refused in (
        lambda: Denoising(eps, times=discrete_times(1000)),
        lambda: Hybrid(model("eps", schedule, outputs=2), steps=1000),
        lambda: VariationalDiffusion(eps),
        lambda: VariationalDiffusion(eps, steps=10),
        lambda: bound(eps.denoiser, torch.zeros(1, 2)),
        lambda: bound(Clipped(eps.denoiser, -1.0, 1.0), torch.zeros(1, 2), steps=4),
        lambda: ode_log_likelihood(eps.denoiser, torch.zeros(1, 2)),
    ):
        with pytest.raises(ValueError, match=late):
            refused()
    assert eps.denoiser.net.told == []  # before the network is asked
    with pytest.raises(ValueError, match="finite x and eps, got t = 0, where alpha = 1 and sigma = 0"):
        Denoising(x, times=torch.zeros)
    before = torch.get_rng_state()
    Denoising(eps)
    Denoising(x, times=discrete_times(10))
    VariationalDiffusion(eps, span=(0.01, 0.99))
    VariationalDiffusion(x, reconstruction=Reconstruction("denoised"))
    for output in ("v", "flow", "edm"):
        Denoising(model(output, schedule), times=lambda n: torch.linspace(0, 1, n))
    Denoising(model("eps", LinearSchedule()), times=discrete_times(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_guidance_passes_on_what_its_denoiser_cannot_do():
    denoiser = model("eps").denoiser
    denoiser.null = torch.zeros(1)
    with pytest.raises(ValueError, match="where alpha = 0"):
        Guided(denoiser, 2.0).check_times(torch.ones(1))


# singular ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), BetaSchedule(torch.full((8,), 0.2))])
def test_the_implicit_family_leaves_data_exactly(schedule):
    """From t = 0, where z = alpha x, Bayes' rule gives the marginal; it is the limit from small noise levels."""
    times, x = torch.tensor([0.0, 0.3, 0.8], dtype=F64), torch.randn(5, 2, dtype=F64)
    at_zero = ImplicitProcess.of_eta(schedule, times, 1.0).forward(x, x, 1)
    alpha, sigma = schedule.alpha_sigma(times[1])
    torch.testing.assert_close(at_zero.mean, alpha * x)
    torch.testing.assert_close(at_zero.stddev, sigma.expand(5, 2))
    near = ImplicitProcess.of_eta(schedule, times + torch.tensor([1e-9, 0, 0]), 1.0)
    start = near.marginal(x, 0)
    above = near.forward(start.mean, x, 1)
    torch.testing.assert_close(above.mean, at_zero.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(above.stddev, at_zero.stddev, rtol=0, atol=1e-6)


def test_points_without_noise_have_no_density():
    zero, z = torch.zeros(1), torch.zeros(1, 1)
    mixture = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[0.0], [0.3]], CosineSchedule())
    point = GaussianOracle(torch.zeros(1), torch.zeros(1), CosineSchedule())
    for asked in (mixture, mixture.log_prob, mixture.log_share, mixture.entropy, point):
        with pytest.raises(ValueError, match="variance 0 has no density at sigma = 0"):
            asked(zero) if asked == mixture.entropy else asked(z, zero)
    with pytest.raises(ValueError, match="the variance of z_t must be positive"):
        point.flow(z.double(), zero.double(), torch.ones(1).double())
    assert point.flow(z.double(), torch.ones(1).double(), zero.double()).item() == 0
    data = EmpiricalOracle(torch.tensor([[-1.0], [1.0]]), CosineSchedule())
    for asked in (data, data.log_prob):
        with pytest.raises(ValueError, match="no density and no finite eps at sigma = 0"):
            asked(z, zero)
    unit = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    with pytest.raises(ValueError, match="the score cannot be computed"):
        _ = unit(z, zero).score


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), RectifiedSchedule()])
def test_the_inverse_of_the_log_snr_is_clipped(schedule):
    """Beyond the log-SNR of the last level, and at infinity, the time is 1; also by bisection."""
    ends = torch.tensor([math.inf, -60.0, -math.inf], dtype=F64)
    torch.testing.assert_close(schedule.time(ends), torch.tensor([0.0, 1.0, 1.0], dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(Schedule.time(schedule, ends), schedule.time(ends), rtol=0, atol=1e-12)

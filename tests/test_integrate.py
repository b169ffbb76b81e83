"""The sampling loop: the original DDPM chain, constant noise levels, half precision, times that collapse."""

from __future__ import annotations

import pytest
import torch

from jensen.core.seeding import generator
from jensen.diffusion import (
    SAMPLERS,
    Ancestral,
    BetaSchedule,
    CosineSchedule,
    Euler,
    FunctionSchedule,
    GaussianOracle,
    Heun,
    LinearSchedule,
    NetworkDenoiser,
    Schedule,
    integrate,
    time_grid,
)
from jensen.diffusion.samplers.probability_flow import velocity

F64 = torch.float64
BETAS = torch.linspace(1e-2, 0.3, 10, dtype=F64)
named = pytest.mark.parametrize("name", SAMPLERS)
exponential = pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("euler", "heun")])


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_t_steps_are_ddpms_own_chain(variance):
    """Algorithm 2 of the DDPM paper in its notation, with the same noise; the last step adds none."""
    schedule, z = BetaSchedule(BETAS), torch.randn(6, 2, dtype=F64)
    oracle = GaussianOracle(torch.tensor([0.3, -0.5]), torch.tensor([0.5, 1.5]), schedule)
    rng, bar, expected = generator(1), (1 - BETAS).cumprod(0), z
    for i in range(9, -1, -1):
        eps = oracle(expected, torch.full((6,), (i + 1) / 10, dtype=F64)).eps
        expected = (expected - BETAS[i] / (1 - bar[i]).sqrt() * eps) / (1 - BETAS[i]).sqrt()
        if i > 0:
            square = BETAS[i] * (1 if variance == "forward" else (1 - bar[i - 1]) / (1 - bar[i]))
            expected = expected + square.sqrt() * torch.randn(6, 2, dtype=F64, generator=rng)
    made = integrate(Ancestral(variance), oracle, z, time_grid("uniform", 10, schedule), generator=generator(1))
    torch.testing.assert_close(made, expected, rtol=1e-11, atol=1e-11)


@exponential
@pytest.mark.parametrize("steps", [10, 12, 25])
def test_betas_lead_all_the_way_to_data_at_a_point(name, steps):
    """With at least as many steps as betas, if all data are one point, all samples are that point."""
    schedule = BetaSchedule(BETAS)
    oracle = GaussianOracle(torch.tensor([0.75]), torch.tensor([0.0]), schedule)
    made = integrate(SAMPLERS[name], oracle, torch.randn(50, 1, dtype=F64), time_grid("uniform", steps, schedule))
    torch.testing.assert_close(made, torch.full((50, 1), 0.75, dtype=F64), rtol=0, atol=1e-12)


class Plateau(Schedule):
    """The cosine schedule, constant from t = 0.4 to 0.6."""

    def log_snr(self, t):
        return CosineSchedule().log_snr(torch.where(t < 0.4, t / 0.8, torch.where(t > 0.6, (t - 0.2) / 0.8, 0.5)))


@named
def test_a_step_between_equal_levels_is_the_identity(name):
    """The step changes nothing, alone or within a path, with noise and memory: the path equals the one without this
    step."""
    oracle = GaussianOracle(torch.tensor([1.0, -2.0]), torch.tensor([0.25, 4.0]), Plateau())
    z = torch.randn(4, 2, dtype=F64)
    for dtype in (F64, torch.float32, torch.bfloat16):
        still = z.to(dtype)
        assert torch.equal(integrate(SAMPLERS[name], oracle, still, torch.tensor([0.58, 0.5, 0.45])), still)
    times = torch.tensor([0.9, 0.8, 0.7, 0.58, 0.42, 0.3, 0.2, 0.1], dtype=F64)
    longer = torch.cat([times[:4], torch.tensor([0.55, 0.5, 0.45], dtype=F64), times[4:]])
    path, whole = (integrate(SAMPLERS[name], oracle, z, t, generator=generator(0)) for t in (times, longer))
    assert torch.equal(path, whole)


class Rounded(Plateau):
    """The same plateau with rounding errors in its log-SNR, which does not always decrease."""

    def log_snr(self, t):
        return super().log_snr(t) + torch.where((t > 0.4) & (t < 0.6), 1e-15 * torch.sin(1e3 * t), 0)


@named
def test_levels_that_differ_by_rounding_are_equal(name):
    """No sampler divides by the rounding errors of a plateau: the path equals that over an exact plateau to 1e-9."""
    z, times = torch.randn(4, 2, dtype=F64), torch.linspace(0.9, 0.1, 41, dtype=F64)
    made = [
        integrate(SAMPLERS[name], oracle, z, times, generator=generator(0))
        for oracle in (GaussianOracle(torch.zeros(2), torch.ones(2) / 2, s) for s in (Plateau(), Rounded()))
    ]
    torch.testing.assert_close(*made, rtol=0, atol=1e-9)


@named
def test_half_precision_rounds_z_and_nothing_else(name):
    """150 steps with equal noise in float32 and half precision: samples differ by a few roundings; for DDIM, which
    recomputes z from both predictions, the roundings add up.
    """
    oracle = GaussianOracle(torch.tensor([0.5]), torch.tensor([0.09]), CosineSchedule())
    z, times = torch.randn(200, 1).bfloat16(), time_grid("uniform", 150, CosineSchedule(), start=0.999)
    exact, made = (integrate(SAMPLERS[name], oracle, v, times, generator=generator(0)) for v in (z.float(), z))
    assert made.dtype == torch.bfloat16
    roundings = float((made.float() - exact).abs().max()) / torch.finfo(torch.bfloat16).eps
    assert roundings < (25 if name == "ddim" else 6)


class Halved(torch.nn.Linear):
    """A network whose parameters and output have half precision."""

    def forward(self, z, t):
        assert z.dtype == t.dtype == self.weight.dtype
        return super().forward(z) + t[:, None]


@pytest.mark.parametrize("output", ["x", "eps", "v", "flow", "edm"])
def test_a_network_of_half_precision_is_seen_in_every_view(output):
    """Its output is rounded to bfloat16; its other parametrizations and the noise levels are not."""
    net = Halved(2, 2)
    full = NetworkDenoiser(net, CosineSchedule(), output=output)
    z, t = torch.randn(5, 2).bfloat16(), torch.linspace(0.02, 0.998, 5)
    exact = torch.nn.Linear.forward(net.bfloat16(), z) + t.bfloat16()[:, None]
    p, (alpha, sigma) = full(z, t), (v[:, None] for v in CosineSchedule().alpha_sigma(t))
    assert p.x.dtype == p.eps.dtype == torch.float32
    torch.testing.assert_close(alpha * p.x + sigma * p.eps, z.float(), rtol=0, atol=1e-4)
    if output != "edm":
        torch.testing.assert_close(p.view(output), exact.float(), rtol=1e-4, atol=1e-4)
    made = integrate(SAMPLERS["dpm++"], full, z, time_grid("uniform", 8, CosineSchedule(), start=0.98, end=0.02))
    assert made.dtype == torch.bfloat16
    assert bool(made.isfinite().all())


def test_times_that_collapse_are_refused():
    """Times 1e-9 apart are equal in float32 and different in float64."""
    oracle = GaussianOracle(torch.zeros(1), torch.ones(1), CosineSchedule())
    times, z = torch.tensor([0.5, 0.5 - 1e-9, 0.2], dtype=F64), torch.ones(1, 1)
    for sampler in SAMPLERS.values():
        for dtype in (torch.float32, torch.float16):
            with pytest.raises(ValueError, match=r"strictly decreasing .* in float32"):
                integrate(sampler, oracle, z.to(dtype), times)
        assert bool(integrate(sampler, oracle, z.double(), times).isfinite())
    with pytest.raises(ValueError, match=r"strictly decreasing .* in float32"):
        integrate(Euler(), oracle, z.bfloat16(), time_grid("uniform", 1000, CosineSchedule()).bfloat16())
    with pytest.raises(ValueError, match=r"z must be rows of floating-point numbers, .* got int64"):
        integrate(Euler(), oracle, torch.ones(1, 1, dtype=torch.long), times)


@pytest.mark.parametrize(
    "schedule", [LinearSchedule(), BetaSchedule(BETAS), FunctionSchedule(lambda t: 1 - t - torch.log(t))]
)
@pytest.mark.parametrize("sampler", [Euler(), Heun()])
def test_an_infinite_velocity_is_refused(schedule, sampler):
    """If sigma starts like the square root of t, no path in t can leave t = 0; arriving there is possible."""
    oracle = GaussianOracle(torch.zeros(1), torch.ones(1), schedule)
    z = torch.ones(1, 1, dtype=F64)
    with pytest.raises(ValueError, match=r"the velocity must be finite, .* at t = 0"):
        integrate(sampler, oracle, z, torch.tensor([0.0, 0.1], dtype=F64))
    with pytest.raises(ValueError, match=r"the velocity must be finite, .* at t = 0"):
        velocity(oracle, z, torch.tensor(0.0))
    assert bool(integrate(sampler, oracle, z, torch.tensor([0.2, 0.1, 0.0], dtype=F64)).isfinite())

"""The recipe digits-edm against Karras et al. (2022), table 1 and algorithm 1, for data of standard deviation 1/2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jensen.data.space import Space
from jensen.diffusion import KarrasSchedule, Prediction, log_normal_times
from jensen.diffusion.losses import edm
from jensen.recipes.families.diffusion import Diffusion
from jensen.recipes.words import changed, preset

STD, MEAN, SPREAD, RHO = 0.5, -1.2, 1.2, 7  # sigma_data, P_mean, P_std, rho
SPACE = Space((3,), std=STD)
FAMILY = preset("digits-edm").family
assert isinstance(FAMILY, Diffusion)


class Net(nn.Module):
    """A network whose output is a fixed function of its input and its time."""

    def forward(self, x, t):
        return torch.tanh(x) + t[:, None]


def model(net):
    """The recipe's model of points of standard deviation 1/2, with this network."""
    made = FAMILY.model(SPACE).double()
    made.denoiser.net = net
    return made


def sigmas(n=18):
    """Equation 5."""
    low, high = 0.002 ** (1 / RHO), 80 ** (1 / RHO)
    return (high + torch.arange(n, dtype=torch.float64) / (n - 1) * (low - high)) ** RHO


@pytest.mark.usefixtures("double_precision")
def test_its_steps_are_those_of_equation_5():
    made = model(Net())
    levels = made.denoiser.schedule.alpha_sigma(made.times(made.sampling))[1] * STD
    assert levels.tolist() == pytest.approx(sigmas().tolist(), rel=1e-12)
    assert sigmas()[[0, 1, 17]].tolist() == pytest.approx([80.0, 57.586, 0.002], rel=1e-5)
    t = torch.linspace(0, 1, 11)
    log_sigma = KarrasSchedule().alpha_sigma(t)[1].log()
    slope = (KarrasSchedule().clock(t) - KarrasSchedule().clock(t[:1])) / (log_sigma - log_sigma[0])
    assert slope[1:].tolist() == pytest.approx([1 / math.log(160 / 0.004)] * 10)  # log(sigma) / 4, up to scale
    assert KarrasSchedule().time(KarrasSchedule().log_snr(t)).tolist() == pytest.approx(t.tolist(), abs=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_its_preconditioning_is_that_of_table_1():
    made, net = model(Net()), Net()
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for sigma in (0.002, 0.3, 5.0, 80.0):
        t = made.denoiser.schedule.time(-2 * torch.tensor(sigma / STD).log()).expand(6)
        x = made.restore(made.denoiser(y / STD, t).x)
        total = sigma**2 + STD**2
        time = made.denoiser.schedule.clock(t)
        skip, out, into = STD**2 / total, sigma * STD / total**0.5, total**-0.5
        torch.testing.assert_close(x, skip * y + out * net(into * y, time), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("double_precision")
def test_its_loss_has_the_weight_of_table_1():
    rng = torch.Generator().manual_seed(0)
    x, found, eps = torch.randn(3, 6, 3, generator=rng)
    for sigma in (0.01, 0.5, 20.0):
        level = torch.full((6, 1), sigma / STD)
        prediction = Prediction.of_x(found / STD, (x + sigma * eps) / STD, torch.ones(6, 1), level)
        weight = (sigma**2 + STD**2) / (sigma * STD) ** 2
        torch.testing.assert_close(edm(prediction, x / STD, eps), weight * (found - x).square().mean(1))


@pytest.mark.usefixtures("double_precision")
def test_its_noise_is_log_normal():
    """Of 100,000 stratified times, every quantile is within a stratum of the exact one."""
    n, schedule = 100_000, KarrasSchedule()
    torch.manual_seed(0)
    for times in (log_normal_times(schedule), FAMILY.objective(model(Net()), SPACE).times):
        log_sigma = (schedule.alpha_sigma(times(n))[1] * STD).log().sort().values
        for q in (0.01, 0.25, 0.5, 0.9):
            exact = MEAN + SPREAD * float(torch.special.ndtri(torch.tensor(q)))
            assert float(log_sigma[int(q * n)]) == pytest.approx(exact, abs=1e-3)
        assert float(log_sigma.std()) == pytest.approx(SPREAD, rel=1e-3)
    with pytest.raises(ValueError, match="std and data_std must be positive"):
        log_normal_times(schedule, std=0.0)
    with pytest.raises(ValueError, match="0 < smallest < largest"):
        KarrasSchedule(1.0, 0.5)


@pytest.mark.usefixtures("double_precision")
def test_its_samples_are_those_of_algorithm_1():
    """17 steps of Heun and one to sigma = 0, on the same noise: 35 evaluations of the network."""
    made, calls = model(Net()), []
    made.denoiser.net.register_forward_hook(lambda *_: calls.append(1))
    x = 80 * torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    found = made.decode(x / STD)
    assert len(calls) == 35

    def slope(x, sigma):
        t = made.denoiser.schedule.time(-2 * (sigma / STD).log()).expand(len(x))
        return (x - made.restore(made.denoiser(x / STD, t).x)) / sigma

    levels = sigmas()
    for now, after in zip(levels, [*levels[1:], 0 * levels[0]], strict=True):
        d = slope(x, now)
        step = x + (after - now) * d
        x = step if after == 0 else x + (after - now) * (d + slope(step, after)) / 2
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_any_recipe_of_diffusion_takes_its_settings_from_the_command_line():
    words = [
        "network.schedule=edm",
        "network.output=edm",
        "loss.name=edm",
        "loss.times=log-normal",
        "loss.time_mean=-1.2",
        "loss.time_std=1.2",
        "sampling.sampler=heun",
        "sampling.steps=17",
        "sampling.grid=karras",
        "sampling.start=1",
        "sampling.denoise=true",
        "sampling.clip=false",
    ]
    assert changed(preset("digits-ddpm"), [*words, "sampling.guidance=1"]).family == FAMILY

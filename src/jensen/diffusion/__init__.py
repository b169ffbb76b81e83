"""Diffusion: schedules, denoisers, guidance, losses, samplers and exact oracles."""

from jensen.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from jensen.diffusion.guidance import Clipped, Guided
from jensen.diffusion.losses import min_snr, simple
from jensen.diffusion.oracle import GaussianOracle, MixtureOracle
from jensen.diffusion.process import Process
from jensen.diffusion.samplers import (
    DDIM,
    SAMPLERS,
    Ancestral,
    DPMSolver,
    Sampler,
    integrate,
    time_grid,
)
from jensen.diffusion.schedule import (
    SCHEDULES,
    CosineSchedule,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
)
from jensen.diffusion.times import logit_normal_times, uniform_times

__all__ = [
    "DDIM",
    "SAMPLERS",
    "SCHEDULES",
    "Ancestral",
    "Clipped",
    "CosineSchedule",
    "DPMSolver",
    "Denoiser",
    "GaussianOracle",
    "Guided",
    "LinearSchedule",
    "MixtureOracle",
    "NetworkDenoiser",
    "Prediction",
    "Process",
    "RectifiedSchedule",
    "Sampler",
    "Schedule",
    "integrate",
    "logit_normal_times",
    "min_snr",
    "simple",
    "time_grid",
    "uniform_times",
]

"""Diffusion: schedules, denoisers, guidance, losses, samplers and exact oracles."""

from jensen.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from jensen.diffusion.guidance import Clipped, Guided
from jensen.diffusion.losses import min_snr, simple
from jensen.diffusion.oracle import EmpiricalOracle, GaussianOracle, MixtureOracle
from jensen.diffusion.process import Process
from jensen.diffusion.samplers import (
    DDIM,
    SAMPLERS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    Euler,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    integrate,
    time_grid,
)
from jensen.diffusion.schedule import (
    SCHEDULES,
    BetaSchedule,
    CosineSchedule,
    FunctionSchedule,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    VarianceExploding,
    VariancePreserving,
)
from jensen.diffusion.times import logit_normal_times, uniform_times

__all__ = [
    "DDIM",
    "SAMPLERS",
    "SCHEDULES",
    "Ancestral",
    "AnnealedLangevin",
    "BetaSchedule",
    "Clipped",
    "CosineSchedule",
    "DPMSolver",
    "Denoiser",
    "EmpiricalOracle",
    "Euler",
    "FunctionSchedule",
    "GaussianOracle",
    "Guided",
    "Heun",
    "LinearSchedule",
    "MixtureOracle",
    "NetworkDenoiser",
    "Prediction",
    "PredictorCorrector",
    "Process",
    "RectifiedSchedule",
    "Sampler",
    "Schedule",
    "UniPC",
    "VarianceExploding",
    "VariancePreserving",
    "integrate",
    "logit_normal_times",
    "min_snr",
    "simple",
    "time_grid",
    "uniform_times",
]

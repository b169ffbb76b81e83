"""Samplers: each file defines one step; all share one loop."""

from jensen.diffusion.samplers.adams import Adams
from jensen.diffusion.samplers.ancestral import Ancestral
from jensen.diffusion.samplers.base import Memory, Sampler, integrate, time_grid
from jensen.diffusion.samplers.ddim import DDIM
from jensen.diffusion.samplers.dpm_solver import DPMSolver
from jensen.diffusion.samplers.langevin import AnnealedLangevin, PredictorCorrector
from jensen.diffusion.samplers.probability_flow import Euler, Heun
from jensen.diffusion.samplers.unipc import UniPC

SAMPLERS: dict[str, Sampler] = {
    "dpm++": DPMSolver(),
    "dpm++3": DPMSolver(order=3),
    "dpm++sde": DPMSolver(noise=True),
    "unipc": UniPC(),
    "adams": Adams(),
    "adams-bashforth": Adams(corrected=False),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "ancestral": Ancestral(),
    "predictor-corrector": PredictorCorrector(DDIM()),
}

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Adams",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolver",
    "Euler",
    "Heun",
    "Memory",
    "PredictorCorrector",
    "Sampler",
    "UniPC",
    "integrate",
    "time_grid",
]

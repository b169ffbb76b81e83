"""Ways to train."""

from jensen.objectives.denoising import Denoising, Hybrid
from jensen.objectives.reading import Reading
from jensen.objectives.variational import Variational
from jensen.objectives.variational_diffusion import VariationalDiffusion

__all__ = ["Denoising", "Hybrid", "Reading", "Variational", "VariationalDiffusion"]

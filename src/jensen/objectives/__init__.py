"""Ways to train."""

from jensen.objectives.denoising import Denoising
from jensen.objectives.reading import Reading
from jensen.objectives.variational import Variational

__all__ = ["Denoising", "Reading", "Variational"]

"""Ways to train."""

from jensen.objectives.denoising import Denoising
from jensen.objectives.reading import Reading

__all__ = ["Denoising", "Reading"]

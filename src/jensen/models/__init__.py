"""Things you sample."""

from jensen.models.diffusion import Diffusion, Sampling

__all__ = ["Diffusion", "Sampling"]

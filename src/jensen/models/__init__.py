"""Models that can be sampled."""

from jensen.models.autodecoder import AutoDecoder
from jensen.models.autoencoder import Autoencoder
from jensen.models.cyclegan import CycleGAN
from jensen.models.diffusion import Diffusion, Sampling
from jensen.models.gan import GAN
from jensen.models.hvae import HVAE, LadderVAE, LatentChain
from jensen.models.kernel import KernelDensityModel, KernelSampling
from jensen.models.score import Annealing, NoiseConditional, ScoreModel, as_diffusion
from jensen.models.traversal import traversal
from jensen.models.vae import VAE

__all__ = [
    "GAN",
    "HVAE",
    "VAE",
    "Annealing",
    "AutoDecoder",
    "Autoencoder",
    "CycleGAN",
    "Diffusion",
    "KernelDensityModel",
    "KernelSampling",
    "LadderVAE",
    "LatentChain",
    "NoiseConditional",
    "Sampling",
    "ScoreModel",
    "as_diffusion",
    "traversal",
]

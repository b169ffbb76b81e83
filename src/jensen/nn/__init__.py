"""Neural networks."""

from jensen.nn.embeddings import Waves
from jensen.nn.mlp import TimeMLP, mlp
from jensen.nn.pictures import ChannelNorm, PictureCritic, PictureGenerator
from jensen.nn.reader import Reader
from jensen.nn.translation import PatchCritic, Translator
from jensen.nn.unet import UNet

__all__ = [
    "ChannelNorm",
    "PatchCritic",
    "PictureCritic",
    "PictureGenerator",
    "Reader",
    "TimeMLP",
    "Translator",
    "UNet",
    "Waves",
    "mlp",
]

"""Neural networks."""

from jensen.nn.embeddings import RandomFourierFeatures
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
    "RandomFourierFeatures",
    "Reader",
    "TimeMLP",
    "Translator",
    "UNet",
    "mlp",
]

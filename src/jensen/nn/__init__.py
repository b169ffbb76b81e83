"""Neural networks."""

from jensen.nn.coders import PictureDecoder, PictureEncoder
from jensen.nn.embeddings import RandomFourierFeatures
from jensen.nn.mlp import TimeMLP, mlp
from jensen.nn.pictures import ChannelNorm, PictureCritic, PictureGenerator
from jensen.nn.reader import AttentiveReader, Classifier, Reader, Recogniser
from jensen.nn.residual_gan import ResidualCritic, ResidualGenerator
from jensen.nn.sizes import Role, Size, operations, parameters, sized
from jensen.nn.standard import Standardized
from jensen.nn.translation import PatchCritic, Translator
from jensen.nn.unet import UNet

__all__ = [
    "AttentiveReader",
    "ChannelNorm",
    "Classifier",
    "PatchCritic",
    "PictureCritic",
    "PictureDecoder",
    "PictureEncoder",
    "PictureGenerator",
    "RandomFourierFeatures",
    "Reader",
    "Recogniser",
    "ResidualCritic",
    "ResidualGenerator",
    "Role",
    "Size",
    "Standardized",
    "TimeMLP",
    "Translator",
    "UNet",
    "mlp",
    "operations",
    "parameters",
    "sized",
]

"""Networks."""

from jensen.nn.mlp import TimeMLP, mlp
from jensen.nn.reader import Reader
from jensen.nn.translation import PatchCritic, Translator
from jensen.nn.unet import UNet

__all__ = ["PatchCritic", "Reader", "TimeMLP", "Translator", "UNet", "mlp"]

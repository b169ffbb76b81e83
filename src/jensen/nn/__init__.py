"""Networks."""

from jensen.nn.reader import Reader
from jensen.nn.unet import UNet

__all__ = ["Reader", "UNet"]

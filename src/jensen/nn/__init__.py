"""Networks."""

from jensen.nn.mlp import TimeMLP, mlp
from jensen.nn.reader import Reader
from jensen.nn.unet import UNet

__all__ = ["Reader", "TimeMLP", "UNet", "mlp"]

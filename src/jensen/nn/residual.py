"""Parts of residual networks."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 8


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the norms over 8 groups of channels of one picture."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def zero(layer: nn.Conv1d | nn.Conv2d) -> None:
    """Set a layer to zero, so that its residual branch adds nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check_sizes(width: int, **sizes: int) -> None:
    """Raise a ValueError for a width that is not a multiple of 8, or any size below 1."""
    if width < 1 or width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS}, got {width}")
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

"""A network that reads a picture of text."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jensen.core.modes import evaluating


def _block(channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Reader(nn.Module):
    """Convolutions, a bidirectional GRU over columns, and one softmax per character.

    Args:
        channels: of the picture, whose values lie in [-1, 1].
        alphabet: number of different characters.
        length: number of characters in a text.
        width: channels of the first convolutions.

    >>> Reader(1, alphabet=10, length=4)(torch.zeros(2, 1, 24, 64)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(self, channels: int, *, alphabet: int, length: int, width: int = 32):
        super().__init__()
        self.length, columns, rows = length, 4 * length, 3
        self.features = nn.Sequential(
            _block(channels, width),
            _block(width, width, 2),
            _block(width, 2 * width),
            _block(2 * width, 2 * width, 2),
            _block(2 * width, 4 * width),
            _block(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d((rows, columns)),
        )
        self.mix = nn.Sequential(nn.Conv1d(rows * 4 * width, 128, 1), nn.ReLU(), nn.Dropout(0.1))
        self.columns = nn.GRU(128, 96, batch_first=True, bidirectional=True)
        self.head = nn.Linear(columns * 192, length * alphabet)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b length alphabet"]:
        h = self.mix(self.features(x).flatten(1, 2)).transpose(1, 2)
        h, _ = self.columns(h)
        logits: Tensor = self.head(h.flatten(1))
        return logits.view(len(x), self.length, -1)

    @torch.no_grad()
    def read(
        self, x: Float[Tensor, "b c h w"], chunk: int = 500
    ) -> tuple[Int[Tensor, "b length"], Float[Tensor, "b length"]]:
        """The most likely character at each position and its probability, in evaluation mode."""
        with evaluating(self):
            logits = torch.cat([self(part) for part in x.split(chunk)])
        best = logits.softmax(-1).max(-1)
        return best.indices, best.values

"""Networks that read the text of a picture, or the class of a picture or point."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.modes import evaluating
from jensen.core.shapes import check_count, checked
from jensen.nn.embeddings import Fourier

FREQUENCIES = 32  # numbers that stand for a row or a column of the grid


def _block(channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Recogniser(nn.Module):
    """A network from x (B, ...) to logits (B, length, alphabet)."""

    @torch.no_grad()
    def read(
        self, x: Float[Tensor, "b ..."], chunk: int = 500
    ) -> tuple[Int[Tensor, "b length"], Float[Tensor, "b length"]]:
        """The most likely character or class at each position and its probability, in evaluation mode."""
        with evaluating(self):
            logits = torch.cat([self(part) for part in x.split(chunk)])
        best = logits.softmax(-1).max(-1)
        return best.indices, best.values


class Classifier(Recogniser):
    """The class of an example: an encoder, whose last hidden layer serves as features, and a linear layer.

    Args:
        encoder: (B, ...) -> (B, features).
        features: number of units of the last hidden layer.
        classes: number of classes.

    >>> network = Classifier(nn.Linear(2, 8), 8, classes=3)
    >>> network(torch.zeros(5, 2)).shape, network.features(torch.zeros(5, 2)).shape
    (torch.Size([5, 1, 3]), torch.Size([5, 8]))
    """

    def __init__(self, encoder: nn.Module, features: int, *, classes: int):
        super().__init__()
        check_count(features=features, classes=classes)
        self.encoder, self.head = encoder, nn.Linear(features, classes)

    @checked
    def features(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b features"]:
        """The last hidden layer."""
        return F.silu(self.encoder(x))

    @checked
    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b 1 classes"]:
        logits: Tensor = self.head(self.features(x))
        return logits[:, None]


class Reader(Recogniser):
    """Convolutions, a bidirectional GRU over columns, and one softmax per character.

    Args:
        channels: number of channels of the picture, whose values lie in [-1, 1].
        alphabet: number of different characters.
        length: number of characters in a text.
        width: channels of the first convolutions.

    >>> Reader(1, alphabet=10, length=4)(torch.zeros(2, 1, 24, 64)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(self, channels: int, *, alphabet: int, length: int, width: int = 32):
        super().__init__()
        check_count(channels=channels, alphabet=alphabet, length=length, width=width)
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

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b length alphabet"]:
        h = self.mix(self.features(x).flatten(1, 2)).transpose(1, 2)
        h, _ = self.columns(h)
        logits: Tensor = self.head(h.flatten(1))
        return logits.unflatten(1, (self.length, -1))


class AttentiveReader(Recogniser):
    """Residual convolutions, and one query per character, which attends to the grid and to the other queries.

    Args:
        channels: number of channels of the picture, whose values lie in [-1, 1].
        alphabet: number of different characters.
        length: number of characters in a text.
        width: channels of the first convolution; a multiple of 8.

    >>> AttentiveReader(3, alphabet=10, length=4)(torch.zeros(2, 3, 24, 64)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(self, channels: int, *, alphabet: int, length: int, width: int = 32):
        super().__init__()
        check_count(channels=channels, alphabet=alphabet, length=length, width=width)
        size = 4 * width
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            _Residual(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            _Residual(2 * width),
            nn.Conv2d(2 * width, size, 3, stride=2, padding=1),
            _Residual(size),
        )
        self.place = nn.Linear(2 * FREQUENCIES, size)
        self.queries = nn.Parameter(torch.randn(length, size))
        layer = nn.TransformerDecoderLayer(size, 4, 2 * size, activation="gelu", batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, alphabet))
        self.waves = Fourier(FREQUENCIES, highest=32.0)

    @checked
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b length alphabet"]:
        h = self.features(x)
        down, along = (self.waves((torch.arange(n, device=x.device) + 0.5) / n * 2 - 1) for n in h.shape[2:])
        places = torch.cat([down[:, None].expand(-1, len(along), -1), along.expand(len(down), -1, -1)], 2)
        grid = h.flatten(2).transpose(1, 2) + self.place(places.flatten(0, 1))
        logits: Tensor = self.head(self.decoder(self.queries.expand(len(x), -1, -1), grid))
        return logits


class _Residual(nn.Module):
    """x + conv(gelu(norm(conv(gelu(norm(x)))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(2) for layer in self._layers(channels)))

    @staticmethod
    def _layers(channels: int) -> tuple[nn.Module, ...]:
        return nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out

"""Embeddings of numbers and of texts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Fourier(nn.Module):
    r"""$[\cos(\omega_k c), \sin(\omega_k c)]_k$ with geometric frequencies: (B,) -> (B, channels).

    Args:
        channels: of the embedding, even.
        lowest, highest: frequencies, for arguments c of order one.
    """

    frequencies: Tensor

    def __init__(self, channels: int, lowest: float = 0.25, highest: float = 64.0):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even, got {channels}")
        steps = torch.linspace(math.log(lowest), math.log(highest), channels // 2)
        self.register_buffer("frequencies", steps.exp(), persistent=False)

    def forward(self, c: Float[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        angles = c[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class TextEmbedding(nn.Module):
    """A learned vector per character plus one per place: (B, length) -> (B, length, channels).

    Index `alphabet` stands for "no character" and has a vector of its own.
    """

    def __init__(self, alphabet: int, length: int, channels: int):
        super().__init__()
        self.character = nn.Embedding(alphabet + 1, channels)
        self.place = nn.Parameter(torch.randn(length, channels) / math.sqrt(2))

    def forward(self, text: Int[Tensor, "b length"]) -> Float[Tensor, "b length channels"]:
        return self.character(text) + self.place
